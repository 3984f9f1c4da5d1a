"""A head on the states that enter the unembedding: equal to reading the states directly, whichever way is run."""

import pytest
import torch
from torch import nn

from probe.model.scoring import completion_logprobs
from tests.models import ARCHITECTURES, OTHERS, random_lm
from trainers.scalar_heads import ModelWithHead, ScalarHead, width_of

PROMPTS = [[2, 4, 5, 6], [2, 5], [2, 6, 7, 8, 9, 10, 11, 12, 13]]
GROUPS = [[[7, 8], [9]], [[4], [], [5, 6, 7, 8, 9, 10]], [[4, 5, 6]]]


def headed(name: str, seed: int = 3) -> ModelWithHead:
    model = random_lm(name).model
    return ModelWithHead(model, ScalarHead(width_of(model), torch.Generator().manual_seed(seed)))


def directly(pair: ModelWithHead, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """The head at the last state of each prefix, which the model's own list of states ends with."""
    found = [
        pair.head(pair.model(torch.tensor([prompt + completion[:t]]), output_hidden_states=True).hidden_states[-1])
        for t in range(len(completion))
    ]
    return torch.stack([numbers[0, -1] for numbers in found]) if found else torch.zeros(0)


def gradients(pair: ModelWithHead, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum with unequal weights, so that a swap of two tokens is seen."""
    pair.zero_grad()
    (numbers * torch.linspace(-1, 2, numbers.numel()).reshape(numbers.shape)).sum().backward()
    return {key: p.grad.clone() for key, p in pair.named_parameters() if p.grad is not None}


def no_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe.model.scoring.can_branch", lambda model: False)


@pytest.mark.parametrize("way", ["trees", "cache", "plain"])
@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_the_readout_is_the_head_at_the_state_before_the_token(
    name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = headed(name)
    if way == "cache":
        no_trees(monkeypatch)
    scored = completion_logprobs(pair.model, PROMPTS, GROUPS, share_prompt=way != "plain", readout=pair.head)
    assert scored.readout is not None
    assert scored.readout.shape == (6, 6)
    assert (scored.readout[~scored.mask] == 0).all()
    texts = [(prompt, ids) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for ids in group]
    for row, mask, (prompt, ids) in zip(scored.readout, scored.mask, texts, strict=True):
        torch.testing.assert_close(row[mask], directly(pair, prompt, ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradients_of_all_ways_are_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = headed(name)

    def read(share: bool) -> dict[str, torch.Tensor]:
        found = completion_logprobs(pair.model, PROMPTS, GROUPS, share_prompt=share, readout=pair.head).readout
        assert found is not None
        return gradients(pair, found)

    trees, plain = read(True), read(False)
    no_trees(monkeypatch)
    texts = [(prompt, ids) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for ids in group]
    rows = [directly(pair, prompt, ids) for prompt, ids in texts]
    expected = gradients(pair, torch.stack([nn.functional.pad(row, (0, 6 - len(row))) for row in rows]))
    assert "head.weight" in expected
    for found in (trees, plain, read(True)):
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            assert float((found[key] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-7, key


def test_log_probabilities_do_not_depend_on_a_readout() -> None:
    pair = headed("llama")
    with_head = completion_logprobs(pair.model, PROMPTS, GROUPS, readout=pair.head)
    without = completion_logprobs(pair.model, PROMPTS, GROUPS)
    assert without.readout is None
    for name in ("values", "mask", "entropy", "likeliest"):
        assert torch.equal(getattr(with_head, name), getattr(without, name))
    assert not pair.model.get_output_embeddings()._forward_pre_hooks


def test_completions_without_a_token_have_a_gradient_of_zero() -> None:
    pair = headed("llama")
    scored = completion_logprobs(pair.model, PROMPTS[:1], [[[], []]], readout=pair.head)
    assert scored.readout is not None
    assert scored.values.shape == scored.readout.shape == (2, 0)
    (scored.values.sum() + scored.readout.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in pair.parameters())


def test_a_readout_in_half_precision_is_single() -> None:
    pair = headed("llama")
    pair.model.to(torch.bfloat16)
    scored = completion_logprobs(pair.model, PROMPTS, GROUPS, readout=pair.head)
    assert scored.readout is not None
    assert scored.readout.dtype == torch.float32


def test_the_head_is_drawn_to_give_numbers_of_unit_size() -> None:
    head = ScalarHead(400, torch.Generator().manual_seed(0))
    assert head.bias is None
    assert float(head.weight.detach().std()) == pytest.approx(401**-0.5, rel=0.1)
    assert head(torch.ones(2, 3, 400)).shape == (2, 3)
    assert torch.equal(head.weight, ScalarHead(400, torch.Generator().manual_seed(0)).weight)
