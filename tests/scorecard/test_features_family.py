"""The family features: matching by brute force, ablation on plain transformers, halves, and wrong answers."""

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.scorecard import features_family as family
from probe.scorecard.feature_matches import PRECISION, best_matches, covering_matches, expected_f1, f1, said
from probe.scorecard.feature_questions import Questions, halved
from probe.ticks import ignore


@pytest.fixture(scope="module")
def problem(base: LM) -> Questions:
    """Questions of the sample base."""
    return family.prepare(base, "", 800, 0, ignore)


def drawn(levels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[N F] activations with few different values, and [N C] classes that two of the features nearly are."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 40)
    values = rng.integers(0, levels, (40, 6)).astype(float)
    values[:, 0] += 2 * (labels == 1)
    values[:, 3] -= 2 * (labels == 2)
    return values, labels[:, None] == np.arange(3)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_best_match_is_that_of_brute_force(levels: int):
    values, truth = drawn(levels)
    matches = best_matches(values, truth)
    for at, (each, match) in enumerate(zip(truth.T, matches, strict=True)):
        every = [f1_score(each, column >= cut) for column in values.T for cut in np.unique(column)]
        assert f1(said(values, [[match]]), truth[:, [at]])[0] == pytest.approx(max(every))


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_the_first_covering_feature_covers_most_and_all_together_are_precise(levels: int):
    values, truth = drawn(levels)
    for each, group in zip(truth.T, covering_matches(values, truth), strict=True):
        fired = [column >= cut for column in values.T for cut in np.unique(column)]
        precise = [(one & each).sum() for one in fired if (one & each).sum() >= PRECISION * one.sum()]
        first, together = (said(values, [part])[:, 0] for part in (group[:1], group))
        assert (first & each).sum() == max(precise, default=0)
        assert (together & each).sum() >= PRECISION * together.sum()
        counts = [(said(values, [group[:end]])[:, 0] & each).sum() for end in range(len(group) + 1)]
        assert all(before < after for before, after in pairwise(counts))


def test_expected_f1_is_the_mean_over_all_guesses():
    truth = np.array([True, True, True, False, False, False, False])
    for size in (1, 2, 5):
        guesses = [np.isin(np.arange(7), each) for each in combinations(range(7), size)]
        mean = np.mean([f1_score(truth, guess) for guess in guesses])
        assert expected_f1(guesses[0][:, None], truth[:, None])[0] == pytest.approx(mean)


def test_halves_share_no_group_and_every_class_is_in_both(problem: Questions):
    for name, each in problem.variables.items():
        assert not set(each.fit) & set(each.test)
        assert min(each.truth[each.fit].sum(0).min(), each.truth[each.test].sum(0).min()) >= 3, name
    prompts = [problem.lm.tokenizer.decode(ids) for ids in problem.ids]
    names = {word for each in prompts for word in each.split()} & set(_people(problem))
    for name in ("relation", "value", "known", "phrase"):
        sides = [
            {word for at in side for word in prompts[at].split()} & names
            for side in (problem.variables[name].fit, problem.variables[name].test)
        ]
        assert min(map(len, sides)) > 10
        assert not sides[0] & sides[1], name
    with pytest.raises(DataError, match="No class has enough questions"):
        halved(np.array(["a", "b", "c", "d"]), np.array(["e", "f", "g", "h"]), 0)


def _people(problem: Questions) -> tuple[str, ...]:
    """The people that questions are about."""
    world = probe.world.of(problem.lm)
    assert world is not None
    return (*world.groups["known"], *world.groups["strangers"])


@torch.no_grad()
def test_ablated_answers_are_those_of_a_plain_forward_hook(problem: Questions):
    """A direction subtracted by a hook of PyTorch after the block changes the same answers."""
    rng = np.random.default_rng(0)
    test = problem.variables["relation"].test[:12]
    values = rng.normal(size=(len(test), 1)) * (rng.random((len(test), 1)) < 0.8)
    direction = 30 * rng.normal(size=(1, problem.states.shape[1]))
    found = family.changed_answers(problem, test, values, direction, [0])[:, 0]
    model: Any = problem.lm.model
    expected = []
    for row, value in zip(test, values[:, 0], strict=True):

        def subtract(module: Any, inputs: Any, output: Any, value: float = float(value)) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states[:, -1] -= torch.tensor(value * direction[0]).float()

        ids = torch.tensor([problem.ids[row]])
        before = int(model(ids).logits[0, -1].argmax())
        assert before == problem.top[row]
        handle = model.model.layers[problem.block].register_forward_hook(subtract)
        expected.append(int(model(ids).logits[0, -1].argmax()) != before)
        handle.remove()
    assert found.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_methods_return_encoders_whose_features_make_up_the_states(problem: Questions):
    """The components of both ways sum to the states; k-means and the untrained autoencoder have few active features."""
    states = problem.corpus[:3000]
    mean = states.mean(0)
    for function, scale in (
        (family.coordinates, 2),
        (family.principal_components, 2),
        (family.independent_components, 2),
    ):
        encode, directions = function(states, 512)
        np.testing.assert_allclose(encode(states) @ directions / scale, states - mean, atol=2e-2)
    encode, directions = family.k_means(states, 64)
    active = encode(problem.states)
    assert (active.sum(1) == 1).all()
    near = ((problem.states[:, None] - (directions + mean)[None]) ** 2).sum(-1)
    assert (active.argmax(1) == near.argmin(1)).mean() > 0.99
    encode, _ = family.untrained_autoencoder(states, 256)
    assert (encode(states) > 0).sum(1).mean() == pytest.approx(family.ACTIVE, rel=0.2)


WRONG = [
    (lambda states, features: states, "expected a pair"),
    (lambda states, features: (lambda others: others[:5], None), r"returned an array of shape \(5, 128\)"),
    (lambda states, features: (lambda others: np.zeros((len(others), 600)), None), "It returned 600 features"),
    (lambda states, features: (lambda others: others, np.ones((3, 128))), "one direction for each feature"),
]


@pytest.mark.parametrize(("function", "said"), WRONG)
def test_a_wrong_dictionary_is_one_sentence(problem: Questions, function: Any, said: str):
    with pytest.raises(DataError, match=said):
        family.ask(problem, function)


def test_a_dictionary_without_directions_changes_no_answer(problem: Questions):
    answer = family.ask(problem, lambda states, features: (lambda others: others, None))
    assert family.grade(problem, "causal", answer).score == 0
    assert 0 < family.grade(problem, "relation", answer).score < 1
