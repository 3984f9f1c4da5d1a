"""One head's three stages apart: bilinear, softmax, linear (E3, E4, E5), and what it writes.

Axes: D blocks, H heads, T tokens, d width, dh head width, V vocabulary, k tokens. Rows of a pattern are queries,
columns keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.direct import direct_logits, held_norm
from probe.model.heads import array, check_count, check_head
from probe.model.lm import LM
from probe.model.text import pieces, text_ids


class Words(NamedTuple):
    """Tokens whose logits one vector moves most, strongest first; k is 0 where there is no such side."""

    tokens: np.ndarray
    """[T k] readable pieces; the readout's name for a model that reads out one scalar."""
    logits: np.ndarray
    """[T k] change of their logits (nats) or of the scalar (its units)."""


@dataclass(frozen=True)
class Stages:
    """One head on one text, stage by stage: scores (E3), pattern (E4), what is mixed and written (E5)."""

    layer: int
    """Block of the head, from 0."""
    head: int
    """Number of the head in its block, from 0."""
    tokens: list[str]
    """[T] readable pieces of the text."""
    scores: np.ndarray
    """[T T] s_{t,s}: scaled products of queries and keys, before the softmax; NaN where t does not see s."""
    pattern: np.ndarray
    """[T T] alpha_{t,s}: softmax of the scores."""
    value_norms: np.ndarray
    """[T] |L h_s|: length of what the head would write if it attended to s alone (the value's bias included)."""
    contribution: np.ndarray
    """[T T] |alpha_{t,s} L h_s|: value-weighted attention (Kobayashi et al. 2020)."""
    written: np.ndarray
    """[T] |o_t|: length of what the head writes."""
    share: np.ndarray
    """[T] |o_t| over the length of the residual stream that it is added to."""
    promoted: Words
    """Tokens whose logits o_t raises most, through the final norm (its scale held fixed) and the unembedding."""
    suppressed: Words
    """Tokens whose logits o_t lowers most."""

    @property
    def name(self) -> str:
        """Name of the head, such as `L5H3`."""
        return f"L{self.layer}H{self.head}"

    def table(self) -> pd.DataFrame:
        """One row a query and key: query, query_token, key, key_token, score, weight, value_norm, contribution."""
        query, key = np.tril_indices(len(self.tokens))
        names = np.array(self.tokens, dtype=object)
        return pd.DataFrame(
            {
                "query": query,
                "query_token": names[query],
                "key": key,
                "key_token": names[key],
                "score": self.scores[query, key],
                "weight": self.pattern[query, key],
                "value_norm": self.value_norms[key],
                "contribution": self.contribution[query, key],
            }
        )

    def written_table(self) -> pd.DataFrame:
        """One row for each position, direction and rank: position, token, written, share, direction, rank, ..."""
        sides = [self._side("promoted", self.promoted), self._side("suppressed", self.suppressed)]
        return pd.concat([side for side in sides if len(side)], ignore_index=True)

    def _side(self, name: str, words: Words) -> pd.DataFrame:
        position, rank = (axis.ravel() for axis in np.indices(words.logits.shape))
        return pd.DataFrame(
            {
                "position": position,
                "token": np.array(self.tokens, dtype=object)[position],
                "written": self.written[position],
                "share": self.share[position],
                "direction": name,
                "rank": rank,
                "moved": words.tokens.ravel(),
                "logit_change": words.logits.ravel(),
            }
        )


@torch.no_grad()
def stages(lm: LM, text: str | Sequence[int], layer: int, head: int, *, k: int = 5) -> Stages:
    """One head's scores, weights and mixed values, and what it writes into the residual stream.

    Where a block norms the sum of its heads before it is added (Gemma 2), that norm is part of L, its scale held fixed.

    Args:
        lm: the model; for one that reads out a scalar, the change of the scalar stands in place of promoted tokens.
        text: a text or its token ids.
        layer: block of the head, from 0.
        head: number of the head in its block, from 0.
        k: how many promoted and suppressed tokens to keep.

    Raises:
        DataError: an empty text or one longer than the context.
        ConfigError: the model has no such head, or k is less than 1.
    """
    check_head(lm, layer, head)
    check_count(k)
    ids, block = text_ids(lm.tokenizer, text), f"blocks.{layer}."
    post = getattr(lm.bridge.blocks[layer], "ln1_post", None)
    last = f"blocks.{lm.bridge.cfg.n_layers - 1}.hook_resid_post"
    kinds = ["hook_attn_scores", "hook_pattern", "hook_v", "hook_z"]
    names = [block + "attn." + kind for kind in kinds] + [block + "hook_resid_pre", last]
    _, cache = lm.run_with_cache([ids], names + ([block + "ln1_post.hook_in"] if post is not None else []))
    scores, pattern, v, z = (cache[block + "attn." + kind][0] for kind in kinds)
    masked = scores[head] < torch.finfo(scores.dtype).min / 2  # out of a sliding window
    unseen = masked | torch.ones_like(masked).triu(1)
    out = lm.bridge.blocks[layer].attn.W_O[head]
    value = v[:, head * v.shape[1] // len(scores)] @ out
    written = z[:, head] @ out
    mixed = (value.norm(dim=-1), pattern[head] * value.norm(dim=-1))
    if post is not None:  # the norm's scale belongs to the query, so each pair of query and key has its own length
        norm = held_norm(post.original_component, cache[block + "ln1_post.hook_in"][0])
        written = norm(written)
        lengths = replace(norm, scale=torch.ones_like(norm.scale))(value).norm(dim=-1) / norm.scale
        mixed = (lengths.diagonal(), pattern[head] * lengths)
    promoted, suppressed = _words(lm, direct_logits(lm, written, cache[last][0]), k)
    return Stages(
        layer=layer,
        head=head,
        tokens=pieces(lm.tokenizer, ids),
        scores=array(scores[head].masked_fill(unseen, torch.nan)),
        pattern=array(pattern[head]),
        value_norms=array(mixed[0]),
        contribution=array(mixed[1]),
        written=array(written.norm(dim=-1)),
        share=array(written.norm(dim=-1) / cache[block + "hook_resid_pre"][0].norm(dim=-1)),
        promoted=promoted,
        suppressed=suppressed,
    )


@torch.no_grad()
def value_norms(lm: LM, text: str | Sequence[int]) -> np.ndarray:
    """[D H T] |L h_s| of every head: pattern times these norms is value-weighted attention (Kobayashi et al. 2020).

    Before the norm that some architectures (Gemma 2) put behind the sum of the heads.
    """
    blocks = range(lm.bridge.cfg.n_layers)
    names = [f"blocks.{block}.attn.hook_v" for block in blocks]
    _, cache = lm.run_with_cache([text_ids(lm.tokenizer, text)], names)
    rows = []
    for block, name in zip(blocks, names, strict=True):
        out = lm.bridge.blocks[block].attn.W_O
        v = cache[name][0].repeat_interleave(len(out) // cache[name].shape[2], dim=1)
        rows.append(array(torch.einsum("shk,hkd->hsd", v, out).norm(dim=-1)))
    return np.stack(rows)


def _words(lm: LM, logits: Float[Tensor, "T V"], k: int) -> tuple[Words, Words]:
    if lm.readout != "tokens":
        names = np.full((len(logits), 1), lm.readout, dtype=object)
        return Words(names, array(logits)), Words(names[:, :0], array(logits[:, :0]))
    sides = []
    for sign in (1, -1):
        top = (sign * logits).topk(min(k, logits.shape[-1]), dim=-1)
        names = np.array(pieces(lm.tokenizer, top.indices.ravel().tolist()), dtype=object).reshape(top.indices.shape)
        sides.append(Words(names, sign * array(top.values)))
    return sides[0], sides[1]
