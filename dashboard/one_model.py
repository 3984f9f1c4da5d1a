"""Frame of a page about one of the two chosen models: the choice, the main analysis, and tabs below it."""

from collections.abc import Callable, Mapping

import streamlit as st

from dashboard.analysis import keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, Take
from dashboard.markdown import sentence_place
from dashboard.sides import ask_for_model, choose_role, chosen_ref
from dashboard.state import current
from dashboard.without_base import load_or_draw
from probe.analyses.catalogue import find_analysis


def open_page(name: str, key: str, main: str, without: str, take: Take | None = None) -> Page | None:
    """Draw the choice of the model, and load it.

    Args:
        name: name of the page.
        key: key of the choice, also its name in the URL.
        main: name of the main analysis.
        without: sentence that asks for a model.
        take: see `Page`.

    Returns:
        What the analyses of the page need; None if no model is chosen, it waits for the reader's consent, or stored
        results are drawn in its place.
    """
    choices = current()
    answer = sentence_place()
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        with st.container(width="content"):
            role = choose_role(choices, key, "base")
        row = st.container()
    if not chosen_ref(choices, role):
        ask_for_model(answer, without)
        return None
    side = load_or_draw(name, choices, role, (main,))
    return None if side is None else Page(choices, answer, sides=[side], row=row, lists=False, take=take)


def draw_tabs(key: str, page: Page, parts: Mapping[str, Callable[[], None]]) -> None:
    """Draw analyses, by their name, as tabs below the main one."""
    keys = {name: [key for key in keys_of([name]) if key not in page.drawn] for name in parts}
    titles = {name: find_analysis(name).title for name in parts}
    open_tab(
        key,
        {titles[name]: draw for name, draw in parts.items()},
        {titles[name]: each for name, each in keys.items()},
    )
