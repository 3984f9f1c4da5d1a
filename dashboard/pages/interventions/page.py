"""Interventions: changes of the model at one site, and their effect on an answer compared with random controls."""

from dataclasses import replace

import streamlit as st

from dashboard.analysis import draw
from dashboard.components.details import TAB_DETAILS
from dashboard.inputs import Page
from dashboard.markdown import note, sentence_place
from dashboard.sides import ask_for_model, choose_role, chosen_ref, written
from dashboard.state import DO, current, keep
from dashboard.without_base import load_or_draw
from probe.analyses.catalogue import find_analysis

DOES = {
    "patch": ("patch_every_site", "patch_one_site"),
    "ablate": ("ablate_every_site", "ablate_one_site"),
    "steer": ("steer_answers",),
    "circuit": ("circuit",),
    "edges": ("edges",),
}
"""Analyses of each choice: for all sites, and for the chosen site."""


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    with st.container(horizontal=True, gap="large"):
        key = keep(DO, DOES, "patch")
        do = str(st.segmented_control("Do", DOES, key=key, bind="query-params", required=True))
        role = choose_role(choices, "int_model", "aligned")
    if not chosen_ref(choices, role) or not choices.prompt.strip():
        missing = "a prompt" if chosen_ref(choices, role) else "a model"
        ask_for_model(answer, f"Choose {missing} above to intervene in it.")
        return
    side = load_or_draw("interventions", choices, role, DOES[do])
    if side is None:
        return
    main, *others = map(find_analysis, DOES[do])
    own = Page(written(choices, [side.lm]), answer, sides=[side])
    if not others:
        draw(main, own)
        return
    row, offers = st.container(), st.container(horizontal=True)
    left, right = st.columns([11, 9], gap="medium")
    site, rest = st.container(), st.container()
    spots = {"grid": left, "answers": right, "nulls": right}
    own = replace(own, row=row, offers=offers, lists=False, spots=spots)
    with rest:
        known = draw(main, replace(own, says=False, section=TAB_DETAILS))
    with site:
        if not known:
            note("A corrupted prompt, answers and reference texts are typed under Texts.")
            return
        for each in others:
            draw(each, own)


page()
