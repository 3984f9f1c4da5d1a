"""Scores under a confidence target: "answer only if you are more than t confident" (Kalai et al. 2509.04664).

A right answer earns 1, a wrong one costs t / (1 - t), abstaining gives 0: answering pays exactly where the chance to be
right exceeds t. t = 0 is the usual grading, which rewards any guess. Two ways of behaving are compared:

- `own`: the model is left to itself and abstains as often as it does;
- `target`: it gives its likeliest value if its probability is above t, and abstains otherwise. A calibrated model
  cannot do better than that.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probe import stats
from probe.errors import ConfigError, DataError

TARGETS = tuple(step / 20 for step in range(19))
NAMED = (0.5, 0.75, 0.9)
"""The targets that the paper proposes, with penalties of 1, 3 and 9."""
OUTCOMES = ("accuracy", "error", "abstention", "score")
Floats = NDArray[np.float64]


def penalty(target: float) -> float:
    """t / (1 - t), what a wrong answer costs.

    Raises:
        ConfigError: t is not in [0, 1).
    """
    if not 0 <= target < 1:
        raise ConfigError(f"A confidence target of {target} was asked for: give one from 0 to below 1.")
    return target / (1 - target)


def score(right: ArrayLike, wrong: ArrayLike, target: float) -> Floats:
    """[N] points under a target, from the chances (or zeros and ones) of a right and of a wrong answer."""
    return np.asarray(right, dtype=float) - penalty(target) * np.asarray(wrong, dtype=float)


def targeted(confidence: ArrayLike, right: ArrayLike, target: float) -> tuple[Floats, Floats]:
    """[N] right and [N] wrong, zeros and ones, of answers that are given where the confidence is above t.

    Args:
        confidence: [N] how sure the model is of its likeliest value.
        right: [N] whether that value is right.
        target: t.
    """
    sure, truth = np.asarray(confidence, dtype=float) > target, np.asarray(right, dtype=float)
    return sure * truth, sure * (1 - truth)


def target_curves(
    own_right: ArrayLike,
    own_wrong: ArrayLike,
    confidence: ArrayLike,
    right: ArrayLike,
    targets: Sequence[float] = TARGETS,
) -> pd.DataFrame:
    """Accuracy, error, abstention and score against the target, for both ways of behaving.

    Args:
        own_right: [N] chances that the model, left to itself, is right.
        own_wrong: [N] chances that it is wrong.
        confidence: [N] how sure it is of its likeliest value.
        right: [N] whether that value is right.
        targets: the values of t.

    Returns:
        Columns way, target, outcome, value, ci_low, ci_high, n; bootstrap intervals over the N items.

    Raises:
        DataError: lists of different lengths.
    """
    lists = [np.asarray(each, dtype=float) for each in (own_right, own_wrong, confidence, right)]
    if len({len(each) for each in lists}) != 1:
        raise DataError(f"Confidence targets got lists of {[len(each) for each in lists]} items: give one of each.")
    rows = []
    for target in targets:
        ways = {"own": (lists[0], lists[1]), "target": targeted(lists[2], lists[3], target)}
        for way, (hit, miss) in ways.items():
            values = hit, miss, 1 - hit - miss, score(hit, miss, target)
            for outcome, column in zip(OUTCOMES, values, strict=True):
                bounds = (-target / (1 - target), 1.0) if outcome == OUTCOMES[-1] else stats.SHARE
                value, low, high = stats.bootstrap_mean(column, resamples=300, bounds=bounds)
                row = {"way": way, "target": target, "outcome": outcome}
                rows.append(row | {"value": value, "ci_low": low, "ci_high": high, "n": len(column)})
    return pd.DataFrame(rows)
