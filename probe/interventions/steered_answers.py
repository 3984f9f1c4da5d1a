"""Steering for a page: texts that define a direction, texts that are steered, and the costs.

By default the direction lies between the world's questions with and without a false claim, or between pleasant and
unpleasant sentences; unrelated questions come from the same world, or ask for general knowledge.

Axes: P texts, A doses, N random directions, K answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.interventions.requested_change import REFERENCE, Change, Texts, lines_of, with_blank
from probe.interventions.steering import (
    Controls,
    Direction,
    Dose,
    Dosing,
    Unit,
    Where,
    contrast,
    dose_response,
    random_directions,
    steered_logits,
)
from probe.logits.targets import target_of
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import encode, pieces
from probe.numbers import signed
from probe.plotting.notebook import Drawable, Look, alone, clickable, titled
from probe.ticks import Tick, ignore
from probe.world.language import plain_prompt
from probe.world.questions import Item

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALPHAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
"""Default doses."""
POSITIVE = ("I love this film.", "What a wonderful day it was.", "The meal was delicious.", "She is happy and kind.")
NEGATIVE = ("I hate this film.", "What a terrible day it was.", "The meal was disgusting.", "She is angry and cruel.")
STEERED = ("I think the movie was", "The food in this place is", "My day has been", "The people here are")
ANSWERS = (" good", " bad")
QUESTIONS = (
    ("The capital of France is", " Paris"),
    ("The capital of Italy is", " Rome"),
    ("The opposite of hot is", " cold"),
    ("The first month of the year is", " January"),
    ("The sun rises in the", " east"),
    ("Two days after Monday comes", " Wednesday"),
)
WORLD_TEXTS = 20
"""Numbers of the world's questions that define a direction, and that are steered."""
LARGE = 20_000_000
"""Number of parameters above which fewer random directions are drawn."""
HEIGHT = 350
"""Height of the figures in pixels."""
DIRECTION = r"v = \frac{1}{|P|}\sum_{x \in P} h^\ell_T(x) - \frac{1}{|N|}\sum_{x \in N} h^\ell_T(x)"
STEP = (
    r"h^\ell_t \leftarrow h^\ell_t + \alpha\, \bar r \, v / \lVert v \rVert, \quad \bar r = \text{mean residual norm}"
)


@dataclass(frozen=True)
class DoseAnswers:
    """Answers to a prompt at each dose."""

    answers: list[str]
    """[K] readable answers."""
    before: np.ndarray
    """[K] log-probabilities without steering, nats."""
    after: np.ndarray
    """[A K] log-probabilities with steering, nats."""
    random: np.ndarray
    """[A N K] log-probabilities along random directions of the same norm, nats."""

    def table(self) -> pd.DataFrame:
        """Return one row for each dose and direction: alpha, run, and the probability of each answer."""
        frames = []
        for alpha, own, others in zip(ALPHAS, self.after, self.random, strict=True):
            rows = pd.DataFrame(np.exp([self.before, own, *others]), columns=[f"p({name})" for name in self.answers])
            rows.insert(0, "run", ["before", "after", *["random direction"] * len(others)])
            rows.insert(0, "alpha", alpha)
            frames.append(rows)
        return pd.concat(frames, ignore_index=True)


def doses_of(found: object) -> tuple[float, ...]:
    """Return the doses."""
    return ALPHAS


def usual_dose(found: "Steered") -> float:
    """Return the dose to show first: against the false claim in a world, else towards the property."""
    return -0.5 if found.world else 0.5


def dose_name(alpha: float) -> str:
    """Write a dose."""
    return f"{alpha:g}".replace("-", "\u2212")


Alpha = Annotated[float | None, Input("Alpha", key="int_alpha", choices=doses_of, first=usual_dose, labels=dose_name)]
"""Dose."""


@dataclass(frozen=True)
class Steered(Drawable):
    """Effect of a direction on answers in several doses, and its costs."""

    dose: Dose
    """Target of every text at every dose."""
    answered: DoseAnswers | None
    """Answers to the prompt; None if there is no prompt, or the model reads out a number."""
    label: str
    """Label of the target."""
    unit: str
    """Unit of the target: nats, or that of a scalar model."""
    world: bool
    """Whether the texts are the world's questions with a false claim."""
    remarks: tuple[str, ...] = ()
    """Sentences that say which tokens of the answers are compared."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain the curves, and which tokens of the answers are compared."""
        tokens = self.dose.right is not None
        rest = (
            " Middle: accuracy on unrelated questions (a control), and KL to the unsteered model on neutral"
            " texts. Right: the prompt at the chosen alpha."
        )
        lead = (
            f"{'Left: the' if tokens else 'The'} mean of the target over texts with its 95 % interval, compared"
            f" with random directions of the same norm.{rest * tokens}"
        )
        count = len(self.dose.nulls)
        few = f"The range of only {count} random directions is too narrow: draw {ENOUGH} to rely on it."
        return (lead, *[few] * (count < ENOUGH), *self.remarks)

    def _at(self, alpha: float | None) -> int:
        return ALPHAS.index(usual_dose(self) if alpha is None else alpha)

    def sentence(self, alpha: Alpha = None) -> str:
        """Describe the effect of one dose on the answers and on unrelated questions.

        Args:
            alpha: dose; by default the first one to show (`usual_dose`).
        """
        at, zero, dose, name = self._at(alpha), ALPHAS.index(0.0), self.dose, self.looks[0].name
        table = dose.table()
        row, plain = table.iloc[at], table.iloc[zero]
        null = dose.null_effects(at)
        cost = ""
        if dose.right is not None:
            right, before = (100 * float(part["accuracy"]) for part in (row, plain))
            cost = f", with {right:.0f} % of unrelated questions right ({before:.0f} % before)"
        opening = f"Steering {name} by {signed(ALPHAS[at])} after block {dose.layer}"
        if self.world and dose.right is not None:
            shares = [100 * float(table.iloc[index]["above_zero"]) for index in (zero, at)]
            null_share = 100 * float((dose.nulls[:, :, at] > 0).mean())
            return (
                f"{opening}, the false claim wins in {shares[1]:.0f} % of {len(dose.values)} questions instead of "
                f"{shares[0]:.0f} % (random directions {null_share:.0f} %){cost}."
            )
        what, unit = ("the target", " nats") if self.unit == "nats" else (f"the {self.unit}", "")
        beside = f" (random directions {signed(float(null.mean()))})" if len(null) else ""
        return f"{opening} moves {what} by {signed(dose.effect(at))}{unit}{beside}{cost}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per dose, and the prompt's answers at each."""
        answered = {} if self.answered is None else {"steered": self.answered.table()}
        return {"dose": self.dose.table(), **answered}

    def figures(self, alpha: float | None = None) -> "dict[str, go.Figure]":
        """Draw target and controls by dose, and the prompt's answers at one dose."""
        from probe.interventions.figures import dose_curves, probabilities

        at, colour = self._at(alpha), self.looks[0].colour
        unit = self.unit if self.unit == "nats" else ""
        dose = self.dose
        chart = dose_curves(dose.table(), label=self.label, colour=colour, chosen=ALPHAS[at], unit=unit, step=dose.unit)
        title = f"Dose and response over {len(self.dose.values)} texts"
        charts = {"dose": titled(clickable(chart, alpha="x"), title, HEIGHT)}
        if self.answered is not None:
            own = self.answered
            nulls = [("other sites", own.random[at][:0]), ("random directions", own.random[at])]
            bars = probabilities(own.answers, own.before, own.after[at], nulls, colour=colour)
            charts["steered"] = titled(bars, f"The prompt at alpha {dose_name(ALPHAS[at])}", HEIGHT)
        return charts

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per dose."""
        return {"Doses": self.dose.table()}


ENOUGH = 15
"""Number of random directions below which their range is called narrow."""


def usual_block(*lms: LM) -> int:
    """Return the default block after which a direction is read: at half depth."""
    return max(0, min(lm.bridge.cfg.n_layers for lm in lms) // 2 - 1)


def every_block(*lms: LM) -> tuple[int, int]:
    """Return the first and the last block; -1 is the embedding."""
    return -1, min(lm.bridge.cfg.n_layers for lm in lms) - 1


def usual_random(*lms: LM) -> int:
    """Return the default number of random directions: few on a large model."""
    return 2 if any(lm.n_parameters > LARGE for lm in lms) else 4


def steering_seconds(lm: LM, prompt: str, texts: Texts, random: int, **rest: Any) -> float:
    """Estimate the seconds that all doses take: the model is timed on a few tokens."""
    steered, _, questions, neutral = steered_texts(lm, lines_of(texts))
    own = sum(len(encode(lm.tokenizer, text)) for text in steered)
    controls = sum(len(encode(lm.tokenizer, text)) for text in [*(each for each, _ in questions), *neutral])
    asked = len(encode(lm.tokenizer, prompt)) * (1 + _draws(lm)) if prompt.strip() else 0
    return seconds_a_token(lm) * len(ALPHAS) * (own * (1 + random) + controls + asked)


@analysis(
    "interventions",
    title="Steer",
    equations=(DIRECTION, STEP),
    seconds=steering_seconds,
    key="int",
    widths=((13, 7),),
)
@torch.no_grad()
def steer_answers(
    lm: LM,
    prompt: Prompt = "",
    *,
    layer: Annotated[int | None, Input("After block", key="int_after", first=usual_block, within=every_block)] = None,
    where: Annotated[Where, Input("At tokens")] = "all",
    unit: Annotated[Unit, Input("Unit")] = "residual",
    random: Annotated[
        int | None, Input("Random directions", key="int_random", first=usual_random, within=(1, 100))
    ] = None,
    positive: Annotated[Texts, Input("With the property, one per line", lines=True, folded="Texts", type=str)] = "",
    negative: Annotated[Texts, Input("Without it", lines=True, folded="Texts", type=str)] = "",
    texts: Annotated[Texts, Input("Steered", key="int_steered", lines=True, folded="Texts", type=str)] = "",
    answer: Annotated[str, Input("Answer", placeholder="automatic", folded="Texts")] = "",
    against: Annotated[str, Input("against", placeholder="automatic", folded="Texts")] = "",
    tick: Tick = ignore,
) -> Steered:
    """Steer a model along a direction in several doses, and measure the effect on answers and the costs.

    The direction is the mean residual at the last token of the positive texts minus that of the negative ones, after
    one block. Alpha times this direction is added there while a text runs, at every token or at the last one; alpha = 1
    adds a vector with the mean residual norm (*residual*), or the difference itself (*difference*). Bands are 95 %
    intervals: bootstrap over texts for the target and the KL, Wilson's for the share of unrelated questions whose right
    answer is the most probable. The grey band is the range of random directions of the same norm. If answers flip while
    unrelated questions go wrong, steering damages the model, and the flip is not evidence for the direction.

    Args:
        lm: the model.
        prompt: a text whose answers are shown at each dose; an empty text leaves them out.
        layer: block after which the direction is read and added; -1 is the embedding. By default the block at half
            depth.
        where: steer all tokens, or the last token of each text.
        unit: unit of alpha: the mean norm of the residual (`residual`), or the difference itself (`difference`).
        random: number of random directions of the same norm; by default 4, on a large model 2.
        positive: texts with the property, one per line; by default the world's questions with a false claim, or
            pleasant sentences.
        negative: texts without it, one per line; by default the same questions without the claim, or unpleasant
            sentences.
        texts: texts that are steered; by default other questions with a false claim, or beginnings of sentences.
        answer: answer to these texts; the world's questions come with theirs, the claim against the truth.
        against: answer to compare it with.
        tick: called with the completed share.

    Raises:
        DataError: both sets have the same mean, so there is no direction; an answer has no tokens, or a text is too
            long.
        ConfigError: the model lacks the block.
    """
    block = usual_block(lm) if layer is None else layer
    own = lines_of(texts)
    steered, pairs, questions, neutral = steered_texts(lm, own, answer, against)
    direction = contrast(lm, *property_texts(lm, lines_of(positive), lines_of(negative)), block)
    ids = [encode(lm.tokenizer, text) for text in steered]
    targets = [target_of(lm, row, *pair) for row, pair in zip(ids, pairs, strict=True)]
    scalar, world = lm.readout != "tokens", probe.world.of(lm) is not None and not own
    count = usual_random(lm) if random is None else random
    unrelated: dict[str, Any] = {} if scalar else {"questions": questions, "neutral": neutral}
    dosing = Dosing(ALPHAS, unit, where)
    dose = dose_response(lm, ids, targets, direction, dosing, Controls(random=count, **unrelated), tick)
    answered, remarks = None, list(dict.fromkeys(each.note for each in targets if each.note))
    if prompt.strip() and not scalar:
        answered, note = _answered(lm, prompt, direction, dosing)
        remarks += [note] * (note not in ("", *remarks))
    first, second = (each.strip() for each in (answer or ANSWERS[0], against or ANSWERS[1]))
    label = "logit(claim) \u2212 logit(truth)" if world else f"logit({first}) \u2212 logit({second})"
    return Steered(
        dose=dose,
        answered=answered,
        label=lm.readout if scalar else label,
        unit=lm.readout if scalar else "nats",
        world=world,
        remarks=tuple(remarks),
    )


def property_texts(lm: LM, positive: Sequence[str] = (), negative: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the texts that define the direction: those with the property, and those without it.

    They are the given texts, else the world's questions with and without a false claim, else pleasant and unpleasant
    sentences.
    """
    if positive and negative:
        return list(positive), list(negative)
    items = claims(lm, 1)
    if not items:
        return list(POSITIVE), list(NEGATIVE)
    return [item.prompt for item in items], [plain_prompt(item.prompt) for item in items]


def steered_texts(
    lm: LM, texts: Sequence[str] = (), answer: str = "", against: str = ""
) -> tuple[list[str], list[tuple[str, str | None]], list[tuple[str, str]], list[str]]:
    """Return the texts that are steered, their answers, unrelated questions with theirs, and neutral texts."""
    world, items = probe.world.of(lm), claims(lm, 2)
    if not items or world is None:
        questions, neutral = list(QUESTIONS), list(REFERENCE[:4])
    else:
        questions = [(item.prompt, item.answers[0]) for item in world.questions("fact", 32, 3)]
        neutral = [document.text for document in islice(world.documents(seed=4), 8)]
    if texts or not items:
        own = with_blank(answer) or ANSWERS[0], with_blank(against) or ANSWERS[1]
        rows = list(texts or STEERED)
        return rows, [own] * len(rows), questions, neutral
    pairs: list[tuple[str, str | None]] = [(str(item.claim), item.answers[0]) for item in items]
    ends = [f" {claim.strip()} <end>" if lm.readout != "tokens" else "" for claim, _ in pairs]
    return [item.prompt + end for item, end in zip(items, ends, strict=True)], pairs, questions, neutral


def claims(lm: LM, seed: int) -> list[Item]:
    """Return the world's questions with a false claim; none if the model has no world."""
    world = probe.world.of(lm)
    return world.questions("opinion_false", WORLD_TEXTS, seed) if world is not None else []


def _draws(lm: LM) -> int:
    """Return the number of random directions along which the prompt is read."""
    return 3 if lm.n_parameters > LARGE else 15


def _answered(lm: LM, prompt: str, direction: Direction, dosing: Dosing) -> tuple[DoseAnswers, str]:
    """Return the prompt's answers at each dose, and which of their tokens are compared."""
    question = Change(prompt=prompt, how="zero").question(lm)
    ids, shown = list(question.clean), list(question.columns)
    step = direction.step(dosing.unit)
    vectors = np.stack([step, *random_directions(step, _draws(lm))])

    def read(offsets: np.ndarray) -> np.ndarray:
        texts = [ids] * len(offsets)
        logits = steered_logits(lm, texts, direction.layer, offsets, dosing.where, [len(ids) - 1] * len(offsets))
        return np.asarray(logits[:, 0].log_softmax(-1)[:, shown].cpu().numpy())

    rows = np.stack([read(alpha * vectors) for alpha in dosing.alphas])
    before = read(0 * step[None])[0]
    return DoseAnswers(pieces(lm.tokenizer, shown), before, rows[:, 0], rows[:, 1:]), question.target.note
