"""Direct logit attribution: the contribution of each part of a model to an answer, as a sum.

It measures the direct contribution of a part, not what would happen without the part, because later parts read its
output (see `probe.interventions.patching` for that). `probe.logits.shares` computes the sums.

Axes: D blocks, H heads, T tokens, m neurons of a block, k tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Asked, Chat, Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError, ModelError
from probe.logits.parts import PromotedTokens, Reading, output_weights, ov_tokens, promoted_tokens, read_parts
from probe.logits.shares import neuron_shares, rounding, split_logit, through
from probe.logits.targets import (
    NAMED,
    Against,
    Answer,
    Position,
    Target,
    asked_target,
    require_text,
    same_target,
    target_of,
    value,
)
from probe.model.asked import asked_ids, asked_seconds
from probe.model.lm import LM
from probe.model.text import pieces, text_ids
from probe.numbers import signed
from probe.plotting.notebook import Beside, Drawable, Look, alone, clickable, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.logits.part_figures import PartContributions

SUM_OF_PARTS = (
    r"\ell_t(a) = \underbrace{\langle h^0_t, u_a\rangle}_{\text{embedding}} + \sum_{l,h} \langle z^{lh}_t W_O^{lh}, "
    r"u_a\rangle + \sum_l \langle \mathrm{MLP}^l_t, u_a\rangle + \text{biases},\qquad u_a = C\,\frac{g \odot "
    r"W_{out}[a]}{\sigma_t}"
)
BY_SOURCE = (
    r"\langle z^{lh}_t W_O^{lh}, u_a\rangle = \sum_{s \le t} \alpha^{lh}_{t,s}\, \langle v^{lh}_s W_O^{lh}, u_a\rangle"
)
NEURONS = 20
"""Number of neurons of an MLP that are drawn."""
SPLIT = 1.5
"""Time in which a prompt is read and the logit split, divided by that of reading."""
DEEP = 12
"""Number of blocks from which on the rows of the map are low."""
ENLARGED = 380
"""Pixels of the figures of one part."""
SINGLE = {
    "embedding": "embedding",
    "positions": "positions",
    "norm_bias": "bias of the final norm",
    "unembedding_bias": "bias of the unembedding",
}
"""Parts without a layer, and their names in figures."""


ALIKE_NATS = 0.005
"""Change of the target in nats below which two models are said to agree."""

PartPlace = tuple[int, int | None]
"""(layer, head); head None is the MLP."""


def part_name(part: PartPlace) -> str:
    """Return the name of a part, such as `L2H1` or `L2 MLP`."""
    layer, head = part
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def parse_part(name: str) -> PartPlace:
    """Return the part of a name that `part_name` gave."""
    layer, _, head = name[1:].replace(" MLP", "H").partition("H")
    return int(layer), int(head) if head else None


def part_names(parts: "Attribution") -> list[str]:
    """Return the names of all heads and MLPs, block by block."""
    depth, heads = parts.heads.shape
    return [part_name((layer, head)) for layer in range(depth) for head in [*range(heads), None]]


def choosable(found: "Attributions") -> list[str]:
    """Return the parts that can be enlarged."""
    return part_names(found.results[-1])


def carrying(found: "Attributions") -> str:
    """Return the head or MLP with the largest contribution."""
    return part_name(carrier(found.results)[0])


@dataclass(frozen=True)
class Attribution(Drawable):
    """Contribution of each part to a target's value, in nats (for a scalar model in its unit)."""

    tokens: list[str]
    """[T] readable tokens of the text."""
    target: Target
    """Logit or difference of logits, and its token."""
    total: float
    """Target's value in the model's output."""
    embedding: float
    """Contribution of the token's embedding."""
    positions: float
    """Contribution of the learned position; 0 if positions are not learned."""
    heads: np.ndarray
    """[D H] contribution of each head: z_h W_O."""
    biases: np.ndarray
    """[D] contribution of each attention output's bias; 0 without bias."""
    mlps: np.ndarray
    """[D] contribution of each MLP, its bias included."""
    norm_bias: float
    """Contribution of the final norm's bias."""
    unembedding_bias: float
    """Contribution of the unembedding's bias."""
    sources: np.ndarray = field(repr=False)
    """[D H T] `heads` by the source token of the value vector; zero after the target's position."""
    neurons: np.ndarray | None = field(default=None, repr=False)
    """[D m] `mlps` by neuron, without the biases; None if an MLP is more than W_out of its neurons (experts)."""
    mlp_biases: np.ndarray | None = field(default=None, repr=False)
    """[D] contribution of the bias of W_out, so that neurons and bias sum to `mlps`."""
    unit: str = "nats"
    """Unit of all values: nats, or that of a scalar model."""
    promoted: Callable[[int, int | None], PromotedTokens] = field(kw_only=True, repr=False, compare=False)
    """Function of a part (block, head; None is the MLP) that returns its promoted tokens here: see
    `promoted_tokens`."""
    by_weights: Callable[[int, int, int], PromotedTokens] = field(kw_only=True, repr=False, compare=False)
    """Function of a head (block, head) and the position of its only source token, by weights alone: see `ov_tokens`."""

    @property
    def scalar(self) -> bool:
        """Whether the model reads out one number."""
        return self.unit != "nats"

    @property
    def sum(self) -> float:
        """Sum of all contributions, equal to `total` up to rounding."""
        single = self.embedding + self.positions + self.norm_bias + self.unembedding_bias
        return float(single + self.heads.sum() + self.biases.sum() + self.mlps.sum())

    def table(self) -> pd.DataFrame:
        """Return one row per part: part, layer, head, value; layer and head are -1 if a part has none."""
        depth, width = self.heads.shape
        rows: list[tuple[str, int, int, float]] = [("embedding", -1, -1, self.embedding)]
        rows.append(("positions", -1, -1, self.positions))
        for layer in range(depth):
            rows += [("head", layer, head, float(self.heads[layer, head])) for head in range(width)]
            rows.append(("attention bias", layer, -1, float(self.biases[layer])))
            rows.append(("mlp", layer, -1, float(self.mlps[layer])))
        rows.append(("norm bias", -1, -1, self.norm_bias))
        rows.append(("unembedding bias", -1, -1, self.unembedding_bias))
        return pd.DataFrame(rows, columns=["part", "layer", "head", "value"])

    def panel(self, name: str = "", minus: "Attribution | None" = None) -> "PartContributions":
        """Return this attribution as a panel of the figure.

        Args:
            name: title of the panel.
            minus: attribution of another model, which is subtracted.
        """
        from probe.logits.part_figures import PartContributions

        def less(part: str) -> Any:
            return getattr(self, part) - (getattr(minus, part) if minus else 0.0)

        single = [(label, float(less(part))) for part, label in SINGLE.items()]
        return PartContributions(name, less("heads"), less("mlps"), less("biases"), single)

    def sentence(self) -> str:
        """Name the part that contributes most to the target."""
        return Attributions((self,), alone()).sentence()

    def figures(
        self, part: Annotated[str | None, Input("Part", key="log_part", first=carrying, choices=choosable)] = None
    ) -> "dict[str, go.Figure]":
        """Draw the contribution of every head and MLP, and one part enlarged.

        Args:
            part: head or MLP to enlarge, such as `L2H1`; by default the one with the largest contribution.
        """
        return Attributions((self,), alone()).figures(part)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the contribution of each part, of each head by source token, and of each neuron."""
        layers = range(len(self.mlps))
        heads = [self.source_table(layer, head) for layer in layers for head in range(self.heads.shape[1])]
        tables = {"parts": self.table(), "sources": pd.concat(heads, ignore_index=True)}
        if self.neurons is not None:
            every = self.neurons.shape[1]
            neurons = pd.concat([self.neuron_table(layer, every) for layer in layers], ignore_index=True)
            tables["neurons"] = neurons
        return tables

    def lists(self, part: str | None = None) -> dict[str, pd.DataFrame]:
        """Return the parts with the largest contributions first, and the tokens that one of them promotes."""
        return Attributions((self,), alone()).lists(part)

    def source_table(self, layer: int, head: int) -> pd.DataFrame:
        """Return one row per source token of one head: layer, head, source, token, value."""
        values = self.sources[layer, head, : self.target.position + 1]
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "source": range(len(values)),
                "token": self.tokens[: len(values)],
                "value": values,
            }
        )

    def neuron_table(self, layer: int, k: int = 20) -> pd.DataFrame:
        """Return the k neurons of one MLP with the largest contributions, without the bias: layer, neuron, value.

        Raises:
            ModelError: the MLP has no neurons that add up to it.
        """
        if self.neurons is None:
            raise ModelError(
                "The MLPs of this model are not W_out times their neurons (they have experts), so they cannot be"
                " split by neuron: look at the whole MLP."
            )
        order = np.argsort(-np.abs(self.neurons[layer]), kind="stable")[:k]
        return pd.DataFrame({"layer": layer, "neuron": order, "value": self.neurons[layer, order]})


def largest(heads: np.ndarray, mlps: np.ndarray, sign: float) -> tuple[PartPlace, float]:
    """Find the head or MLP with the largest contribution in the direction of `sign`, and its contribution."""
    values = np.concatenate([heads, mlps[:, None]], axis=1)
    layer, column = np.unravel_index(int(np.argmax(values * (sign or 1.0))), values.shape)
    part = int(layer), int(column) if column < heads.shape[1] else None
    return part, float(values[layer, column])


def target_change(parts: Sequence[Attribution]) -> float | None:
    """Return the change of the target between two models with matching parts; None for one, or without a match."""
    alike = len(parts) == 2 and parts[0].heads.shape == parts[1].heads.shape and parts[0].target == parts[1].target
    return parts[1].total - parts[0].total if alike else None


def carrier(parts: Sequence[Attribution]) -> tuple[PartPlace, float]:
    """Find the head or MLP that contributes most to the change between two models, or to one model's target."""
    last, change = parts[-1], target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        return largest(last.heads - parts[0].heads, last.mlps - parts[0].mlps, np.sign(change))
    return largest(last.heads, last.mlps, np.sign(last.total))


def every_part(parts: Attribution) -> dict[str, float]:
    """Return the contribution of each part on the map by name: heads, MLPs, biases, and parts without a layer."""
    layers = range(len(parts.mlps))
    values = {part_name((layer, head)): float(value) for (layer, head), value in np.ndenumerate(parts.heads)}
    values |= {part_name((layer, None)): float(parts.mlps[layer]) for layer in layers}
    values |= {f"the attention bias of L{layer}": float(parts.biases[layer]) for layer in layers}
    return values | {
        "the embedding": parts.embedding,
        "the positions": parts.positions,
        "the bias of the final norm": parts.norm_bias,
        "the bias of the unembedding": parts.unembedding_bias,
    }


def above_all(parts: Sequence[Attribution]) -> str:
    """Name the part that contributes most to the target, or to its change, with the contribution.

    If that part is neither a head nor an MLP, also name the head or MLP that adds most.

    This part is the largest cell of the map in the direction of the sum.
    """
    values, change = every_part(parts[-1]), target_change(parts)
    if change is not None and abs(change) >= ALIKE_NATS:
        before = every_part(parts[0])
        values, total = {name: value - before[name] for name, value in values.items()}, change
    else:
        total = parts[-1].total
    most = max(values, key=lambda name: values[name] * (np.sign(total) or 1.0))
    part, own = carrier(parts)
    largest_part = f"{most} ({signed(values[most])})"
    more = f"; among heads and MLPs, from {part_name(part)} ({signed(own)})"
    return largest_part if most == part_name(part) else largest_part + more


class Attributions(Beside[Attribution]):
    """Contributions of the parts of one model or several to one target."""

    def sentence(self) -> str:
        """Name the part that contributes most to the target, or to its change between two models."""
        parts, last = self.results, self.results[-1]
        label, unit = last.target.name, f" {last.unit}" * (last.unit == "nats")
        whole = f"{label} = {signed(last.total)}{unit} in {self.looks[-1].name}; the largest direct effect comes from"
        change = target_change(parts)
        if change is None:
            return f"{whole} {above_all(parts)}."
        if abs(change) < ALIKE_NATS:
            return f"{label} is equal in both models within {ALIKE_NATS}{unit}."
        return f"{label} changes by {signed(change)}{unit}; the largest direct effect comes from {above_all(parts)}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on what a cell is, and which tokens of the answers are compared, if one has several."""
        cells = (
            "Each cell is the direct contribution of a head or MLP to the logit; all cells sum to the number"
            " above. Parts also act through later parts, which direct effects do not show."
        )
        last = self.results[-1]
        single = f"A {last.unit} model outputs one number and no tokens, so its parts promote no tokens."
        experts = "The MLPs are not W_out times their neurons, so they cannot be split further."
        more = [single] * last.scalar + [experts] * any(each.neurons is None for each in self.results)
        return (cells, *more, *dict.fromkeys(each.target.note for each in self.results if each.target.note))

    def figures(self, part: str | None = None) -> "dict[str, go.Figure]":
        """Draw all heads and MLPs, the change from the first model to the second, and one part enlarged.

        Args:
            part: head or MLP to enlarge, such as `L2H1`; by default the one that contributes most.
        """
        chosen = parse_part(part or carrying(self))
        return self._maps(chosen) | self._enlarged(*chosen)

    def _maps(self, chosen: PartPlace) -> "dict[str, go.Figure]":
        from probe.logits.part_figures import attribution_map

        first, last = self.results[0], self.results[-1]
        panels = [
            each.panel(f"{look.name}: {signed(each.total)}")
            for look, each in zip(self.looks, self.results, strict=True)
        ]
        if target_change(self.results) is not None:
            panels.append(last.panel(f"aligned \u2212 base: {signed(last.total - first.total)}", first))
        alike = len({(each.heads.shape, each.target) for each in self.results}) == 1
        charts = {}
        for index, own in enumerate([panels] if alike else [[panel] for panel in panels]):
            depth, target = own[0].heads.shape[0], (last if alike else self.results[index]).target
            title = f"What each part adds to {target.name}"
            height = max(210, min(560, 80 + (26 if depth <= DEEP else 14) * (depth + 1)))
            chart = attribution_map(own, label=target.name, unit=last.unit, chosen=chosen, height=height)
            name = title + f": {own[0].name}" * (not alike)
            charts[f"parts-{index}" if index else "parts"] = titled(clickable(chart, part="customdata"), name, height)
        return charts

    def _enlarged(self, layer: int, head: int | None) -> "dict[str, go.Figure]":
        """Draw the tokens that a part promotes, and its source tokens (a head) or its neurons (an MLP)."""
        from probe.logits.part_figures import neuron_bars, promoted_bars, source_bars

        pairs, target = self._with_part(layer, head), self.results[-1].target
        options: dict[str, Any] = {"label": target.name, "unit": self.results[-1].unit}
        name, charts = part_name((layer, head)), {}
        if not self.results[-1].scalar:
            effects = [(look, each.promoted(layer, head)) for look, each in pairs]
            bars = [
                (look.name, look.colour, each.pieces, each.values, each.suppressed_pieces, each.suppressed_values)
                for look, each in effects
            ]
            charts["promoted"] = titled(promoted_bars(bars), f"What {name} promotes and suppresses", ENLARGED)
        if head is not None:
            sources = [
                (look.name, look.colour, each.sources[layer, head, : target.position + 1]) for look, each in pairs
            ]
            tokens = pairs[-1][1].tokens[: target.position + 1]
            chart = source_bars(tokens, sources, **options)
            charts["sources"] = titled(chart, f"Source tokens of {name}", ENLARGED)
        elif all(each.neurons is not None for _, each in pairs):
            top = pairs[-1][1].neuron_table(layer, NEURONS)["neuron"].tolist()
            rows = [(look, each.neurons[layer]) for look, each in pairs if each.neurons is not None]
            shares = [(look.name, look.colour, values[top]) for look, values in rows if max(top) < len(values)]
            title = f"The {len(top)} neurons of the L{layer} MLP that add or subtract most"
            charts["neurons"] = titled(neuron_bars(top, shares, **options), title, ENLARGED)
        return charts

    def _with_part(self, layer: int, head: int | None) -> list[tuple[Look, Attribution]]:
        """Return the models that have a part and whose target and text are those of the last model."""
        last = self.results[-1]
        return [
            (look, each)
            for look, each in zip(self.looks, self.results, strict=True)
            if (each.target, each.tokens) == (last.target, last.tokens)
            and layer < each.heads.shape[0]
            and (head is None or head < each.heads.shape[1])
        ]

    def lists(self, part: str | None = None) -> dict[str, pd.DataFrame]:
        """Return the parts by contribution, and the tokens that one of them promotes, here and by its weights."""
        layer, head = parse_part(part or carrying(self))
        names = [look.name for look in self.looks]
        names = names if len({*names}) == len(names) else [f"{name} ({at})" for at, name in enumerate(names, start=1)]
        values = {name: pd.Series(every_part(each)) for name, each in zip(names, self.results, strict=True)}
        rows = pd.DataFrame(values).rename_axis("part").reset_index()
        rows = rows[(rows.iloc[:, 1:] != 0).any(axis=1)]
        if target_change(self.results) is not None:
            rows = rows.assign(change=rows.iloc[:, 2] - rows.iloc[:, 1])
        order = rows.iloc[:, -1].abs().sort_values(ascending=False, kind="stable").index
        lists = {"Parts": rows.loc[order].reset_index(drop=True)}
        pairs = self._with_part(layer, head)
        if self.results[-1].scalar:
            return lists
        effects = {f"in {look.name}": each.promoted(layer, head) for look, each in pairs}
        if head is not None:
            look, last = pairs[-1]
            source = int(np.abs(last.sources[layer, head, : last.target.position + 1]).argmax())
            words = f"by the weights of {look.name} alone, attending to {last.tokens[source]}"
            effects[words] = last.by_weights(layer, head, source)
        frames = [each.table().assign(what=words) for words, each in effects.items()]
        named = pd.concat(frames, ignore_index=True)[["what", "side", "token", "value"]]
        return lists | {f"What {part_name((layer, head))} promotes": named}


def parts_seconds(lm: LM, answer: str | int | None = "", against: str | int | None = "", **asked: Any) -> float:
    """Estimate the seconds that the parts take; to find an answer that is not given, the prompt is read once more."""
    return asked_seconds(lm, passes=SPLIT + (answer is None or against is None), **asked)


@analysis(
    "logits",
    title="Which parts carry it",
    equations=(SUM_OF_PARTS, BY_SOURCE),
    seconds=parts_seconds,
    key="log_parts",
    beside=Attributions,
    settle=same_target,
    widths=((1,), (1, 1)),
    stored=False,
)
@torch.no_grad()
def attribute_answer(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
    answer: Answer = None,
    against: Against = None,
) -> Attribution:
    """Measure the contribution of each head and MLP to the logit of an answer against another one.

    The residual stream before the final norm is the sum of the outputs of embedding, heads and MLPs. With the norm's
    scale held fixed, norm and unembedding are linear, so the contributions sum to the logit (checked every time). A
    norm after heads or MLP (Gemma 2 and 3) and a cap on the logits (Gemma 2, its factor at the logit) are held fixed
    too. This is the direct contribution of a part, not the effect of removing it: later parts read its output, and the
    page Interventions measures that.

    *Promoted tokens* of a part: its contribution to the logit of every token by the same rule, before a cap. Adding one
    number to all logits changes no probability, so compare differences.

    Args:
        lm: the model.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token after which the answers are due, from 0; by default the last.
        answer: a text, with the blank that precedes it (\u00b7 also stands for a blank). The first token that differs
            from the other answer counts; tokens with which both begin are appended to the prompt. By default the most
            probable token, of the last model if there are several.
        against: answer whose logit is subtracted; by default the most probable token of the other model, or else the
            second most probable one; `(nothing)` takes the logit of the answer alone.

    Raises:
        DataError: see `target_of`.
        ModelError: see `attribute`.
    """
    ids = asked_ids(lm, prompt, chat)
    return attribute(lm, ids, asked_target(lm, ids, answer, against, position))


@analysis(
    "logits",
    title="Which parts carry it",
    equations=(SUM_OF_PARTS, BY_SOURCE),
    seconds=parts_seconds,
    key="log_parts",
    beside=Attributions,
    widths=((1,), (1, 1)),
    stored=False,
)
def attribute_scalar(
    lm: LM,
    prompt: Asked,
    *,
    chat: Chat = False,
    position: Position = None,
) -> Attribution:
    """Measure the contribution of each head and MLP to the number of a reward or value model.

    The residual stream before the final norm is the sum of the outputs of embedding, heads and MLPs. With the norm's
    scale held fixed, norm and head are linear, so the contributions sum to the number (checked every time). This is the
    direct contribution of a part, not the effect of removing it: later parts read its output, and the page
    Interventions measures that.

    Args:
        lm: a model that reads out one number.
        prompt: a text or its token ids.
        chat: send the prompt as a user's message in the model's chat template.
        position: token after which the number is read, from 0; by default the last.

    Raises:
        DataError: a model of tokens, and see `target_of`.
        ModelError: see `attribute`.
    """
    if lm.readout == "tokens":
        raise DataError("This model predicts tokens and no scalar: use `attribute_answer`.")
    ids = asked_ids(lm, prompt, chat)
    return attribute(lm, ids, target_of(lm, ids, None, None, position))


@torch.no_grad()
def attribute(lm: LM, text: str | Sequence[int] | Reading, target: Target) -> Attribution:
    """Split the value of `target` into a sum over the parts of the model.

    Args:
        lm: the model.
        text: a text or its ids, which costs a hooked forward pass; or the result of `read_parts` for the target's
            position in `target.text(ids)`.
        target: logit or difference of logits, and its token.

    Raises:
        ModelError: the contributions do not add up, because the architecture has further parts.
        DataError: an empty or too long text, or a target outside it.
    """
    if not isinstance(text, Reading):
        text = read_parts(lm, target.text(text_ids(lm.tokenizer, text)), target.position)
    reading = text
    if reading.position != target.position:
        raise DataError(
            f"The parts were read after token {reading.position} and the target is at {target.position}: read them"
            " after the target's token."
        )
    require_text(target, reading.ids)
    answers = torch.tensor([[target.answer, -1 if target.against is None else target.against]])
    z, mlps = [each[None] for each in reading.z], [each[None] for each in reading.mlps]
    attn_norms, mlp_norms = (
        [None if norm is None else replace(norm, scale=norm.scale[None]) for norm in norms]
        for norms in (reading.attn_norms, reading.mlp_norms)
    )
    split = split_logit(lm, reading.final[None], reading.embedding[None], z, attn_norms, mlps, answers)
    posts = {layer: post[None] for layer, post in enumerate(reading.posts) if post is not None}
    neurons = neuron_shares(lm, posts, split.u, mlp_norms, split.parts[:, :, -1])
    sources = []
    for layer, (pattern, values) in enumerate(zip(reading.pattern, reading.values, strict=True)):
        w_o, _ = output_weights(lm, layer)
        per_head, u = values.repeat_interleave(len(w_o) // values.shape[1], dim=1), through(attn_norms[layer], split.u)
        sources.append(pattern * torch.einsum("she,he->hs", per_head, torch.einsum("hed,d->he", w_o, u[0])))
    learned = 0.0 if reading.learned is None else float(reading.learned @ split.u[0])
    attribution = Attribution(
        tokens=pieces(lm.tokenizer, reading.ids),
        target=target,
        total=float(value(reading.logits[None, None], replace(target, position=0))[0]),
        embedding=float(split.embedding[0]) - learned,
        positions=learned,
        heads=split.parts[0, :, :-1].cpu().numpy(),
        biases=split.biases[0].cpu().numpy(),
        mlps=split.parts[0, :, -1].cpu().numpy(),
        norm_bias=float(split.norm_bias[0]),
        unembedding_bias=float(split.unembedding_bias[0]),
        sources=torch.stack(sources).cpu().numpy(),
        neurons=None if neurons is None else torch.cat([each.values for each in neurons]).cpu().numpy(),
        mlp_biases=None if neurons is None else torch.cat([each.bias for each in neurons]).cpu().numpy(),
        unit="nats" if lm.readout == "tokens" else lm.readout,
        promoted=partial(_promoted, lm, reading),
        by_weights=partial(_by_weights, lm, reading.ids),
    )
    _require_sum(lm, attribution)
    return attribution


def difference_table(base: Attribution, aligned: Attribution) -> pd.DataFrame:
    """Compare two models part by part: part, layer, head, base, aligned, change (aligned - base).

    Raises:
        DataError: the models have different numbers of blocks or heads, or the targets differ.
    """
    if base.heads.shape != aligned.heads.shape:
        raise DataError(
            f"The base has {base.heads.shape} blocks and heads and the aligned model {aligned.heads.shape}, so their "
            "parts have no counterparts: choose two models of the same shape."
        )
    ours, theirs = aligned.target, base.target
    if (ours.position, ours.answer, ours.against) != (theirs.position, theirs.answer, theirs.against):
        raise DataError("The two attributions have different targets: attribute one target with both models.")
    table = base.table().rename(columns={"value": "base"})
    table["aligned"] = aligned.table()["value"]
    table["change"] = table["aligned"] - table["base"]
    return table


def _promoted(lm: LM, reading: Reading, layer: int, head: int | None) -> PromotedTokens:
    return promoted_tokens(lm, reading, layer, head, k=NAMED)


def _by_weights(lm: LM, ids: Sequence[int], layer: int, head: int, source: int) -> PromotedTokens:
    return ov_tokens(lm, layer, head, ids[source], k=NAMED)


def _require_sum(lm: LM, attribution: Attribution) -> None:
    size = float(np.abs(attribution.table()["value"]).sum())
    if not abs(attribution.sum - attribution.total) <= rounding(lm, size):
        raise ModelError(
            f"The parts of the logit add up to {attribution.sum:.4f} and {type(lm.model).__name__} outputs"
            f" {attribution.total:.4f}, because it does more than add the outputs of heads and MLPs (Granite scales"
            " them, for example): use a model of another architecture."
        )
