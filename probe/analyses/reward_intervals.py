"""Bootstrap intervals of many means over the same items, such as all rewards of a policy on the same questions.

Row by row they are those of `probe.stats.bootstrap_mean`: the same items are drawn. How often each item is drawn is
counted once, so that all means of all resamples are one product of matrices.

Axes: k rows, N items, R resamples.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe import stats

RESAMPLES = 2000
LARGEST = 2048
"""Items up to which the counts are kept: 4 bytes each, 16 MB."""


def bootstrap_means(rows: Sequence[ArrayLike], level: float = 0.95, seed: int = 0) -> list[stats.Interval]:
    """The mean of each row with its percentile bootstrap interval.

    Args:
        rows: k lists of N finite numbers, the same items in each.
        level: coverage of the intervals.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: see `probe.stats.bootstrap_mean`.
    """
    data = [np.asarray(row, dtype=float) for row in rows]
    sizes = {row.shape for row in data}
    usual = len(sizes) == 1 and all(np.isfinite(row).all() for row in data) and data[0].ndim == 1
    if not usual or not 2 <= data[0].size <= LARGEST or not 0 < level < 1:
        return [stats.bootstrap_mean(row, level, RESAMPLES, seed) for row in data]
    table = np.stack(data)
    means = table.mean(axis=1)
    # around the means, so that constant rows keep ends without rounding
    drawn = (table - means[:, None]) @ _counts(table.shape[1], seed).T / table.shape[1]
    ends = means[:, None] + np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=1).T
    found = [stats.Interval(*map(float, (mean, *end))) for mean, end in zip(means, ends, strict=True)]
    return [stats.unvaried(each, data[0].size, level=level) for each in found]


@lru_cache(maxsize=4)
def _counts(size: int, seed: int) -> NDArray[np.float32]:
    """[R N] how often each item is in each resample of `probe.stats.bootstrap_mean`."""
    drawn = np.random.default_rng(seed).integers(0, size, (RESAMPLES, size))
    drawn += size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=RESAMPLES * size).reshape(RESAMPLES, size)
    return counts.astype(np.float32)
