"""Traits: the direction of a trait in a model, the rows of data that push along it, and checkpoints of a training."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import streamlit as st

from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import note, sentence_place
from dashboard.sides import ask_for_model, choose_role, chosen_ref, load_side
from dashboard.state import current
from dashboard.without_base import load_or_draw
from probe.analyses.catalogue import find_analysis

MAIN, DATA, TRAINING = "trait_direction", "project_data", "project_training"
"""Main analysis, and those of the tabs."""
NOT_TRAINED = "Choose an aligned model above that a run trained from another one to follow its checkpoints."


def follow(own: Page) -> None:
    """Draw the checkpoints of the aligned model's run."""
    name = own.shared.label(own.shared.aligned) if own.shared.aligned else None
    run = own.shared.store.runs.get(name) if name else None
    side = load_side(own.shared, "aligned") if run is not None and run.parent is not None else None
    if run is None or side is None:
        note(NOT_TRAINED)
        return
    draw_below(TRAINING, replace(own, sides=[side], given={"run": run.path}))


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        with st.container(width="content"):
            role = choose_role(choices, "trait_model", "base")
        row = st.container()
    if not chosen_ref(choices, role):
        ask_for_model(answer, "Choose a model above to find the direction of a trait in it.")
        return
    side = load_or_draw("traits", choices, role, (MAIN,))
    if side is None:
        return
    own = Page(choices, answer, sides=[side], row=row, lists=False)
    if not draw(find_analysis(MAIN), own):
        return
    tabs: dict[str, Callable[[], None]] = {
        find_analysis(DATA).title: partial(draw_below, DATA, own),
        find_analysis(TRAINING).title: partial(follow, own),
    }
    keys = {name: [key for key in keys_of([name]) if key not in own.drawn] for name in (DATA, TRAINING)}
    open_tab("trait_tab", tabs, {find_analysis(name).title: each for name, each in keys.items()})


page()
