"""How well a ranking finds what is relevant: recall@k and mean reciprocal rank (Voorhees 1999, TREC-8 QA).

    recall@k = relevant among the first k / relevant,     MRR = mean over queries of 1 / rank of the first relevant,

with 0 for a query whose ranking has nothing relevant.
"""

from collections.abc import Collection, Hashable, Sequence

import numpy as np
import pandas as pd

from probe.errors import DataError
from probe.stats import wilson

DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def rank_of(found: Sequence[Hashable], relevant: Collection[Hashable]) -> int | None:
    """The rank of the first relevant one, counted from 1; None if there is none."""
    return next((rank for rank, each in enumerate(found, start=1) if each in relevant), None)


def recall_at(found: Sequence[Hashable], relevant: Collection[Hashable], k: int) -> float:
    """The share of what is relevant among the first k of a ranking; what is found twice counts once.

    Raises:
        DataError: nothing is relevant, or k is below 1.
    """
    if not relevant or k < 1:
        raise DataError(f"recall@{k} of {len(relevant)} relevant documents is not defined: give at least one, k >= 1.")
    return len(set(found[:k]) & set(relevant)) / len(set(relevant))


def reciprocal_rank(rank: int | float | None) -> float:
    """1 / rank, and 0 without one (None or NaN)."""
    return 0.0 if rank is None or rank != rank else 1.0 / rank


def recall_curve(ranks: Sequence[float], depths: Sequence[int] = DEPTHS) -> pd.DataFrame:
    """recall@k where each query has one relevant document: k, value, ci_low, ci_high (Wilson), n.

    Args:
        ranks: [Q] of the relevant document, NaN where it was not found.
        depths: values of k.
    """
    known = np.asarray(ranks, dtype=float)
    rows = []
    for k in depths:
        value, low, high = wilson(int((known <= k).sum()), len(known))  # NaN is no rank
        rows.append({"k": k, "value": value, "ci_low": low, "ci_high": high, "n": len(known)})
    return pd.DataFrame(rows)
