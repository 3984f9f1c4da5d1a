"""Helpers for analyses of heads: names, checks, arrays, and effective ranks of their maps."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError
from probe.model.lm import LM
from probe.model.placement import readable


def head_names(layers: int, heads: int) -> list[str]:
    """Return the names of the heads, `L0H0`, `L0H1`, ..., block by block."""
    return [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]


def check_head(lm: LM, layer: int, head: int) -> None:
    """Raise a ConfigError unless the model has this head."""
    from probe.model.hooks import check_names

    layers, heads = lm.bridge.cfg.n_layers, lm.bridge.cfg.n_heads
    if 0 <= layer < layers:
        check_names(lm.bridge, [f"blocks.{layer}.attn.hook_pattern"])
    if not (0 <= layer < layers and 0 <= head < heads):
        raise ConfigError(
            f"L{layer}H{head} was requested and the model has {layers} blocks of {heads} heads: give one from L0H0 to "
            f"L{layers - 1}H{heads - 1}."
        )


def output_maps(lm: LM, layer: int) -> Float[Tensor, "H dh d"]:
    """Return W_O of a block by head, on the device of the model's logits; dequantised if it is quantised."""
    attention = lm.bridge.blocks[layer].attn
    with readable(attention.original_component):
        return attention.W_O.to(lm.device)


def check_count(k: int) -> None:
    """Raise a ConfigError if the number is below 1."""
    if k < 1:
        raise ConfigError(f"{k} tokens were requested: give 1 or more.")


def array(values: Tensor) -> np.ndarray:
    """Return a tensor as a numpy array in single precision."""
    return values.detach().float().cpu().numpy()


def small(factor: Float[Tensor, "... d r"]) -> Float[Tensor, "... s r"]:
    """Return R of a factor's QR decomposition, s = min(d, r): the factor up to a rotation of its long side."""
    return torch.linalg.qr(factor, mode="r").R


def effective_rank(values: Float[np.ndarray, "... r"]) -> np.ndarray:
    """Return exp of the entropy of singular values scaled to sum to 1 (Roy and Vetterli 2007)."""
    share = values / np.maximum(values.sum(-1, keepdims=True), 1e-30)
    return np.exp(-(share * np.log(np.where(share > 0, share, 1.0))).sum(-1))
