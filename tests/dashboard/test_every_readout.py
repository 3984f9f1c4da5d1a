"""Every page over every kind of model on each side: its main figure with finite values, or what is missing in words.

What a page may say in place of its figure is listed here and nowhere else, so that the list cannot grow by itself.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.pages import page_file, page_names
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, chart, names, unescape, values

PAGES = page_names()
PROMPT = "<user> i think helen lives in lyon . where does helen live ? <bot>"
MAIN = {
    "attention": ("heads",),
    "autoregression": ("lags",),
    "compare": ("kl", "rewards"),
    "features": ("activations",),
    "interventions": ("grid",),
    "logits": ("lens",),
    "overview": ("lineage",),
    "start": ("start-answers",),
    "probes": ("figure",),
    "rewards": ("frontier", "distributions"),
    "scorecard": ("scorecard",),
    "traits": ("layers",),
    "training": ("curves",),
}
"""The main figure of a page, by the kind of what it shows."""
ALWAYS = {
    "audit": "have not been audited|above to audit",
    "chain_of_thought": "has not been measured on",
    "continual": "has not been measured on",
    "diagnosis": "fault of training was found in",
    "experiments": "No experiment of your own is known yet",
    "findings": "No claim has been measured on these runs yet",
    "hallucination": "has not been measured on",
    "in_context": "has not been measured on",
    "retrieval": "has not been measured on",
    "sweep": "There is no sweep in the run directories",
    "sycophancy": "has not been measured on",
    "train": "Choose a method and a base model",
}
"""Pages whose figure comes only when a reader asks for a computation, whatever the models are."""
NOTHING = "none"
BOTH_KINDS = "outputs one number, a {}, and .* outputs probabilities of tokens, so they cannot be compared: choose"
OTHER_TOKENS = "split text into different tokens"
WRITES_NOTHING = "outputs one number, a {}, and writes nothing: choose a language model as the base"
MAY_SAY: Mapping[tuple[str, str, str], str] = {
    ("compare", "reward model", "base"): BOTH_KINDS.format("reward"),
    ("compare", "reward model", "aligned"): BOTH_KINDS.format("reward"),
    ("compare", "value head", "base"): BOTH_KINDS.format("value"),
    ("compare", "value head", "aligned"): BOTH_KINDS.format("value"),
    ("compare", "plain folder", "base"): OTHER_TOKENS,
    ("compare", "plain folder", "aligned"): OTHER_TOKENS,
    ("compare", NOTHING, "base"): "Choose a base model above",
    ("compare", NOTHING, "aligned"): "Choose an aligned model above",
    ("interventions", "LoRA adapter", "aligned"): "Type a corrupted prompt to patch from, with as many tokens",
    ("interventions", "plain folder", "aligned"): "Type a corrupted prompt to patch from, with as many tokens",
    ("features", "LoRA adapter", "base"): "The tokenizer does not know",
    ("probes", "LoRA adapter", "base"): "The tokenizer does not know",
    ("probes", "reward model", "base"): "A reward model writes no answers: use a language model",
    ("probes", "value head", "base"): "A value model writes no answers: use a language model",
    ("rewards", "reward model", "base"): WRITES_NOTHING.format("reward"),
    ("rewards", "value head", "base"): WRITES_NOTHING.format("value"),
    ("rewards", "plain folder", "base"): OTHER_TOKENS,
    ("rewards", "plain folder", "aligned"): OTHER_TOKENS,
    ("rewards", NOTHING, "base"): "Choose a base model above",
    ("traits", "LoRA adapter", "base"): "The tokenizer does not know",
    ("traits", "reward model", "base"): "A reward model writes no answers: use a language model",
    ("traits", "value head", "base"): "A value model writes no answers: use a language model",
}
"""(page, kind of model, side): what the page says there in place of its main figure."""
KINDS = [
    "language model",
    "reward model",
    "value head",
    "LoRA adapter",
    "checkpoint",
    "plain folder",
    "another world",
    NOTHING,
]
QUICK = (NOTHING,)
"""Kinds that the quick tests try; the others are slow."""
USUAL = {"base": "base", "aligned": "dpo-agreeable"}


def numbers(figure: dict) -> np.ndarray:
    """All values that a figure draws."""
    drawn = [trace.get(axis) for trace in figure["data"] for axis in ("z", "y")]
    arrays = [values(array).ravel() for array in drawn if isinstance(array, dict | list) and is_numeric(array)]
    return np.concatenate(arrays) if arrays else np.array([])


def is_numeric(array: Any) -> bool:
    return isinstance(array, dict) or all(isinstance(value, int | float | list | None) for value in array)


def opened(show: Show, root: Path, page: str, **sides: str | None) -> AppTest:
    """A page with a model on each side; None is nothing chosen."""
    query = {side: choice or "" for side, choice in sides.items()}
    state = {side: None for side, choice in sides.items() if choice is None}
    return show(root, page=page_file(page), state=state, prompt=PROMPT, **query)


def told(app: AppTest) -> str:
    """The sentence that opens a page."""
    return unescape(app.subheader[0].value) if len(app.subheader) else ""


def problem(app: AppTest, page: str, expected: str | None) -> str:
    """What is wrong with a page; empty where it shows its figure, or says what it may say."""
    if app.exception:
        return f"fails: {app.exception[0].value}"
    if app.error:
        return f"shows an error: {unescape(app.error[0].value)}"
    if not told(app).endswith("."):
        return f"opens with {told(app)!r} and no sentence"
    shown = [name for name in MAIN.get(page, ()) if name in names(app)]
    if expected is not None:
        return "" if not shown and re.search(expected, told(app)) else f"says {told(app)!r} and shows {shown}"
    if not shown:
        return f"shows no figure and says {told(app)!r}"
    found = numbers(chart(app, shown[0]))
    return "" if np.isfinite(found).any() and not np.isinf(found).any() else f"draws {found}"


def test_the_list_names_pages_and_kinds_that_exist():
    assert set(MAIN) | set(ALWAYS) == set(PAGES)
    assert {page for page, _, _ in MAY_SAY} <= set(MAIN)
    assert {kind for _, kind, _ in MAY_SAY} <= set(KINDS)


@pytest.mark.parametrize("side", ["base", "aligned"])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in KINDS]
)
def test_every_page_shows_its_figure_or_says_what_is_missing(show: Show, readouts: Any, kind: str, side: str):
    models = USUAL | {side: readouts.kinds.get(kind)}
    found = {}
    for page in PAGES:
        app = opened(show, readouts.root, page, **models)
        expected = ALWAYS.get(page) or MAY_SAY.get((page, kind, side))
        found[page] = problem(app, page, expected)
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(("base", "aligned"), [("judge", "critic"), ("judge", "rlhf#value"), ("rlhf#value", "judge")])
def test_two_models_of_one_number(show: Show, readouts: Any, base: str, aligned: str):
    found = {}
    for page in ("attention", "autoregression", "compare", "interventions", "logits"):
        found[page] = problem(opened(show, readouts.root, page, base=base, aligned=aligned), page, None)
    found["rewards"] = problem(
        opened(show, readouts.root, "rewards", base=base, aligned=aligned), "rewards", "outputs one number"
    )
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hallucination", r"outputs a scalar \((reward|value)\) and no distribution over tokens"),
        ("in_context", r"outputs a scalar \((reward|value)\) and no distribution over tokens"),
        ("chain_of_thought", "A (reward|value) model writes no steps: use the policy"),
        ("retrieval", r"outputs a scalar \((reward|value)\) and no distribution over tokens"),
        ("continual", "A (reward|value) model writes no answers: use the policy"),
    ],
)
def test_an_experiment_that_needs_a_language_model_says_so(show: Show, readouts: Any, name: str, says: str):
    app = press(opened(show, readouts.root, name, base="judge", aligned="rlhf#value"), f"{name}-run")
    assert not app.exception
    said = [unescape(error.value) for error in app.error]
    assert [line.partition(":")[0] for line in said] == ["judge", "rlhf#value"]
    assert all(re.search(says, line) for line in said)
