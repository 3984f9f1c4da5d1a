"""The Fisher information against slow loops and its definition, and the penalty against finite differences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from probe import LM
from tests.models import random_lm
from trainers.curriculum import KINDS
from trainers.ewc import ewc_penalty, fisher_information, predictions
from trainers.pretrain import PADDING
from trainers.sft import Demonstration

TEXTS = [
    ([2, 5, 8, 9], [False, True, True, True]),
    ([2, 6, 7, 10, 11, 12], [False, False, False, True, False, True]),
    ([2, 13, 14], [False, True, True]),
]
SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}


def slow_logprob(model: nn.Module, ids: list[int], at: int) -> torch.Tensor:
    """All log-probabilities of what stands at a place, from the text before it alone."""
    return model(input_ids=torch.tensor([ids[:at]])).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_empirical_against_a_loop_over_examples(name: str) -> None:
    """One backward pass an example, token after token; and the square of the batch's gradient is something else."""
    model = random_lm(name).model
    found, targets = fisher_information(model, TEXTS, None)
    assert targets == 7
    slow: dict[str, torch.Tensor] = {}
    whole: dict[str, torch.Tensor] = {}
    for ids, learned in TEXTS:
        model.zero_grad()
        sum(slow_logprob(model, ids, i)[ids[i]] for i, target in enumerate(learned) if target).backward()  # type: ignore[union-attr]
        for key, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            slow[key] = slow.get(key, 0) + gradient**2
            whole[key] = whole.get(key, 0) + gradient
    differs = 0.0
    for key, value in found.items():
        torch.testing.assert_close(value, slow[key], rtol=1e-3, atol=1e-5)
        differs = max(differs, float((value - whole[key] ** 2 / len(TEXTS)).abs().max() / value.max().clamp(min=1e-9)))
    assert differs > 0.3
    assert set(found) == {key for key, _ in model.named_parameters()}


def test_sampled_against_the_expectation() -> None:
    """Averaged over many draws of the labels it is sum_t E_{y ~ p} (d log p(y) / d theta)^2, by enumeration."""
    model = random_lm("llama", **SMALL).model
    texts = [TEXTS[2]]
    ids, learned = texts[0]
    weight = model.get_output_embeddings().weight
    exact = torch.zeros_like(weight)
    for at, target in enumerate(learned):
        if target:
            logprobs = slow_logprob(model, ids, at)
            for y in range(len(logprobs)):
                (gradient,) = torch.autograd.grad(logprobs[y], weight, retain_graph=True)
                exact += logprobs[y].exp().detach() * gradient**2
    draws, total = 300, torch.zeros_like(weight)
    for seed in range(draws):
        total += fisher_information(model, texts, [seed])[0]["lm_head.weight"]
    mean = total / draws
    assert float((mean - exact).abs().max() / exact.max()) < 0.2
    empirical = fisher_information(model, texts, None)[0]["lm_head.weight"]
    assert float((empirical - exact).abs().max() / exact.max()) > 0.5


def test_draws_depend_on_their_seeds_alone() -> None:
    model = random_lm("llama").model
    torch.manual_seed(1)
    one = fisher_information(model, TEXTS, [3, 4, 5])[0]
    torch.manual_seed(2)
    two = fisher_information(model, TEXTS, [3, 4, 5])[0]
    parts = [fisher_information(model, TEXTS[:1], [3])[0], fisher_information(model, TEXTS[1:], [4, 5])[0]]
    other = fisher_information(model, TEXTS, [3, 4, 6])[0]
    for key, value in one.items():
        assert torch.equal(value, two[key])
        torch.testing.assert_close(parts[0][key] + parts[1][key], value)
    assert any(not torch.equal(value, other[key]) for key, value in one.items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_texts_without_a_target_count_for_nothing() -> None:
    model = random_lm("llama").model
    found, targets = fisher_information(model, [([2, 5], [False, False])], None)
    assert targets == 0
    assert not any(value.any() for value in found.values())


def test_penalty_by_definition_and_finite_differences() -> None:
    model = nn.Linear(3, 2).double()
    generator = torch.Generator().manual_seed(0)
    fisher, anchor = (
        {k: torch.rand(p.shape, generator=generator, dtype=torch.float64) for k, p in model.named_parameters()}
        for _ in range(2)
    )
    expected = sum(
        1.5 * f * (theta - a) ** 2
        for k, p in model.named_parameters()
        for f, theta, a in zip(
            fisher[k].flatten().tolist(), p.flatten().tolist(), anchor[k].flatten().tolist(), strict=True
        )
    )
    assert ewc_penalty(model, fisher, anchor, 3.0).item() == pytest.approx(expected)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        return ewc_penalty(_With(weight), {"weight": fisher["weight"]}, {"weight": anchor["weight"]}, 3.0)

    assert torch.autograd.gradcheck(penalty, [model.weight])
    at_anchor = {k: p.detach().clone() for k, p in model.named_parameters()}
    assert ewc_penalty(model, fisher, at_anchor, 3.0).item() == 0


class _With(nn.Module):
    """A module whose parameter is a given tensor."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self._weight = weight

    def named_parameters(self, *_: object, **__: object):  # type: ignore[override]
        yield "weight", self._weight


@pytest.mark.parametrize("objective", KINDS)
def test_predictions_are_what_the_loss_is_made_of(objective: str, model_dir: Path) -> None:
    model, kind = LM.load(model_dir).model, KINDS[objective]
    examples = {
        "pretrain": [np.array([2, 30, 31, 32, PADDING]), np.array([2, 40, 41, 42, 43])],
        "sft": [
            Demonstration([2, 30], [31, 32], [True, True]),
            Demonstration([2, 40, 41], [42, 43, 3], [False, True, True]),
        ],
    }[objective]
    loss = kind.loss(model, examples, False)
    parts = [predictions(model, kind.text(example)) for example in examples]
    nll = sum(nn.functional.cross_entropy(logits, targets, reduction="sum").item() for logits, targets in parts)
    assert loss.total.item() == pytest.approx(nll, rel=1e-5)
    assert loss.count == sum(len(targets) for _, targets in parts)
