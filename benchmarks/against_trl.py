"""Steps of TRL's training loop and of Probe's in turn, on the same kind of batch.

TRL runs its `train()` as its users do, with its loader, collator, clipping, optimiser and metrics; after each of its
steps Probe takes one. Model, tokens, lengths, precision and optimiser are the same: 0.86 M parameters in single
precision, fused AdamW, clipping at 1, and metrics at every step on both sides.
"""

import copy
import io
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

import probe
from benchmarks.harness import Row, summary
from benchmarks.models import share_of_products, tiny
from trainers.config import TrainConfig
from trainers.loop import Method, Objective, take_step
from trainers.optimizer import Optimizer
from trainers.session import Session

WARMUP, REPEATS = 2, 25
COMMON: dict[str, Any] = {
    "max_steps": WARMUP + REPEATS,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "logging_steps": 10,
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": [],
}
"""Options of TRL, otherwise with its defaults. Activation checkpointing and half precision, which are on by default,
are off on both sides."""


def fresh() -> probe.LM:
    """Return a copy of the benchmarks' model."""
    return probe.LM(copy.deepcopy(tiny().model), tiny().tokenizer)


def words(rows: Sequence[Sequence[int]]) -> list[str]:
    """Return rows of ids as texts that the tokenizer encodes to the same ids."""
    return [tiny().tokenizer.decode(row) for row in rows]


def stepper(session: Session, method: Method, detail: bool = True) -> Callable[[int], object]:
    """Return a function that takes step 1, 2, ... of `method` like the loop, with or without metrics."""
    module = method.trainee.module
    objective, optimizer = Objective(module, method.loss), Optimizer(module, session.config)

    def step(number: int) -> None:
        session.seed(number)
        for batch in method.batches(number):
            module.train(method.dropout)
            take_step(session, objective, optimizer, batch, lr=session.config.lr, detail=detail)
        if detail:
            method.metrics()

    return step


class Turns(TrainerCallback):
    """Callback of a transformers trainer that takes a step of Probe after each of its steps, and times both."""

    def __init__(self, ours: Callable[[int], object]) -> None:
        self.ours, self.times, self.mark = ours, list[tuple[float, float]](), 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the timer."""
        self.mark = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the timer, take Probe's step, and restart the timer."""
        theirs = time.perf_counter() - self.mark
        start = time.perf_counter()
        self.ours(state.global_step)
        self.times.append((time.perf_counter() - start, theirs))
        self.mark = time.perf_counter()


def against(
    name: str,
    label: str,
    make: Callable[[Path], Any],
    ours: Callable[[int], object],
    target: str,
    model: nn.Module | None,
) -> Row:
    """Measure one row.

    Args:
        name: name of the row.
        label: TRL's column.
        make: function that builds TRL's trainer for a folder that it can write to.
        ours: function that takes our step of a number.
        target: what is wanted.
        model: model that we train, all of it, to measure the share of its matrix products; None leaves that out.
    """
    turns = Turns(ours)
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        trainer = make(Path(folder))
        trainer.add_callback(turns)
        trainer.train()
    row = summary(name, "Probe", label, turns.times[WARMUP:], target)
    if model is None:
        return row
    return replace(row, share=share_of_products(model, lambda: ours(len(turns.times)), row.seconds_a))


def settings(kind: type[TrainConfig], **options: Any) -> TrainConfig:
    """Return Probe's options with the same effect."""
    return kind(out=Path("unused"), lr=1e-5, schedule="constant", warmup=0, device="cpu", **options)
