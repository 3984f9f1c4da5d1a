"""Activation patching and ablation of every site of a model, exact and estimated to first order.

Patching: two texts of equal length differ in a few tokens. An activation of one run is put into the other: the clean
activation in the corrupted run (denoising: is it enough to restore the answer?) or the reverse (noising: is it
needed?). The target is put on a scale where the corrupted run is 0 and the clean run 1 (Meng et al. 2022; Heimersheim
and Nanda 2024).

Ablation: how the model behaves without a part. Mode `zero` replaces an activation by zero, which takes the model off
its usual distribution of activations. Mode `mean` replaces it by the average over reference texts, `resample` by the
activation on another text (Chan et al. 2022, causal scrubbing; Wang et al. 2022 for means). The effect is the target
with the ablation minus without.

Estimates (attribution patching, Nanda 2023; Syed et al. 2023) give the effects of all sites at once from one backward
pass in the run that is changed: gradient of the target times (other activation - own activation). They are exact only
for infinitesimal differences; if exact effects are known, `agreement` says how far to trust the estimates.

Axes: D blocks, H heads, T tokens, d width, n draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from probe.errors import ConfigError, DataError
from probe.interventions.controls import edits, normalise
from probe.interventions.sites import (
    Activations,
    Kind,
    activations,
    grid,
    hooks_of,
    layers_of,
    observe,
    require_token,
    sweep,
)
from probe.logits.targets import Target, value
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.plotting.notebook import Drawable
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Agreement(NamedTuple):
    """Agreement of estimated and exact effects in rank and value; NaN if either has no spread."""

    pearson: float
    spearman: float
    n: int
    """Number of sites."""


def estimates(
    lm: LM,
    ids: Sequence[int],
    sources: Sequence[Activations],
    target: Target,
    kinds: Sequence[Kind],
    position: int | None = None,
) -> tuple[float, dict[Kind, np.ndarray]]:
    """Estimate the effect of replacing the activation at each site of several kinds by that of a source.

    Args:
        lm: the model.
        ids: [T] token ids of the text that is run.
        sources: activations [T ...] of the hook points of these kinds; several are averaged.
        target: quantity to measure.
        kinds: kinds of sites.
        position: token of heads; None sums over all tokens.

    Returns:
        (target in nats, effects [rows columns] by kind, laid out as in `probe.interventions.sites.grid`).

    Raises:
        ConfigError: an unknown kind.
        DataError: a token outside of the text.
    """
    require_token(position, len(ids))
    base_value, own, slopes = gradients(lm, ids, hooks_of(lm, kinds), target)
    effects: dict[Kind, np.ndarray] = {}
    for kind in kinds:
        rows = []
        for name in hooks_of(lm, [kind]):
            other = torch.stack([source[name].double() for source in sources]).mean(0)
            effect = (slopes[name].double() * (other - own[name].double())).sum(-1)  # [T], or [T H] for heads
            rows.append(effect if kind != "head" else effect.sum(0) if position is None else effect[position])
        effects[kind] = torch.stack(rows).cpu().numpy()
    return base_value, effects


def gradients(
    lm: LM, ids: Sequence[int], names: Sequence[str], target: Target
) -> tuple[float, Mapping[str, Float[Tensor, "T ..."]], Mapping[str, Float[Tensor, "T ..."]]]:
    """Return the target, activations [T ...] and the target's gradient by each [T ...] at hook points of one text."""
    tensors: dict[str, Tensor] = {}
    start = "blocks.0.hook_resid_pre"

    def keeper(name: str) -> Any:
        def keep(tensor: Tensor, hook: Any) -> Tensor:
            # The hook's input may be a view outside the computation path; its output is on the path.
            tensors[name] = tensor.detach().clone().requires_grad_() if name == start else tensor.clone()
            return tensors[name]

        return keep

    with torch.enable_grad(), lm.hooks([(name, keeper(name)) for name in dict.fromkeys([start, *names])]):
        output = value(lm.logits([list(ids)]), target)[0]
        slopes = torch.autograd.grad(output, [tensors[name] for name in names])
    return (
        float(output.detach()),
        {name: tensors[name][0].detach() for name in names},
        {name: slope[0] for name, slope in zip(names, slopes, strict=True)},
    )


def agreement(exact: ArrayLike, estimate: ArrayLike) -> Agreement:
    """Return Pearson and Spearman correlation of exact and estimated effects over sites."""
    from scipy import stats

    a, b = np.ravel(exact), np.ravel(estimate)
    if a.size < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return Agreement(float("nan"), float("nan"), a.size)
    return Agreement(float(stats.pearsonr(a, b)[0]), float(stats.spearmanr(a, b)[0]), a.size)


Mode = Literal["zero", "mean", "resample"]


@dataclass(frozen=True)
class Ablation(Drawable):
    """Effect of ablating each site of a grid."""

    kind: Kind
    """Kind of the ablated sites."""
    mode: Mode
    """Mode of the replacement."""
    target: Target
    """Quantity that is measured."""
    tokens: list[str]
    """[T] readable tokens of the text."""
    layers: list[int]
    """Blocks of the rows; -1 is the embedding."""
    position: int | None
    """Token at which heads were ablated, None for all; other kinds have tokens as columns."""
    value: float
    """Target without ablation in nats."""
    draws: np.ndarray
    """[rows columns n] target with each site ablated, for each draw of the source (one draw unless resampled)."""
    exact: bool = True
    """Whether each site was run, rather than estimated from the gradient."""

    @property
    def effects(self) -> np.ndarray:
        """[rows columns] target with the ablation minus without, averaged over draws, in nats."""
        return self.draws.mean(-1) - self.value

    def table(self) -> pd.DataFrame:
        """Return one row per site: layer, head or position and token, value, effect, and the spread over draws."""
        frame = grid_table(self.kind, self.layers, self.tokens, {"value": self.draws.mean(-1), "effect": self.effects})
        return frame.assign(sd=self.draws.std(-1).ravel(), mode=self.mode, exact=self.exact)

    def figure(self) -> "go.Figure":
        """Draw the effect of every site in nats."""
        return grid_figure(self.kind, self.layers, self.tokens, self.effects, f"effect on<br>{self.target.name}, nats")


def grid_figure(
    kind: Kind, layers: Sequence[int], tokens: Sequence[str], values: np.ndarray, label: str
) -> "go.Figure":
    """Draw an array [rows columns] over a grid of sites as a heat map."""
    from probe.interventions.figures import effect_grid, head_labels

    columns = head_labels(values.shape[1]) if kind == "head" else tokens
    return effect_grid(values, layers, columns, label=label, axis="head" if kind == "head" else "token")


def grid_table(kind: Kind, layers: Sequence[int], tokens: Sequence[str], values: dict[str, np.ndarray]) -> pd.DataFrame:
    """Return a tidy table of arrays [rows columns] over a grid of sites."""
    row, column = (axis.ravel().tolist() for axis in np.indices(next(iter(values.values())).shape))
    frame = pd.DataFrame({"kind": kind, "layer": [layers[at] for at in row]})
    if kind == "head":
        frame["head"] = column
    else:
        frame["position"] = column
        frame["token"] = [tokens[at] for at in column]
    return frame.assign(**{name: array.ravel() for name, array in values.items()})


@dataclass(frozen=True)
class Filling:
    """Replacement of an activation by an ablation.

    Zero: zeros. Mean: the average over the tokens of the reference texts. First tokens are averaged separately and
    replace only the first token, because in many models it is an attention sink with unusual activations. Resample:
    each draw takes one reference text; token t receives that text's activation at t or, if the text is shorter, at a
    random token other than its first.
    """

    mode: Mode = "mean"
    """`zero`, `mean` or `resample`."""
    reference: "Sequence[str | Sequence[int]] | Means" = ()
    """Texts for mean and resample; for mean also the result of `means`."""
    draws: int = 8
    """Number of draws, for resample."""
    seed: int = 0
    """Random seed of resampling."""


def ablate(
    lm: LM,
    text: str | Sequence[int],
    target: Target,
    kind: Kind = "head",
    filling: Filling = Filling(),
    position: int | None = None,
    exact: bool = True,
    tick: Tick = ignore,
) -> Ablation:
    """Ablate every site of a kind, each alone.

    Args:
        lm: the model.
        text: a text or its ids.
        target: quantity to measure.
        kind: heads (layer by head), or residual stream, attention and feed-forward outputs (layer by token).
        filling: replacement of an activation.
        position: token of heads; None ablates them at all tokens.
        exact: run every site; otherwise estimate all effects from one backward pass (`estimates`).
        tick: progress.

    Raises:
        ConfigError: an unknown mode or kind.
        DataError: no reference texts where the mode needs them.
    """
    ids = target.text(text_ids(lm.tokenizer, text))
    replacements = sources(lm, ids, hooks_of(lm, [kind]), filling)
    if not exact:
        value, effects = estimates(lm, ids, replacements, target, [kind], position)
        sums = (value + effects[kind])[..., None]
        tokens, layers = pieces(lm.tokenizer, ids), list(layers_of(lm, kind))
        return Ablation(kind, filling.mode, target, tokens, layers, position, value, sums, exact=False)
    sites = grid(lm, kind, len(ids), position)
    rows = [edits([site], source) for row in sites for site in row for source in replacements]
    values = sweep(lm, ids, [[], *rows], target, tick=tick).values.double().numpy()
    return Ablation(
        kind=kind,
        mode=filling.mode,
        target=target,
        tokens=pieces(lm.tokenizer, ids),
        layers=[row[0].layer for row in sites],
        position=position,
        value=float(values[0]),
        draws=values[1:].reshape(len(sites), len(sites[0]), len(replacements)),
    )


@dataclass(frozen=True)
class Means:
    """Mean activations that replace those of any text."""

    first: Activations
    """Mean activation at the first tokens of the reference texts, by hook point."""
    rest: Activations
    """Mean activation at all their other tokens, by hook point."""


@torch.no_grad()
def means(lm: LM, reference: Sequence[str | Sequence[int]], names: Sequence[str]) -> Means:
    """Return the mean activations of reference texts, to be used for many texts.

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
def sources(lm: LM, ids: Sequence[int], names: Sequence[str], filling: Filling) -> list[Activations]:
    """Return activations that replace those of a text: one source, or `draws` sources for resample.

    Args:
        lm: the model.
        ids: [T] token ids of the text.
        names: hook points.
        filling: replacement of the activations.

    Raises:
        ConfigError: an unknown mode, or no draw.
        DataError: a reference text is needed, and none has at least two tokens.
    """
    mode, reference, draws = filling.mode, filling.reference, filling.draws
    if mode not in get_args(Mode):
        raise ConfigError(f"The ablation {mode!r} is unknown: give one of {', '.join(get_args(Mode))}.")
    own = activations(lm, ids, names)
    if mode == "zero":
        return [{name: torch.zeros_like(tensor) for name, tensor in own.items()}]
    if mode == "mean":
        return [_repeat_means(reference if isinstance(reference, Means) else means(lm, reference, names), own)]
    if isinstance(reference, Means):
        raise ConfigError("The ablation 'resample' got mean activations: give reference texts.")
    texts = _usable(lm, reference, mode)
    if draws < 1:
        raise ConfigError(f"draws is {draws}; expected 1 or more for resampling.")
    rng = np.random.default_rng(filling.seed)
    picks = rng.integers(0, len(texts), draws)
    states = {int(at): activations(lm, texts[at], names) for at in sorted(set(picks.tolist()))}
    fills: list[Activations] = []
    for at in picks:
        length = len(texts[at])
        positions = [t if t < length else int(rng.integers(1, length)) for t in range(len(ids))]
        fills.append({name: tensor[positions] for name, tensor in states[int(at)].items()})
    return fills


def _usable(lm: LM, reference: Sequence[str | Sequence[int]], mode: Mode) -> list[list[int]]:
    """Return the ids of the reference texts with two tokens or more."""
    texts = [ids for text in reference if len(ids := text_ids(lm.tokenizer, text)) > 1]
    if not texts:
        raise DataError(f"The ablation {mode!r} got no reference text of two tokens or more: give some, or use 'zero'.")
    return texts


def _repeat_means(averages: Means, own: Activations) -> Activations:
    """Repeat the mean activations for every token of a text."""
    fills = {}
    for name, tensor in own.items():
        fill = averages.rest[name].expand(tensor.shape).clone()
        fill[0] = averages.first[name]
        fills[name] = fill.to(tensor.dtype)
    return fills


Direction = Literal["denoise", "noise"]


@dataclass(frozen=True)
class PromptPair:
    """A clean and a corrupted text with equal numbers of tokens."""

    clean: list[int]
    """[T] token ids of the text whose answer is studied."""
    corrupted: list[int]
    """[T] token ids of the text that asks for another answer."""
    clean_tokens: list[str]
    """[T] readable tokens of the clean text."""
    corrupted_tokens: list[str]
    """[T] readable tokens of the corrupted text."""

    @property
    def differing(self) -> list[int]:
        """Return the positions, from 0, of the tokens in which the texts differ."""
        return [at for at, (a, b) in enumerate(zip(self.clean, self.corrupted, strict=True)) if a != b]

    def run(self, direction: Direction) -> tuple[list[int], list[int]]:
        """Return (text that is run and patched, text whose activations replace its own)."""
        if direction not in get_args(Direction):
            raise ConfigError(f"The direction {direction!r} is unknown: give denoise or noise.")
        return (self.corrupted, self.clean) if direction == "denoise" else (self.clean, self.corrupted)


@dataclass(frozen=True)
class Patching(Drawable):
    """Target with each site of a grid patched, exact or estimated."""

    kind: Kind
    """Kind of the patched sites."""
    direction: Direction
    """Direction: clean into corrupted (denoise), or the reverse (noise)."""
    exact: bool
    """Whether each site was run, rather than estimated from the gradient."""
    target: Target
    """Quantity that is measured."""
    tokens: list[str]
    """[T] readable tokens of the patched run."""
    layers: list[int]
    """Blocks of the rows; -1 is the embedding."""
    position: int | None
    """Token at which heads were patched, None for all; other kinds have tokens as columns."""
    clean: float
    """Target in the clean run in nats."""
    corrupted: float
    """Target in the corrupted run in nats."""
    values: np.ndarray
    """[rows columns] target after patching in nats."""

    @property
    def effects(self) -> np.ndarray:
        """[rows columns] target after patching minus that of the unpatched run, in nats."""
        return self.values - (self.corrupted if self.direction == "denoise" else self.clean)

    @property
    def normalised(self) -> np.ndarray:
        """[rows columns] target after patching, on a scale from the corrupted run (0) to the clean run (1)."""
        return normalise(self.values, self.corrupted, self.clean)

    @property
    def shares(self) -> np.ndarray:
        """[rows columns] position of the patched value between the patched run (0) and the other run (1)."""
        return self.normalised if self.direction == "denoise" else 1 - self.normalised

    def table(self) -> pd.DataFrame:
        """Return one row per site: layer, head or position and token, value, effect, normalised."""
        values = {"value": self.values, "effect": self.effects, "normalised": self.normalised}
        return grid_table(self.kind, self.layers, self.tokens, values).assign(
            direction=self.direction, exact=self.exact
        )

    def figure(self) -> "go.Figure":
        """Draw how far patching each site moved the target from the patched run (0) to the other run (1)."""
        return grid_figure(self.kind, self.layers, self.tokens, self.shares, "share restored")


def pair_of(lm: LM, clean: str | Sequence[int], corrupted: str | Sequence[int]) -> PromptPair:
    """Compare two texts token by token.

    Raises:
        DataError: they differ in their number of tokens, or not at all.
    """
    sides = [text_ids(lm.tokenizer, text) for text in (clean, corrupted)]
    lengths = [len(side) for side in sides]
    if lengths[0] != lengths[1]:
        raise DataError(
            f"The clean text has {lengths[0]} tokens and the corrupted one {lengths[1]}: replace words by words of"
            " as many tokens, so that each token has a counterpart."
        )
    if sides[0] == sides[1]:
        raise DataError("The clean and the corrupted text are the same: replace the word that decides the answer.")
    return PromptPair(sides[0], sides[1], pieces(lm.tokenizer, sides[0]), pieces(lm.tokenizer, sides[1]))


def with_shared(lm: LM, pair: PromptPair, target: Target) -> PromptPair:
    """Append to both texts the tokens with which all answers of a target begin."""
    return pair_of(lm, target.text(pair.clean), target.text(pair.corrupted)) if target.shared else pair


def patch(
    lm: LM,
    pair: PromptPair,
    target: Target,
    kind: Kind = "resid",
    direction: Direction = "denoise",
    position: int | None = None,
    tick: Tick = ignore,
) -> Patching:
    """Patch every site of a kind, each alone.

    Args:
        lm: the model.
        pair: clean and corrupted text.
        target: quantity to measure.
        kind: heads (layer by head), or residual stream, attention and feed-forward outputs (layer by token).
        direction: denoise (clean into corrupted) or noise.
        position: token of heads; None patches them at all tokens.
        tick: progress.

    Raises:
        ConfigError: an unknown direction, or a model without such sites.
    """
    pair = with_shared(lm, pair, target)
    own, other = pair.run(direction)
    logits, source = observe(lm, other, hooks_of(lm, [kind]))
    source_value, sites = float(value(logits, target)), grid(lm, kind, len(own), position)
    sweep_values = sweep(lm, own, [[], *(edits([site], source) for row in sites for site in row)], target, tick=tick)
    base_value, values = float(sweep_values.values[0]), sweep_values.values[1:].double().numpy()
    clean, corrupted = (source_value, base_value) if direction == "denoise" else (base_value, source_value)
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
    pair: PromptPair,
    target: Target,
    kinds: Sequence[Kind] = ("resid", "head", "mlp", "attn"),
    direction: Direction = "denoise",
    position: int | None = None,
) -> dict[Kind, Patching]:
    """Estimate the effect of `patch` for every site of several kinds from one backward pass (attribution patching).

    Args:
        lm: the model.
        pair: clean and corrupted text.
        target: quantity to measure.
        kinds: kinds of sites.
        direction: as in `patch`; the gradient is that of the run which is patched.
        position: token of heads; None sums over all tokens.

    Returns:
        By kind, with `values` = target of the patched run plus gradient times difference.
    """
    pair = with_shared(lm, pair, target)
    own, other = pair.run(direction)
    logits, source = observe(lm, other, hooks_of(lm, kinds))
    source_value = float(value(logits, target))
    base_value, effects = estimates(lm, own, [source], target, kinds, position)
    clean, corrupted = (source_value, base_value) if direction == "denoise" else (base_value, source_value)
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
            values=base_value + effects[kind],
        )
        for kind in kinds
    }
