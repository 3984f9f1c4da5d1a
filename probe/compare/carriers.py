"""Which part carries the answer of an aligned model: three measures of every head and MLP, and which of them decides.

The pages Attention, Logits and Interventions each name one part, and often three different ones, since they measure
different things:

- *moved*: how far a head's attention differs between base and aligned among tokens other than the first, on which idle
  heads rest. It says where a head looks, and nothing of what it writes.
- *direct*: how much more a part of the aligned model writes into logit(answer) - logit(other answer) than that of the
  base. It leaves out what later parts make of its output.
- *restored*, *removed*: what changes when the part alone receives its activation on another prompt, at the last token
  (`probe.interventions.patching`). Only this counts everything that follows from the part, so it decides who carries
  the answer. At every token the first MLP would restore nearly all: it stands for the words of the prompt itself.

Axes: D blocks, H heads, P parts (all heads and MLPs).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Prompt
from probe.analyses.catalogue import analysis
from probe.attention.patterns import RANKED_BY, attention, head_distance
from probe.compare.side_by_side import require_writers
from probe.interventions.controls import DIRECTIONS, DRAWS, edits, intervene
from probe.interventions.patching import Direction, Filling, means, sources
from probe.interventions.requested_change import LEAST_GAP, Change, Corrupted, InChat, MeasuredTexts
from probe.interventions.sites import Activations, Kind, Site, counterpart, hooks_of, observe, sweep
from probe.logits.attribution import PartPlace, attribute, part_name
from probe.logits.lens import require_same_tokens
from probe.logits.targets import Target, asked_target, same_target, value
from probe.model.asked import asked_ids
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.numbers import rate, share_text, signed
from probe.plotting.notebook import Drawable, Look, pair, titled
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

ENOUGH, LEAD = 0.5, 0.1
"""Smallest share that a carrier restores and removes, and its smallest lead over the next part."""
SHOWN = 3
"""Number of parts of each measure that are drawn."""
MOVED = (
    r"\mathrm{moved}(l, h) = \operatorname{mean}_t \Big(\tfrac12 \sum_s |\Delta_{t,s}| - |\Delta_{t,1}|\Big),"
    r"\quad \Delta = \alpha^{\text{aligned}} - \alpha^{\text{base}}"
)
DIRECT = (
    r"\mathrm{direct}(P) = \langle P^{\text{aligned}}, u_a - u_b \rangle - \langle P^{\text{base}}, u_a - u_b \rangle"
)
RESTORED = (
    r"\mathrm{restored}(P) = \frac{m(x_{corr} \mid P \leftarrow P^{clean}) - m(x_{corr})}{m(x_{clean}) - m(x_{corr})},"
    r"\quad \mathrm{removed}(P) = \frac{m(x_{clean}) - m(x_{clean} \mid P \leftarrow P^{corr})}"
    r"{m(x_{clean}) - m(x_{corr})}"
)
Cause = Literal["patch", "ablate"]


class Named(NamedTuple):
    """The part with the largest value of one measure."""

    part: str
    value: float
    carries: float
    """Share that this part restores, or removes where no other prompt is known."""


@dataclass(frozen=True)
class Carriers(Drawable):
    """Three measures of every head and MLP, and the part that carries the answer, if one does."""

    parts: pd.DataFrame
    """Table with one row per part: `part`, `layer`, `head` (-1: MLP), `moved` (share; NaN for MLPs), `direct` (nats),
    `restored` (share; NaN where no other prompt is known) and `removed` (share)."""
    answers: tuple[str, str]
    """The aligned model's answer and the one it is compared with, by direct effects."""
    swapped: tuple[str, str]
    """The two answers between which patching moves the model; for ablation those of the prompt."""
    cause: Cause
    """Whether another prompt's activations were put in, or means over reference texts."""
    nulls: tuple[float, float]
    """Largest share that random changes of the leading part restore and remove; NaN where none were restored."""
    in_base: float
    """Share that the leading part restores (removes) in the base."""
    chances: tuple[tuple[float, float], tuple[float, float]]
    """Probability of both `answers` in the base and in the aligned model."""
    other: str
    """The other prompt; empty for ablation."""
    at: int
    """Token at which parts were changed, and after which the answer is due."""
    looks: tuple[Look, ...] = field(default_factory=pair)
    """Names and colours of the models."""

    @property
    def deciding(self) -> str:
        """Column by which the carrier is chosen."""
        return "restored" if self.cause == "patch" else "removed"

    @property
    def does(self) -> str:
        """Verb of `deciding`."""
        return self.deciding.removesuffix("d") + "s"

    def largest(self, measure: str) -> Named:
        """Return the part with the largest value of a measure; for direct effects in the direction of the change."""
        values = self.parts[measure].to_numpy(dtype=float)
        if measure == "direct":
            values = values * (np.sign(values.sum()) or 1.0)
        at = int(np.nanargmax(values)) if np.isfinite(values).any() else 0
        row = self.parts.iloc[at]
        return Named(str(row["part"]), float(row[measure]), float(row[self.deciding]))

    @property
    def leader(self) -> Named:
        """The part that restores (removes) most."""
        return self.largest(self.deciding)

    @property
    def next(self) -> Named:
        """The part that restores (removes) most after the leader."""
        rest = self.parts[self.parts["part"] != self.leader.part]
        row = rest.iloc[int(rest[self.deciding].fillna(-np.inf).argmax())]
        share = float(row[self.deciding])
        return Named(str(row["part"]), share, share)

    @property
    def doubt(self) -> str:
        """Sentence on why no part is said to carry the answer, without its end; empty if one does."""
        columns = ["restored", "removed"] if self.cause == "patch" else ["removed"]
        randoms = dict(zip(("restored", "removed"), self.nulls, strict=True))
        leader, name = self.leader.part, self.looks[1].name
        undecided = f"Undecided which part carries the answer of {name}"
        if not np.isfinite(self.leader.value):
            return f"{undecided}: the other prompt does not change it"
        for column in columns:
            shares = self.parts.set_index("part")[column].sort_values(ascending=False)
            does, share = column.removesuffix("d") + "s", float(shares.iloc[0])
            if share < ENOUGH:
                strongest = f"the strongest, {shares.index[0]}, {does} {share_text(share)} alone"
                return f"No single part carries the answer of {name}: {strongest}, less than half"
            if shares.index[0] != leader:
                return f"{undecided}: {leader} restores most, but {shares.index[0]} removes most"
            if share - shares.iloc[1] < LEAD:
                return (
                    f"{undecided}: {leader} {does} {share_text(share)}, {shares.index[1]} {share_text(shares.iloc[1])}"
                )
            if share <= randoms[column]:
                return f"{undecided}: random changes of {leader} of the same size do as much"
        return ""

    def sentence(self) -> str:
        """Name the part that carries the answer, with its controls, or say why none is named."""
        name, leader, after = self.looks[1].name, self.leader, self.next
        first, second = self.swapped
        if self.doubt:
            return f"{self.doubt}."
        removed = share_text(float(self.parts.set_index("part")["removed"][leader.part]))
        does = (
            f"patched alone, it restores {share_text(leader.value)} of {first} over {second} and removes {removed}"
            if self.cause == "patch"
            else f"replaced by its mean alone, it removes {removed} of the lead of {first} over {second}"
        )
        return (
            f"{leader.part} carries the answer of {name}: {does}; the next part, {after.part}, {self.does}"
            f" {share_text(after.value)}, random changes of the same size at most {share_text(np.nanmax(self.nulls))}."
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on why the three measures name different parts, on the base, and on the rule."""
        moved, direct = self.largest("moved"), self.largest("direct")
        names = [moved.part, direct.part, self.leader.part]
        looked = f"{moved.part} changed its attention most among tokens other than the first"
        differ = f"{looked}, {direct.part} writes most of the change into the logit"
        why = (
            f"{differ if len(set(names)) > 1 else f'All measures name {names[0]}'}. Attention says where a head"
            " looks, not what it writes; a direct effect leaves out what later parts make of it; a swap counts"
            " everything that follows, so it decides."
        )
        inside = f"In {self.looks[0].name} it {self.does} {share_text(self.in_base)}" * (not self.doubt)
        inside += (", too." if self.in_base >= ENOUGH else ".") * bool(inside)
        rule = (
            f"A part carries the answer if it alone {'restores and ' * (self.cause == 'patch')}removes at least"
            f" {rate(ENOUGH)}, {100 * LEAD:.0f} points more than any other head or MLP and more than random changes of"
            " the same size. One prompt: Transplants measures many."
        )
        return tuple(filter(None, (why, inside, rule)))

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the three measures of the parts that are largest in one of them."""
        from probe.compare.figures import carrier_bars

        last = "restored when patched" if self.cause == "patch" else "removed when ablated"
        difference = " \u2212 ".join(self.answers)
        titles = (
            "attention moved among other tokens",
            f"direct effect on {difference}: change, nats",
            f"{' over '.join(self.swapped)} {last}",
        )
        measures = ("moved", "direct", self.deciding)
        chart = carrier_bars(self._shown(), measures, titles, colour=self.looks[1].colour)
        return {"carriers": titled(chart, "Three measures of the parts of a model")}

    def _shown(self) -> pd.DataFrame:
        """Return the parts to draw, the leader first."""
        measures = ("moved", "direct", self.deciding)
        sizes = [self.parts[name].abs().nlargest(SHOWN).index for name in measures]
        rows = self.parts.loc[list(dict.fromkeys(at for index in sizes for at in index))]
        return rows.sort_values(self.deciding, ascending=False, kind="stable")

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the measures of every part."""
        return {"carriers": self.parts}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the measures of every part for reading, the one that carries most first."""
        rows = self.parts.sort_values(self.deciding, ascending=False, kind="stable")
        shown = pd.DataFrame({"part": rows["part"]})
        for name in ("restored", "removed"):
            if rows[name].notna().any():
                shown[name] = [share_text(each) for each in rows[name]]
        shown["attention moved among tokens other than the first"] = [
            "" if np.isnan(each) else rate(each) for each in rows["moved"]
        ]
        shown["direct effect, change in nats"] = [signed(each) for each in rows["direct"]]
        return {"Parts": shown.reset_index(drop=True)}


def carrier_seconds(base: LM, aligned: LM, prompt: str, chat: bool, corrupted: str) -> float:
    """Estimate the seconds that the swaps of all parts take."""
    length, config = len(asked_ids(aligned, prompt, chat)), aligned.bridge.cfg
    runs = 2 * config.n_layers * (config.n_heads + 1) + 4 * DRAWS
    return seconds_a_token(aligned) * length * runs


@analysis(
    "compare",
    title="Who carries the answer",
    equations=(MOVED, DIRECT, RESTORED),
    seconds=carrier_seconds,
    key="carry",
)
@torch.no_grad()
def find_carriers(
    base: LM,
    aligned: LM,
    prompt: Prompt,
    *,
    chat: InChat = False,
    corrupted: Corrupted = "",
    tick: Tick = ignore,
) -> Carriers:
    """Find the head or MLP that carries the aligned model's answer, next to those that two other measures name.

    *Moved* is the change of a head's attention between the models, *direct* the change of what a part writes into
    logit(answer) - logit(other answer). *Restored* and *removed*: the part alone receives, at the last token, its
    activation on the clean prompt in the run of the other prompt, and the reverse. Where no other prompt is known, it
    is replaced by its mean over reference texts, and removed is the share of the answer's lead that is lost. These two
    decide, since they count all that follows from a part. Controls: all other heads and MLPs, and 15 random changes of
    the leading part of the same size.

    Args:
        base: model before the training.
        aligned: model after it, with the same architecture and tokens.
        prompt: the text.
        chat: send the prompt as a user's message in the model's chat template.
        corrupted: a text with as many tokens that asks for another answer; for a world's prompt it is derived.
        tick: called with the completed share.

    Raises:
        DataError: a model has a scalar output, the tokenizers or the numbers of heads differ, or the texts cannot be
            used (see `patch_every_site`).
    """
    require_writers(base, aligned)
    require_same_tokens(base, aligned)
    ids = asked_ids(aligned, prompt, chat)
    moved = head_distance(attention(base, ids), attention(aligned, ids), RANKED_BY)
    told = same_target((base, aligned), prompt=prompt, chat=chat)
    target = asked_target(aligned, ids, told.get("answer"), told.get("against"))
    before, after = (attribute(lm, ids, target) for lm in (base, aligned))
    depth, heads = after.heads.shape
    places: list[PartPlace] = [(layer, head) for layer in range(depth) for head in [*range(heads), None]]
    known = corrupted.strip() or counterpart(aligned, prompt, probe.world.of(aligned)).corrupted
    cause: Cause = "patch" if known else "ablate"
    how = ("denoise", "noise") if cause == "patch" else ("mean",)
    changes = [Change(prompt=prompt, how=name, corrupted=corrupted, chat=chat) for name in how]
    texts = changes[0].question(aligned)
    shares = {"restored": np.full(len(places), np.nan)}
    random, lead = {"restored": float("nan")}, 0
    for number, change in enumerate(changes):
        column = "restored" if change.how == "denoise" else "removed"
        run = _Swap.of(aligned, change, texts)
        shares[column] = run.shares(places, part(tick, 2 * number, 2 * len(changes)))
        lead = int(np.nanargmax(shares[column])) if number == 0 and run.counts else lead
        random[column] = run.random_share(places[lead])
        tick((number + 1) / len(changes))
    inside = _Swap.of(base, changes[0], texts).shares([places[lead]])
    columns = target.answers if target.against is not None else [target.answer, target.answer]
    rows = [lm.logits([target.text(ids)])[0, target.position].float().log_softmax(-1).exp() for lm in (base, aligned)]
    table = pd.DataFrame(
        {
            "part": [part_name(each) for each in places],
            "layer": [layer for layer, _ in places],
            "head": [-1 if head is None else head for _, head in places],
            "moved": [float("nan") if head is None else float(moved[layer, head]) for layer, head in places],
            "direct": [_written(after, each) - _written(before, each) for each in places],
            "restored": shares["restored"],
            "removed": shares["removed"],
        }
    )
    return Carriers(
        parts=table,
        answers=_names(target),
        swapped=_names(texts.target),
        cause=cause,
        nulls=(random["restored"], random["removed"]),
        in_base=float(inside[0]),
        chances=tuple(tuple(float(row[column]) for column in columns) for row in rows),  # type: ignore[arg-type]
        other=known or "",
        at=texts.target.position,
    )


def _names(target: Target) -> tuple[str, str]:
    first, _, second = target.name.partition(" \u2212 ")
    return first.strip("\u00b7 "), second.strip("\u00b7 ")


def _written(parts: Any, place: PartPlace) -> float:
    layer, head = place
    return float(parts.mlps[layer] if head is None else parts.heads[layer, head])


@dataclass(frozen=True)
class _Swap:
    """Runs of one text in which single parts receive other activations."""

    lm: LM
    ids: Sequence[int]
    source: Activations
    """Activations of every head and MLP that are put in."""
    target: Target
    start: float
    """Target in the unchanged run."""
    end: float
    """Target that counts as a change of 100 %: that of the other run, or 0 for ablation."""

    @classmethod
    def of(cls, lm: LM, change: Change, texts: MeasuredTexts) -> "_Swap":
        """Run the text, and read the activations that a change puts in."""
        kinds: tuple[Kind, ...] = ("head", "mlp")
        names = hooks_of(lm, kinds)
        if change.patches and texts.corrupted is not None:
            direction: Direction = "denoise" if change.how == "denoise" else "noise"
            own, other = texts.pair(lm).run(direction)
            logits, read = observe(lm, other, names)
            source: Activations = read
            end = float(value(logits, texts.target))
        else:
            own, end = list(texts.clean), 0.0
            (source,) = sources(lm, own, names, Filling("mean", means(lm, change.reference_texts(lm), names)))
        start = float(value(lm.logits([own]), texts.target))
        return cls(lm, own, source, texts.target, start, end)

    def _site(self, place: PartPlace) -> Site:
        layer, head = place
        return Site("mlp" if head is None else "head", layer, head, self.target.position)

    @property
    def counts(self) -> bool:
        """Whether the gap is large enough for shares of it to mean anything."""
        return abs(self.end - self.start) > LEAST_GAP

    def shares(self, places: Sequence[PartPlace], tick: Tick = ignore) -> np.ndarray:
        """Return [P] shares of the gap that each part moves alone; NaN if there is no gap."""
        rows = [edits([self._site(place)], self.source) for place in places]
        values = sweep(self.lm, self.ids, rows, self.target, tick=tick).values.double().numpy()
        return (values - self.start) / (self.end - self.start) if self.counts else np.full(len(places), np.nan)

    def random_share(self, place: PartPlace) -> float:
        """Return the largest share of the gap that random changes of a part of the same size move; NaN without gap."""
        if not self.counts:
            return float("nan")
        found = intervene(self.lm, self.ids, [self._site(place)], [self.source], self.target, draws=DRAWS)
        null = next(each for each in found.nulls if each.name == DIRECTIONS)
        return float((null.effects / (self.end - self.start)).max())
