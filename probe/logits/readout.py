"""Residual stream of a model, and the logits that its final norm and unembedding make of it.

Axes: D blocks, V vocabulary, d width.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ModelError
from probe.logits.direct import logit_cap, output_scale
from probe.model.lm import LM


def residual_names(lm: LM) -> list[str]:
    """Return the hook names of the residual stream after the embedding and after each block, D + 1 of them."""
    blocks = lm.bridge.cfg.n_layers
    return ["blocks.0.hook_resid_pre", *(f"blocks.{block}.hook_resid_post" for block in range(blocks))]


def unembed(lm: LM, residual: Float[Tensor, "... d"]) -> Float[Tensor, "... V"]:
    """Return the logits of a residual stream: final norm, unembedding, and the scale or soft cap, if any.

    Norm and unembedding are the plain modules: hooks on them do not act here.
    """
    return shape_logits(lm, lm.model.get_output_embeddings()(lm.bridge.ln_final.original_component(residual)).float())


def shape_logits(lm: LM, logits: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Apply what an architecture adds after the unembedding: a factor (Cohere, Granite), a soft cap (Gemma 2)."""
    scale, cap = output_scale(lm), logit_cap(lm)
    logits = logits if scale == 1 else logits * scale
    return torch.tanh(logits / cap) * cap if cap else logits


@torch.no_grad()
def require_own_logits(lm: LM, residual: Float[Tensor, "... d"], logits: Float[Tensor, "... V"]) -> None:
    """Check that norm and unembedding of the last residual give the model's output.

    Raises:
        ModelError: they do not.
    """
    again = unembed(lm, residual.to(lm.dtype)).log_softmax(-1)
    if float((again.exp() - logits.float().softmax(-1)).abs().max()) > 0.05:
        raise ModelError(
            f"The logit lens does not know how {type(lm.model).__name__} makes logits from its residual stream: "
            "use a model of another architecture."
        )
