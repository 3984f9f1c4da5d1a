"""The training loop that every method shares; a method gives it batches and a loss, and gets a run."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from probe import Run
from probe.errors import RunError
from trainers import checkpoint
from trainers.checkpoint import State
from trainers.progress import Bar, StopRequest
from trainers.record import Origin, Record
from trainers.session import Session
from trainers.step import Loss, Objective, Outcome, learning_rate, make_optimizer, mean_outcome, take_step
from trainers.trainee import Trainee


class Method(ABC):
    """What a training method gives to the loop."""

    name: str
    """The method as `probe train` and run.json call it."""
    dropout: bool = False
    """Whether the model's dropout is on while training."""
    trainee: Trainee
    """What is trained."""

    def batch(self, step: int) -> Sequence[Any]:
        """The examples of step 1, 2, ...; on every process the same, and the same after a resume."""
        return ()

    def batches(self, step: int) -> Iterable[Sequence[Any]]:
        """The examples of each optimiser update of a step; a method that samples first has several of them.

        Each is drawn after the update before it. No checkpoint lies between the updates of a step, so what was
        sampled for them need not be saved.
        """
        yield self.batch(step)

    def milestone(self, step: int) -> bool:
        """Whether to evaluate and capture after `step` (0: before training), however often the options ask for it."""
        return False

    @abstractmethod
    def loss(self, model: nn.Module, examples: Sequence[Any], detail: bool) -> Loss:
        """The loss of a part of a batch under `trainee.module`, with metrics if `detail`."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data, empty if there are none; every process calls it, in eval mode without gradients."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Further figures of the step just taken, equal on every process."""
        return {}

    def rollouts(self) -> Sequence[Mapping[str, Any]]:
        """Completions sampled in the step just taken, as far as they are to be recorded (docs/runs.md)."""
        return ()

    def state(self) -> dict[str, Tensor]:
        """What a resume needs beside weights, optimiser and counters."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave; called with an empty one too."""
        return None


def fit(session: Session, method: Method, origin: Origin) -> Run:
    """Train `method.trainee` in place and return its run, finished or (after Ctrl-C or SIGTERM) interrupted.

    Raises:
        TrainingStopped: the loss or the gradient is not finite, or the run cannot be written (a full disk); the run
            ends as failed and the message names the last good checkpoint.
        RunError, ConfigError: the run cannot be created or resumed.
    """
    trainee = method.trainee
    record = Record(session, trainee, method.name, origin)
    optimizer = make_optimizer(trainee.module, session.config)
    state = State()
    if record.saved:
        state, extra = checkpoint.load(record.saved, trainee, optimizer)
        method.restore(extra)
    try:
        with StopRequest() as request:  # from the moment there is a run, a signal ends it properly
            record.open()
            finished = _steps(session, method, record, optimizer, state, request)
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
        trainee.module.eval()
        session.accelerator.free_memory()


def _steps(
    session: Session,
    method: Method,
    record: Record,
    optimizer: torch.optim.Optimizer,
    state: State,
    request: StopRequest,
) -> bool:
    """Run the steps that are left after `state`; whether they were all made."""
    config, module = session.config, method.trainee.module
    objective = session.accelerator.prepare_model(Objective(module, method.loss))
    if state.step == 0:
        if config.warmup_steps < config.warmup:
            session.say(
                f"--warmup {config.warmup} is too long for --steps {config.steps}: the learning rate rises to"
                f" {config.lr:g} over {config.warmup_steps} instead."
            )
        record.log(0, record.distance() if config.eval_every else {})
        if method.milestone(0):
            record.log(0, evaluate(session, method))
        record.capture(0)
    pace = Pace()
    with Bar(f"{method.name} steps", config.steps, state.step, session.main) as bar:
        for step in range(state.step + 1, config.steps + 1):
            last, milestone = step == config.steps, method.milestone(step)
            detail = last or step == 1 or step % config.log_every == 0
            with pace:
                session.seed(step)
                lr, outcomes = learning_rate(step, config), []
                for batch in method.batches(step):
                    module.train(method.dropout)
                    outcome = take_step(
                        session, objective, optimizer, batch, lr=lr, detail=detail, stop=lambda: request.asked
                    )
                    if not outcome.finite:
                        raise record.stopped(
                            f"In step {step} the loss was {outcome.loss} and its gradient's norm {outcome.norm}"
                        )
                    outcomes.append(outcome)
                outcome = mean_outcome(outcomes)
            state = State(step, state.num_tokens + outcome.tokens)
            row = pace.row(outcome, lr, state) | method.metrics() if detail else {}
            if last or milestone or (config.eval_every and step % config.eval_every == 0):
                row |= evaluate(session, method) | record.distance()
            record.log(step, row)
            record.rollouts(method.rollouts())
            record.capture(step, last or milestone)
            bar.advance(step, _note(row) if detail else None)
            if last or outcome.stop or (config.save_every and step % config.save_every == 0):
                record.save(optimizer, state, method.state())
            if outcome.stop and not last:
                record.finish("interrupted", f"It was stopped after step {step}; --resume continues it.")
                return False
    return True


def evaluate(session: Session, method: Method) -> dict[str, float]:
    """The method's metrics on held-out data."""
    module = method.trainee.module.eval()
    with torch.no_grad(), session.autocast():
        return method.evaluate(module)


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
