"""Side by side: two models on one prompt, over a corpus, inside, in their weights, between them, in a gradient."""

from collections.abc import Collection, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import streamlit as st

from dashboard import analysis, models, sentences
from dashboard.components.tabs import open_tab
from dashboard.inputs import Page, set_inputs
from dashboard.markdown import finding, note, sentence_place
from dashboard.pages.compare.choices import LINE, PROMPT_TAB, TAB, WEIGHTS_TAB, Pair
from dashboard.sides import ask_for_model
from dashboard.state import current
from probe.analyses.catalogue import find_analysis
from probe.plotting.theme import METHODS, aligned_colour

TABS: dict[str, tuple[str, ...] | str] = {
    PROMPT_TAB: ("compare",),
    "Over a corpus": ("compare_corpus",),
    "First tokens": ("compare_first_tokens", "steer_by_first_tokens"),
    WEIGHTS_TAB: ("weight_change",),
    "Transplants": ("transplant_parts",),
    "The line between them": "line_between",
    "Gradient": ("compare_gradients",),
}
"""The analyses of each tab, or the file beside this one whose `draw` takes a `Pair`."""
KEYS = {"line_between": LINE}
"""Keys of the widgets of the files."""
OF_SCALARS = {"compare": "compare_scalars", "weight_change": "weight_change"}
"""What two models of one number have in the place of the analyses of two language models."""


def draw(what: tuple[str, ...] | str, pair: Pair) -> None:
    """Draw a tab; only the file of the open one is imported."""
    if isinstance(what, tuple):
        scalar = pair.base.readout != "tokens"
        names = [OF_SCALARS[name] for name in what if name in OF_SCALARS] if scalar else what
        if names or pair.write("distribution of tokens to compare"):
            analysis.draw_several(names, Page(pair.shared, pair.answer, take=take))
    else:
        import_module(f"dashboard.pages.compare.{what}").draw(pair)


def keys_of(what: tuple[str, ...] | str) -> Collection[str]:
    """Return the keys of the widgets of a tab."""
    if isinstance(what, str):
        return KEYS[what]
    return analysis.keys_of(list(dict.fromkeys([*what, *(OF_SCALARS[name] for name in what if name in OF_SCALARS)])))


def take(name: str, inputs: Mapping[str, Any]) -> None:
    """Open the tab of an analysis with these inputs."""
    set_inputs(find_analysis(name), inputs)
    st.session_state[TAB] = next(title for title, what in TABS.items() if name in what)


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
    names = choices.names()
    problem = sentences.incomparable(base, aligned, names)
    if problem:
        with answer:
            finding(problem)
            note("The pages Attention, Logits and Interventions show each model by itself.")
        return
    colours = METHODS["pretrain"], aligned_colour(choices.method(choices.aligned))
    pair = Pair(choices, base, aligned, (refs[0], refs[1]), names, colours, answer)
    open_tab(
        TAB,
        {title: partial(draw, what, pair) for title, what in TABS.items()},
        {title: keys_of(what) for title, what in TABS.items()},
    )


page()
