"""Gradient checkpointing of the blocks of a model (--gradient-checkpointing).

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): each block keeps only its input, and its activations are
recomputed in the backward pass. A step costs one more forward pass; gradients are the same up to the rounding of sums.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from probe.model.read_places import blocks_of
from probe.model.text import unwrap


def recompute_blocks(model: nn.Module) -> None:
    """Make the blocks keep only their inputs and recompute their activations, from now on.

    Raises:
        ConfigError: see `blocks_of`.
    """
    for block in blocks_of(model):
        block.forward = _recomputed(block.forward)
    unwrap(model).recomputes = True  # `probe.model.scoring` then keeps no keys and values while gradients are on


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
