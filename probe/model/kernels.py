"""Attention kernels of a bridge: the plain model's, and the eager one where a hook reads scores or weights.

transformer-lens recomputes attention step by step, so that scores and weights can be hooked, which takes memory and
time in proportion to the square of a text's length. Here an attention whose steps nobody hooks runs the model's own
module, with the kernel of the plain model (such as sdpa). Queries, keys, values and the mixed values of heads
(`hook_z`) are hooked as before, because the layers that make and read them are the bridge's.
"""

import copy
from typing import Any

import torch
from torch import nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import PositionEmbeddingsAttentionBridge

LINEAR = ("q", "k", "v", "o")
"""Layers of an attention that both ways run."""
FLAGS = ("use_split_qkv_input", "use_attn_in", "use_attn_result")
"""Settings of a bridge that need its own steps."""
FAST = ("sdpa",)
"""Kernels that are kept."""


def keep_kernel(bridge: TransformerBridge, kernel: str) -> None:
    """Run attention on this kernel of the plain model while no hook reads its steps and no gradient is needed.

    Attention with fused projections (GPT-2, GPT-NeoX) has no separate layers, so it always runs step by step.
    """
    for module in bridge.modules() if kernel in FAST else ():
        if type(module).forward is PositionEmbeddingsAttentionBridge.forward:
            _keep(module, kernel)


def keeps_kernel(bridge: TransformerBridge) -> bool:
    """Return whether all attention of a bridge computes no weights unless they are read."""
    attentions = [module for module in bridge.modules() if "_pattern" in vars(module)]
    return all("forward" in vars(module) for module in attentions)


def read_weights(bridge: TransformerBridge) -> list[tuple[str, Any]]:
    """Return hooks that change nothing and have every attention computed step by step."""
    names = [name for name in bridge.hook_dict if name.endswith(".attn.hook_pattern")]
    return [(name, lambda tensor, hook: None) for name in names]


def _keep(attention: Any, kernel: str) -> None:
    own: nn.Module = attention.original_component
    config: Any = copy.copy(own.config)
    config._attn_implementation_internal = kernel
    own.config = config
    shared = {id(part) for name in LINEAR if name in attention._modules for part in attention._modules[name].modules()}
    shared |= {id(attention.hook_in), id(attention.hook_out)}
    steps = [part for part in attention.modules() if isinstance(part, HookPoint) and id(part) not in shared]
    whole = attention.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        flags = any(getattr(attention.config, name, False) for name in FLAGS)
        if flags or torch.is_grad_enabled() or attention.training or any(map(_is_hooked, steps)):
            return whole(*args, **kwargs)
        states = kwargs.pop("hidden_states") if "hidden_states" in kwargs else args[0]
        output, *others = own(attention.hook_in(states), **kwargs)
        return (attention.hook_out(output), *others)

    vars(attention)["forward"] = forward  # setting an attribute would set that of the model's module


def _is_hooked(point: HookPoint) -> bool:
    return bool(point._forward_hooks or point._forward_pre_hooks or point._backward_hooks)
