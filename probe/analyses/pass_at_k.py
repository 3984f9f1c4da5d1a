"""pass@k: the chance that at least one of k samples solves a problem (Chen et al. 2021, arXiv 2107.03374).

Of a problem n >= k samples are drawn, c of them right. Then 1 - C(n - c, k) / C(n, k) has the expectation
1 - (1 - p)^k, whatever the chance p that a sample is right; 1 - (1 - c / n)^k has not. Problems are what is drawn
independently, so intervals resample problems. Two models that solve the same problems are compared at every k; where a
curve that starts lower comes out higher, the two cross (METRICS: chain-of-thought).
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


def pass_at_k(correct: ArrayLike, samples: int, k: int) -> Float[Array, " P"]:
    """The unbiased estimate of pass@k for each problem.

    Args:
        correct: [P] right samples of each problem, 0 to `samples`.
        samples: drawn for each problem.
        k: 1 to `samples`.

    Raises:
        DataError: k or a count is not in its range.
    """
    counts = np.asarray(correct)
    if not 1 <= k <= samples:
        raise DataError(f"pass@{k} was asked for from {samples} samples: give a k from 1 to the number of samples.")
    if counts.size and not ((counts >= 0) & (counts <= samples) & (counts == counts.astype(int))).all():
        raise DataError(f"Of {samples} samples {counts.max()} were counted as right: count 0 to {samples} of them.")
    wrong = samples - counts.astype(float)
    steps = np.arange(k)
    factors = np.clip(wrong[..., None] - steps, 0, None) / (samples - steps)
    return 1 - factors.prod(-1)


def ks(samples: int) -> list[int]:
    """The powers of two up to the number of samples."""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


class Crossing(NamedTuple):
    """Where two curves of pass@k cross."""

    k: float
    """Between two values of k on a logarithmic axis; NaN where they do not cross."""
    low: float
    high: float
    """Ends of the 95 % interval over those resamples in which they cross; NaN where fewer than two do."""
    share: float
    """The share of resamples in which they cross."""


def crossing(first: ArrayLike, second: ArrayLike, samples: int, seed: int = 0) -> Crossing:
    """Where the curve of a model that is better at k = 1 falls below that of another one.

    Args:
        first: [P] right samples of each problem from one model.
        second: [P] the same from the other, problem by problem.
        samples: drawn for each problem by either.
        seed: of the bootstrap over problems.

    Raises:
        DataError: the two solved different numbers of problems.
    """
    a, b = np.asarray(first), np.asarray(second)
    if samples < 2:
        return Crossing(float("nan"), float("nan"), float("nan"), 0.0)
    if a.shape != b.shape or not a.size:
        raise DataError(f"{a.size} problems of one model stand against {b.size} of the other: give the same ones.")
    grid = list(range(1, samples + 1))
    gap = np.stack([pass_at_k(a, samples, k) - pass_at_k(b, samples, k) for k in grid], axis=1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(gap), np.full(len(gap), 1 / len(gap)), RESAMPLES) @ gap / len(gap)
    found = _crossing(drawn, grid)
    known = found[np.isfinite(found)]
    low, high = np.quantile(known, (0.025, 0.975)) if len(known) > 1 else (np.nan, np.nan)
    k = float(_crossing(gap.mean(0)[None], grid)[0])
    _, low, high = unvaried(Interval(k, float(low), float(high)), len(gap), (1, samples))
    return Crossing(k, low, high, len(known) / RESAMPLES)


def _crossing(gaps: Float[Array, "B K"], grid: Sequence[int]) -> Float[Array, " B"]:
    """The first k at which each gap has changed its sign, between the two neighbours on a logarithmic axis."""
    changed = gaps * gaps[:, :1] < 0
    index = np.maximum(changed.argmax(1), 1)
    rows = np.arange(len(gaps))
    before, after, logs = gaps[rows, index - 1], gaps[rows, index], np.log(grid)
    crosses = changed.any(1)
    share = before / np.where(crosses, before - after, np.inf)
    found = np.exp(logs[index - 1] + share * (logs[index] - logs[index - 1]))
    return np.where(crosses, found, np.nan)
