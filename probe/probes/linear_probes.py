"""Linear probes by scikit-learn: logistic regression for classes, ridge regression for numbers, and their scores.

Axes: N states, d width, r resamples.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from probe import stats
from probe.hallucination.confidence import aurocs

Score = Literal["AUROC", "accuracy", "R2"]
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse penalties C among which the training groups choose; the penalty of a ridge is 1 / C."""
FOLDS = 3


@dataclass(frozen=True)
class Fitted:
    """Probe with the inverse penalty that was chosen and its score on the left-out folds."""

    model: Any
    strength: float
    inner: float


def score_name(labels: np.ndarray, numeric: bool) -> Score:
    """Return the score of labels: AUROC of two classes, accuracy of several, R2 of numbers."""
    return "R2" if numeric else "AUROC" if len(np.unique(labels)) == 2 else "accuracy"


def train(states: np.ndarray, labels: np.ndarray, strength: float, numeric: bool) -> Any:
    """Fit a probe on standardised states."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = Ridge(alpha=1 / strength) if numeric else LogisticRegression(C=strength, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its score is on other states, converged or not
        return make_pipeline(StandardScaler(), model).fit(states, labels)


def train_simple(states: np.ndarray, labels: np.ndarray, numeric: bool) -> Any:
    """Fit the simple baseline: difference of class means, or one direction of covariance with a number."""
    return _Covariance(states, labels) if numeric else _Means(states, labels)


class _Covariance:
    """Number by a regression on the direction of its covariance with the states (partial least squares, one part)."""

    def __init__(self, states: np.ndarray, labels: np.ndarray) -> None:
        self.mean, self.level = states.mean(0), labels.mean()
        self.direction = (states - self.mean).T @ (labels - self.level)
        along = (states - self.mean) @ self.direction
        self.slope = along @ (labels - self.level) / (along @ along) if along @ along > 0 else 0.0

    def predict(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(self.level + self.slope * ((states - self.mean) @ self.direction))


class _Means:
    """Classes by the nearest mean; of two classes, the projection on the difference of their means."""

    def __init__(self, states: np.ndarray, labels: np.ndarray) -> None:
        self.classes_ = np.unique(labels)
        self.means = np.stack([states[labels == each].mean(0) for each in self.classes_])

    def decision_function(self, states: np.ndarray) -> np.ndarray:
        return np.asarray(states @ (self.means[1] - self.means[0]))

    def predict(self, states: np.ndarray) -> np.ndarray:
        distances = ((states[:, None] - self.means[None]) ** 2).sum(-1)
        return np.asarray(self.classes_[distances.argmin(1)])


def answers(model: Any, states: np.ndarray, name: Score) -> np.ndarray:
    """Return what a probe says of states [N]: a decision value (AUROC), a class (accuracy) or a number (R2)."""
    return np.asarray(model.decision_function(states) if name == "AUROC" else model.predict(states)).reshape(
        len(states)
    )


def scores(said: np.ndarray, labels: np.ndarray, name: Score, weights: np.ndarray) -> np.ndarray:
    """Return the score [r] of resamples with weights [r N]."""
    if name == "AUROC":
        return aurocs(said, (labels == np.unique(labels)[-1]).astype(float), weights)
    total = weights.sum(1)
    if name == "accuracy":
        return np.asarray(weights @ (said == labels).astype(float) / total)
    mean = weights @ labels / total
    spread = weights @ labels**2 - total * mean**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12, 1 - weights @ (said - labels) ** 2 / spread, np.nan)


def score(said: np.ndarray, labels: np.ndarray, name: Score) -> float:
    """Return the score of what a probe said; NaN if the labels do not vary."""
    if len(np.unique(labels)) < 2 and name != "accuracy":
        return float("nan")
    return float(scores(said, labels, name, np.ones((1, len(labels))))[0])


def folds(units: np.ndarray, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield items to train on and items to leave out; units stay together."""
    from sklearn.model_selection import GroupKFold

    many = min(FOLDS, len(np.unique(units)))
    yield from GroupKFold(many, shuffle=True, random_state=seed).split(units, groups=units)


def fit(states: np.ndarray, labels: np.ndarray, units: np.ndarray, name: Score, seed: int) -> Fitted:
    """Fit a probe whose penalty is chosen by cross-validation over units."""
    best = max((cross_validated(states, labels, units, name, each, seed), -at) for at, each in enumerate(STRENGTHS))
    strength = STRENGTHS[-best[1]]
    return Fitted(train(states, labels, strength, name == "R2"), strength, best[0])


def cross_validated(
    states: np.ndarray, labels: np.ndarray, units: np.ndarray, name: Score, strength: float, seed: int
) -> float:
    """Return the mean score of folds of units that are left out; minus infinity if no fold has one."""
    found = []
    for inside, outside in folds(units, seed):
        if len(np.unique(labels[inside])) < 2:
            continue
        model = train(states[inside], labels[inside], strength, name == "R2")
        found.append(score(answers(model, states[outside], name), labels[outside], name))
    known = [each for each in found if each == each]
    return float(np.mean(known)) if known else float("-inf")


def interval(
    said: list[np.ndarray], labels: list[np.ndarray], units: np.ndarray, name: Score, seed: int
) -> stats.Interval:
    """Return a score with its 95 % bootstrap interval over units; of two tasks on the same items, the difference.

    Args:
        said: [N] answers of one probe, or of two.
        labels: [N] labels of each task.
        units: [N] unit of each item.
        name: score.
        seed: seed of the resamples.
    """
    names, codes = np.unique(units, return_inverse=True)
    signs = (1, -1)[: len(said)]

    def of(drawn: np.ndarray) -> np.ndarray:
        weights = np.stack([np.bincount(row, minlength=len(names)) for row in drawn]).astype(float)[:, codes]
        each = [scores(one, truth, name, weights) for one, truth in zip(said, labels, strict=True)]
        return np.asarray(sum(sign * value for sign, value in zip(signs, each, strict=True)))

    value = sum(sign * score(*pair, name) for sign, pair in zip(signs, zip(said, labels, strict=True), strict=True))
    bounds = None if name == "R2" else stats.SHARE if len(said) == 1 else stats.GAIN
    return stats.bootstrap(value, of, len(names), seed, bounds)
