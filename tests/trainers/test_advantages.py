"""Rewards a token, advantages and whitening against a slow reference, exact enumeration and finite differences."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trainers import slow_ppo
from trainers.rlhf import adapt_beta, gae, token_rewards, value_loss, whiten
from trainers.rlvr import surrogate

CLOSE: dict[str, float] = {"rtol": 1e-9, "atol": 1e-9}


class Batch(NamedTuple):
    """Completions of unequal lengths with random numbers."""

    lengths: list[int]
    rows: dict[str, list[list[float]]]
    scores: list[float]

    def table(self, name: str, left: int = 0, right: int = 0) -> Tensor:
        """One kind of row, padded with rubbish, `left` columns before and `right` ones after the longest."""
        width = left + max(self.lengths, default=0) + right
        table = torch.full((len(self.lengths), width), 7e7, dtype=torch.float64)
        for i, row in enumerate(self.rows[name]):
            table[i, left : left + len(row)] = torch.tensor(row, dtype=torch.float64)
        return table

    def mask(self, left: int = 0, right: int = 0) -> Tensor:
        columns = torch.arange(left + max(self.lengths, default=0) + right) - left
        return (columns >= 0) & (columns < torch.tensor(self.lengths)[:, None])


def make(lengths: list[int], seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    names = ("new", "old", "ref", "values", "old_values", "advantages", "returns")
    rows = {name: [rng.normal(size=length).tolist() for length in lengths] for name in names}
    rows["new"] = [[x + rng.normal(scale=0.3) for x in row] for row in rows["old"]]
    return Batch(lengths, rows, rng.normal(size=len(lengths)).tolist())


batches = st.builds(make, st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(0, 10**6))


def cut(table: Tensor, batch: Batch, left: int = 0) -> list[list[float]]:
    """The real entries; the others must be 0."""
    width = table.shape[1]
    for row, length in zip(table.tolist(), batch.lengths, strict=True):
        assert not any(row[:left])
        assert not any(row[left + length : width])
    return [row[left : left + length] for row, length in zip(table.tolist(), batch.lengths, strict=True)]


def flat(rows: Any) -> list[float]:
    return [x for row in rows for x in row]


@settings(max_examples=60)
@given(batches, st.integers(0, 3), st.integers(0, 3), st.floats(0, 2))
def test_rewards_equal_the_slow_ones(batch: Batch, left: int, right: int, beta: float) -> None:
    drift = batch.table("old", left, right) - batch.table("ref", left, right)
    scores = torch.tensor(batch.scores, dtype=torch.float64)
    found = token_rewards(drift, scores, batch.mask(left, right), beta)
    rows = zip(batch.rows["old"], batch.rows["ref"], batch.scores, strict=True)
    expected = [slow_ppo.rewards(old, ref, score, beta) for old, ref, score in rows]
    assert flat(cut(found, batch, left)) == pytest.approx(flat(expected), rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(batches, st.integers(0, 3), st.integers(0, 3), st.floats(0, 1), st.floats(0, 1))
def test_advantages_equal_the_slow_ones(batch: Batch, left: int, right: int, gamma: float, lam: float) -> None:
    tables = [batch.table(name, left, right) for name in ("returns", "values")]
    found = gae(*tables, batch.mask(left, right), gamma, lam)
    rows = list(zip(batch.rows["returns"], batch.rows["values"], strict=True))
    expected = [slow_ppo.advantages(r, values, gamma, lam) for r, values in rows]
    assert flat(cut(found.advantages, batch, left)) == pytest.approx(flat(expected), rel=1e-9, abs=1e-9)
    returns = [
        [a + v for a, v in zip(row, values, strict=True)] for row, (_, values) in zip(expected, rows, strict=True)
    ]
    assert flat(cut(found.returns, batch, left)) == pytest.approx(flat(returns), rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(batches, st.integers(0, 3), st.integers(0, 3))
def test_whitening_equals_the_slow_one(batch: Batch, left: int, right: int) -> None:
    found = whiten(batch.table("advantages", left, right), batch.mask(left, right))
    expected = slow_ppo.whitened(batch.rows["advantages"])
    assert flat(cut(found, batch, left)) == pytest.approx(flat(expected), rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(batches, st.floats(0.01, 0.9), st.floats(0, 0.9))
def test_losses_equal_the_slow_ones(batch: Batch, epsilon: float, epsilon_value: float) -> None:
    tables = {name: batch.table(name) for name in batch.rows}
    policy = surrogate(tables["new"], tables["old"], tables["advantages"], epsilon, epsilon)
    value = value_loss(tables["values"], tables["old_values"], tables["returns"], epsilon_value)
    mask = batch.mask()
    tokens = zip(*(flat(batch.rows[name]) for name in ("new", "old", "advantages")), strict=True)
    expected = [slow_ppo.policy_loss(*token, epsilon) for token in tokens]
    assert policy.losses[mask].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-9, abs=1e-9)
    assert (policy.low | policy.high)[mask].tolist() == [clipped for _, clipped in expected]
    tokens = zip(*(flat(batch.rows[name]) for name in ("values", "old_values", "returns")), strict=True)
    expected = [slow_ppo.value_loss(*token, epsilon_value) for token in tokens]
    assert value.losses[mask].tolist() == pytest.approx([loss for loss, _ in expected], rel=1e-9, abs=1e-9)
    assert value.clipped[mask].tolist() == [clipped for _, clipped in expected]


def test_gradients_equal_finite_differences() -> None:
    batch = make([5, 0, 7, 1], seed=3)
    tables = {name: batch.table(name) for name in batch.rows}
    mask, step = batch.mask(), 1e-6

    def loss(new: Tensor, values: Tensor) -> Tensor:
        policy = surrogate(new, tables["old"], tables["advantages"], 0.2, 0.2).losses
        value = value_loss(values, tables["old_values"], tables["returns"], 0.2).losses
        return (policy + 0.1 * value)[mask].mean()

    inputs = [tables[name].clone().requires_grad_() for name in ("new", "values")]
    found = torch.autograd.grad(loss(*inputs), inputs)
    assert len({x.item() for x in found[0][mask]}) > 5
    for which in (0, 1):
        for i, t in mask.nonzero().tolist():
            ends = []
            for sign in (1, -1):
                moved = [table.detach().clone() for table in inputs]
                moved[which][i, t] += sign * step
                ends.append(loss(*moved).item())
            assert found[which][i, t].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_advantages_take_no_gradient_through_the_values() -> None:
    values = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    found = gae(torch.ones(2, 3, dtype=torch.float64), values, torch.ones(2, 3, dtype=torch.bool), 1.0, 0.95)
    assert not found.advantages.requires_grad
    assert not found.returns.requires_grad


def test_returns_of_lambda_one_are_the_rewards_to_come_whatever_the_values() -> None:
    batch = make([4, 6], seed=1)
    rewards = batch.table("returns").where(batch.mask(), 0)
    for name in ("values", "old_values"):
        returns = gae(rewards, batch.table(name), batch.mask(), 1.0, 1.0).returns
        torch.testing.assert_close(returns, rewards.flip(1).cumsum(1).flip(1).where(batch.mask(), 0), **CLOSE)


def test_no_tokens_give_zero_and_no_nan() -> None:
    for mask in (torch.zeros(3, 4, dtype=torch.bool), torch.zeros(3, 0, dtype=torch.bool)):
        x = torch.full(mask.shape, math.nan, dtype=torch.float64)
        advantages, returns = gae(x, x, mask, 1.0, 0.95)
        rewards = token_rewards(x, torch.ones(3, dtype=torch.float64), mask, 0.3)
        for table in (advantages, returns, rewards, whiten(x, mask)):
            assert torch.equal(table, torch.zeros_like(x))


def test_equal_advantages_are_whitened_to_zero() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    for value in (0.0, 5.0, -1 / 3):
        found = whiten(torch.full((2, 3), value, dtype=torch.float64), mask)
        assert float(found.abs().max()) < 1e-10
    assert float(whiten(torch.tensor([[3.0]]), mask[:1, :1])) == 0.0


@pytest.mark.parametrize("baseline", [0.0, 1.7])
def test_the_estimator_is_the_gradient_of_the_objective(baseline: float) -> None:
    """Over all completions of a policy with three tokens, one of which ends: E10's gradient exactly, any values."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(7, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(7, 3, generator=generator, dtype=torch.float64).log_softmax(-1)
    predicted = baseline * torch.randn(7, generator=generator, dtype=torch.float64)
    beta, end = 0.3, 2

    def states(text: list[int]) -> list[int]:
        """The row of the table that each token is drawn from; the state is the tokens before."""
        index = {(): 0, (0,): 1, (1,): 2, (0, 0): 3, (0, 1): 4, (1, 0): 5, (1, 1): 6}
        return [index[tuple(text[:t])] for t in range(len(text))]

    texts = [[2], [0, 2], [1, 2]] + [[a, b, c] for a in (0, 1) for b in (0, 1) for c in range(3)]
    scores = torch.randn(len(texts), generator=generator, dtype=torch.float64)
    mask = torch.tensor([[t < len(text) for t in range(3)] for text in texts])
    at = torch.tensor([states(text) + [0] * (3 - len(text)) for text in texts])
    ids = torch.tensor([text + [end] * (3 - len(text)) for text in texts])
    logprobs = theta.log_softmax(-1)[at, ids].where(mask, 0)
    drift = logprobs - reference[at, ids].where(mask, 0)
    weights = logprobs.sum(1).exp()
    assert float(weights.detach().sum()) == pytest.approx(1)
    (expected,) = torch.autograd.grad((weights * (scores - beta * drift.sum(1))).sum(), theta, retain_graph=True)

    rewards = token_rewards(drift.detach(), scores, mask, beta)
    advantages = gae(rewards, predicted[at], mask, 1.0, 1.0).advantages
    losses = surrogate(logprobs, logprobs.detach(), advantages, 0.2, 0.2).losses
    (found,) = torch.autograd.grad((weights.detach()[:, None] * losses)[mask].sum(), theta)
    torch.testing.assert_close(-found, expected, **CLOSE)


@pytest.mark.parametrize(
    ("kl", "factor"), [(6.0, 1.0), (6.6, 1.01), (60.0, 1.02), (5.4, 0.99), (0.0, 0.98), (-3.0, 0.98)]
)
def test_the_coefficient_follows_the_kl(kl: float, factor: float) -> None:
    assert adapt_beta(0.2, kl, 6.0, 0.1) == pytest.approx(0.2 * factor)
