"""Logits: the layer and the components that decide on the next token, and differences between two models."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from dashboard import data
from dashboard.analysis import draw, draw_below, keys_of
from dashboard.components.details import TAB_DETAILS
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page
from dashboard.markdown import note, say, sentence_place
from dashboard.sides import ask_for_model, choose_sides, load_sides, written
from dashboard.state import SharedChoices, current, keep
from probe.analyses.catalogue import find_analysis
from probe.texts import visible

OF_TOKENS = ("logit_lens", "attribute_answer", "compare_layers", "follow_writing")
"""Main analysis, and the analyses of the tabs."""
OF_SCALARS = ("scalar_lens", "attribute_scalar")
"""Main analysis and tabs for models with scalar output."""
TRAINED = "follow_logits"
"""Analyses of a run's captures, which need no model."""
RUN = "log_run"
"""Key of the run whose captures are shown."""


def choose_run(shared: SharedChoices) -> str | None:
    """Let the reader choose a run with captures; None if there is none."""
    order = [shared.label(shared.aligned), shared.label(shared.base), *shared.store.runs]
    names = [name for name in dict.fromkeys(order) if name in shared.store.runs]
    labels = [name for name in names if name and len(data.captures(shared.store.runs[name]))]
    if not labels:
        note("No run here has captures; `probe train` makes them every --capture-every steps.")
        return None
    return st.selectbox("Run", labels, key=keep(RUN, labels, labels[0]), bind="query-params", format_func=visible)


def draw_training(own: Page) -> None:
    """Draw the captures of a run without loading its model."""
    with st.container(width=300):
        name = choose_run(own.shared)
    if name is not None:
        run = own.shared.store.runs[name].path
        below = own.below(tell=say, section=TAB_DETAILS, given={"run": run}, sides=(), asked=())
        draw(find_analysis(TRAINED), below)


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
    own = Page(written(choices, [side.lm for side in asked]), answer, sides=shown, asked=asked, row=row, lists=False)
    if not draw(find_analysis(main), own):
        return
    tabs: dict[str, Callable[[], None]] = {
        find_analysis(name).title: partial(draw_below, name, own)
        for name in others
        if len(shown) == 2 or name != "compare_layers"
    }
    tabs[find_analysis(TRAINED).title] = partial(draw_training, own)
    keys = {name: [key for key in keys_of([name]) if key not in own.drawn] for name in (*others, TRAINED)}
    open_tab("log_tab", tabs, {find_analysis(name).title: each for name, each in keys.items()})


page()
