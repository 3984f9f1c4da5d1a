"""The tables of the experiment `retrieval`, from its items: outcomes by context, persuasion, searches.

Items come from a world, where outcomes are probabilities, or from a file, where they are zeros and ones; the columns
have the same names (`probe.analyses.retrieval_contexts.context_items`, `probe.analyses.retrieval_text.file_items`).
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.analyses.retrieval_contexts import GROUPS
from probe.analyses.retrieval_documents import CONTEXTS
from probe.stats import SHARE, Interval, bootstrap_mean, wilson

OUTCOMES = {
    "accuracy": "p_true",
    "follows": "p_follows",
    "abstention": "p_abstain",
    "invention": "p_invented",
    "no_answer": "p_no_answer",
}
"""What the table of contexts holds, and the columns that it averages."""


def interval(values: NDArray[np.float64], seed: int = 0) -> Interval:
    """The mean with its 95 % interval: Wilson's for zeros and ones, else the bootstrap over questions."""
    if len(values) and np.isin(values, (0, 1)).all():
        return wilson(int(values.sum()), len(values))
    return bootstrap_mean(values, seed=seed, bounds=SHARE)


def context_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Outcomes by group and context, exact means with bootstrap intervals over questions.

    Returns:
        group, context, outcome (see `OUTCOMES`), value, ci_low, ci_high, n; rows without a value are left out.
    """
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for context in CONTEXTS:
            part = items[(items["kind"] == kind) & (items["context"] == context)]
            for outcome, column in ((o, c) for o, c in OUTCOMES.items() if c in part):
                values = part[column].dropna().to_numpy(dtype=float)
                if len(values):
                    value, low, high = interval(values, seed=seed)
                    row = {"group": group, "context": context, "outcome": outcome, "value": value}
                    rows.append(row | {"ci_low": low, "ci_high": high, "n": len(values)})
    return pd.DataFrame(rows)


def persuasion_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean persuasion in nats by group and context: group, context, value, ci_low, ci_high, n."""
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for context in CONTEXTS[1:]:
            part = items[(items["kind"] == kind) & (items["context"] == context)]
            if len(part):
                value, low, high = interval(part["persuasion"].to_numpy(dtype=float), seed=seed)
                row = {"group": group, "context": context, "value": value, "ci_low": low, "ci_high": high}
                rows.append(row | {"n": len(part)})
    return pd.DataFrame(rows)


def search_table(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Hall and invention without a passage and with the retrieved one, all searches, hits and misses apart.

    Returns:
        group, found (all, hit, miss), quantity (hall, invention), way (without, with, cut), value, ci_low, ci_high, n;
        each is a mean over the same questions.
    """
    searched = items[items["context"] == "retrieved"]
    rows: list[dict[str, Any]] = []
    for kind, group in GROUPS.items():
        for found, hit in (("all", None), ("hit", 1.0), ("miss", 0.0)):
            part = searched[searched["kind"] == kind]
            part = part if hit is None else part[part["hit"] == hit]
            for quantity, column in (("hall", "hall"), ("invention", "p_invented")):
                cut, after = (part[name].to_numpy(dtype=float) for name in (f"{quantity}_cut", column))
                for way, values in (("without", after + cut), ("with", after), ("cut", cut)):
                    if len(values):
                        value, low, high = interval(values, seed=seed)
                        row = {"group": group, "found": found, "quantity": quantity, "way": way, "value": value}
                        rows.append(row | {"ci_low": low, "ci_high": high, "n": len(values)})
    return pd.DataFrame(rows)
