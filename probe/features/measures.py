"""Measures of an autoencoder on held-out texts: how much it explains, how sparse it is, what the model loses with it.

Axes: T tokens, M models, d width, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from probe.features.autoencoder import Autoencoder
from probe.features.streamed_states import Piece, passes, states_of
from probe.interventions.sites import Site
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM


@dataclass(frozen=True)
class ModelReconstruction:
    """Reconstruction of the states of one model."""

    explained: float
    """Share of the variance of the states that the reconstruction explains, 1 - sum of squares of the error / of the
    states about their mean.
    """
    loss: float
    """Mean loss of a token without intervention, nats."""
    spliced: float
    """Loss with the reconstruction in place of the states."""
    zeroed: float
    """Loss with 0 in place of the states."""

    @property
    def recovered(self) -> float:
        """Share of the loss that zero ablation adds which the reconstruction avoids."""
        return (self.zeroed - self.spliced) / (self.zeroed - self.loss)


@dataclass(frozen=True)
class Reconstruction:
    """Measures of an autoencoder on texts."""

    models: tuple[ModelReconstruction, ...]
    active: float
    """Mean number of features that are active at a token."""
    dead: float
    """Share of the features that are active at no token."""
    density: Float[Tensor, " F"]
    """Share of tokens at which each feature is active."""
    tokens: int
    """Number of tokens."""


@torch.no_grad()
def measure(
    lms: "Sequence[LM]", model: Autoencoder, pieces: Sequence[Piece], block: int, tick: Tick = ignore
) -> Reconstruction:
    """Measure an autoencoder on texts. The first token of each text keeps its state, and is not counted.

    Args:
        lms: the models that it reads.
        model: the autoencoder.
        pieces: texts that it was not fitted to.
        block: block after which it reads.
        tick: progress.
    """
    models, width, features = model.shape
    count, error = 0, torch.zeros(models, dtype=torch.float64)
    sums, squares = torch.zeros(models, width, dtype=torch.float64), torch.zeros(models, dtype=torch.float64)
    fired = torch.zeros(features, dtype=torch.float64)
    losses = torch.zeros(models, 3, dtype=torch.float64)
    groups = list(passes(pieces))
    for done, group in enumerate(groups, start=1):
        ids = [piece.ids for piece in group]
        read = states_of(lms, ids, block)
        states = torch.cat([each[1:] for each in read])
        active = model.encode(states)
        guess = model.decode(active)
        fired += (active > 0).sum(0)
        error += (states - guess).double().square().sum((0, 2))
        sums += states.double().sum(0)
        squares += states.double().square().sum((0, 2))
        count += len(states)
        rows = guess.split([len(each) - 1 for each in read])
        for at, lm in enumerate(lms):
            own = [torch.cat([each[:1, at], row[:, at]]) for each, row in zip(read, rows, strict=True)]
            zero = [torch.cat([each[:1, at], torch.zeros_like(each[1:, at])]) for each in read]
            losses[at] += torch.tensor([token_losses(lm, ids, block, put) for put in (None, own, zero)])
        tick(done / len(groups))
    variance = squares - sums.square().sum(1) / count
    found = [
        ModelReconstruction(1 - float(each / spread), *map(float, row / count))
        for each, spread, row in zip(error, variance, losses, strict=True)
    ]
    density = (fired / count).float()
    return Reconstruction(tuple(found), float(density.sum()), float((density == 0).float().mean()), density, count)


@torch.no_grad()
def token_losses(
    lm: "LM", ids: Sequence[Sequence[int]], block: int, states: "Sequence[Float[Tensor, 'T d']] | None" = None
) -> float:
    """Return the sum of the losses of all tokens but the first of each text, nats.

    Args:
        lm: the model.
        ids: texts.
        block: block after which states are put in place of its own.
        states: states of each text; None leaves the model's own.
    """

    def put(own: Tensor, hook: Any) -> Tensor | None:
        if states is None:
            return None
        changed = own.clone()
        for row, each in zip(changed, states, strict=True):
            row[: len(each)] = each.to(row)
        return changed

    with lm.hooks([(Site("resid", block).hook, put)]):
        logits = lm.logits([list(each) for each in ids])
    total = 0.0
    for row, each in zip(logits, ids, strict=True):
        target = torch.tensor(each[1:], device=row.device)
        total += float(torch.nn.functional.cross_entropy(row[: len(each) - 1].float(), target, reduction="sum"))
    return total
