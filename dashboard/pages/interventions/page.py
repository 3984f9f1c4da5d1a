"""Interventions: change the model at one site and see what becomes of an answer, beside what chance would do."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import models
from dashboard.analysis import draw
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.inputs import Page
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.interventions import compute as source
from dashboard.pages.interventions import figures as views
from dashboard.pages.interventions.choices import (
    ask,
    choose_model,
    choose_reference,
    choose_site,
    choose_token,
    choose_way,
)
from dashboard.pages.interventions.compute import Question, Way
from dashboard.pages.interventions.words import DEFINITION, EQUATIONS, code, explain_effect, sentence, surprise
from dashboard.sentences import duration
from dashboard.sides import Side, ask_for_model, chosen_ref, load_side, words_known
from dashboard.state import SharedChoices, current, keep
from probe.analyses.catalogue import find_analysis
from probe.errors import DataError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.interventions.controls import Outcome
    from probe.interventions.sites import Site
    from probe.model.lm import LM

DOES = ("patch", "ablate", "steer")
# Seconds that a grid may take without being asked for.
GRID_S = 0.5
# Seconds that the null controls of the chosen site may take without being asked for.
NULLS_S = 2.0


def grids(
    lm: "LM", question: Question, way: Way, reference: tuple[str, ...], slot: "DeltaGenerator"
) -> "tuple[source.GridView | None, source.GridView]":
    """(exact, estimate); the exact one is None while it is only offered because it takes long."""
    options: dict[str, Any] = {"question": question, "way": way, "reference": reference}
    guess = models.compute_once(source.estimate, lm, say="Estimating every site from one backward pass", **options)
    grid = models.ready(source.exact, lm, **options)
    if grid is None:
        runs = source.size(lm, way, len(question.clean))
        seconds = runs * models.compute_once(source.pace, lm, say="Timing one run", clean=question.clean)
        quick = consent = models.is_quick(seconds, GRID_S)
        if not quick:
            with slot:
                offer = st.empty()
                consent = offer.button(
                    f"Run all {runs:,} sites (about {duration(seconds)})",
                    key="int_run",
                    icon=":material/play_arrow:",
                    help="Until then the grid is an estimate from one backward pass.",
                )
        if consent:
            with slot:
                grid = models.compute_once(source.exact, lm, say="Running every site", steps=not quick, **options)
            if not quick:
                offer.empty()
    exact = source.in_best_unit(grid, way, question) if grid is not None else None
    return exact, source.in_best_unit(guess, way, question)


def outcome(
    lm: "LM", question: Question, way: Way, site: "Site", reference: tuple[str, ...], slot: "DeltaGenerator"
) -> "tuple[int, Outcome]":
    """(draws, what the chosen site does); without null controls while they are only offered because they take long."""
    from probe.interventions.controls import DRAWS

    options: dict[str, Any] = {"question": question, "way": way, "site": site, "reference": reference}
    result = models.ready(source.outcome, lm, draws=DRAWS, **options)
    if result is not None:
        return DRAWS, result
    seconds = 2 * DRAWS * models.compute_once(source.pace, lm, say="Timing one run", clean=question.clean)
    quick = consent = models.is_quick(seconds, NULLS_S)
    with slot:
        offer = st.empty()
        if not quick:
            consent = offer.button(
                f"Draw {DRAWS} null controls of each kind (about {duration(seconds)})",
                key="int_nulls",
                icon=":material/play_arrow:",
                help="Until then nothing says whether as large a change elsewhere does the same.",
            )
        if consent:
            result = models.compute_once(
                source.outcome, lm, say="Drawing null controls", steps=not quick, draws=DRAWS, **options
            )
            offer.empty()
            return DRAWS, result
    return 0, models.compute_once(source.outcome, lm, say="Changing the site", draws=0, **options)


def sites_page(
    shared: SharedChoices, side: Side, do: str, top: "list[DeltaGenerator]", answer: "DeltaGenerator"
) -> None:
    """Patching and ablation."""
    lm = side.lm
    row = st.columns([7, 18, 6, 6] if do == "patch" else [5, 4, 3, 3], gap="small", vertical_alignment="bottom")
    last = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    way = choose_way(do, top[0], row[0])
    reference = choose_reference(do, way.how, row[1])
    try:
        question = ask(lm, do, shared.prompt, row[1:], last)
        if reference:
            source.readable(lm, reference)
    except DataError as error:
        with answer:
            finding(str(error))
        return
    if do == "patch" and question.corrupted is None:
        with answer:
            finding("Type a corrupted prompt to patch between, or choose ablate.")
        note(
            "It should have as many tokens as the prompt and ask for another answer: exchange one name or value. For "
            "the prompts of a world it is derived."
        )
        return
    way = choose_token(way, top[3], len(question.clean))
    exact, guess = grids(lm, question, way, reference, last)
    view = exact or guess
    site = choose_site(view, top[1:3], (do, way.kind, way.at, side.ref, question.clean, question.corrupted))
    draws, result = outcome(lm, question, way, site, reference, last)
    with answer:
        finding(sentence(result, view, site, side.name))
    from probe.model.text import pieces

    clean = pieces(lm.tokenizer, question.clean)
    corrupted = pieces(lm.tokenizer, question.corrupted or question.clean)
    differing = [
        at for at, pair in enumerate(zip(question.clean, question.corrupted or (), strict=False)) if pair[0] != pair[1]
    ]
    about: dict[str, object] = {
        "model": side.ref,
        "clean": list(question.clean),
        "corrupted": list(question.corrupted or ()),
    }
    about |= {"do": do, "site": way.kind, "how": way.how, "target": question.name}
    left, right = st.columns([11, 9], gap="medium")
    cell = (site.layer, site.head if site.head is not None else site.position or 0)
    with left:
        views.grid_figure(view, cell, about, differing)
    with right:
        views.outcome_figures(result, view, site.name, side.colour, about)
    if remark := surprise(result, view):
        note(remark)
    trust_badge((side.name, lm), text=question.clean)
    if question.corrupted:
        views.prompts(clean, corrupted, differing, site.position, side.colour)
    note(explain_effect(do, way, question))
    if question.note:
        note(question.note)
    if exact is not None:
        note(views.estimate_figures(exact, guess, side.colour, cell, about))
    lines = code(side.ref, question, way, reference, site, draws, source.worldly(lm))
    details(EQUATIONS, DEFINITION, lines, {"effects": view.grid.table(), "chosen-site": result.table()})


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    top = st.columns([27, 17, 29, 9, 9, 9], gap="small", vertical_alignment="bottom")
    with top[0]:
        key = keep("int_do", DOES, "patch")
        do = str(st.segmented_control("Do", DOES, key=key, bind="query-params", required=True))
    with top[1]:
        role = choose_model(choices)
    ref = chosen_ref(choices, role)
    if not ref or not choices.prompt.strip():
        missing = "a prompt" if ref else "a model"
        ask_for_model(answer, f"Choose {missing} above to intervene in it.")
        return
    side = load_side(choices, role)
    if side is None or not words_known(choices, [(side.name, side.lm)], answer):
        return
    if do == "steer":
        draw(find_analysis("steer_answers"), Page(choices, answer, sides=[side]))
    else:
        sites_page(choices, side, do, top[2:], answer)


page()
