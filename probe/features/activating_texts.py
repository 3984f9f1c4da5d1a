"""Top texts: the texts that activate a neuron, a head or a feature most, and what that says about it.

That top texts look alike says little alone: those of a random direction do, too. So each property that they share (the
token, or its neighbour) stands beside the same measure for random directions of the residual stream after the same
block, and so does the match with a variable of the world.

Axes: N texts, T tokens, U units, R random directions, V vocabulary.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.features.feature_files import Features
from probe.features.known_fits import known_fits, open_fit, usual_fit
from probe.features.streamed_states import Piece, read_pieces
from probe.features.unit_activations import (
    RANDOM,
    Leaders,
    UnitPlace,
    find_unit,
    has_neurons,
    neuron_weights,
    random_axes,
    read_units,
)
from probe.features.variables import best_variables, world_variables
from probe.hallucination.figures import rows_of
from probe.interventions.sites import Site
from probe.logits.direct import unembedding
from probe.logits.parts import direction_tokens, logit_directions, output_weights
from probe.model.lm import LM
from probe.model.pace import seconds_to_read
from probe.model.text import encode, pieces
from probe.numbers import rate
from probe.plotting.chips import Chip, TokenRow, TokenRows
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rows import Selection
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

RARE = 0.05
"""Share of random directions up to which a property counts as the unit's own."""
TEXTS, SHOWN, TOKENS = 500, 12, 8
"""Default number of texts; number of top texts; number of promoted tokens."""
BEFORE, AFTER = 14, 5
"""Largest number of tokens that are shown before and after the marked one."""
QUICK = 2**31
"""Number of multiplications that are made to choose a unit."""
STRONGEST = 0.6
"""Strength of the colour of the largest activation, on which a token is still legible."""
BINS = 40
HEIGHT = 260
"""Number of bars of the histogram, and height of the figures in pixels."""
SHARED = {0: "the token is", -1: "the token before is", 1: "the token after is"}
"""Properties that top texts can share, by the distance from the marked token."""
SHORT = dict(zip(SHARED.values(), ("at", "after", "before"), strict=True))
"""The same in tables."""
NORM = r"a_t^{\text{head}} = \lVert z_t W_O \rVert, \quad a_t^{\text{neuron}} = \text{input of } W_{out}"
PROMOTES = r"\text{promotes}(v) = \big\langle u_v,\; \gamma \odot d \big\rangle"


def usual_unit(lm: LM, *, features: Any = None) -> str:
    """Return the unit to show first: of features, else of neurons at half depth, one that promotes one token most."""
    layer, found = lm.bridge.cfg.n_layers // 2, open_fit(features, lm)
    if found is not None:
        return f"F{sharpest(lm, found.model.W_dec[:, -1])}"
    if not has_neurons(lm, layer):
        return f"L{layer}H0"
    return f"L{layer}N{sharpest(lm, neuron_weights(lm, layer))}"


@torch.no_grad()
def sharpest(lm: LM, directions: torch.Tensor) -> int:
    """Return the direction [U d] whose most promoted token stands out most, among as many as are compared quickly."""
    if lm.readout != "tokens":
        return 0
    rows = unembedding(lm)
    logits = logit_directions(lm, directions[: max(1, QUICK // rows.numel())]) @ rows.T
    return int(((logits.amax(-1) - logits.mean(-1)) / logits.std(-1).clamp(min=1e-9)).argmax())


Fitted = Annotated[
    str | Path | Features | None,
    Input(
        "Features",
        key="features",
        first=usual_fit,
        suggestions=known_fits,
        placeholder="none found: give a folder",
        type=Path | None,
    ),
]
Named = Annotated[str | None, Input("Neuron, head or feature", key="unit", first=usual_unit)]
Data = Annotated[
    Path | None,
    Input("File of texts", key="features_data", folded="Texts", placeholder="the world's documents, or question sets"),
]
Count = Annotated[int, Input("Texts", key="features_n", within=(16, 20_000), folded="Texts")]
Seed = Annotated[int, Input("Seed", key="features_seed", advanced=True)]


class Window(NamedTuple):
    """Tokens around the one with the largest activation of a text."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    """Activations at these tokens; 0 at the first one of the text."""
    at: int
    """Number of the marked token among them."""
    row: str
    """Name of the text."""


@dataclass(frozen=True)
class TopTexts(Drawable):
    """Texts that activate a neuron, a head or a feature most."""

    unit: str
    """Short name of the unit."""
    words: str
    """Name of the unit in words."""
    windows: tuple[Window, ...]
    """Top texts, the largest activation first."""
    activations: pd.DataFrame
    """Histogram: `low`, `high` (ends of each bar), `tokens`."""
    active: float
    """Share of tokens at which it is active: of a feature above 0, else above half of its largest activation."""
    tokens: int
    """Number of tokens, without the first one of each text."""
    shared: pd.DataFrame
    """One row per property (`SHARED`), the rarest among random directions first: `property`, `token`, `share` of the
    top texts that have the commonest token, `everywhere` (its share of all tokens), `random` (mean share for random
    directions, each with its own token) and `as_good` (share of random directions that have as large a share).
    """
    variable: pd.DataFrame
    """Variable of the world that the unit tells best, without rows where there is no world: `variable`, `f1`,
    `constant`, `random` (mean F1 of random directions, each with its own variable) and `as_good` (share of random
    directions with as large an F1).
    """
    promoted: pd.DataFrame
    """Tokens that its output direction promotes and suppresses (`probe.logits.parts.PromotedTokens.table`); without
    rows for a model that reads out a number.
    """
    remarks: tuple[str, ...] = ()
    """Notes on rows that were left out, and on the unit."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What a reader of the texts must know."""
        lead = (
            f"Colour: activation, up to {self.largest:.3g}. At most one place of each text is listed, of"
            f" {self.tokens:,} tokens; the first token of each text is left out."
        )
        return (lead, *self.remarks)

    @property
    def largest(self) -> float:
        """Largest activation."""
        window = self.windows[0]
        return window.values[window.at]

    def sentence(self) -> str:
        """State when the unit is active, what its top texts share beside random directions, and the variable."""
        best, count = self.shared.iloc[0], len(self.windows)
        active = "active" if self.unit.startswith("F") else "above half of its largest activation"
        alike = f"in {round(best['share'] * count)} of its {count} top texts {best['property']}"
        found = [(best["as_good"], f"{alike} \u201c{best['token']}\u201d")]
        for row in rows_of(self.variable):
            told = f"of the world's variables it tells \u201c{row.variable}\u201d best, with an F1 of {row.f1:.2f}"
            found.append((row.as_good, told))
        parts = [f"{text}: {beside_random(as_good)}" for as_good, text in sorted(found, key=itemgetter(0))]
        said = ". ".join(f"{part[0].upper()}{part[1:]}" for part in parts)
        return f"In {self.looks[0].name}, {self.words} is {active} at {rate(self.active)} of tokens. {said}."

    def chips(self) -> TokenRows:
        """Return the top texts with their activations as colours."""
        rows = []
        for number, window in enumerate(self.windows, start=1):
            chips = [
                Chip(
                    text=text,
                    tip=f"{self.unit}: {value:.3g}" + f"\n{window.row}" * (at == window.at),
                    strength=STRONGEST * float(np.clip(value / max(abs(self.largest), 1e-9), -1, 1)),
                    prompt=at != window.at,
                )
                for at, (text, value) in enumerate(zip(window.tokens, window.values, strict=True))
            ]
            label = f"{number}: {window.values[window.at]:.3g}".replace("-", "\u2212")
            rows.append(TokenRow(label=label, colour=self.looks[0].colour, tokens=chips))
        return TokenRows(rows=rows)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the histogram, the top texts, what they share, the variable and the promoted tokens."""
        texts = pd.DataFrame(
            {
                "rank": rank,
                "row": window.row,
                "activation": window.values[window.at],
                "token": window.tokens[window.at],
                "before": " ".join(window.tokens[: window.at]),
                "after": " ".join(window.tokens[window.at + 1 :]),
            }
            for rank, window in enumerate(self.windows, start=1)
        )
        rest = {"texts": texts, "shared": self.shared, "variable": self.variable}
        return {"activations": self.activations, "promoted": self.promoted, **rest}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the top texts, what they share, and the promoted tokens."""
        tables = self.tables()
        renamed = {"random": "random directions", "as_good": "of which as alike"}
        shared = tables["shared"].rename(columns=renamed)
        found = {"Top texts": tables["texts"], "What they share": shared}
        if len(self.promoted):
            columns = ["side", "token", "value", "above_mean"]
            names = ["side", "token", "logit", "above the mean"]
            found["Promoted tokens"] = self.promoted[columns].set_axis(names, axis=1)
        return found

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the histogram of activations, and the tokens that the unit promotes."""
        from probe.features.figures import activation_histogram, promoted_by

        colour, name = self.looks[0].colour, self.looks[0].name
        histogram = activation_histogram(self.activations, colour, 0.0 if self.unit[0] == "F" else self.largest / 2)
        charts = {"activations": titled(histogram, f"Activations of {self.unit} in {name}", HEIGHT)}
        if len(self.promoted):
            bars = promoted_by(self.promoted, self.unit, colour)
            charts["promoted"] = titled(bars, f"What {self.unit} promotes and suppresses", HEIGHT)
        return charts


def top_texts_seconds(lm: LM, data: Any = None, n: int = TEXTS, seed: int = 1, **rest: Any) -> float:
    """Estimate the seconds that reading the texts takes."""
    found, _ = read_pieces([lm], data, Selection(n, seed))
    return seconds_to_read(lm, sum(len(piece.ids) for piece in found))


@analysis(
    "features",
    title="Top texts",
    equations=(NORM, PROMOTES),
    seconds=top_texts_seconds,
    key="features",
    widths=((9, 11),),
)
def top_texts(
    lm: LM,
    *,
    features: Fitted = None,
    unit: Named = None,
    data: Data = None,
    n: Count = TEXTS,
    seed: Seed = 1,
    tick: Tick = ignore,
) -> TopTexts:
    """Find the texts that activate a neuron, a head or a feature most, and compare what they share with random ones.

    The activation of a neuron (`L2N17`) is its value after the activation function, that of a head (`L1H3`) the norm of
    what it writes, that of a feature (`F12`) comes from the encoder. *Promotes*: its output direction d through the
    gain of the final norm and the unembedding, as the logit lens reads it; the direction of a head is the mean of what
    it writes at the marked tokens minus its mean over these texts. A random direction of the residual stream after the
    same block has top texts too, and they share something, too: 100 of them stand beside each statement. In a world F1
    says how well the unit tells its best variable at the last token of questions; variable and threshold are chosen on
    one half of the questions and tested on the other.

    Args:
        lm: the model.
        features: features of this model: a fit that is found for it, or a folder (`probe features fit`, SAELens).
        unit: neuron (`L2N17`), head (`L1H3`), or feature of the fit (`F12`).
        data: file of texts: rows with `text`, `messages`, or `prompt`; or a text file. By default documents of the
            model's world, or the built-in question sets.
        n: number of texts that are drawn.
        seed: seed of the texts and the random directions.
        tick: progress.

    Raises:
        ConfigError: there is no such unit, or the features do not fit the model.
        DataError: the texts or the features cannot be read.
        ModelError: the MLPs of the architecture have no neurons.
    """
    found = open_fit(features, lm)
    place = find_unit(lm, unit or usual_unit(lm, features=found), found)
    texts, remarks = distinct_pieces([lm], data, n, seed)
    axes = random_axes(lm.bridge.cfg.d_model, seed=seed)
    own, random, everything = Leaders(SHOWN), Leaders(SHOWN), list[torch.Tensor]()
    numbers = {id(piece): at for at, piece in enumerate(texts)}
    for group, done in read_units([lm], place, found, texts, axes):
        for each in group:
            own.add(numbers[id(each.piece)], each.own)
            random.add(numbers[id(each.piece)], each.random)
            everything.append(each.own[1:, 0])
        tick(0.8 * done)
    values = torch.cat(everything).numpy()
    limit = 0.0 if place.kind == "feature" else float(values.max()) / 2
    if not values.max() > 0:
        raise DataError(f"{place.name} is active at none of {len(values):,} tokens: choose another one, or more texts.")
    kept = int((own.values[:, 0] > 0).sum())
    windows = _windows(lm, place, found, texts, own, kept, axes)
    words = {
        "neuron": f"neuron {place.index} of block {place.layer}",
        "head": f"head {place.index} of block {place.layer}",
        "feature": f"feature {place.index} after block {place.layer}",
    }[place.kind]
    return TopTexts(
        place.name,
        words,
        windows,
        histogram(values),
        float((values > limit).mean()),
        len(values),
        shared_tokens(lm, texts, own, random, kept),
        best_variable(lm, place, found, axes, between(tick, 0.8, 1.0)),
        promoted_by_unit(lm, place, found, texts, own, kept),
        remarks,
    )


def beside_random(share: float) -> str:
    """Say how many of the random directions reach as much, and what follows."""
    reach = f"{round(RANDOM * share) or 'none'} of {RANDOM} random directions come as far"
    return reach + ", so this says little about it" * bool(share > RARE)


def distinct_pieces(lms: Sequence[LM], data: Path | None, n: int, seed: int) -> tuple[list[Piece], tuple[str, ...]]:
    """Return the pieces of the drawn texts without repetitions, and notes on rows that were left out.

    Raises:
        ConfigError, DataError: see `probe.features.streamed_states.read_pieces`.
    """
    found, notes = read_pieces(lms, data, Selection(n, seed))
    return list({tuple(piece.ids): piece for piece in found}.values()), notes


def histogram(values: np.ndarray) -> pd.DataFrame:
    """Return the numbers of tokens by activation: `low`, `high`, `tokens`; zeros have a bar of their own."""
    rest = values[values != 0]
    counts, ends = np.histogram(rest, bins=BINS)
    table = pd.DataFrame({"low": ends[:-1], "high": ends[1:], "tokens": counts})
    zeros = len(values) - len(rest)
    own = pd.DataFrame([{"low": 0.0, "high": 0.0, "tokens": zeros}] if zeros else [])
    return pd.concat([own, table], ignore_index=True) if zeros else table


def commonest(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the commonest token [U] of each column of [N U] ids, -1 left out, and its share of the rows."""
    best = [Counter(column[column >= 0].tolist()).most_common(1) for column in tokens.T]
    ids = np.array([each[0][0] if each else -1 for each in best])
    return ids, np.array([each[0][1] if each else 0 for each in best]) / max(len(tokens), 1)


def shared_tokens(lm: LM, texts: Sequence[Piece], own: Leaders, random: Leaders, kept: int) -> pd.DataFrame:
    """Return what the top texts share (`TopTexts.shared`)."""
    counts = Counter(token for piece in texts for token in piece.ids[1:])
    rows = []
    for shift, words in SHARED.items():
        (token,), (share,) = commonest(own.tokens(texts, shift)[:kept, :1])
        _, others = commonest(random.tokens(texts, shift)[:kept])
        rows.append(
            {
                "property": words,
                "token": pieces(lm.tokenizer, [token])[0] if token >= 0 else "",
                "share": float(share),
                "everywhere": counts[int(token)] / counts.total(),
                "random": float(others.mean()),
                "as_good": float((others >= share).mean()),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["as_good", "random"], kind="stable", ignore_index=True)


def best_variable(
    lm: LM, place: UnitPlace, features: Features | None, axes: torch.Tensor, tick: Tick = ignore
) -> pd.DataFrame:
    """Return the variable of the model's world that a unit tells best (`TopTexts.variable`)."""
    columns = ["variable", "f1", "constant", "random", "as_good"]
    world = probe.world.of(lm)
    if world is None:
        return pd.DataFrame(columns=columns)
    prompts, variables = world_variables(world)
    values = np.zeros((len(prompts), 1 + axes.shape[1]), dtype=np.float32)
    questions = [Piece(encode(lm.tokenizer, prompt), str(at)) for at, prompt in enumerate(prompts)]
    for group, done in read_units([lm], place, features, questions, axes):
        for each in group:
            values[int(each.piece.row)] = torch.cat([each.own[-1], each.random[-1]]).numpy()
        tick(done)
    table = best_variables(values, variables)
    random = table["f1"].iloc[1:]
    as_good = float((random >= table["f1"].iloc[0]).mean())
    return table.head(1).assign(random=float(random.mean()), as_good=as_good)[columns]


def promoted_by_unit(
    lm: LM, place: UnitPlace, features: Features | None, texts: Sequence[Piece], own: Leaders, kept: int
) -> pd.DataFrame:
    """Return the tokens that the output direction of a unit promotes (`TopTexts.promoted`)."""
    if lm.readout != "tokens":
        return pd.DataFrame(columns=["part", "side", "rank", "id", "token", "value", "above_mean"])
    if place.kind == "neuron":
        direction = neuron_weights(lm, place.layer)[place.index]
    elif place.kind == "feature":
        assert features is not None
        direction = features.model.W_dec[place.index, -1]
    else:
        direction = written_at(lm, place, texts, own, kept)
    return direction_tokens(lm, direction, place.name, TOKENS).table()


@torch.no_grad()
def written_at(lm: LM, place: UnitPlace, texts: Sequence[Piece], own: Leaders, kept: int) -> torch.Tensor:
    """Return [d] mean of what a head writes at the marked tokens minus its mean at all tokens of these texts."""
    name = Site("head", place.layer).hook
    weight = output_weights(lm, place.layer)[0][place.index]
    marked, every = [], []
    for number, at in zip(own.pieces[:kept, 0].tolist(), own.positions[:kept, 0].tolist(), strict=True):
        _, cache = lm.run_with_cache([texts[number].ids], [name])
        z = cache[name].reshape(len(texts[number].ids), -1, len(weight))[:, place.index].float()
        marked.append(z[at])
        every.append(z[1:])
    return (torch.stack(marked).mean(0) - torch.cat(every).mean(0)) @ weight.to(z.device)


def _windows(
    lm: LM,
    place: UnitPlace,
    features: Features | None,
    texts: Sequence[Piece],
    own: Leaders,
    kept: int,
    axes: torch.Tensor,
) -> tuple[Window, ...]:
    """Return the tokens around the marked ones with their activations."""
    numbers = own.pieces[:kept, 0].tolist()
    chosen = [texts[number] for number in numbers]
    values = {
        id(each.piece): each.own[:, 0].tolist()
        for group, _ in read_units([lm], place, features, chosen, axes)
        for each in group
    }
    windows = []
    for piece, at in zip(chosen, own.positions[:kept, 0].tolist(), strict=True):
        start, end = max(0, at - BEFORE), at + AFTER + 1
        tokens = tuple(pieces(lm.tokenizer, piece.ids[start:end]))
        own_values = [0.0, *values[id(piece)][1:]]
        windows.append(Window(tokens, tuple(own_values[start:end]), at - start, piece.row))
    return tuple(windows)
