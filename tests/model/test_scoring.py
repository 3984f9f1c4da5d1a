"""Log-probabilities with the shared prompt equal the plain way and an explicit sum, in value and gradient."""

import math

import pytest
import torch
from torch import nn

from probe.errors import ConfigError, DataError
from probe.model import scoring as trees
from probe.model.lm import LM
from probe.model.scoring import TokenLogprobs, can_branch, can_share, completion_logprobs
from probe.model.text import context_length
from tests.models import ARCHITECTURES, CONTEXT, OTHERS, RECURRENT, random_lm

PROMPTS = [[2, 4, 5, 6], [2, 5], [2, 6, 7, 8, 9, 10, 11, 12, 13]]
GROUPS = [[[7, 8], [9]], [[4], [], [5, 6, 7, 8, 9, 10]], [[4, 5, 6]]]


def explicit(lm: LM, temperature: float = 1.0) -> list[list[torch.Tensor]]:
    """Each completion by itself: one unpadded pass, the log-softmax, the chosen entries."""
    rows = []
    for prompt, group in zip(PROMPTS, GROUPS, strict=True):
        for completion in group:
            logits = lm.model(torch.tensor([[*prompt, *completion]])).logits[0] / temperature
            logprobs = logits.log_softmax(-1)
            at = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
            rows.append([logprobs[t, token] for t, token in zip(at, completion, strict=True)])
    return rows


def gradients(model: nn.Module, scored: TokenLogprobs) -> dict[str, torch.Tensor]:
    """Gradients of a sum with unequal weights, so that a swap of two tokens is seen."""
    weights = torch.linspace(-1, 2, scored.values.numel()).reshape(scored.values.shape)
    model.zero_grad()
    (scored.values * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(params=["trees", "cache", "plain"])
def way(request, monkeypatch):
    """The three ways of running a group; a model that cannot go one of them takes the next."""
    if request.param == "cache":
        monkeypatch.setattr(trees, "WIDEST", 0)
    return request.param


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS, *RECURRENT])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_equal_an_explicit_pass(name, way, temperature):
    lm = random_lm(name)
    share = way != "plain"
    scored = completion_logprobs(lm.model, PROMPTS, GROUPS, temperature=temperature, share_prompt=share)
    expected = explicit(lm, temperature)
    assert scored.values.shape == scored.mask.shape == scored.entropy.shape == (6, 6)
    assert scored.mask.sum(1).tolist() == [len(row) for row in expected]
    for values, mask, row in zip(scored.values.detach(), scored.mask, expected, strict=True):
        torch.testing.assert_close(values[mask].tolist(), [value.item() for value in row], atol=1e-5, rtol=1e-5)
    assert (scored.values[~scored.mask] == 0).all()
    assert (scored.entropy[~scored.mask] == 0).all()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("widest", [0, 1.5])
def test_shared_gradients_equal_the_plain_way(name, widest, monkeypatch):
    monkeypatch.setattr(trees, "WIDEST", widest)
    model = random_lm(name).model
    assert can_share(model)
    assert can_branch(model)
    shared = gradients(model, completion_logprobs(model, PROMPTS, GROUPS))
    plain = gradients(model, completion_logprobs(model, PROMPTS, GROUPS, share_prompt=False))
    assert shared.keys() == plain.keys()
    for key, gradient in plain.items():
        assert float((shared[key] - gradient).norm()) <= 1e-4 * float(gradient.norm()) + 1e-7, key


def test_equal_groups_take_the_same_values_as_unequal_ones():
    model = random_lm().model
    pairs = [group[:2] for group in ([[7, 8], [9]], [[4], [5, 6]], [[4, 5, 6], [8]])]
    both = [completion_logprobs(model, PROMPTS, pairs, share_prompt=share).values for share in (True, False)]
    torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_batch_equals_single(name):
    model = random_lm(name).model
    batch = completion_logprobs(model, PROMPTS, GROUPS)
    at = 0
    for prompt, group in zip(PROMPTS, GROUPS, strict=True):
        for completion in group:
            single = completion_logprobs(model, [prompt], [[completion]])
            length = len(completion)
            torch.testing.assert_close(batch.values[at, :length], single.values[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(batch.entropy[at, :length], single.entropy[0], atol=1e-5, rtol=1e-5)
            at += 1


def test_entropy_is_that_of_the_distribution_and_detached():
    lm = random_lm()
    scored = completion_logprobs(lm.model, [[2, 4, 5]], [[[6, 7]]])
    logprobs = lm.model(torch.tensor([[2, 4, 5, 6]])).logits[0, -2:].log_softmax(-1)
    expected = [-sum(math.exp(v) * v for v in row) for row in logprobs.tolist()]
    torch.testing.assert_close(scored.entropy[0].tolist(), expected, atol=1e-5, rtol=1e-5)
    assert not scored.entropy.requires_grad
    assert scored.values.requires_grad


@pytest.mark.parametrize("groups", [[[], []], [[[]], [[], []]]])
def test_nothing_to_score_is_an_empty_mask_and_zero(groups):
    scored = completion_logprobs(random_lm().model, PROMPTS[:2], groups)
    assert len(scored.values) == sum(map(len, groups))
    assert not scored.mask.any()
    assert scored.values.sum() == 0


def test_a_group_without_completions_is_skipped():
    model = random_lm().model
    some = completion_logprobs(model, PROMPTS, [GROUPS[0], [], GROUPS[2]])
    other = completion_logprobs(model, [PROMPTS[0], PROMPTS[2]], [GROUPS[0], GROUPS[2]])
    torch.testing.assert_close(some.values, other.values, atol=1e-5, rtol=1e-5)


def test_only_completions_are_projected(way):
    """The unembedding sees the positions that predict completion tokens; with the cache those of the prompt first."""
    positions = {"trees": [13], "cache": [1, 5], "plain": [6]}[way]
    share = way != "plain"
    model = random_lm().model
    seen: list[int] = []
    completion_logprobs(model, PROMPTS, GROUPS, share_prompt=share)  # the ways are compared at the first batch
    handle = model.lm_head.register_forward_hook(lambda module, inputs, logits: seen.append(logits.shape[1]))
    completion_logprobs(model, PROMPTS, GROUPS, share_prompt=share)
    handle.remove()
    assert seen == positions


@pytest.mark.parametrize(("widest", "passes"), [(0, [3 * 17, 3 * 4 * 7]), (2, [3 * (17 + 4 * 7)])])
def test_the_prompt_runs_once_for_its_group(widest, passes, monkeypatch):
    monkeypatch.setattr(trees, "WIDEST", widest)
    model = random_lm().model
    tokens: list[int] = []
    batch = [[2, *range(4, 20)]] * 3, [[[5] * 8] * 4] * 3
    completion_logprobs(model, *batch)  # the ways are compared at the first batch
    handle = model.model.embed_tokens.register_forward_hook(
        lambda module, inputs, out: tokens.append(inputs[0].numel())
    )
    completion_logprobs(model, *batch)
    handle.remove()
    assert tokens == passes


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@torch.no_grad()
def test_what_all_prompts_begin_with_runs_once(name, temperature):
    """Few-shot examples before every question: their tokens are run once, and the numbers are those of each alone."""
    lead, model = [5, 7] * (trees.PREFIX // 2), random_lm(name).model
    prompts = [[*lead, 1, 5, 6], [*lead, 2], [*lead, 1, 7]]
    plain = completion_logprobs(model, prompts, GROUPS, temperature=temperature, share_prompt=False)
    completion_logprobs(model, prompts, GROUPS)  # the ways are compared at the first batch
    runs: list[int] = []
    handle = model.get_input_embeddings().register_forward_hook(lambda _, inputs, out: runs.append(inputs[0].shape[1]))
    shared = completion_logprobs(model, prompts, GROUPS, temperature=temperature)
    handle.remove()
    assert runs[0] == len(lead)
    assert runs[1] < len(lead)
    for ours, theirs in zip(shared[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradient_checkpointing_falls_back():
    model = random_lm().model
    expected = completion_logprobs(model, PROMPTS, GROUPS)
    model.train()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert not can_share(model)
    torch.testing.assert_close(
        completion_logprobs(model, PROMPTS, GROUPS).values, expected.values, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["mistral", "gemma2", "mamba"])
def test_a_cache_that_forgets_is_not_shared(name):
    model = random_lm(name).model
    assert not can_share(model)
    assert not can_branch(model)


def test_a_bias_by_distance_takes_no_trees():
    assert not can_branch(random_lm("bloom").model)


def test_eager_attention_reads_trees_too(monkeypatch):
    model = random_lm(attn_implementation="eager").model
    assert can_branch(model)
    shared = gradients(model, completion_logprobs(model, PROMPTS, GROUPS))
    plain = gradients(model, completion_logprobs(model, PROMPTS, GROUPS, share_prompt=False))
    for key, gradient in plain.items():
        torch.testing.assert_close(shared[key], gradient, rtol=1e-4, atol=1e-5)


class Wrapper(nn.Module):
    """Like DistributedDataParallel: the model inside, no configuration of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def test_a_wrapped_model_is_scored_through_its_wrapper():
    model = random_lm().model
    wrapped = Wrapper(model)
    assert context_length(wrapped) == CONTEXT
    torch.testing.assert_close(
        completion_logprobs(wrapped, PROMPTS, GROUPS).values, completion_logprobs(model, PROMPTS, GROUPS).values
    )


def test_half_precision_scores_in_single():
    model = random_lm().model.to(torch.bfloat16)
    scored = completion_logprobs(model, PROMPTS, GROUPS)
    assert scored.values.dtype == scored.entropy.dtype == torch.float32


@pytest.mark.parametrize(
    ("prompts", "groups", "error", "words"),
    [
        ([[]], [[[4]]], DataError, "no tokens"),
        ([[2] * 40], [[[4] * 9]], DataError, "49 tokens"),
    ],
)
def test_what_cannot_be_scored_is_said(prompts, groups, error, words):
    with pytest.raises(error, match=words):
        completion_logprobs(random_lm().model, prompts, groups)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ConfigError, match="temperature"):
        completion_logprobs(random_lm().model, PROMPTS, GROUPS, temperature=temperature)
