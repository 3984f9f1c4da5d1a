"""The family changes: what is planted, the score by brute force, methods on states without noise, and wrong answers."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from probe.errors import DataError
from probe.model.lm import LM
from probe.scorecard import changes_family as family
from probe.ticks import ignore


@pytest.fixture(scope="module")
def problem(base: LM) -> family.Pair:
    """Base and copy of few documents of the sample base."""
    return family.prepare(base, "strong", 400, 0, ignore)


def sparse_pair(width: int = 64, count: int = 6000) -> family.Pair:
    """States of 40 words with noise, and a copy with planted directions that are large."""
    rng = np.random.default_rng(0)
    words = rng.normal(size=(40, width))
    tokens = rng.integers(0, len(words), count)
    base = (words[tokens] + 0.05 * rng.normal(size=(count, width))).astype(np.float32)
    return family.plant(base, tokens, 2.0, 0)


def test_a_copy_is_a_turned_base_with_directions_at_their_tokens(problem: family.Pair):
    """Where nothing was added, copy and base differ by one rotation; the rest of what was added is planted."""
    left, _, right = np.linalg.svd(problem.base.T @ problem.copy)
    away = np.linalg.norm(problem.base @ (left @ right) - problem.copy, axis=1)
    changed = away > 0.2 * np.median(np.linalg.norm(problem.base - problem.base.mean(0), axis=1))
    assert 0.05 < changed.mean() < 0.4
    own = np.linalg.lstsq(problem.base[~changed], problem.copy[~changed], rcond=None)[0]
    added = problem.copy - problem.base @ own
    planted = np.vstack([problem.new, problem.grown])
    outside = added[changed] - added[changed] @ np.linalg.pinv(planted) @ planted
    assert np.linalg.norm(outside) < 0.1 * np.linalg.norm(added[changed])
    moved = np.linalg.norm(problem.base @ own - problem.base, axis=1) / np.linalg.norm(problem.base, axis=1)
    assert 0.5 * family.DRIFT < np.median(moved) < 2 * family.DRIFT
    np.testing.assert_allclose(np.linalg.norm(planted, axis=1), 1, atol=1e-6)


def test_cosines_are_those_of_the_best_assignment():
    rng = np.random.default_rng(0)
    given, planted = (family.rows_of_norm_1(rng.normal(size=(5, 4))) for _ in range(2))
    alike = np.abs(given @ planted.T)
    best = max(sum(alike[order[at], at] for at in range(5)) for order in permutations(range(5)))
    assert family.cosines(given, planted).sum() == pytest.approx(best)
    assert family.score_of(-planted[::-1], planted) == pytest.approx(1)
    assert family.score_of(planted[[0, 0, 0, 0, 0]], planted[:5]) < 1


def test_a_direction_named_twice_counts_once(problem: family.Pair):
    twice = np.vstack([problem.new[:1]] * family.PLANTED)
    grade = family.grade(problem, "strong", family.ask(problem, lambda base, copy, f: (twice, np.ones(len(twice)))))
    assert grade.also["found"] == 1
    grown = family.grade(
        problem, "strong", family.ask(problem, lambda base, copy, f: (problem.grown, np.ones(len(problem.grown))))
    )
    assert grown.also == {"found": 0, "grown called new": family.PLANTED}
    assert grown.score < 0.3


def test_only_the_directions_with_the_highest_numbers_count(problem: family.Pair):
    rng = np.random.default_rng(0)
    given = np.vstack([rng.normal(size=(100, problem.copy.shape[1])), 3 * problem.new])
    for sign, bounds in ((1, (0.999, 1.001)), (-1, (0.0, 0.3))):
        answer = family.ask(problem, lambda base, copy, f, sign=sign: (given, sign * np.arange(len(given))))
        low, high = bounds
        assert low < family.grade(problem, "strong", answer).score < high


def test_components_of_a_difference_show_grown_directions_too():
    """The first components span the new directions and the grown ones alike."""
    pair = sparse_pair()
    directions, variances = family.difference_components(pair.base, pair.copy, 512)
    assert (np.diff(variances) <= 0).all()
    for planted in (pair.new, pair.grown):
        first = directions[: 2 * family.PLANTED]
        assert np.linalg.norm(planted @ first.T, axis=1).mean() > 0.8


@pytest.mark.slow
def test_a_crosscoder_finds_what_only_the_copy_has(monkeypatch: pytest.MonkeyPatch):
    """On states of few words with large new directions latent scaling names most of them, and few grown ones."""
    monkeypatch.setattr(family, "STEPS", 1000)
    monkeypatch.setattr(family, "ACTIVE", 3)
    pair = sparse_pair()
    crosscoder, components = (
        family.grade(pair, "strong", family.ask(pair, lambda base, copy, f, each=each: each(base, copy, 128)))
        for each in (family.crosscoder_scaling, family.difference_components)
    )
    assert crosscoder.also["found"] >= 12
    assert crosscoder.also["grown called new"] <= 2
    assert crosscoder.score > components.score + 0.2


WRONG = [
    (lambda base, copy, features: base, "expected a pair"),
    (lambda base, copy, features: (base[:5], np.ones(4)), r"expected one direction for each feature"),
    (lambda base, copy, features: (base[:600], np.ones(600)), "It returned 600 features"),
    (lambda base, copy, features: (base[:5], np.full(5, np.nan)), "not finite"),
]


@pytest.mark.parametrize(("function", "said"), WRONG)
def test_a_wrong_answer_is_one_sentence(problem: family.Pair, function: Any, said: str):
    with pytest.raises(DataError, match=said):
        family.ask(problem, function)
