"""Probes: what is decodable from the states of a model, and whether the model uses it."""

import streamlit as st

from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import sentence_place
from dashboard.sides import Role, ask_for_model, chosen_ref, load_side
from dashboard.state import SharedChoices, current, keep
from dashboard.without_base import draw_stored
from probe.analyses.catalogue import find_analysis
from probe.errors import MissingBaseError

MAIN, USE = "decode", "use"
"""Main analysis, and that of the tab."""


def choose_model(shared: SharedChoices) -> Role:
    """Let the reader choose the model whose states are read."""
    key = keep("probe_model", ("base", "aligned"), "base" if shared.base else "aligned")
    role = st.segmented_control("Model", ("base", "aligned"), key=key, bind="query-params", required=True)
    return "aligned" if role == "aligned" else "base"


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        with st.container(width="content"):
            role = choose_model(choices)
        row = st.container()
    if not chosen_ref(choices, role):
        ask_for_model(answer, "Choose a model above to read its states.")
        return
    try:
        side = load_side(choices, role)
    except MissingBaseError:
        if not draw_stored("probes", choices, roles=[role], names=(MAIN,)):
            raise
        return
    if side is None:
        return
    own = Page(choices, answer, sides=[side], row=row, lists=False)
    if draw(find_analysis(MAIN), own):
        title = find_analysis(USE).title
        keys = [key for key in keys_of([USE]) if key not in own.drawn]
        open_tab("probe_tab", {title: lambda: draw_below(USE, own)}, {title: keys})


page()
