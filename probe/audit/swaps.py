"""Permutation tests that swap two models within each question.

If two models do not differ, their answers to each question are exchangeable. All items of a question are swapped
together, with probability 1/2, and every metric of a part is recomputed; for means this flips the signs of paired
differences. This gives

    p            the share of swaps whose difference is at least as large, two-sided (Phipson and Smyth 2010)
    p_corrected  the share whose largest difference of the row's family is at least as large, each difference in units
                 of its own deviation over the swaps (max-T, Westfall and Young 1993)
    critical     the size that the largest difference of the family exceeds in 5 % of the swaps, in the same units
    counts       how many rows each swap would call different after correction: what chance alone gives

The measures that a part is about are one family, its further metrics another. Metrics that are the same function of the
same items (as `hallucination.score_50` is of `hallucination`) are one statistic: the first stands for them.

Axes: N items, Q questions, R swaps, M metrics.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.experiments.metrics import ITEM, Columns, Mean, Metric, select_pairs

DRAWS = 1000
"""Number of swaps that are drawn."""
LEVEL = 0.05
"""Significance level of a test."""
SAME = 1e-9
"""Largest distance of a correlation from 1 at which two columns count as one."""
QUESTIONS = ("row", "person", "sequence", "question")
"""Columns that identify the question of an item; the first that has a value is used."""
_CLOSE = 1 - 1e-9  # tolerance for rounding when differences are compared


class Swapped(NamedTuple):
    """Test results of the metrics of a part, each [M]."""

    n: NDArray[np.int64]
    """Number of pairs of items behind each difference."""
    p: NDArray[np.float64]
    """Two-sided p-value (see the module); NaN if there is no difference."""
    p_corrected: NDArray[np.float64]
    """p-value corrected for the family."""
    critical: NDArray[np.float64]
    """Critical value of the family of each metric, in standard deviations."""
    same_as: tuple[str, ...]
    """Name of the metric that is the same statistic and represents it, or empty."""
    counts: NDArray[np.int64]
    """[R] number of metrics that each swap would call different."""


def swap_models(
    metrics: Sequence[Metric],
    families: Sequence[bool],
    own: pd.DataFrame,
    others: pd.DataFrame,
    seed: int = 0,
    draws: int = DRAWS,
) -> Swapped:
    """Test the differences of two models by swapping their answers within questions.

    Args:
        metrics: M of them.
        families: for each metric, whether it is a measure of the part; these form one family, the others another.
        own: items of one model, as `probe.experiments.metrics.pair_items` returns them.
        others: the same items of the other, in the same order.
        seed: seed of the swaps.
        draws: number of swaps R.
    """
    codes, names = pd.factorize(question_of(own))
    of_item = dict(zip(own.index, codes, strict=True))
    flips = np.random.default_rng(seed).random((draws, len(names))) < 0.5
    pairs = [select_pairs(metric, own, others) for metric in metrics]
    n = np.array([len(rows) for rows, _ in pairs], dtype=np.int64)
    table = np.full((draws + 1, len(metrics)), np.nan)
    for at, (metric, (rows, other_rows)) in enumerate(zip(metrics, pairs, strict=True)):
        if len(rows):
            questions = np.array([of_item[name] for name in rows.index])
            table[:, at] = swapped_differences(metric, rows, other_rows, questions, flips)
    same_as = same_statistics(metrics, pairs)
    size = np.abs(table)
    drawn = np.nan_to_num(size[1:], nan=0.0)  # a swap without a value counts as no difference
    spread = np.sqrt((drawn**2).mean(axis=0))
    found, drawn_units = (
        np.divide(each, spread, out=np.zeros_like(each), where=spread > 0) for each in (size[0], drawn)
    )
    known = np.isfinite(size[0])
    p = np.where(known, _share_beyond(size[0], drawn), np.nan)
    p_corrected, critical = np.full(len(metrics), np.nan), np.full(len(metrics), np.nan)
    counts = np.zeros(draws, dtype=np.int64)
    for family in (True, False):
        of = np.array([each is family for each in families], dtype=bool)
        counted = of & known & np.array([not name for name in same_as], dtype=bool)
        if not counted.any():
            continue
        largest = drawn_units[:, counted].max(axis=1)
        limit = float(np.quantile(largest, 1 - LEVEL))
        p_corrected[of & known] = _share_beyond(found[of & known], largest[:, None])
        critical[of] = limit
        counts += (drawn_units[:, counted] > max(limit, 1e-12)).sum(axis=1)
    return Swapped(n, p, p_corrected, critical, same_as, counts)


def _share_beyond(found: NDArray[np.float64], drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [M] the share of [R M] or [R 1] draws at least as large as the observed value, which counts as a draw."""
    as_large = drawn >= found * _CLOSE
    return np.asarray((1 + as_large.sum(axis=0)) / (1 + len(drawn)))


def question_of(items: pd.DataFrame) -> "pd.Series[str]":
    """Return an identifier of each item's question: the first of `QUESTIONS` with a value, else the item itself."""
    names = items[ITEM].astype(str).copy()
    left = pd.Series(True, index=items.index)
    for column in QUESTIONS:
        if column in items:
            named = left & items[column].notna()
            names[named] = items.loc[named, column].astype(str)
            left &= ~named
    return names


def swapped_differences(
    metric: Metric,
    rows: pd.DataFrame,
    others: pd.DataFrame,
    questions: NDArray[np.intp],
    flips: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Compute the difference of a metric, observed and in each swap: [R + 1].

    Args:
        metric: metric to compute.
        rows: [N] items that the metric counts, of one model.
        others: [N] the same items of the other model.
        questions: [N] index of each item's question.
        flips: [R Q] whether the models are swapped in a question.
    """
    if type(metric).value is Mean.value:
        gaps = rows[metric.columns[0]].to_numpy(dtype=float) - others[metric.columns[0]].to_numpy(dtype=float)
        sums = np.bincount(questions, gaps, minlength=flips.shape[1])
        signs = np.vstack([np.ones(flips.shape[1]), 1.0 - 2.0 * flips])
        return np.asarray(signs @ sums / len(rows))
    first: Columns = {name: rows[name].to_numpy() for name in metric.columns}
    second: Columns = {name: others[name].to_numpy() for name in metric.columns}
    found = [metric.value(first) - metric.value(second)]
    for flip in flips:
        turned = flip[questions]
        ours = {name: np.where(turned, second[name], first[name]) for name in metric.columns}
        theirs = {name: np.where(turned, first[name], second[name]) for name in metric.columns}
        found.append(metric.value(ours) - metric.value(theirs))
    return np.array(found, dtype=float)


def same_statistics(metrics: Sequence[Metric], pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> tuple[str, ...]:
    """Return for each metric the name of an earlier metric that is the same statistic, or empty.

    Two means are the same statistic if they count the same items of both models and one column is a linear function of
    the other: their differences have the same sign test, p-value and verdict. Constant columns are never the same.
    """
    seen: list[tuple[str, pd.Index, NDArray[np.float64]]] = []
    found = []
    for metric, (rows, others) in zip(metrics, pairs, strict=True):
        name = ""
        if type(metric).value is Mean.value and len(rows):
            column = metric.columns[0]
            values = np.concatenate([each[column].to_numpy(dtype=float) for each in (rows, others)])
            values = values - values.mean()
            norm = float(np.linalg.norm(values))
            if norm > 1e-12:
                values /= norm
                same = (
                    earlier
                    for earlier, index, unit in seen
                    if index.equals(rows.index) and abs(abs(float(unit @ values)) - 1) < SAME
                )
                name = next(same, "")
                if not name:
                    seen.append((metric.name, rows.index, values))
        found.append(name)
    return tuple(found)
