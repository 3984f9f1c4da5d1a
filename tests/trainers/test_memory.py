"""Less memory for the same training: recomputed activations, a reference and weights in half precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from probe.errors import ConfigError
from probe.model.read_places import blocks_of
from probe.model.scoring import completion_logprobs
from tests.models import random_lm
from tests.trainers.conftest import figures
from tests.trainers.quick import make_config, train
from trainers.blocks import recompute_blocks
from trainers.commands import METHODS
from trainers.config import DPOConfig
from trainers.optimizer import Optimizer
from trainers.trainee import frozen_copy

Make = Callable[..., Any]
SAMPLED_METHODS = ("rlhf", "rsft", "rlvr")
"""Methods whose half-precision runs train on other samples."""
PROMPTS, COMPLETIONS = [[3, 5, 7], [4, 6]], [[[8, 9, 3], [5, 6]], [[7, 8, 9, 10, 11], [3, 4]]]


def backward(name: str, training: bool, recompute: bool) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of a loss of some pairs, and the bytes that the forward pass kept for the backward pass."""
    lm = random_lm(name, **({"resid_pdrop": 0.3} if name == "gpt2" else {}))
    completion_logprobs(lm.model, PROMPTS, COMPLETIONS)  # what is checked once, before anything is counted
    if recompute:
        recompute_blocks(lm.model)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    lm.model.train(training)
    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = completion_logprobs(lm.model, PROMPTS, COMPLETIONS).values.square().sum()
    weights = sum(each.untyped_storage().nbytes() for each in lm.model.parameters())
    loss.backward()
    return {n: p.grad for n, p in lm.model.named_parameters() if p.grad is not None}, sum(kept.values()) - weights


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_recomputed_gradients_are_the_same(name: str, training: bool) -> None:
    """In both modes (DPO trains without dropout); as trees, with dropout, and where keys were repeated (bloom)."""
    expected, whole = backward(name, training, recompute=False)
    gradients, kept = backward(name, training, recompute=True)
    assert gradients.keys() == expected.keys()
    theirs = torch.cat([expected[key].flatten() for key in gradients])
    ours = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert (ours - theirs).norm() < 1e-6 * theirs.norm()
    assert kept < 0.6 * whole


def test_a_copy_runs_its_own_blocks() -> None:
    lm = random_lm()
    recompute_blocks(lm.model)
    copy = frozen_copy(lm)
    expected = copy.logits("mira lives in")
    with torch.no_grad():
        blocks_of(lm.model)[0].mlp.down_proj.weight.zero_()
    assert torch.equal(copy.logits("mira lives in"), expected)
    assert not torch.equal(lm.logits("mira lives in"), expected)


@pytest.mark.parametrize("method", ["sft", pytest.param("rlvr", marks=pytest.mark.slow)])
def test_a_run_with_recomputed_blocks_is_the_same(method: str, configs: Callable[..., Make]) -> None:
    make = configs(method)
    plain, saving = train(make("plain")), train(make("saving", gradient_checkpointing=True))
    pd.testing.assert_frame_equal(figures(plain), figures(saving), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_computation_in_bfloat16_is_near_float32(method: str, configs: Callable[..., Make]) -> None:
    make = configs(method)
    full, half = (train(make(name, dtype=name)) for name in ("float32", "bfloat16"))
    losses, rounded = (run.metrics()["loss"].dropna().to_numpy() for run in (full, half))
    near = 0.5 if method in SAMPLED_METHODS else 0.03
    assert 0 < np.abs(rounded - losses).max() < near
    weights = load_file(half.checkpoints()[-1].path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_reference_in_bfloat16(configs: Callable[..., Make]) -> None:
    """The captured KL of a model that has not moved is what rounding makes of it, and the training is the same."""
    make = configs("dpo")
    runs = [train(make(str(dtype), capture_every=2, reference_dtype=dtype)) for dtype in (None, "bfloat16")]
    exact, rounded = [run.captures().load(0)["reference_kl"] for run in runs]
    assert float(abs(exact).max()) < 1e-6
    assert 1e-6 < float(abs(rounded).max()) < 0.05
    pd.testing.assert_frame_equal(*map(figures, runs), check_exact=True)


def test_weights_in_bfloat16_lose_no_update() -> None:
    """Steps below the spacing of bfloat16 add up in the copy, and the weight follows once they are large enough."""
    lm = random_lm()
    config = DPOConfig(out=Path("none"), base="", lr=1e-5, weights_dtype="bfloat16")
    lm.model.bfloat16()
    optimizer = Optimizer(lm.model, config)
    weight, updated = optimizer.pairs["model.norm.weight"]
    start = weight.detach().clone()
    for _ in range(900):
        weight.grad = torch.ones_like(weight)
        optimizer.collect()
        optimizer.step()
    torch.testing.assert_close(updated.detach(), start.float() - 900e-5, rtol=0, atol=1e-4)
    assert torch.equal(weight, updated.bfloat16())
    assert not torch.equal(weight, start)


@pytest.mark.parametrize("method", ["reward-model", pytest.param("rlhf", marks=pytest.mark.slow)])
def test_weights_in_bfloat16_train_and_resume_to_the_same_bits(method: str, configs: Callable[..., Make]) -> None:
    """The optimiser does it, whatever the method: for one with a head, and for one with a reference and a critic."""
    make = configs(method)
    options: dict[str, Any] = {"schedule": "constant", "eval_every": 2, "weights_dtype": "bfloat16"}
    exact, whole = train(make("float32", **options | {"weights_dtype": "float32"})), train(make("whole", **options))
    apart = (figures(whole)["loss"] - figures(exact)["loss"]).abs()
    assert apart[:3].max() < 0.05
    assert apart.max() < 0.2  # rounding grows with the steps, and on some processors sooner
    train(make("parts", **options, steps=2))
    resumed = train(make("parts", **options, resume=True))
    pd.testing.assert_frame_equal(figures(whole), figures(resumed), check_exact=True)
    kinds = []
    for name in ("model.safetensors", "optimizer.safetensors"):
        stored, again = (load_file(run.checkpoints()[-1].path / name) for run in (whole, resumed))
        kinds.append({tensor.dtype for tensor in stored.values()})
        assert all(torch.equal(tensor, again[key]) for key, tensor in stored.items())
    assert torch.bfloat16 in kinds[0]
    assert kinds[1] == {torch.float32}


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("dpo", {"lora": 2, "reference_dtype": "bfloat16"}, "expected none with --lora"),
        ("reward-model", {"reference_dtype": "bfloat16"}, "a reward model has no reference"),
        ("continual", {"weights_dtype": "bfloat16", "strategy": "ewc"}, "float32 with --strategy ewc"),
    ],
)
def test_what_cannot_be_honoured_is_refused(method: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(method, out=Path("none"), base="base", **options)
