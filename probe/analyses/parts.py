"""What every part of a model wrote after one token of a text, and the linear map from there to the logits.

One hooked forward pass gives all that direct attribution and promoted tokens need; of patterns only one row is kept, so
that a long text costs little.

Axes: D blocks, H heads, T tokens, m neurons, d width, dh head width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.errors import DataError, ModelError
from probe.lm import LM
from probe.scoring import check_lengths
from probe.tokens import encode

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


@dataclass(frozen=True, eq=False)
class Reading:
    """What the parts of a model wrote after the token at `position`, in single precision."""

    ids: list[int]
    """[T] the text."""
    position: int
    """The token after which everything is read."""
    logits: Float[Tensor, " V"]
    """The model's own output."""
    embedding: Float[Tensor, " d"]
    """The residual stream before the first block."""
    learned: Float[Tensor, " d"] | None
    """The part of it that is a learned position, if there is one."""
    final: Float[Tensor, " d"]
    """The residual stream after the last block."""
    z: list[Float[Tensor, "H dh"]]
    """Of each block, the mixed values of its heads, before W_O."""
    pattern: list[Float[Tensor, "H T"]]
    """Of each block, what the query at `position` attends to."""
    values: list[Float[Tensor, "T G dh"]]
    """Of each block, the values that are mixed; G of them, each for H / G heads."""
    mlps: list[Float[Tensor, " d"]]
    """Of each block, what its MLP wrote."""
    posts: list[Float[Tensor, " m"] | None]
    """Of each block, what enters W_out, where there is such a thing."""


@dataclass(frozen=True)
class FinalNorm:
    """The final norm at one token with its scale held: `norm(h) = weight * centre(h) / scale + shift`."""

    weight: Float[Tensor, " d"]
    """Weight of the norm; ones where it has none."""
    scale: float
    """What the stream is divided by at this token."""
    shift: Float[Tensor, " d"]
    """Bias of the norm; zeros where it has none."""
    centred: bool
    """Whether the mean over the width is taken off first (LayerNorm)."""

    def __call__(self, part: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """What a part of the residual stream becomes; the shift belongs to no part."""
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.weight / self.scale

    def direction(self, columns: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """The direction in the residual stream whose inner product with a part is what it adds to a logit."""
        scaled = columns * self.weight / self.scale
        return scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled


@torch.no_grad()
def read_parts(lm: LM, text: str | Sequence[int], position: int | None = None) -> Reading:
    """Run a text and keep what every part wrote after one token.

    Args:
        lm: the model.
        text: a text or its ids.
        position: default: the last token.

    Raises:
        ModelError: the architecture has no attention in some block.
        DataError: an empty or too long text, or a position outside of it.
    """
    ids = encode(lm.tokenizer, text) if isinstance(text, str) else [int(token) for token in text]
    check_lengths(lm.model, [ids], [])
    t = len(ids) - 1 if position is None else position
    if not 0 <= t < len(ids):
        raise DataError(f"Position {t} was asked for in a text of {len(ids)} tokens: give 0 to {len(ids) - 1}.")
    bridge = lm.bridge
    depth, known = bridge.cfg.n_layers, bridge.hook_dict
    first, last = "blocks.0.hook_resid_pre", f"blocks.{depth - 1}.hook_resid_post"
    keep: dict[str, Callable[[Tensor], Tensor]] = {first: lambda x: x[0, t], last: lambda x: x[0, t]}
    for layer in range(depth):
        keep[f"blocks.{layer}.attn.hook_z"] = lambda x: x[0, t]
        keep[f"blocks.{layer}.attn.hook_pattern"] = lambda x: x[0, :, t]
        keep[f"blocks.{layer}.attn.hook_v"] = lambda x: x[0]
        keep[f"blocks.{layer}.hook_mlp_out"] = lambda x: x[0, t]
    missing = [name for name in keep if name not in known]
    if missing:
        raise ModelError(
            f"{type(lm.model).__name__} has no {missing[0]}, so its logit cannot be split into heads and MLPs: use a "
            "transformer with attention in every block."
        )
    optional = ["hook_pos_embed", *(f"blocks.{layer}.mlp.hook_post" for layer in range(depth))]
    keep |= {name: (lambda x: x.reshape(-1, *x.shape[-2:])[0, t]) for name in optional if name in known}
    logits, seen = _read(lm, ids, keep)
    z, values = [], []
    for layer in range(depth):
        heads = len(seen[f"blocks.{layer}.attn.hook_pattern"])
        z.append(seen[f"blocks.{layer}.attn.hook_z"].reshape(heads, -1))
        values.append(seen[f"blocks.{layer}.attn.hook_v"].reshape(len(ids), -1, z[-1].shape[1]))
    return Reading(
        ids=ids,
        position=t,
        logits=logits[0, t].float(),
        embedding=seen[first],
        learned=seen.get("hook_pos_embed"),
        final=seen[last],
        z=z,
        pattern=[seen[f"blocks.{layer}.attn.hook_pattern"] for layer in range(depth)],
        values=values,
        mlps=[seen[f"blocks.{layer}.hook_mlp_out"] for layer in range(depth)],
        posts=[seen.get(f"blocks.{layer}.mlp.hook_post") for layer in range(depth)],
    )


@torch.no_grad()
def final_norm(lm: LM, residual: Float[Tensor, " d"]) -> FinalNorm:
    """The final norm at the residual stream of one token, read from what the module does there.

    RMSNorm and LayerNorm, with weights around 1 or around 0 (Gemma): whichever gives the module's own output.

    Raises:
        ModelError: none of them does.
    """
    module = lm.bridge.ln_final.original_component
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    out = module(residual.to(lm.dtype)).float()
    ones = torch.ones_like(residual)
    w = ones if weight is None else weight.detach().float()
    shift = torch.zeros_like(residual) if bias is None else bias.detach().float()
    layer_norm = isinstance(module, nn.LayerNorm)
    for centred, own in [(c, g) for c in (layer_norm, not layer_norm) for g in (w, 1 + w)]:
        scaled = (residual - residual.mean() if centred else residual) * own
        inverse = float((scaled @ (out - shift)) / (scaled @ scaled).clamp(min=1e-30))
        gap = float((scaled * inverse + shift - out).abs().max())
        if inverse > 0 and gap <= max(1e-4, 8 * torch.finfo(lm.dtype).eps) * float(out.abs().max()):
            return FinalNorm(own, 1 / inverse, shift, centred)
    raise ModelError(
        f"The final norm of {type(lm.model).__name__} is neither RMSNorm nor LayerNorm, so a logit cannot be split "
        "over it: use a model of another architecture."
    )


def output_scale(lm: LM) -> float:
    """What an architecture multiplies its logits with (Cohere, Granite); 1 for most."""
    return getattr(lm.model.config, "logit_scale", 1.0) / getattr(lm.model.config, "logits_scaling", 1.0)


def output_weights(
    bridge: "TransformerBridge", layer: int
) -> tuple[Float[Tensor, "H dh d"], Float[Tensor, " d"] | None]:
    """W_O of a block by head, and its bias if there is one."""
    attention = bridge.blocks[layer].attn
    bias = attention.b_O
    return attention.W_O.detach().float(), None if bias is None else bias.detach().float()


def _read(
    lm: LM, ids: Sequence[int], keep: dict[str, Callable[[Tensor], Tensor]]
) -> tuple[Float[Tensor, "1 T V"], dict[str, Tensor]]:
    """Logits, and of each named activation the part that is asked for."""
    seen: dict[str, Tensor] = {}

    def reader(name: str, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor, object], None]:
        def take(tensor: Tensor, hook: object) -> None:
            seen[name] = part(tensor).detach().float().clone()

        return take

    with lm.hooks([(name, reader(name, part)) for name, part in keep.items()]):
        logits = lm.logits([list(ids)])
    return logits, seen
