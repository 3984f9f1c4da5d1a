"""One site of a model patched or ablated, with null controls.

Axes: T tokens, A answers, N draws of a null.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input, Preview, Prompt
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.interventions.controls import DRAWS, InterventionEffect, NullEffects, intervene, place
from probe.interventions.every_site import HEIGHT, grids, strongest_cell
from probe.interventions.patching import Direction, estimates, sources
from probe.interventions.requested_change import (
    EFFECT,
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
from probe.interventions.sites import Activations, Site, hooks_of, layers_of, observe
from probe.logits.targets import value
from probe.model.in_memory import keep
from probe.model.lm import LM
from probe.numbers import rate
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

SMALL = 20_000_000_000
"""Maximum of parameters times tokens for running all sites of a grid to find the strongest; above it they are
estimated."""


@dataclass(frozen=True)
class OneSite(Drawable):
    """Effect on the target and the answers when one site is changed, with null controls."""

    outcome: InterventionEffect
    """Effect and its nulls."""
    change: Change
    """Requested change."""
    question: MeasuredTexts
    """Texts, and the quantity that is measured."""
    scale: Scale
    """Unit of the effects."""
    estimate: float
    """Effect as estimated from one backward pass, in nats."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def hooked(self) -> Sequence[int]:
        """Ids of the clean text."""
        return self.question.clean

    @property
    def site(self) -> Site:
        """Site that was changed."""
        return self.outcome.sites[0]

    def sentence(self) -> str:
        """Describe the effect of the change on the target, and the effects of its null controls."""
        site, outcome, number = self.site, self.outcome, self.scale.number
        where = "the " * (site.kind == "resid") + place(site, outcome.tokens)
        others, directions = outcome.nulls
        nulls = []
        if len(others.effects):
            count, mean = len(others.effects), number(float(others.effects.mean()))
            nulls.append(f"{count} {others.name if count > 1 else others.name.removesuffix('s')} {mean} on average")
        if len(directions.effects):
            nulls.append(f"random directions of the same norm {number(float(directions.effects.mean()))}")
        controls = f"; {', '.join(nulls)}" if nulls else ""
        model, target = self.looks[0].name, self.question.words
        if self.change.patches:
            does = f"moves {target} by {number(outcome.effect)}"
            if self.scale.share:
                verb = "restores" if self.change.how == "denoise" else "removes"
                does = f"{verb} {number(outcome.effect)} of {target}"
            return f"{model}: patching {where} {does}{controls}."
        odds = ""
        if outcome.answers:
            before, after = (100 * float(np.exp(values[0])) for values in (outcome.before, outcome.after))
            odds = f" (p({outcome.answers[0].strip('·')}) {before:.0f} % \u2192 {after:.0f} %)"
        way = "rises" if outcome.effect > 0 else "falls"
        by = f"{abs(outcome.effect):.2f}{self.question.nats}"
        return f"{model}: without {where}, {target} {way} by {by}{odds}{controls}."

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences on the effect against its nulls, the estimate from one backward pass, and the points."""
        told = [against_null(self.outcome.effect, null) for null in self.outcome.nulls if len(null.effects) > 1]
        beside = f"The effect {'; '.join(told)}. Every grey point is a null intervention." if told else ""
        drawn = any(len(null.effects) for null in self.outcome.nulls)
        none = (
            ""
            if drawn
            else "Without null controls it is unknown whether an equally large change elsewhere has the same effect."
        )
        guess = f"One backward pass estimates the effect of this site as {self.scale.number(self.estimate)}."
        return (*filter(None, (beside, none)), guess, *self.question.notes)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per run: without the change, with it, and every null."""
        return {"site": self.outcome.table()}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return every run."""
        return {"Runs": self.outcome.table()}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the answers before and after, and the effect next to its nulls."""
        from probe.interventions.figures import effect_and_nulls, probabilities

        outcome, scale, colour = self.outcome, self.scale, self.looks[0].colour
        charts = {}
        if outcome.answers:
            controls = [(null.name, null.logprobs) for null in outcome.nulls]
            chart = probabilities(outcome.answers, outcome.before, outcome.after, controls, colour=colour)
            charts["answers"] = titled(chart, f"{self.site.name}: answers before and after", HEIGHT // 2 + 20)
        of = f"effect on {self.question.target.name}"
        label = scale.axis if scale.share else f"{of}, nats" if outcome.answers else of
        nulls = [(null.name, null.effects) for null in outcome.nulls]
        chart = effect_and_nulls(outcome.effect, nulls, label=label, colour=colour, scale=scale.unit)
        title = "The effect and its null controls" if charts else f"{self.site.name}: effect and null controls"
        return charts | {"nulls": titled(chart, title, HEIGHT // 2 - 60 if charts else HEIGHT)}


def against_null(effect: float, null: NullEffects) -> str:
    """Say how far an effect stands out from a null; give a p-value only if enough draws allow a small one."""
    larger = f"larger than {rate(null.share_below(effect))} of them"
    opening = f"against {len(null.effects)} {null.name}"
    if len(null.effects) < DRAWS:
        return f"{opening}, too few for a p-value: {larger}"
    z = null.z(effect)
    far = "" if np.isnan(z) else f"z = {z:.1f}, ".replace("-", "\u2212")
    return f"{opening}: {far}{larger} (p = {null.p_value(effect):.3f})"


def strongest_site(lm: LM, change: Change) -> tuple[int, int]:
    """Return (layer, head or token) of the site that moves the target most (`strongest_cell`).

    Every site is run if that is quick; otherwise all effects are estimated from one backward pass.
    """
    question = change.question(lm)
    runs = change.n_sites(lm, len(question.clean))
    exact = runs * len(question.clean) * lm.n_parameters <= SMALL
    return keep(lm, ("strongest site", repr(change)), lambda: strongest_cell(grids(lm, change, question, exact)[0]))


def strongest_layer(*lms: LM, **inputs: Any) -> int:
    """Return the block of the strongest site of the last model."""
    return strongest_site(lms[-1], Change.among(inputs))[0]


def strongest_head(*lms: LM, kind: str, **inputs: Any) -> int | None:
    """Return the head of the strongest site; None if sites have none."""
    return strongest_site(lms[-1], Change.among({"kind": kind, **inputs}))[1] if kind == "head" else None


def strongest_token(*lms: LM, kind: str, **inputs: Any) -> int | None:
    """Return the token of the strongest site; None for heads, whose token is `at`."""
    return strongest_site(lms[-1], Change.among({"kind": kind, **inputs}))[1] if kind != "head" else None


def same_site(lms: Sequence[LM], *, layer: int, head: int | None, token: int | None, **inputs: Any) -> dict[str, Any]:
    """Return the last model's site and answers, about which all models are asked if none are given."""
    return {**same_question(lms, **inputs), "layer": layer, "head": head, "token": token}


Block = Annotated[int | None, Input("Block", key="int_layer", first=strongest_layer)]
Head = Annotated[int | None, Input("Head", key="int_head", first=strongest_head)]
Token = Annotated[int | None, Input("Token", key="int_token", first=strongest_token)]
Draws = Annotated[int, Input("Null draws", within=(0, 1000), advanced=True)]


def site_seconds(lm: LM, draws: int, **inputs: Any) -> float:
    """Estimate the seconds that the null controls of a site take; the site alone is quick."""
    return 2 * draws * Change.among(inputs).seconds_a_run(lm)[0] if draws else 0.0


def change_one_site(
    lm: LM, change: Change, layer: int | None, column: int | None, draws: int, tick: Tick = ignore
) -> OneSite:
    """Change one site; see `patch_one_site` and `ablate_one_site`.

    Args:
        lm: the model.
        change: the replacement.
        layer: block; None is that of the strongest site.
        column: head or token; None is that of the strongest site.
        draws: maximum number of draws of each null.
        tick: progress.
    """
    question, kind, position = change.question(lm), change.kind, change.position
    if layer is None or column is None:
        best = strongest_site(lm, change)
        layer, column = best[0] if layer is None else layer, best[1] if column is None else column
    site = Site(kind, layer, column, position) if kind == "head" else Site(kind, layer, None, column)
    names, own, target, gap = hooks_of(lm, [kind]), list(question.clean), question.target, 0.0
    if change.patches:
        own, other = question.pair(lm).run(cast("Direction", change.how))
        logits, activations = observe(lm, other, names)
        replacements: list[Activations] = [activations]
        gap = float(value(logits, target))
    else:
        replacements = sources(lm, own, names, change.filling(lm))
    outcome = intervene(lm, own, [site], replacements, target, question.columns, draws, tick=tick)
    gap = (gap - outcome.value_before) * (1 if change.how == "denoise" else -1) if change.patches else 0.0
    guess = estimates(lm, own, replacements, target, [kind], position)[1][kind][
        layers_of(lm, kind).index(layer), column
    ]
    return OneSite(outcome, change, question, scale_of(change, question, gap), float(guess))


def column_of(kind: str, head: int | None, token: int | None) -> int | None:
    """Return the head if sites are heads, and the token otherwise.

    Raises:
        DataError: the other one is given.
    """
    if kind == "head" and token is not None:
        raise DataError("Heads are changed at the token `at`: give it in place of `token`.")
    if kind != "head" and head is not None:
        raise DataError(f"A site of kind {kind} has no head: give its token.")
    return head if kind == "head" else token


ALONE = Preview("Draw null controls", {"draws": 0})
"""Preview of a page on which null controls take long: the site without them."""


@analysis(
    "interventions",
    title="Patch one site",
    equations=(EFFECT, SHARE),
    seconds=site_seconds,
    key="int_patch_one",
    settle=same_site,
    widths=((1, 1),),
    preview=ALONE,
)
def patch_one_site(
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
    layer: Block = None,
    head: Head = None,
    token: Token = None,
    draws: Draws = DRAWS,
    tick: Tick = ignore,
) -> OneSite:
    """Replace the activation at one site by that of another prompt; compare the effect on answers with null controls.

    *denoise* puts the clean activation into the corrupted run (is it enough?), *noise* the corrupted one into the clean
    run (is it needed?). On the share scale 0 is the unchanged run and 1 the other run. **Null controls** are drawn with
    the effect: other sites of the same kind get *their* activations in the same source; random directions change the
    site by the same norm, token by token. z is in standard deviations of the null; p = (1 + draws at least as large) /
    (1 + draws) (Phipson and Smyth 2010).

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
        layer: block, -1 for the embedding; by default that of the strongest site, in the residual stream at half depth.
            On a large model the strongest site is estimated from one backward pass.
        head: head; by default that of the strongest site.
        token: token of other kinds of sites; by default that of the strongest site.
        draws: maximum number of draws of each null; there may be fewer other sites.
        tick: called with the completed share.

    Raises:
        DataError: no corrupted prompt with as many tokens is given or known; an answer has no tokens, or two answers
            differ in no token; the tokenizer does not know a word; a token lies outside the text.
        ConfigError: the model lacks the block or the head.
    """
    return change_one_site(lm, Change.among(locals()), layer, column_of(kind, head, token), draws, tick)


@analysis(
    "interventions",
    title="Ablate one site",
    equations=(EFFECT,),
    seconds=site_seconds,
    key="int_ablate_one",
    settle=same_site,
    widths=((1, 1),),
    preview=ALONE,
)
def ablate_one_site(
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
    layer: Block = None,
    head: Head = None,
    token: Token = None,
    draws: Draws = DRAWS,
    tick: Tick = ignore,
) -> OneSite:
    """Ablate one site, and measure the effect on answers next to null controls.

    Its activation is replaced by zero, by the mean over reference texts, or by that of another text (8 draws). **Null
    controls** are drawn with the effect: other sites of the same kind get *their* activations in the same source;
    random directions change the site by the same norm, token by token. z is in standard deviations of the null; p = (1
    + draws at least as large) / (1 + draws) (Phipson and Smyth 2010).

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
        layer: block, -1 for the embedding; by default that of the strongest site, in the residual stream at half depth.
            On a large model the strongest site is estimated from one backward pass.
        head: head; by default that of the strongest site.
        token: token of other kinds of sites; by default that of the strongest site.
        draws: maximum number of draws of each null; there may be fewer other sites.
        tick: called with the completed share.

    Raises:
        DataError: an answer has no tokens, or two answers differ in no token; the tokenizer does not know a word; a
            token lies outside the text.
        ConfigError: the model lacks the block or the head.
    """
    return change_one_site(lm, Change.among(locals()), layer, column_of(kind, head, token), draws, tick)
