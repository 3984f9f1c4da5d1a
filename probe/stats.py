"""Intervals and paired tests: every headline number of the project carries one of these (METRICS: Measurements).

A proportion gets Wilson's interval, a mean the percentile bootstrap; two models that answered the same items are
compared pair by pair. `bootstrap` draws what is independent: items, or whole units of them such as the rows of one
prompt. Where nothing varied it would be certain of what it saw: see `unvaried_interval`. All intervals are two-sided,
and come as `(value, low, high)`.

Axes: N items, n of them or of their units, R resamples, k rows.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from probe.errors import DataError

Bounds = tuple[float, float]
"""The least and the largest value that a quantity can have."""
SHARE: Bounds = (0.0, 1.0)
GAIN: Bounds = (-1.0, 1.0)
"""Those of shares and probabilities, and those of their differences."""
TAILS = 0.025, 0.975
"""The quantiles between which 95 % lie."""
LEVEL = 0.95
"""Coverage of an interval, unless another one is asked for."""
RESAMPLES = 1000
"""How often items or units are drawn."""
MEANS_RESAMPLES = 2000
"""The same where only their mean is taken, which costs little."""
LARGEST = 2048
"""Items up to which `bootstrap_means` keeps how often each was drawn: 4 bytes each, 16 MB."""
_CHUNK = 100_000  # values resampled at once: what fits into a processor's cache takes half the time


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, all in the unit of the data."""

    value: float
    low: float
    high: float

    def row(self, n: int | None = None, name: str = "") -> dict[str, Any]:
        """As columns of a table: value, ci_low, ci_high, or NAME, NAME_low, NAME_high; and, where it is given, n."""
        columns = (name, f"{name}_low", f"{name}_high") if name else ("value", "ci_low", "ci_high")
        return dict(zip(columns, self, strict=True)) | ({} if n is None else {"n": n})

    def format(self, digits: int = 2, unit: str = "") -> str:
        """Such as `0.96 nats [0.94, 0.98]`; without brackets where there is no interval.

        Args:
            digits: behind the point.
            unit: stands behind the estimate.
        """
        ends = (
            ""
            if self.low != self.low or self.high != self.high
            else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        )
        return f"{self.value:.{digits}f}{f' {unit}' if unit else ''}{ends}"


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """The share `k / n` with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        k: successes, 0 <= k <= n.
        n: trials; without any the share is NaN and the interval is all of [0, 1].
        level: coverage of the interval.

    Raises:
        DataError: `k` is not between 0 and `n`, or `level` is not between 0 and 1.
    """
    z2 = _quantile(level) ** 2
    if not 0 <= k <= n:
        raise DataError(f"A share of {k} in {n} was asked for: count successes between 0 and the number of trials.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    share = k / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if k == 0 else float(centre - half)
    high = 1.0 if k == n else float(centre + half)
    return Interval(share, low, high)


def unvaried_interval(found: Interval, n: float, bounds: Bounds | None = None, level: float = 0.95) -> Interval:
    """`found`, unless its bootstrap never varied: then the interval that `n` equal values allow.

    That n of n items had the value v leaves all others a share of at most q = z^2 / (n + z^2), the upper end of
    Wilson's interval for 0 of n (about 4 / n, as the rule of three). They lie between the bounds a and b, so the mean
    lies between v - q (v - a) and v + q (b - v). At v = a and at v = b this is Wilson's interval of a share, and at 0
    between -1 and 1 it is Newcombe's of a difference of two shares that never differed.

    Args:
        found: an estimate with the quantiles of resampled ones.
        n: items, or units, that were drawn independently.
        bounds: the least and the largest value that one can have; without them the ends are NaN: nothing is known.
        level: coverage.
    """
    value, low, high = found
    if not high - low <= 1e-12 * max(1.0, abs(value)):
        return found
    if bounds is None:
        return Interval(value, float("nan"), float("nan"))
    rest = _quantile(level) ** 2 / (n + _quantile(level) ** 2)
    return Interval(value, value - rest * (value - bounds[0]), value + rest * (bounds[1] - value))


def beyond(low: ArrayLike, high: ArrayLike, smallest: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Whether a whole interval lies beyond the smallest effect that counts, on either side: where a change is said.

    A minimum-effect test: of effects that are no larger than the smallest one, a 95 % interval lies beyond it in at
    most 5 % of cases (Murphy and Myors 1999, J. Applied Psychology 84:234). With 0 it is the test against no effect.

    Args:
        low: [N] lower ends; NaN where there is no interval, of which nothing is said.
        high: [N] upper ends.
        smallest: [N] or one size, 0 or more.
    """
    lower, upper, least = (np.asarray(each, dtype=float) for each in (low, high, smallest))
    return np.asarray((lower > least) | (upper < -least))


def tails_of(level: float) -> Bounds:
    """Return the two quantiles between which a share `level` lies.

    Raises:
        DataError: `level` is not between 0 and 1.
    """
    _quantile(level)
    return TAILS if level == LEVEL else ((1 - level) / 2, (1 + level) / 2)


def difference_bounds(bounds: Bounds | None) -> Bounds | None:
    """The bounds of a difference of two quantities that have these."""
    return None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])


def percentile(
    value: float, drawn: ArrayLike, n: float, bounds: Bounds | None = None, tails: Bounds = TAILS
) -> Interval:
    """An estimate with the quantiles of its resampled values, or `unvaried_interval`.

    Args:
        value: the estimate.
        drawn: [R] the same of resamples; those without a value (NaN, infinite) do not count.
        n: items, or units, that were drawn independently.
        bounds: see `unvaried_interval`.
        tails: which two quantiles.

    Returns:
        NaN ends where fewer than two resamples have a value.
    """
    finite = np.asarray(drawn, dtype=float)
    finite = finite[np.isfinite(finite)]
    if len(finite) < 2:
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(finite, tails)
    return unvaried_interval(Interval(float(value), float(low), float(high)), n, bounds, 2 * tails[1] - 1)


def resample(
    fn: Callable[[NDArray[np.int64]], ArrayLike], n: int, resamples: int, seed: int | np.random.Generator
) -> NDArray[np.float64]:
    """[R ...] the values of a function for resamples of n items or units, drawn with replacement.

    Args:
        fn: [r n] which ones each of r resamples holds -> [r ...] numbers.
        n: of how many is drawn.
        resamples: R.
        seed: the same seed gives the same resamples; a generator goes on where it stands.
    """
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // n)
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([np.asarray(fn(rng.integers(0, n, (size, n))), dtype=float) for size in sizes])


def bootstrap(
    value: float,
    fn: Callable[[NDArray[np.int64]], ArrayLike],
    n: int,
    seed: int = 0,
    bounds: Bounds | None = None,
    *,
    count: float | None = None,
    tails: Bounds = TAILS,
    resamples: int | None = None,
) -> Interval:
    """An estimate with its percentile bootstrap interval over n independent items or units.

    Args:
        value: the estimate from all of them.
        fn: the estimate from resamples, see `resample`.
        n: how many there are.
        seed: the same seed gives the same interval.
        bounds: of the estimate; by them one that never varies gets an interval (`unvaried_interval`).
        count: on how many units it rests then, where those are fewer: for an AUROC those of the rarer kind.
        tails: which two quantiles.
        resamples: R; default `RESAMPLES`.

    Returns:
        NaN ends for fewer than two units, and where fewer than half of the resamples have a value.
    """
    resamples = RESAMPLES if resamples is None else resamples
    draws = resample(fn, n, resamples, seed) if n > 1 else np.empty(0)
    if not len(draws) or np.isfinite(draws).sum() < resamples // 2:
        return Interval(float(value), float("nan"), float("nan"))
    return percentile(value, draws, n if count is None else min(n, count), bounds, tails)


def bootstrap_mean(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = MEANS_RESAMPLES,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Interval:
    """The mean of independent values with its percentile bootstrap interval.

    Args:
        values: [N] numbers; items without a value (NaN) must be taken out before, so that the caller knows N.
        level: coverage of the interval.
        resamples: how often N items are drawn with replacement.
        seed: the same seed gives the same interval.
        bounds: of a single value, such as 0 and 1; by them equal values get an interval (`unvaried_interval`).

    Returns:
        NaN throughout without a value; the mean and NaN ends for a single one, which says nothing about its spread.

    Raises:
        DataError: `values` is not a list of finite numbers, or `level` is not between 0 and 1.
    """
    _quantile(level)
    data, tails = _numbers(values), ((1 - level) / 2, (1 + level) / 2)  # not TAILS to the last bit
    mean = data.mean() if data.size else float("nan")
    return bootstrap(
        mean, lambda indices: data[indices].mean(axis=1), data.size, seed, bounds, tails=tails, resamples=resamples
    )


def bootstrap_units(
    units: pd.Series,
    values: NDArray[np.float64],
    seed: int,
    bounds: Bounds | None = None,
    level: float = LEVEL,
) -> Interval:
    """The mean of the values, and the quantiles of the means for resampled units: a mean weighted by their sizes."""
    codes, names = pd.factorize(units)
    sums, counts = np.bincount(codes, values), np.bincount(codes)

    def means(indices: NDArray[np.int64]) -> NDArray[np.float64]:
        return sums[indices].sum(axis=1) / counts[indices].sum(axis=1)

    return bootstrap(values.mean(), means, len(names), seed, bounds, tails=tails_of(level))


def group(units: pd.Series) -> list[NDArray[np.intp]]:
    """The rows of each unit, units in the order of their first rows."""
    codes = pd.factorize(units)[0]
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def bootstrap_means(rows: Sequence[ArrayLike], level: float = 0.95, seed: int = 0) -> list[Interval]:
    """The mean of each row with the interval of `bootstrap_mean`: the same items are drawn.

    How often each item is drawn is counted once, so that all means of all resamples are one product of matrices.

    Args:
        rows: k lists of N finite numbers, the same items in each.
        level: coverage of the intervals.
        seed: the same seed gives the same intervals.

    Raises:
        DataError: see `bootstrap_mean`.
    """
    data = [np.asarray(row, dtype=float) for row in rows]
    sizes = {row.shape for row in data}
    usual = len(sizes) == 1 and all(np.isfinite(row).all() for row in data) and data[0].ndim == 1
    if not usual or not 2 <= data[0].size <= LARGEST or not 0 < level < 1:
        return [bootstrap_mean(row, level, seed=seed) for row in data]
    table = np.stack(data)
    means = table.mean(axis=1)
    # around the means, so that constant rows keep ends without rounding
    deviations = (table - means[:, None]) @ _counts(table.shape[1], seed).T / table.shape[1]
    ends = means[:, None] + np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2], axis=1).T
    intervals = [Interval(*map(float, (mean, *end))) for mean, end in zip(means, ends, strict=True)]
    return [unvaried_interval(each, data[0].size, level=level) for each in intervals]


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    bounds: Bounds | None = None,
) -> Interval:
    """mean(a) - mean(b) of two models on the same items, with the paired bootstrap interval: items are drawn together.

    Args:
        a: [N] values of the first model.
        b: [N] values of the second model, item by item.
        level: coverage of the interval.
        resamples: how often N pairs are drawn with replacement.
        seed: the same seed gives the same interval.
        bounds: of a single value of either model, see `bootstrap_mean`.

    Raises:
        DataError: the lists differ in length or hold something that is not a finite number.
    """
    first, second = _pairs(a, b)
    return bootstrap_mean(first - second, level, resamples, seed, difference_bounds(bounds))


def paired_proportions(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """share(a) - share(b) of yes/no answers to the same items, with Newcombe's interval.

    The square-and-add Wilson interval for paired shares (Newcombe 1998, Statistics in Medicine 17:2635, method 10,
    whose continuity-corrected phi is used here). Unlike the bootstrap it keeps its width when the two models agree
    on every item.

    Args:
        a: [N] zeros and ones (or booleans) of the first model.
        b: [N] the same for the second model, item by item.
        level: coverage of the interval.

    Raises:
        DataError: the lists differ in length or hold something else than zeros and ones.
    """
    both, only_a, only_b, neither = _table(a, b)
    n = both + only_a + only_b + neither
    if n == 0:
        return Interval(float("nan"), -1.0, 1.0)
    p, p_low, p_high = wilson(both + only_a, n, level)
    q, q_low, q_high = wilson(both + only_b, n, level)
    margins = float(both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    cross = float(both) * neither - float(only_a) * only_b
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    phi = cross / np.sqrt(margins) if margins else 0.0
    down, up = p - p_low, q_high - q
    below = np.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    down, up = q - q_low, p_high - p
    above = np.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    return Interval(p - q, float(p - q - below), float(p - q + above))


def floats(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column of items as [N] numbers.

    Raises:
        DataError: a row has none, or an infinite one; text is none, also where it reads like one.
    """
    try:
        if rows[column].map(lambda value: isinstance(value, str)).any():
            raise TypeError
        values = rows[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"The column `{column}` of the items is no number in every row: give numbers.") from None
    if not np.isfinite(values).all():
        raise DataError(f"The column `{column}` of the items is infinite in some row: give finite numbers, or none.")
    return values


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(f"A confidence level of {level} was asked for: give a number between 0 and 1, such as 0.95.")
    return float(ndtri((1 + level) / 2))


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or not np.isfinite(data).all():
        raise DataError(
            f"Statistics need one flat list of finite numbers, and got an array of shape {data.shape}"
            f" with {int((~np.isfinite(data)).sum())} values that are not finite: take those out first."
        )
    return data


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _numbers(a), _numbers(b)
    if len(first) != len(second):
        raise DataError(
            f"A paired comparison got {len(first)} and {len(second)} values: give both models the same items."
        )
    return first, second


def _table(a: ArrayLike, b: ArrayLike) -> tuple[int, int, int, int]:
    """Counts of items right for both, only a, only b, neither."""
    first, second = _pairs(a, b)
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise DataError("Paired shares need zeros and ones: use `paired_difference` for other numbers.")
    x, y = first == 1, second == 1
    return int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum())


@lru_cache(maxsize=4)
def _counts(size: int, seed: int) -> NDArray[np.float32]:
    """[R N] how often each item is in each resample of `bootstrap_mean`."""
    indices = np.random.default_rng(seed).integers(0, size, (MEANS_RESAMPLES, size))
    indices += size * np.arange(MEANS_RESAMPLES)[:, None]
    counts = np.bincount(indices.ravel(), minlength=MEANS_RESAMPLES * size).reshape(MEANS_RESAMPLES, size)
    return counts.astype(np.float32)
