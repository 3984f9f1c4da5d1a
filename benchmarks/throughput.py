"""Throughput of matrix products on this machine, and the share of it that a pretraining step reaches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import probe
from benchmarks.against_trl import fresh, settings, stepper
from benchmarks.harness import Row, compare, median_seconds
from benchmarks.models import world
from probe.world import pack
from trainers.config import PretrainConfig
from trainers.pretrain import Corpus, Pretraining
from trainers.session import Session
from trainers.trainee import Trainee

LARGE = 2048


def pretraining() -> tuple[probe.LM, Callable[[int], object], str]:
    """Return a model, a function that takes one pretraining step on the world, and a description."""
    lm, config = fresh(), settings(PretrainConfig)
    assert isinstance(config, PretrainConfig)
    size = config.batch_size
    packed = pack(world().documents(seed=0), lm.tokenizer, config.length)
    rows = np.stack([next(packed)[0] for _ in range(8 * size)])
    corpus = Corpus(
        batch=lambda step: list(rows[step % 8 * size :][:size]),
        held_out=rows[:0],
        held_out_bytes=0,
        data={},
        prompts=(),
    )
    session = Session(config)
    step = stepper(session, Pretraining(session, Trainee(lm), corpus), detail=False)
    return lm, step, f"{size} x {config.length} tokens"


def run() -> tuple[list[Row], list[str]]:
    """Measure a pretraining step against its matrix products alone, forward and backward, in turn."""
    lm, step, size = pretraining()
    config = PretrainConfig(out=Path("unused"))
    batch, length = config.batch_size, config.length - 1
    products, flops = linear_products(lm.model, batch * length)
    row = compare(f"pretraining step of {size}", ("step", lambda: step(1)), ("its matrix products alone", products))
    square = torch.randn(LARGE, LARGE)
    large = 2 * LARGE**3 / median_seconds(lambda: square @ square)
    attention = attention_flops(lm.model, batch, length)
    speed = (flops + attention) / row.seconds_a
    alone = flops / row.seconds_b
    total, share = flops + attention, speed / large
    return [row], [
        f"Matrix products reach {large / 1e9:.0f} GFLOP/s at {LARGE} x {LARGE} x {LARGE} and"
        f" {alone / 1e9:.0f} GFLOP/s at the sizes of the model. A pretraining step of {total / 1e9:.1f} GFLOP"
        f" (attention {attention / 1e9:.1f} of them) runs at {speed / 1e9:.0f} GFLOP/s: {100 * share:.0f} % of the"
        f" large product, {100 * speed / alone:.0f} % of the products at its own sizes."
    ]


def linear_products(model: nn.Module, tokens: int) -> tuple[Callable[[], object], float]:
    """Return all products of the linear layers in one step, forward and backward, and their number of operations."""
    layers = [module.weight.detach() for module in model.modules() if isinstance(module, nn.Linear)]
    operands = [(torch.randn(tokens, w.shape[1]), w, torch.randn(tokens, w.shape[0])) for w in layers]

    def products() -> None:
        for inputs, weight, gradient in operands:
            inputs @ weight.T
            gradient @ weight
            gradient.T @ inputs

    return products, sum(6.0 * tokens * weight.numel() for weight in layers)


def attention_flops(model: nn.Module, batch: int, length: int) -> float:
    """Count the operations of causal attention with gradients: 2 (1 + 2) 2 d T (T + 1) / 2."""
    config = model.config
    return 6.0 * config.num_hidden_layers * batch * config.hidden_size * length * (length + 1)
