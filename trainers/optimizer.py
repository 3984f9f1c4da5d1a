"""AdamW on the weights that this process holds, and the learning rate of each step (Loshchilov and Hutter 2019)."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from probe.errors import ConfigError
from probe.recording.block_metrics import part_of
from trainers.config import TrainConfig


class Optimizer(torch.optim.AdamW):
    """Fused AdamW on the weights that this process holds; weight decay applies to matrices, not to biases and norms.

    Weights in bfloat16 are copied to float32, and the copies are updated: bfloat16 has 8 bits of precision, so that
    steps below 1/256 of a weight would be lost. Gradients are copied too, after the backward pass.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        """Take the weights of `model` that require gradients.

        Raises:
            ConfigError: the model has nothing to train.
        """
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        if not weights:
            raise ConfigError("All weights of this model are frozen: load one whose weights require gradients.")
        self.pairs = {name: (weight, _updated(weight)) for name, weight in weights.items()}
        """Name -> (weight, updated tensor): the weight itself, this process's part of it, or a copy of that."""
        groups = [
            {"params": [u for w, u in self.pairs.values() if w.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [u for w, u in self.pairs.values() if w.ndim < 2], "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], lr=config.lr, betas=config.betas, fused=True)

    def collect(self) -> None:
        """Move the gradients of the weights to the tensors that are updated."""
        for weight, updated in self.pairs.values():
            if updated is not weight and weight.grad is not None:
                updated.grad, weight.grad = part_of(weight.grad).float(), None

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the weights by their gradients, directly or through their copies."""
        super().step(closure)
        self.write_back()

    @torch.no_grad()
    def write_back(self) -> None:
        """Round the copies into the weights."""
        for weight, updated in self.pairs.values():
            if weight.dtype != updated.dtype:
                part_of(weight).copy_(updated)


def _updated(weight: nn.Parameter) -> Tensor:
    whole = not isinstance(weight, DTensor)
    return weight if whole and weight.dtype == torch.float32 else nn.Parameter(part_of(weight.detach()).float())


def take_gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the gradients that the next step uses; they may be scaled in place."""
    if isinstance(optimizer, Optimizer):
        optimizer.collect()
    return [updated.grad for updated in with_gradient(optimizer) if updated.grad is not None]


def with_gradient(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the updated tensors that have a gradient."""
    return [updated for group in optimizer.param_groups for updated in group["params"] if updated.grad is not None]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of step 1, 2, ..., `config.steps`: a linear rise, then the schedule to `final_lr`."""
    warmup = config.warmup_steps
    if step <= warmup:
        return config.lr * step / warmup
    progress = (step - warmup) / max(config.steps - warmup, 1)
    falls = {"constant": 0.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return config.lr * (1 - (1 - config.final_lr) * falls[config.schedule])
