"""Probes: what is decodable from the states of a model, and whether the model uses it."""

from functools import partial

import streamlit as st

from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import sentence_place
from dashboard.sides import ask_for_model, choose_role, chosen_ref
from dashboard.state import current
from dashboard.without_base import load_or_draw
from probe.analyses.catalogue import find_analysis

MAIN, TABS = "decode", ("use", "token_truth")
"""Main analysis, and those of the tabs."""


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        with st.container(width="content"):
            role = choose_role(choices, "probe_model", "base")
        row = st.container()
    if not chosen_ref(choices, role):
        ask_for_model(answer, "Choose a model above to read its states.")
        return
    side = load_or_draw("probes", choices, role, (MAIN,))
    if side is None:
        return
    own = Page(choices, answer, sides=[side], row=row, lists=False)
    if draw(find_analysis(MAIN), own):
        titles = {name: find_analysis(name).title for name in TABS}
        keys = {title: [key for key in keys_of([name]) if key not in own.drawn] for name, title in titles.items()}
        open_tab("probe_tab", {title: partial(draw_below, name, own) for name, title in titles.items()}, keys)


page()
