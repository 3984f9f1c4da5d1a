"""What a model says when the context contradicts what it learned: follow or remember (Longpre et al. 2109.05052).

With o the learned answer and s the one that the context substitutes for it, the memorisation ratio is

    M = p_o / (p_o + p_s),

p_o and p_s being how often each is answered over the questions. Where the probabilities of both are known they are
means of them, and M is exact for its questions. The interval is the percentile bootstrap over questions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from probe.errors import DataError
from probe.hallucination.world import exposure_class
from probe.stats import SHARE, Interval, bootstrap_mean, unvaried

RESAMPLES = 2000
QUANTITIES = {"follows": "p_context", "keeps": "p_learned", "knows": "p_known"}
"""Quantities of `conflict_curve` that are means, and their columns."""


def memorisation_ratio(p_o: ArrayLike, p_s: ArrayLike) -> float:
    """M over questions; NaN where neither answer is ever given.

    Args:
        p_o: [N] probability (or 0 and 1) of the learned answer.
        p_s: [N] of the context's.

    Raises:
        DataError: the lists differ in length.
    """
    o, s = _pair(p_o, p_s)
    total = float(o.sum() + s.sum())
    return float(o.sum()) / total if total > 0 else float("nan")


def memorisation_interval(p_o: ArrayLike, p_s: ArrayLike, seed: int = 0) -> Interval:
    """M with its 95 % interval, questions drawn with replacement; NaN ends for fewer than two."""
    o, s = _pair(p_o, p_s)
    value = memorisation_ratio(o, s)
    if len(o) < 2 or value != value:
        return Interval(value, float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).integers(0, len(o), (RESAMPLES, len(o)))
    top = o[drawn].sum(axis=1)
    total = top + s[drawn].sum(axis=1)
    known = top[total > 0] / total[total > 0]
    low, high = np.quantile(known, (0.025, 0.975))
    return unvaried(Interval(value, float(low), float(high)), len(o), SHARE)


def of_columns(columns: Mapping[str, np.ndarray]) -> float:
    """M of the columns `p_learned` and `p_context`, for a metric."""
    return memorisation_ratio(columns["p_learned"], columns["p_context"])


def conflict_curve(items: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Following the context against remembering, by how often the corpus says the fact.

    Args:
        items: questions under a contradicting context: `exposure`, `p_learned`, `p_context`, and `p_known`, the
            probability of the learned answer without any context.
        seed: of the bootstrap.

    Returns:
        label, low, high (of the class of counts, see `exposure_class`), quantity, value, ci_low, ci_high, n; quantities
        are follows (mean p_context), keeps (mean p_learned), knows (mean p_known) and memorisation (M).
    """
    classes = [exposure_class(int(count)) for count in items["exposure"]]
    rows: list[dict[str, Any]] = []
    for each in sorted(set(classes)):
        part = items[[one == each for one in classes]]
        found = {
            name: bootstrap_mean(part[column].to_numpy(), seed=seed, bounds=SHARE)
            for name, column in QUANTITIES.items()
        }
        found["memorisation"] = memorisation_interval(part["p_learned"], part["p_context"], seed)
        for name, (value, low, high) in found.items():
            row: dict[str, Any] = {"label": each.label, "low": each.low, "high": each.high, "quantity": name}
            rows.append(row | {"value": value, "ci_low": low, "ci_high": high, "n": len(part)})
    columns = ["label", "low", "high", "quantity", "value", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=columns)


def _pair(p_o: ArrayLike, p_s: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    o, s = np.asarray(p_o, dtype=float), np.asarray(p_s, dtype=float)
    if o.shape != s.shape or o.ndim != 1:
        raise DataError(
            f"The memorisation ratio got {o.shape} learned and {s.shape} substituted answers: give one of each a"
            " question."
        )
    return o, s
