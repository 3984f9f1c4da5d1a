"""One optimiser step on a whole batch, however many parts and processes it is run in.

The gradients of the loss *sums* of all parts are added and divided once by the count over the whole batch. Because
the division comes last, 4 parts of 2 examples equal one part of 8 as far as sums of floats do, also when the parts
hold different numbers of tokens.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from probe.errors import ConfigError
from trainers.config import TrainConfig
from trainers.session import Session


@dataclass(frozen=True)
class Loss:
    """The loss of some examples, as sums, so that parts can be added."""

    total: Tensor
    """Scalar: the loss summed over what it is a mean of; the gradient flows through it."""
    count: int
    """What the sum is divided by once all parts are added: real target tokens, or pairs."""
    tokens: int
    """Real tokens that went through the model."""
    metrics: dict[str, tuple[Tensor | float, int]]
    """Name to (sum, count), logged as sum / count over the whole batch; may be empty unless `detail` was asked for."""


LossFunction = Callable[[nn.Module, Sequence[Any], bool], Loss]
"""(model, examples, detail) to their loss."""


class Objective(nn.Module):
    """A model with its loss, so that data parallelism sees one forward call however often the model runs in it."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, examples: Sequence[Any], detail: bool) -> Loss:
        """The loss of `examples`."""
        return self._loss(self.model, examples, detail)


class Outcome(NamedTuple):
    """What one step found; the same on every process."""

    loss: float
    norm: float
    """Global norm of the gradient before clipping."""
    tokens: int
    metrics: dict[str, float]
    stop: bool
    """Whether a process was asked to stop."""

    @property
    def finite(self) -> bool:
        """Whether the step could be taken."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The updates of one step together: means of loss, norm and metrics, the sum of the tokens."""
    if len(outcomes) == 1:
        return outcomes[0]
    n = max(len(outcomes), 1)
    names = {name: None for outcome in outcomes for name in outcome.metrics}
    values = {name: [o.metrics[name] for o in outcomes if name in o.metrics] for name in names}
    return Outcome(
        loss=sum(outcome.loss for outcome in outcomes) / n,
        norm=sum(outcome.norm for outcome in outcomes) / n,
        tokens=sum(outcome.tokens for outcome in outcomes),
        metrics={name: sum(found) / len(found) for name, found in values.items()},
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
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Update the weights on `batch` (the same on every process); they stay as they are if something is not finite."""
    config, parts = session.config, session.parts(batch)
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for part in parts:
        synced = nullcontext() if part is parts[-1] else session.accelerator.no_sync(objective)
        with synced:
            with session.autocast():
                loss: Loss = objective(part, detail)
            loss.total.backward()
        losses.append(replace(loss, total=loss.total.detach()))
    total, count, tokens, stops, metrics = _sums(session, losses, stop())
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    scale = session.processes / count  # data parallelism has averaged over the processes
    norm = float(torch.nn.utils.get_total_norm(gradients)) * scale
    outcome = Outcome(total / count, norm, int(tokens), metrics, stops > 0)
    if outcome.finite:
        if config.clip and norm > config.clip:
            scale *= config.clip / norm
        torch._foreach_mul_(gradients, scale)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return outcome


def _sums(session: Session, losses: Sequence[Loss], stop: bool) -> tuple[float, float, float, float, dict[str, float]]:
    """Loss, count, tokens, requests to stop and mean metrics over all parts of all processes."""
    names = list(losses[0].metrics)
    flat = [sum(float(loss.total) for loss in losses), sum(loss.count for loss in losses)]
    flat += [sum(loss.tokens for loss in losses), float(stop)]
    for name in names:
        flat += [sum(float(loss.metrics[name][i]) for loss in losses) for i in (0, 1)]
    total, count, tokens, stops, *rest = session.total(flat)
    pairs = zip(names, rest[::2], rest[1::2], strict=True)
    return total, max(count, 1.0), tokens, stops, {name: value / max(n, 1.0) for name, value, n in pairs}


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Fused AdamW; matrices decay, biases and norms do not.

    Raises:
        ConfigError: the model has nothing to train.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("All weights of this model are frozen: load one whose weights require gradients.")
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """The learning rate of step 1, 2, ..., `config.steps`: a linear rise, then the schedule down to `final_lr`."""
    warmup = config.warmup_steps
    if step <= warmup:
        return config.lr * step / warmup
    done = (step - warmup) / max(config.steps - warmup, 1)
    falls = {"constant": 0.0, "linear": done, "cosine": (1 - math.cos(math.pi * done)) / 2}
    return config.lr * (1 - (1 - config.final_lr) * falls[config.schedule])
