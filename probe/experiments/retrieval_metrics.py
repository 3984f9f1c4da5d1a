"""What the summary of the experiment `retrieval` holds; every name is explained in docs/experiments.md."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from probe.analyses.knowledge_conflict import of_columns
from probe.analyses.retrieval_contexts import DEPTHS, GROUPS
from probe.analyses.retrieval_documents import CONTEXTS
from probe.experiments.metrics import Mean, Metric, Share, Statistic
from probe.stats import GAIN, SHARE, Bounds, Interval

PEOPLE = {kind: group for kind, group in GROUPS.items() if kind != "question"}
"""Groups of a world's questions by kind."""
TAUGHT = ("fact", "rare")
UNTAUGHT = ("stranger", "stranger_heldout")
"""Kinds of questions about people with and without a fact in the corpus."""
ALWAYS = ("none", "gold", "distractor", "unrelated", "retrieved")
"""The contexts that every question has; what a passage contradicts must have been learned."""


@dataclass(frozen=True)
class Outcome(Share):
    """The mean of a column of probabilities, which in a file's items are zeros and ones and then a share."""

    bounds: Bounds | None = field(default=SHARE, kw_only=True)
    """Those of probabilities."""

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Wilson's interval for zeros and ones, else the bootstrap."""
        return super().estimate(rows, seed) if self._is_share(rows) else Mean.estimate(self, rows, seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """Newcombe's interval for zeros and ones, else the paired bootstrap."""
        both = self._is_share(rows) and self._is_share(others)
        return super().difference(rows, others, seed) if both else Mean.difference(self, rows, others, seed)

    def _is_share(self, rows: pd.DataFrame) -> bool:
        return bool(rows[self.columns[0]].isin((0, 1)).all())


def _in_world(
    name: str, column: str, kinds: Iterable[str], given: Iterable[str], bounds: Bounds | None = SHARE
) -> tuple[Metric, ...]:
    """The mean of a column by context and group, such as `accuracy_gold_known`."""
    return tuple(
        Mean(f"{name}_{context}_{PEOPLE[kind]}", column, where={"kind": kind, "context": context}, bounds=bounds)
        for kind in kinds
        for context in given
    )


def _of_file(name: str, column: str) -> tuple[Metric, ...]:
    """The share of a column by context, such as `accuracy_gold`."""
    return tuple(
        Share(f"{name}_{context}", column, where={"kind": "question", "context": context}) for context in CONTEXTS
    )


REMEMBERED: dict[str, dict[str, Any]] = {"": {"knows": 1}, "_known": {"kind": "fact"}, "_rare": {"kind": "rare"}}
"""Endings of the memorisation ratio and what they narrow it to. Without an ending it is over the questions that are
answered right without context, as Longpre et al. take it."""
RECALL = (*(Share(f"recall_{k}") for k in DEPTHS), Share("hit"), Mean("mrr", "reciprocal_rank", bounds=SHARE))
CONFLICT = (
    *(Mean(f"follows_{PEOPLE[kind]}", "p_follows", where={"kind": kind}, bounds=SHARE) for kind in ("fact", "rare")),
    *(
        Statistic(
            f"memorisation_ratio{ending}",
            of_columns,
            ("p_learned", "p_context"),
            where={"context": "contradicting", **where},
            bounds=SHARE,
        )
        for ending, where in REMEMBERED.items()
    ),
)
OUTCOMES = (
    *_in_world("accuracy", "p_true", TAUGHT, CONTEXTS),
    *_in_world("accuracy", "p_true", UNTAUGHT, ("none", "gold", "retrieved")),
    *_in_world("abstention", "p_abstain", TAUGHT, CONTEXTS),
    *_in_world("abstention", "p_abstain", UNTAUGHT, ALWAYS),
    *_in_world("invention", "p_invented", TAUGHT, CONTEXTS),
    *_in_world("invention", "p_invented", UNTAUGHT, ALWAYS),
    *_of_file("accuracy", "p_true"),
    *_of_file("exact_match", "exact_match"),
    *_of_file("abstention", "p_abstain"),
    *_of_file("invention", "p_invented"),
    Share("follows", "p_follows", where={"kind": "question"}),
)
HALL = (
    *(
        Outcome(f"{name}{ending}", "hall", where=where | {"context": context})
        for ending, where in {"": {}, **{f"_{group}": {"kind": kind} for kind, group in PEOPLE.items()}}.items()
        for name, context in (("hall_without", "none"), ("hall_retrieved", "retrieved"))
    ),
    *(
        Mean(f"{name}_cut{ending}", f"{name}_cut", where=where, bounds=GAIN)
        for name in ("hall", "invention")
        for ending, where in {"": {}, "_hit": {"hit": 1}, "_miss": {"hit": 0}}.items()
    ),
    *(
        Mean(f"invention_cut_{group}", "invention_cut", where={"kind": kind}, bounds=GAIN)
        for kind, group in PEOPLE.items()
    ),
)
"""Without a passage, with the retrieved one, and what that takes away."""
PERSUASION = (
    *_in_world("persuasion", "persuasion", TAUGHT, CONTEXTS[1:5], None),
    *_in_world("persuasion", "persuasion", UNTAUGHT, ("gold", "distractor", "unrelated"), None),
    *_in_world("copied", "p_copied", PEOPLE, ("distractor",)),
    *(Mean(f"logprob_gain_{context}", "logprob_gain", where={"context": context}) for context in CONTEXTS[1:]),
)

METRICS: tuple[Metric, ...] = (
    *RECALL,
    *OUTCOMES,
    *HALL,
    *CONFLICT,
    *PERSUASION,
    Share("context_accuracy", "is_true", where={"kind": "context_conflict"}),
    Share("context_accuracy_stranger", "is_true", where={"kind": "context_stranger"}),
    Mean("answer_mass", unit="question", bounds=SHARE),
)
"""What the summary holds, as far as it was measured."""
