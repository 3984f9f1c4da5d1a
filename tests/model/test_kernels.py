"""Attention in the bridge: the plain model's kernel where nobody reads its steps, with the same activations."""

from typing import Any

import pytest
import torch

from probe import LM
from probe.model.kernels import keeps_kernel, read_weights
from tests.models import MODELS, MORE, OTHERS, random_lm

IDS = [[2, 5, 6, 7, 8, 9, 10, 11, 5, 6], [4, 4, 9]]
STEPS = ("hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_rot_k", "hook_cos", "hook_sin", "norm", "hook_scale")
FUSED = ("gpt2", "gpt_neox", "bloom", "phi3", "opt", "gptj")


def kernels_run(lm: LM, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A list that grows by each call of torch's attention kernel."""
    calls: list[bool] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def count(*args: Any, **more: Any) -> torch.Tensor:
        calls.append(True)
        return kernel(*args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", count)
    return calls


@pytest.mark.parametrize("kind", [*MODELS, *OTHERS, *MORE])
def test_activations_are_those_of_the_steps(kind: str, monkeypatch: pytest.MonkeyPatch):
    lm = random_lm(kind)
    expected_logits, expected = lm.run_with_cache(IDS)  # all steps are hooked
    names = [name for name in expected if ".attn." not in name or not any(each in name for each in STEPS)]
    assert any(name.endswith("attn.hook_z") for name in names)
    calls = kernels_run(lm, monkeypatch)
    logits, cache = lm.run_with_cache(IDS, names)
    fast = keeps_kernel(lm.bridge)
    assert fast == (kind not in FUSED and lm.model.config._attn_implementation == "sdpa")
    assert len(calls) == (lm.bridge.cfg.n_layers if fast else 0)
    real = torch.tensor([[True] * 10, [True] * 3 + [False] * 7])
    torch.testing.assert_close(logits[real], expected_logits[real], rtol=1e-4, atol=1e-4)
    for name in names:
        if cache[name].shape[:2] == real.shape and cache[name].is_floating_point():
            torch.testing.assert_close(cache[name][real], expected[name][real], rtol=1e-4, atol=1e-4)
    plain = lm.logits(IDS).detach()
    torch.testing.assert_close(logits[real], plain[real], rtol=1e-4, atol=1e-4)


def test_hooks_of_the_heads_act_on_both_kernels():
    lm = random_lm()

    def first_head(z: torch.Tensor, hook: Any) -> torch.Tensor:
        return z * torch.tensor([0.0, 1, 1, 1])[:, None]

    hooks = [("blocks.0.attn.hook_z", first_head)]
    with torch.no_grad(), lm.hooks(hooks):
        fast = lm.logits(IDS[:1])
    with torch.no_grad(), lm.hooks([*hooks, *read_weights(lm.bridge)]):
        steps = lm.logits(IDS[:1])
    torch.testing.assert_close(fast, steps, rtol=1e-4, atol=1e-4)
    assert float((fast - lm.logits(IDS[:1]).detach()).abs().max()) > 1e-2


def test_a_hook_of_one_block_leaves_the_others(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    lm.bridge  # noqa: B018
    calls = kernels_run(lm, monkeypatch)
    _, cache = lm.run_with_cache(IDS, ["blocks.0.attn.hook_pattern"])
    assert len(calls) == 1
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(2, 4, 10), rtol=1e-4, atol=1e-5)


def test_gradients_and_a_model_with_eager_attention_run_the_steps(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    with lm.hooks([("blocks.0.attn.hook_z", lambda z, hook: None)]):
        calls = kernels_run(lm, monkeypatch)
        lm.logits(IDS).sum().backward()
        assert not calls
    lm.model.set_attn_implementation("eager")
    again = LM(lm.model, lm.tokenizer)
    again.run_with_cache(IDS, ["blocks.0.attn.hook_z"])
    assert not calls
    assert not keeps_kernel(again.bridge)
