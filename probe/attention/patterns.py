"""Attention of every head on a text: patterns, one head stage by stage (E3 to E5), rollout, and how two models differ.

`attention` reads a prompt and, if asked, what the model writes after it; `stages` takes one head apart into its scores
(bilinear), its weights (softmax) and what it mixes and writes (linear); `rollout` follows attention through the blocks.

Axes: D blocks, H heads, T tokens, d width, dh head width, V vocabulary, k tokens. Rows of a pattern are queries,
columns keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.errors import ConfigError, DataError
from probe.logits.direct import direct_logits, post_hook, post_norm
from probe.model.equations import bilinear, read_network
from probe.model.heads import array, check_count, check_head, head_names
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.plotting.notebook import Drawable
from probe.runs import captured

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Words(NamedTuple):
    """Tokens whose logits one vector moves most, strongest first; k is 0 where there is no such side."""

    tokens: np.ndarray
    """[T k] readable pieces; the readout's name for a model that reads out one scalar."""
    logits: np.ndarray
    """[T k] change of their logits (nats) or of the scalar (its units)."""


@dataclass(frozen=True)
class Stages(Drawable):
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

    def figure(self, query: int | None = None) -> "go.Figure":
        """Scores, pattern and what each source writes, side by side; `query` is the row to mark."""
        from probe.attention import figures as plots

        row = plots.Stages(name=self.name, scores=self.scores, pattern=self.pattern, written=self.contribution)
        return plots.head_stages([row], self.tokens, query=query)

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
    post = post_hook(lm, layer, "attn")
    last = f"blocks.{lm.bridge.cfg.n_layers - 1}.hook_resid_post"
    kinds = ["hook_attn_scores", "hook_pattern", "hook_v", "hook_z"]
    names = [block + "attn." + kind for kind in kinds] + [block + "hook_resid_pre", last]
    _, cache = lm.run_with_cache([ids], names + ([post] if post else []))
    scores, pattern, v, z = (cache[block + "attn." + kind][0] for kind in kinds)
    if torch.equal(scores, pattern):  # OPT and GPT-J: their hook of the scores shows the weights
        own = read_network(lm, check=False).blocks[layer]
        scores = bilinear(own.maps, own.norm(cache[block + "hook_resid_pre"][0].to(own.maps.M.dtype)))
    outside = scores[head] < torch.finfo(scores.dtype).min / 2  # out of a sliding window
    mask = outside | torch.ones_like(outside).triu(1)
    out = lm.bridge.blocks[layer].attn.W_O[head]
    value = v[:, head * v.shape[1] // len(scores)] @ out
    output = z[:, head] @ out
    norms = (value.norm(dim=-1), pattern[head] * value.norm(dim=-1))
    if post:  # the norm's scale belongs to the query, so each pair of query and key has its own length
        norm = post_norm(lm, layer, "attn", cache[post][0])
        output = norm(output)
        lengths = replace(norm, scale=torch.ones_like(norm.scale))(value).norm(dim=-1) / norm.scale
        norms = (lengths.diagonal(), pattern[head] * lengths)
    promoted, suppressed = _words(lm, direct_logits(lm, output, cache[last][0]), k)
    return Stages(
        layer=layer,
        head=head,
        tokens=pieces(lm.tokenizer, ids),
        scores=array(scores[head].masked_fill(mask, torch.nan)),
        pattern=array(pattern[head]),
        value_norms=array(norms[0]),
        contribution=array(norms[1]),
        written=array(output.norm(dim=-1)),
        share=array(output.norm(dim=-1) / cache[block + "hook_resid_pre"][0].norm(dim=-1)),
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


@dataclass(frozen=True)
class Attention(Drawable):
    """What every head attends to on one text."""

    tokens: list[str]
    """[T] readable pieces of the text."""
    ids: list[int]
    """[T] their ids."""
    prompt_length: int
    """How many tokens were given; the model wrote the rest."""
    pattern: np.ndarray
    """[D H T T] weights: rows are queries and sum to 1, zero above the diagonal."""

    @property
    def written(self) -> int | None:
        """The first token that the model wrote itself, if it wrote one."""
        return self.prompt_length if self.prompt_length < len(self.tokens) else None

    @property
    def heads(self) -> list[str]:
        """[D H] names of the heads, `L0H0` first, block by block."""
        return head_names(*self.pattern.shape[:2])

    def table(self) -> pd.DataFrame:
        """One row a weight at or below the diagonal: layer, head, query, query_token, key, key_token, weight."""
        return captured.attention_table(self.pattern, self.tokens)

    def figure(self) -> "go.Figure":
        """Every head as one heat map."""
        from probe.attention.figures import attention_mosaic

        return attention_mosaic(self.pattern, self.tokens, boundary=self.written)


@torch.no_grad()
def attention(
    lm: LM, text: str | Sequence[int], *, max_new_tokens: int = 0, temperature: float = 0.0, seed: int = 0
) -> Attention:
    """Attention over a text, and over what the model goes on writing.

    Row t is the attention of the pass that read token t and predicted token t + 1, so the rows from
    `prompt_length - 1` on are the attention during generation: what each cached step attended to.

    Args:
        lm: the model.
        text: a text or its token ids.
        max_new_tokens: how many tokens the model goes on for at most.
        temperature: of the sampling; 0 takes the most probable token.
        seed: of the sampling.

    Raises:
        DataError: an empty text or one longer than the context.
        ConfigError: a continuation was asked from a model that reads out a scalar.
    """
    ids = text_ids(lm.tokenizer, text)
    length = len(ids)
    if max_new_tokens > 0:
        ids = ids + lm.generate([ids], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed).ids[0]
    names = [f"blocks.{block}.attn.hook_pattern" for block in range(lm.bridge.cfg.n_layers)]
    _, cache = lm.run_with_cache([ids], names)
    pattern = np.empty((len(names), *cache[names[0]].shape[1:]), np.float32)
    for row, name in zip(pattern, names, strict=True):
        row[...] = array(cache.cache_dict.pop(name)[0])  # the preflight has room for all of them once, not twice
    return Attention(pieces(lm.tokenizer, ids), ids, length, pattern)


def difference(a: Attention, b: Attention) -> np.ndarray:
    """[D H T T] b - a: the weights that b gives beyond those of a.

    Raises:
        DataError: the texts or the numbers of blocks and heads differ.
    """
    if a.ids != b.ids:
        raise DataError("The two attentions are of different tokens: run both models on the ids of one of them.")
    if a.pattern.shape != b.pattern.shape:
        (d, h), (e, i) = a.pattern.shape[:2], b.pattern.shape[:2]
        raise DataError(f"The models have {d} x {h} and {e} x {i} heads, which do not pair up: compare equal shapes.")
    return b.pattern - a.pattern


def head_distance(a: Attention, b: Attention, kind: str = "total_variation") -> np.ndarray:
    """[D H] how far apart two models' attention is: mean over the queries that have a choice (all but the first).

    Args:
        a: one model's attention.
        b: the other's on the same tokens.
        kind: "total_variation" (the share of the weight that moved) or "jensen_shannon" (nats, at most log 2).

    Raises:
        DataError: as `difference`.
        ConfigError: another kind.
    """
    change = difference(a, b)
    if kind == "total_variation":
        rows = np.abs(change).sum(-1) / 2
    elif kind == "jensen_shannon":
        middle = (a.pattern + b.pattern) / 2
        rows = _entropy(middle) - (_entropy(a.pattern) + _entropy(b.pattern)) / 2
    else:
        raise ConfigError(f"The distance {kind!r} is unknown: give 'total_variation' or 'jensen_shannon'.")
    return rows[..., 1:].mean(-1) if rows.shape[-1] > 1 else rows.mean(-1)


def distance_table(a: Attention, b: Attention) -> pd.DataFrame:
    """One row a head, the one that moved most first: name, layer, head, total_variation, jensen_shannon."""
    layer, head = (axis.ravel() for axis in np.indices(a.pattern.shape[:2]))
    columns = {kind: head_distance(a, b, kind).ravel() for kind in ("total_variation", "jensen_shannon")}
    table = pd.DataFrame({"name": a.heads, "layer": layer, "head": head, **columns})
    return table.sort_values("total_variation", ascending=False, kind="stable", ignore_index=True)


def _entropy(pattern: np.ndarray) -> np.ndarray:
    """Entropy of the rows in nats."""
    return -(pattern * np.log(np.where(pattern > 0, pattern, 1.0))).sum(-1)


def rollout(read: Attention | np.ndarray, residual: float = 0.5, value_norms: np.ndarray | None = None) -> np.ndarray:
    """[D T T] attention rollout: after each block, the share of every earlier token in each position; rows sum to 1.

    Abnar and Zuidema 2020. Each block passes on `residual` of a state as it is and mixes the rest by the mean attention
    of its heads. The product of these matrices over the blocks says where a state comes from, as if values and MLPs
    changed nothing.

    Args:
        read: attention, or its pattern [D H T T].
        residual: share of a state that passes a block unmixed, 0 to 1; 0.5 in the paper.
        value_norms: [D H T] |L h_s| (`probe.attention.patterns.value_norms`): heads and keys count by what they
            write (pattern times norm, each row scaled to sum 1) and not all alike.

    Raises:
        ConfigError: a residual share outside of 0 to 1.
        DataError: arrays of other shapes.
    """
    pattern = read.pattern if isinstance(read, Attention) else np.asarray(read)
    if pattern.ndim != 4 or pattern.shape[2] != pattern.shape[3]:
        raise DataError(f"A pattern has the axes blocks, heads, queries, keys; this one has shape {pattern.shape}.")
    if not 0 <= residual <= 1:
        raise ConfigError(f"The residual share {residual} lies outside of 0 to 1: the paper takes 0.5.")
    if value_norms is not None and value_norms.shape != pattern.shape[:3]:
        raise DataError(f"Value norms have the shape {pattern.shape[:3]} of the pattern, and not {value_norms.shape}.")
    if value_norms is None:
        mixing = pattern.mean(1)
    else:
        mixing = (pattern * value_norms[:, :, None]).sum(1)
        mixing = mixing / mixing.sum(-1, keepdims=True)
    steps = residual * np.eye(pattern.shape[-1]) + (1 - residual) * mixing.astype(np.float64)
    products = [steps[0]]
    for step in steps[1:]:
        products.append(step @ products[-1])
    return np.stack(products).astype(np.float32)


def rollout_table(seen: np.ndarray, tokens: list[str]) -> pd.DataFrame:
    """One row for each layer and pair at or below the diagonal: layer, position, token, source, source_token, share."""
    layer, position, source = (axis.ravel() for axis in np.indices(seen.shape))
    names = np.array(tokens, dtype=object)
    table = pd.DataFrame(
        {
            "layer": layer,
            "position": position,
            "token": names[position],
            "source": source,
            "source_token": names[source],
            "share": seen.ravel(),
        }
    )
    return table[table["source"] <= table["position"]].reset_index(drop=True)
