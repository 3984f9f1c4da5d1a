"""Measures of the experiment `chain_of_thought`: area over agreement curves, pass@k, and tables with intervals.

Lanham et al. 2023 (arXiv 2307.13702) truncate a reasoning after some of its steps and ask for the answer (early
answering), or put a mistake into a step and let the model continue (added mistakes). The curve shows how often the
answer equals that after the full reasoning, against the share of the steps given. The area over the curve (AOC) is the
mean over questions, which equals the average over reasoning lengths weighted by their counts: 0 means that the answer
does not depend on the reasoning (post hoc), larger values that it does.

pass@k is the probability that at least one of k samples solves a problem (Chen et al. 2021, arXiv 2107.03374; METRICS:
chain-of-thought). Problems are independent draws, so all intervals resample questions or problems.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from probe import stats
from probe.errors import DataError
from probe.stats import percentile

GRID = 6
"""Number of divisions of the axis of pooled curves; the knots of one, two and three steps lie on them."""


def area_over_curve(shares: ArrayLike, agreement: ArrayLike) -> float:
    """Compute 1 minus the area under the agreement curve from share 0 to share 1, by the trapezoidal rule.

    Args:
        shares: [S] share of the steps given, ascending from 0 to 1.
        agreement: [S] probability of the same answer, from 0 to 1.

    Raises:
        DataError: the shares do not rise from 0 to 1, or the lists differ in length.
    """
    x, y = _curve(shares, agreement)
    return float(1 - ((y[1:] + y[:-1]) / 2 * np.diff(x)).sum())


def pool_curves(curves: Sequence[tuple[ArrayLike, ArrayLike]], grid: int = GRID, seed: int = 0) -> pd.DataFrame:
    """Average the curves of questions whose reasonings have different lengths.

    Each curve is interpolated linearly between its knots, so the area over the mean curve is the mean AOC if all knots
    lie on the grid.

    Args:
        curves: shares and agreements of each question.
        grid: number of divisions of the axis.
        seed: seed of the bootstrap over questions.

    Returns:
        Columns share, value, ci_low, ci_high, n.
    """
    at = np.linspace(0, 1, grid + 1)
    rows = np.array([np.interp(at, *_curve(*curve)) for curve in curves]).reshape(-1, len(at))
    records = []
    for share, values in zip(at, rows.T, strict=True):
        mean = stats.bootstrap_mean(values, seed=seed, bounds=stats.SHARE)
        records.append({"share": share, **mean.row(len(values))})
    return pd.DataFrame(records)


def _curve(shares: ArrayLike, agreement: ArrayLike) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    x, y = np.asarray(shares, dtype=float), np.asarray(agreement, dtype=float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or x[0] != 0 or x[-1] != 1 or (np.diff(x) <= 0).any():
        raise DataError(
            f"The shares of an agreement curve are {x.tolist()}; expected shares that rise from 0 to 1, with one"
            " agreement for each."
        )
    return x, y


RESAMPLES = 1000


def pass_at_k(correct: ArrayLike, samples: int, k: int) -> Float[np.ndarray, " P"]:
    """Return the unbiased estimate of pass@k for each problem.

    If c of n >= k samples of a problem are right, 1 - C(n - c, k) / C(n, k) has the expectation 1 - (1 - p)^k for every
    probability p that a sample is right; 1 - (1 - c / n)^k is biased.

    Args:
        correct: [P] number of right samples of each problem, 0 to `samples`.
        samples: number of samples per problem.
        k: number of attempts, 1 to `samples`.

    Raises:
        DataError: k or a count is out of range.
    """
    counts = np.asarray(correct)
    if not 1 <= k <= samples:
        raise DataError(f"pass@{k} was requested from {samples} samples: give a k from 1 to the number of samples.")
    if counts.size and not ((counts >= 0) & (counts <= samples) & (counts == counts.astype(int))).all():
        raise DataError(
            f"{counts.max()} of {samples} samples were counted as right; expected a whole number from 0 to {samples}."
        )
    wrong = samples - counts.astype(float)
    steps = np.arange(k)
    factors = np.clip(wrong[..., None] - steps, 0, None) / (samples - steps)
    return 1 - factors.prod(-1)


def ks(samples: int) -> list[int]:
    """Return the powers of two up to the number of samples."""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


class Crossing(NamedTuple):
    """Crossing point of two pass@k curves."""

    k: float
    """Crossing point k, interpolated on a logarithmic axis; NaN if the curves do not cross."""
    low: float
    high: float
    """Bounds (`low`, `high`) of the 95 % interval over the resamples in which the curves cross; NaN if fewer than two
    do.
    """
    share: float
    """Share of the resamples in which the curves cross."""


def crossing(first: ArrayLike, second: ArrayLike, samples: int, seed: int = 0, largest: int | None = None) -> Crossing:
    """Find where the pass@k curve of the model that is better at k = 1 falls below that of the other model.

    Both solve the same problems; the curves are compared at every k.

    Args:
        first: [P] number of right samples of each problem from one model.
        second: [P] number of right samples of the same problems from the other model.
        samples: number of samples per problem and model.
        seed: seed of the bootstrap over problems.
        largest: largest k compared; the number of samples by default.

    Raises:
        DataError: the models solved different numbers of problems.
    """
    a, b = np.asarray(first), np.asarray(second)
    if samples < 2:
        return Crossing(float("nan"), float("nan"), float("nan"), 0.0)
    if a.shape != b.shape or not a.size:
        raise DataError(f"One model has {a.size} problems and the other {b.size}: give both the same problems.")
    grid = list(range(1, (largest or samples) + 1))
    gap = np.stack([pass_at_k(a, samples, k) - pass_at_k(b, samples, k) for k in grid], axis=1)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(gap), np.full(len(gap), 1 / len(gap)), RESAMPLES) @ gap / len(gap)
    crossings = _crossing(draws, grid)
    interval = percentile(_crossing(gap.mean(0)[None], grid)[0], crossings, len(gap), (1, grid[-1]))
    return Crossing(*interval, float(np.isfinite(crossings).mean()))


def _crossing(gaps: Float[np.ndarray, "B K"], grid: Sequence[int]) -> Float[np.ndarray, " B"]:
    """Return the first k at which each gap changes its sign, interpolated on a logarithmic axis; NaN if none."""
    flips = gaps * gaps[:, :1] < 0
    index = np.maximum(flips.argmax(1), 1)
    rows = np.arange(len(gaps))
    before, after, logs = gaps[rows, index - 1], gaps[rows, index], np.log(grid)
    crosses = flips.any(1)
    share = before / np.where(crosses, before - after, np.inf)
    points = np.exp(logs[index - 1] + share * (logs[index] - logs[index - 1]))
    return np.where(crosses, points, np.nan)


Rows = list[dict[str, Any]]
CONDITIONS = ("steps", "direct", "filler")
OUTCOMES = ("following", "ignoring")
BIAS = ("bias_direct", "bias_steps", "bias_drop_direct", "bias_drop_steps")


def curve_by_terms(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """Return accuracy in steps, without steps and with filler, by number of terms, with intervals."""
    records = []
    for terms in sorted({int(row["terms"]) for row in rows}):
        group = [row for row in rows if row["terms"] == terms]
        for condition in CONDITIONS:
            values = [row[f"accuracy_{condition}"] for row in group]
            records.append({"condition": condition, "terms": terms, **_interval(values, seed, stats.SHARE)})
    return pd.DataFrame(records)


def pass_curve(rows: Rows, samples: int, seed: int = 0) -> pd.DataFrame:
    """Return pass@k at every power of two: k, value, ci_low, ci_high, n."""
    correct = [row["correct"] for row in rows]
    return pd.DataFrame(
        [{"k": k, **_interval(pass_at_k(correct, samples, k).tolist(), seed, stats.SHARE)} for k in ks(samples)]
    )


def following_curve(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """Return the outcomes after edited steps by the number of steps left, with intervals."""
    records = []
    for count in sorted({int(row["steps_left"]) for row in rows}):
        group = [row for row in rows if row["steps_left"] == count]
        for outcome in OUTCOMES:
            values = [row[f"step_{outcome}"] for row in group]
            records.append({"outcome": outcome, "steps_left": count, **_interval(values, seed, stats.SHARE)})
    return pd.DataFrame(records)


def bias_table(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """Return the effect of the bias with and without steps: metric, value, ci_low, ci_high, n; empty without rows."""
    records = [
        {"metric": metric, **_interval([row[metric] for row in rows], seed, stats.GAIN)} for metric in BIAS if rows
    ]
    return pd.DataFrame(records)


def _interval(values: Sequence[float], seed: int, bounds: stats.Bounds) -> dict[str, float]:
    return stats.bootstrap_mean(values, seed=seed, bounds=bounds).row(len(values))
