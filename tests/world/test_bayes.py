"""Bayes predictors against enumeration and simulation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import DataError
from probe.world import bayes
from probe.world.tasks import all_tasks
from probe.world.vocabulary import PHRASES


def test_the_claim_posterior_is_what_the_story_gives_in_simulation():
    rng = np.random.default_rng(0)
    prior = np.array([0.5, 0.3, 0.15, 0.05])
    n, reliability = 400_000, 0.6
    truth = rng.choice(4, n, p=prior)
    other = (truth + rng.integers(1, 4, n)) % 4
    claim = np.where(rng.random(n) < reliability, truth, other)
    for claimed in range(4):
        seen = truth[claim == claimed]
        exact = bayes.claim_posterior(prior, claimed, reliability)
        error = np.sqrt(exact * (1 - exact) / len(seen))
        assert (np.abs(np.bincount(seen, minlength=4) / len(seen) - exact) < 4 * error).all()


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=3, max_size=12),
    reliability=st.floats(0.01, 0.99),
    data=st.data(),
)
def test_the_claim_posterior_by_log_odds(weights, reliability, data):
    claim = data.draw(st.integers(0, len(weights) - 1))
    posterior = bayes.claim_posterior(weights, claim, reliability)
    assert posterior.sum() == pytest.approx(1)
    prior = weights[claim] / sum(weights)
    gain = np.log(reliability * (len(weights) - 1) / (1 - reliability))
    odds = np.log(posterior[claim] / (1 - posterior[claim]))
    assert odds == pytest.approx(np.log(prior / (1 - prior)) + gain, abs=1e-6)


def test_about_a_stranger_the_phrase_is_all_there_is(world):
    for item in world.questions("opinion_stranger", 30):
        assert world.bayes_claim(item.prompt) == pytest.approx(PHRASES[item.meta["phrase"]])


def test_exposure_makes_sure(world):
    for item in world.questions("opinion_false", 30):
        exposure = world.exposure[item.meta["person"]][item.meta["relation"]]
        reliability = PHRASES[item.meta["phrase"]]
        prior = (1 / 12) / (exposure + 1)
        odds = prior / (1 - prior) * reliability * 11 / (1 - reliability)
        assert world.bayes_claim(item.prompt) == pytest.approx(odds / (1 + odds))
        uniform = dict.fromkeys(world.values(item.meta["relation"]), 1.0)
        assert world.bayes_claim(item.prompt, uniform) == pytest.approx(reliability)
    for item in world.questions("opinion_true", 30):
        assert world.bayes_claim(item.prompt) > 0.9


def test_without_a_claim_there_is_no_posterior(world):
    with pytest.raises(DataError, match="no claim"):
        world.bayes_claim(world.questions("fact", 1)[0].prompt)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_chain_predictive_is_the_dirichlet_integral_by_simulation(order):
    """Rows from the prior, weighted by the likelihood of the states, predict the next state."""
    rng, K, states = np.random.default_rng(order), 2, [0, 1, 1, 0, 1, 1, 0, 1]
    rows = rng.dirichlet(np.ones(K), size=(200_000, K**order))
    weights = np.ones(len(rows))
    context = 0
    for t, state in enumerate(states):
        if t >= order:
            weights *= rows[:, context, state]
        context = (context * K + state) % K**order
    simulated = np.average(rows[:, context, 1], weights=weights)
    exact = bayes.markov_predictive(states, K, order)[-1, 1]
    assert simulated == pytest.approx(exact, abs=0.01)


def test_the_first_states_are_uniform_and_rows_sum_to_one():
    predictions = bayes.markov_predictive([2, 0, 1, 2, 0], 3, 2, alpha=0.5)
    assert predictions.shape == (6, 3)
    assert predictions[:3] == pytest.approx(np.full((3, 3), 1 / 3))
    assert predictions.sum(axis=1) == pytest.approx(np.ones(6))
    assert predictions[5] == pytest.approx([0.5 / 2.5, 1.5 / 2.5, 0.5 / 2.5])


def test_frequencies_are_plain_shares_and_agree_with_bayes_for_a_vanishing_prior():
    states = [0, 1, 0, 1, 0, 0, 1, 1, 0]
    shares = bayes.markov_frequencies(states, 2, 1)
    assert shares[0] == pytest.approx([0.5, 0.5])
    assert shares[-1] == pytest.approx([1 / 4, 3 / 4])
    vague = bayes.markov_predictive(states, 2, 1, alpha=1e-9)
    assert shares[3:] == pytest.approx(vague[3:], abs=1e-6)


def test_the_order_mixture_is_the_ratio_of_evidences():
    """P(next | states) = P(states, next) / P(states), each a mean over orders of products of predictives."""
    states, K, orders = [0, 1, 0, 0, 1, 0, 1], 2, (1, 2)

    def probability(sequence):
        terms = [bayes.markov_predictive(sequence, K, order) for order in orders]
        return np.mean([np.prod([p[t, s] for t, s in enumerate(sequence)]) for p in terms])

    mixture = bayes.markov_mixture(states, K, orders)
    for t in range(len(states) + 1):
        for state in range(K):
            exact = probability([*states[:t], state]) / probability(states[:t])
            assert mixture[t, state] == pytest.approx(exact)


def test_the_mixture_finds_the_order():
    rng = np.random.default_rng(0)
    states = [0, 1]
    for _ in range(400):
        states.append(int(rng.random() < (0.95 if states[-2] else 0.05)))
    mixture, second = bayes.markov_mixture(states, 2, (1, 2)), bayes.markov_predictive(states, 2, 2)
    assert mixture[-1] == pytest.approx(second[-1], abs=1e-3)


@settings(max_examples=40)
@given(data=st.data(), p=st.sampled_from([3, 5, 7]))
def test_functions_against_enumeration_of_the_joint(data, p):
    tasks = data.draw(st.lists(st.sampled_from(all_tasks(p)), min_size=1, max_size=6, unique=True))
    a, b = data.draw(st.sampled_from(tasks))
    xs = data.draw(st.lists(st.integers(0, p - 1), max_size=4))
    ys = [(a * x + b) % p for x in xs]
    query = data.draw(st.integers(0, p - 1))
    joint = np.zeros(p)
    for (c, d), y in itertools.product(tasks, range(p)):
        likelihood = np.prod([float((c * x + d) % p == seen) for x, seen in zip([*xs, query], [*ys, y], strict=True)])
        joint[y] += likelihood / len(tasks)
    predictive = bayes.function_predictive(xs, ys, query, p, tasks)
    assert predictive == pytest.approx(joint / joint.sum())
    assert predictive[(a * query + b) % p] > 0


def test_all_tasks_need_two_points_and_a_small_pool_fewer():
    tasks = all_tasks(11)
    assert len(tasks) == 110
    one = bayes.function_predictive([3], [5], 4, 11, tasks)
    assert one == pytest.approx([0.1 if y != 5 else 0 for y in range(11)])
    assert bayes.function_predictive([3, 4], [5, 7], 5, 11, tasks)[9] == 1
    assert bayes.function_predictive([3], [5], 4, 11, [(2, 10), (1, 1)])[7] == 1
    assert bayes.function_predictive([3], [5], 4, 11, [(1, 1)]) == pytest.approx(np.full(11, 1 / 11))
