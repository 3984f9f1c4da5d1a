"""Levels of a metric over stretches of steps, with intervals, and the step at which a metric left its first level.

Consecutive values of a training depend on each other, and single steps are outliers. A level is therefore the mean of
the medians of up to `BLOCKS` consecutive blocks, and its interval is Student's t over these (batch means, Law and
Carson 1979, Operations Research 27:1011).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from probe.diagnosis.run_reading import Series
from probe.stats import Interval

BLOCKS = 10
"""Largest number of blocks whose medians make a level."""
FIRST = 0.1
"""Share of a run that is its beginning, with which later values are compared."""
LAST = 0.25
"""Share of a run that is its end."""
FEWEST = 3
"""Fewest values of a beginning or an end."""
OUTSIDE = 4
"""Values that must fulfil a condition for each one that does not: four of five make a stretch."""
SHORTEST = 0.05
"""Share of a run below which a stretch is chance."""
NOISE = 4.0
"""Median absolute deviations from the median of the beginning within which later values are noise: in normal noise a
share of 0.7 % lies beyond.
"""


def level(values: NDArray[np.float64]) -> Interval:
    """Return the level of values with its 95 % interval; the ends are NaN for fewer than two values."""
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    blocks = np.array([np.median(each) for each in np.array_split(values, min(BLOCKS, len(values)))])
    value, n = float(blocks.mean()), len(blocks)
    if n < 2:
        return Interval(value, float("nan"), float("nan"))
    half = float(stdtrit(n - 1, 0.975)) * float(blocks.std(ddof=1)) / n**0.5
    return Interval(value, value - half, value + half)


def beginning(series: Series) -> Series:
    """Return the first tenth of a series, at least `FEWEST` values."""
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


def onset(series: Series, crossed: int) -> int:
    """Return the step at which a series left the noise of its beginning, before it crossed a threshold.

    Args:
        series: metric by step.
        crossed: place of the first value beyond the threshold.
    """
    first = beginning(series).values
    centre = float(np.median(first))
    spread = NOISE * float(np.median(np.abs(first - centre)))
    inside = np.flatnonzero(np.abs(series.values[:crossed] - centre) <= spread)
    return int(series.steps[min(inside[-1] + 1, crossed) if len(inside) else 0])


def is_below(low: Interval, high: Interval) -> bool:
    """Return whether one interval lies entirely below another; an unknown interval does not."""
    return low.high < high.low
