"""How a model of transformers is read into a `Network`: the one place that knows where each family keeps its parts.

Weights are shared with the model where they already have the form that is wanted, and widened to single precision
where they are narrower. Names are those of the bridge, which splits fused projections; norms, rotation, scale and
activation are read from the model's own modules inside it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from probe.errors import ModelError
from probe.forward import unwrap
from probe.lm import LM
from probe.network import Block, FeedForward, Maps, Network, Norm, Rotary

WIDE = (torch.float32, torch.float64)
"""Formats that weights are left in."""


def parts_of(lm: LM) -> Network:
    """The parts as they lie in the model, unchecked: `probe.equations.read_network` checks that they make its logits.

    Raises:
        ModelError: a part is missing or of a kind that the equations do not have.
    """
    bridge = lm.bridge
    blocks = list(_part(lm, bridge, "blocks"))
    if getattr(blocks[0], "attn", None) is None:
        raise refusal(lm, "its blocks have no attention")
    if bridge.cfg.positional_embedding_type == "alibi":
        raise refusal(lm, "its positions enter the scores as a bias")
    if bridge.cfg.attn_scores_soft_cap > 0:
        raise refusal(lm, "its scores are capped")
    head, positions = lm.model.get_output_embeddings(), getattr(bridge, "pos_embed", None)
    W_out = wide(head.weight)
    return Network(
        W_emb=W_out
        if lm.model.get_input_embeddings().weight is head.weight
        else wide(lm.model.get_input_embeddings().weight),
        W_pos=None if positions is None else wide(_part(lm, plain(positions), "weight")),
        blocks=[_block(lm, block, index) for index, block in enumerate(blocks)],
        norm=_norm(lm, _part(lm, bridge, "ln_final")),
        W_out=W_out,
        b_out=_bias(head.bias, W_out[:, 0]),
    )


def wide(weight: Tensor) -> Tensor:
    """A weight in single precision or more, without its history; the same memory where nothing has to change."""
    return weight.detach() if weight.dtype in WIDE else weight.detach().float()


def plain(module: Any) -> Any:
    """The model's own module inside a component of the bridge."""
    return getattr(module, "original_component", module)


def refusal(lm: LM, why: str) -> ModelError:
    """The error of a model that is not described by the equations."""
    return ModelError(
        f"{type(lm.model).__name__} is not described by the equations E1 to E6, since {why}: views that need its maps "
        "work for models like Llama, Qwen3, Mistral, GPT-2 and GPT-NeoX, hooks and lenses for this one too."
    )


def _part(lm: LM, owner: Any, name: str) -> Any:
    found = getattr(owner, name, None)
    if found is None:
        raise refusal(lm, f"it has no part {name!r} where they expect one")
    return found


def _bias(bias: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if bias is None else wide(bias)


def _norm(lm: LM, component: Any) -> Norm:
    module = plain(component)
    layer = isinstance(module, nn.LayerNorm)
    if not layer and "RMSNorm" not in type(module).__name__:
        raise refusal(lm, f"its norm {type(module).__name__} is neither a layer norm nor an RMS norm")
    eps = next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)
    if eps is None:
        raise refusal(lm, f"its norm {type(module).__name__} does not say its epsilon")
    weight = wide(_part(lm, module, "weight"))
    return Norm("layer" if layer else "rms", weight, _bias(getattr(module, "bias", None), weight), float(eps))


def _block(lm: LM, block: Any, index: int) -> Block:
    norm = _norm(lm, _part(lm, block, "ln1"))
    parallel = bool(lm.bridge.cfg.parallel_attn_mlp)
    second = norm if parallel and getattr(block, "ln2", None) is None else _norm(lm, _part(lm, block, "ln2"))
    return Block(norm, _maps(lm, _part(lm, block, "attn"), index), second, _ffn(lm, block), parallel)


def _maps(lm: LM, attn: Any, index: int) -> Maps:
    own = plain(attn)
    M, N, V = (wide(_part(lm, attn, name)).transpose(-1, -2) for name in ("W_Q", "W_K", "W_V"))
    O = wide(_part(lm, attn, "W_O")).transpose(-1, -2)  # noqa: E741
    heads, keys = len(M), len(N)
    norms = [getattr(own, name, None) for name in ("q_norm", "k_norm")]
    if any(norm is not None and plain(norm).weight.shape != M.shape[1:2] for norm in norms):
        raise refusal(lm, "it norms queries and keys over all heads together")
    rotary = getattr(lm.bridge, "rotary_emb", None)
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
        rotary=None if rotary is None else Rotary(plain(rotary)),
        q_norm=None if norms[0] is None else _norm(lm, norms[0]),
        k_norm=None if norms[1] is None else _norm(lm, norms[1]),
        window=_window(lm, index),
    )


def _window(lm: LM, index: int) -> int | None:
    """How far a block looks back, by the configuration: a short text would not show it."""
    config = unwrap(lm.model).config.get_text_config(decoder=True)
    types, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if types is None:
        return window
    if types[index] not in ("full_attention", "sliding_attention"):
        raise refusal(lm, f"its block {index} has {types[index].replace('_', ' ')}")
    return window if types[index] == "sliding_attention" else None


def _ffn(lm: LM, block: Any) -> FeedForward:
    mlp = _part(lm, block, "mlp")
    own = plain(mlp)
    act = next((getattr(own, name) for name in ("act_fn", "act", "activation_fn") if hasattr(own, name)), None)
    if act is None:
        raise refusal(lm, f"its feed-forward part {type(own).__name__} does not name its activation")
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
