"""Attention of every head on a text: patterns, and how two models differ.

`attention` reads a prompt and, if asked, what the model writes after it.

Axes: D blocks, H heads, T tokens, d width, dh head width, V vocabulary, k tokens. Rows of a pattern are queries,
columns keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from probe.errors import ConfigError, DataError
from probe.model.heads import array, head_names
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.plotting.notebook import Drawable
from probe.runs import captured

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
