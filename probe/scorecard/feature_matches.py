"""Features that match classes: the best one by F1, and the few that cover a class without much else.

Feature and threshold are chosen on some texts; what they say of others is the caller's to score.

Axes: N texts to choose on, M other texts, F features, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

PRECISION = 0.9
"""Smallest precision of features that cover a class."""
SEVERAL = 4
"""Largest number of features that cover a class together."""


class Match(NamedTuple):
    """Feature that stands for a class where its activation is at least a threshold."""

    feature: int
    threshold: float


def places(values: np.ndarray) -> np.ndarray:
    """Return the number [N F] of texts at which each feature is at least as active as at each text."""
    return np.asarray(stats.rankdata(-values, method="max", axis=0))


def best_matches(values: np.ndarray, truth: np.ndarray) -> list[Match]:
    """Return for each class the feature and threshold of the highest F1; thresholds are activations of its texts.

    Args:
        values: [N F] activations.
        truth: [N C] whether a text is of each class.
    """
    ranked, found = places(values), []
    for own in truth.T:
        count, falling = np.sort(ranked[own], axis=0), -np.sort(-values[own], axis=0)
        scores = 2 * np.arange(1, len(count) + 1)[:, None] / (count + own.sum())
        place, feature = np.unravel_index(int(scores.argmax()), scores.shape)
        found.append(Match(int(feature), float(falling[place, feature])))
    return found


def covering_matches(values: np.ndarray, truth: np.ndarray) -> list[tuple[Match, ...]]:
    """Return for each class the features that cover most of it at a precision of 0.9 or more, up to four.

    The threshold of each feature is the one at which it covers most by itself. The first feature is the best one alone;
    each further one is the one with which all together cover most.

    Args:
        values: [N F] activations.
        truth: [N C] whether a text is of each class.
    """
    ranked, found = places(values), []
    for own in truth.T:
        count, falling = np.sort(ranked[own], axis=0), -np.sort(-values[own], axis=0)
        hits = np.arange(1, len(count) + 1)[:, None]
        covered = np.where(hits >= PRECISION * count, hits, 0)
        thresholds = np.take_along_axis(falling, covered.argmax(0)[None], axis=0)[0]
        active = (values >= thresholds) & (covered.max(0) > 0)
        together, chosen = np.zeros(len(values), dtype=bool), list[Match]()
        while len(chosen) < SEVERAL:
            union = active | together[:, None]
            right = union[own].sum(0)
            right = np.where(right >= PRECISION * union.sum(0), right, 0)
            feature = int(right.argmax())
            if right[feature] <= together[own].sum():
                break
            chosen.append(Match(feature, float(thresholds[feature])))
            together = union[:, feature]
        found.append(tuple(chosen))
    return found


def said(values: np.ndarray, groups: Sequence[Sequence[Match]]) -> np.ndarray:
    """Return whether any feature of each group is active [M C] at texts with activations [M F]."""
    found = np.zeros((len(values), len(groups)), dtype=bool)
    for at, group in enumerate(groups):
        for match in group:
            found[:, at] |= values[:, match.feature] >= match.threshold
    return found


def f1(active: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the F1 [C] of what was said [M C] of each class; the truth has texts of each."""
    return np.asarray(2 * (active & truth).sum(0) / (active.sum(0) + truth.sum(0)))


def expected_f1(active: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the expected F1 [C] if the same number of texts is said of each class at random."""
    active_count, true_count = active.sum(0), truth.sum(0)
    return np.asarray(2 * active_count * true_count / len(truth) / (active_count + true_count))


def recall(active: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the share [C] of the texts of each class that are said to be of it."""
    return np.asarray((active & truth).sum(0) / truth.sum(0))
