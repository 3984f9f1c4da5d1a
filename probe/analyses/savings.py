"""Savings: how much faster a model learns again what it has forgotten (Ebbinghaus 1885).

    savings = (first - again) / first

with `first` and `again` the steps that it took to a target accuracy, the first time and after the forgetting, by the
same method on the same examples. 1: nothing had been lost; 0: it might as well never have been learned; below 0:
learning has become harder. Steps between two measurements are read off the straight line that joins them. An accuracy
that never reaches the target counts as reached at the last step, so the savings are then a bound: `reached` tells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from probe.errors import DataError
from probe.stats import Interval, unvaried

Array = NDArray[np.float64]
RESAMPLES = 1000


class Savings(NamedTuple):
    """What relearning took."""

    first: Interval
    """Steps to the target when it was learned first."""
    again: Interval
    """Steps to the target after the forgetting."""
    savings: Interval
    """The share of the steps that was saved."""
    reached: bool
    """Whether both curves came to the target; otherwise the last step stands in for what is missing."""


def steps_to(steps: ArrayLike, accuracy: Float[Array, "*b S"], target: float) -> Float[Array, "*b"]:
    """The step at which an accuracy first reaches the target; infinity where it never does.

    Args:
        steps: [S] steps at which it was measured, rising.
        accuracy: [..., S] what was measured.
        target: the accuracy to reach.

    Raises:
        DataError: the steps do not rise, or there is not one accuracy for each.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(accuracy, dtype=float)
    if at.ndim != 1 or values.shape[-1:] != at.shape or (np.diff(at) <= 0).any():
        raise DataError(f"Accuracies of shape {values.shape} were given at {at.size} steps: give one at each, rising.")
    above = values >= target
    index = above.argmax(-1)
    before = np.maximum(index - 1, 0)
    high = np.take_along_axis(values, index[..., None], -1)[..., 0]
    low = np.take_along_axis(values, before[..., None], -1)[..., 0]
    share = np.where(index > 0, (target - low) / np.where(high > low, high - low, 1.0), 0.0)
    found = at[before] + share * (at[index] - at[before])
    return np.where(above.any(-1), found, np.inf)


def savings(
    steps: Sequence[int], first: Float[Array, "S N"], again: Float[Array, "S N"], target: float, seed: int = 0
) -> Savings:
    """Savings with a bootstrap over the items, which are the same in both learnings.

    Args:
        steps: [S] steps at which both were measured, from 0.
        first: scores of the N items when it was learned first.
        again: the same when it was learned again.
        target: the mean score to reach.
        seed: of the bootstrap.

    Raises:
        DataError: the shapes differ.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(again, dtype=float)
    if a.shape != b.shape or a.ndim != 2 or not a.shape[1]:
        raise DataError(f"Scores of the shapes {a.shape} and {b.shape} were given: measure the same items both times.")
    n = a.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n
    reached, found = True, []
    for scores in (a, b):
        exact, drawn = steps_to(steps, scores.mean(1), target), steps_to(steps, draws @ scores.T, target)
        reached &= bool(np.isfinite(exact))
        found.append((np.minimum(exact, steps[-1]), np.minimum(drawn, steps[-1])))
    (one, ones), (two, twos) = found
    share = _interval(float(_share(one, two)), _share(ones, twos))
    return Savings(_interval(float(one), ones), _interval(float(two), twos), share, reached)


def _share(first: Array, again: Array) -> Array:
    """(first - again) / first, NaN where nothing had to be learned first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(first > 0, (first - again) / first, np.nan)


def _interval(value: float, drawn: Array) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    return unvaried(Interval(value, float(low), float(high)), len(known))
