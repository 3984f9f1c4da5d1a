"""Do probabilities mean what they say? Expected calibration error, of shares and of preferences.

ECE = sum over bins of (n_b / n) |mean prediction in b - mean target in b|, in bins of equal width (Naeini et al. 2015;
Guo et al. 2017, arXiv 1706.04599). It is biased upwards: with few items a bin is off by chance alone. Resampling adds
the same bias once more, so intervals are those of the percentile bootstrap, shifted until their median is the estimate.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from probe.errors import DataError
from probe.stats import SHARE, Interval, unvaried

BINS = 10
_CHUNK = 4_000_000  # counts held in memory at once


def reliability(predicted: ArrayLike, target: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """The reliability diagram: one row for each bin that holds something.

    Args:
        predicted: [N] probabilities.
        target: [N] what happened (0 or 1), or the exact probabilities.
        bins: number of bins of equal width on [0, 1].

    Returns:
        Columns low, high (ends of the bin), predicted, target (means) and n.

    Raises:
        DataError: the lists differ in length, are empty, or hold something else than numbers between 0 and 1.
    """
    p, y = _shares(predicted, target)
    index = _bin(p, bins)
    rows = [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "predicted": p[index == b].mean(),
            "target": y[index == b].mean(),
            "n": int((index == b).sum()),
        }
        for b in np.unique(index)
    ]
    return pd.DataFrame(rows)


def calibration_error(
    predicted: ArrayLike, target: ArrayLike, bins: int = BINS, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Expected calibration error of N probabilities, with its bootstrap interval (95 %).

    Arguments and errors as in `reliability`; `resamples` times N items are drawn with replacement.
    """
    p, y = _shares(predicted, target)
    gaps, index = p - y, _bin(p, bins)
    return _interval(gaps[:, None], index[:, None], bins, resamples, seed)


def chance_error(predicted: ArrayLike, bins: int = BINS, draws: int = 1000, seed: int = 0) -> Interval:
    """The calibration error that a perfectly calibrated model shows with these N probabilities, by simulation.

    Whether each is right is drawn with its own probability. The error is not 0, since N is finite, and it is the larger
    the fewer items there are: a measured error says something in so far as it is above this one (Kumar et al. 2019,
    arXiv 1909.10155).

    Args:
        predicted: [N] probabilities.
        bins: see `reliability`.
        draws: how often the N items are judged anew.
        seed: the same seed gives the same numbers.

    Returns:
        The mean, and ends between which 95 % of the simulated errors lie; NaN ends where all probabilities are 0 or 1,
        since the error is exactly 0 then.
    """
    p, _ = _shares(predicted, predicted)
    inside = np.zeros((len(p), bins))
    inside[np.arange(len(p)), _bin(p, bins)] = 1
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // len(p))
    sizes = [min(rows, draws - done) for done in range(0, draws, rows)]
    gaps = np.concatenate([(p - (rng.random((size, len(p))) < p)) @ inside for size in sizes])
    found = np.abs(gaps).sum(axis=1) / len(p)
    low, high = np.quantile(found, [0.025, 0.975])
    return unvaried(Interval(float(found.mean()), float(low), float(high)), len(p))


def preference_calibration(
    margins: ArrayLike, target: ArrayLike | None = None, bins: int = BINS, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Calibration error of sigma(margin) as the probability that the chosen completion is preferred, with its interval.

    Each pair counts from both sides, as p = sigma(m) with target q and as 1 - p with 1 - q, so that the order in which
    its completions are written does not matter.

    Args:
        margins: [N] reward of the chosen completion minus that of the rejected one, nats.
        target: [N] probabilities that the chosen one is preferred, where they are known; default 1, the choice itself.
        bins: see `reliability`.
        resamples: how often N pairs are drawn with replacement.
        seed: the same seed gives the same interval.
    """
    m = np.asarray(margins, dtype=float)
    p, q = _shares(expit(m), np.ones_like(m) if target is None else target)
    gaps = np.stack([p - q, q - p], axis=1)
    return _interval(gaps, np.stack([_bin(p, bins), _bin(1 - p, bins)], axis=1), bins, resamples, seed)


def _interval(gaps: NDArray, index: NDArray[np.intp], bins: int, resamples: int, seed: int) -> Interval:
    """Sum over bins of |sum of gaps| / N; items [N K] of K numbers each are resampled together."""
    n = len(gaps)
    sums = np.zeros((n, bins))
    for column in range(gaps.shape[1]):
        np.add.at(sums, (np.arange(n), index[:, column]), gaps[:, column])
    value = float(np.abs(sums.sum(axis=0)).sum() / gaps.size)
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // n)
    sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    drawn = [rng.multinomial(n, np.full(n, 1 / n), size=size) @ sums for size in sizes]
    low, middle, high = np.quantile(np.abs(np.concatenate(drawn)).sum(axis=1) / gaps.size, [0.025, 0.5, 0.975])
    found = Interval(value, max(float(value + low - middle), 0.0), min(float(value + high - middle), 1.0))
    return unvaried(found, n, SHARE)


def _bin(p: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    return np.minimum((p * bins).astype(np.intp), bins - 1)


def _shares(predicted: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(predicted, dtype=float), np.asarray(target, dtype=float)
    inside = all(bool(((values >= 0) & (values <= 1)).all()) for values in (p, y))
    if p.ndim != 1 or p.shape != y.shape or not p.size or not inside:
        raise DataError(
            f"A calibration error was asked for of {p.size} predictions and {y.size} targets: give two lists of the"
            " same length with numbers between 0 and 1."
        )
    return p, y
