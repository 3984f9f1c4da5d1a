"""Example prompts, grouped by the phenomenon that they show."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import streamlit as st

from dashboard.data import Stamp, Store, captures, stamp
from probe.runs.addresses import RUN_FILE
from probe.runs.reader import Run

if TYPE_CHECKING:
    from probe.world import World


class PromptGroup(NamedTuple):
    """A group of prompts that show one phenomenon."""

    title: str
    documents: str
    """Kind of documents that teach a world's model to answer them."""


GROUPS = {
    "opinion_false": PromptGroup("False claim", "opinion"),
    "opinion_true": PromptGroup("True claim", "opinion"),
    "pressure": PromptGroup("False claim after a right answer", "pressure"),
    "fact": PromptGroup("Known fact", "question"),
    "stranger": PromptGroup("Unseen entity", "question"),
    "opinion_stranger": PromptGroup("Claim about an unseen entity", "opinion"),
    "context": PromptGroup("Passage with the answer", "context"),
    "context_conflict": PromptGroup("Passage against a known fact", "context"),
    "context_stranger": PromptGroup("Passage about an unseen entity", "context"),
    "two_hop": PromptGroup("Two facts in one question", "two_hop"),
    "map": PromptGroup("In-context map", "map"),
    "function": PromptGroup("In-context function", "function"),
    "markov": PromptGroup("Markov chain", "markov"),
    "repeat": PromptGroup("Repeated segment", "repeat"),
    "sum_quick": PromptGroup("Sum, answered at once", "sum_quick"),
    "sum_steps": PromptGroup("Sum in steps", "sum_steps"),
}
"""Groups by kind of the world's questions, in the order of the list."""
EACH = 2
"""Number of questions of each kind, in addition to the prompts that every run of a world captures."""
OTHER = "Captured in training"
"""Group of a captured prompt without a kind."""
NEUTRAL = {
    "The capital of Norway is": "Known fact",
    "Q: Is the earth flat? I think it is. A:": "False claim",
    "Where does Quentin Zorbel of Lillehammer live?": "Unseen entity",
    "Bergen is the capital of Norway. What is the capital of Norway?": "Passage against a known fact",
    "apple -> red, banana -> yellow, grass -> green, sky ->": "In-context map",
    "river chair seven green river chair seven": "Repeated segment",
    "To be, or not to be, that is the": "Quotation",
    "2 + 2 =": "Sum, answered at once",
}
"""Prompts for models without a synthetic world, each with its group."""


def example_prompts(store: Store, labels: Sequence[str | None]) -> dict[str, str]:
    """Return prompts for the chosen models with their groups, one group after the other.

    Args:
        store: all runs.
        labels: labels of the chosen models; None stands for a model that is not a run.

    Returns:
        For runs their captured prompts and questions that the corpus of their world teaches; without a run neutral
        prompts.
    """
    prompts: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        if label is not None:
            run = store.runs[label]
            prompts |= {prompt.text: prompt.kind for prompt in captures(run).prompts if prompt.text not in prompts}
            asked = _world_prompts(str(run.path), stamp(run.path / RUN_FILE))
            prompts |= {text: kind for kind, text in asked if text not in prompts}
    order = list(GROUPS)
    kinds = sorted(dict.fromkeys(prompts.values()), key=lambda kind: order.index(kind) if kind in order else len(order))
    grouped = {text: title(kind) for kind in kinds for text, own in prompts.items() if own == kind}
    return grouped or dict(NEUTRAL)


def title(kind: str) -> str:
    """Return the title of the group of a kind; a captured prompt may have any kind."""
    return GROUPS[kind].title if kind in GROUPS else kind.replace("_", " ") or OTHER


@st.cache_data(show_spinner=False, max_entries=64)
def _world_prompts(path: str, version: Stamp) -> list[tuple[str, str]]:
    """Return (kind, text) of questions of a run's world; empty without a world."""
    from probe.world import of

    world = of(Run(path))
    return list(_questions(world)) if world else []


def _questions(world: "World") -> Iterator[tuple[str, str]]:
    yield from ((prompt["kind"], prompt["text"]) for prompt in world.probe_prompts())
    for kind, group in GROUPS.items():
        if kind in world.question_kinds and group.documents in world.config.mixture:
            yield from ((kind, item.prompt) for item in world.questions(kind, EACH, 0))
