"""Levels of a metric over stretches of steps, with intervals, and the step at which a metric left its first level.

Consecutive values of a training depend on each other, and single steps are outliers. A level is therefore the mean of
the medians of up to `BLOCKS` consecutive blocks, and its interval is Student's t over these (batch means, Law and
Carson 1979, Operations Research 27:1011).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from probe.diagnosis.run_reading import Series
from probe.stats import Interval

BLOCKS = 10
"""Largest number of blocks whose medians make a level."""
FIRST = 0.05
"""Share of a run that is its beginning, with which later values are compared: short, as many change fast at first."""
LAST = 0.25
"""Share of a run that is its end."""
FEWEST = 3
"""Fewest values of a beginning or an end."""
OUTSIDE = 4
"""Values that must fulfil a condition for each one that does not: four of five make a stretch."""
SHORTEST = 0.05
"""Share of a run below which a stretch is chance."""
BEGUN = 0.25
"""Share of the way to its later level after which a metric has left the earlier one. Half would be late for a metric
that changes slowly, less would be early for one that moves a little in every sound run.
"""


UNDONE = 0.5
"""Share of what a metric had gained whose loss undoes the training."""


def level(values: NDArray[np.float64], noise: float = 0.0) -> Interval:
    """Return the level of values with its 95 % interval; the ends are NaN for one value of unknown noise.

    Args:
        values: [N] consecutive values of a metric.
        noise: standard deviation of a value (`noise_of`), from which the interval of fewer than `BLOCKS` values
            follows; 0 if unknown.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    blocks = np.array([np.median(each) for each in np.array_split(values, min(BLOCKS, len(values)))])
    value, n = float(blocks.mean()), len(blocks)
    if noise > 0 and n < BLOCKS:
        half = 1.96 * noise / n**0.5
        return Interval(value, value - half, value + half)
    if n < 2:
        return Interval(value, float("nan"), float("nan"))
    half = float(stdtrit(n - 1, 0.975)) * float(blocks.std(ddof=1)) / n**0.5
    return Interval(value, value - half, value + half)


def noise_of(series: Series) -> float:
    """Return the standard deviation of single values around the course of a series, from its differences."""
    steps = np.diff(series.values)
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / 2**0.5 if len(steps) > 2 else 0.0


def beginning(series: Series) -> Series:
    """Return the beginning of a series, at least `FEWEST` values; if step 0 was measured, that value alone."""
    if len(series) and series.steps[0] == 0:
        return series.part(0, 1)
    return series.part(0, max(FEWEST, int(FIRST * len(series))))


def end(series: Series) -> Series:
    """Return the last quarter of a series, at least `FEWEST` values."""
    return series.part(-max(FEWEST, int(LAST * len(series))))


def stretch(holds: NDArray[np.bool_], least: int = FEWEST) -> slice | None:
    """Return the stretch in which a condition holds for four of five values, or None.

    It is the stretch with the largest sum where a value that fulfils the condition counts 1 and another one -`OUTSIDE`
    (Kadane's algorithm). It has at least `least` values and a share `SHORTEST` of all.

    Args:
        holds: [N] whether each value fulfils the condition.
        least: fewest values that fulfil it.
    """
    best, total, start, found = 0, 0, 0, slice(0, 0)
    for at, fulfilled in enumerate(holds.tolist()):
        if total <= 0:
            total, start = 0, at
        total += 1 if fulfilled else -OUTSIDE
        if total > best:
            best, found = total, slice(start, at + 1)
    return found if best >= max(least, SHORTEST * len(holds)) else None


def onset(series: Series, before: float, after: float) -> int:
    """Return the place from which on a metric has made a share `BEGUN` of its way from one level to another.

    Args:
        series: metric by step.
        before: level at the beginning.
        after: level in the end.
    """
    way = (series.values - before) * np.sign(after - before)
    found = stretch(way > BEGUN * abs(after - before), least=2)
    return found.start if found is not None else max(0, len(series) - len(end(series)))


def is_below(low: Interval, high: Interval) -> bool:
    """Return whether one interval lies entirely below another; an unknown interval does not."""
    return low.high < high.low


def falls(series: Series, least: float) -> "Shift | None":
    """Return how far a metric ends below its beginning, if that is at least `least` and beyond chance.

    Args:
        series: metric by step.
        least: smallest fall that counts, in the unit of the metric.
    """
    noise = noise_of(series)
    before, after = level(beginning(series).values, noise), level(end(series).values, noise)
    if not before.value - after.value >= least or not is_below(after, before):
        return None
    start = onset(series, before.value, after.value)
    return Shift(int(series.steps[start]), before, level(series.part(start).values, noise))


def dips(series: Series, least: float) -> "tuple[Shift, slice] | None":
    """Return the stretch, a fifth of a run or longer, in which a metric stands below its beginning, by `least` or more.

    Args:
        series: metric by step.
        least: smallest fall that counts, in the unit of the metric.
    """
    noise = noise_of(series)
    before = level(beginning(series).values, noise)
    found = stretch(series.values < before.value - least, least=max(FEWEST, len(series) // 5))
    if found is None:
        return None
    during = level(series.values[found], noise)
    return (Shift(int(series.steps[found.start]), before, during), found) if is_below(during, before) else None


def best(series: Series) -> slice:
    """Return where the quarter of a series with the highest mean stands."""
    size = max(1, int(LAST * len(series)))
    means = np.convolve(series.values, np.ones(size) / size, "valid")
    return slice(int(np.argmax(means)), int(np.argmax(means)) + size)


def turns(series: Series, least: float) -> "Shift | None":
    """Return how far a metric that had risen ends below its best quarter, if half of the rise or more is lost.

    Args:
        series: metric by step.
        least: smallest fall that counts, in the unit of the metric.
    """
    noise, place = noise_of(series), best(series)
    first, last = level(beginning(series).values, noise), level(end(series).values, noise)
    highest = level(series.values[place], noise)
    gain, fall = highest.value - first.value, highest.value - last.value
    if not (gain > _chance(first, highest) and fall > _chance(last, highest) and fall >= max(least, UNDONE * gain)):
        return None
    start = place.start + onset(series.part(place.start), highest.value, last.value)
    return Shift(int(series.steps[start]), highest, level(series.part(start).values, noise))


def _chance(one: Interval, other: Interval) -> float:
    """Return half the 95 % interval of the difference of two levels; infinite if one is unknown."""
    half = float(np.hypot(one.high - one.low, other.high - other.low)) / 2
    return half if np.isfinite(half) else float("inf")


def rises(series: Series, least: float) -> "Shift | None":
    """Return how far a metric ends above its beginning; see `falls`."""
    found = falls(Series(series.metric, series.steps, -series.values), least)
    return None if found is None else Shift(found.step, negative(found.before), negative(found.after))


class Shift(NamedTuple):
    """Lasting change of a metric."""

    step: int
    """Step at which it began."""
    before: Interval
    """Level at the beginning of the run."""
    after: Interval
    """Level since then."""


def negative(interval: Interval) -> Interval:
    """Return the interval of the negative quantity."""
    return Interval(-interval.value, -interval.high, -interval.low)
