"""Gradient and update of each part: against autograd and copies of the weights, and what a fault does to them."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from probe import LM
from probe.recording.block_metrics import SAMPLE, BlockMetrics, parts_of
from tests.models import random_lm
from tests.trainers.quick import QUICK, train
from trainers.config import PretrainConfig
from trainers.loop import Objective, take_step
from trainers.lora import LoRATrainee
from trainers.optimizer import Optimizer
from trainers.pretrain import Pretraining
from trainers.session import Session

PARTS = {"embedding": "embed_tokens", "blocks.0": "layers.0.", "blocks.1": "layers.1.", "head": r"model.norm|lm_head"}
"""Part to a pattern of the names of its parameters, in an untied Llama."""
Configs = Callable[..., Callable[..., Any]]


def columns(rows: Any, kind: str) -> list[str]:
    return [name for name in rows if name.startswith(f"{kind}/")]


@pytest.mark.parametrize("clip", [0.0, 1e-3])
@pytest.mark.parametrize("weights_dtype", ["float32", "bfloat16"])
def test_a_step_by_hand(model_dir: Path, tmp_path: Path, clip: float, weights_dtype: Any) -> None:
    """Norms from a backward pass of its own, before clipping; updates from copies of the whole blocks."""
    config = PretrainConfig(out=tmp_path / "none", batch_size=4, device="cpu", clip=clip, weights_dtype=weights_dtype)
    session, model = Session(config), LM.load(model_dir, dtype=getattr(torch, weights_dtype)).model
    method = Pretraining(session, None, None)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).integers(2, 400, (4, 24))
    loss = method.loss(model, rows, False)
    (loss.total / loss.count).backward()
    names = {
        part: [name for name, _ in model.named_parameters() if re.search(key, name)] for part, key in PARTS.items()
    }
    slopes = {name: parameter.grad.double() for name, parameter in model.named_parameters()}
    old = {name: parameter.detach().double().clone() for name, parameter in model.named_parameters()}
    optimizer = Optimizer(model, config)
    blocks = BlockMetrics(model, optimizer.pairs)
    outcome = take_step(session, Objective(model, method.loss), optimizer, rows, lr=0.01, blocks=blocks)
    new = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    tolerance = 1e-4 if weights_dtype == "float32" else 0.01
    for part in PARTS:
        norm = math.sqrt(sum(float(slopes[name].square().sum()) for name in names[part]))
        assert outcome.metrics[f"grad_norm/{part}"] == pytest.approx(norm, rel=tolerance)
        first = {name: slice(0, max(SAMPLE // old[name][0].numel(), 1)) for name in names[part]}
        change = sum(float((new[n] - old[n])[first[n]].square().sum()) for n in names[part])
        size = sum(float(old[n][first[n]].square().sum()) for n in names[part])
        assert change
        assert outcome.metrics[f"update_ratio/{part}"] == pytest.approx(math.sqrt(change / size), rel=tolerance)
        assert part in ("embedding", "head") or all(old[n][first[n]].shape == old[n].shape for n in names[part])
    assert set(outcome.metrics) == {f"{kind}/{part}" for kind in ("grad_norm", "update_ratio") for part in PARTS}


@pytest.mark.parametrize("method", QUICK)
def test_every_method_logs_them(method: str, configs: Configs) -> None:
    """The squares of the parts add up to that of the whole."""
    changes = {"minibatches": 1, "updates": 1} if "minibatches" in QUICK[method] else {}
    rows = train(configs(method)(**changes)).metrics().dropna(subset=["grad_norm"])
    assert columns(rows, "grad_norm") == [f"grad_norm/{part}" for part in PARTS]
    whole = np.sqrt(rows[columns(rows, "grad_norm")].pow(2).sum(axis=1))
    np.testing.assert_allclose(whole, rows["grad_norm"], rtol=1e-5)
    assert (rows[[f"update_ratio/blocks.{number}" for number in (0, 1)]] > 1e-5).all(axis=None)


def test_only_logged_steps_have_them(configs: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    weights = BlockMetrics.weights
    monkeypatch.setattr(BlockMetrics, "weights", lambda self: measured.append(1) or weights(self))
    train(configs("pretrain")(steps=7, log_every=3))
    assert len(measured) == 4  # steps 1, 3, 6 and 7


def test_an_optimiser_that_moves_nothing_is_seen(configs: Configs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizer, "step", lambda self, closure=None: None)
    rows = train(configs("sft")()).metrics().dropna(subset=["grad_norm"])
    assert (rows[columns(rows, "update_ratio")] == 0).all(axis=None)
    assert (rows[columns(rows, "grad_norm")] > 0).all(axis=None)


def test_a_frozen_block_is_seen(model_dir: Path, tmp_path: Path) -> None:
    lm = LM.load(model_dir)
    lm.model.model.layers[1].requires_grad_(False)
    lm.model.get_input_embeddings().requires_grad_(False)
    config = PretrainConfig(out=tmp_path / "none", batch_size=4, device="cpu")
    session, optimizer = Session(config), Optimizer(lm.model, config)
    method = Pretraining(session, None, None)  # type: ignore[arg-type]
    rows, blocks = np.full((4, 24), 5), BlockMetrics(lm.model, optimizer.pairs)
    found = take_step(session, Objective(lm.model, method.loss), optimizer, rows, lr=0.01, blocks=blocks).metrics
    assert found["grad_norm/blocks.1"] == found["update_ratio/blocks.1"] == 0
    assert found["grad_norm/blocks.0"] > 0
    assert found["update_ratio/blocks.0"] > 1e-3
    assert "grad_norm/embedding" not in found


def test_a_rate_that_is_too_high_is_seen(configs: Configs) -> None:
    """Adam's first update is proportional to the rate."""
    ratios = []
    for name, lr in (("plain", 3e-4), ("high", 9e-3)):
        rows = train(configs("sft")(name, steps=1, warmup=0, lr=lr, schedule="constant")).metrics()
        ratios.append(rows["update_ratio/blocks.0"].dropna().iloc[0])
    assert ratios[1] / ratios[0] == pytest.approx(30, rel=0.01)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "qwen3", "gpt_neox"])
def test_each_weight_has_one_part(name: str) -> None:
    model = random_lm(name).model
    parts = parts_of(model)
    assert sorted(n for names in parts.values() for n in names) == sorted(n for n, _ in model.named_parameters())
    assert [part for part in parts if part.startswith("blocks.")] == ["blocks.0", "blocks.1"]
    sizes = {part: sum(dict(model.named_parameters())[n].numel() for n in names) for part, names in parts.items()}
    assert sizes["blocks.0"] == sizes["blocks.1"] > 0
    assert all("wte" in n or "wpe" in n or "embed" in n for n in parts["embedding"])


def test_an_adapter_is_measured_where_it_is(model_dir: Path, tmp_path: Path) -> None:
    config = PretrainConfig(out=tmp_path / "none", base=str(model_dir), lora=2, device="cpu")
    parts = parts_of(LoRATrainee(LM.load(model_dir), config).module)
    assert set(parts) == {"blocks.0", "blocks.1"}
    assert all("lora_" in name for names in parts.values() for name in names)


@pytest.mark.parametrize("method", ["pretrain", "rlvr"])
def test_what_is_recorded_changes_no_weight(method: str, configs: Configs) -> None:
    """To the last bit, whether steps are logged or not."""
    make = configs(method)
    runs = [train(make(f"every{n}", steps=5, log_every=n)) for n in (1, 99)]
    often, rarely = (load_file(run.checkpoints()[-1].path / "model.safetensors") for run in runs)
    assert [len(run.metrics().dropna(subset=["grad_norm"])) for run in runs] == [5, 2]
    assert all(torch.equal(tensor, rarely[name]) for name, tensor in often.items())
