"""Intervals and paired tests: every headline number of the project carries one of these (METRICS: Measurements).

A proportion gets Wilson's interval, a mean the studentised bootstrap; two models that answered the same items are
compared pair by pair. The sampling unit is an item, or what several items share, such as a person in two questions. If
no value varied, a bootstrap interval would have width 0: see `unvaried_interval`. All intervals are two-sided, and are
returned as `(value, low, high)`. `probe.experiments.interval_coverage` simulates their coverage.

Axes: N items, n of them or of their units, R resamples, k rows.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from probe.errors import DataError

Bounds = tuple[float, float]
"""Smallest and largest value of a quantity."""
SHARE: Bounds = (0.0, 1.0)
GAIN: Bounds = (-1.0, 1.0)
"""Bounds of shares and probabilities, and of their differences."""
NOT_NEGATIVE: Bounds = (0.0, float("inf"))
"""Bounds of distances, such as a KL divergence."""
TAILS = 0.025, 0.975
"""Quantiles that enclose 95 %."""
LEVEL = 0.95
"""Default coverage of an interval."""
RESAMPLES = 1000
"""Number of resamples of items or units."""
MEANS_RESAMPLES = 2000
"""Number of resamples for means, which are cheap."""
LARGEST = 2048
"""Largest number of units for which the counts of all resamples are cached: 4 bytes each, 16 MB."""
LEAST = 8
"""Smallest number of units for an interval of a mean without bounds; with fewer lognormal values its coverage is below
90 % (`probe.experiments.interval_coverage`)."""
SMALL = 30
"""Largest number of units for which unseen values of a mean with bounds may lie anywhere within these."""
_CHUNK = 100_000  # values resampled at once: what fits into a processor's cache takes half the time


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval, all in the unit of the data."""

    value: float
    low: float
    high: float

    def row(self, n: int | None = None, name: str = "") -> dict[str, Any]:
        """Return columns of a table: value, ci_low, ci_high, or NAME, NAME_low, NAME_high; and n if given."""
        columns = (name, f"{name}_low", f"{name}_high") if name else ("value", "ci_low", "ci_high")
        return dict(zip(columns, self, strict=True)) | ({} if n is None else {"n": n})

    def format(self, digits: int = 2, unit: str = "") -> str:
        """Format the estimate, such as `0.96 nats [0.94, 0.98]`; without an interval there are no brackets.

        Args:
            digits: number of decimals.
            unit: unit after the estimate.
        """
        ends = (
            ""
            if self.low != self.low or self.high != self.high
            else f" [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        )
        return f"{self.value:.{digits}f}{f' {unit}' if unit else ''}{ends}"


def wilson(k: int, n: int, level: float = 0.95) -> Interval:
    """Return the share `k / n` with Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001).

    Args:
        k: successes, 0 <= k <= n.
        n: trials; without any the share is NaN and the interval is all of [0, 1].
        level: coverage of the interval.

    Raises:
        DataError: `k` is not between 0 and `n`, or `level` is not between 0 and 1.
    """
    z2 = _quantile(level) ** 2
    if not 0 <= k <= n:
        raise DataError(f"A share of {k} in {n} was requested: count successes between 0 and the number of trials.")
    if n == 0:
        return Interval(float("nan"), 0.0, 1.0)
    return Interval(k / n, *_score_ends(k / n, n, z2))


def unvaried_interval(found: Interval, n: float, bounds: Bounds | None = None, level: float = 0.95) -> Interval:
    """Return `found`, or if its bootstrap never varied the interval that is compatible with `n` equal values.

    If n of n items have the value v, other values have a share of at most q = z^2 / (n + z^2), the upper end of
    Wilson's interval for 0 of n (about 4 / n, similar to the rule of three). They lie between the bounds a and b, so
    the mean lies between v - q (v - a) and v + q (b - v). At v = a and at v = b this is Wilson's interval of a share,
    and at 0 between -1 and 1 it is Newcombe's of a difference of two shares that never differed.

    Args:
        found: estimate with quantiles of its resampled values.
        n: number of independent items or units.
        bounds: smallest and largest value of a unit; without them the ends are NaN (unknown).
        level: coverage.
    """
    value, low, high = found
    if not high - low <= 1e-12 * max(1.0, abs(value)):
        return found
    if bounds is None:
        return Interval(value, float("nan"), float("nan"))
    rest = _unseen(n, level)
    return Interval(value, value - rest * (value - bounds[0]), value + rest * (bounds[1] - value))


def beyond(low: ArrayLike, high: ArrayLike, smallest: ArrayLike = 0.0) -> NDArray[np.bool_]:
    """Return whether a whole interval lies beyond the smallest relevant effect, on either side.

    This is a minimum-effect test: if the true effect is not larger than the smallest one, a 95 % interval lies beyond
    it in at most 5 % of cases (Murphy and Myors 1999, J. Applied Psychology 84:234). With 0 it is the test against no
    effect.

    Args:
        low: [N] lower ends; NaN without an interval, which gives False.
        high: [N] upper ends.
        smallest: smallest relevant effect, [N] or one number, 0 or more.
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
    """Return the bounds of a difference of two quantities with these bounds."""
    return None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])


def percentile(
    value: float, drawn: ArrayLike, n: float, bounds: Bounds | None = None, tails: Bounds = TAILS
) -> Interval:
    """Return an estimate with the quantiles of its resampled values, or `unvaried_interval`.

    Args:
        value: estimate.
        drawn: [R] estimates from resamples; those without a value (NaN, infinite) are ignored.
        n: number of independent items or units.
        bounds: see `unvaried_interval`.
        tails: the two quantiles.

    Returns:
        The interval; its ends are NaN if fewer than two resamples have a value.
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
    """Return [R, ...] values of a function for resamples of n items or units, drawn with replacement.

    Args:
        fn: function from indices [r, n] of r resamples to numbers [r, ...].
        n: number of items or units.
        resamples: number of resamples R.
        seed: equal seeds give equal resamples; a generator continues from its state.
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
    resamples: int | None = None,
) -> Interval:
    """Return an estimate with its percentile bootstrap interval over n independent items or units.

    Args:
        value: estimate from all units.
        fn: estimate from resamples, see `resample`.
        n: number of units.
        seed: the same seed gives the same interval.
        bounds: bounds of the estimate, which give an interval if it never varies (`unvaried_interval`).
        resamples: number of resamples R; default `RESAMPLES`.

    Returns:
        The interval; its ends are NaN for fewer than two units, or if fewer than half of the resamples have a value.
    """
    resamples = RESAMPLES if resamples is None else resamples
    draws = resample(fn, n, resamples, seed) if n > 1 else np.empty(0)
    if not len(draws) or np.isfinite(draws).sum() < resamples // 2:
        return Interval(float(value), float("nan"), float("nan"))
    return percentile(value, draws, n, bounds)


def bootstrap_mean(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = MEANS_RESAMPLES,
    seed: int = 0,
    bounds: Bounds | None = None,
    units: ArrayLike | None = None,
) -> Interval:
    """Return the mean of values with its studentised bootstrap interval, see `bootstrap_means`.

    Args:
        values: [N] numbers; items without a value (NaN) must be removed before, so that the caller knows N.
        level: coverage of the interval.
        resamples: number of resamples of units, drawn with replacement.
        seed: the same seed gives the same interval.
        bounds: bounds of a single value, such as 0 and 1, which give an interval for equal values
            (`unvaried_interval`).
        units: [N] names of sampling units, equal for items that share one; by default each item.

    Returns:
        The interval; all NaN without values.

    Raises:
        DataError: `values` is not a list of finite numbers, or `level` is not between 0 and 1.
    """
    return bootstrap_means([values], level, seed, [bounds], units, resamples)[0]


def unit_share(values: ArrayLike, units: ArrayLike, level: float = 0.95) -> Interval:
    """Return the share of ones among items that share units, with Wilson's interval for their effective number.

    The effective number of N items is n = p (1 - p) / V, V being the cluster-robust variance of their mean (Miller
    2024, arXiv 2411.00640); it is at most N, and at most the number of units if fewer than four of them carry the
    variation, measured by (sum z^2)^2 / sum z^4. The quantile is Student's with units - 1 degrees of freedom (Dean and
    Pagano 2015, J. Survey Statistics and Methodology 3:484).

    Args:
        values: [N] zeros and ones.
        units: [N] names of sampling units.
        level: coverage of the interval.
    """
    data = _numbers(values)
    _quantile(level)
    sums, sizes = _by_unit(data[None], units)
    n, share = sums.shape[1], float(data.mean()) if data.size else float("nan")
    if n == len(data):
        return wilson(int(data.sum()), n, level)
    if n < 2:
        return wilson(round(share * n), n, level)
    gaps = sums[0] - share * sizes
    spread = float((gaps**2).sum()) * n / (n - 1) / len(data) ** 2
    worth = min(share * (1 - share) / spread, len(data)) if spread > 0 else n
    carriers = float((gaps**2).sum() ** 2 / (gaps**4).sum()) if spread > 0 else 0.0
    worth = max(1.0, min(worth, n) if carriers < 4 else worth)
    return Interval(share, *_score_ends(share, worth, float(stdtrit(n - 1, (1 + level) / 2)) ** 2))


def group(units: pd.Series) -> list[NDArray[np.intp]]:
    """Return the rows of each unit, units in the order of their first rows."""
    codes = pd.factorize(units)[0]
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def bootstrap_means(
    rows: Sequence[ArrayLike],
    level: float = 0.95,
    seed: int = 0,
    bounds: Sequence[Bounds | None] = (),
    units: ArrayLike | None = None,
    resamples: int = MEANS_RESAMPLES,
) -> list[Interval]:
    """Return the mean of each row with its studentised bootstrap interval; all rows use the same resamples.

    For n units with sums s and sizes m the mean is sum s / sum m; its standard error is the cluster-robust one, from
    the residuals z = s - mean m: se^2 = n / (n - 1) sum z^2 / (sum m)^2. The interval is mean - se q, q being the
    quantiles of (mean* - mean) / se* over resamples (Efron 1982; Hall 1988, Annals of Statistics 16:927), and never
    narrower than Student's t. For skewed values it is asymmetric in the right direction, unlike a percentile interval.
    The number of draws of each unit is counted once, so that the sums of all resamples are matrix products.

    The interval also covers the means that are possible if the largest compatible share of unseen units equals the
    lowest or highest one seen (up to `SMALL` units: the bounds), the argument of `unvaried_interval`: one observed rare
    event is little more information than none. A row without bounds has no interval for fewer than `LEAST` units, or if
    so few units vary (fewer than four) that resamples without variation reach into the tails; with bounds the ends are
    Student's in this case.

    Args:
        rows: k lists of N finite numbers, the same items in each.
        level: coverage of the intervals.
        seed: the same seed gives the same intervals.
        bounds: bounds of the values of each row, or none. An infinite bound only clips the ends, as in `NOT_NEGATIVE`.
        units: [N] names of sampling units, equal for items that share one; by default each item.
        resamples: number of resamples R.

    Raises:
        DataError: a row is not a list of finite numbers, they differ in length, or `level` is not between 0 and 1.
    """
    _quantile(level)
    data = [_numbers(row) for row in rows]
    if len({len(row) for row in data}) > 1:
        raise DataError(
            "Means of the same items were requested, and the rows differ in length: give one value for each item."
        )
    cuts = list(bounds) or [None] * len(data)
    limits = [cut if cut is not None and np.isfinite(cut).all() else None for cut in cuts]
    if not data or data[0].size < 2:
        return [Interval(float(row[0]) if row.size else float("nan"), float("nan"), float("nan")) for row in data]
    table = np.stack(data)
    means = table.mean(axis=1)
    sums, sizes = _by_unit(table - means[:, None], units)  # around the means, so that no digits are lost
    n = sums.shape[1]
    if n < 2:
        return [Interval(float(mean), float("nan"), float("nan")) for mean in means]
    errors = np.sqrt((sums**2).sum(axis=1) * n / (n - 1)) / sizes.sum()
    constant = ~(np.ptp(table, axis=1) > 1e-12 * np.maximum(1, np.abs(means)))
    sums[constant] = 0
    tails = _studentised(sums, sizes, errors, (1 - level) / 2, seed, resamples)
    rest, reach = _unseen(n, level), sums / sizes  # each unit's mean less that of all
    lowest, highest = means + rest * reach.min(axis=1), means + rest * reach.max(axis=1)
    if n <= SMALL:
        seen = zip(lowest, highest, strict=True)
        wide = [unvaried_interval(Interval(m, m, m), n, limit, level) for m, limit in zip(means, limits, strict=True)]
        outer = [pair if limit is None else each[1:] for pair, each, limit in zip(seen, wide, limits, strict=True)]
        lowest, highest = np.array(outer).T
    low = np.minimum(means - tails[1] * errors, lowest)
    high = np.maximum(means - tails[0] * errors, highest)
    least = float(stdtrit(n - 1, (1 + level) / 2)) * errors
    found = []
    for index, (mean, limit) in enumerate(zip(means, limits, strict=True)):
        ends = [float(low[index]), float(high[index])]
        if constant[index]:
            interval = unvaried_interval(Interval(mean, mean, mean), n, limit, level)
        elif limit is None:
            known = n >= LEAST and bool(np.isfinite(ends).all())
            interval = Interval(mean, *ends) if known else Interval(mean, float("nan"), float("nan"))
        else:
            ends[0] = ends[0] if np.isfinite(ends[0]) else min(mean - least[index], lowest[index])
            ends[1] = ends[1] if np.isfinite(ends[1]) else max(mean + least[index], highest[index])
            interval = Interval(mean, *ends)
        found.append(_cut(Interval(*map(float, interval)), cuts[index]))
    return found


def _cut(interval: Interval, bounds: Bounds | None) -> Interval:
    """Clip the ends of intervals to their bounds."""
    if bounds is None:
        return interval
    value, low, high = interval
    return Interval(value, max(low, min(value, bounds[0])), min(high, max(value, bounds[1])))


def _studentised(
    sums: NDArray[np.float64],
    sizes: NDArray[np.float64],
    errors: NDArray[np.float64],
    tail: float,
    seed: int,
    draws: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return [k] lower and [k] upper quantiles of (mean* - mean) / se*, at least as far out as Student's t.

    Args:
        sums: [k n] sums of each unit's residuals.
        sizes: [n] number of items of each unit.
        errors: [k] standard errors of the means.
        tail: share beyond each quantile.
        seed: seed of the resamples.
        draws: number of resamples.
    """
    n, equal, quantities = sums.shape[1], bool((sizes == sizes[0]).all()), []
    for counts in drawn_counts(n, seed, draws):
        totals = np.full(len(counts), sizes.sum()) if equal else counts @ sizes
        shift = sums @ counts.T / totals  # [k r] mean* - mean
        squares = sums**2 @ counts.T
        if equal:
            squares -= n * (shift * sizes[0]) ** 2
        else:
            squares += -2 * shift * ((sums * sizes) @ counts.T) + shift**2 * (counts @ sizes**2)
        quantities.append(_ratio(shift, np.sqrt(np.maximum(squares, 0) * n / (n - 1)) / totals, errors))
    ratios = np.concatenate(quantities, axis=1)
    student = float(stdtrit(n - 1, 1 - tail))
    low = np.quantile(ratios, tail, axis=1, method="lower")
    high = np.quantile(ratios, 1 - tail, axis=1, method="higher")
    return np.minimum(low, -student), np.maximum(high, student)


def _ratio(shift: NDArray[np.float64], spread: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [k r] shift / spread; infinite if a resample has no variance but a different mean."""
    least = 1e-7 * errors[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = shift / np.where(spread > least, spread, 0)
    return np.where(np.isnan(ratio) | (np.abs(shift) <= least), 0.0, ratio)


def _unseen(n: float, level: float) -> float:
    """Return the largest compatible share of unseen values: the upper end of Wilson's interval for 0 of n."""
    return _quantile(level) ** 2 / (n + _quantile(level) ** 2)


def _by_unit(table: NDArray[np.float64], units: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ([k n] sums, [n] sizes) of the units of k rows of items."""
    if units is None:
        return table.copy(), np.ones(table.shape[1])
    codes = pd.factorize(np.asarray(units, dtype=object))[0]
    sizes = np.bincount(codes).astype(float)
    return np.stack([np.bincount(codes, row, len(sizes)) for row in table]), sizes


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    level: float = 0.95,
    seed: int = 0,
    bounds: Bounds | None = None,
    units: ArrayLike | None = None,
) -> Interval:
    """Return mean(a) - mean(b) of two models on the same items, with the paired bootstrap interval.

    Pairs are resampled together.

    Args:
        a: [N] values of the first model.
        b: [N] values of the second model, item by item.
        level: coverage of the interval.
        seed: the same seed gives the same interval.
        bounds: bounds of a single value of either model, see `bootstrap_mean`.
        units: [N] names of sampling units, see `bootstrap_mean`.

    Raises:
        DataError: the lists differ in length or contain something other than finite numbers.
    """
    first, second = _pairs(a, b)
    return bootstrap_mean(first - second, level, MEANS_RESAMPLES, seed, difference_bounds(bounds), units)


def paired_proportions(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Return share(a) - share(b) of yes/no answers to the same items, with Newcombe's interval.

    This is the square-and-add Wilson interval for paired shares (Newcombe 1998, Statistics in Medicine 17:2635, method
    10, whose continuity-corrected phi is used here). Unlike the bootstrap it keeps its width when the two models agree
    on every item.

    Args:
        a: [N] zeros and ones (or booleans) of the first model.
        b: [N] the same for the second model, item by item.
        level: coverage of the interval.

    Raises:
        DataError: the lists differ in length or contain something other than zeros and ones.
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
    """Return a column of items as [N] numbers.

    Raises:
        DataError: a row has no number, an infinite one, or a text, even one that looks like a number.
    """
    try:
        if rows[column].map(lambda value: isinstance(value, str)).any():
            raise TypeError
        values = rows[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"The column `{column}` of the items is not a number in some row: give numbers.") from None
    if not np.isfinite(values).all():
        raise DataError(f"The column `{column}` of the items is infinite in some row: give finite numbers, or none.")
    return values


def _score_ends(share: float, n: float, z2: float) -> Bounds:
    """Return the ends of Wilson's interval, from the squared quantile."""
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return (0.0 if share == 0 else float(centre - half)), (1.0 if share == 1 else float(centre + half))


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(f"A confidence level of {level} was requested: give a number between 0 and 1, such as 0.95.")
    return float(ndtri((1 + level) / 2))


def _numbers(values: ArrayLike) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=float)
    if data.ndim != 1 or not np.isfinite(data).all():
        raise DataError(
            f"Statistics need one flat list of finite numbers, and got an array of shape {data.shape}"
            f" with {int((~np.isfinite(data)).sum())} values that are not finite: remove those first."
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
    """Count the items that are right for both, only a, only b, and neither."""
    first, second = _pairs(a, b)
    if not (np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()):
        raise DataError("Paired shares need zeros and ones: use `paired_difference` for other numbers.")
    x, y = first == 1, second == 1
    return int((x & y).sum()), int((x & ~y).sum()), int((~x & y).sum()), int((~x & ~y).sum())


def drawn_counts(size: int, seed: int, resamples: int) -> Iterable[NDArray[np.float32]]:
    """Yield blocks [r n] of counts of n units in each resample, equal to those of `resample` with the same seed.

    Args:
        size: number of units n.
        seed: seed of the resamples.
        resamples: total number of resamples in all blocks.
    """
    if size <= LARGEST and resamples == MEANS_RESAMPLES:
        yield _counts(size, seed)
        return
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // size)
    for start in range(0, resamples, rows):
        yield _count(rng, min(rows, resamples - start), size)


@lru_cache(maxsize=4)
def _counts(size: int, seed: int) -> NDArray[np.float32]:
    return _count(np.random.default_rng(seed), MEANS_RESAMPLES, size)


def _count(rng: np.random.Generator, resamples: int, size: int) -> NDArray[np.float32]:
    indices = rng.integers(0, size, (resamples, size))
    indices += size * np.arange(resamples)[:, None]
    return np.bincount(indices.ravel(), minlength=resamples * size).reshape(resamples, size).astype(np.float32)
