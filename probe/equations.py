"""Equations E1 to E6: a language model as explicit bilinear, softmax and linear steps.

`read_network` reads a model into the paper's symbols and checks that the steps make the model's logits; the functions
below are the equations, differentiable in h. A text has positions 0 to T - 1; leading axes of h are batch axes.

Axes: H heads, T tokens, d width, dh head width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.errors import DataError
from probe.forward import context_length, forward
from probe.lm import LM
from probe.network import Block, FeedForward, Maps, Network, Norm, Rotary
from probe.reading import WIDE, parts_of, refusal
from probe.scoring import check_ids
from probe.weights import twin

__all__ = [
    "Block", "FeedForward", "Maps", "Network", "Norm", "Rotary",
    "attend", "attention", "bilinear", "embed", "keys", "mix", "queries", "read_network", "readout", "recompose",
    "states", "step", "values",
]  # fmt: skip

KNOWN = frozenset({"llama", "gpt2", "qwen2", "qwen3", "gpt_neox", "mistral", "phi3"})
"""Types of models whose code was read, so that a short check suffices; others are checked on a long text."""
SHORT, LONG = 16, 640
"""Tokens of the check: the long one is beyond the windows of models that look back over 256 or 512 tokens."""
EXACT, ROUNDED = 1e-4, 0.1
"""What the check lets pass, as shares of the logits' root mean square: the largest difference in single precision or
more; for models in half precision, whose own logits are rounded in every block, the root mean square difference."""


@torch.no_grad()
def read_network(lm: LM, check: bool = True) -> Network:
    """The model in the paper's symbols, checked: on a text of its own its equations give the model's logits.

    Args:
        lm: a model of tokens or a scalar one.
        check: compare with the model's logits (one forward pass of 16 tokens, of 640 for types not known to us).

    Raises:
        ModelError: the architecture has no hooks, or the equations do not describe it.
    """
    try:
        net = parts_of(lm)
        if check:
            _check(lm, net)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as failure:
        raise refusal(lm, f"they cannot be followed in it ({failure})") from failure
    return net


def embed(net: Network, ids: Sequence[int] | Int[Tensor, "... T"]) -> Float[Tensor, "... T d"]:
    """E2: h_t = W_emb[x_t], plus the embedding of position t where the model has one."""
    tokens = torch.as_tensor(ids, device=net.W_emb.device)
    check_ids(tokens, len(net.W_emb))
    if net.W_pos is None:
        return net.W_emb[tokens]
    if tokens.shape[-1] > len(net.W_pos):
        raise DataError(f"The text has {tokens.shape[-1]} tokens and the model has {len(net.W_pos)} positions: cut it.")
    return net.W_emb[tokens] + net.W_pos[: tokens.shape[-1]]


def queries(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """R_t M h_t of E3, with the bias of M and the norm of queries where the model has them."""
    return _directed(maps, torch.einsum("...td,hed->...hte", h, maps.M) + maps.m_bias[:, None], maps.q_norm)


def keys(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """R_s N h_s of E3, for each query head."""
    shared = torch.einsum("...td,hed->...hte", h, maps.N_shared) + maps.n_bias_shared[:, None]
    return _directed(maps, shared, maps.k_norm)[..., maps.group, :, :]


def values(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """V h_s of E5, for each query head, with the bias of V."""
    shared = torch.einsum("...td,hed->...hte", h, maps.V_shared) + maps.v_bias_shared[:, None]
    return shared[..., maps.group, :, :]


def bilinear(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T T"]:
    """E3: s_{t,s} = <R_t M h_t, R_s N h_s> / sqrt(dh); minus infinity where query t does not see key s.

    Args:
        maps: attention of a block.
        h: what the block's attention reads, that is after its norm.
    """
    scores = queries(maps, h) @ keys(maps, h).transpose(-1, -2) * maps.scale
    return scores.masked_fill(~seen(maps, h.shape[-2]).to(h.device), -torch.inf)


def seen(maps: Maps, length: int) -> Tensor:
    """Whether query t sees key s, [T T]: s is not after t and lies within the window."""
    position = torch.arange(length)
    lag = position[:, None] - position
    return (lag >= 0) if maps.window is None else (lag >= 0) & (lag < maps.window)


def attend(s: Float[Tensor, "... H T T"]) -> Float[Tensor, "... H T T"]:
    """E4: alpha_{t,.} = softmax(s_{t,<=t})."""
    return s.softmax(-1)


def mix(maps: Maps, alpha: Float[Tensor, "... H T T"], h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T d"]:
    """E5: o_t = sum_s alpha_{t,s} L h_s for each head, with the bias of V; the bias of O belongs to no head."""
    return torch.einsum("...hte,hde->...htd", alpha @ values(maps, h), maps.O)


def attention(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T d"]:
    """What a block's attention writes: E3, E4 and E5 of each head, their sum and the bias of O."""
    return mix(maps, attend(bilinear(maps, h)), h).sum(-3) + maps.o_bias


def step(block: Block, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T d"]:
    """E6: h <- h + sum_heads o(norm h); h <- h + FFN(norm h); both from the same h where they are parallel."""
    attended = h + attention(block.maps, block.norm(h))
    return attended + block.ffn(block.ffn_norm(h if block.parallel else attended))


def readout(net: Network, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T V"]:
    """Logits of E1 from the last residual stream: W_out norm(h) + b_out."""
    return net.norm(h) @ net.W_out.T + net.b_out


def states(net: Network, ids: Sequence[int] | Int[Tensor, "... T"]) -> list[Float[Tensor, "... T d"]]:
    """The residual stream after the embedding and after each block, D + 1 of them."""
    rows = [embed(net, ids)]
    for block in net.blocks:
        rows.append(step(block, rows[-1]))
    return rows


@torch.no_grad()
def recompose(net: Network, ids: Sequence[int] | Int[Tensor, "... T"]) -> Float[Tensor, "... T V"]:
    """Logits of E1 by the equations E2 to E6 alone."""
    h = embed(net, ids)
    for block in net.blocks:
        h = step(block, h)
    return readout(net, h)


def _directed(maps: Maps, x: Tensor, norm: Norm | None) -> Tensor:
    """A query or key with its norm and its rotation."""
    x = x if norm is None else norm(x)
    return x if maps.rotary is None else maps.rotary(x)


def _check(lm: LM, net: Network) -> None:
    """Raise a ModelError unless the recomposed logits are the model's own."""
    length = SHORT if lm.model.config.model_type in KNOWN else LONG
    length = min(length, context_length(lm.model) or length)
    rows = len(net.W_emb)
    ids = torch.arange(length, device=lm.device) * (rows // 7 + 1) % rows
    model = lm.model if not lm.model.training else twin(lm.model).eval()
    own = forward(model, ids[None], use_cache=False).logits[0].float()
    error = recompose(net, ids).float() - own
    size = float(own.square().mean().sqrt())
    exact = lm.dtype in WIDE
    difference = float(error.abs().max() if exact else error.square().mean().sqrt())
    if not difference <= (EXACT if exact else ROUNDED) * size:
        raise refusal(lm, f"its logits of size {size:.2g} differ from theirs by {difference:.2g}")
