"""A language model taken apart into the paper's symbols: maps, norms, rotation and feed-forward part of each block.

`probe.equations.read_network` makes one, `probe.equations` says what is done with it.

Axes: D blocks, H query heads, K key and value heads, T tokens, d width, dh head width, r rotated directions,
m neurons, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """RMS or layer norm over the last axis: `(x - mean) / scale * weight + bias`, without the mean for RMS."""

    kind: Literal["rms", "layer"]
    """Whether the mean is taken off first."""
    weight: Float[Tensor, " d"]
    """Gain of each direction."""
    bias: Float[Tensor, " d"]
    """Shift of each direction; zeros where the model has none."""
    eps: float
    """Added to the mean square before the root."""

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The normed input."""
        return self.centred(x) / self.scale(x) * self.weight + self.bias

    def centred(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The input without its mean, for a layer norm; else itself."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """What the input is divided by: the part of a norm that "norms held fixed" holds fixed."""
        return (self.centred(x).square().mean(-1, keepdim=True) + self.eps).sqrt()


@dataclass(frozen=True)
class Rotary:
    """R_t of E3 for the positions 0 to T - 1, as the model's own module makes it: its base, scaling and share."""

    module: nn.Module
    """The model's rotary module."""

    def angles(self, x: Float[Tensor, "... T dh"]) -> tuple[Float[Tensor, "T r"], Float[Tensor, "T r"]]:
        """Cosine and sine of each position and direction, in the format of `x`; r < dh where it rotates in part."""
        positions = torch.arange(x.shape[-2], device=x.device)[None]
        cos, sin = self.module(x.new_empty(1), positions)
        return cos[0], sin[0]

    def __call__(self, x: Float[Tensor, "... T dh"]) -> Float[Tensor, "... T dh"]:
        """R_t x_t at each position: direction i turns with direction i + r/2, directions from r on stay."""
        cos, sin = self.angles(x)
        return self._turned(x, cos, sin)

    def back(self, x: Float[Tensor, "... T dh"]) -> Float[Tensor, "... T dh"]:
        """R_t^T x_t at each position (the inverse, unless the model scales its rotation)."""
        cos, sin = self.angles(x)
        return self._turned(x, cos, -sin)  # both directions of a pair turn by the same angle

    def matrix(self, position: int, like: Float[Tensor, "... dh"]) -> Float[Tensor, "dh dh"]:
        """R_t as a matrix, in the format and width of `like`."""
        eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return self(eye[:, None, :].expand(-1, position + 1, -1))[:, position].T

    @staticmethod
    def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        first, second = turning.chunk(2, dim=-1)
        turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([turned, still], dim=-1) if still.shape[-1] else turned


@dataclass(frozen=True)
class Maps:
    """Attention of one block: M, N and L = O V of each query head, with what stands around them in the model.

    Query heads that share a key head have the same N and V: `N_shared` and `V_shared` hold them once, `N` and `V`
    repeat them for each query head.
    """

    M: Float[Tensor, "H dh d"]
    """Query maps."""
    N_shared: Float[Tensor, "K dh d"]
    """Key maps."""
    V_shared: Float[Tensor, "K dh d"]
    """Value maps."""
    O: Float[Tensor, "H d dh"]  # noqa: E741
    """Output maps: L_h = O_h V_h."""
    m_bias: Float[Tensor, "H dh"]
    """Added to M h; zeros where the model has none."""
    n_bias_shared: Float[Tensor, "K dh"]
    """Added to N h."""
    v_bias_shared: Float[Tensor, "K dh"]
    """Added to V h."""
    o_bias: Float[Tensor, " d"]
    """Added once to the sum over heads; belongs to no head."""
    group: Int[Tensor, " H"]
    """The key head of each query head."""
    scale: float
    """Factor of the scores: 1 / sqrt(dh) in most models."""
    rotary: Rotary | None
    """The rotation of queries and keys; None for models with other positions."""
    q_norm: Norm | None
    """Norm of each query M h + bias before the rotation (Qwen3); None for most."""
    k_norm: Norm | None
    """Norm of each key; None for most."""
    window: int | None
    """How many tokens, itself included, a query reaches back over; None is all of them."""

    @property
    def N(self) -> Float[Tensor, "H dh d"]:  # noqa: N802
        """Key map of each query head."""
        return self.N_shared[self.group]

    @property
    def V(self) -> Float[Tensor, "H dh d"]:  # noqa: N802
        """Value map of each query head."""
        return self.V_shared[self.group]

    @property
    def n_bias(self) -> Float[Tensor, "H dh"]:
        """Bias of the key of each query head."""
        return self.n_bias_shared[self.group]

    @property
    def v_bias(self) -> Float[Tensor, "H dh"]:
        """Bias of the value of each query head."""
        return self.v_bias_shared[self.group]

    def L(self, head: int) -> Float[Tensor, "d d"]:  # noqa: N802
        """The value-output map of one head, O_h V_h."""
        return self.O[head] @ self.V_shared[int(self.group[head])]


@dataclass(frozen=True)
class FeedForward:
    """FFN of E6: `W_out act(W_in x + b_in) + b_out`, or gated: `W_out (act(W_gate x + b_gate) * (W_in x + b_in))`."""

    W_in: Float[Tensor, "m d"]
    """Into the neurons."""
    b_in: Float[Tensor, " m"]
    """Bias of the neurons."""
    W_out: Float[Tensor, "d m"]
    """From the neurons to the residual stream."""
    b_out: Float[Tensor, " d"]
    """Added to what is written."""
    act: Callable[[Tensor], Tensor]
    """The model's own activation."""
    W_gate: Float[Tensor, "m d"] | None = None
    """Into the gates; None for a plain part."""
    b_gate: Float[Tensor, " m"] | None = None
    """Bias of the gates."""

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """What the part writes."""
        inner = x @ self.W_in.T + self.b_in
        if self.W_gate is None or self.b_gate is None:
            return self.act(inner) @ self.W_out.T + self.b_out
        return (self.act(x @ self.W_gate.T + self.b_gate) * inner) @ self.W_out.T + self.b_out


@dataclass(frozen=True)
class Block:
    """One block of E6."""

    norm: Norm
    """Before attention."""
    maps: Maps
    """Attention."""
    ffn_norm: Norm
    """Before the feed-forward part."""
    ffn: FeedForward
    """The feed-forward part."""
    parallel: bool
    """Whether the feed-forward part reads what attention reads, and not what attention left."""


@dataclass(frozen=True)
class Network:
    """A language model in the paper's symbols."""

    W_emb: Float[Tensor, "V d"]
    """Embedding of each token."""
    W_pos: Float[Tensor, "N d"] | None
    """Embedding of each position (GPT-2); None for others."""
    blocks: list[Block]
    """The D blocks, first to last."""
    norm: Norm
    """Before the unembedding."""
    W_out: Float[Tensor, "V d"]
    """The unembedding; [1, d] for a scalar model."""
    b_out: Float[Tensor, " V"]
    """Its bias; zeros where the model has none."""

    @cached_property
    def d(self) -> int:
        """Width of the residual stream."""
        return self.W_emb.shape[1]
