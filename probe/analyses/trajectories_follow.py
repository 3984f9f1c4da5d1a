"""Other answers through the layers of a text that was read already: a few columns of the unembedding instead of all.

Axes: D blocks, T tokens, A answers, K columns, d width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probe.analyses.lens import shaped, unembed
from probe.analyses.trajectories import LayerTrajectory, answer_columns, rank
from probe.model.lm import LM
from probe.model.text import pieces


@torch.no_grad()
def follow(lm: LM, read: LayerTrajectory, answers: Sequence[str | int], position: int | None = None) -> LayerTrajectory:
    """A trajectory with other answers: log p(a) = logit(a) - logit(favourite) + log p(favourite).

    Args:
        lm: the model that was read.
        read: what `over_layers` gave.
        answers: texts, whose first token counts, or token ids.
        position: the only token after which ranks are wanted (elsewhere they are NaN), since a rank needs all logits;
            default: everywhere.

    Raises:
        DataError: an answer without tokens.
    """
    chosen = answer_columns(lm, answers)
    top = torch.from_numpy(read.lens.top_ids[..., :1]).to(read.residual.device)
    wanted = torch.tensor(chosen, dtype=torch.long, device=top.device).expand(*top.shape[:-1], len(chosen))
    logits = columns(lm, read.residual, torch.cat([top, wanted], dim=-1))
    logprobs = (logits[..., 1:] - logits[..., :1]).cpu().numpy() + read.lens.top_logprobs[..., :1]
    ranks = np.full(logprobs.shape, np.nan)
    for column in range(top.shape[1]) if position is None else [position - read.start]:
        ranks[:, column] = rank(unembed(lm, read.residual[:, column]), chosen).cpu().numpy()
    names = pieces(lm.tokenizer, chosen)
    lens = replace(read.lens, answers=names, answer_logprobs=logprobs)
    return replace(read, lens=lens, answers=names, answer_ids=chosen, logprobs=logprobs, ranks=ranks)


def columns(lm: LM, residual: Float[Tensor, "D T d"], tokens: Int[Tensor, "D T K"]) -> Float[Tensor, "D T K"]:
    """What `probe.analyses.lens.unembed` gives at some tokens only."""
    head = lm.model.get_output_embeddings()
    normed = lm.bridge.ln_final.original_component(residual)
    logits = (head.weight[tokens] @ normed[..., None])[..., 0]
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias[tokens]
    return shaped(lm, logits.float())
