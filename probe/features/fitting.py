"""Fitting of an autoencoder to streamed states: BatchTopK with Adam, dead features, and the threshold for use.

The states are divided by one number, so that their mean norm is the root of the width, and the weights are multiplied
back afterwards. The threshold is the mean, over batches, of the smallest activation that BatchTopK keeps, so that a
token is encoded without a batch (section 3 of Bussmann, Leask and Nanda 2024, arXiv 2412.06410).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, TrainingStopped
from probe.features.autoencoder import Autoencoder, batch_loss, keep_largest
from probe.ticks import Tick, ignore

BETAS = (0.9, 0.99)
"""Decay rates of Adam's moments."""
DEAD_AFTER = 50
"""Number of batches without activation after which a feature is dead."""
FALL = 0.2
"""Share of the steps, at the end, over which the learning rate falls to 0."""
THRESHOLD_BATCHES = 20
"""Number of batches over which the threshold is averaged."""
EVERY = 20
"""Number of steps between rows of the curve."""


@dataclass(frozen=True)
class FitSettings:
    """Settings of a fit."""

    features: int
    """Number of features."""
    k: float = 16.0
    """Mean number of features that are active at a token."""
    steps: int = 2000
    """Number of steps."""
    batch_size: int = 512
    """Number of tokens of a step."""
    lr: float = 1e-3
    """Learning rate of Adam; it falls to 0 over the last fifth of the steps."""
    seed: int = 0
    """Seed of the first weights and of the order of tokens."""

    def __post_init__(self) -> None:
        for name in ("features", "k", "steps", "batch_size", "lr"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}; expected a number above 0.")
        if self.k > self.features:
            raise ConfigError(
                f"k is {self.k:g}, more than the {self.features:,} features: give fewer, or more features."
            )


@dataclass(frozen=True)
class Fit:
    """Fitted autoencoder, and how it was fitted."""

    model: Autoencoder
    """Autoencoder for states as the models have them; every decoder has norm 1, summed over models."""
    curve: pd.DataFrame
    """One row per 20 steps: `step`, `loss`, `unexplained` (share of the variance), `active` (features a token), `dead`
    (share of the features).
    """
    steps: int
    """Number of steps that were made."""


def fit(
    batches: Iterator[Float[Tensor, "B M d"]],
    settings: FitSettings,
    tick: Tick = ignore,
    stop: Callable[[], bool] = lambda: False,
    device: torch.device | str = "cpu",
) -> Fit:
    """Fit an autoencoder to batches of states.

    Args:
        batches: batches of states without end (`probe.features.streamed_states.StateBuffer.batches`).
        settings: settings of the fit.
        tick: progress.
        stop: function that says whether to end after the present step, with what was learned until then.
        device: device that computes.

    Raises:
        TrainingStopped: the loss is not a number, as with states that are not.
    """
    first = next(batches).to(device)
    _, models, width = first.shape
    scale = width**0.5 / max(float(first.norm(dim=-1).mean()), 1e-12)
    model = Autoencoder.random(models, width, settings.features, settings.seed).to(device)
    with torch.no_grad():
        model.b_dec.add_(first.mean(0) * scale)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.lr, betas=BETAS, fused=True)
    silent = torch.zeros(settings.features, dtype=torch.long, device=device)
    rows, done = [], 0
    for step in range(1, settings.steps + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * min(1.0, (settings.steps - step + 1) / (FALL * settings.steps))
        states = next(batches).to(device) * scale
        found = batch_loss(model, states, settings.k, silent >= DEAD_AFTER)
        if not torch.isfinite(found.total):
            raise TrainingStopped(f"The loss is not a number at step {step}: give a lower lr, or check the model.")
        optimiser.zero_grad()
        found.total.backward()
        optimiser.step()
        silent = torch.where(found.active.any(0), 0, silent + 1)
        done = step
        if step % EVERY == 0 or step == settings.steps:
            rows.append(
                {
                    "step": step,
                    "loss": float(found.total.detach()),
                    "unexplained": float(found.error / states.var(0, unbiased=False).mean().clamp(min=1e-12)),
                    "active": float(found.active.sum(-1).float().mean()),
                    "dead": float((silent >= DEAD_AFTER).float().mean()),
                }
            )
            tick(step / settings.steps)
        if stop():
            break
    model.fold()
    model.threshold.fill_(find_threshold(model, (states.to(device) * scale for states in batches), settings.k))
    model.fold(scale)
    model.requires_grad_(False).cpu()
    return Fit(model, pd.DataFrame(rows, columns=["step", "loss", "unexplained", "active", "dead"]), done)


@torch.no_grad()
def find_threshold(model: Autoencoder, batches: Iterator[Float[Tensor, "B M d"]], k: float) -> float:
    """Return the mean over batches of the smallest activation that BatchTopK keeps; 0 if all are kept."""
    if k >= model.shape[2]:
        return 0.0
    least = []
    for states in islice(batches, THRESHOLD_BATCHES):
        activations = model.before(states).relu()
        kept = activations[keep_largest(activations, k)]
        least.append(float(kept.min()) if len(kept) else 0.0)
    return sum(least) / len(least)
