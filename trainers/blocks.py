"""The blocks of a model, and gradient checkpointing of them (--gradient-checkpointing).

Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): each block keeps only its input, and its activations are
recomputed in the backward pass. A step costs one more forward pass; gradients are bit-identical where the kernels are
deterministic.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from probe.errors import ConfigError
from probe.model.text import unwrap


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """Return the blocks of a causal language model.

    They are the list of modules whose length is the number of layers in the configuration.

    Raises:
        ConfigError: there is no such list.
    """
    inner = unwrap(model)
    depth = getattr(inner.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    lists = [module for module in inner.modules() if isinstance(module, nn.ModuleList) and len(module) == depth > 0]
    if not lists:
        raise ConfigError(
            f"The blocks of {type(inner).__name__} cannot be found, which --gradient-checkpointing and --shard work on:"
            " leave both out, or use a decoder such as llama, qwen3 or gpt2."
        )
    return lists[0]


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
