"""Equations E1 to E6: a language model in the paper's symbols, as explicit bilinear, softmax and linear steps.

`read_network` reads a model of transformers into maps, norms, rotation and feed-forward part of each block, and checks
that the steps give the model's logits. The functions below it are the equations, differentiable in h. A text has
positions 0 to T - 1; leading axes of h are batch axes.

Only this module knows where each family keeps its parts. Weights that already have the required form are shared with
the model; narrower ones are converted to single precision. Names are those of the bridge, which splits fused
projections; norms, rotation, scale and activation are read from the model's own modules inside it.

Axes: D blocks, H query heads, K key and value heads, T tokens, d width, dh head width, m neurons, E experts, r rotated
directions, V vocabulary.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from probe.errors import DataError, ModelError
from probe.model.adapted import inside, layer_weight, merged_layer
from probe.model.lm import LM
from probe.model.loading import twin
from probe.model.placement import require_weights
from probe.model.scoring import check_ids
from probe.model.text import context_length, forward, unwrap


@dataclass(frozen=True)
class Norm:
    """RMS or layer norm over the last axis: `(x - mean) / scale * weight + bias`, without the mean for RMS."""

    kind: Literal["rms", "layer"]
    """Kind of norm; layer norm subtracts the mean first."""
    weight: Float[Tensor, " d"]
    """Gain of each direction: 1 + the model's weight in Gemma."""
    bias: Float[Tensor, " d"]
    """Shift of each direction; zeros if the model has none."""
    eps: float
    """Constant added to the mean square before the root."""

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the normed input."""
        return self.centre(x) / self.scale(x) * self.weight + self.bias

    def centre(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Subtract the mean from the input for a layer norm; return the input itself for an RMS norm."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def scale(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... 1"]:
        """Return the divisor of the input; "norms held fixed" means that this divisor is fixed."""
        return (self.centre(x).square().mean(-1, keepdim=True) + self.eps).sqrt()


@dataclass(frozen=True)
class Rotary:
    """Rotation R_t of E3 for positions 0 to T - 1, from the model's module: its base, scaling and rotated share."""

    module: nn.Module
    """Rotary module of the model; for GPT-J its attention, which holds the sines and cosines."""
    layer_type: str | None = None
    """Type of the block if each type has its own base (Gemma 3); None if all blocks have the same rotation."""
    neighbours: bool = False
    """Whether direction 2i rotates with direction 2i + 1 (GPT-J), rather than i with i + r/2."""

    def angles(self, x: Float[Tensor, "... T dh"]) -> tuple[Float[Tensor, "T r"], Float[Tensor, "T r"]]:
        """Return cosine and sine of each position and direction, in the format of `x`; r < dh for partial rotation."""
        if self.neighbours:
            table: Tensor = self.module.embed_positions  # type: ignore[assignment]
            sin, cos = table[: x.shape[-2]].to(x).repeat_interleave(2, dim=-1).chunk(2, dim=-1)
            return cos, sin
        positions = torch.arange(x.shape[-2], device=x.device)[None]
        cos, sin = self.module(x.new_empty(1), positions, *([] if self.layer_type is None else [self.layer_type]))
        return cos[0], sin[0]

    def __call__(self, x: Float[Tensor, "... T dh"]) -> Float[Tensor, "... T dh"]:
        """Return R_t x_t at each position: directions rotate in pairs, and those from r on are unchanged."""
        cos, sin = self.angles(x)
        return self._rotate(x, cos, sin)

    def back(self, x: Float[Tensor, "... T dh"]) -> Float[Tensor, "... T dh"]:
        """Return R_t^T x_t at each position (the inverse, unless the model scales its rotation)."""
        cos, sin = self.angles(x)
        return self._rotate(x, cos, -sin)  # both directions of a pair rotate by the same angle

    def matrix(self, position: int, like: Float[Tensor, "... dh"]) -> Float[Tensor, "dh dh"]:
        """Return R_t as a matrix, in the format and width of `like`."""
        eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return self(eye[:, None, :].expand(-1, position + 1, -1))[:, position].T

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rotary, unrotated = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        if self.neighbours:
            across = torch.stack([-rotary[..., 1::2], rotary[..., ::2]], dim=-1).flatten(-2)
        else:
            first, second = rotary.chunk(2, dim=-1)
            across = torch.cat([-second, first], dim=-1)
        rotated = rotary * cos + across * sin
        return torch.cat([rotated, unrotated], dim=-1) if unrotated.shape[-1] else rotated


@dataclass(frozen=True)
class Maps:
    """Attention of one block: M, N and L = O V of each query head, with biases, norms, masks and scale.

    Query heads that share a key head have the same N and V: `N_shared` and `V_shared` hold them once, `N` and `V`
    repeat them for each query head.
    """

    M: Float[Tensor, "H dh d"]
    """Query maps M."""
    N_shared: Float[Tensor, "K dh d"]
    """Key maps N, one per key head."""
    V_shared: Float[Tensor, "K dh d"]
    """Value maps V, one per key head."""
    O: Float[Tensor, "H d dh"]  # noqa: E741
    """Output maps O: L_h = O_h V_h."""
    m_bias: Float[Tensor, "H dh"]
    """Bias added to M h; zeros if the model has none."""
    n_bias_shared: Float[Tensor, "K dh"]
    """Bias added to N h, one per key head."""
    v_bias_shared: Float[Tensor, "K dh"]
    """Bias added to V h, one per key head."""
    o_bias: Float[Tensor, " d"]
    """Bias added once to the sum over heads; it belongs to no head."""
    group: Int[Tensor, " H"]
    """Key head of each query head."""
    scale: float
    """Factor of the scores: 1 / sqrt(dh) in most models."""
    rotary: Rotary | None
    """Rotation of queries and keys; None for models with other positions."""
    q_norm: Norm | None
    """Norm of each query M h + bias before the rotation (Qwen3, Gemma 3); None for most."""
    k_norm: Norm | None
    """Norm of each key; None for most."""
    window: int | None
    """Number of tokens, itself included, to which a query can attend; None is all of them."""
    cap: float | None = None
    """c of the scores c tanh(s / c) (Gemma 2); None for most."""
    slopes: Float[Tensor, " H"] | None = None
    """Factors m_h of ALiBi, which subtracts m_h (t - s) from the scores (Bloom); None for models with other
    positions."""

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
        """Return the value-output map of one head, O_h V_h."""
        return self.O[head] @ self.V_shared[int(self.group[head])]


@dataclass(frozen=True)
class FeedForward:
    """FFN of E6: `W_out act(W_in x + b_in) + b_out`, or gated: `W_out (act(W_gate x + b_gate) * (W_in x + b_in))`."""

    W_in: Float[Tensor, "m d"]
    """Map into the neurons."""
    b_in: Float[Tensor, " m"]
    """Bias of the neurons."""
    W_out: Float[Tensor, "d m"]
    """Map from the neurons to the residual stream."""
    b_out: Float[Tensor, " d"]
    """Bias added to the output."""
    act: Callable[[Tensor], Tensor]
    """Activation function of the model."""
    W_gate: Float[Tensor, "m d"] | None = None
    """Map into the gates; None without gates."""
    b_gate: Float[Tensor, " m"] | None = None
    """Bias of the gates."""

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the output of the feed-forward part."""
        inner = x @ self.W_in.T + self.b_in
        if self.W_gate is None or self.b_gate is None:
            return self.act(inner) @ self.W_out.T + self.b_out
        return (self.act(x @ self.W_gate.T + self.b_gate) * inner) @ self.W_out.T + self.b_out


@dataclass(frozen=True)
class Mixture:
    """Mixture of experts in E6: `sum_e g_e(x) FFN_e(x)`; only the k most probable experts have g_e > 0."""

    W_router: Float[Tensor, "E d"]
    """Map from the input to the logits of the experts."""
    k: int
    """Number of experts per token."""
    experts: list[FeedForward]
    """The E experts."""

    def shares(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... E"]:
        """Return g(x): the softmax over the experts, zero except for the k largest, scaled to sum to 1."""
        probabilities = (x @ self.W_router.T).softmax(-1)
        top = probabilities.topk(self.k, dim=-1)
        return torch.zeros_like(probabilities).scatter(-1, top.indices, top.values / top.values.sum(-1, keepdim=True))

    def __call__(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the output of the mixture: the sum of the experts' outputs, weighted by their shares."""
        shares, written = self.shares(x), torch.zeros_like(x)
        for share, expert in zip(shares.unbind(-1), self.experts, strict=True):
            if bool(share.any()):  # skip experts without tokens
                written = written + share[..., None] * expert(x)
        return written


@dataclass(frozen=True)
class Block:
    """One block of E6."""

    norm: Norm
    """Norm before attention."""
    maps: Maps
    """Attention."""
    ffn_norm: Norm
    """Norm before the feed-forward part."""
    ffn: FeedForward | Mixture
    """Feed-forward part."""
    parallel: bool
    """Whether the feed-forward part reads the input of attention, rather than the stream after attention."""
    post_norm: Norm | None = None
    """Norm of the attention output before it is added (Gemma 2 and 3); None for most."""
    ffn_post_norm: Norm | None = None
    """Norm of the feed-forward output before it is added; None for most."""


@dataclass(frozen=True)
class Network:
    """A language model in the paper's symbols."""

    W_emb: Float[Tensor, "V d"]
    """Embedding of each token."""
    W_pos: Float[Tensor, "N d"] | None
    """Embedding of each position (GPT-2, OPT); None for others."""
    blocks: list[Block]
    """The D blocks, first to last."""
    norm: Norm
    """Norm before the unembedding."""
    W_out: Float[Tensor, "V d"]
    """Unembedding; [1, d] for a scalar model."""
    b_out: Float[Tensor, " V"]
    """Bias of the unembedding; zeros if the model has none."""
    embed_scale: float = 1.0
    """Factor of the embedding of a token: sqrt(d) in Gemma."""
    embed_norm: Norm | None = None
    """Norm of the embedding (Bloom); None for most."""
    cap: float | None = None
    """c of the logits c tanh(z / c) (Gemma 2); None for most."""

    @cached_property
    def d(self) -> int:
        """Width of the residual stream."""
        return self.W_emb.shape[1]


WIDE = (torch.float32, torch.float64)
"""Number formats in which weights are left."""


def parts_of(lm: LM) -> Network:
    """Read the parts of the model without checking them.

    `probe.model.equations.read_network` checks that they give the model's logits.

    Raises:
        ModelError: a part is missing, or its kind is not in the equations.
    """
    require_weights(lm.model, lm.ref)
    bridge = lm.bridge
    blocks = list(_part(lm, bridge, "blocks"))
    if getattr(blocks[0], "attn", None) is None:
        raise refusal(lm, "its blocks have no attention")
    config = unwrap(lm.model).config
    if getattr(config, "apply_residual_connection_post_layernorm", False):
        raise refusal(lm, "its blocks add to the normed stream")
    if getattr(config, "word_embed_proj_dim", bridge.cfg.d_model) != bridge.cfg.d_model:
        raise refusal(lm, "its embedding has another width than its stream")
    embedding, head = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    W_out, embed_norm = wide(layer_weight(head)), getattr(bridge, "embed_ln", None)
    table, own = layer_weight(embedding), inside(embedding)
    return Network(
        W_emb=W_out if table is layer_weight(head) else wide(table),
        W_pos=_positions(lm),
        blocks=[_block(lm, block, index) for index, block in enumerate(blocks)],
        norm=_norm(lm, _part(lm, bridge, "ln_final")),
        W_out=W_out,
        b_out=_bias(merged_layer(head).bias, W_out[:, 0]),
        embed_scale=float(torch.as_tensor(getattr(own, "embed_scale", 1.0)).to(table.dtype)),
        embed_norm=None if embed_norm is None else _norm(lm, embed_norm),
        cap=getattr(config, "final_logit_softcapping", None),
    )


def wide(weight: Tensor) -> Tensor:
    """Return a weight in single precision or more, detached; without a copy if no change is needed."""
    return weight.detach() if weight.dtype in WIDE else weight.detach().float()


def plain_module(module: Any) -> Any:
    """Return the model's module inside a component of the bridge."""
    return getattr(module, "original_component", module)


def refusal(lm: LM, why: str) -> ModelError:
    """Return the error for a model that the equations do not describe."""
    return ModelError(
        f"{type(lm.model).__name__} is not described by the equations E1 to E6, since {why}: views that need its"
        " maps work for models like Llama, Qwen3, Mistral, Mixtral, Phi-3, Gemma 2 and 3, GPT-2, GPT-NeoX, GPT-J,"
        " OPT and Bloom; hooks and lenses also work for this one."
    )


def _part(lm: LM, owner: Any, name: str) -> Any:
    part = getattr(owner, name, None)
    if part is None:
        raise refusal(lm, f"it has no part {name!r} where the equations expect one")
    return part


def _bias(bias: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if bias is None else wide(bias)


def _norm(lm: LM, component: Any) -> Norm:
    module = plain_module(component)
    layer = isinstance(module, nn.LayerNorm)
    if not layer and "RMSNorm" not in type(module).__name__:
        raise refusal(lm, f"its norm {type(module).__name__} is neither a layer norm nor an RMS norm")
    eps = next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)
    if eps is None:
        raise refusal(lm, f"its norm {type(module).__name__} does not say its epsilon")
    weight = wide(_part(lm, module, "weight"))
    norm = Norm("layer" if layer else "rms", weight, _bias(getattr(module, "bias", None), weight), float(eps))
    if layer:
        return norm
    ones = torch.ones_like(weight)
    gain = (module(ones.to(module.weight.dtype)).detach() * norm.scale(ones)).to(weight)
    return norm if (gain - weight).abs().max() < (gain - weight - 1).abs().max() else replace(norm, weight=1 + weight)


def _positions(lm: LM) -> Tensor | None:
    """Return the embeddings of positions from the first token on: OPT's table starts two rows earlier."""
    positions = getattr(lm.bridge, "pos_embed", None)
    if positions is None:
        return None
    module = plain_module(positions)
    return wide(_part(lm, module, "weight"))[getattr(module, "offset", 0) :]


def _block(lm: LM, block: Any, index: int) -> Block:
    norm = _norm(lm, _part(lm, block, "ln1"))
    parallel = bool(lm.bridge.cfg.parallel_attn_mlp)
    second = norm if parallel and getattr(block, "ln2", None) is None else _norm(lm, _part(lm, block, "ln2"))
    after = [getattr(block, name, None) for name in ("ln1_post", "ln2_post")]
    posts = [None if component is None else _norm(lm, component) for component in after]
    return Block(norm, _maps(lm, _part(lm, block, "attn"), index), second, _ffn(lm, block), parallel, *posts)


def _maps(lm: LM, attn: Any, index: int) -> Maps:
    own = plain_module(attn)
    M, N, V = (wide(_part(lm, attn, name)).transpose(-1, -2) for name in ("W_Q", "W_K", "W_V"))
    O = wide(_part(lm, attn, "W_O")).transpose(-1, -2)  # noqa: E741
    heads, keys = len(M), len(N)
    norms = [getattr(own, name, None) for name in ("q_norm", "k_norm")]
    if any(norm is not None and plain_module(norm).weight.shape != M.shape[1:2] for norm in norms):
        raise refusal(lm, "it norms queries and keys over all heads together")
    cap = lm.bridge.cfg.attn_scores_soft_cap
    return Maps(
        M=M,
        N_shared=N,
        V_shared=V,
        O=O,
        m_bias=_bias(getattr(attn, "b_Q", None), M[..., 0]),
        n_bias_shared=_bias(getattr(attn, "b_K", None), N[..., 0]),
        v_bias_shared=_bias(getattr(attn, "b_V", None), V[..., 0]),
        o_bias=_bias(getattr(attn, "b_O", None), O[0, :, 0]),
        group=torch.arange(heads, device=M.device) // (heads // keys),
        scale=float(getattr(own, "scaling", M.shape[1] ** -0.5)),
        rotary=_rotary(lm, own, index),
        q_norm=None if norms[0] is None else _norm(lm, norms[0]),
        k_norm=None if norms[1] is None else _norm(lm, norms[1]),
        window=_window(lm, index),
        cap=cap if cap > 0 else None,
        slopes=_slopes(lm, heads, M),
    )


def _rotary(lm: LM, attn: Any, index: int) -> Rotary | None:
    """Return the rotation of a block: that of the whole model, of the block's type, or of its attention."""
    if hasattr(attn, "embed_positions"):
        return Rotary(attn, neighbours=True)
    rotary = getattr(lm.bridge, "rotary_emb", None)
    if rotary is None:
        return None
    module = plain_module(rotary)
    by_type = "layer_type" in inspect.signature(module.forward).parameters
    return Rotary(module, _config(lm).layer_types[index] if by_type else None)


def _slopes(lm: LM, heads: int, like: Tensor) -> Float[Tensor, " H"] | None:
    """Return ALiBi's factor of each head, from the function with which the model makes its bias."""
    if lm.bridge.cfg.positional_embedding_type != "alibi":
        return None
    make = getattr(unwrap(lm.model).base_model, "build_alibi_tensor", None)
    if make is None:
        raise refusal(lm, "its bias of scores by distance is not Bloom's")
    slopes: Tensor = make(torch.ones(1, 2, device=like.device), heads, like.dtype)[:, 0, 1]
    return slopes


def _config(lm: LM) -> Any:
    return unwrap(lm.model).config.get_text_config(decoder=True)


def _window(lm: LM, index: int) -> int | None:
    """Return the attention window of a block from the configuration; a short text would not show it."""
    config = _config(lm)
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if types is None:
        return window
    if types[index] not in ("full_attention", "sliding_attention"):
        raise refusal(lm, f"its block {index} has {types[index].replace('_', ' ')}")
    return window if types[index] == "sliding_attention" else None


ACTIVATIONS = ("act_fn", "act", "activation_fn", "gelu_impl", "gelu")
"""Names that feed-forward parts use for their activation."""


def _ffn(lm: LM, block: Any) -> FeedForward | Mixture:
    mlp = _part(lm, block, "mlp")
    own = plain_module(mlp)
    if hasattr(own, "experts"):
        return _mixture(lm, own)
    act = next((getattr(own, name) for name in ACTIVATIONS if hasattr(own, name)), None)
    if act is None:
        raise refusal(lm, f"its feed-forward part {type(own).__name__} does not name its activation")
    if type(act).__name__ == "BloomGelu":  # its backward pass is incompatible with torch.func
        act = partial(nn.functional.gelu, approximate="tanh")
    W_in, W_out = wide(_part(lm, mlp, "W_in")).T, wide(_part(lm, mlp, "W_out")).T
    gate = getattr(mlp, "W_gate", None)
    return FeedForward(
        W_in=W_in,
        b_in=_bias(getattr(mlp, "b_in", None), W_in[:, 0]),
        W_out=W_out,
        b_out=_bias(getattr(mlp, "b_out", None), W_out[:, 0]),
        act=act,
        W_gate=None if gate is None else wide(gate).T,
        b_gate=None if gate is None else _bias(getattr(mlp, "b_gate", None), W_in[:, 0]),
    )


def _mixture(lm: LM, own: Any) -> Mixture:
    """Read gated experts with stacked weights: [E 2m d], gates before neurons, and [E d m]."""
    router, experts = plain_module(_part(lm, own, "gate")), plain_module(own.experts)
    inner, outer = (wide(_part(lm, experts, name)) for name in ("gate_up_proj", "down_proj"))
    zeros = outer.new_zeros(outer.shape[1]), outer.new_zeros(outer.shape[2])
    parts = []
    for both, W_out in zip(inner, outer, strict=True):
        W_gate, W_in = both.chunk(2)
        parts.append(FeedForward(W_in, zeros[1], W_out, zeros[0], _part(lm, experts, "act_fn"), W_gate, zeros[1]))
    return Mixture(wide(router.weight), int(router.top_k), parts)


KNOWN = frozenset({"llama", "gpt2", "qwen2", "qwen3", "gpt_neox", "mistral", "phi3"})
KNOWN |= {"bloom", "gemma2", "gemma3_text", "gptj", "mixtral", "opt"}
"""Types of models whose code was reviewed, so that a short check suffices; others are checked on a long text."""
SHORT, LONG = 16, 640
"""Numbers of tokens of the check; the long one exceeds the windows of models that look back over 256 or 512 tokens."""
EXACT, ROUNDED = 1e-4, 0.1
"""Tolerances of the check, as shares of the logits' root mean square: of the largest difference in single precision or
more; of the root mean square difference for models in half precision, whose own logits are rounded in every block (of
the median token with experts, because rounding sends some tokens to other experts)."""


@torch.no_grad()
def read_network(lm: LM, check: bool = True) -> Network:
    """Read the model in the paper's symbols, and check on a fixed text that the equations give its logits.

    Args:
        lm: a model of tokens or a scalar one.
        check: compare with the model's logits (one forward pass of 16 tokens, or of 640 for model types that are not in
            `KNOWN`).

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
    """Embed tokens (E2): h_t = W_emb[x_t], plus the embedding of position t if the model has one."""
    tokens = torch.as_tensor(ids, device=net.W_emb.device)
    check_ids(tokens, len(net.W_emb))
    h = embed_rows(net, net.W_emb[tokens])
    if net.W_pos is None:
        return h
    if tokens.shape[-1] > len(net.W_pos):
        raise DataError(f"The text has {tokens.shape[-1]} tokens and the model has {len(net.W_pos)} positions: cut it.")
    return h + net.W_pos[: tokens.shape[-1]]


def embed_rows(net: Network, rows: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Return rows of W_emb as they enter the stream: scaled (Gemma) and normed (Bloom) if the model does so."""
    return through(net.embed_norm, rows * net.embed_scale)


def through(norm: Norm | None, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Apply a norm to the input, or return the input if the model has no norm there."""
    return x if norm is None else norm(x)


def queries(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """Return the queries of E3, R_t M h_t, with the bias of M and the norm of queries if the model has them."""
    return _place_states(maps, torch.einsum("...td,hed->...hte", h, maps.M) + maps.m_bias[:, None], maps.q_norm)


def keys(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """Return the keys of E3, R_s N h_s, for each query head."""
    per_group = torch.einsum("...td,hed->...hte", h, maps.N_shared) + maps.n_bias_shared[:, None]
    return _place_states(maps, per_group, maps.k_norm)[..., maps.group, :, :]


def values(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T dh"]:
    """Return the values of E5, V h_s, for each query head, with the bias of V."""
    per_group = torch.einsum("...td,hed->...hte", h, maps.V_shared) + maps.v_bias_shared[:, None]
    return per_group[..., maps.group, :, :]


def bilinear(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T T"]:
    """Return the attention scores of E3: s_{t,s} = <R_t M h_t, R_s N h_s> / sqrt(dh).

    They are capped or biased if the model does so, and minus infinity if query t does not see key s.

    Args:
        maps: attention of a block.
        h: input of the block's attention, after its norm.
    """
    position = torch.arange(h.shape[-2], device=h.device)
    lag = position[:, None] - position
    scores = shape_scores(maps, queries(maps, h) @ keys(maps, h).transpose(-1, -2) * maps.scale, lag)
    return scores.masked_fill((lag < 0) if maps.window is None else (lag < 0) | (lag >= maps.window), -torch.inf)


def shape_scores(maps: Maps, s: Float[Tensor, "... H t s"], lag: Int[Tensor, "t s"]) -> Float[Tensor, "... H t s"]:
    """Cap or bias scores before the softmax of E4.

    The result is c tanh(s / c) with a cap (Gemma 2), and s - m_h (t - s) with ALiBi (Bloom).

    Args:
        maps: attention of a block.
        s: scaled products of queries and keys.
        lag: distance t - s of each pair.
    """
    s = s if maps.cap is None else maps.cap * (s / maps.cap).tanh()
    return s if maps.slopes is None else s - maps.slopes[:, None, None] * lag


def attend(s: Float[Tensor, "... H T T"]) -> Float[Tensor, "... H T T"]:
    """Return the attention pattern of E4: alpha_{t,.} = softmax(s_{t,<=t})."""
    return s.softmax(-1)


def mix(maps: Maps, alpha: Float[Tensor, "... H T T"], h: Float[Tensor, "... T d"]) -> Float[Tensor, "... H T d"]:
    """Return the output of each head (E5): o_t = sum_s alpha_{t,s} L h_s, with the bias of V.

    The bias of O belongs to no head.
    """
    return torch.einsum("...hte,hde->...htd", alpha @ values(maps, h), maps.O)


def attention(maps: Maps, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T d"]:
    """Return the output of a block's attention: E3, E4 and E5 of each head, their sum and the bias of O."""
    return mix(maps, attend(bilinear(maps, h)), h).sum(-3) + maps.o_bias


def maps_to_stream(block: Block) -> Maps:
    """Return the maps with the norm after attention folded into O, without its divisor and shift.

    Without such a norm, the maps stay as they are. A head's contribution to the stream at t is O of these maps times
    its mixed values, divided by the norm's divisor at t.
    """
    norm = block.post_norm
    if norm is None:
        return block.maps
    return replace(block.maps, O=norm.centre(block.maps.O.mT).mT * norm.weight[:, None])


def step(block: Block, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T d"]:
    """Run one block (E6): h <- h + sum_heads o(norm h); h <- h + FFN(norm h).

    In parallel blocks both read the same h. In Gemma 2 and 3 each output goes through a further norm before it is
    added.
    """
    middle = h + through(block.post_norm, attention(block.maps, block.norm(h)))
    written = block.ffn(block.ffn_norm(h if block.parallel else middle))
    return middle + through(block.ffn_post_norm, written)


def readout(net: Network, h: Float[Tensor, "... T d"]) -> Float[Tensor, "... T V"]:
    """Return the logits of E1 from the last residual stream: W_out norm(h) + b_out.

    They are capped if the model does so (Gemma 2).
    """
    logits = net.norm(h) @ net.W_out.T + net.b_out
    return logits if net.cap is None else net.cap * (logits / net.cap).tanh()


def states(net: Network, ids: Sequence[int] | Int[Tensor, "... T"]) -> list[Float[Tensor, "... T d"]]:
    """Return the residual stream after the embedding and after each block, D + 1 states in all."""
    rows = [embed(net, ids)]
    for block in net.blocks:
        rows.append(step(block, rows[-1]))
    return rows


@torch.no_grad()
def recompose(net: Network, ids: Sequence[int] | Int[Tensor, "... T"]) -> Float[Tensor, "... T V"]:
    """Compute the logits of E1 with the equations E2 to E6 only."""
    h = embed(net, ids)
    for block in net.blocks:
        h = step(block, h)
    return readout(net, h)


def _place_states(maps: Maps, x: Tensor, norm: Norm | None) -> Tensor:
    """Apply the norm and the rotation to queries or keys, if the model has them."""
    x = through(norm, x)
    return x if maps.rotary is None else maps.rotary(x)


def _check(lm: LM, net: Network) -> None:
    """Raise a ModelError unless the recomposed logits equal the model's."""
    length = SHORT if lm.model.config.model_type in KNOWN else LONG
    length = min(length, context_length(lm.model) or length)
    rows = len(net.W_emb)
    ids = torch.arange(length, device=lm.device) * (rows // 7 + 1) % rows
    model = lm.model if not lm.model.training else twin(lm.model).eval()
    own = forward(model, ids[None], use_cache=False).logits[0].float()
    error = recompose(net, ids).float() - own
    size = float(own.square().mean().sqrt())
    exact = lm.dtype in WIDE
    squares = error.square().mean(-1)  # [T]
    chosen = any(isinstance(block.ffn, Mixture) for block in net.blocks)
    difference = float(error.abs().max() if exact else (squares.median() if chosen else squares.mean()).sqrt())
    if not difference <= (EXACT if exact else ROUNDED) * size:
        raise refusal(lm, f"its logits (size {size:.2g}) differ from those of the equations by {difference:.2g}")
