"""Interventions: change the model at one site and see what becomes of an answer, beside what chance would do."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import models
from dashboard.components.badge import trust_badge
from dashboard.components.details import details
from dashboard.markdown import finding, note
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
from dashboard.pages.interventions.steer import steer
from dashboard.sides import Side, chosen_ref, load_side, words_known
from dashboard.state import Shared, current, keep
from probe.errors import DataError

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from probe.interventions.controls import Outcome
    from probe.interventions.sites import Site
    from probe.model.lm import LM

DOES = ("patch", "ablate", "steer")
# Seconds that a grid may take without being asked for.
PATIENCE_S = 0.5
# Seconds that the null controls of the chosen site may take without being asked for.
NULLS_S = 2.0

DEFINITION = """
A *site* is the residual stream after a block, a head's output before $W_O$, or the output of attention or MLP, at one
token or at every one. **Patching** runs one text and puts in the activation that the other text has at the site:
*denoise* puts the clean activation into the corrupted run (is it enough?), *noise* the corrupted one into the clean run
(is it needed?). On the share scale 0 is the run as it was and 1 the other run. **Ablation** puts zero, the mean over
reference texts, or the activation of another text (8 draws) there. **Null controls** are drawn with every effect: other
sites of the same kind get what *they* have in the same source; random directions move the site as far as it was moved,
token by token. z is in standard deviations of the null; p = (1 + draws at least as large) / (1 + draws).
The estimate is the gradient of the target in the run that is changed, times the change: exact to first order only.
"""
EQUATIONS = [
    r"\text{effect}(s) = m\big(x \mid a_s \leftarrow a'_s\big) - m(x), \quad m = \mathrm{logit}(\text{answer}) - "
    r"\mathrm{logit}(\text{against})",
    r"\text{share}(s) = \frac{m(x_{corr} \mid a_s \leftarrow a_s^{clean}) - m(x_{corr})}{m(x_{clean}) - m(x_{corr})}",
    r"\widehat{\text{effect}}(s) = \big\langle \nabla_{a_s} m(x),\; a'_s - a_s \big\rangle",
]


def grids(
    lm: "LM", question: Question, way: Way, reference: tuple[str, ...], slot: "DeltaGenerator"
) -> "tuple[source.Shown | None, source.Shown]":
    """(exact, estimate); the exact one is None while it is only offered because it takes long."""
    asked: dict[str, Any] = {"question": question, "way": way, "reference": reference}
    guess = models.computed(source.estimate, lm, say="Estimating every site from one backward pass", **asked)
    found = models.ready(source.exact, lm, **asked)
    if found is None:
        runs = source.size(lm, way, len(question.clean))
        seconds = runs * models.computed(source.pace, lm, say="Timing one run", clean=question.clean)
        wanted = seconds <= PATIENCE_S
        if not wanted:
            with slot:
                offer = st.empty()
                wanted = offer.button(
                    f"Run all {runs:,} sites (about {_duration(seconds)})",
                    key="int_run",
                    icon=":material/play_arrow:",
                    help="Until then the grid is an estimate from one backward pass.",
                )
        if wanted:
            with slot:
                found = models.computed(source.exact, lm, say="Running every site", steps=seconds > PATIENCE_S, **asked)
            if seconds > PATIENCE_S:
                offer.empty()
    exact = source.in_best_unit(found, way, question) if found is not None else None
    return exact, source.in_best_unit(guess, way, question)


def outcome(
    lm: "LM", question: Question, way: Way, site: "Site", reference: tuple[str, ...], slot: "DeltaGenerator"
) -> "tuple[int, Outcome]":
    """(draws, what the chosen site does); without null controls while they are only offered because they take long."""
    from probe.interventions.controls import DRAWS

    asked: dict[str, Any] = {"question": question, "way": way, "site": site, "reference": reference}
    found = models.ready(source.outcome, lm, draws=DRAWS, **asked)
    if found is not None:
        return DRAWS, found
    seconds = 2 * DRAWS * models.computed(source.pace, lm, say="Timing one run", clean=question.clean)
    wanted = seconds <= NULLS_S
    with slot:
        offer = st.empty()
        if not wanted:
            wanted = offer.button(
                f"Draw {DRAWS} null controls of each kind (about {_duration(seconds)})",
                key="int_nulls",
                icon=":material/play_arrow:",
                help="Until then nothing says whether as large a change elsewhere does the same.",
            )
        if wanted:
            long = seconds > NULLS_S
            found = models.computed(source.outcome, lm, say="Drawing null controls", steps=long, draws=DRAWS, **asked)
            offer.empty()
            return DRAWS, found
    return 0, models.computed(source.outcome, lm, say="Changing the site", draws=0, **asked)


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def sites_page(shared: Shared, side: Side, do: str, top: "list[DeltaGenerator]", answer: "DeltaGenerator") -> None:
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
    seen = exact or guess
    site = choose_site(seen, top[1:3], (do, way.kind, way.at, side.ref, question.clean, question.corrupted))
    draws, found = outcome(lm, question, way, site, reference, last)
    with answer:
        finding(views.sentence(found, seen, site, side.name))
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
    chosen = (site.layer, site.head if site.head is not None else site.position or 0)
    with left:
        views.grid_figure(seen, chosen, about, differing)
    with right:
        views.outcome_figures(found, seen, site.name, side.colour, about)
    views.surprise(found, seen)
    trust_badge((side.name, lm), text=question.clean)
    if question.corrupted:
        views.prompts(clean, corrupted, differing, site.position, side.colour)
    note(explained(do, way, question))
    if exact is not None:
        note(views.estimate_figures(exact, guess, side.colour, chosen, about))
    lines = code(side.ref, question, way, reference, site, draws, source.worldly(lm))
    details(EQUATIONS, DEFINITION, lines, {"effects": seen.grid.table(), "chosen-site": found.table()})


def explained(do: str, way: Way, question: Question) -> str:
    """The one paragraph under the main figure."""
    where = "every token" if way.at is None else f"token {way.at}"
    unit = f"a head at {where}" if way.kind == "head" else "one block at one token"
    if do == "ablate":
        how = {"mean": "its mean over reference texts", "zero": "zeros", "resample": "what other texts have there"}[
            way.how
        ]
        return (
            f"Each cell replaces {unit} by {how} and shows how far {question.name} moves at the last token: blue up, "
            "orange down. The right side takes the chosen cell: every point is a null intervention."
        )
    into = (
        "clean activation into the corrupted run" if way.how == "denoise" else "corrupted activation into the clean run"
    )
    return (
        f"Each cell puts the {into}, for {unit}, and shows how far {question.name} goes towards the other run (1 = all "
        "the way). The right side takes the chosen cell: every point is a null intervention."
    )


def code(
    ref: str, question: Question, way: Way, reference: tuple[str, ...], site: "Site", draws: int, worldly: bool
) -> str:
    """Python lines that give what the page shows."""
    kind, how = repr(way.kind), repr(way.how)
    first = ["from probe.interventions.patching import ablate, sources"]
    if way.do == "patch":
        first = [
            "from probe.interventions.patching import agreement",
            "from probe.interventions.patching import attribute, pair_of, patch",
        ]
    lines = [
        *first,
        "from probe.interventions.controls import intervene",
        "from probe.interventions.sites import Site, activations, hooks_of",
        "from probe.logits.lens import Target",
        "from probe.model.rewards import analysable",
        *["from probe.world import of"] * (way.do == "ablate" and worldly and not reference),
        "",
        f"lm = analysable({ref!r})",
        f"target = Target({len(question.clean) - 1}, {question.answer}, {question.against}, {question.name!r})",
        f"site = Site({site.kind!r}, {site.layer}, {site.head}, {site.position})",
        f"clean = {list(question.clean)}",
    ]
    if way.do == "patch":
        lines += [
            f"pair = pair_of(lm, clean, {list(question.corrupted or ())})",
            f"grid = patch(lm, pair, target, {kind}, {how}, position={way.at})",
            f"estimate = attribute(lm, pair, target, [{kind}], {how}, position={way.at})[{kind}]",
            "grid.table(), agreement(grid.effects, estimate.effects)",
            f"own, other = pair.run({how})",
            f"found = [activations(lm, other, hooks_of(lm, [{kind}]))]",
        ]
    else:
        texts = repr(list(reference or source.REFERENCE))
        if worldly and not reference:
            texts = f"[item.prompt for kind in {source.REFERENCE_KINDS} for item in of(lm).questions(kind, 8, 5)]"
        lines += [
            f"own, texts = clean, {texts}",
            f"grid = ablate(lm, own, target, {kind}, {how}, texts, position={way.at})",
            "grid.table()",
            f"found = sources(lm, own, hooks_of(lm, [{kind}]), {how}, texts)",
        ]
    lines.append(f"intervene(lm, own, [site], found, target, {list(question.columns)}, draws={draws}).table()")
    return "\n".join(lines)


def page() -> None:
    """The page from top to bottom."""
    shared = current()
    answer = st.container()
    top = st.columns([27, 17, 29, 9, 9, 9], gap="small", vertical_alignment="bottom")
    with top[0]:
        key = keep("int_do", DOES, "patch")
        do = str(st.segmented_control("Do", DOES, key=key, bind="query-params", required=True))
    with top[1]:
        role = choose_model(shared)
    ref = chosen_ref(shared, role)
    if not ref or not shared.prompt.strip():
        missing = "a prompt" if ref else "a model"
        with answer:
            finding(f"Choose {missing} in the sidebar to intervene in it.")
        note("A model is a run, one of its checkpoints (RUN@STEP), or the folder of any Hugging Face model.")
        return
    side = load_side(shared, role)
    if side is None or not words_known(shared, [(side.name, side.lm)], answer):
        return
    if do == "steer":
        steer(shared.prompt, side, top[2], answer)
    else:
        sites_page(shared, side, do, top[2:], answer)


page()
