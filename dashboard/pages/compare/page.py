"""Side by side: two models on one prompt, over a corpus, inside, in their weights, between them, in a gradient."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import access, analysis, models, sentences
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, set_inputs
from dashboard.markdown import finding, note, sentence_place
from dashboard.sides import ask_for_model, written
from dashboard.state import COMPARE_TAB, current
from probe.analyses.catalogue import find_analysis
from probe.runs.directories import WORK, may_make

if TYPE_CHECKING:
    from probe.model.lm import LM

PROMPT_TAB, WEIGHTS_TAB = "One prompt", "Weights"
"""Tabs that are also offered for two reward models."""
TABS = {
    PROMPT_TAB: ("compare", "compare_lenses"),
    "Who carries it": ("find_carriers",),
    "Over a corpus": ("compare_corpus",),
    "First tokens": ("compare_first_tokens", "steer_by_first_tokens"),
    WEIGHTS_TAB: ("weight_change",),
    "Transplants": ("transplant_parts",),
    "The line between them": ("follow_line",),
    "Gradient": ("compare_gradients",),
}
"""Analyses of each tab."""
OF_SCALARS = {"compare": "compare_scalars", "weight_change": "weight_change"}
"""Analysis of two language models -> its counterpart for two models with scalar output."""
KEPT = WORK / "line"
"""Folder of the results on the line between two models."""


def draw(names: tuple[str, ...], lm: "LM", called: tuple[str, str], page: Page) -> None:
    """Draw a tab, for two models with scalar output with their analyses."""
    if lm.readout != "tokens":
        names = tuple(OF_SCALARS[name] for name in names if name in OF_SCALARS)
    if names:
        analysis.draw_several(names, page)
        return
    with page.answer:
        finding(
            f"{called[0]} and {called[1]} output one number and write nothing, so there is no distribution of tokens to"
            f" compare: open {PROMPT_TAB} or {WEIGHTS_TAB}, or choose two language models."
        )


def keys_of(names: tuple[str, ...]) -> list[str]:
    """Return the keys of the widgets of a tab."""
    return analysis.keys_of(list(dict.fromkeys([*names, *(OF_SCALARS[name] for name in names if name in OF_SCALARS)])))


def take(name: str, inputs: Mapping[str, Any]) -> None:
    """Open the tab of an analysis with these inputs."""
    set_inputs(find_analysis(name), inputs)
    st.session_state[COMPARE_TAB] = next(title for title, names in TABS.items() if name in names)


def page() -> None:
    """Draw the page from top to bottom."""
    choices = current()
    answer = sentence_place()
    refs = choices.reference(choices.base), choices.reference(choices.aligned)
    if not refs[0] or not refs[1]:
        ask_for_model(answer, f"Choose {'an aligned' if refs[0] else 'a base'} model above to compare two models.")
        return
    base, aligned = models.load(refs[0]), models.load(refs[1])
    if base is None or aligned is None:
        return
    problem = sentences.incomparable(base, aligned, choices.names())
    if problem:
        with answer:
            finding(problem)
            note("The pages Attention, Logits and Interventions show each model by itself.")
        return
    choices = written(choices, [base, aligned])
    given = {"folder": KEPT, "keep": access.may_write() and may_make(KEPT)}
    own = Page(choices, answer, take=take, given=given)
    open_tab(
        COMPARE_TAB,
        {title: partial(draw, names, base, choices.names(), own) for title, names in TABS.items()},
        {title: keys_of(names) for title, names in TABS.items()},
    )


page()
