"""LEACE against another formula of it, and the properties that its paper proves."""

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from probe.errors import DataError
from probe.probes.erasure import erase, one_hot


def drawn(n: int = 400, d: int = 6, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States whose means and shared directions differ by class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    mix = rng.standard_normal((d, d))
    return rng.standard_normal((n, d)) @ mix + rng.standard_normal((classes, d))[labels] * 2 + 5, labels


def covariances(states: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, z = states - states.mean(0), z - z.mean(0)
    return x.T @ x / len(x), x.T @ z / len(x)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("numeric", [False, True])
def test_it_is_the_constrained_minimum_of_lagrange(classes: int, numeric: bool):
    """The minimum of E |Ax - x|^2 with A Sxz = 0 by its multipliers: A = I - C (C' S^-1 C)^+ C' S^-1."""
    states, labels = drawn(classes=classes)
    spread, joint = covariances(states, one_hot(labels, numeric))
    inverse = np.linalg.inv(spread)
    expected = joint @ np.linalg.pinv(joint.T @ inverse @ joint, rcond=1e-10) @ joint.T @ inverse
    eraser = erase(states, labels, numeric=numeric)
    np.testing.assert_allclose(eraser.oblique, expected, rtol=1e-4, atol=1e-8)
    assert eraser.rank == (1 if numeric else classes - 1)
    np.testing.assert_allclose(eraser.decoded(states) + eraser(states), states, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("shrink", [False, True])
def test_no_linear_classifier_beats_the_constant(shrink: bool):
    states, labels = drawn()
    erased = erase(states, labels, shrink=shrink)(states)
    np.testing.assert_allclose(covariances(erased, one_hot(labels, False))[1], 0, atol=1e-8)
    constant = entropy(np.bincount(labels))
    before, after = (
        log_loss(labels, LogisticRegression(C=1e6, max_iter=5000).fit(x, labels).predict_proba(x))
        for x in (states, erased)
    )
    assert before < constant - 0.3
    assert after == pytest.approx(constant, abs=1e-4)


def test_it_changes_the_states_least():
    states, labels = drawn()
    eraser = erase(states, labels)
    joint = covariances(states, one_hot(labels, False))[1]
    least = (eraser.decoded(states) ** 2).sum(1).mean()
    rng, outside = np.random.default_rng(1), np.eye(6) - joint @ np.linalg.pinv(joint)
    others = [np.eye(6) - eraser.oblique + size * rng.standard_normal((6, 6)) @ outside for size in (1e-3, 0.1, 1)]
    for other in [outside, *others]:
        assert np.abs(other @ joint).max() < 1e-8
        changed = (states - states.mean(0)) @ (other - np.eye(6)).T
        assert (changed**2).sum(1).mean() > least


def test_states_without_a_spread_in_some_directions():
    states, labels = drawn()
    flat = np.concatenate([states, states @ np.ones((6, 2)), np.ones((len(states), 1))], axis=1)
    eraser = erase(flat, labels)
    assert eraser.rank == 2
    np.testing.assert_allclose(covariances(eraser(flat), one_hot(labels, False))[1], 0, atol=1e-7)
    np.testing.assert_allclose(eraser.oblique @ eraser.oblique, eraser.oblique, atol=1e-7)


def test_labels_that_say_nothing_erase_nothing():
    states, _ = drawn()
    mirrored = np.concatenate([states, states])
    eraser = erase(mirrored, np.repeat([0, 1], len(states)))
    assert eraser.rank == 0
    np.testing.assert_allclose(eraser(mirrored), mirrored, atol=1e-8)


def test_as_many_labels_as_states():
    with pytest.raises(DataError, match="3 states have 2 labels: give two states or more, and a label for each"):
        erase(np.zeros((3, 2)), np.zeros(2))
