"""The training loop of all methods: a method supplies batches and a loss, and the loop returns a run.

An optimiser step uses a whole batch, in any number of gradient-accumulation steps and processes. The gradients of all
loss *sums* are added and divided once by the count over the whole batch. Because the division comes last, 4
accumulation steps of 2 examples equal one of 8 up to the rounding of sums, even if they hold different numbers of
tokens.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from probe import Run
from probe.commands.progress import Bar, StopRequest
from probe.errors import RunError
from probe.recording.block_metrics import BlockMetrics
from probe.runs import thin
from probe.runs.alarm_rows import Alarm
from probe.ticks import announce
from trainers import checkpoint
from trainers.checkpoint import State
from trainers.optimizer import Optimizer, learning_rate, take_gradients, with_gradient
from trainers.record import Origin, Record
from trainers.session import Session
from trainers.trainee import Trainee


@dataclass(frozen=True)
class Loss:
    """Loss of some examples as sums, so that parts can be added."""

    total: Tensor
    """Scalar: the loss summed over target tokens or pairs, with gradient."""
    count: int
    """Denominator of the sum after all parts are added: number of real target tokens, or of pairs."""
    tokens: int
    """Number of real tokens that the model computed."""
    metrics: dict[str, tuple[Tensor | float, int]]
    """Name -> (sum, count), logged as sum / count over the whole batch; may be empty unless `detail` is set."""


LossFunction = Callable[[nn.Module, Sequence[Any], bool], Loss]
"""Function (model, examples, detail) -> loss."""


class Objective(nn.Module):
    """A model with its loss, so that data parallelism sees a single forward call, however often the model runs."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, examples: Sequence[Any], detail: bool) -> Loss:
        """Compute the loss of `examples`."""
        return self._loss(self.model, examples, detail)


class StepOutcome(NamedTuple):
    """Outcome of one step; the same on every process."""

    loss: float
    norm: float
    """Global norm of the gradient before clipping."""
    tokens: int
    metrics: dict[str, float]
    stop: bool
    """Whether any process was asked to stop."""

    @property
    def finite(self) -> bool:
        """Whether loss and gradient were finite, so that the step was taken."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def mean_outcome(outcomes: Sequence[StepOutcome]) -> StepOutcome:
    """Combine the updates of one step: means of loss, norm and metrics, and the sum of the tokens."""
    if len(outcomes) == 1:
        return outcomes[0]
    n = max(len(outcomes), 1)
    names = {name: None for outcome in outcomes for name in outcome.metrics}
    values = {name: [o.metrics[name] for o in outcomes if name in o.metrics] for name in names}
    return StepOutcome(
        loss=sum(outcome.loss for outcome in outcomes) / n,
        norm=sum(outcome.norm for outcome in outcomes) / n,
        tokens=sum(outcome.tokens for outcome in outcomes),
        metrics={name: sum(numbers) / len(numbers) for name, numbers in values.items()},
        stop=any(outcome.stop for outcome in outcomes),
    )


def take_step(
    session: Session,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Sequence[Any],
    *,
    lr: float,
    detail: bool = False,
    blocks: BlockMetrics | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StepOutcome:
    """Update the weights on `batch` (the same on every process), unless the loss or gradient is not finite.

    Metrics are computed with `detail`, those of the parts of the model if `blocks` is given.
    """
    config, parts = session.config, session.parts(batch)
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for part in parts:
        context = nullcontext() if part is parts[-1] else session.accelerator.no_sync(objective)
        with context:
            with session.autocast():
                loss: Loss = objective(part, detail)
            loss.total.backward()
        losses.append(replace(loss, total=loss.total.detach()))
    total, count, tokens, stops, metrics = _sums(session, losses, stop())
    gradients = take_gradients(optimizer)
    scale = unit = session.processes / count  # data parallelism has averaged over the processes
    norms = torch.stack(torch._foreach_norm(gradients))
    norm = float(torch.linalg.vector_norm(norms))
    if session.shards:
        norm = math.sqrt(session.total([norm**2])[0])
    norm *= scale
    outcome = StepOutcome(total / count, norm, int(tokens), metrics, stops > 0)
    if outcome.finite:
        if config.clip and norm > config.clip:
            scale *= config.clip / norm
        before: Sequence[Tensor] = ()
        if blocks:
            named = zip(with_gradient(optimizer), norms.tolist(), strict=True)
            outcome.metrics.update(blocks.gradients(named, unit))
            before = blocks.weights()
        torch._foreach_mul_(gradients, scale)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        if blocks:
            outcome.metrics.update(blocks.updates(before))
    return outcome


def _sums(session: Session, losses: Sequence[Loss], stop: bool) -> tuple[float, float, float, float, dict[str, float]]:
    """Return loss, count, tokens, stop requests and mean metrics over all parts of all processes."""
    names = list(losses[0].metrics)
    flat = [sum(float(loss.total) for loss in losses), sum(loss.count for loss in losses)]
    flat += [sum(loss.tokens for loss in losses), float(stop)]
    for name in names:
        flat += [sum(float(loss.metrics[name][i]) for loss in losses) for i in (0, 1)]
    total, count, tokens, stops, *rest = session.total(flat)
    pairs = zip(names, rest[::2], rest[1::2], strict=True)
    return total, max(count, 1.0), tokens, stops, {name: value / max(n, 1.0) for name, value, n in pairs}


class Method(ABC):
    """Interface of a training method for the loop."""

    name: str
    """Name of the method in `probe train` and run.json."""
    dropout: bool = False
    """Whether the model's dropout is active during training."""
    trainee: Trainee
    """The trainee: the model that is trained."""

    def batch(self, step: int) -> Sequence[Any]:
        """Return the examples of step 1, 2, ...; they are the same on every process and after a resume."""
        return ()

    def batches(self, step: int) -> Iterable[Sequence[Any]]:
        """Yield the examples of each optimiser update of a step; a method that samples first makes several updates.

        Examples of an update are requested after the update before it. There are no checkpoints between the updates of
        a step, so samples need not be saved.
        """
        yield self.batch(step)

    def milestone(self, step: int) -> bool:
        """Return whether to evaluate and capture after `step` (0: before training) regardless of the options."""
        return False

    @abstractmethod
    def loss(self, model: nn.Module, examples: Sequence[Any], detail: bool) -> Loss:
        """Return the loss of a part of a batch under `trainee.module`, with metrics if `detail`."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Compute metrics on held-out data, empty without such data.

        Every process calls it, in evaluation mode and without gradients.
        """
        return {}

    def metrics(self) -> dict[str, float]:
        """Return further metrics of the last step, equal on every process."""
        return {}

    def rollouts(self) -> Sequence[Mapping[str, Any]]:
        """Return the completions of the last step that are to be recorded (docs/runs.md)."""
        return ()

    def state(self) -> dict[str, Tensor]:
        """Return the state that a resume needs in addition to weights, optimiser and counters."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned, which may be empty."""
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
    optimizer = Optimizer(trainee.module, session.config)
    state = State()
    if record.saved:
        state, extra = checkpoint.load(record.saved, trainee, optimizer)
        method.restore(extra)
    try:
        with StopRequest() as request:  # once the run exists, a signal ends it properly
            record.open()
            complete = _steps(session, method, record, optimizer, state, request)
        if complete:
            record.finish("finished", headline=record.headline())
            if session.config.thin and session.main:
                thin(session.config.out, keep=session.config.thin)
        return record.run()
    except (OSError, SafetensorError, RunError) as error:
        failure = record.stop_error(f"The run could not be written ({error})")
        record.abandon("failed", str(failure))
        raise failure from error
    except KeyboardInterrupt:
        record.abandon("interrupted", "It was stopped at once; --resume continues from its last checkpoint.")
        raise
    except BaseException as error:
        record.abandon("failed", str(error))
        raise
    finally:
        trainee.module.eval()
        session.free_memory()


def _steps(
    session: Session,
    method: Method,
    record: Record,
    optimizer: Optimizer,
    state: State,
    request: StopRequest,
) -> bool:
    """Run the steps after `state`; return whether all were completed."""
    config, module = session.config, method.trainee.module
    objective: nn.Module = Objective(module, method.loss)
    if not session.shards:
        objective = session.accelerator.prepare_model(objective)
    if state.step == 0:
        if config.warmup_steps < config.warmup:
            session.say(
                f"--warmup {config.warmup} is too long for --steps {config.steps}: the learning rate rises to"
                f" {config.lr:g} over {config.warmup_steps} instead."
            )
        session.say(f"{method.name}: measuring the model as it is")
        announce("measuring the model as it is")
        record.log(0, record.distance() if config.eval_every else {})
        if method.milestone(0):
            record.log(0, evaluate(session, method))
        record.capture(0)
    pace = StepTimer()
    blocks = BlockMetrics(module, optimizer.pairs, session.total if session.shards else list)

    def stop() -> bool:
        return request.asked or record.stopping is not None

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
                        session,
                        objective,
                        optimizer,
                        batch,
                        lr=lr,
                        detail=detail,
                        blocks=blocks if detail else None,
                        stop=stop,
                    )
                    if not outcome.finite:
                        raise record.stop_error(
                            f"In step {step} the loss was {outcome.loss} and its gradient's norm {outcome.norm}"
                        )
                    outcomes.append(outcome)
                outcome = mean_outcome(outcomes)
            state = State(step, state.num_tokens + outcome.tokens)
            row = pace.row(outcome, lr, state) | method.metrics() if detail else {}
            if last:
                announce("evaluating and saving")
            if last or milestone or (config.eval_every and step % config.eval_every == 0):
                row |= {"num_tokens": float(state.num_tokens)} | evaluate(session, method) | record.distance()
            record.log(step, row)
            record.rollouts(method.rollouts())
            record.capture(step, last or milestone)
            bar.advance(step, _note(row) if detail else None)
            if last or outcome.stop or (config.save_every and step % config.save_every == 0):
                record.save(optimizer, state, method.state())
            if outcome.stop and not last:
                alarm = None if request.asked else record.stopping
                if alarm is not None:
                    session.say(f"{method.name}: stopped after step {step} for an alarm, with a checkpoint")
                record.finish("interrupted", _ending(step, alarm))
                return False
    return True


def _ending(step: int, alarm: Alarm | None) -> str:
    """Return the message of a run that is stopped after a step, by the user or for an alarm."""
    if alarm is None:
        return f"It was stopped after step {step}; --resume continues it."
    return f"{alarm.ending(step)} Change that in a new run; --resume continues this one as it is."


def evaluate(session: Session, method: Method) -> dict[str, float]:
    """Compute the method's metrics on held-out data."""
    module = method.trainee.module.eval()
    with torch.no_grad(), session.autocast():
        return method.evaluate(module)


class StepTimer:
    """Timer of seconds and tokens since the last row: `with pace:` around each step, without evaluations."""

    def __init__(self) -> None:
        self._steps, self._seconds, self._tokens, self._started = 0, 0.0, -1, 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._steps, self._seconds = self._steps + 1, self._seconds + time.perf_counter() - self._started

    def row(self, outcome: StepOutcome, lr: float, state: State) -> dict[str, float]:
        """Return the metrics of a step (names as in docs/metrics.md), and start a new interval."""
        tokens = outcome.tokens * self._steps if self._tokens < 0 else state.num_tokens - self._tokens
        speed = {"tokens_per_second": tokens / self._seconds, "step_time": self._seconds / self._steps}
        self._steps, self._seconds, self._tokens = 0, 0.0, state.num_tokens
        base = {"loss": outcome.loss, "lr": lr, "grad_norm": outcome.norm, "num_tokens": float(state.num_tokens)}
        return base | outcome.metrics | speed


def _note(row: dict[str, float]) -> str:
    return f"loss {row['loss']:.4g}, {row['tokens_per_second']:,.0f} tokens/s"


def draw(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Draw the indices of the examples of step 1, 2, ... out of `n`, in epochs that each have a new order."""
    first = (step - 1) * batch_size
    return [int(_order(n, seed, at // n)[at % n]) for at in range(first, first + batch_size)]


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)
