"""What a vector in the residual stream does to the logits: norms with their scale held fixed, then the unembedding.

Axes: d width, V vocabulary.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probe.lm import LM


def direct_logits(lm: LM, vector: Float[Tensor, "... d"], residual: Float[Tensor, "... d"]) -> Float[Tensor, "... V"]:
    """What a part of the last residual stream adds to the logits, the scale of the final norm held fixed.

    Linear in `vector`; before the soft cap that some architectures (Gemma 2) put on logits.

    Args:
        lm: the model.
        vector: the part.
        residual: the whole stream after the last block, which sets the scale.
    """
    normed = frozen_norm(lm.bridge.ln_final.original_component, vector, residual)
    return normed.float() @ unembedding(lm).T


def unembedding(lm: LM) -> Float[Tensor, "V d"]:
    """Rows that make logits from a normed state, with the factor that some architectures put on logits; no bias."""
    config, head = lm.model.config, lm.model.get_output_embeddings()
    factor = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    rows: Tensor = head.weight.float()
    return rows if factor == 1.0 else rows * factor


def frozen_norm(
    norm: nn.Module, vector: Float[Tensor, "... d"], whole: Float[Tensor, "... d"]
) -> Float[Tensor, "... d"]:
    """A norm's linear part: gain times (centred) `vector` over the scale that `whole` has; its bias is left out.

    Works on any LayerNorm or RMSNorm, however it keeps its gain: the norm is run and its own scale exchanged.
    """
    zero, one = torch.zeros_like(vector[..., :1, :]), torch.ones_like(vector[..., :1, :])
    bias = norm(zero)
    centres = bool(((norm(one) - bias).abs().max() < 1e-3 * (norm(one.cumsum(-1)) - bias).abs().max()).item())
    eps = next((float(getattr(norm, name)) for name in ("eps", "variance_epsilon") if hasattr(norm, name)), 0.0)

    def scale(x: Tensor) -> Tensor:
        x = x.float() - x.float().mean(-1, keepdim=True) if centres else x.float()
        return (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()

    return ((norm(vector) - bias) * (scale(vector) / scale(whole))).to(vector.dtype)
