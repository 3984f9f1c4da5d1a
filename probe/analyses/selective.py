"""Is the model less sure where it is wrong? AUROC, and the risk of answering only what it is surest of."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probe.errors import DataError
from probe.stats import SHARE, Interval, unvaried


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """P(a positive item scores above a negative one), ties counted half; NaN where one of them is missing.

    Args:
        score: [N] numbers.
        positive: [N] zeros and ones.
    """
    values, labels = _flat(score, positive)
    ones = int(labels.sum())
    if ones in (0, len(labels)):
        return float("nan")
    ranks = _ranks(values)
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Risk against coverage: the share of errors among the k surest items, k = 1 to N (El-Yaniv and Wiener 2010).

    Items of equal confidence come in any order: each has the mean error of its ties, which is the expected curve.

    Args:
        confidence: [N] how sure the model is.
        wrong: [N] zeros and ones.

    Returns:
        [N] coverage k / N and [N] risk.
    """
    values, errors = _flat(confidence, wrong)
    order = np.argsort(-values, kind="stable")
    values, errors = values[order], errors[order]
    _, group, counts = np.unique(-values, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=errors) / counts
    k = np.arange(1, len(values) + 1)
    return k / len(values), np.cumsum(mean[group]) / k


def aurc(confidence: ArrayLike, wrong: ArrayLike) -> float:
    """Area under the risk-coverage curve: the mean of its N points (Geifman and El-Yaniv 2017); lower is better.

    Of a confidence that says nothing it is the error rate.
    """
    return float(risk_coverage(confidence, wrong)[1].mean())


def risk_table(confidence: ArrayLike, wrong: ArrayLike, points: int = 50, seed: int = 0) -> pd.DataFrame:
    """The curve at `points` coverages: coverage, value, ci_low, ci_high, n; the interval is the bootstrap over items.

    The intervals are of each point by itself. At coverage x it is the risk of the surest x N items.
    """
    values, errors = _flat(confidence, wrong)
    rng, n = np.random.default_rng(seed), len(values)
    at = np.unique(np.ceil(np.linspace(1 / points, 1, points) * n).astype(int)) - 1
    coverage, risk = risk_coverage(values, errors)
    drawn = []
    for _ in range(200):
        index = rng.integers(0, n, n)
        drawn.append(risk_coverage(values[index], errors[index])[1][at])
    ends = np.quantile(drawn, [0.025, 0.975], axis=0).T
    found = [unvaried(Interval(risk[i], *end), i + 1, SHARE) for i, end in zip(at, ends, strict=True)]
    table = pd.DataFrame(found, columns=["value", "ci_low", "ci_high"])
    table.insert(0, "coverage", coverage[at])
    return table.assign(n=at + 1)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, ties averaged."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def _flat(score: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, marks = np.asarray(score, dtype=float), np.asarray(labels, dtype=float)
    if values.ndim != 1 or values.shape != marks.shape or not len(values) or not np.isin(marks, (0, 1)).all():
        raise DataError(
            f"{values.size} scores came with {marks.size} labels: give two lists of one length, labels 0 or 1."
        )
    return values, marks
