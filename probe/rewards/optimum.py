"""Exact optimum of alignment on finite answer sets, a policy's distance from it (E10, E12), and best of N (E14).

    pi*_beta(y|x) = pi_ref(y|x) exp(R(x, y) / beta) / Z(x)   maximises   E_pi[R] - beta KL(pi || pi_ref)

and its value is beta log Z(x). Over all beta these policies are the reward-KL frontier: no policy has more reward at
less KL. Since KL(pi || pi*_beta) = KL(pi || pi_ref) - E_pi[R] / beta + log Z, the nearest point of the frontier is the
one with the reward of pi, and the distance to it is the excess KL of pi.

    answers = enumerate_answers(base, world, prompts)
    rewards = answers.rewards(verifier_reward(world))
    frontier(answers.logprobs, rewards)                                   # reward and KL by beta
    kl_to_optimal(answers.score(lm), answers.logprobs, rewards, beta=0.3).mean

Everything is numpy in double precision. Axes: P prompts, A answers (-inf log-probability beyond a prompt's answers), B
values of beta. Distributions are conditioned on the answer set. Sources: Rafailov et al. 2305.18290, appendix A.1;
best of N: Beirami et al. 2401.01879.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import logsumexp, rel_entr

from probe.errors import ConfigError, DataError
from probe.rewards.answers import (
    AnswerSet,
    Array,
    annotator_reward,
    bradley_terry,
    enumerate_answers,
    preference_rewards,
    verifier_reward,
)

__all__ = [
    "AnswerSet",
    "Distance",
    "OptimalPolicy",
    "annotator_reward",
    "bradley_terry",
    "check_arrays",
    "condition",
    "enumerate_answers",
    "expectation",
    "frontier",
    "kl",
    "kl_to_optimal",
    "optimum",
    "preference_rewards",
    "verifier_reward",
]


@dataclass(frozen=True)
class OptimalPolicy:
    """Optimal policy pi*_beta for P prompts."""

    beta: float
    """Price of KL in units of the reward per nat; 0 is the greedy end of the frontier, infinity the reference."""
    logprobs: Array
    """[P A] log pi*, nats."""
    value: Array
    """[P] beta log Z = E[R] - beta KL, the largest possible value of the objective."""
    reward: Array
    """[P] E[R] under pi*."""
    kl: Array
    """[P] KL(pi* || pi_ref), nats."""

    @property
    def log_z(self) -> Array:
        """[P] log Z; infinite or undefined at beta = 0."""
        return self.value / self.beta if self.beta else np.full(self.value.shape, np.nan)


@dataclass(frozen=True)
class Distance:
    """Distance of a policy from pi*_beta on P prompts."""

    kl: Array
    """[P] KL(pi || pi*_beta), nats."""
    beta: float
    """Requested beta, or that of the frontier's nearest point."""
    reward: Array
    """[P] E[R] under the policy."""
    reference_kl: Array
    """[P] KL(pi || pi_ref), nats."""
    mass: Array
    """[P] probability of the answer set under the policy; all else is conditioned on it."""

    @property
    def mean(self) -> float:
        """Mean over the prompts of the KL to the optimum."""
        return float(self.kl.mean())


def optimum(ref_logprobs: Array, rewards: Array, beta: float) -> OptimalPolicy:
    """Return pi*_beta in closed form (E12).

    Args:
        ref_logprobs: [P A] (or [A]) log-probabilities of the answers under the reference; they need not be normalised.
        rewards: [P A] R(x, y).
        beta: 0 or more; 0 gives the answers of highest reward in the reference's proportions (the limit), infinity
            the reference.

    Raises:
        ConfigError: beta is negative.
        DataError: shapes differ, or a prompt has no answer of positive probability.
    """
    if not beta >= 0:
        raise ConfigError(f"The optimum for beta = {beta} does not exist: give 0 or more.")
    ref, rewards = check_arrays(ref_logprobs, rewards)
    best = np.where(np.isfinite(ref), rewards, -np.inf).max(axis=1, keepdims=True)
    gap = np.where(np.isfinite(ref), rewards - best, 0.0)
    tilt = gap / beta if beta else np.where(gap == 0, 0.0, -np.inf)
    log_z = _log_mean_exp(ref, tilt)
    logprobs = ref + tilt - log_z
    # KL from the tilt: log pi*/pi_ref = tilt - log Z where pi* is not zero
    divergence = expectation(logprobs, np.where(np.isfinite(logprobs), tilt - log_z, 0.0))
    value = best[:, 0] + (beta * log_z[:, 0] if np.isfinite(beta) else expectation(ref, gap))
    return OptimalPolicy(float(beta), logprobs, value, expectation(logprobs, rewards), np.maximum(divergence, 0.0))


def frontier(ref_logprobs: Array, rewards: Array, betas: Sequence[float] | None = None) -> pd.DataFrame:
    """Compute the exact reward-KL frontier, one beta per row, as means over the prompts.

    Args:
        ref_logprobs: [P A] log-probabilities, as in `optimum`.
        rewards: [P A] R(x, y).
        betas: values of beta; default: infinity (the reference), 60 values over four powers of ten around the spread of
            the rewards, and 0 (always the best answer).

    Returns:
        Columns beta, reward, kl, d (square root of kl), value (reward - beta kl), in descending order of beta.
    """
    if betas is None:
        spread = float(np.ptp(np.asarray(rewards)[np.isfinite(np.asarray(ref_logprobs))])) or 1.0
        betas = [np.inf, *(spread * np.geomspace(1e2, 1e-2, 60)), 0.0]
    points = [optimum(ref_logprobs, rewards, beta) for beta in sorted(betas, reverse=True)]
    table = pd.DataFrame(
        {
            "beta": [point.beta for point in points],
            "reward": [point.reward.mean() for point in points],
            "kl": [point.kl.mean() for point in points],
            "value": [point.value.mean() for point in points],
        }
    )
    table.insert(3, "d", np.sqrt(table["kl"]))
    return table


def kl_to_optimal(logprobs: Array, ref_logprobs: Array, rewards: Array, beta: float | None = None) -> Distance:
    """Measure KL(pi || pi*_beta) of a policy on the answer sets.

    Args:
        logprobs: [P A] unnormalised log-probabilities of the answers under the policy (their sum is the mass).
        ref_logprobs: [P A] the same under the reference.
        rewards: [P A] R(x, y).
        beta: beta of the policy's training; None takes the beta, equal for all prompts, whose optimum is nearest: the
            distance to the frontier.

    Raises:
        ConfigError, DataError: see `optimum`.
    """
    ref, rewards = check_arrays(ref_logprobs, rewards)
    policy = condition(logprobs)
    reward = expectation(policy, rewards)
    strength = _nearest_beta(ref, rewards, float(reward.mean())) if beta is None else float(beta)
    best = optimum(ref, rewards, strength)
    mass = np.exp(np.atleast_2d(logprobs)).sum(axis=1)
    return Distance(kl(policy, best.logprobs), strength, reward, kl(policy, ref), mass)


def condition(logprobs: Array) -> Array:
    """Return the log-probabilities [P A] given that the answer is in the set."""
    logprobs = np.atleast_2d(np.asarray(logprobs, dtype=float))
    return logprobs - logsumexp(logprobs, axis=1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    """Return KL(p || q) [P] of distributions given as [P A] log-probabilities, in nats; infinite if q lacks support."""
    there = np.isfinite(p)
    with np.errstate(invalid="ignore"):
        ratio = np.where(there, p - q, 0.0)
    return np.maximum((np.exp(p) * ratio).sum(axis=1), 0.0)


def expectation(logprobs: Array, values: Array) -> Array:
    """Return the mean [P] of [P A] values under [P A] log-probabilities."""
    return (np.exp(logprobs) * values).sum(axis=1)


def _nearest_beta(ref: Array, rewards: Array, target: float) -> float:
    """Find the beta whose optimum has the mean reward `target`, which minimises the mean KL(pi || pi*_beta).

    With k = 1 / beta the mean KL is convex in k and its derivative is E_pi*[R] - E_pi[R], which grows with k.
    """
    gap = rewards - np.where(np.isfinite(ref), rewards, -np.inf).max(axis=1, keepdims=True)

    def excess(k: float) -> float:
        logits = ref + k * gap
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return float(((weights * rewards).sum(axis=1) / weights.sum(axis=1)).mean()) - target

    if excess(0.0) >= 0:
        return float("inf")
    high = 1.0 / (float(np.ptp(rewards[np.isfinite(ref)])) or 1.0)
    limit = high * 1e6
    while excess(high) < 0:
        high *= 2
        if high > limit:
            return 1 / limit
    root = float(brentq(excess, 0.0, high, xtol=1e-12 * high, rtol=1e-14))
    return 1 / root if root else float("inf")


def _log_mean_exp(ref: Array, tilt: Array) -> Array:
    """Return log sum_y pi_ref(y) exp(tilt) [P 1], exact even for a tiny tilt (tilt <= 0)."""
    probabilities = np.exp(ref)
    small = (probabilities * np.expm1(np.maximum(tilt, -1.0))).sum(axis=1, keepdims=True)
    near = (tilt > -1.0).all(axis=1, keepdims=True)
    far = np.logaddexp.reduce(ref + tilt, axis=1, keepdims=True)
    return np.where(near, np.log1p(np.where(near, small, 0.0)), far)


def check_arrays(ref_logprobs: Array, rewards: Array) -> tuple[Array, Array]:
    """Return the reference conditioned on its answers, and the rewards, both [P A] in double precision.

    Raises:
        DataError: shapes differ, a prompt has no answer of positive probability, or a reward is not finite.
    """
    ref, scores = (np.atleast_2d(np.asarray(values, dtype=float)) for values in (ref_logprobs, rewards))
    if ref.shape != scores.shape:
        raise DataError(
            f"Log-probabilities {ref.shape} and rewards {scores.shape} differ in shape: give one an answer."
        )
    if not np.isfinite(ref).any(axis=1).all() or not np.isfinite(scores[np.isfinite(ref)]).all():
        raise DataError("A prompt has no answer, or an answer no finite reward: give finite numbers for each answer.")
    return condition(ref), np.where(np.isfinite(ref), scores, 0.0)


def best_of_n(ref_logprobs: Array, rewards: Array, n: int) -> Array:
    """Return log-probabilities [P A] of the best of `n` draws from the reference (E14), as in rejection sampling.

    N answers are drawn and the one of highest reward is kept; among equal rewards the first drawn. By symmetry the
    answers of one level of reward keep the reference's proportions, so only the level matters:

        P(best level = r) = F(r)^N - F(below r)^N,   where F is the cumulative distribution of the reward under the
        reference.

    Args:
        ref_logprobs: [P A] log-probabilities of the answers under the reference; they need not be normalised.
        rewards: [P A] R(x, y).
        n: number of draws, at least 1.

    Raises:
        ConfigError: `n` is below 1.
        DataError: see `probe.rewards.optimum.optimum`.
    """
    if n < 1:
        raise ConfigError(f"The best of {n} samples does not exist: give 1 or more.")
    ref, rewards = check_arrays(ref_logprobs, rewards)
    probabilities = np.exp(ref)
    higher = rewards[:, None, :] > rewards[:, :, None]
    equal = rewards[:, None, :] == rewards[:, :, None]
    above = np.where(higher, probabilities[:, None, :], 0.0).sum(axis=2)
    level = np.where(equal, probabilities[:, None, :], 0.0).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_cdf = n * np.log1p(-np.minimum(above, 1.0))
        # probability below the level, as a share of the probability up to it
        below = n * np.log1p(-np.minimum(level / (1.0 - above), 1.0))
        logprobs = ref - np.log(level) + log_cdf + np.log(-np.expm1(below))
    return np.where(np.isfinite(ref) & (level > 0), logprobs, -np.inf)


def best_of_n_bound(n: int) -> float:
    """Return log N - (N-1)/N, an upper bound of KL(best of N || reference) in nats (Beirami et al. 2401.01879).

    It is reached only if no two answers tie.
    """
    return float(np.log(n) - (n - 1) / n)


def binary_best_of_n_kl(p: Array | float, n: int) -> Array:
    """Return KL(best of N || reference) for a binary reward with rate `p` of the higher value under the reference.

    q log(q/p) + (1-q) log((1-q)/(1-p)) with q = 1 - (1-p)^N, in nats (METRICS, details that decide correctness).
    """
    p = np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        q = -np.expm1(n * np.log1p(-p))
    return rel_entr(q, p) + rel_entr((1 - p) ** n, 1 - p)
