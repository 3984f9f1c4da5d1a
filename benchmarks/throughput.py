"""Throughput of matrix products on this machine, and the share of it that a pretraining step reaches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import probe
from benchmarks.against_trl import fresh, settings, stepper
from benchmarks.harness import Row, compare, median_seconds
from benchmarks.models import linear_products, tiny, world
from probe.world import pack
from trainers.config import PretrainConfig
from trainers.pretrain import Corpus, Pretraining
from trainers.session import Session
from trainers.trainee import Trainee

LARGE = 2048


def packed(count: int, length: int) -> np.ndarray:
    """Return rows [count length] of the world's texts."""
    stream = pack(world().documents(seed=0), tiny().tokenizer, length)
    return np.stack([next(stream)[0] for _ in range(count)])


def pretraining(lm: probe.LM) -> tuple[Callable[[int], object], str]:
    """Return a function that takes one pretraining step of a model on the world, and a description."""
    config = settings(PretrainConfig)
    assert isinstance(config, PretrainConfig)
    size = config.batch_size
    rows = packed(8 * size, config.length)
    corpus = Corpus(
        batch=lambda step: list(rows[step % 8 * size :][:size]),
        held_out=rows[:0],
        held_out_bytes=0,
        data={},
        prompts=(),
    )
    session = Session(config)
    step = stepper(session, Pretraining(session, Trainee(lm), corpus), detail=False)
    return step, f"{size} x {config.length} tokens"


def run() -> tuple[list[Row], list[str]]:
    """Measure a pretraining step against its matrix products alone, forward and backward, in turn."""
    lm = fresh()
    step, size = pretraining(lm)
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


def attention_flops(model: nn.Module, batch: int, length: int) -> float:
    """Count the operations of causal attention with gradients: 2 (1 + 2) 2 d T (T + 1) / 2."""
    config: Any = model.config
    return 6.0 * config.num_hidden_layers * batch * config.hidden_size * length * (length + 1)
