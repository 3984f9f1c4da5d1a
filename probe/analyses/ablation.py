"""Ablation: what the model does without a part of it (zero, mean or resampled activations).

Zero puts nothing in the place of an activation, which takes the model off the states that it knows. Mean puts the
average over reference texts there, resample what the place holds on another text (Chan et al. 2022, causal scrubbing;
Wang et al. 2022 for means). The effect is the target with the ablation minus without.

Axes: D blocks, H heads, T tokens, n draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probe.analyses.controls import edits
from probe.analyses.first_order import estimates
from probe.analyses.sites import Activations, Kind, activations, grid, hooks_of, layers_of, sweep
from probe.analyses.targets import Target
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.ticks import Tick, ignore

Mode = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Ablation:
    """The effect of ablating each site of a grid."""

    kind: Kind
    """What was ablated."""
    mode: Mode
    """What came in its place."""
    target: Target
    """What is measured."""
    tokens: list[str]
    """[T] the text."""
    layers: list[int]
    """Rows: blocks; -1 is the embedding."""
    position: int | None
    """The token at which heads were ablated, None for all; other kinds have tokens as columns."""
    value: float
    """The target without ablation in nats."""
    draws: np.ndarray
    """[rows columns n] the target with each site ablated, for each draw of the source (one unless resampled)."""
    exact: bool = True
    """Whether each site was run, or estimated from the gradient."""

    @property
    def effects(self) -> np.ndarray:
        """[rows columns] target with the ablation minus without, averaged over draws, in nats."""
        return self.draws.mean(-1) - self.value

    def table(self) -> pd.DataFrame:
        """One row a site: layer, head or position and token, value, effect, and the spread over draws."""
        frame = grid_table(self.kind, self.layers, self.tokens, {"value": self.draws.mean(-1), "effect": self.effects})
        return frame.assign(sd=self.draws.std(-1).ravel(), mode=self.mode, exact=self.exact)


def grid_table(kind: Kind, layers: Sequence[int], tokens: Sequence[str], values: dict[str, np.ndarray]) -> pd.DataFrame:
    """A tidy table of arrays [rows columns] over a grid of sites."""
    row, column = (axis.ravel().tolist() for axis in np.indices(next(iter(values.values())).shape))
    frame = pd.DataFrame({"kind": kind, "layer": [layers[at] for at in row]})
    if kind == "head":
        frame["head"] = column
    else:
        frame["position"] = column
        frame["token"] = [tokens[at] for at in column]
    return frame.assign(**{name: array.ravel() for name, array in values.items()})


def ablate(
    lm: LM,
    text: str | Sequence[int],
    target: Target,
    kind: Kind = "head",
    mode: Mode = "mean",
    reference: "Sequence[str | Sequence[int]] | Means" = (),
    position: int | None = None,
    draws: int = 8,
    seed: int = 0,
    exact: bool = True,
    tick: Tick = ignore,
) -> Ablation:
    """Ablate every site of a kind, each alone.

    Args:
        lm: the model.
        text: a text or its ids.
        target: what is measured.
        kind: heads (layer by head), or residual stream, attention and feed-forward outputs (layer by token).
        mode: what comes in place of an activation (see `sources`).
        reference: texts for mean and resample; for mean also what `means` made of them.
        position: the token of heads; None ablates them at all.
        draws: n, for resample.
        seed: of resampling.
        exact: run every site; else estimate all of them from one backward pass (`first_order.estimates`).
        tick: progress.

    Raises:
        ConfigError: an unknown mode or kind.
        DataError: no reference texts where the mode needs them.
    """
    ids = text_ids(lm.tokenizer, text)
    found = sources(lm, ids, hooks_of(lm, [kind]), mode, reference, draws, seed)
    if not exact:
        value, effects = estimates(lm, ids, found, target, [kind], position)
        made = (value + effects[kind])[..., None]
        return Ablation(
            kind, mode, target, pieces(lm.tokenizer, ids), list(layers_of(lm, kind)), position, value, made, exact=False
        )
    sites = grid(lm, kind, len(ids), position)
    rows = [edits([site], source) for row in sites for site in row for source in found]
    read = sweep(lm, ids, [[], *rows], target, tick=tick).values.double().numpy()
    return Ablation(
        kind=kind,
        mode=mode,
        target=target,
        tokens=pieces(lm.tokenizer, ids),
        layers=[row[0].layer for row in sites],
        position=position,
        value=float(read[0]),
        draws=read[1:].reshape(len(sites), len(sites[0]), len(found)),
    )


@dataclass(frozen=True)
class Means:
    """What the mean ablation puts in, apart from the text that it is put into."""

    first: Activations
    """Mean activation at the first tokens of the reference texts, by hook point."""
    rest: Activations
    """Mean activation at all their other tokens."""


@torch.no_grad()
def means(lm: LM, reference: Sequence[str | Sequence[int]], names: Sequence[str]) -> Means:
    """The mean activations of reference texts, to be used for many texts.

    Raises:
        DataError: no reference text of at least two tokens.
    """
    texts = _usable(lm, reference, "mean")
    first: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for text in texts:
        for name, tensor in activations(lm, text, names).items():
            first[name] = first.get(name, 0) + tensor[0].float()
            rest[name] = rest.get(name, 0) + tensor[1:].float().sum(0)
    count = sum(len(text) - 1 for text in texts)
    return Means(
        {name: total / len(texts) for name, total in first.items()},
        {name: total / count for name, total in rest.items()},
    )


@torch.no_grad()
def sources(
    lm: LM,
    ids: Sequence[int],
    names: Sequence[str],
    mode: Mode,
    reference: Sequence[str | Sequence[int]] | Means = (),
    draws: int = 8,
    seed: int = 0,
) -> list[Activations]:
    """What comes in place of the activations of a text: one source, or `draws` of them for resample.

    Zero: nothing. Mean: the average over the tokens of the reference texts; first tokens are averaged apart and stand
    for the first token only, because many models park attention on it with activations unlike all others. Resample:
    each draw takes one reference text; token t receives that text's activation at t, or where it is shorter, at a
    random token of it other than its first.

    Args:
        lm: the model.
        ids: [T] the text.
        names: hook points.
        mode: zero, mean or resample.
        reference: other texts, or for mean what `means` made of them.
        draws: how many, for resample.
        seed: of resampling.

    Raises:
        ConfigError: an unknown mode, or no draw.
        DataError: no reference text of at least two tokens where one is needed.
    """
    if mode not in get_args(Mode):
        raise ConfigError(f"The ablation {mode!r} is unknown: give one of {', '.join(get_args(Mode))}.")
    own = activations(lm, ids, names)
    if mode == "zero":
        return [{name: torch.zeros_like(tensor) for name, tensor in own.items()}]
    if mode == "mean":
        return [_filled(reference if isinstance(reference, Means) else means(lm, reference, names), own)]
    if isinstance(reference, Means):
        raise ConfigError("The ablation 'resample' got mean activations: give reference texts.")
    texts = _usable(lm, reference, mode)
    if draws < 1:
        raise ConfigError(f"Resampling with {draws} draws was asked for: give at least one.")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(texts), draws)
    states = {int(at): activations(lm, texts[at], names) for at in sorted(set(chosen.tolist()))}
    made: list[Activations] = []
    for at in chosen:
        length = len(texts[at])
        take = [t if t < length else int(rng.integers(1, length)) for t in range(len(ids))]
        made.append({name: tensor[take] for name, tensor in states[int(at)].items()})
    return made


def _usable(lm: LM, reference: Sequence[str | Sequence[int]], mode: Mode) -> list[list[int]]:
    """The reference texts of two tokens or more."""
    texts = [ids for text in reference if len(ids := text_ids(lm.tokenizer, text)) > 1]
    if not texts:
        raise DataError(f"The ablation {mode!r} got no reference text of two tokens or more: give some, or take zero.")
    return texts


def _filled(found: Means, own: Activations) -> Activations:
    """The means at every token of a text."""
    made = {}
    for name, tensor in own.items():
        filled = found.rest[name].expand(tensor.shape).clone()
        filled[0] = found.first[name]
        made[name] = filled.to(tensor.dtype)
    return made
