"""Attention over long texts: statistics of every head, computed one block of queries at a time.

    seen = attention_statistics(lm, text) # entropy, distance, sink, lag profile, top sources seen.table().nlargest(5,
    "previous") # one row per head

The patterns [T T] of all heads are never stored: 30 layers of 9 heads on 4,096 tokens would need 18 GB.

Axes: D layers with attention, H heads, T tokens, b queries of a block, S keys that the block can see, k sources, K + 1
lags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.attention.reading import ShownHead, argmax, find_head, parse_head, same_text, shared_ids
from probe.attention.streaming import stream_weights
from probe.errors import ConfigError, DataError, ModelError
from probe.model.asked import asked_ids
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import pieces
from probe.numbers import file_size, rate
from probe.plotting.notebook import Beside, Drawable, Look, alone, clickable, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

Statistic = Literal["entropy", "distance", "sink", "previous", "itself"]
"""Statistics known for every head and query."""
LABELS = {
    "entropy": "entropy",
    "distance": "distance back",
    "sink": "on the first token",
    "previous": "on the token before",
    "itself": "on itself",
}
"""Labels of the statistics."""
UNITS = {"entropy": "nats", "distance": "tokens", "sink": "share", "previous": "share", "itself": "share"}
Shown = Annotated[Statistic, Input("Statistic", key="att_statistic", labels=LABELS)]
"""Statistic to draw."""
STREAMED = 2
"""Time per token in blocks, with statistics, divided by that in a short text."""
LEAST = 0.05
"""Weight below which a source is not drawn."""
HEIGHT = 330
"""Height of the curves in pixels."""


@dataclass(frozen=True)
class AttentionStatistics(Drawable):
    """Attention statistics of every head of a model on one text.

    Means are over the queries after the first, which sees only itself. `weight` is the attention weight alpha_{t,s} of
    query t on key s (E4); without learned sinks a query's weights sum to 1.
    """

    tokens: list[str]
    """[T] readable pieces of the text."""
    ids: list[int]
    """[T] token ids."""
    layers: list[int]
    """[D] indices of the layers with attention; hybrid models have other layers between them."""
    entropy: np.ndarray
    """[D, H, T] entropy of each query's weights in nats."""
    distance: np.ndarray
    """[D, H, T] mean distance back, sum_s alpha_{t,s} (t - s), in tokens."""
    sink: np.ndarray
    """[D, H, T] weight on the first token."""
    previous: np.ndarray
    """[D, H, T] weight on the token before; 0 for the first query."""
    itself: np.ndarray
    """[D, H, T] weight on the query's own token."""
    sums: np.ndarray
    """[D, H, T] sum of the weights: 1 up to rounding, less where the architecture has learned sinks."""
    top_keys: np.ndarray
    """[D, H, T, k] positions of the keys with the largest weights, largest first; -1 where fewer keys get any weight.
    """
    top_weights: np.ndarray
    """[D, H, T, k] weights of these keys; 0 where the position is -1."""
    lag_profile: np.ndarray
    """[D, H, K+1] mean weight at lag t - s = 0 ... K, over the queries that have a key at this lag."""
    lag_tail: np.ndarray
    """[D, H] mean weight beyond lag K over all T queries."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def mean(self, statistic: str) -> np.ndarray:
        """Return the [D, H] means of a statistic over the queries after the first.

        Raises:
            ConfigError: the name is not one of `entropy`, `distance`, `sink`, `previous`, `itself`, `sums`.
        """
        if statistic not in (names := (*LABELS, "sums")):
            raise ConfigError(f"There is no statistic {statistic!r}: give one of {', '.join(names)}.")
        values: np.ndarray = getattr(self, statistic)
        return values[..., min(1, values.shape[-1] - 1) :].mean(-1, dtype=np.float64)

    def table(self) -> pd.DataFrame:
        """Return a table with one row per head: layer, head, name, the mean statistics, beyond (tail), sum_error."""
        means = {name: self.mean(name).ravel() for name in LABELS}
        errors = np.abs(self.sums - 1).max(-1).ravel()
        return pd.DataFrame(self._heads() | means | {"beyond": self.lag_tail.ravel(), "sum_error": errors})

    def lag_table(self) -> pd.DataFrame:
        """Return a table with one row per head and lag: layer, head, name, lag, weight."""
        lags = self.lag_profile.shape[-1]
        heads = {name: np.repeat(np.asarray(column), lags) for name, column in self._heads().items()}
        lag = np.tile(np.arange(lags), len(self.lag_tail.ravel()))
        return pd.DataFrame(heads | {"lag": lag, "weight": self.lag_profile.ravel()})

    def query_table(self, layer: int, head: int) -> pd.DataFrame:
        """Return a table with one row per query of one head: position, token and its statistics.

        Args:
            layer: index of the layer in the model, as in `layers`.
            head: index of the head, counted from 0.
        """
        at = self.row(layer, head)
        columns = {name: getattr(self, name)[at, head] for name in LABELS}
        return pd.DataFrame({"position": range(len(self.tokens)), "token": self.tokens} | columns)

    def source_table(self, layer: int, head: int) -> pd.DataFrame:
        """Return a table with one row per query of one head and rank: position, token, rank, key, source, weight.

        Args:
            layer: index of the layer in the model, as in `layers`.
            head: index of the head, counted from 0.
        """
        at = self.row(layer, head)
        keys, weights = self.top_keys[at, head], self.top_weights[at, head]
        position, rank = np.nonzero(keys >= 0)
        key = keys[position, rank]
        return pd.DataFrame(
            {
                "position": position,
                "token": [self.tokens[query] for query in position],
                "rank": rank,
                "key": key,
                "source": [self.tokens[source] for source in key],
                "weight": weights[position, rank],
            }
        )

    def row(self, layer: int, head: int) -> int:
        """Return the index of a layer on the first axis.

        Raises:
            DataError: the model has no such layer or head, or the layer has no attention.
        """
        heads = self.entropy.shape[1]
        if layer not in self.layers or not 0 <= head < heads:
            raise DataError(
                f"There is no head L{layer}H{head} here: give one of the layers {self.layers[0]} to {self.layers[-1]} "
                f"that attend, and one of the heads 0 to {heads - 1}."
            )
        return self.layers.index(layer)

    @property
    def heads(self) -> list[str]:
        """Names of the heads, `L0H0` first."""
        return list(self._heads()["name"])

    def place(self, head: str | None) -> tuple[int, int]:
        """Return the indices of a head on the first two axes; by default those of the head that looks back furthest.

        Raises:
            ConfigError: no head has this name.
        """
        if head is None:
            return argmax(self.mean("distance"))
        layer, number = find_head(head, self.heads)
        return self.row(layer, number), number

    def sentence(self) -> str:
        """Name the heads that look back furthest and attend most to the previous token, and the first token's share."""
        return LongTexts((self,), alone()).sentence()

    def figures(self, head: ShownHead = None, statistic: Shown = "distance") -> "dict[str, go.Figure]":
        """Draw one statistic of every head, and for one head its lags, its course along the text and its sources.

        Args:
            head: head shown in the curves; by default the head that looks back furthest.
            statistic: statistic drawn for every head and along the text.
        """
        return LongTexts((self,), alone()).figures(head, statistic)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the mean statistics of every head, and its mean weight at every lag."""
        return {"statistic": self.table(), "lags": self.lag_table()}

    def data(self, figure: str, head: str | None = None) -> pd.DataFrame:
        """Return the table behind a figure of one head."""
        return LongTexts((self,), alone()).data(figure, head)

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads, those that look back furthest first."""
        return LongTexts((self,), alone()).lists()

    def _heads(self) -> dict[str, Any]:
        """Return the columns that identify every head."""
        depth, heads = self.lag_tail.shape
        layer, head = np.repeat(self.layers, heads), np.tile(np.arange(heads), depth)
        return {
            "layer": layer,
            "head": head,
            "name": [f"L{above}H{beside}" for above, beside in zip(layer, head, strict=True)],
        }


class LongTexts(Beside[AttentionStatistics]):
    """Attention statistics of every head of one model or several on one text."""

    @property
    def hooked(self) -> Sequence[int]:
        """Token ids of the text if all models read the same ids, otherwise none."""
        return shared_ids(self.results)

    @property
    def heads(self) -> list[str]:
        """Heads of the last model."""
        return self.results[-1].heads

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on the memory that full patterns would need, and on what the curves omit."""
        last = self.results[-1]
        patterns = 4 * len(last.heads) * len(last.tokens) ** 2
        return (
            f"All patterns of these {len(last.tokens):,} tokens would take {file_size(patterns)}. None is stored:"
            " the text was read in blocks of queries.",
            "The distance of a layer is the mean over its heads; beyond lag 32, neighbouring lags are averaged."
            f" For every query the strongest {last.top_keys.shape[-1]} sources are stored; weights below {LEAST:g}"
            " are left out.",
        )

    def sentence(self) -> str:
        """Name the heads that look back furthest and attend most to the previous token, and the first token's share."""
        if len(self.results[-1].tokens) == 1:
            return "One token sees only itself: give a longer text."
        parts = []
        for look, each in self._pairs():
            previous, sink, distance = (each.mean(name) for name in ("previous", "sink", "distance"))
            near, far = argmax(previous), argmax(distance)
            names = np.reshape(each.heads, distance.shape)
            parts.append(
                f"in {look.name}, {names[far]} looks back furthest ({distance[far]:,.0f} tokens on average), "
                f"{names[near]} attends most to the token before ({rate(float(previous[near]))}), and the first token "
                f"receives {rate(float(sink.mean()))} of all attention"
            )
        return f"Over {len(self.results[-1].tokens):,} tokens, {'; '.join(parts)}."

    def figures(self, head: str | None = None, statistic: Statistic = "distance") -> "dict[str, go.Figure]":
        """Draw one statistic of every head, and for one head its lags, its course along the text and its sources."""
        from probe.attention.head_figures import head_grids, lag_curves, lag_profiles, query_statistic, top_sources

        label, unit, last, model = LABELS[statistic], UNITS[statistic], self.results[-1], self.looks[-1].name
        name, place = self._head(head), last.place(head)
        whole = [(look.name, _every_layer(each, statistic)) for look, each in self._pairs()]
        signs = [False] * len(whole)
        if len(whole) == 2 and whole[0][1].shape == whole[1][1].shape:
            whole.append(("difference", whole[1][1] - whole[0][1]))
            signs.append(True)
        grid = head_grids(
            whole, f"{label}<br>{unit}", signed=signs, chosen=parse_head(name), digits=1 if unit == "tokens" else 2
        )
        own = [(look, each, each.place(name)) for look, each in self._pairs() if name in each.heads]
        lags = lag_curves(
            [(look.name, each.lag_profile[at]) for look, each, at in own], colours=[look.colour for look, *_ in own]
        )
        tails = ", ".join(f"{look.name} {rate(float(each.lag_tail[at]))}" for look, each, at in own)
        alike = [one for one in own if same_text(one[1], last)]
        along = query_statistic(
            [(look.name, getattr(each, statistic)[at]) for look, each, at in alike],
            last.tokens,
            f"{label} ({unit})",
            colours=[look.colour for look, *_ in alike],
        )
        sources = top_sources(last.top_keys[place], last.top_weights[place], last.tokens, least=LEAST)
        every = f"{'Entropy' if statistic == 'entropy' else f'Attention {label}'} of every head"
        beyond = f"How far back {name} looks (beyond lag {last.lag_profile.shape[-1] - 1}: {tails})"
        return {
            "statistic": titled(clickable(grid, head="customdata"), every),
            "lags": titled(lags, beyond, HEIGHT),
            "layers": titled(
                lag_profiles(last.lag_profile, last.layers), f"How far back the layers of {model} look", HEIGHT
            ),
            "along": titled(along, f"{name} along the text: {label}", HEIGHT),
            "sources": titled(sources, f"Strongest sources of {name} in {model}", HEIGHT),
        }

    def data(self, figure: str, head: str | None = None) -> pd.DataFrame:
        """Return the table behind a figure: all heads, all lags, or one head."""
        name = self._head(head)
        if figure == "sources":
            return self.results[-1].source_table(*parse_head(name))
        if figure == "along":
            own = [(look, each) for look, each in self._pairs() if name in each.heads]
            tables = [each.query_table(*parse_head(name)).assign(model=look.name) for look, each in own]
            return pd.concat(tables, ignore_index=True)
        table = self.tables()["statistic" if figure == "statistic" else "lags"]
        return table[table["name"] == name].reset_index(drop=True) if figure == "lags" else table

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads, those that look back furthest first."""
        table = self.tables()["statistic"].drop(columns=["layer", "head", "sum_error"])
        lags = self.results[-1].lag_profile.shape[-1] - 1
        names = {each: f"{LABELS[each]}, {UNITS[each]}" for each in LABELS} | {"name": "head"}
        names |= {"beyond": f"beyond lag {lags}, share"}
        table = table.sort_values("distance", ascending=False, kind="stable", ignore_index=True)
        return {"Heads": table.rename(columns=names)}

    def _pairs(self) -> list[tuple[Look, AttentionStatistics]]:
        return list(zip(self.looks, self.results, strict=True))

    def _head(self, head: str | None) -> str:
        """Return the name of the head shown in the curves: by default the last model's that looks back furthest."""
        last = self.results[-1]
        return str(np.reshape(last.heads, last.lag_tail.shape)[last.place(head)])


def _every_layer(seen: AttentionStatistics, statistic: Statistic) -> np.ndarray:
    """Return [L H] means of a statistic for every layer up to the last with attention; NaN for layers without."""
    values = seen.mean(statistic)
    whole = np.full((seen.layers[-1] + 1, values.shape[1]), np.nan)
    whole[seen.layers] = values
    return whole


def streaming_seconds(lm: LM, prompt: str | Sequence[int], chat: bool = False, **rest: Any) -> float:
    """Estimate the seconds that the statistics of a text take."""
    return STREAMED * seconds_a_token(lm) * len(asked_ids(lm, prompt, chat))


@analysis(
    "attention",
    title="Long texts",
    equations=(
        r"H_t = -\sum_{s \le t} \alpha_{t,s} \log \alpha_{t,s}",
        r"d_t = \sum_{s \le t} \alpha_{t,s}\,(t - s)",
        r"\bar\alpha_k = \mathrm{mean}_t\; \alpha_{t,t-k}",
    ),
    seconds=streaming_seconds,
    key="att_long",
    beside=LongTexts,
    widths=((1,), (1, 1), (1, 1)),
)
@torch.no_grad()
def attention_statistics(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    block: Annotated[int, Input("Queries at a time", advanced=True)] = 64,
    top: Annotated[int, Input("Sources of a query", advanced=True)] = 4,
    lags: Annotated[int | None, Input("Longest lag", advanced=True)] = 128,
    tick: Tick = ignore,
) -> AttentionStatistics:
    """Compute attention statistics of every head on a text of any length, without storing its patterns.

    The statistics of every head and query are the entropy, the distance back, and the shares of weight on the first
    token, on the token before and on the query's own token. They are computed one block of queries at a time from the
    weights of the architecture's own eager kernel, so grouped heads, windows, soft caps and learned sinks are included.
    A head's numbers are means over the queries after the first, which sees only itself. The lag profile is the mean
    weight at each distance back, over the queries that have a token at this distance. No logits are computed. In
    addition to the model, memory holds a few [H block T] tensors and the arrays of the result.

    Args:
        lm: the model; it is not changed.
        prompt: text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        block: number of queries in memory at a time; on one core 64 is faster than 256, since it fits the cache.
        top: number of sources kept for each query.
        lags: longest lag of the profile; all lags if None.
        tick: function called with the share of the work done.

    Raises:
        DataError: the text has no tokens or is longer than the model's context.
        ConfigError: a number is not positive, or hooks are attached, which would have no effect here.
        ModelError: the architecture's attention cannot be read in blocks.
    """
    for name, number in (("block", block), ("top", top), ("lags", 1 if lags is None else lags)):
        if number < 1:
            raise ConfigError(f"{name} of the attention statistics is {number}; expected a positive number.")
    ids = asked_ids(lm, prompt, chat)
    depth = lm.model.config.get_text_config(decoder=True).num_hidden_layers
    reader = _Reader(len(ids), top, len(ids) if lags is None else lags, depth, tick)
    layers = stream_weights(lm, ids, block, reader.add)
    return AttentionStatistics(tokens=pieces(lm.tokenizer, ids), ids=ids, layers=layers, **reader.result())


class _Reader:
    """Accumulator that receives the attention blocks of one forward pass and keeps their statistics."""

    def __init__(self, length: int, top: int, lags: int, depth: int, tick: Tick) -> None:
        self.length, self.top, self.lags, self.depth, self.tick = length, top, min(lags, length - 1), depth, tick
        self.layers: list[dict[str, np.ndarray]] = []

    def add(self, place: int, weights: Float[Tensor, "H b S"], first: int, low: int) -> None:
        """Add the next block of attention weights (see `probe.attention.streaming.Receive`)."""
        heads, count, keys = weights.shape
        if place == len(self.layers):
            self.layers.append(self._empty(heads))
        layer, rows = self.layers[place], slice(first, first + count)
        at = torch.arange(first, first + count, device=weights.device)
        offsets = torch.arange(low - first, low - first + keys, device=weights.device, dtype=weights.dtype)
        # Distances are summed from the block's first query on: counted from the text's first token, single precision
        # would lose a short distance far back in a long text.
        sums, places = (weights @ torch.stack([torch.ones_like(offsets), offsets], 1)).unbind(-1)
        column = at[:, None] - torch.arange(self.lags + 1, device=weights.device) - low
        inside = (column >= 0) & (column < keys)
        recent = weights.gather(-1, column.clamp(0, keys - 1).expand(heads, -1, -1)) * inside
        best = weights.topk(min(self.top, keys), -1)
        key_indices = (best.indices + low).masked_fill(best.values == 0, -1)
        values = {
            "entropy": torch.special.entr(weights).sum(-1),
            "distance": (at - first) * sums - places,
            "sums": sums,
            "itself": recent[..., 0],
        }
        values |= {"previous": recent[..., 1]} if self.lags else {}
        values |= {"sink": weights[..., 0]} if low == 0 else {}
        for name, value in values.items():
            layer[name][:, rows] = value.cpu().numpy()
        layer["top_keys"][:, rows, : key_indices.shape[-1]] = key_indices.cpu().numpy()
        layer["top_weights"][:, rows, : key_indices.shape[-1]] = best.values.cpu().numpy()
        layer["lag_sums"] += recent.sum(1, dtype=torch.float64).cpu().numpy()
        self.tick(min(1.0, (place + (first + count) / self.length) / self.depth))

    def result(self) -> dict[str, np.ndarray]:
        """Return the arrays of `AttentionStatistics`."""
        arrays = {name: np.stack([layer[name] for layer in self.layers]) for name in self.layers[0]}
        lag_sums = arrays.pop("lag_sums")
        whole = arrays["sums"].sum(-1, dtype=np.float64)
        return arrays | {
            "lag_profile": lag_sums / (self.length - np.arange(self.lags + 1)),
            "lag_tail": ((whole - lag_sums.sum(-1)) / self.length).clip(min=0),
        }

    def _empty(self, heads: int) -> dict[str, np.ndarray]:
        """Allocate arrays for the next layer."""
        others = {len(layer["sink"]) for layer in self.layers[:1]} - {heads}
        if others:
            raise ModelError(
                f"Some layers of this model have {others.pop()} heads and others {heads}, and the statistics need"
                " equal numbers: use another model."
            )
        names = ("entropy", "distance", "sink", "previous", "itself", "sums")
        return {name: np.zeros((heads, self.length), np.float32) for name in names} | {
            "top_keys": np.full((heads, self.length, self.top), -1, np.int32),
            "top_weights": np.zeros((heads, self.length, self.top), np.float32),
            "lag_sums": np.zeros((heads, self.lags + 1)),
        }
