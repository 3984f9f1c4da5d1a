"""Outputs of every part of a model after one token of a text, and the tokens that it promotes and suppresses.

One hooked forward pass gives all that direct attribution and promoted tokens need; only one row of each attention
pattern is kept, so a long text costs little. Final norm and unembedding map the output of a head, an MLP or a neuron to
tokens.

Axes: D blocks, H heads, T tokens, m neurons, d width, dh head width, V vocabulary, k tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, DataError, ModelError
from probe.logits.answer_tokens import answer_tokens
from probe.logits.direct import HeldNorm, Part, final_norm, post_hook, post_norm, unembedding
from probe.model.heads import check_count, output_maps
from probe.model.lm import LM
from probe.model.placement import readable
from probe.model.scoring import check_lengths
from probe.model.text import pieces, text_ids
from probe.plotting.notebook import Drawable

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Reading:
    """Outputs of the parts of a model after the token at `position`, in single precision."""

    ids: list[int]
    """[T] token ids of the text."""
    position: int
    """Token after which everything is read."""
    logits: Float[Tensor, " V"]
    """Logits of the model's output."""
    embedding: Float[Tensor, " d"]
    """Residual stream before the first block."""
    learned: Float[Tensor, " d"] | None
    """Learned position embedding in it, if there is one."""
    final: Float[Tensor, " d"]
    """Residual stream after the last block."""
    z: list[Float[Tensor, "H dh"]]
    """Mixed values of the heads of each block, before W_O."""
    pattern: list[Float[Tensor, "H T"]]
    """Attention pattern of the query at `position`, by block."""
    values: list[Float[Tensor, "T G dh"]]
    """Values that each block mixes; G of them, each for H / G heads."""
    mlps: list[Float[Tensor, " d"]]
    """Output of each block's MLP."""
    posts: list[Float[Tensor, " m"] | None]
    """Input of each block's W_out, if it has one."""
    attn_norms: list[HeldNorm | None]
    """Norm after the heads of each block (Gemma 2 and 3); None without one."""
    mlp_norms: list[HeldNorm | None]
    """Norm after the MLP of each block (Gemma 2 and 3); None without one. `mlps` are its output."""


@torch.no_grad()
def read_parts(lm: LM, text: str | Sequence[int], position: int | None = None) -> Reading:
    """Run a text and keep the output of every part after one token.

    Args:
        lm: the model.
        text: a text or its ids.
        position: token after which the parts are read; default: the last token.

    Raises:
        ModelError: the architecture has no attention in some block.
        DataError: an empty or too long text, or a position outside it.
    """
    ids = text_ids(lm.tokenizer, text)
    check_lengths(lm.model, [ids], [])
    t = len(ids) - 1 if position is None else position
    if not 0 <= t < len(ids):
        raise DataError(f"Position {t} was requested in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    bridge = lm.bridge
    depth, hooks = bridge.cfg.n_layers, bridge.hook_dict
    first, last = "blocks.0.hook_resid_pre", f"blocks.{depth - 1}.hook_resid_post"
    selectors: dict[str, Callable[[Tensor], Tensor]] = {first: lambda x: x[0, t], last: lambda x: x[0, t]}
    for layer in range(depth):
        selectors[f"blocks.{layer}.attn.hook_z"] = lambda x: x[0, t]
        selectors[f"blocks.{layer}.attn.hook_pattern"] = lambda x: x[0, :, t]
        selectors[f"blocks.{layer}.attn.hook_v"] = lambda x: x[0]
        selectors[f"blocks.{layer}.hook_mlp_out"] = lambda x: x[0, t]
    missing = [name for name in selectors if name not in hooks]
    if missing:
        raise ModelError(
            f"{type(lm.model).__name__} has no {missing[0]}, so its logit cannot be split into heads and MLPs: use a "
            "transformer with attention and MLP in every block."
        )
    optional = ["hook_pos_embed", *(f"blocks.{layer}.mlp.hook_post" for layer in range(depth))]
    selectors |= {name: (lambda x: x.reshape(-1, *x.shape[-2:])[0, t]) for name in optional if name in hooks}
    parts: tuple[Part, Part] = ("attn", "mlp")
    norm_hooks = [[post_hook(lm, layer, part) for layer in range(depth)] for part in parts]
    selectors |= {name: (lambda x: x.reshape(-1, *x.shape[-2:])[0, t]) for row in norm_hooks for name in row if name}
    logits, activations = _read(lm, ids, selectors)
    z, values = [], []
    for layer in range(depth):
        heads = len(activations[f"blocks.{layer}.attn.hook_pattern"])
        z.append(activations[f"blocks.{layer}.attn.hook_z"].reshape(heads, -1))
        values.append(activations[f"blocks.{layer}.attn.hook_v"].reshape(len(ids), -1, z[-1].shape[1]))
    attn_norms, mlp_norms = (
        [post_norm(lm, layer, part, activations[name]) if name else None for layer, name in enumerate(row)]
        for part, row in zip(parts, norm_hooks, strict=True)
    )
    return Reading(
        ids=ids,
        position=t,
        logits=logits[0, t].float(),
        embedding=activations[first],
        learned=activations.get("hook_pos_embed"),
        final=activations[last],
        z=z,
        pattern=[activations[f"blocks.{layer}.attn.hook_pattern"] for layer in range(depth)],
        values=values,
        mlps=[activations[f"blocks.{layer}.hook_mlp_out"] for layer in range(depth)],
        posts=[activations.get(f"blocks.{layer}.mlp.hook_post") for layer in range(depth)],
        attn_norms=attn_norms,
        mlp_norms=mlp_norms,
    )


def output_weights(lm: LM, layer: int) -> tuple[Float[Tensor, "H dh d"], Float[Tensor, " d"] | None]:
    """Return W_O of a block by head, and its bias if there is one."""
    attention = lm.bridge.blocks[layer].attn
    with readable(attention.original_component):
        bias = attention.b_O
    return output_maps(lm, layer).detach().float(), None if bias is None else bias.detach().float().to(lm.device)


def _read(
    lm: LM, ids: Sequence[int], selectors: dict[str, Callable[[Tensor], Tensor]]
) -> tuple[Float[Tensor, "1 T V"], dict[str, Tensor]]:
    """Return the logits, and the selected part of each named activation."""
    activations: dict[str, Tensor] = {}

    def reader(name: str, select: Callable[[Tensor], Tensor]) -> Callable[[Tensor, object], None]:
        def take(tensor: Tensor, hook: object) -> None:
            activations[name] = select(tensor).detach().float().clone()

        return take

    with lm.hooks([(name, reader(name, part)) for name, part in selectors.items()]):
        logits = lm.logits([list(ids)])
    return logits, activations


@dataclass(frozen=True)
class PromotedTokens(Drawable):
    """Tokens that a part of a model makes more probable and less probable."""

    part: str
    """Name of the part, such as `L2H1`, `L2 MLP` or `L2 neuron 17`."""
    ids: np.ndarray
    """[k] ids of the tokens that it promotes most, best first."""
    pieces: list[str]
    """[k] the same tokens, readable."""
    values: np.ndarray
    """[k] contributions to their logits, nats (from weights alone: at a final scale of 1)."""
    suppressed_ids: np.ndarray
    """[k] ids of the tokens that it suppresses most, strongest first."""
    suppressed_pieces: list[str]
    """[k] the same tokens, readable."""
    suppressed_values: np.ndarray
    """[k] contributions to their logits, nats."""
    mean: float
    """Mean contribution to a logit over the vocabulary, nats: the component to which softmax is invariant."""

    def table(self) -> pd.DataFrame:
        """Return one row per token: part, side (promoted or suppressed), rank, id, token, value, above_mean."""
        sides = (
            ("promoted", self.ids, self.pieces, self.values),
            ("suppressed", self.suppressed_ids, self.suppressed_pieces, self.suppressed_values),
        )
        frames = [
            pd.DataFrame(
                {
                    "part": self.part,
                    "side": side,
                    "rank": range(len(ids)),
                    "id": ids,
                    "token": names,
                    "value": values,
                    "above_mean": values - self.mean,
                }
            )
            for side, ids, names, values in sides
        ]
        return pd.concat(frames, ignore_index=True)

    def figure(self) -> "go.Figure":
        """Draw the tokens that the part promotes and suppresses, as bars."""
        from probe.logits.part_figures import promoted_bars
        from probe.plotting.theme import METHODS

        up, down = (self.pieces, self.values), (self.suppressed_pieces, self.suppressed_values)
        return promoted_bars([(self.part, METHODS["dpo"], *up, *down)])


@torch.no_grad()
def promoted_tokens(
    lm: LM,
    text: str | Sequence[int] | Reading,
    layer: int,
    head: int | None = None,
    position: int | None = None,
    k: int = 10,
    neuron: int | None = None,
) -> PromotedTokens:
    """Return the tokens that a part promotes and suppresses most, after the token at `position`.

    The final norm's scale is the one that the model has there, so a token's value equals its direct logit attribution
    (if logits are capped: before the cap).

    Args:
        lm: a model of tokens.
        text: a text or its ids, which costs a hooked forward pass; or the result of `read_parts`.
        layer: block.
        head: head of the block; None takes the MLP.
        position: token after which the part is read; default: the last token, or that of `read_parts`.
        k: number of tokens of each kind.
        neuron: one neuron of the MLP instead of all of it.

    Raises:
        ConfigError: there is no such block, head or neuron, or k is less than 1.
        DataError: a scalar model, which has no tokens, or a position outside the text.
        ModelError: the architecture has no such part.
    """
    _require_tokens(lm)
    check_count(k)
    reading = text if isinstance(text, Reading) else read_parts(lm, text, position)
    _require_part("block", layer, len(reading.mlps))
    bridge = lm.bridge
    if head is not None:
        _require_part("head", head, len(reading.z[layer]))
        output, part = reading.z[layer][head] @ output_weights(lm, layer)[0][head], f"L{layer}H{head}"
        post = reading.attn_norms[layer]
    elif neuron is not None:
        weight, entering = getattr(bridge.blocks[layer].mlp, "W_out", None), reading.posts[layer]
        if weight is None or entering is None:
            raise ModelError(f"The MLPs of {type(lm.model).__name__} have no single W_out: leave `neuron` out.")
        _require_part("neuron", neuron, len(entering))
        output, part = entering[neuron] * weight[neuron].float(), f"L{layer} neuron {neuron}"
        post = reading.mlp_norms[layer]
    else:
        output, part, post = reading.mlps[layer], f"L{layer} MLP", None
    output = output if post is None else post(output)
    return _rank_tokens(lm, final_norm(lm, reading.final)(output), part, k)


@torch.no_grad()
def ov_tokens(lm: LM, layer: int, head: int, source: str | int, k: int = 10) -> PromotedTokens:
    """Return the tokens that a head would promote if it attended to one token only, from the weights alone.

    The residual stream of that token is its embedding: W_U^T L norm(W_E[x]), without biases, without a cap on logits
    and at a scale of 1 of the final norm and of one behind the heads.

    Args:
        lm: a model of tokens.
        layer: block.
        head: head of the block.
        source: attended token, as a text (its first token) or an id.
        k: number of tokens of each kind.

    Raises:
        ConfigError: there is no such block or head, or k is less than 1.
        DataError: a scalar model, or a source without tokens or beyond the vocabulary.
        ModelError: a block without a norm before its attention.
    """
    _require_tokens(lm)
    check_count(k)
    bridge = lm.bridge
    _require_part("block", layer, bridge.cfg.n_layers)
    token = answer_tokens(lm, [source]).tokens[0] if isinstance(source, str) else int(source)
    table = lm.model.get_input_embeddings()
    if not 0 <= token < len(table.weight):
        raise DataError(f"The token {token} was requested and the model has {len(table.weight)}: give one below that.")
    block = bridge.blocks[layer]
    if not hasattr(block, "ln1"):
        raise ModelError(f"The blocks of {type(lm.model).__name__} have no norm before their attention.")
    embedding = table(torch.tensor(token, device=table.weight.device))
    if hasattr(bridge, "embed_ln"):
        embedding = bridge.embed_ln.original_component(embedding)
    stream = block.ln1.original_component(embedding)
    if getattr(block.ln1.original_component, "bias", None) is not None:
        stream = stream - block.ln1.original_component.bias
    output, _ = output_weights(lm, layer)
    _require_part("head", head, len(output))
    with readable(block.attn.original_component):
        inputs = block.attn.W_V.detach().float().to(lm.device)  # [H_kv d dh]
    value = stream.float() @ inputs[head * len(inputs) // len(output)]
    written, one = value @ output[head], torch.ones(1, device=value.device)
    if post_hook(lm, layer, "attn"):
        written = replace(post_norm(lm, layer, "attn", written), scale=one)(written)
    norm = replace(final_norm(lm, embedding.float()), scale=one)
    return _rank_tokens(lm, norm(written), f"L{layer}H{head} on {pieces(lm.tokenizer, [token])[0]}", k)


@torch.no_grad()
def direction_tokens(lm: LM, direction: Float[Tensor, " d"], part: str, k: int = 10) -> PromotedTokens:
    """Return the tokens that a direction of the residual stream promotes and suppresses, as the logit lens reads it.

    The direction goes through the final norm, at a scale of 1, and the unembedding.

    Args:
        lm: a model of tokens.
        direction: the direction.
        part: name of what writes it.
        k: number of tokens of each kind.

    Raises:
        ConfigError: k is less than 1.
        DataError: a scalar model.
        ModelError: the final norm is neither RMSNorm nor LayerNorm.
    """
    _require_tokens(lm)
    check_count(k)
    return _rank_tokens(lm, logit_directions(lm, direction), part, k)


def logit_directions(lm: LM, directions: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
    """Return directions of the residual stream behind the final norm at a scale of 1.

    Raises:
        ModelError: the final norm is neither RMSNorm nor LayerNorm.
    """
    any_stream = torch.randn(directions.shape[-1], generator=torch.Generator().manual_seed(0)).to(lm.device)
    norm = final_norm(lm, any_stream)
    return replace(norm, scale=torch.ones(1, device=norm.scale.device))(directions.to(norm.scale.device))


def _rank_tokens(lm: LM, output: Float[Tensor, " d"], part: str, k: int) -> PromotedTokens:
    """Return the tokens with the largest and the smallest contributions of a normed direction to the logits."""
    logits = unembedding(lm) @ output
    best, worst = logits.topk(min(k, len(logits))), (-logits).topk(min(k, len(logits)))
    return PromotedTokens(
        part=part,
        ids=best.indices.cpu().numpy(),
        pieces=pieces(lm.tokenizer, best.indices.tolist()),
        values=best.values.cpu().numpy(),
        suppressed_ids=worst.indices.cpu().numpy(),
        suppressed_pieces=pieces(lm.tokenizer, worst.indices.tolist()),
        suppressed_values=-worst.values.cpu().numpy(),
        mean=float(logits.mean()),
    )


def _require_tokens(lm: LM) -> None:
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model outputs one number and no tokens: attribute its {lm.readout} instead.")


def _require_part(kind: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise ConfigError(f"There is no {kind} {number}: the model has {count}, give 0 to {count - 1}.")
