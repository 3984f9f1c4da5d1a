"""Direct contribution of a residual-stream vector to the logits: norms with fixed scale, then the unembedding.

Some blocks (Gemma 2 and 3) apply a norm to the output of their heads or MLP before it enters the stream: `post_norm`.

Axes: d width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.errors import ModelError
from probe.model.adapted import merged_layer
from probe.model.lm import LM
from probe.model.placement import aligned


@dataclass(frozen=True)
class HeldNorm:
    """A norm with the scale that it has on given streams: `norm(h) = weight * centre(h) / scale + shift`."""

    weight: Float[Tensor, " d"]
    """Weight of the norm; ones if it has none."""
    scale: Float[Tensor, "... 1"]
    """Divisor of each stream."""
    shift: Float[Tensor, " d"]
    """Bias of the norm; zeros if it has none."""
    centred: bool
    """Whether the mean over the width is subtracted first (LayerNorm)."""

    def __call__(self, part: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Apply the norm to a part of each stream, in single precision; the shift belongs to no part."""
        part = part.float()
        return (part - part.mean(-1, keepdim=True) if self.centred else part) * self.weight / self.scale

    def direction(self, columns: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        """Return the residual-stream direction whose inner product with a part is its contribution to a logit."""
        scaled = columns * self.weight / self.scale
        return scaled - scaled.mean(-1, keepdim=True) if self.centred else scaled


@torch.no_grad()
def held_norm(module: nn.Module, stream: Float[Tensor, "... d"]) -> HeldNorm:
    """Return a norm with the scale that it has on given streams, found from the module's output there.

    It tries RMSNorm and LayerNorm, with weights around 1 or around 0 (Gemma), and takes the one that gives the module's
    output.

    Raises:
        ModelError: none of them does.
    """
    with aligned(module):
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    out = module(stream if weight is None else stream.to(weight.dtype))
    eps, out, stream = torch.finfo(out.dtype).eps, out.float(), stream.float()
    ones = torch.ones(stream.shape[-1], device=stream.device)
    own = ones if weight is None else weight.detach().float()
    shift = torch.zeros_like(ones) if bias is None else bias.detach().float()
    layer_norm = isinstance(module, nn.LayerNorm)
    for centred, gain in [(c, g) for c in (layer_norm, not layer_norm) for g in (own, 1 + own)]:
        scaled = (stream - stream.mean(-1, keepdim=True) if centred else stream) * gain
        size = scaled.square().sum(-1, keepdim=True).clamp(min=1e-30)
        inverse = (scaled * (out - shift)).sum(-1, keepdim=True) / size
        gap = float((scaled * inverse + shift - out).abs().max())
        sensible = bool(((inverse > 0) | ~scaled.any(-1, keepdim=True)).all())  # zeros show no scale
        if sensible and gap <= max(1e-4, 8 * eps) * float(out.abs().max()):
            return HeldNorm(gain, 1 / inverse, shift, centred)
    raise ModelError(
        f"The norm {type(module).__name__} is neither RMSNorm nor LayerNorm, so a logit cannot be split over it: use "
        "a model of another architecture."
    )


def final_norm(lm: LM, residual: Float[Tensor, "... d"]) -> HeldNorm:
    """Return the final norm with the scale that it has on the stream after the last block.

    Raises:
        ModelError: it is neither RMSNorm nor LayerNorm.
    """
    return held_norm(lm.bridge.ln_final.original_component, residual)


Part = Literal["attn", "mlp"]


def post_hook(lm: LM, block: int, part: Part) -> str | None:
    """Return the hook name of the input of the norm after a block's heads or MLP; None without such a norm."""
    name = f"blocks.{block}.{_POST[part]}.hook_in"
    return name if name in lm.bridge.hook_dict else None


def post_norm(lm: LM, block: int, part: Part, written: Float[Tensor, "... d"]) -> HeldNorm:
    """Return the norm after the heads or the MLP of a block, with the scale that it has on their summed output.

    Raises:
        ModelError: it is neither RMSNorm nor LayerNorm.
    """
    return held_norm(getattr(lm.bridge.blocks[block], _POST[part]).original_component, written)


_POST: dict[Part, str] = {"attn": "ln1_post", "mlp": "ln2_post"}


def direct_logits(lm: LM, vector: Float[Tensor, "... d"], residual: Float[Tensor, "... d"]) -> Float[Tensor, "... V"]:
    """Return the contribution of a part of the last residual stream to the logits, with the final norm's scale fixed.

    Linear in `vector`; before the soft cap that some architectures (Gemma 2) put on logits.

    Args:
        lm: the model.
        vector: the part.
        residual: the whole stream after the last block, which sets the scale.
    """
    return final_norm(lm, residual)(vector) @ unembedding(lm).T


def unembedding(lm: LM) -> Float[Tensor, "V d"]:
    """Return the rows that map a normed state to logits, with an architecture's factor on logits, without bias."""
    rows = output_layer(lm)[0].float()
    factor = output_scale(lm)
    return rows if factor == 1.0 else rows * factor


def output_layer(lm: LM) -> tuple[Float[Tensor, "V d"], Float[Tensor, " V"] | None]:
    """Return weight and bias of the unembedding, on the device of the logits."""
    head = merged_layer(lm.model.get_output_embeddings())
    with aligned(head):
        weight, bias = head.weight.detach(), getattr(head, "bias", None)
    return weight.to(lm.device), None if bias is None else bias.detach().to(lm.device)


def output_scale(lm: LM) -> float:
    """Return the factor that an architecture multiplies its logits by (Cohere, Granite); 1 for most."""
    return getattr(lm.model.config, "logit_scale", 1.0) / getattr(lm.model.config, "logits_scaling", 1.0)


def logit_cap(lm: LM) -> float | None:
    """Return c of the soft cap c tanh(z / c) that some architectures (Gemma 2) apply to logits; None for most."""
    return getattr(lm.model.config, "final_logit_softcapping", None)
