"""Every site of a model patched or ablated alone, with estimates from one backward pass.

Axes: D blocks, H heads, T tokens; a grid has a row for each block and a column for each head or token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input, Preview, Prompt
from probe.analyses.catalogue import analysis
from probe.interventions.controls import place
from probe.interventions.patching import (
    Ablation,
    Agreement,
    Direction,
    Filling,
    Patching,
    ablate,
    agreement,
    attribute,
    patch,
)
from probe.interventions.requested_change import (
    EFFECT,
    ESTIMATE,
    EVERY,
    SHARE,
    AblateHow,
    Against,
    Answer,
    At,
    Change,
    Corrupted,
    InChat,
    MeasuredTexts,
    PatchHow,
    Reference,
    Rival,
    Scale,
    SiteKind,
    same_question,
    scale_of,
)
from probe.interventions.sites import Site
from probe.model.lm import LM
from probe.model.text import pieces
from probe.plotting.chips import Chip, TokenRow, TokenRows
from probe.plotting.notebook import Drawable, Look, alone, clickable, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT, LOWER = 300, 240
"""Heights in pixels of the grid, and of the two figures that compare it with its estimates."""
NAMES = {"head": "head", "resid": "residual after each block", "mlp": "MLP output", "attn": "attention output"}
"""Name of each kind of sites, as it follows "each"."""
SITES = {"head": "heads", "resid": "tokens at half depth", "mlp": "MLP outputs", "attn": "attention outputs"}
"""Sites among which the strongest is chosen."""


def first_layer(found: "EverySite") -> int:
    """Return the block of the site to show first."""
    return found.strongest[0]


def first_column(found: "EverySite") -> int:
    """Return the head or the token of the site to show first."""
    return found.strongest[1]


def layers_within(found: "EverySite") -> tuple[int, int]:
    """Return the first and the last block; -1 is the embedding."""
    return found.grid.layers[0], found.grid.layers[-1]


def columns_within(found: "EverySite", heads: bool) -> tuple[int, int]:
    """Return the first and the last head, or token; twice the same if the sites have none."""
    return 0, len(found.columns) - 1 if heads == (found.grid.kind == "head") else 0


Block = Annotated[int | None, Input("Block", key="int_layer", first=first_layer, within=layers_within)]
Head = Annotated[
    int | None, Input("Head", key="int_head", first=first_column, within=partial(columns_within, heads=True))
]
Token = Annotated[
    int | None,
    Input("Token", key="int_token", first=first_column, within=partial(columns_within, heads=False), instead="at"),
]


@dataclass(frozen=True)
class EverySite(Drawable):
    """Effect on the target when each site of a kind is changed alone."""

    grid: Patching | Ablation
    """Effects of every site, run or estimated."""
    estimate: Patching | Ablation
    """Effects of every site, estimated from one backward pass."""
    change: Change
    """Requested change."""
    question: MeasuredTexts
    """Texts, and the quantity that is measured."""
    rows: tuple[tuple[str, ...], ...]
    """[T] readable tokens of each text."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def scale(self) -> Scale:
        """Unit of the effects."""
        gap = self.grid.clean - self.grid.corrupted if isinstance(self.grid, Patching) else 0.0
        return scale_of(self.change, self.question, gap)

    @property
    def columns(self) -> list[str]:
        """Names of the heads, or tokens."""
        from probe.interventions.figures import head_labels

        return head_labels(self.grid.effects.shape[1]) if self.grid.kind == "head" else self.grid.tokens

    @property
    def differing(self) -> list[int]:
        """Return the tokens in which the two texts differ."""
        first, last = self.question.clean, self.question.corrupted or self.question.clean
        return [at for at, (ours, theirs) in enumerate(zip(first, last, strict=True)) if ours != theirs]

    @property
    def strongest(self) -> tuple[int, int]:
        """(layer, head or token) of the site to show first: see `strongest_cell`."""
        return strongest_cell(self.grid)

    @property
    def agreement(self) -> Agreement:
        """Return the correlation of exact effects and estimates."""
        return agreement(self.grid.effects, self.estimate.effects)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on what a cell is, how well the estimates agree, and which answer tokens are compared."""
        unit = f"a head at {self.change.where}" if self.grid.kind == "head" else "one block at one token"
        name, found = self.question.target.name, self.agreement
        if self.change.patches:
            texts = ("clean", "corrupted") if self.change.how == "denoise" else ("corrupted", "clean")
            cells = (
                f"Each cell patches the {texts[0]} activation of {unit} into the {texts[1]} run, and shows how far"
                f" {name} moves towards the {texts[0]} run (1 = all the way)."
            )
        else:
            stands = {
                "mean": "its mean over reference texts",
                "zero": "zeros",
                "resample": "activations of other texts",
            }
            cells = (
                f"Each cell replaces {unit} by {stands[self.change.how]} and shows the change of {name} at the"
                " last token (blue: up, orange: down)."
            )
        if not self.grid.exact:
            agrees = "The cells are estimates from one backward pass, exact to first order only."
        elif np.isnan(found.pearson):
            agrees = f"The exact or the estimated effects of all {found.n} sites are equal, so there is no correlation."
        else:
            agrees = (
                f"One backward pass estimates all {found.n} sites; over them the estimate and the exact effect "
                f"correlate with {found.pearson:.2f} (Pearson) and {found.spearman:.2f} (Spearman)."
            ).replace("-", "\u2212")
        return (cells, agrees, *self.question.notes)

    def _site(self, layer: int | None, head: int | None, token: int | None) -> Site:
        """Return the chosen site; unspecified coordinates are those of the strongest site."""
        row, column = self.strongest
        heads = self.grid.kind == "head"
        chosen = head if heads else token
        column = column if chosen is None else chosen
        row = row if layer is None else layer
        return Site("head", row, column, self.grid.position) if heads else Site(self.grid.kind, row, None, column)

    def sentence(self) -> str:
        """Name the site whose change moves the target most; in the residual stream, at half depth."""
        row, column = self.strongest
        scale, kind = self.scale, self.grid.kind
        effect = float(self.grid.effects[self.grid.layers.index(row), column])
        count = self.grid.effects.shape[1] if kind == "resid" else self.grid.effects.size
        site = "the " * (kind == "resid") + place(self._site(row, column, column), self.grid.tokens)
        does = {"denoise": "it restores ", "noise": "it removes "}[self.change.how] if scale.share else "by "
        guess = "" if self.grid.exact else ", as one backward pass estimates it"
        way = "patching" if self.change.patches else "ablating"
        return (
            f"{self.looks[0].name}: of {count} {SITES[kind]}, {way} {site} changes {self.question.words} most: "
            f"{does}{scale.number(effect)}{guess}."
        )

    def chips(self, layer: Block = None, head: Head = None, token: Token = None) -> TokenRows:
        """Return the texts token by token, with the tokens coloured in which they differ.

        Args:
            layer: block of the chosen site; by default that of the strongest one.
            head: head of the chosen site.
            token: token of the chosen site; it is marked.
        """
        at = self._site(layer, head, token).position
        name = "at" if self.grid.kind == "head" else "token"
        rows = []
        labels = ("clean", "corrupted")[: len(self.rows)] if len(self.rows) > 1 else ("prompt",)
        for label, own, other in zip(labels, self.rows, self.rows[::-1], strict=True):
            tips = [
                f"token {index}: {text}" + f"\nthe other text has {other[index]}" * (index in self.differing)
                for index, text in enumerate(own)
            ]
            chips = [
                Chip(text=text, tip=tip, strength=0.7 * (index in self.differing), prompt=True, inputs={name: index})
                for index, (text, tip) in enumerate(zip(own, tips, strict=True))
            ]
            colour = "transparent" if label == "corrupted" else self.looks[0].colour
            rows.append(TokenRow(label=label, colour=colour, tokens=chips))
        return TokenRows(rows=rows, chosen=(0, -1 if at is None else at))

    def figures(
        self, layer: int | None = None, head: int | None = None, token: int | None = None
    ) -> "dict[str, go.Figure]":
        """Draw the effect of every site, and if every site was run, the estimates and their agreement."""
        from probe.interventions.figures import exact_against_estimate, layer_labels

        site, what = self._site(layer, head, token), "Patch" if self.change.patches else "Ablate"
        kind = self.grid.kind
        where = "" if kind != "head" or self.change.position is None else f" at {self.change.where}"
        title = (
            f"{what} {'the' if kind == 'resid' else 'each'} {NAMES[kind]}{where}{' (estimate)' * (not self.grid.exact)}"
        )
        cell = site.layer, int(site.position or 0) if site.head is None else site.head
        charts = {"grid": titled(clickable(self._grid(self.grid, cell), **self._clicks()), title, HEIGHT)}
        if not self.grid.exact:
            return charts
        name = "Attribution patching" if self.change.patches else "Gradient times change"
        both = [self.grid.effects, self.estimate.effects]
        charts["estimate"] = titled(self._grid(self.estimate, cell, both), f"{name}: the estimate", LOWER)
        scale, found = self.scale, self.agreement
        names = [f"{row}, {column}" for row in layer_labels(self.grid.layers) for column in self.columns]
        ours, theirs = (each.ravel() / scale.unit for each in both)
        chart = exact_against_estimate(ours, theirs, names, label=scale.axis, colour=self.looks[0].colour)
        measured = f": Pearson {found.pearson:.2f}, Spearman {found.spearman:.2f}" * (not np.isnan(found.pearson))
        return charts | {"agreement": titled(chart, f"Exact against estimate{measured}".replace("-", "\u2212"), LOWER)}

    def _clicks(self) -> dict[str, str]:
        """Return the values that a click on a cell sets: the block, and the head or the token."""
        return {"layer": "customdata", "head" if self.grid.kind == "head" else "token": "x"}

    def _grid(
        self, grid: Patching | Ablation, cell: tuple[int, int], scaled_by: Sequence[np.ndarray] = ()
    ) -> "go.Figure":
        """Draw one grid on a scale that also covers the given effects."""
        from probe.interventions.figures import effect_grid

        scale, heads = self.scale, grid.kind == "head"
        largest = max(float(np.abs(each).max()) for each in (grid.effects, *scaled_by)) / abs(scale.unit)
        return effect_grid(
            grid.effects / scale.unit,
            grid.layers,
            self.columns,
            label=scale.label if grid.exact else f"estimated {scale.label}",
            axis="head" if heads else "token",
            chosen=cell,
            marked=() if heads else self.differing,
            bound=max(1.0, largest) if scale.share else largest if scaled_by else None,
            height=LOWER if scaled_by else HEIGHT,
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per site: its effect, and its estimate if every site was run."""
        table = self.grid.table()
        if not self.grid.exact:
            return {"grid": table}
        guess = self.estimate.table()
        return {"grid": table.assign(estimate=guess["effect"]), "estimate": guess}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the sites in descending order of the change of the target."""
        scale, table = self.scale, self.tables()["grid"]
        sites = [self._site(row["layer"], row.get("head"), row.get("position")) for row in table.to_dict("records")]
        shown = pd.DataFrame({"site": [place(site, self.grid.tokens) for site in sites]})
        for name, column in {scale.axis: "effect", f"estimated {scale.axis}": "estimate"}.items():
            if column in table:
                shown[name if self.grid.exact else f"estimated {name}"] = table[column] / scale.unit
        order = table["effect"].abs().sort_values(ascending=False, kind="stable").index
        return {"Sites": shown.loc[order].reset_index(drop=True)}


def strongest_cell(grid: Patching | Ablation) -> tuple[int, int]:
    """Return (layer, column) of the site whose change moves the target most.

    In the residual stream it is the strongest one at half depth: near the embedding or the output the answer would be
    trivial.
    """
    values = np.nan_to_num(np.abs(grid.effects))
    rows = [len(values) // 2] if grid.kind == "resid" else range(len(values))
    row = max(rows, key=lambda at: float(values[at].max()))
    return grid.layers[row], int(values[row].argmax())


def grids(
    lm: LM, change: Change, question: MeasuredTexts, exact: bool, tick: Tick = ignore
) -> list[Patching | Ablation]:
    """Return the effects of every site (run if `exact`) and their estimates.

    Raises:
        DataError: a reference text cannot be read, or a token lies outside the text.
    """
    target, kind, at = question.target, change.kind, change.position
    found: list[Patching | Ablation]
    if change.patches:
        pair, direction = question.pair(lm), cast("Direction", change.how)
        found = [attribute(lm, pair, target, [kind], direction, at)[kind]]
        return [patch(lm, pair, target, kind, direction, at, tick=tick), *found] if exact else found * 2
    run = partial(ablate, lm, question.clean, target, kind, change.filling(lm), at)
    found = [run(exact=False)]
    return [run(tick=tick), *found] if exact else found * 2


def change_every_site(lm: LM, change: Change, exact: bool, tick: Tick = ignore) -> EverySite:
    """Change every site, each alone; see `patch_every_site` and `ablate_every_site`."""
    question = change.question(lm)
    grid, guess = grids(lm, change, question, exact, tick)
    texts = [question.clean, *([question.corrupted] if question.corrupted else [])]
    return EverySite(grid, guess, change, question, tuple(tuple(pieces(lm.tokenizer, ids)) for ids in texts))


def grid_seconds(lm: LM, exact: bool, **inputs: Any) -> float:
    """Estimate the seconds that running every site takes; the estimates alone are quick."""
    if not exact:
        return 0.0
    change = Change.among(inputs)
    seconds, length = change.seconds_a_run(lm)
    return seconds * change.n_sites(lm, length) * (Filling.draws if change.how == "resample" else 1)


ESTIMATES = Preview("Run every site", {"exact": False})
"""Preview of a page on which running every site takes long: only the estimates."""


@analysis(
    "interventions",
    title="Patch every site",
    equations=(EFFECT, SHARE, ESTIMATE),
    seconds=grid_seconds,
    key="int_patch",
    settle=same_question,
    widths=((1,), (1, 1)),
    preview=ESTIMATES,
)
def patch_every_site(
    lm: LM,
    prompt: Prompt,
    *,
    kind: SiteKind = "head",
    how: PatchHow = "denoise",
    chat: InChat = False,
    corrupted: Corrupted = "",
    answer: Answer = "",
    against: Against = "",
    at: At = EVERY,
    exact: Annotated[bool, Input(advanced=True)] = True,
    tick: Tick = ignore,
) -> EverySite:
    """Replace the activation at every site, one at a time, by another prompt's, and measure the effect on an answer.

    A *site* is the residual stream after a block, a head's output before $W_O$, or the output of attention or MLP, at
    one token or at all tokens. *denoise* puts the clean activation into the corrupted run (is it enough?), *noise* the
    corrupted one into the clean run (is it needed?). On the share scale 0 is the unchanged run and 1 the other run
    (Meng et al. 2022; Heimersheim and Nanda 2024). The estimate (attribution patching: Nanda 2023; Syed et al. 2023) is
    the gradient of the target in the changed run times the change: it is exact only to first order.

    Args:
        lm: the model.
        prompt: the clean text.
        kind: heads, the residual stream after a block, or the output of MLP or attention.
        how: denoise: the clean activation into the corrupted run (is it enough?); noise: the reverse (needed?).
        chat: send both texts as a user's message in the model's chat template.
        corrupted: a text with as many tokens that asks for another answer; for a world's prompt it is derived.
        answer: answer to the clean text; by default that of its world, else the most probable token.
        against: answer to compare it with; by default the answer to the corrupted text.
        at: token at which heads are changed; -1 is every token.
        exact: run every site; otherwise all effects are estimated from one backward pass.
        tick: called with the completed share.

    Raises:
        DataError: no corrupted prompt with as many tokens is given or known; an answer has no tokens, or two answers
            differ in no token; the tokenizer does not know a word.
    """
    return change_every_site(lm, Change.among(locals()), exact, tick)


@analysis(
    "interventions",
    title="Ablate every site",
    equations=(EFFECT, ESTIMATE),
    seconds=grid_seconds,
    key="int_ablate",
    settle=same_question,
    widths=((1,), (1, 1)),
    preview=ESTIMATES,
)
def ablate_every_site(
    lm: LM,
    prompt: Prompt,
    *,
    kind: SiteKind = "head",
    how: AblateHow = "mean",
    chat: InChat = False,
    reference: Reference = "",
    answer: Answer = "",
    against: Rival = "",
    at: At = EVERY,
    exact: Annotated[bool, Input(advanced=True)] = True,
    tick: Tick = ignore,
) -> EverySite:
    """Ablate every site of a model, one at a time, and measure the effect on an answer.

    A *site* is the residual stream after a block, a head's output before $W_O$, or the output of attention or MLP, at
    one token or at all tokens. Its activation is replaced by zero, which takes the model off its usual distribution of
    activations; by the mean over reference texts; or by that of another text (8 draws; Chan et al. 2022). The estimate
    is the gradient of the target times the change: it is exact only to first order.

    Args:
        lm: the model.
        prompt: the text.
        kind: heads, the residual stream after a block, or the output of MLP or attention.
        how: replacement: the mean over reference texts, zero, or the activation of other texts.
        chat: send the prompt as a user's message in the model's chat template.
        reference: texts for means and resampled activations, one per line; by default questions of the model's world,
            or plain sentences if it has none.
        answer: answer to the prompt; by default that of its world, else the most probable token.
        against: answer to compare it with; by default its rival on this prompt, else the second most probable token.
        at: token at which heads are changed; -1 is every token.
        exact: run every site; otherwise all effects are estimated from one backward pass.
        tick: called with the completed share.

    Raises:
        DataError: an answer has no tokens, or two answers differ in no token; the tokenizer does not know a word.
    """
    return change_every_site(lm, Change.among(locals()), exact, tick)
