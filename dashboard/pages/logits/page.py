"""Logits: after which layer a model decides on its next token, which part does it, how far two models differ."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import sentence_place
from dashboard.pages.logits import over_training
from dashboard.sides import ask_for_model, choose_sides, load_sides
from dashboard.state import current
from probe.analyses.catalogue import find_analysis

OF_TOKENS = ("logit_lens", "attribute_answer", "compare_layers", "follow_writing")
"""The main analysis and those of the tabs."""
OF_SCALARS = ("scalar_lens", "attribute_scalar")
"""The same of models that read out one number."""
TRAINING = "Over training"


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    sides = load_sides(choices)
    if sides is None:
        return
    if not sides:
        ask_for_model(answer, "Choose a model above to see how its logits come about.")
        return
    if not choices.prompt.strip():
        ask_for_model(answer, "Write a prompt above to see which logits follow it.")
        return
    with st.container(horizontal=True, vertical_alignment="top", gap="medium"):
        with st.container(width="content"):
            shown, asked = choose_sides(sides, "log_view")
        row = st.container()
    main, *others = OF_TOKENS if shown[-1].lm.readout == "tokens" else OF_SCALARS
    own = Page(choices, answer, sides=shown, asked=asked, row=row, lists=False)
    if not draw(find_analysis(main), own):
        return
    tabs: dict[str, Callable[[], None]] = {
        find_analysis(name).title: partial(draw_below, name, own)
        for name in others
        if len(shown) == 2 or name != "compare_layers"
    }
    tabs[TRAINING] = partial(over_training.training, choices)
    keys = {find_analysis(name).title: [key for key in keys_of([name]) if key not in own.drawn] for name in others}
    open_tab("log_tab", tabs, keys | {TRAINING: over_training.KEYS})


page()
