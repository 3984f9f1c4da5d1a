"""All features of a fit: how often each is active, what its top texts share, which variable it tells, what it promotes.

Among many features some match a variable by chance. So the count of those that match better than the best of 100 random
directions stands beside the count that chance alone would give.

Axes: N questions, U units, R random directions, F features, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError
from probe.features.activating_texts import (
    SHARED,
    SHORT,
    SHOWN,
    TEXTS,
    Count,
    Data,
    Fitted,
    Seed,
    commonest,
    distinct_pieces,
    top_texts_seconds,
)
from probe.features.feature_files import Features
from probe.features.known_fits import open_fit
from probe.features.streamed_states import Piece
from probe.features.unit_activations import RANDOM, Leaders, block_of, random_axes, read_units
from probe.features.variables import best_variables, world_variables
from probe.hallucination.figures import rows_of
from probe.logits.direct import unembedding
from probe.logits.parts import logit_directions
from probe.model.lm import LM
from probe.model.text import encode, pieces
from probe.numbers import rate
from probe.plotting.notebook import Drawable, Look, alone, clickable, opening, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

PROMOTED = 5
"""Number of tokens that are listed for each feature."""
LISTED = 2000
"""Largest number of features in a table for reading."""
AT_ONCE = 2**24
"""Number of logits that are computed at once."""
HEIGHT = 380
"""Height of the figure in pixels."""
F1 = r"F_1 = \frac{2\, \text{hits}}{\text{active} + \text{present}}"
NEEDS = (
    "No features of this model were found: fit some with `probe features fit MODEL` (a minute for a sample model), or"
    " give their folder."
)
Marked = Annotated[str | None, Input("Neuron, head or feature", key="unit", advanced=True)]
"""Feature that is marked in the figure."""


@dataclass(frozen=True)
class FeatureTable(Drawable):
    """All features of a fit of one model."""

    features: pd.DataFrame
    """One row per feature: `feature` (`F12`), `active` (share of tokens), `largest` (activation), `property` and
    `token` that its top texts share with the `share` of them, `promotes` and `suppresses` (tokens); in a world
    `variable`, `f1`, `constant` and `match` (F1 above that of a unit that is always active).
    """
    random: pd.DataFrame
    """One row per random direction: `share`, and in a world `match`."""
    block: int
    """Block after which they read."""
    tokens: int
    """Number of tokens."""
    remarks: tuple[str, ...] = ()
    """Notes on rows that were left out."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """How the control is made."""
        return (
            f"Control: {RANDOM} random directions of the residual stream after the same block. What a feature tells is"
            " chosen on one half of the questions and measured on the other; both halves ask about the same people.",
            *self.remarks,
        )

    @property
    def has_world(self) -> bool:
        """Whether the features were compared with variables of a world."""
        return "match" in self.features

    @property
    def beyond(self) -> pd.DataFrame:
        """Features that match a variable better than every random direction."""
        return self.features[self.features["match"] > self.random["match"].max()]

    def sentence(self) -> str:
        """State how many features are active, and how many match a variable beside random directions."""
        table = self.features
        used = table[table["active"] > 0]
        told = (
            f"{len(used):,} of {len(table):,} features after block {self.block} of {self.looks[0].name} are active in"
            f" {self.tokens:,} tokens, half of them at {rate(float(used['active'].median()))} of the tokens or less."
        )
        if not self.has_world:
            return (
                f"{told} Their top texts share a token or its neighbour in {rate(float(used['share'].mean()))} of the"
                f" cases, those of random directions in {rate(float(self.random['share'].mean()))}."
            )
        beyond, count = self.beyond, len(self.random)
        best = table.iloc[int(table["match"].to_numpy().argmax())]
        names = list(beyond["variable"].value_counts().index)
        listed = f" ({', '.join(names[:4])}{', ...' * (len(names) > 4)})" * bool(names)
        return (
            f"{told} {len(beyond)} of them tell a variable of the world better than the best of {count} random"
            f" directions, where chance gives about {len(table) / (count + 1):.0f}{listed}. The best is"
            f" {best['feature']}: \u201c{best['variable']}\u201d with an F1 of {best['f1']:.2f}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the features and the random directions."""
        return {"features": self.features, "random": self.random}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the features, those that match best first; a row opens its top texts."""
        order = ["match", "share"] if self.has_world else ["share", "largest"]
        rows = self.features.sort_values(order, ascending=False, kind="stable").head(LISTED)
        names = {"feature": "feature", "active": "active", "largest": "largest activation"}
        names |= {"variable": "tells", "f1": "F1"} if self.has_world else {}
        shown = rows[list(names)].rename(columns=names)
        shown["top texts share"] = [
            f"{SHORT[each.property]} {each.token} ({rate(each.share)})" for each in rows_of(rows)
        ]
        shown["promotes"], shown["suppresses"] = rows["promotes"], rows["suppresses"]
        return {"Features": opening(shown, "top_texts", [{"unit": name} for name in rows["feature"]])}

    def figures(self, unit: Marked = None) -> "dict[str, go.Figure]":
        """Draw each feature by how often it is active and how well it matches, beside random directions.

        Args:
            unit: feature to mark.
        """
        from probe.features.figures import features_by_match

        measure = "match" if self.has_world else "share"
        chart = features_by_match(self.features, self.random[measure], measure, unit, self.looks[0].colour)
        title = f"Features after block {self.block} of {self.looks[0].name}"
        return {"features": titled(clickable(chart, unit="customdata"), title, HEIGHT)}


def table_seconds(lm: LM, features: Any = None, **rest: Any) -> float:
    """Estimate the seconds that reading the texts takes."""
    return 1.5 * top_texts_seconds(lm, **rest) if features else 0.0


@analysis("features", title="All features", equations=(F1,), seconds=table_seconds, key="features")
def list_features(
    lm: LM, *, features: Fitted = None, data: Data = None, n: Count = TEXTS, seed: Seed = 1, tick: Tick = ignore
) -> FeatureTable:
    """List all features of a fit: how often each is active, what its top texts share, what it tells and promotes.

    *Active* is the share of tokens with an activation above 0. In a world, *tells* is the variable that the activation
    at the last token of a question tells best, by the F1 above that of a unit that is always active; variable and
    threshold are chosen on one half of the questions, and F1 is measured on the other. Without a world features are
    ordered by the share of their top texts with the same token, or the same token before or after it. 100 random
    directions of the residual stream go through the same measurement. Promoted tokens: see `top_texts`.

    Args:
        lm: the model.
        features: features of this model: a fit that is found for it, or a folder (`probe features fit`, SAELens).
        data: file of texts; by default documents of the model's world, or the built-in question sets.
        n: number of texts that are drawn.
        seed: seed of the texts and the random directions.
        tick: progress.

    Raises:
        ConfigError: there are no features, or they do not fit the model.
        DataError: the texts or the features cannot be read.
    """
    found = open_fit(features, lm)
    if found is None:
        raise ConfigError(NEEDS)
    texts, remarks = distinct_pieces([lm], data, n, seed)
    axes = random_axes(lm.bridge.cfg.d_model, seed=seed)
    table, random, tokens = describe_features([lm], found, texts, axes, tick)
    lists = promoted_lists(lm, found.model.W_dec[:, -1])
    return FeatureTable(table.assign(**lists), random, block_of(found), tokens, remarks)


def describe_features(
    lms: Sequence[LM], features: Features, texts: Sequence[Piece], axes: torch.Tensor, tick: Tick = ignore
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Return one row per feature, one per random direction, and the number of tokens.

    The rows are those of `FeatureTable` without the promoted tokens.
    """
    own, random, count = Leaders(SHOWN), Leaders(SHOWN), 0
    active = torch.zeros(features.model.shape[2], dtype=torch.float64)
    numbers = {id(piece): at for at, piece in enumerate(texts)}
    for group, done in read_units(lms, None, features, texts, axes):
        for each in group:
            own.add(numbers[id(each.piece)], each.own)
            random.add(numbers[id(each.piece)], each.random)
            active += (each.own[1:] > 0).sum(0)
            count += len(each.own) - 1
        tick(0.8 * done)
    table = pd.DataFrame({"feature": [f"F{at}" for at in range(len(active))], "active": (active / count).numpy()})
    table["largest"] = own.values[0].numpy()
    table = pd.concat([table, _shared(lms[-1], texts, own)], axis=1)
    control = _shared(lms[-1], texts, random)[["share"]]
    world = probe.world.of(lms[-1])
    if world is not None:
        matches = _matches(lms, features, axes, between(tick, 0.8, 1.0))
        table = pd.concat([table, matches.head(len(table))], axis=1)
        control["match"] = matches["match"].tail(len(control)).to_numpy()
    return table, control, count


def _shared(lm: LM, texts: Sequence[Piece], leaders: Leaders) -> pd.DataFrame:
    """Return for each unit the property that most of its top texts share: `property`, `token`, `share`."""
    rows = [commonest(np.where(leaders.values.numpy() > 0, leaders.tokens(texts, shift), -1)) for shift in SHARED]
    ids, shares = (np.stack(each) for each in zip(*rows, strict=True))
    best = shares.argmax(0)
    chosen, names = ids[best, np.arange(ids.shape[1])], list(SHARED.values())
    known = iter(pieces(lm.tokenizer, chosen[chosen >= 0].tolist()))
    tokens = [next(known) if token >= 0 else "" for token in chosen]
    return pd.DataFrame({"property": [names[at] for at in best], "token": tokens, "share": shares.max(0)})


def _matches(lms: Sequence[LM], features: Features, axes: torch.Tensor, tick: Tick = ignore) -> pd.DataFrame:
    """Return for each feature, then each random direction, the variable that it tells best."""
    world = probe.world.of(lms[-1])
    assert world is not None
    prompts, variables = world_variables(world)
    questions = [Piece(encode(lms[-1].tokenizer, prompt), str(at)) for at, prompt in enumerate(prompts)]
    values = np.zeros((len(prompts), features.model.shape[2] + axes.shape[1]), dtype=np.float32)
    for group, done in read_units(lms, None, features, questions, axes):
        for each in group:
            values[int(each.piece.row)] = torch.cat([each.own[-1], each.random[-1]]).numpy()
        tick(done)
    table = best_variables(values, variables)
    return table.assign(match=table["f1"] - table["constant"])


@torch.no_grad()
def promoted_lists(lm: LM, directions: torch.Tensor) -> dict[str, list[str]]:
    """Return the tokens that each direction [F d] promotes and suppresses most, as texts."""
    normed = logit_directions(lm, directions)
    rows = unembedding(lm)
    found: dict[str, list[str]] = {"promotes": [], "suppresses": []}
    for part in normed.split(max(1, AT_ONCE // len(rows))):
        logits = part @ rows.T
        for name, sign in (("promotes", 1), ("suppresses", -1)):
            best = (sign * logits).topk(min(PROMOTED, len(rows)), dim=-1).indices
            found[name] += [" ".join(pieces(lm.tokenizer, row)) for row in best.tolist()]
    return found
