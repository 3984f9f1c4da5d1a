"""Measures of continual learning (E22): accuracy, transfer and forgetting over phases, and savings in relearning.

R [T+1, T]: R[i, j] is the accuracy on the task of phase j + 1 after phase i, and row 0 the one before training. All
functions of R accept leading axes, so that resampled matrices are processed at once.

    ACC = mean_j R[T, j]                                        Lopez-Paz and Ranzato 2017 (arXiv 1706.08840)
    BWT = mean_{j < T} (R[T, j] - R[j, j])                      the same
    FWT = mean_{j > 1} (R[j - 1, j] - R[0, j])                  the same, with the base in place of random weights
    forgetting = mean_{j < T} (max_{l < T} R[l, j] - R[T, j])   Chaudhry et al. 2018 (arXiv 1801.10112)

with phases counted from 1. The maximum is over the rows before the last, including row 0.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from probe import stats
from probe.errors import DataError
from probe.stats import GAIN, SHARE, Interval

Matrix = NDArray[np.float64]
Scores = Sequence[NDArray[np.floating] | NDArray[np.bool_]]
"""One array [rows, items] per task: scores (0 to 1) of its items after each phase; row 0 is before training."""
RESAMPLES = 2000


def average_accuracy(R: Float[np.ndarray, "*b T+1 T"]) -> Float[np.ndarray, "*b"]:
    """Compute ACC, the mean accuracy on all tasks after the last phase."""
    return R[..., -1, :].mean(-1)


def backward_transfer(R: Float[np.ndarray, "*b T+1 T"]) -> Float[np.ndarray, "*b"]:
    """Compute BWT, the effect of later phases on the accuracy on a task; below 0 is forgetting; NaN for one phase."""
    own = np.diagonal(R[..., 1:, :], axis1=-2, axis2=-1)
    return _mean((R[..., -1, :] - own)[..., :-1])


def forward_transfer(R: Float[np.ndarray, "*b T+1 T"]) -> Float[np.ndarray, "*b"]:
    """Compute FWT, the effect of earlier phases on the accuracy on a task; NaN for a single phase."""
    before = np.diagonal(R[..., 1:-1, 1:], axis1=-2, axis2=-1)
    return _mean(before - R[..., 0, 1:])


def forgetting(R: Float[np.ndarray, "*b T+1 T"]) -> Float[np.ndarray, "*b"]:
    """Compute the mean drop of the tasks before the last from their best accuracy; NaN for a single phase."""
    return _mean((R[..., :-1, :].max(-2) - R[..., -1, :])[..., :-1])


def old_forgetting(old: Float[np.ndarray, "*b T+1"]) -> Float[np.ndarray, "*b"]:
    """Compute the drop of the accuracy on the base's knowledge from its best, given the accuracy after each phase."""
    return old[..., :-1].max(-1) - old[..., -1]


BOUNDS = {"ACC": SHARE, "BWT": GAIN, "FWT": GAIN, "forgetting": GAIN, "old_accuracy": SHARE, "old_forgetting": GAIN}
"""Lowest and highest possible value of each measure."""
MEASURES: dict[str, Callable[[Matrix], Matrix]] = {
    "ACC": average_accuracy,
    "BWT": backward_transfer,
    "FWT": forward_transfer,
    "forgetting": forgetting,
}


def accuracy_matrix(scores: Scores) -> Float[np.ndarray, "T+1 T"]:
    """Compute R from the scores of the items.

    Raises:
        DataError: a task has no items, or tasks have different numbers of rows.
    """
    check(scores)
    return np.stack([np.asarray(task, dtype=float).mean(1) for task in scores], axis=1)


def cells(
    names: Sequence[str], scores: Scores, seed: int = 0, units: Sequence[ArrayLike | None] = ()
) -> list[dict[str, Any]]:
    """Return R as rows `after` (0: before training), `task`, `value`, `ci_low`, `ci_high`, `n`.

    Binary scores of independent items get Wilson's interval, others the bootstrap's. There may be further tasks in
    addition to those of the phases.

    Args:
        names: names of the tasks.
        scores: [rows, items] scores of each task.
        seed: seed of the bootstrap.
        units: [items] sampling units of each task, equal for items that share one; by default each item.
    """
    rows = []
    for name, task, unit in zip(names, scores, units or [None] * len(names), strict=True):
        for after, row in enumerate(np.asarray(task, dtype=float)):
            if unit is None and np.isin(row, (0.0, 1.0)).all():
                interval = stats.wilson(int(row.sum()), len(row))
            else:
                interval = stats.bootstrap_mean(row, seed=seed, bounds=SHARE, units=unit)
            rows.append({"after": after, "task": name, **interval.row(len(row))})
    return sorted(rows, key=lambda row: row["after"])


def summary(
    scores: Scores,
    old: NDArray[np.floating] | NDArray[np.bool_] | None = None,
    seed: int = 0,
    units: Sequence[ArrayLike | None] = (),
) -> list[dict[str, Any]]:
    """Compute ACC, BWT, FWT, forgetting and, with `old`, `old_accuracy` and `old_forgetting`.

    The rows have `metric`, `value`, `ci_low`, `ci_high`, `n`. The interval is the percentile bootstrap over the
    units of the items; an item is drawn together with its scores after all phases, since the same questions are asked
    each time. Measures that need two phases are left out if there is only one.

    Args:
        scores: scores of the phases' tasks, in their order.
        old: [rows, items] scores on the base's knowledge.
        seed: seed of the bootstrap.
        units: see `cells`; those of the base's knowledge are the last.
    """
    check(scores)
    rng = np.random.default_rng(seed)
    own, of_old = units[: len(scores)] or [None] * len(scores), units[-1] if units else None
    drawn = [_resample(task, rng, unit) for task, unit in zip(scores, own, strict=True)]
    draws, alone = np.stack([means for means, _ in drawn], axis=-1), sum(n for _, n in drawn)
    R, n = accuracy_matrix(scores), sum(np.shape(task)[1] for task in scores)
    rows = [_row(name, float(measure(R)), measure(draws), n, alone) for name, measure in MEASURES.items()]
    if old is not None:
        values, n = np.asarray(old, dtype=float).mean(1), np.shape(old)[1]
        samples, alone = _resample(old, rng, of_old)
        rows.append(_row("old_accuracy", float(values[-1]), samples[:, -1], n, alone))
        rows.append(_row("old_forgetting", float(old_forgetting(values)), old_forgetting(samples), n, alone))
    return [row for row in rows if not np.isnan(row["value"])]


def check(scores: Scores) -> None:
    """Raise a DataError unless every task has items, and all have one more row than there are tasks."""
    shapes = [np.shape(task) for task in scores]
    if not shapes or any(len(s) != 2 or s[0] != len(shapes) + 1 or s[1] < 1 for s in shapes):
        raise DataError(
            f"The scores of {len(shapes)} tasks have the shapes {shapes}; expected one row before training and one"
            " after each phase, with a column for each item of the task."
        )


def _mean(values: Matrix) -> Matrix:
    """Return the mean over the last axis, NaN if it is empty."""
    return values.mean(-1) if values.shape[-1] else np.full(values.shape[:-1], np.nan)


def _resample(task: Any, rng: np.random.Generator, units: ArrayLike | None) -> tuple[Matrix, int]:
    """Return the mean scores [B, rows] of a task for resampled units, and how many units there are."""
    values = np.asarray(task, dtype=float)
    draws, n = _drawn(values.shape[1], rng, units, RESAMPLES)
    return draws @ values.T, n


def _drawn(items: int, rng: np.random.Generator, units: ArrayLike | None, resamples: int) -> tuple[Matrix, int]:
    """Return the weights [B, items] of the items when their units are drawn with replacement, and how many units."""
    of_item = np.arange(items) if units is None else np.unique(np.asarray(units), return_inverse=True)[1]
    n = int(of_item.max()) + 1
    counts = rng.multinomial(n, np.full(n, 1 / n), resamples)[:, of_item]
    return counts / counts.sum(1, keepdims=True), n


def _row(metric: str, value: float, samples: Matrix, n: int, units: int) -> dict[str, Any]:
    return {"metric": metric, **stats.percentile(value, samples, units, BOUNDS[metric]).row(n)}


def matrix(rows: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Float[np.ndarray, "T+1 T"]:
    """Return R of the named tasks from rows as `cells` gives them."""
    values = {(int(row["after"]), row["task"]): float(row["value"]) for row in rows}
    last = max((after for after, _ in values), default=-1)
    return np.array([[values[after, task] for task in tasks] for after in range(last + 1)])


Array = NDArray[np.float64]
CURVE_RESAMPLES = 1000


class Savings(NamedTuple):
    """Steps of learning and relearning, and the savings."""

    first: Interval
    """Number of steps to the target in the first learning."""
    again: Interval
    """Number of steps to the target in relearning."""
    savings: Interval
    """Share of the steps that was saved."""
    reached: bool
    """Whether both curves reached the target; a missing crossing counts as the last step."""


def steps_to(steps: ArrayLike, accuracy: Float[np.ndarray, "*b S"], target: float) -> Float[np.ndarray, "*b"]:
    """Return the step at which an accuracy first reaches the target; infinity if it never does.

    Args:
        steps: [S] steps of the measurements, ascending.
        accuracy: [..., S] measured accuracies.
        target: accuracy to reach.

    Raises:
        DataError: the steps do not ascend, or there is not one accuracy per step.
    """
    at, values = np.asarray(steps, dtype=float), np.asarray(accuracy, dtype=float)
    if at.ndim != 1 or values.shape[-1:] != at.shape or (np.diff(at) <= 0).any():
        raise DataError(
            f"The accuracies have the shape {values.shape} for {at.size} steps; expected one for each step, and"
            " rising steps."
        )
    hits = values >= target
    index = hits.argmax(-1)
    before = np.maximum(index - 1, 0)
    high = np.take_along_axis(values, index[..., None], -1)[..., 0]
    low = np.take_along_axis(values, before[..., None], -1)[..., 0]
    share = np.where(index > 0, (target - low) / np.where(high > low, high - low, 1.0), 0.0)
    crossing = at[before] + share * (at[index] - at[before])
    return np.where(hits.any(-1), crossing, np.inf)


def savings(
    steps: Sequence[int],
    first: Float[np.ndarray, "S N"],
    again: Float[np.ndarray, "S N"],
    target: float,
    seed: int = 0,
    units: ArrayLike | None = None,
) -> Savings:
    """Compute the savings (first - again) / first in relearning something forgotten (Ebbinghaus 1885).

    Here `first` and `again` are the numbers of steps to the target accuracy, the first time and after forgetting, with
    the same method and examples. 1 means that nothing was lost, 0 that relearning takes as long as learning, and below
    0 that learning has become harder. Steps between two measurements are interpolated linearly. A curve that never
    reaches the target counts as reaching it at the last step; the savings are then a bound (`Savings.reached`). The
    interval is the bootstrap over the units of the items, which are the same in both curves.

    Args:
        steps: [S] steps of both measurements, from 0.
        first: scores of the N items during the first learning.
        again: scores of the same items during relearning.
        target: mean score to reach.
        seed: seed of the bootstrap.
        units: [N] sampling units, equal for items that share one; by default each item.

    Raises:
        DataError: the shapes differ.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(again, dtype=float)
    if a.shape != b.shape or a.ndim != 2 or not a.shape[1]:
        raise DataError(f"The scores have the shapes {a.shape} and {b.shape}: measure the same items both times.")
    draws, n = _drawn(a.shape[1], np.random.default_rng(seed), units, CURVE_RESAMPLES)
    complete, results = True, []
    for scores in (a, b):
        exact, samples = steps_to(steps, scores.mean(1), target), steps_to(steps, draws @ scores.T, target)
        complete &= bool(np.isfinite(exact))
        results.append((np.minimum(exact, steps[-1]), np.minimum(samples, steps[-1])))
    (one, ones), (two, twos) = results
    shares = np.where(one > 0, _share(ones, twos), np.nan)
    share = stats.percentile(float(_share(one, two)), shares, n)
    return Savings(stats.percentile(float(one), ones, n), stats.percentile(float(two), twos, n), share, complete)


def _share(first: Array, again: Array) -> Array:
    """Compute (first - again) / first; NaN if first is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(first > 0, (first - again) / first, np.nan)
