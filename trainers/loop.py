"""The training loop that every method shares; a method gives it batches and a loss, and gets a run."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import nn

from probe import LM, Run
from probe.errors import RunError
from trainers import checkpoint
from trainers.checkpoint import State
from trainers.progress import Bar, StopRequest
from trainers.record import Origin, Record
from trainers.session import Session
from trainers.step import Loss, Objective, Outcome, learning_rate, make_optimizer, take_step


class Method(Protocol):
    """What a training method gives to the loop."""

    name: str
    """The method as `probe train` and run.json call it."""
    dropout: bool
    """Whether the model's dropout is on while training."""

    def batch(self, step: int) -> Sequence[Any]:
        """The `batch_size` examples of step 1, 2, ...; on every process the same, and the same after a resume."""

    def loss(self, model: nn.Module, examples: Sequence[Any], detail: bool) -> Loss:
        """The loss of a part of the batch, with metrics if `detail`."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data, empty if there are none; every process calls it, in eval mode without gradients."""


def fit(session: Session, lm: LM, method: Method, origin: Origin) -> Run:
    """Train `lm` in place and return its run, finished or (after Ctrl-C or SIGTERM) interrupted.

    Raises:
        TrainingStopped: the loss or the gradient is not finite, or the run cannot be written (a full disk); the run
            ends as failed and the message names the last good checkpoint.
        RunError, ConfigError: the run cannot be created or resumed.
    """
    record = Record(session, lm, method.name, origin)
    optimizer = make_optimizer(lm.model, session.config)
    state = checkpoint.load(record.saved, lm, optimizer) if record.saved else State()
    try:
        record.open()
        finished = _steps(session, lm, method, record, optimizer, state)
        if finished:
            record.finish("finished", headline=record.headline())
        return record.run()
    except (OSError, SafetensorError, RunError) as error:
        stopped = record.stopped(f"The run could not be written ({error})")
        record.abandon("failed", str(stopped))
        raise stopped from error
    except KeyboardInterrupt:
        record.abandon("interrupted", "It was stopped at once; --resume continues from its last checkpoint.")
        raise
    except BaseException as error:
        record.abandon("failed", str(error))
        raise
    finally:
        lm.model.eval()
        session.accelerator.free_memory()


def _steps(
    session: Session, lm: LM, method: Method, record: Record, optimizer: torch.optim.Optimizer, state: State
) -> bool:
    """Run the steps that are left after `state`; whether they were all made."""
    config = session.config
    objective = session.accelerator.prepare_model(Objective(lm.model, method.loss))
    if state.step == 0:
        record.capture(0)
    pace = Pace()
    with StopRequest() as request, Bar(f"{method.name} steps", config.steps, state.step, session.main) as bar:
        for step in range(state.step + 1, config.steps + 1):
            last = step == config.steps
            detail = last or step == 1 or step % config.log_every == 0
            lm.model.train(method.dropout)
            with pace:
                session.seed(step)
                lr, batch = learning_rate(step, config), method.batch(step)
                outcome = take_step(
                    session, objective, optimizer, batch, lr=lr, detail=detail, stop=lambda: request.asked
                )
            if not outcome.finite:
                raise record.stopped(
                    f"In step {step} the loss was {outcome.loss} and its gradient's norm {outcome.norm}"
                )
            state = State(step, state.num_tokens + outcome.tokens)
            row = pace.row(outcome, lr, state) if detail else {}
            if last or (config.eval_every and step % config.eval_every == 0):
                row |= evaluate(session, lm, method)
            record.log(step, row)
            record.capture(step, last)
            bar.advance(step, _note(row) if detail else None)
            if last or outcome.stop or (config.save_every and step % config.save_every == 0):
                record.save(optimizer, state)
            if outcome.stop and not last:
                record.finish("interrupted", f"It was stopped after step {step}; --resume continues it.")
                return False
    return True


def evaluate(session: Session, lm: LM, method: Method) -> dict[str, float]:
    """The method's metrics on held-out data."""
    lm.model.eval()
    with torch.no_grad(), session.autocast():
        return method.evaluate(lm.model)


class Pace:
    """Seconds and tokens of the steps since the last row: `with pace:` around each step, evaluations not counted."""

    def __init__(self) -> None:
        self._steps, self._seconds, self._tokens, self._started = 0, 0.0, -1, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._steps, self._seconds = self._steps + 1, self._seconds + time.perf_counter() - self._started

    def row(self, outcome: Outcome, lr: float, state: State) -> dict[str, float]:
        """The metrics of a step (names as in docs/metrics.md); begins a new interval."""
        tokens = outcome.tokens * self._steps if self._tokens < 0 else state.num_tokens - self._tokens
        speed = {"tokens_per_second": tokens / self._seconds, "step_time": self._seconds / self._steps}
        self._steps, self._seconds, self._tokens = 0, 0.0, state.num_tokens
        fixed = {"loss": outcome.loss, "lr": lr, "grad_norm": outcome.norm, "num_tokens": float(state.num_tokens)}
        return fixed | outcome.metrics | speed


def _note(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.4g}, {row['tokens_per_second']:,.0f} tokens/s"
