"""Transplants: one part of the aligned model replaces that of the base, and the base's behaviour is measured again.

Which block, head or feed-forward part carries the change made by training? The weights of one part of the base become
those of the aligned model, all others stay, and the change of a metric is measured over the same items. (Activation
patching asks this for one forward pass; here the part acts at every token, including generated ones.)

Every part has two nulls. *Matched parts*: any part of the aligned model of the same size might have the same effect. So
the rows (for W_O, the columns) of all parts of a kind are pooled, matrix by matrix, and as many are drawn at random: a
part of the same composition and size that is scattered over the model. p is the share of N scattered parts, with (1 +
k) / (1 + N), that change the behaviour at least as much in the direction of the whole change; `p_holm` is corrected for
all parts of the kind. *Random directions*: any change of the same size and location might have the same effect. So the
rows and columns of each matrix of the part's change dW are permuted and their signs flipped, P dW Q with orthogonal P
and Q, which keeps the location, the norm and all singular values; `p_random` counts those with as large an effect in
size.

A part whose weights are equal in both models has an effect of exactly 0. The effects of single parts need not add up to
the whole change, since parts interact.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import probe.world
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.compare.behaviour import Behaviour, behaviour_of, pairs_input, seconds_once
from probe.compare.model_parts import PLURAL, ModelPart, PartPlace, list_parts, weights_of
from probe.compare.path import interpolate
from probe.compare.side_by_side import require_writers
from probe.compare.weights import model_names
from probe.compare.worlds import shared_world
from probe.errors import ConfigError
from probe.interventions.controls import DIRECTIONS
from probe.model.lm import LM
from probe.numbers import in_percent, in_unit, rate
from probe.plotting.notebook import Drawable, titled
from probe.stats import Interval
from probe.terms import DIFFERENCE, RATES, smallest_effect
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

EFFECT = (
    r"\mathrm{effect}(P) = B(\theta_{\mathrm{base}} + \Delta_P) - B(\theta_{\mathrm{base}}), \quad"
    r"\Delta_P = \theta_{\mathrm{aligned}} - \theta_{\mathrm{base}} \ \mathrm{in\ part\ } P,\ 0\ \mathrm{elsewhere}"
)
P_VALUE = r"p = \frac{1 + \#\{\mathrm{matched\ parts\ that\ do\ as\ much}\}}{1 + N}"
Kind = Literal["block", "attention", "head", "keys", "mlp"]
TITLES = {"block": "Blocks", "attention": "Attention", "head": "Heads", "keys": "Shared keys", "mlp": "MLPs"}
"""Labels of the kinds of parts on a page."""


class Sizes(NamedTuple):
    """Numbers of pairs and controls."""

    pairs: int
    matched: int
    """Number of scattered parts of each kind: all parts of the kind share them, so they cost little."""
    kinds: tuple[str, ...]


IN_A_WORLD, REAL = Sizes(40, 99, ("block", "head", "mlp")), Sizes(8, 29, ("block",))
"""Default sizes for small models of a world, and for other models: a model of 135 million parameters then takes
minutes.
"""


def usual(base: LM, aligned: LM) -> Sizes:
    """Return the default sizes for two models."""
    return REAL if probe.world.of(base) is None else IN_A_WORLD


MATCHED_PARTS = "matched parts"
LEVEL = 0.05
"""Significance level above which an effect is not reported."""


@dataclass(frozen=True)
class Transplants(Drawable):
    """Effects of each part of the aligned model in the base."""

    names: tuple[str, str]
    """Names of the base and of the aligned model."""
    title: str
    """Title of the behaviour."""
    unit: str
    """Unit of its values."""
    base: Interval
    """Behaviour of the base."""
    aligned: Interval
    """Behaviour of the aligned model, that is of the base with all parts replaced."""
    change: Interval
    """Change from base to aligned, over the same items."""
    parts: pd.DataFrame
    """Table with one row per part: `part`, `kind`, `block`, `head`, `parameters`, `norm` and `relative` (of the change
    of its weights), `value`, `effect` with `effect_low` and `effect_high` (95 %, over the same items), `share` of the
    whole change, `matched` (number of matched parts) with `matched_mean`, `matched_low`, `matched_high` (smallest and
    largest effect), `p` and `p_holm`; `random` (number of random directions), `random_low`, `random_high` and
    `p_random`.
    """
    controls: pd.DataFrame
    """Table with one row per part and control: `null` (matched parts, random directions), `kind`, `part`, `draw`,
    `effect`. Parts of the same shapes share the draws of their matched parts.
    """
    why_no_heads: str
    """Sentence on why there are no heads, if they were requested."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return a table with one row per part (`parts`), and one per part and control (`controls`)."""
        return {"transplants": self.parts, "transplant-controls": self.controls}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the parts with the largest effect first, formatted for reading."""
        rows = self.parts.assign(size=self.parts["effect"].abs()).sort_values("size", ascending=False, kind="stable")
        unit = DIFFERENCE if self.unit in RATES else self.unit
        columns = {
            "part": rows["part"],
            f"effect{f', {unit}' * (unit == 'nats')} [95 %]": [
                in_unit(unit, *ends, sign=True)
                for ends in zip(rows["effect"], rows["effect_low"], rows["effect_high"], strict=True)
            ],
            "of the change": [rate(share) for share in rows["share"]],
            "matched parts do": [_range(row, "matched", unit) for row in rows.to_dict("records")],
            "p": ["" if p != p else f"{p:.2g}" for p in rows["p"]],
            "p (Holm)": ["" if p != p else f"{p:.2g}" for p in rows["p_holm"]],
            "change of the weights": [in_percent(each) for each in rows["relative"]],
            "parameters": [f"{count:,}" for count in rows["parameters"]],
        }
        if rows["random"].any():
            columns["random directions do"] = [_range(row, "random", unit) for row in rows.to_dict("records")]
        return {"Parts": pd.DataFrame(columns).reset_index(drop=True)}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the effect of each part with its interval, and the effects of its controls."""
        from probe.compare.figures import transplant_points

        chart = transplant_points(self.parts, self.controls, self.change.value, self.unit, PLURAL)
        return {"transplants": titled(chart, f"{self.title} of {self.names[0]} with one part of {self.names[1]}")}

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on missing heads, and on p-values from too few matched parts."""
        hidden = [f"Heads are not shown: {self.why_no_heads}"] * bool(self.why_no_heads)
        matched, most = int(self.parts["matched"].max()), int(self.parts["kind"].value_counts().max())
        least = (
            f"With {matched} matched parts p is at least {1 / (1 + matched):.2g}, which is too large to correct for "
            f"{most} parts."
        )
        return (*hidden, *[least] * (most / (1 + matched) > LEVEL))

    def strongest(self, kind: str) -> pd.Series | None:
        """Return the part of a kind with the largest effect in size; None if none exceeds the smallest that counts."""
        least = smallest_effect(self.unit, [self.base.value, self.aligned.value])
        rows = self.parts[(self.parts["kind"] == kind) & (self.parts["effect"].abs() > least)]
        return None if rows.empty else rows.iloc[int(rows["effect"].abs().argmax())]

    def sentence(self) -> str:
        """State the finding in words."""
        base, aligned = self.names
        unit = DIFFERENCE if self.unit in RATES else self.unit
        suffix = " nats" if self.unit == "nats" else ""
        ends = [in_unit(self.unit, *each) + suffix for each in (self.base, self.aligned)]
        parts, alone = [f"{self.title} is {ends[0]} in {base} and {ends[1]} in {aligned}"], list[str]()
        for kind, rows in self.parts.groupby("kind", sort=False):
            row, several = self.strongest(str(kind)), f"{len(rows)} {PLURAL[str(kind)]}"
            if row is None:
                parts.append(f"none of {several} has an effect larger than the smallest that counts")
                continue
            effect = in_unit(unit, row["effect"], row["effect_low"], row["effect_high"], sign=True) + suffix
            share = f", {rate(row['share'])}" if row["share"] == row["share"] else ""
            text = f"{row['part']} {'' if alone else 'has the largest effect '}of {several} ({effect}{share}"
            if row["matched"]:
                text += f", scattered parts of the same size {_between(row, 'matched', unit)}{suffix}"
                if len(rows) / (1 + row["matched"]) <= LEVEL:  # the smallest possible p
                    text += f", corrected p = {row['p_holm']:.2g}"
            if row["random"]:
                text += f", random changes of the same size at most {_size(row, unit)}{suffix}"
            alone.append(f"{text})")
        if alone:
            parts.insert(1, f"transplanted alone into {base}, {', '.join(alone)}")
        return "; ".join(parts) + "."


def transplant_seconds(
    base: LM,
    aligned: LM,
    behaviour: Behaviour | str | Path | None,
    kinds: Sequence[str],
    matched: int,
    random: int,
    n: int,
    seed: int,
) -> float:
    """Estimate the seconds that the transplants take, from a timing of the pairs."""
    config = base.bridge.cfg
    keys = getattr(config, "n_key_value_heads", None) or config.n_heads
    each = {"head": config.n_heads, "keys": keys if keys < config.n_heads else 0}
    parts = sum(config.n_layers * each.get(kind, 1) for kind in kinds)
    require_writers(base, aligned)
    return seconds_once(base, behaviour, n) * (parts * (1 + random) + matched * len(kinds))


@analysis(
    "compare",
    title="Transplants",
    equations=(EFFECT, P_VALUE),
    seconds=transplant_seconds,
    key="parts",
)
@torch.no_grad()
def transplant_parts(
    base: LM,
    aligned: LM,
    behaviour: Annotated[
        Behaviour | str | Path | None,
        pairs_input("parts_file"),
    ] = None,
    kinds: Annotated[
        Sequence[str] | None,
        Input("Parts", first=lambda *lms: usual(*lms).kinds, labels=TITLES, type=tuple[Kind, ...] | None),
    ] = None,
    matched: Annotated[int | None, Input(first=lambda *lms: usual(*lms).matched, advanced=True)] = None,
    random: Annotated[int, Input("Random directions")] = 0,
    seed: Annotated[int, Input(advanced=True)] = 0,
    tick: Tick = ignore,
    n: Annotated[int | None, Input("Pairs", first=lambda *lms: usual(*lms).pairs)] = None,
) -> Transplants:
    """Put each part of the aligned model into the base in turn, and measure the change of behaviour.

    The weights of one part of the base become those of the aligned model; all others stay. *Effect* is the change of
    the behaviour over the same pairs, with a 95 % interval (bootstrap over pairs). *Matched parts* are as many rows of
    the same matrices of the aligned model, drawn from all parts of the kind: a part of the same composition that is
    scattered over the model. p is one-sided, in the direction of the whole change; p (Holm) is corrected for all parts
    of the kind. *Random directions* are changes with the same location, norm and singular values. Single effects need
    not add up to the whole change. A head is its slices of the query and output matrices, with its keys and values
    unless heads share them. Neither model is changed. One copy of the base is, in single precision or wider, with the
    configuration of the aligned model; it is restored bit by bit after each part.

    Args:
        base: model that receives the parts.
        aligned: model that the parts are taken from, with the same architecture, sizes and tokens.
        behaviour: file of pairs (`prompt`, `chosen`, `rejected`) for which the preference for `chosen` is measured; by
            default that for a user's false claim over the truth. In Python also a `Behaviour`.
        kinds: kinds of parts: block, attention, head, keys (shared by heads), mlp; in Python all of
            `probe.compare.model_parts.KINDS`.
        matched: number of scattered parts for each kind; by default 99 in a world, 29 without one.
        random: number of random changes of the same size for each part; they take most of the time, and 15 suffice for
            a p-value.
        seed: seed of the controls and of the intervals.
        tick: function called with the share of the work done.
        n: largest number of pairs; by default 40 in a world, 8 without one.

    Raises:
        ConfigError: a kind is unknown, no part has one of the kinds, or a count is below 0.
        ProbeError: see `interpolate`; or the behaviour cannot use the models.
    """
    sizes = usual(base, aligned)
    matched, kinds = sizes.matched if matched is None else matched, sizes.kinds if kinds is None else kinds
    require_writers(base, aligned)
    if behaviour is None:
        shared_world(base, aligned, "pairs of answers")
    if matched < 0 or random < 0:
        raise ConfigError(f"matched={matched} and random={random}: give 0 or more controls.")
    work = interpolate(base, aligned, 0)
    work.ref = base.ref
    parts, why = list_parts(work, kinds)
    if not parts:
        raise ConfigError(
            f"The model has no part of the kinds {', '.join(kinds)}: give others, such as block."
            + (f" {why}" if why else "")
        )
    behaviour = behaviour_of(base, behaviour, n or sizes.pairs)
    here, before, after = (weights_of(lm) for lm in (work, base, aligned))
    first = behaviour.measure(work)

    def measure(places: Sequence[PartPlace], source: Callable[[PartPlace], Tensor]) -> pd.DataFrame:
        """Measure the items with other weights at some places, and restore the old ones."""
        try:
            for place in places:
                place.write(here, source(place))
            return behaviour.measure(work)
        finally:
            for place in places:
                place.write(here, place.read(before))

    last = measure([PartPlace(name) for name in here], partial(PartPlace.of, after))
    whole, rows, changed, draws, done = behaviour.change(last, first, seed), [], set[str](), [], 0
    families = _families(parts, here) if matched else []
    runs = len(parts) * (1 + random) + len(families) * matched
    for part in parts:
        norm, size = _norms(part, before, after)
        items = measure(part.places, partial(PartPlace.of, after)) if norm else first
        effect = behaviour.change(items, first, seed)
        rows.append(
            {"part": part.name, "kind": part.kind, "block": part.block, "head": part.head}
            | {"parameters": sum(place.read(here).numel() for place in part.places), "norm": norm}
            | {
                "relative": norm / size if size else float("inf") if norm else 0.0,
                "value": behaviour.value(items, seed).value,
            }
            | effect.row(name="effect")
            | {"share": effect.value / whole.value if whole.value else float("nan")}
        )
        changed |= {part.name} if norm else set()
        tick((done := done + 1) / runs)
    for number, family in enumerate(families):
        rng, moves = np.random.default_rng([seed, 0, number]), any(part.name in changed for part in family)
        for draw in range(matched):
            items = measure(scattered(family, here, rng), partial(PartPlace.of, after)) if moves else first
            about = {"null": MATCHED_PARTS, "kind": family[0].kind, "draw": draw}
            about["effect"] = behaviour.change(items, first, seed).value
            draws += [about | {"part": part.name} for part in family]
            tick((done := done + 1) / runs)
    for number, part in enumerate(parts):
        rng = np.random.default_rng([seed, 1, number])
        for draw in range(random):
            items = measure(part.places, partial(turned, before, after, rng)) if part.name in changed else first
            about = {"null": DIRECTIONS, "kind": part.kind, "part": part.name, "draw": draw}
            draws.append(about | {"effect": behaviour.change(items, first, seed).value})
            tick((done := done + 1) / runs)
    nulls = pd.DataFrame(draws, columns=["null", "kind", "part", "draw", "effect"])
    tick(1.0)
    return Transplants(
        names=model_names(base, aligned),
        title=behaviour.title,
        unit=behaviour.unit,
        base=behaviour.value(first, seed),
        aligned=behaviour.value(last, seed),
        change=whole,
        parts=_with_controls(pd.DataFrame(rows, columns=list(COLUMNS)), nulls, whole.value),
        controls=nulls,
        why_no_heads=why,
    )


COLUMNS = (
    *("part", "kind", "block", "head", "parameters", "norm", "relative"),
    *("value", "effect", "effect_low", "effect_high", "share"),
)
"""Columns of `Transplants.parts` before those of the controls."""


def turned(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], rng: np.random.Generator, place: PartPlace
) -> Float[Tensor, "m n"]:
    """Return the base's entries plus their change with rows and columns permuted and signs flipped at random."""
    old = place.read(before).double()
    change = place.read(after).to(old) - old
    for axis, size in enumerate(change.shape):
        order, signs = rng.permutation(size), rng.choice([-1.0, 1.0], size)
        shape = (-1, 1) if axis == 0 else (1, -1)
        change = change.index_select(axis, torch.as_tensor(order, device=change.device))
        change = change * torch.as_tensor(signs, device=change.device).view(shape)
    return old + change


def scattered(family: Sequence[ModelPart], tensors: Mapping[str, Tensor], rng: np.random.Generator) -> list[PartPlace]:
    """Draw the locations of a part that is scattered over a family of parts with the same shapes.

    It has the same number of rows of each matrix, drawn from those of all parts (columns, if a part is made of columns
    of a parameter).
    """
    places = []
    for same in zip(*(part.places for part in family), strict=True):
        crossings = [place.crossing(tensors) for place in same]
        axis = int(same[0].columns is not None and len(crossings[0][1]) < tensors[same[0].name][0].numel())
        size = len(crossings[0][axis])
        drawn = rng.permutation(size * len(family))[:size]
        for number, (place, (rows, columns)) in enumerate(zip(same, crossings, strict=True)):
            own = torch.as_tensor(np.sort(drawn[drawn // size == number] % size), device=rows.device)
            if len(own):
                places.append(PartPlace(place.name, *((rows, columns[own]) if axis else (rows[own], columns))))
    return places


def _families(parts: Sequence[ModelPart], tensors: Mapping[str, Tensor]) -> list[list[ModelPart]]:
    """Group the parts of one kind inside blocks whose places have the same shapes, two or more in a group."""
    families: dict[Any, list[ModelPart]] = {}
    for part in (part for part in parts if part.block is not None):
        shapes = [tuple(map(len, place.crossing(tensors))) for place in part.places]
        families.setdefault((part.kind, *shapes), []).append(part)
    return [family for family in families.values() if len(family) > 1]


def _norms(part: ModelPart, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return the norm of the change of a part, and the norm of the part in the base."""
    squares = np.zeros(2)
    for place in part.places:
        old = place.read(before).double()
        squares += [float((place.read(after).to(old) - old).square().sum()), float(old.square().sum())]
    change, size = np.sqrt(squares).tolist()
    return change, size


def _with_controls(table: pd.DataFrame, nulls: pd.DataFrame, change: float) -> pd.DataFrame:
    """Return the table of parts with the results of their controls; `change` is the effect of all parts together."""
    sign, rows = -1.0 if change < 0 else 1.0, []
    by_part = nulls.groupby(["null", "part"])["effect"]
    effects = {key: group.to_numpy(dtype=float) for key, group in by_part}
    for part, effect in zip(table["part"], table["effect"], strict=True):
        row: dict[str, Any] = {}
        matched, random = (effects.get((null, part), np.empty(0)) for null in (MATCHED_PARTS, DIRECTIONS))
        for name, drawn in (("matched", matched), ("random", random)):
            ends = (drawn.min(), drawn.mean(), drawn.max()) if len(drawn) else (np.nan,) * 3
            row |= {name: len(drawn), **dict(zip((f"{name}_low", f"{name}_mean", f"{name}_high"), ends, strict=True))}
        row["p"] = _p_value(sign * matched >= sign * effect)
        row["p_random"] = _p_value(np.abs(random) >= abs(effect))
        rows.append(row)
    table = pd.concat([table, pd.DataFrame(rows)], axis=1).astype({"block": "Int64", "head": "Int64"})
    return table.assign(p_holm=table.groupby("kind")["p"].transform(holm))


def _p_value(reached: np.ndarray) -> float:
    """Compute (1 + controls that reach the effect) / (1 + N) (Phipson and Smyth 2010); NaN without controls."""
    return float((1 + reached.sum()) / (1 + len(reached))) if len(reached) else float("nan")


def holm(p: pd.Series) -> pd.Series:
    """Correct p-values for their number, controlling the family-wise error rate (Holm 1979)."""
    ranked = p.sort_values()
    steps = (ranked * np.arange(len(ranked), 0, -1)).cummax().clip(upper=1)
    return steps.reindex(p.index)


def _between(row: Mapping[Any, Any] | pd.Series, name: str, unit: str) -> str:
    """Format the range of a control's effects, from the smallest to the largest."""
    return " to ".join(in_unit(unit, row[f"{name}_{end}"], None, None, sign=True) for end in ("low", "high"))


def _range(row: Mapping[Any, Any], name: str, unit: str) -> str:
    """Format the range of a control's effects; empty if there are none."""
    return "" if pd.isna(row[f"{name}_low"]) else _between(row, name, unit)


def _size(row: pd.Series, unit: str) -> str:
    return in_unit(unit, max(abs(row["random_low"]), abs(row["random_high"])), None, None).removeprefix("+")
