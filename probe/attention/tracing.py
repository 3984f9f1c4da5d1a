"""Attention rollout: the tokens that the state of a position can come from, if attention were all.

Axes: D blocks, H heads, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.attention.patterns import Attention
from probe.attention.reading import Given, New, Query, quote_token, read_asked, same_reading
from probe.errors import ConfigError, DataError
from probe.model.asked import asked_seconds
from probe.model.heads import array, output_maps
from probe.model.lm import LM
from probe.model.text import text_ids
from probe.numbers import rate
from probe.plotting.notebook import Beside, Drawable, alone, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROLLOUT = r"\tilde A_l = \prod_{k \le l} \Big(\tfrac12 I + \tfrac12 \tfrac1H \sum_h \alpha^{kh}\Big)"


@torch.no_grad()
def value_norms(lm: LM, text: str | Sequence[int]) -> np.ndarray:
    """Return [D H T] |L h_s| of every head: pattern times these norms is value-weighted attention.

    See Kobayashi et al. (2020). The norms are taken before the norm that some architectures (Gemma 2) apply to the sum
    of the heads.
    """
    blocks = range(lm.bridge.cfg.n_layers)
    names = [f"blocks.{block}.attn.hook_v" for block in blocks]
    _, cache = lm.run_with_cache([text_ids(lm.tokenizer, text)], names)
    rows = []
    for block, name in zip(blocks, names, strict=True):
        out = output_maps(lm, block)
        v = cache[name][0].repeat_interleave(len(out) // cache[name].shape[2], dim=1)
        rows.append(array(torch.einsum("shk,hkd->hsd", v, out).norm(dim=-1)))
    return np.stack(rows)


def rollout(read: Attention | np.ndarray, residual: float = 0.5, value_norms: np.ndarray | None = None) -> np.ndarray:
    """Compute the [D T T] attention rollout: after each block, the share of every earlier token in each position.

    Rows sum to 1 (Abnar and Zuidema 2020). Each block keeps the share `residual` of a state unchanged and mixes the
    rest by the mean attention of its heads. The product of these matrices over the blocks tells where a state comes
    from, as if values and MLPs changed nothing.

    Args:
        read: attention, or its pattern [D H T T].
        residual: share of a state that passes a block unmixed, from 0 to 1; 0.5 in the paper.
        value_norms: [D H T] |L h_s| (`probe.attention.tracing.value_norms`): weights of heads and keys by what they
            write (pattern times norm, each row scaled to sum to 1); by default all count alike.

    Raises:
        ConfigError: the residual share is outside 0 to 1.
        DataError: the arrays have other shapes.
    """
    pattern = read.pattern if isinstance(read, Attention) else np.asarray(read)
    if isinstance(read, Attention) and read.first:
        raise DataError(
            f"The attention of {len(read.tokens):,} tokens was captured only from the last {pattern.shape[2]:,}, and a"
            " rollout needs all of it: capture a shorter prompt, or give a larger capture budget."
        )
    if pattern.ndim != 4 or pattern.shape[2] != pattern.shape[3]:
        raise DataError(f"A pattern has the axes blocks, heads, queries, keys; this one has shape {pattern.shape}.")
    if not 0 <= residual <= 1:
        raise ConfigError(f"The residual share is {residual}; expected 0 to 1 (the paper uses 0.5).")
    if value_norms is not None and value_norms.shape != pattern.shape[:3]:
        raise DataError(
            f"The value norms have the shape {value_norms.shape}; expected {pattern.shape[:3]}, as the pattern has."
        )
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
    """Return a table with one row per layer and pair on or below the diagonal: layer, position, source, share, ..."""
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


@dataclass(frozen=True)
class Rollout(Drawable):
    """Attention rollout of a text: tokens from which every state can come, layer by layer."""

    tokens: list[str]
    """[T] readable pieces of the text."""
    prompt_length: int
    """Number of tokens in the prompt; the model generated the rest."""
    shares: np.ndarray
    """[D T T] after each block, the share of every earlier token in each position; rows sum to 1."""

    def sentence(self, query: Query = None) -> str:
        """Name the tokens that the state of one position can come from most.

        Args:
            query: position, counted from 0; by default the last token of the prompt.
        """
        return Rollouts((self,), alone()).sentence(query)

    def figures(self, query: int | None = None) -> "dict[str, go.Figure]":
        """Draw the tokens that the state of one position can come from, layer by layer."""
        return Rollouts((self,), alone()).figures(query)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per layer and pair of tokens; see `rollout_table`."""
        return rollout_table(self.shares, self.tokens)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the shares of all pairs of tokens."""
        return {"rollout": self.table()}

    def lists(self, query: int | None = None) -> dict[str, pd.DataFrame]:
        """Return the tokens that the last state of one position can come from, largest share first."""
        return Rollouts((self,), alone()).lists(query)


class Rollouts(Beside[Rollout]):
    """Rollout of one model or several on one prompt."""

    notes = (
        "Rollout multiplies the mean attention of the heads through the layers, where half of each state passes"
        " unmixed (Abnar and Zuidema 2020). It ignores MLPs and the content of the values: it shows possible"
        " sources of a state, not its content.",
    )

    def _at(self, each: Rollout, query: int | None) -> int:
        return min(each.prompt_length - 1 if query is None else query, len(each.tokens) - 1)

    def sentence(self, query: int | None = None) -> str:
        """Name the tokens that the state of one position can come from most."""
        parts = []
        for look, each in zip(self.looks, self.results, strict=True):
            at = self._at(each, query)
            row = each.shares[-1, at].copy()
            own, row[at] = float(row[at]), 0.0
            source = int(row.argmax())
            parts.append(
                f"{rate(float(row[source]))} from {quote_token(each.tokens, source)} and {rate(own)} from itself"
                f" in {look.name}"
            )
        last = self.results[-1]
        token = quote_token(last.tokens, self._at(last, query))
        return f"By attention alone, the state after {token} has these largest sources: {'; '.join(parts)}."

    def figures(self, query: int | None = None) -> "dict[str, go.Figure]":
        """Draw the tokens that the state of one position can come from, layer by layer."""
        from probe.attention.head_figures import rollout_map

        charts = {}
        for index, (look, each) in enumerate(zip(self.looks, self.results, strict=True)):
            at = self._at(each, query)
            boundary = each.prompt_length if each.prompt_length < len(each.tokens) else None
            chart = rollout_map(each.shares[:, at], each.tokens, boundary=boundary)
            title = f"{look.name}: possible sources of the state after {quote_token(each.tokens, at)}"
            name = f"rollout-{index}" if index else "rollout"
            charts[name] = titled(chart, title, 130 + 26 * min(len(each.shares), 16))
        return charts

    def lists(self, query: int | None = None) -> dict[str, pd.DataFrame]:
        """Return the tokens that the last state of one position can come from, largest share first."""
        frames = []
        for look, each in zip(self.looks, self.results, strict=True):
            rows = each.table()
            own = rows[(rows["position"] == self._at(each, query)) & (rows["layer"] == len(each.shares) - 1)]
            frames.append(own.assign(model=look.name))
        joined = pd.concat(frames, ignore_index=True).sort_values("share", ascending=False, kind="stable")
        return {"Sources": joined[["model", "source", "source_token", "share"]].reset_index(drop=True)}


def rollout_seconds(lm: LM, weighted: bool, **asked: Any) -> float:
    """Estimate the seconds that a rollout takes; for the norms of the heads' output the prompt is read once more."""
    return asked_seconds(lm, passes=1 + weighted, **asked)


@analysis(
    "attention",
    title="Rollout",
    equations=(ROLLOUT,),
    seconds=rollout_seconds,
    key="att_rollout",
    beside=Rollouts,
    settle=same_reading,
    widths=((1, 1),),
    stored=False,
)
def attention_rollout(
    lm: LM,
    prompt: Asked,
    *,
    weighted: Annotated[bool, Input("Weight heads and keys by the norm of their output", key="att_weighted")] = False,
    chat: Chat = False,
    max_new_tokens: New = 0,
    given: Given = None,
) -> Rollout:
    r"""Trace attention through all layers, to the tokens that each state can come from.

    Attention rollout (Abnar and Zuidema 2020): each block keeps half of a state unchanged and mixes the rest by the
    mean attention of its heads; the product of these matrices tells where a state comes from, as if values and MLPs
    changed nothing. If weighted, heads and keys count by $|\alpha_{t,s} L h_s|$, and rows are scaled to sum to 1.

    Args:
        lm: the model.
        prompt: text or its token ids.
        weighted: weight heads and keys by what they write instead of equally.
        chat: send the prompt as a user's message in the model's chat template.
        max_new_tokens: maximum number of tokens that the model generates greedily.
        given: number of prompt tokens, if a model generated the rest of the tokens.

    Raises:
        DataError: the text is empty or longer than the context.
        ConfigError: a continuation was requested from a model with a scalar output.
    """
    read = read_asked(lm, prompt, chat, max_new_tokens, given)
    shares = rollout(read, value_norms=value_norms(lm, read.ids) if weighted else None)
    return Rollout(read.tokens, read.prompt_length, shares)
