"""Student's t intervals over trainings: for the mean of a few seeds and for the difference of two methods.

The sampling unit is a training: the spread of the seeds' means includes the effect of the seed and the noise of each
seed's answers. With k trainings the interval has k - 1 degrees of freedom (Student 1908). `probe.seeds.coverage`
simulates its coverage.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from probe.errors import DataError
from probe.numbers import in_unit, shown_ends

UNKNOWN = "One seed: nothing is known of other trainings."
"""Message for a group with one training."""
WIDEST = {3: 0.970, 4: 0.850, 5: 0.740, 6: 0.660, 7: 0.600, 8: 0.550, 9: 0.515, 10: 0.485}
"""Largest share of the range for one gap, by number of trainings (10 for more than 10); two are never called apart."""


def are_apart(values: ArrayLike, noise: float) -> bool:
    """Return whether some trainings ended far from the others, so that a mean with interval describes neither.

    They did if the widest gap between two neighbours takes a larger share of the range than in 95 % of samples of as
    many normal values (`WIDEST`, by simulation), and is wider than `noise`, the effect of sampling other answers.
    `probe.seeds.coverage` simulates the rate of false alarms (seeds that do not collapse) and that of missed collapses.

    Args:
        values: [k] one number per training; NaN is left out.
        noise: width of one training's interval over its answers; NaN (unknown) counts as 0.
    """
    found = np.sort(np.asarray(values, dtype=float))
    found = found[np.isfinite(found)]
    if len(found) < min(WIDEST):
        return False
    gap, span = float(np.diff(found).max()), float(found[-1] - found[0])
    least = 0.0 if math.isnan(noise) else noise
    return gap > max(least, WIDEST[min(len(found), max(WIDEST))] * span, 1e-12)


class _Mean(NamedTuple):
    """The four numbers of `OverTrainings`."""

    value: float
    low: float
    high: float
    trainings: int
    """Number of trainings, or of pairs of trainings."""


class OverTrainings(_Mean):
    """A mean over trainings with the ends of its 95 % interval, in the unit of the data."""

    apart: tuple[float, ...] = ()
    """Value of each training if some ended far from the others; there is no interval then."""

    @classmethod
    def listed(cls, values: Sequence[float]) -> "OverTrainings":
        """Return the mean of trainings that are apart, with their values and without an interval."""
        mean = cls(float(np.mean(values)), math.nan, math.nan, len(values))
        mean.apart = tuple(map(float, values))
        return mean

    def format(self, unit: str = "", *, sign: bool = False) -> str:
        """Format the mean in its unit (`probe.numbers.in_unit`), with the ends of rates clipped to 0 and 100 %.

        Trainings that are apart are listed: `0.25 %, 94 %, 100 % (seeds apart)`.
        """
        if self.apart:
            shown = (in_unit(unit, each, math.nan, math.nan, sign=sign) for each in self.apart)
            return f"{', '.join(shown)} (seeds apart)"
        low, high = shown_ends(unit, self.low, self.high)
        return in_unit(unit, self.value, low, high, sign=sign)

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> "OverTrainings":
        """Read the mean from a row of a table with the columns of `probe.seeds.group_tables.FIGURES`."""
        apart = row.get("apart")
        if isinstance(apart, str) and apart:
            with suppress(ValueError):  # a user's table
                return cls.listed([float(value) for value in apart.split()])
        return cls(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]), int(row["n"]))


def mean_over_trainings(values: ArrayLike, level: float = 0.95, noise: float = math.inf) -> OverTrainings:
    """Return the mean of independent trainings' values with its t interval.

    Args:
        values: [k] one number per training; NaN is left out.
        level: coverage of the interval.
        noise: width of an interval over answers, needed to detect trainings that are apart (`are_apart`); by default
            none are.

    Returns:
        The mean; the ends are NaN for fewer than two trainings, for equal values (the variance is unknown), and for
        trainings that are apart.

    Raises:
        DataError: the values are not a flat list, or the level is not between 0 and 1.
    """
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or not 0 < level < 1:
        raise DataError(
            f"Values of the shape {found.shape} and a level of {level} were given: give one number a training, and a"
            " level between 0 and 1."
        )
    found = found[np.isfinite(found)]
    if not len(found):
        return OverTrainings(math.nan, math.nan, math.nan, 0)
    if are_apart(found, noise):
        return OverTrainings.listed(list(found))
    value, half = float(found.mean()), float(half_widths(found, level))
    return OverTrainings(value, value - half, value + half, len(found))


def half_widths(values: NDArray[np.float64], level: float = 0.95) -> NDArray[np.float64]:
    """Return half widths [...] of the t intervals of means over the first axis; NaN where the values do not vary.

    Args:
        values: [k, ...] numbers of k independent trainings.
        level: coverage of the intervals.
    """
    k = len(values)
    if k < 2:
        return np.full(values.shape[1:], np.nan)
    spread = values.std(axis=0, ddof=1)
    spread = np.where(spread > 1e-12 * np.maximum(1, np.abs(values.mean(axis=0))), spread, np.nan)
    return np.asarray(stdtrit(k - 1, (1 + level) / 2) * spread / math.sqrt(k))


def paired_by_seed(first: ArrayLike, second: ArrayLike, level: float = 0.95, noise: float = math.inf) -> OverTrainings:
    """Return the mean of first - second with its t interval, both methods trained from the same bases or seeds.

    Args:
        first: [k] one number per training.
        second: [k] the other method's numbers, in the same order of bases or seeds.
        level: coverage of the interval.
        noise: see `mean_over_trainings`.

    Raises:
        DataError: the two have different lengths.
    """
    ours, theirs = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if ours.shape != theirs.shape:
        raise DataError(f"{ours.size} and {theirs.size} trainings cannot be paired: give one of each for every base.")
    return mean_over_trainings(ours - theirs, level, noise)


def unpaired_by_seed(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> OverTrainings:
    """Return the difference of means over independent trainings, with Welch's interval (Welch 1947).

    Args:
        first: [k] one number per training.
        second: [l] the other method's numbers.
        level: coverage of the interval.

    Returns:
        The difference; the ends are NaN if one side has fewer than two trainings or no variance; `trainings` is the
        smaller number.
    """
    sides = [each[np.isfinite(each)] for each in (np.asarray(values, dtype=float) for values in (first, second))]
    count = min(map(len, sides))
    gap = float(sides[0].mean() - sides[1].mean()) if count else math.nan
    parts = [float(each.var(ddof=1)) / len(each) if len(each) > 1 else math.nan for each in sides]
    if not sum(parts) > 1e-24:
        return OverTrainings(gap, math.nan, math.nan, count)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(each) - 1) for part, each in zip(parts, sides, strict=True))
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(sum(parts))
    return OverTrainings(gap, gap - half, gap + half, count)


def by_unit(values: Iterable[float], units: Sequence[str]) -> NDArray[np.float64]:
    """Return [k] one number per independent training: the mean of the members that come from it.

    Args:
        values: one number per member, NaN if missing.
        units: the members' independent trainings (`Group.units`).
    """
    sums: dict[str, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        sums.setdefault(unit, []).extend([value] if math.isfinite(value) else [])
    return np.array([float(np.mean(each)) if each else math.nan for each in sums.values()])
