"""Every alignment method, as `probe train` runs it, moves to the exact optimum of its objective on a tabular problem.

The stated factors are what KL(pi || pi*) must fall by; what was measured is behind them. Estimators of the KL that are
biased as a term of the loss must *not* get there: k3 goes to the optimum of the reverse KL, which is known too.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq

from probe import Run
from probe.rewards.optimum import best_of_n, condition, expectation, kl, kl_to_optimal, optimum
from tests.trainers.quick import make_config, train
from tests.trainers.tabular import PROMPTS, Tabular, make, write_pairs

COMMON: dict[str, Any] = {"evaluate": 0, "capture_every": 0, "eval_every": 0, "save_every": 0, "device": "cpu"}
ONLINE: dict[str, Any] = {"group": 16, "batch_size": 12, "max_new_tokens": 3, "rollouts_every": 0, "lr": 3e-3}
BETA = 0.3


@pytest.fixture(scope="module")
def tabular(tmp_path_factory: pytest.TempPathFactory) -> Tabular:
    return make(tmp_path_factory.mktemp("tabular"))


def run(method: str, tabular: Tabular, out: Path, **options: Any) -> Run:
    given = {"base": str(tabular.base), "out": out} | COMMON | options
    return train(make_config(method, **given))


def online(method: str, tabular: Tabular, out: Path, **options: Any) -> Run:
    return run(method, tabular, out, data=str(tabular.prompts), reward=(tabular.judge,), **ONLINE | options)


def falls(tabular: Tabular, trained: Run, rewards: np.ndarray, beta: float) -> float:
    """KL(pi || pi*_beta) before training over the same after it."""
    start = tabular.answers.logprobs
    before, after = (kl_to_optimal(policy, start, rewards, beta).mean for policy in (start, tabular.score(trained)))
    return before / after


def reverse_optimum(tabular: Tabular, beta: float) -> np.ndarray:
    """log pi of the best E[R] - beta KL(pi_ref || pi): pi = beta pi_ref / (lambda - R), lambda so that it sums to 1."""
    rows = []
    for p, rewards in zip(np.exp(condition(tabular.answers.logprobs)), tabular.rewards, strict=True):

        def excess(level: float, p: np.ndarray = p, rewards: np.ndarray = rewards) -> float:
            return float((beta * p / (level - rewards)).sum()) - 1

        rows.append(np.log(beta * p / (brentq(excess, rewards.max() + 1e-9, rewards.max() + 50) - rewards)))
    return np.array(rows)


def test_the_problem_is_what_it_says(tabular: Tabular) -> None:
    assert tabular.answers.mass.min() > 0.99
    start = kl_to_optimal(tabular.answers.logprobs, tabular.answers.logprobs, tabular.rewards, BETA)
    assert start.mean > 1  # there is a way to go
    assert len(PROMPTS) == len(tabular.answers.prompts)


def test_dpo_with_enough_pairs(tabular: Tabular, tmp_path: Path) -> None:
    """6,000 pairs with Bradley-Terry noise: the limit is the optimum for the reward over the noise. Measured: 329."""
    noise, beta = 0.5, 0.5
    pairs = write_pairs(tmp_path / "pairs.jsonl", tabular, 6000, noise)
    trained = run("dpo", tabular, tmp_path / "dpo", data=str(pairs), beta=beta, batch_size=64, lr=3e-3, warmup=5)
    assert falls(tabular, trained, tabular.rewards / noise, beta) > 50


def test_ppo(tabular: Tabular, tmp_path: Path) -> None:
    """60 steps of 192 completions. Measured: 632."""
    trained = online("rlhf", tabular, tmp_path / "rlhf", beta=BETA, steps=60, updates=2)
    assert falls(tabular, trained, tabular.rewards, BETA) > 50


def test_grpo_with_the_right_gradient(tabular: Tabular, tmp_path: Path) -> None:
    """80 steps of 192 completions, k2 in the loss, no division by the deviation. Measured: 152."""
    trained = online(
        "rlvr", tabular, tmp_path / "rlvr", beta=BETA, steps=80, normalisation="dr_grpo", kl_estimator="k2"
    )
    price = BETA * 16 / 15  # the mean of a group of 16 holds the completion itself
    assert falls(tabular, trained, tabular.rewards, price) > 50
    near = kl_to_optimal(tabular.score(trained), tabular.answers.logprobs, tabular.rewards)
    assert near.beta == pytest.approx(price, rel=0.1)


def test_grpo_with_k3_goes_elsewhere(tabular: Tabular, tmp_path: Path) -> None:
    """As a term of the loss k3 has the gradient of KL(pi_ref || pi): the policy lands on that optimum, not on pi*."""
    trained = online(
        "rlvr", tabular, tmp_path / "rlvr", beta=BETA, steps=80, normalisation="dr_grpo", kl_estimator="k3"
    )
    policy, price = condition(tabular.score(trained)), BETA * 16 / 15
    aim, other = optimum(tabular.answers.logprobs, tabular.rewards, price).logprobs, reverse_optimum(tabular, price)
    assert kl(policy, other).mean() < 0.01
    assert kl(policy, aim).mean() > 0.1


def test_one_round_of_rsft_is_the_best_of_n(tabular: Tabular, tmp_path: Path) -> None:
    """192 groups of 4, imitated until little is left: KL to the exact best-of-4 distribution. Measured: 28."""
    trained = online(
        "rsft",
        tabular,
        tmp_path / "rsft",
        group=4,
        batch_size=192,
        steps=1,
        warmup=0,
        updates=24,
        minibatches=4,
        lr=2e-3,
        schedule="constant",
    )
    start, policy = condition(tabular.answers.logprobs), condition(tabular.score(trained))
    aim = best_of_n(start, tabular.rewards, 4)
    assert kl(start, aim).mean() / kl(policy, aim).mean() > 10
    gained = expectation(policy, tabular.rewards).mean() - expectation(start, tabular.rewards).mean()
    assert gained == pytest.approx(
        expectation(aim, tabular.rewards).mean() - expectation(start, tabular.rewards).mean(), rel=0.1
    )
    # and so it is close to the point of the frontier that best-of-4 is closest to; measured: 12
    beta = kl_to_optimal(aim, start, tabular.rewards).beta
    assert falls(tabular, trained, tabular.rewards, beta) > 5
