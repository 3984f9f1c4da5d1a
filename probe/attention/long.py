"""Attention over long inputs: statistics of every head, from one block of queries after the other.

    seen = attention_statistics(lm, text)             # entropy, distance, sink, lag profile, top sources
    seen.table().nlargest(5, "previous")              # one row a head

A pattern [T T] of all heads is never held: 30 layers of 9 heads on 4,096 tokens would need 18 GB. transformers lets a
function stand in for the attention kernel. The one here calls the architecture's own eager kernel on `block` queries
at a time and hands their weights on, so grouped heads, windows, soft caps and learned sinks are as in the model. The
model itself stays as it is, since a second module tree over its parameters runs.

Axes: D layers that attend, H heads, G key heads, T tokens, b queries of a block, S keys that the block can see, k
sources, K + 1 lags, dh width of a head.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from probe.errors import ConfigError, DataError, ModelError
from probe.model.lm import LM
from probe.model.loading import twin
from probe.model.scoring import check_ids, check_lengths
from probe.model.text import arguments, pieces, text_ids
from probe.plotting.notebook import Drawable
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

KERNEL = "probe_blocks"
"""Name of the function that stands in for attention, as transformers knows it."""

Receive = Callable[[int, Float[Tensor, "H b S"], int, int], None]
"""Called with the layer's place among those that attend, weights in single precision, and the positions of the first
query and of the first key."""


@torch.no_grad()
def stream_weights(lm: LM, ids: Sequence[int], block: int, receive: Receive) -> list[int]:
    """Run one text and give `receive` every attention weight once, layer by layer, block by block.

    Keys that no query of the block can see are left out. No logits are computed.

    Args:
        lm: the model.
        ids: the text.
        block: queries at a time.
        receive: takes a block; an exception in it ends the run and is passed on.

    Returns:
        The numbers of the layers that attend, in order.

    Raises:
        DataError: a text without tokens or one longer than the model's context.
        ConfigError: hooks are attached, which would not act here.
        ModelError: the architecture's attention cannot be read in blocks.
    """
    check_lengths(lm.model, [ids], [])
    if lm._hook_depth:
        raise ConfigError("Attention in blocks runs on the plain model, where hooks do not act: leave `hooks` first.")
    body, length, tokens = _readable(lm), len(ids), torch.tensor([list(ids)])
    check_ids(tokens, len(lm.model.get_input_embeddings().weight))
    inputs = {
        "input_ids": tokens.to(lm.device),
        "attention_mask": torch.ones(1, length, dtype=torch.long, device=lm.device),
        "position_ids": torch.arange(length, device=lm.device)[None],
        "use_cache": False,
    }
    parameters, reader = arguments(body), _BlockReader(length, block, receive)
    with _reading(reader):
        body(**{name: value for name, value in inputs.items() if name in parameters})
    if not reader.layers:
        raise _unreadable(lm)
    numbers = [number for number in reader.layers if isinstance(number, int)]
    distinct = len(set(numbers)) == len(reader.layers)  # else a module without a number, or one that is used twice
    return numbers if distinct else list(range(len(reader.layers)))


class _BlockReader:
    """Who reads, and which layers came by."""

    def __init__(self, length: int, block: int, receive: Receive) -> None:
        self.length, self.block, self.receive = length, block, receive
        self.layers: list[Any] = []


_reader: ContextVar[_BlockReader] = ContextVar("reader")
"""The reader of this thread: the attention function is one for all."""


@contextmanager
def _reading(reader: _BlockReader) -> Iterator[None]:
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def _readable(lm: LM) -> Any:
    """Return the body of the model (no unembedding) as a separate module tree that attends through `_attention`."""
    AttentionInterface.register(KERNEL, _attention)
    AttentionMaskInterface.register(
        KERNEL, sdpa_mask
    )  # true or false for each pair, and nothing where it is just causal
    if not lm.model._can_set_attn_implementation():
        raise _unreadable(lm)
    own = twin(lm.model).eval()
    own.set_attn_implementation(KERNEL)
    return own.base_model


def _unreadable(lm: LM) -> ModelError:
    return ModelError(
        f"The attention of {type(lm.model).__name__} does not go through transformers' attention interface, so it "
        "cannot be read in blocks: take `lm.run_with_cache` on a short text, or another model."
    )


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T dh"],
    key: Float[Tensor, "1 G T dh"],
    value: Float[Tensor, "1 G T dv"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "1 T H dv"], None]:
    """Run the module's own eager kernel block after block, and give its weights to the reader."""
    reader, length, kernel = _reader.get(), query.shape[2], _kernel(module)
    if length != reader.length or key.shape[2] != length:
        raise ModelError(
            f"{type(module).__name__} attends from {length} to {key.shape[2]} places in a text of {reader.length} "
            "tokens, so its weights are not those between tokens: use another model."
        )
    causal, bias = options.get("is_causal"), options.pop("position_bias", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    reader.layers.append(getattr(module, "layer_idx", None))
    outputs = []
    for first in range(0, length, reader.block):
        rows = slice(first, min(first + reader.block, length))
        mask = _rows(attention_mask, rows, length, bool(causal), query)
        low, high = _span(mask)
        if bias is not None:
            options["position_bias"] = bias[..., rows if bias.shape[-2] > 1 else slice(None), low:high]
        output, weights = kernel(
            module, query[:, :, rows], key[:, :, low:high], value[:, :, low:high], mask[..., low:high], **options
        )
        reader.receive(len(reader.layers) - 1, weights[0].float(), first, low)
        outputs.append(output)
    return torch.cat(outputs, dim=1), None


def _rows(mask: Tensor | None, rows: slice, length: int, causal: bool, query: Tensor) -> Float[Tensor, "1 h b T"]:
    """Return what is added to the scores of a block of queries: 0, or the lowest number where the mask hides a key."""
    if mask is not None and mask.dtype != torch.bool:
        return mask[:, :, rows, :length]
    if mask is None:
        keys = torch.arange(length, device=query.device)
        visible: Bool[Tensor, "1 h b T"] = ((keys <= keys[rows, None]) | (not causal))[None, None]
    else:
        visible = mask[:, :, rows, :length]
    return torch.zeros_like(visible, dtype=query.dtype).masked_fill(~visible, torch.finfo(query.dtype).min)


def _span(mask: Float[Tensor, "1 h b T"]) -> tuple[int, int]:
    """Return the first key that a block of queries sees, and one past the last."""
    keys = (mask > torch.finfo(mask.dtype).min / 2).flatten(0, 2).any(0).nonzero()
    return int(keys[0]), int(keys[-1]) + 1


def _kernel(module: nn.Module) -> Callable[..., Any]:
    """Return the eager attention function of the file that defines the module."""
    forward: Any = inspect.unwrap(type(module).forward)
    kernel = forward.__globals__.get("eager_attention_forward")
    if kernel is None:
        raise ModelError(
            f"{type(module).__name__} has no eager attention function whose weights could be read: take another model."
        )
    return kernel


@dataclass(frozen=True)
class AttentionStatistics(Drawable):
    """What every head of a model does on one text. Means are over the queries after the first, which sees only itself.

    `weight` is attention weight alpha_{t,s} of query t on key s (E4); without learned sinks a query's weights sum to 1.
    """

    tokens: list[str]
    """[T] readable pieces of the text."""
    ids: list[int]
    """[T] their ids."""
    layers: list[int]
    """[D] numbers of the layers that attend; hybrid models have others between them."""
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
    """[D, H, T, k] positions of the keys with most weight, best first; -1 where fewer get any."""
    top_weights: np.ndarray
    """[D, H, T, k] their weights; 0 where there is none."""
    lag_profile: np.ndarray
    """[D, H, K+1] mean weight at lag t - s = 0 ... K over the queries that have a token so far back."""
    lag_tail: np.ndarray
    """[D, H] mean weight beyond lag K over all T queries."""

    @property
    def worst_sum(self) -> float:
        """The largest distance of a sum of weights from 1."""
        return float(np.abs(self.sums - 1).max())

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays hold."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

    def mean(self, statistic: str) -> np.ndarray:
        """[D, H] mean over the queries after the first of `entropy`, `distance`, `sink`, `previous`, `itself`, `sums`.

        Raises:
            ConfigError: another name.
        """
        if statistic not in (names := ("entropy", "distance", "sink", "previous", "itself", "sums")):
            raise ConfigError(f"There is no statistic {statistic!r}: give one of {', '.join(names)}.")
        values: np.ndarray = getattr(self, statistic)
        return values[..., min(1, values.shape[-1] - 1) :].mean(-1, dtype=np.float64)

    def table(self) -> pd.DataFrame:
        """One row a head: layer, head, name, entropy, distance, sink, previous, itself, beyond (tail), sum_error."""
        means = {name: self.mean(name).ravel() for name in ("entropy", "distance", "sink", "previous", "itself")}
        errors = np.abs(self.sums - 1).max(-1).ravel()
        return pd.DataFrame(self._heads() | means | {"beyond": self.lag_tail.ravel(), "sum_error": errors})

    def figure(self) -> "go.Figure":
        """Mean weight by distance back, one line a layer."""
        from probe.attention.head_figures import lag_profiles

        return lag_profiles(self.lag_profile, self.layers)

    def lag_table(self) -> pd.DataFrame:
        """One row for each head and lag: layer, head, name, lag, weight."""
        lags = self.lag_profile.shape[-1]
        heads = {name: np.repeat(np.asarray(column), lags) for name, column in self._heads().items()}
        lag = np.tile(np.arange(lags), len(self.lag_tail.ravel()))
        return pd.DataFrame(heads | {"lag": lag, "weight": self.lag_profile.ravel()})

    def query_table(self, layer: int, head: int) -> pd.DataFrame:
        """One row for each query of one head: position, token, entropy, distance, sink, previous, itself.

        Args:
            layer: its number in the model, as in `layers`.
            head: from 0.
        """
        at = self.row(layer, head)
        names = ("entropy", "distance", "sink", "previous", "itself")
        columns = {name: getattr(self, name)[at, head] for name in names}
        return pd.DataFrame({"position": range(len(self.tokens)), "token": self.tokens} | columns)

    def source_table(self, layer: int, head: int) -> pd.DataFrame:
        """One row for each query of one head and rank: position, token, rank, key, source, weight.

        Args:
            layer: its number in the model, as in `layers`.
            head: from 0.
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
        """Index of a layer on the first axis.

        Raises:
            DataError: the model has no such layer or head, or the layer does not attend.
        """
        heads = self.entropy.shape[1]
        if layer not in self.layers or not 0 <= head < heads:
            raise DataError(
                f"There is no head L{layer}H{head} here: give one of the layers {self.layers[0]} to {self.layers[-1]} "
                f"that attend, and one of the heads 0 to {heads - 1}."
            )
        return self.layers.index(layer)

    def _heads(self) -> dict[str, Any]:
        """Columns that name every head."""
        depth, heads = self.lag_tail.shape
        layer, head = np.repeat(self.layers, heads), np.tile(np.arange(heads), depth)
        return {
            "layer": layer,
            "head": head,
            "name": [f"L{above}H{beside}" for above, beside in zip(layer, head, strict=True)],
        }


@torch.no_grad()
def attention_statistics(
    lm: LM,
    text: str | Sequence[int],
    *,
    block: int = 64,
    top: int = 4,
    lags: int | None = 64,
    tick: Tick = ignore,
) -> AttentionStatistics:
    """Statistics of every head on one text (METRICS: attention as a nonlinear autoregression), of any length.

    The weights are those of the architecture's own eager kernel, so grouped heads, windows, soft caps and learned sinks
    are in them. No logits are computed. Memory beyond the model: some [H block T] tensors and the arrays of the result.

    Args:
        lm: the model; it stays as it is.
        text: a text or its token ids.
        block: queries that are in memory at a time; on one core 64 are faster than 256, since they fit its cache.
        top: sources that are kept for each query.
        lags: the longest lag of the profile; None takes all.
        tick: called with the share that is done.

    Raises:
        DataError: a text without tokens or one longer than the model's context.
        ConfigError: a number that is not positive, or hooks are attached, which would not act here.
        ModelError: the architecture's attention cannot be read in blocks.
    """
    for name, number in (("block", block), ("top", top), ("lags", 1 if lags is None else lags)):
        if number < 1:
            raise ConfigError(f"{name}={number} was given for attention statistics: give a positive number.")
    ids = text_ids(lm.tokenizer, text)
    depth = lm.model.config.get_text_config(decoder=True).num_hidden_layers
    reader = _Reader(len(ids), top, len(ids) if lags is None else lags, depth, tick)
    layers = stream_weights(lm, ids, block, reader.add)
    return AttentionStatistics(tokens=pieces(lm.tokenizer, ids), ids=ids, layers=layers, **reader.result())


class _Reader:
    """Takes the blocks of one forward pass as they come and keeps their statistics."""

    def __init__(self, length: int, top: int, lags: int, depth: int, tick: Tick) -> None:
        self.length, self.top, self.lags, self.depth, self.tick = length, top, min(lags, length - 1), depth, tick
        self.layers: list[dict[str, np.ndarray]] = []

    def add(self, place: int, weights: Float[Tensor, "H b S"], first: int, low: int) -> None:
        """Add the next block of attention weights (see `probe.attention.long.Receive`)."""
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
        """Arrays for the next layer."""
        others = {len(layer["sink"]) for layer in self.layers[:1]} - {heads}
        if others:
            raise ModelError(
                f"The layers of this model have {others.pop()} and {heads} heads and the statistics need one number: "
                "take another model."
            )
        names = ("entropy", "distance", "sink", "previous", "itself", "sums")
        return {name: np.zeros((heads, self.length), np.float32) for name in names} | {
            "top_keys": np.full((heads, self.length, self.top), -1, np.int32),
            "top_weights": np.zeros((heads, self.length, self.top), np.float32),
            "lag_sums": np.zeros((heads, self.lags + 1)),
        }
