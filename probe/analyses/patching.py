"""Activation patching, exact and by its first-order estimate.

Two texts of equal length differ in a few tokens. One run receives an activation of the other: the clean activation in
the corrupted run (denoising: is it enough to restore the answer?) or the reverse (noising: is it needed?). The target
is put on a scale where the corrupted run is 0 and the clean run 1 (Meng et al. 2022; Heimersheim and Nanda 2024).

Attribution patching (Nanda 2023; Syed et al. 2023) estimates all of these effects at once from one backward pass in
the run that is patched: effect = gradient of the target times (other activation - own activation). It is exact for
infinitesimal differences only, so its correlation with the exact effects is part of the result.

Axes: D blocks, H heads, T tokens, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from probe.analyses.ablation import grid_table
from probe.analyses.controls import edits, normalised
from probe.analyses.first_order import estimates
from probe.analyses.sites import Kind, grid, hooks_of, layers_of, observe, sweep
from probe.analyses.targets import Target, value
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.ticks import Tick, ignore

Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class Pair:
    """A clean and a corrupted text, token by token."""

    clean: list[int]
    """[T] ids of the text whose answer is studied."""
    corrupted: list[int]
    """[T] ids of the text that asks for another answer."""
    clean_tokens: list[str]
    """[T] readable pieces."""
    corrupted_tokens: list[str]
    """[T] readable pieces."""

    @property
    def differing(self) -> list[int]:
        """The tokens in which the texts differ, from 0."""
        return [at for at, (a, b) in enumerate(zip(self.clean, self.corrupted, strict=True)) if a != b]

    def run(self, direction: Direction) -> tuple[list[int], list[int]]:
        """(the text that is run and patched, the text whose activations come in)."""
        if direction not in get_args(Direction):
            raise ConfigError(f"The direction {direction!r} is unknown: give denoise or noise.")
        return (self.corrupted, self.clean) if direction == "denoise" else (self.clean, self.corrupted)


@dataclass(frozen=True)
class Patching:
    """The target with each site of a grid patched, exact or estimated."""

    kind: Kind
    """What was patched."""
    direction: Direction
    """Clean into corrupted (denoise), or the reverse (noise)."""
    exact: bool
    """Whether each site was run, or estimated from the gradient."""
    target: Target
    """What is measured."""
    tokens: list[str]
    """[T] the tokens of the run that was patched."""
    layers: list[int]
    """Rows: blocks; -1 is the embedding."""
    position: int | None
    """The token at which heads were patched, None for all; other kinds have tokens as columns."""
    clean: float
    """The target in the clean run in nats."""
    corrupted: float
    """The target in the corrupted run in nats."""
    values: np.ndarray
    """[rows columns] the target after patching in nats."""

    @property
    def effects(self) -> np.ndarray:
        """[rows columns] target after patching minus that of the run as it was, in nats."""
        return self.values - (self.corrupted if self.direction == "denoise" else self.clean)

    @property
    def normalised(self) -> np.ndarray:
        """[rows columns] the target after patching: 0 as in the corrupted run, 1 as in the clean run."""
        return normalised(self.values, self.corrupted, self.clean)

    @property
    def shares(self) -> np.ndarray:
        """[rows columns] how far patching went from the patched run (0) to the other one (1)."""
        return self.normalised if self.direction == "denoise" else 1 - self.normalised

    def table(self) -> pd.DataFrame:
        """One row a site: layer, head or position and token, value, effect, normalised."""
        values = {"value": self.values, "effect": self.effects, "normalised": self.normalised}
        return grid_table(self.kind, self.layers, self.tokens, values).assign(
            direction=self.direction, exact=self.exact
        )


def pair_of(lm: LM, clean: str | Sequence[int], corrupted: str | Sequence[int]) -> Pair:
    """Two texts token by token.

    Raises:
        DataError: they differ in their number of tokens, or not at all.
    """
    sides = [text_ids(lm.tokenizer, text) for text in (clean, corrupted)]
    lengths = [len(side) for side in sides]
    if lengths[0] != lengths[1]:
        raise DataError(
            f"The clean text has {lengths[0]} tokens and the corrupted one {lengths[1]}: exchange words for words of "
            "as many tokens, so that each token has a counterpart."
        )
    if sides[0] == sides[1]:
        raise DataError("The clean and the corrupted text are the same: exchange the word that decides the answer.")
    return Pair(sides[0], sides[1], pieces(lm.tokenizer, sides[0]), pieces(lm.tokenizer, sides[1]))


def patch(
    lm: LM,
    pair: Pair,
    target: Target,
    kind: Kind = "resid",
    direction: Direction = "denoise",
    position: int | None = None,
    tick: Tick = ignore,
) -> Patching:
    """Patch every site of a kind, each alone.

    Args:
        lm: the model.
        pair: the two texts.
        target: what is measured.
        kind: heads (layer by head), or residual stream, attention and feed-forward outputs (layer by token).
        direction: denoise (clean into corrupted) or noise.
        position: the token of heads; None patches them at all.
        tick: progress.

    Raises:
        ConfigError: an unknown direction, or a model without such sites.
    """
    own, other = pair.run(direction)
    logits, source = observe(lm, other, hooks_of(lm, [kind]))
    there, sites = float(value(logits, target)), grid(lm, kind, len(own), position)
    read = sweep(lm, own, [[], *(edits([site], source) for row in sites for site in row)], target, tick=tick)
    here, values = float(read.values[0]), read.values[1:].double().numpy()
    clean, corrupted = (there, here) if direction == "denoise" else (here, there)
    return Patching(
        kind=kind,
        direction=direction,
        exact=True,
        target=target,
        tokens=pair.corrupted_tokens if direction == "denoise" else pair.clean_tokens,
        layers=[row[0].layer for row in sites],
        position=position,
        clean=clean,
        corrupted=corrupted,
        values=values.reshape(len(sites), len(sites[0])),
    )


def attribute(
    lm: LM,
    pair: Pair,
    target: Target,
    kinds: Sequence[Kind] = ("resid", "head", "mlp", "attn"),
    direction: Direction = "denoise",
    position: int | None = None,
) -> dict[Kind, Patching]:
    """Attribution patching: the estimates of `patch` for every site of several kinds, from one backward pass.

    Args:
        lm: the model.
        pair: the two texts.
        target: what is measured.
        kinds: of the sites.
        direction: as in `patch`; the gradient is that of the run which is patched.
        position: the token of heads; None sums over all.

    Returns:
        By kind, with `values` = target of the patched run plus gradient times difference.
    """
    own, other = pair.run(direction)
    logits, source = observe(lm, other, hooks_of(lm, kinds))
    there = float(value(logits, target))
    here, effects = estimates(lm, own, [source], target, kinds, position)
    clean, corrupted = (there, here) if direction == "denoise" else (here, there)
    return {
        kind: Patching(
            kind=kind,
            direction=direction,
            exact=False,
            target=target,
            tokens=pair.corrupted_tokens if direction == "denoise" else pair.clean_tokens,
            layers=list(layers_of(lm, kind)),
            position=position,
            clean=clean,
            corrupted=corrupted,
            values=here + effects[kind],
        )
        for kind in kinds
    }
