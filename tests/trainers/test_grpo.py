"""GRPO's maths: each function against a slow definition, finite differences, TRL, and what exact enumeration gives."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers.rlvr import ESTIMATORS, NORMALISATIONS, bounded, centre, mean_of_tokens, standardise, surrogate

rewards = st.lists(st.floats(-5, 5), min_size=2, max_size=9)


def doubles(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(rewards)
def test_advantages_by_their_definition(group: list[float]) -> None:
    mean = sum(group) / len(group)
    std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
    found = [advantages(doubles([group]))[0].tolist() for advantages in (centre, standardise)]
    assert found[0] == pytest.approx([r - mean for r in group], abs=1e-9)
    assert found[1] == pytest.approx([(r - mean) / (std + 1e-4) for r in group], abs=1e-6)


@pytest.mark.parametrize("advantages", [centre, standardise])
def test_equal_rewards_give_exactly_zero(advantages: Any) -> None:
    """0.1 added up ten times and divided by ten is not 0.1; the difference over 1e-4 must not become a gradient."""
    found = advantages(doubles([[0.1] * 10, [1 / 3] * 10]))
    assert found.tolist() == [[0.0] * 10] * 2


@pytest.mark.parametrize("advantages", [centre, standardise])
def test_completions_without_a_reward_are_left_out(advantages: Any) -> None:
    nan = math.nan
    found = advantages(doubles([[1.0, nan, -1.0, 0.5], [nan, nan, nan, nan], [2.0, nan, nan, nan]]))
    alone = advantages(doubles([[1.0, -1.0, 0.5]]))
    torch.testing.assert_close(found[0, [0, 2, 3]], alone[0])
    assert found[0, 1] == 0
    assert not found[1:].any()


def test_denominators() -> None:
    """A loss of 1 at every token: each normalisation as its papers write it."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    losses = torch.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = {"grpo": (2.5 + 10 + 0) / 3, "dr_grpo": 20 / (3 * 16), "dapo": 20 / 5}
    expected |= {"gspo": expected["grpo"], "cispo": expected["dapo"]}
    for name, normalisation in NORMALISATIONS.items():
        weights, count = normalisation.weights(mask, 16)
        assert float((losses * weights).sum()) / count == pytest.approx(expected[name], rel=1e-6), name
        assert not weights[~mask].any()


def test_parts_add_up_to_the_whole() -> None:
    mask = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    for normalisation in NORMALISATIONS.values():
        whole, count = normalisation.weights(mask, 7)
        parts = [normalisation.weights(part, 7) for part in mask.split(2)]
        torch.testing.assert_close(torch.cat([weights for weights, _ in parts]), whole)
        assert sum(n for _, n in parts) == count


def test_surrogate_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logprobs, old = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = doubles([2.0, -1.0, 0.5, -3.0, 0.0, 1.0])
    found = surrogate(logprobs, old, advantages[:, None], 0.2, 0.28)
    for i in range(6):
        for t in range(5):
            ratio, a = math.exp(logprobs[i, t] - old[i, t]), float(advantages[i])
            bounded = min(max(ratio, 0.8), 1.28)
            assert float(found.losses[i, t]) == pytest.approx(-min(ratio * a, bounded * a))
            assert bool(found.low[i, t]) == (ratio < 0.8 and a < 0)
            assert bool(found.high[i, t]) == (ratio > 1.28 and a > 0)
    assert found.low.any()
    assert found.high.any()


def random_tokens(n: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities before and after, and a mask of completions of 0 to `length` tokens."""
    generator = torch.Generator().manual_seed(0)
    logprobs, old = (-torch.rand(n, length, generator=generator, dtype=torch.float64) for _ in range(2))
    return logprobs, old, torch.arange(length) < torch.arange(n)[:, None] % (length + 1)


def test_ratio_of_the_completion() -> None:
    """The length-th root of the ratio of the two probabilities of the whole text, by products."""
    logprobs, old, mask = random_tokens(12, 5)
    found = (mean_of_tokens(logprobs, mask) - mean_of_tokens(old, mask)).exp()
    for i in range(12):
        length = i % 6
        now, before = (math.prod(math.exp(x) for x in row[i, :length]) for row in (logprobs, old))
        assert float(found[i]) == pytest.approx((now / before) ** (1 / length) if length else 1, rel=1e-9)


def test_gspo_by_completion_and_by_finite_differences() -> None:
    """Losses, clips and gradients of whole completions: every token has the same part of the gradient, or none has."""
    logprobs, old, mask = random_tokens(24, 5)
    advantages = doubles([2.0, -1.0, 0.5, -3.0] * 6)[:, None]
    row = NORMALISATIONS["gspo"]

    def loss(x: torch.Tensor) -> torch.Tensor:
        now, before = row.unit.logprobs(x, mask), row.unit.logprobs(old, mask)
        weights, count = row.weights(mask, 5)
        return (row.surrogate(now, before, advantages, 0.1, 0.15).losses * weights).sum() / count

    expected, kinds = 0.0, set()
    free = logprobs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(free), free)
    made = row.surrogate(*(row.unit.logprobs(x, mask) for x in (logprobs, old)), advantages, 0.1, 0.15)
    for i in range(24):
        length, a = i % 6, float(advantages[i])
        ratio = math.exp(sum(float(logprobs[i, t] - old[i, t]) for t in range(length)) / max(length, 1))
        low, high = ratio < 0.9 and a < 0, ratio > 1.15 and a > 0
        assert (bool(made.low[i]), bool(made.high[i])) == (low, high)
        kinds.add((low, high))
        expected -= min(ratio * a, min(max(ratio, 0.9), 1.15) * a) / 24 if length else 0
        slope = 0 if low or high or not length else -a * ratio / (24 * length)
        assert gradient[i].tolist() == pytest.approx([slope] * length + [0] * (5 - length), rel=1e-6)
    assert kinds == {(False, False), (True, False), (False, True)}
    assert float(loss(logprobs)) == pytest.approx(expected)
    assert torch.autograd.gradcheck(loss, [free])


def test_cispo_token_by_token() -> None:
    """Every token keeps its gradient, with the weight min(w, 1 + epsilon_high) that is a constant to it."""
    generator = torch.Generator().manual_seed(0)
    logprobs, old = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    advantages = doubles([2.0, -1.0, 0.5, -3.0, 0.1, 1.0])
    free = logprobs.clone().requires_grad_()
    found = bounded(free, old, advantages[:, None], 0.2, 0.28)
    (gradient,) = torch.autograd.grad(found.losses.sum(), free)
    for i in range(6):
        for t in range(5):
            ratio, a = math.exp(logprobs[i, t] - old[i, t]), float(advantages[i])
            weight = min(ratio, 1.28) * a
            assert float(gradient[i, t]) == pytest.approx(-weight)
            assert float(found.losses[i, t].detach()) == pytest.approx(-weight * float(logprobs[i, t]))
            assert bool(found.high[i, t]) == (ratio > 1.28 and a > 0)
    assert found.high.any()
    assert not found.low.any()


def test_gradients_against_finite_differences() -> None:
    """Away from the corners of the clip; where it clips the gradient is 0."""
    old = doubles([[-1.0, -2.0, -0.5, -3.0]])
    logprobs = (old + doubles([[0.1, -0.1, 0.6, -0.6]])).requires_grad_()
    for advantage in (1.5, -1.5):
        assert torch.autograd.gradcheck(
            lambda x, a=advantage: surrogate(x, old, doubles([[a]]), 0.2, 0.2).losses, [logprobs]
        )
        made = surrogate(logprobs, old, doubles([[advantage]]), 0.2, 0.2)
        (gradient,) = torch.autograd.grad(made.losses.sum(), logprobs)
        assert torch.equal(gradient == 0, made.low | made.high)
    for estimator in ESTIMATORS.values():
        assert torch.autograd.gradcheck(estimator.value, [logprobs])


def test_what_the_estimators_estimate() -> None:
    """By enumeration of five tokens: the mean of each value and of each gradient, against both exact KLs.

    The tokens come from pi itself, and then from another policy.
    """
    generator = torch.Generator().manual_seed(3)
    logits, other, base = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_()
    reference = base.log_softmax(-1)

    def gradient(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    logprobs = logits.log_softmax(-1)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    reverse, forward = gradient(exact), gradient((reference.exp() * (reference - logprobs)).sum())
    assert not torch.allclose(reverse, forward, rtol=0.05)

    def mean(name: str, old: torch.Tensor) -> torch.Tensor:
        ratio, estimator = (logprobs - old).exp(), ESTIMATORS[name]
        return (old.exp() * estimator.value(logprobs - reference) * (ratio if estimator.weighted else 1)).sum()

    own, drifted = logprobs.detach(), other.log_softmax(-1)
    for name in ("k1", "k3", "k3w"):
        torch.testing.assert_close(mean(name, own), exact)
    assert abs(float((mean("k2", own) / exact - 1).detach())) > 0.01
    torch.testing.assert_close(gradient(mean("k1", own)), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(gradient(mean("k3", own)), forward)
    torch.testing.assert_close(gradient(mean("k2", own)), reverse)
    torch.testing.assert_close(gradient(mean("k3w", own)), reverse)
    torch.testing.assert_close(mean("k3w", drifted), exact)
    torch.testing.assert_close(gradient(mean("k3w", drifted)), reverse)
    assert not torch.allclose(gradient(mean("k2", drifted)), reverse, rtol=0.05)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_single_precision_has_the_estimators_gradients(name: str) -> None:
    """Against autograd of the value in double precision, over all x that occur, small ones and other ratios too.

    In double precision the parts of k3w's derivative cancel too, to within their rounding.
    """
    small = torch.logspace(-6, 0, 25)
    x = torch.cat([torch.linspace(-30, 30, 241), small, -small])
    reference = torch.full_like(x, -31.0)
    for shift in (0.0, 0.5, -0.7):
        logprobs = (reference + x).requires_grad_()
        old = logprobs.detach() - shift
        drift, estimator = logprobs - reference, ESTIMATORS[name]
        term = estimator.term(logprobs, drift, (logprobs - old).exp())
        (made,) = torch.autograd.grad(term.sum(), logprobs)

        exact = logprobs.detach().double().requires_grad_()
        value = estimator.value(exact - reference.double())
        if estimator.weighted:
            value = value * (exact - old.double()).exp()
        (expected,) = torch.autograd.grad(value.sum(), exact)
        parts = torch.finfo(torch.float64).eps * (reference.double() - exact).exp()
        assert ((made.double() - expected).abs() <= 2e-6 * expected.abs() + 8 * parts + 1e-8).all()
        plain = estimator.value(drift) * ((logprobs - old).exp() if estimator.weighted else 1)
        assert torch.equal(term, plain)
