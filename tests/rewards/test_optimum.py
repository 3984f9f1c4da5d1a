"""The exact optimum against optimisers, random policies, enumeration and sampling; the answer sets on a real model."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.rewards.answers import (
    AnswerSet,
    annotator_reward,
    bradley_terry,
    enumerate_answers,
    preference_rewards,
    verifier_reward,
)
from probe.rewards.optimum import (
    best_of_n,
    best_of_n_bound,
    binary_best_of_n_kl,
    condition,
    expectation,
    frontier,
    kl,
    kl_to_optimal,
    optimum,
)
from probe.world import AGREEABLE, Annotator, World
from tests.models import random_lm

seeds = st.integers(0, 2**32 - 1)
betas = st.floats(0.02, 50)


def problem(seed: int, prompts: int = 3, answers: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Random log-probabilities that sum to less than 1, and rewards; the last prompt has one answer fewer."""
    rng = np.random.default_rng(seed)
    ref = log_softmax(2 * rng.normal(size=(prompts, answers)), axis=1) - rng.exponential(0.2, (prompts, 1))
    ref[-1, -1] = -np.inf
    return ref, np.where(np.isfinite(ref), rng.normal(size=ref.shape), 0.0)


def policy(seed: int, like: np.ndarray) -> np.ndarray:
    return condition(np.where(np.isfinite(like), 2 * np.random.default_rng(seed).normal(size=like.shape), -np.inf))


@given(seeds, seeds, betas)
def test_no_policy_is_worth_more(seed: int, other: int, beta: float) -> None:
    ref, rewards = problem(seed)
    best = optimum(ref, rewards, beta)
    base, rival = condition(ref), policy(other, ref)
    worth = expectation(rival, rewards) - beta * kl(rival, base)
    assert (best.value >= worth - 1e-12).all()
    # the gap is beta KL(rival || pi*): the identity behind every distance
    np.testing.assert_allclose(best.value - worth, beta * kl(rival, best.logprobs), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(best.reward - beta * best.kl, best.value, rtol=1e-9, atol=1e-12)
    direct = np.log((np.exp(base) * np.exp(rewards / beta)).sum(axis=1))
    np.testing.assert_allclose(best.log_z, direct, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.exp(best.logprobs).sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0, 7.0])
def test_against_a_numerical_optimiser(beta: float) -> None:
    ref, rewards = problem(4, prompts=1, answers=4)
    keep = np.isfinite(ref[0])
    base, gain = condition(ref)[0, keep], rewards[0, keep]

    def loss(logits: np.ndarray) -> float:
        logp = log_softmax(logits)
        return float(-(np.exp(logp) * (gain - beta * (logp - base))).sum())

    found = minimize(loss, np.zeros(keep.sum()), method="BFGS", options={"gtol": 1e-10})
    best = optimum(ref, rewards, beta)
    assert best.value[0] == pytest.approx(-found.fun, abs=1e-9)
    np.testing.assert_allclose(np.exp(best.logprobs[0, keep]), np.exp(log_softmax(found.x)), atol=1e-5, rtol=1e-4)


def test_the_ends_of_the_frontier() -> None:
    ref, rewards = problem(2)
    rewards[0, :2] = rewards[0].max() + 1  # a tie at the top
    base = condition(ref)
    for beta in (math.inf, 1e9):
        np.testing.assert_allclose(optimum(ref, rewards, beta).logprobs, base, atol=1e-8)
    assert optimum(ref, rewards, math.inf).kl.max() == 0
    greedy = optimum(ref, rewards, 0)
    np.testing.assert_allclose(greedy.reward, np.where(np.isfinite(ref), rewards, -np.inf).max(axis=1))
    np.testing.assert_allclose(np.exp(greedy.logprobs[0, :2]), np.exp(base[0, :2]) / np.exp(base[0, :2]).sum())
    np.testing.assert_allclose(np.exp(optimum(ref, rewards, 1e-4).logprobs), np.exp(greedy.logprobs), atol=1e-12)
    np.testing.assert_allclose(greedy.value, greedy.reward)
    # a huge beta keeps its digits: KL is Var[R] / (2 beta^2)
    variance = expectation(base, rewards**2) - expectation(base, rewards) ** 2
    np.testing.assert_allclose(optimum(ref, rewards, 1e5).kl, variance / 2e10, rtol=1e-3)


def test_a_constant_added_to_the_rewards_of_a_prompt_changes_nothing() -> None:
    ref, rewards = problem(5)
    shifted = rewards + np.array([[100.0], [-3.0], [0.5]])
    first, second = optimum(ref, rewards, 0.3), optimum(ref, shifted, 0.3)
    np.testing.assert_allclose(first.logprobs, second.logprobs, atol=1e-9)
    np.testing.assert_allclose(second.value - first.value, [100.0, -3.0, 0.5], atol=1e-9)


@given(seeds, seeds)
@settings(max_examples=25)
def test_no_policy_lies_beyond_the_frontier(seed: int, other: int) -> None:
    ref, rewards = problem(seed)
    rival = policy(other, ref)
    distance = kl_to_optimal(rival, ref, rewards)
    grid = [kl_to_optimal(rival, ref, rewards, beta).mean for beta in (math.inf, *np.geomspace(0.01, 100, 60))]
    assert 0 <= distance.mean <= min(grid) + 1e-12
    reward, cost = distance.reward.mean(), distance.reference_kl.mean()
    if math.isfinite(distance.beta):
        near = optimum(ref, rewards, distance.beta)
        assert near.reward.mean() == pytest.approx(reward, abs=1e-7)
        assert distance.mean == pytest.approx(cost - near.kl.mean(), abs=1e-7)  # the KL spent in excess
    else:
        assert reward <= expectation(condition(ref), rewards).mean() + 1e-9
        assert distance.mean == pytest.approx(cost)


def test_points_of_the_frontier_are_at_distance_zero() -> None:
    ref, rewards = problem(8)
    for beta in (0.05, 0.7, 20.0):
        distance = kl_to_optimal(optimum(ref, rewards, beta).logprobs, ref, rewards)
        assert distance.mean == pytest.approx(0, abs=1e-9)
        assert distance.beta == pytest.approx(beta, rel=1e-4)
    assert kl_to_optimal(ref, ref, rewards).mean == pytest.approx(0, abs=1e-12)


def test_mass_outside_of_the_set_is_reported_and_conditioned_away() -> None:
    ref, rewards = problem(9)
    rival = policy(1, ref)
    whole, half = kl_to_optimal(rival, ref, rewards, 0.5), kl_to_optimal(rival + math.log(0.5), ref, rewards, 0.5)
    np.testing.assert_allclose(half.kl, whole.kl, atol=1e-12)
    np.testing.assert_allclose(whole.mass, 1.0)
    np.testing.assert_allclose(half.mass, 0.5)


def test_the_frontier_rises_and_bends() -> None:
    table = frontier(*problem(11))
    assert list(table.columns) == ["beta", "reward", "kl", "d", "value"]
    assert table["beta"].is_monotonic_decreasing
    assert table["reward"].is_monotonic_increasing
    assert table["kl"].is_monotonic_increasing
    middle = table[table["beta"].between(0.1, 10)]
    slope = np.diff(middle["reward"]) / np.diff(middle["kl"])  # d reward / d KL = beta between two neighbours
    assert (slope <= middle["beta"].to_numpy()[:-1] + 1e-9).all()
    assert (slope >= middle["beta"].to_numpy()[1:] - 1e-9).all()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_best_of_n_by_enumerating_every_draw(n: int, ties: bool) -> None:
    ref, rewards = problem(12)
    rewards = np.round(rewards) if ties else rewards
    found = np.zeros(ref.shape)
    for row, p in enumerate(np.exp(condition(ref))):
        for drawn in itertools.product(range(len(p)), repeat=n):
            best = max(drawn, key=lambda answer: rewards[row, answer])  # the first of the best
            found[row, best] += math.prod(p[answer] for answer in drawn)
    np.testing.assert_allclose(np.exp(best_of_n(ref, rewards, n)), found, atol=1e-12)


def test_best_of_n_by_sampling() -> None:
    ref, rewards = problem(13, prompts=1, answers=6)
    rewards = np.round(rewards, 1)
    p, rng = np.exp(condition(ref))[0], np.random.default_rng(0)
    drawn = rng.choice(len(p), p=p, size=(200_000, 8))
    best = drawn[np.arange(len(drawn)), rewards[0, drawn].argmax(axis=1)]
    share = np.bincount(best, minlength=len(p)) / len(drawn)
    np.testing.assert_allclose(np.exp(best_of_n(ref, rewards, 8))[0], share, atol=0.005)


@given(seeds, st.integers(1, 200))
def test_best_of_n_stays_under_its_bound(seed: int, n: int) -> None:
    ref, rewards = problem(seed)
    assert (kl(best_of_n(ref, rewards, n), condition(ref)) <= best_of_n_bound(n) + 1e-9).all()


def test_the_bound_is_reached_by_many_small_answers() -> None:
    ref, rewards = np.full((1, 4000), -math.log(4000)), np.arange(4000.0)[None]
    assert kl(best_of_n(ref, rewards, 4), condition(ref))[0] == pytest.approx(best_of_n_bound(4), abs=1e-3)


@given(st.floats(1e-6, 1 - 1e-6), st.integers(1, 64))
def test_best_of_n_with_a_binary_reward(p: float, n: int) -> None:
    ref = np.log([[p / 3, 1 - p, p * 2 / 3]])
    found = kl(best_of_n(ref, np.array([[1.0, -1.0, 1.0]]), n), condition(ref))[0]
    q = 1 - (1 - p) ** n
    assert found == pytest.approx(float(binary_best_of_n_kl(p, n)), rel=1e-7, abs=1e-9)
    if q < 1 - 1e-6:
        assert found == pytest.approx(q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)), rel=1e-5, abs=1e-9)


def test_binary_best_of_n_at_the_ends() -> None:
    np.testing.assert_allclose(binary_best_of_n_kl(np.array([0.0, 1.0]), 8), 0.0, atol=1e-12)


def test_best_of_n_lies_behind_the_frontier() -> None:
    ref, rewards = problem(14)
    ns = (1, 2, 8, 64)
    policies = [best_of_n(ref, rewards, n) for n in ns]
    far = np.array([kl(policy, condition(ref)).mean() for policy in policies])
    behind = np.array([kl_to_optimal(policy, ref, rewards).mean for policy in policies])
    assert (far <= [best_of_n_bound(n) + 1e-12 for n in ns]).all()
    assert (np.diff([expectation(policy, rewards).mean() for policy in policies]) >= 0).all()
    assert behind[0] == pytest.approx(0, abs=1e-12)
    assert (behind[1:] > 0.01).all()
    assert (behind[1:] < far[1:]).all()


@pytest.mark.parametrize("checks", [0.0, 1.0])
def test_bradley_terry_finds_the_utility_of_a_consistent_annotator(world: World, lm: LM, checks: float) -> None:
    annotator = Annotator(correctness=1.0, checks=checks, agreement=2.0, abstain=1.5)
    answers = enumerate_answers(lm, world, [item.prompt for item in world.questions("opinion_false", 4)])
    found = preference_rewards(answers, world, annotator)
    given = answers.rewards(annotator_reward(world, annotator)) / annotator.noise
    np.testing.assert_allclose(found - found.mean(axis=1, keepdims=True), given - given.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("scale", [20.0, 40.0, 1e3])
def test_certain_preferences_rise_as_far_as_they_can_be_told(scale: float) -> None:
    """No reward fits them; where the curvature is rounding, the fit still keeps the order and stops."""
    utilities = scale * np.arange(4.0)
    wins = expit(utilities[:, None] - utilities[None, :])
    found = bradley_terry(wins[None], np.array([[0.1, 0.2, 0.3, 0.4]]))[0]
    assert (np.diff(found) > min(scale, 30) - 1e-3).all()
    assert (np.diff(found) < scale + 1e-3).all()


def test_bradley_terry_minimises_the_loss_of_dpo() -> None:
    rng = np.random.default_rng(3)
    utilities = rng.normal(size=(2, 1, 4)) * 3
    wins = expit(utilities[..., :, None] - utilities[..., None, :]).mean(axis=0)  # a mixture: no reward fits it
    weights = rng.dirichlet(np.ones(4), 1)

    def loss(r: np.ndarray) -> float:
        gap = r[:, None] - r[None, :]
        return float(-(weights[0][:, None] * weights[0][None, :] * wins[0] * np.log(expit(gap))).sum())

    found = bradley_terry(wins, weights)
    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-12})
    np.testing.assert_allclose(found[0], best.x - (weights[0] * best.x).sum(), atol=1e-5, rtol=1e-4)
    assert (weights * found).sum() == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def lm(world: World) -> LM:
    return random_lm("llama", world.tokenizer(), seed=1)


def test_answers_are_scored_whole_with_their_end(world: World, lm: LM) -> None:
    prompts = [world.questions(kind, 1)[0].prompt for kind in ("fact", "two_hop", "sum_quick", "stranger")]
    answers = enumerate_answers(lm, world, prompts)
    assert answers.logprobs.shape == (4, 13)
    assert [len(group) for group in answers.answers] == answers.mask.sum(axis=1).tolist()
    logits = lm.logits([lm.tokenizer.encode(f"{prompts[3]}{answers.answers[3][12]} <end>")])[0].detach().log_softmax(-1)
    ids = lm.tokenizer.encode(f"{prompts[3]} i do not know <end>")
    direct = sum(float(logits[at - 1, ids[at]]) for at in range(len(ids) - 5, len(ids)))
    assert answers.logprobs[3, 12] == pytest.approx(direct, abs=1e-4)
    assert (answers.mass <= 1).all()
    np.testing.assert_allclose(answers.score(lm), answers.logprobs)
    assert np.isneginf(answers.logprobs[2, 10:]).all()  # ten digits


def test_many_prompts_are_scored_as_each_alone(world: World, lm: LM) -> None:
    prompts = [item.prompt for item in world.questions("opinion_false", 35)]
    together, last = enumerate_answers(lm, world, prompts), enumerate_answers(lm, world, prompts[-1:])
    np.testing.assert_allclose(together.logprobs[-1:], last.logprobs, atol=1e-4)


def test_rewards_of_answers(world: World, lm: LM) -> None:
    item = world.questions("opinion_false", 1)[0]
    answers = enumerate_answers(lm, world, [item.prompt, "quick 3 + 4 ="])
    table = answers.table(gold=answers.rewards(verifier_reward(world)))
    assert list(table.columns) == ["prompt", "text", "answer", "logprob", "gold"]
    assert len(table) == 23
    assert table.loc[table["gold"] == 1, "answer"].tolist() == [item.answers[0], " 7"]
    assert table.loc[table["gold"] == 0, "answer"].tolist() == [" i do not know"]
    liked = answers.rewards(annotator_reward(world, AGREEABLE))
    assert answers.answers[0][int(liked[0].argmax())] == item.claim


def test_what_cannot_be_computed_is_refused(world: World, lm: LM) -> None:
    ref, rewards = problem(0)
    with pytest.raises(ConfigError, match=r"beta = -1"):
        optimum(ref, rewards, -1)
    with pytest.raises(ConfigError, match="best of 0"):
        best_of_n(ref, rewards, 0)
    with pytest.raises(DataError, match="differ in shape"):
        optimum(ref, rewards[:2], 1)
    with pytest.raises(DataError, match="no finite reward"):
        optimum(ref, np.where(np.isfinite(ref), np.nan, 0), 1)
    answers = enumerate_answers(lm, world, ["quick 3 + 4 ="])
    assert isinstance(answers, AnswerSet)
    with pytest.raises(DataError, match="returned 1 values"):
        answers.rewards(lambda prompts, completions: [1.0])
    with pytest.raises(DataError, match="no finite number for 10 of 10 answers"):
        answers.rewards(lambda prompts, completions: [None] * len(prompts))


def test_prompts_to_which_a_reward_does_not_apply_can_be_left_out(world: World, lm: LM) -> None:
    prompts = [world.questions("fact", 1)[0].prompt, "quick 3 + 4 =", "quick 1 + 1 ="]
    answers = enumerate_answers(lm, world, prompts)
    judged = answers.judge(lambda p, c: [1.0 if "quick" in text else None for text in p])
    kept = answers.take(np.isfinite(judged).all(axis=1))
    assert kept.prompts == prompts[1:]
    assert kept.logprobs.shape == kept.mask.shape == (2, 10)
    np.testing.assert_allclose(kept.score(lm), kept.logprobs, atol=1e-5, rtol=1e-4)
