"""Steering: the direction between two sets of texts, added to the residual stream, and its costs.

The direction is the difference of the mean residuals of the two sets after one block (Turner et al. 2023; Rimsky et al.
2024). It is added with a coefficient alpha while texts run, at every token or at the last one. The dose-response curve
shows the target against alpha with intervals over texts, random directions of the same norm, and controls: accuracy on
questions unrelated to the direction, and the KL to the unsteered model on neutral texts. A flip means little if the
model no longer answers anything else.

Axes: P texts, A doses, N random directions, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probe import stats
from probe.errors import ConfigError, DataError
from probe.interventions.controls import DRAWS
from probe.interventions.sites import TOKENS_PER_PASS, Site
from probe.logits.answer_tokens import answer_tokens
from probe.logits.lens import kl
from probe.logits.targets import Target, require_inside
from probe.model.lm import LM
from probe.model.text import encode, text_ids
from probe.plotting.notebook import Drawable
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

Unit = Literal["residual", "difference"]
Where = Literal["all", "last"]


@dataclass(frozen=True)
class Direction:
    """A direction in the residual stream."""

    layer: int
    """Block after which the direction was read and is added; -1 is the embedding."""
    vector: np.ndarray
    """[d] mean residual of the positive texts minus that of the negative ones."""
    residual_norm: float
    """Mean norm of the residual at the tokens that were averaged: the unit of alpha in `residual`."""
    at: Where
    """Tokens that were averaged: the last of each text, or all but the first."""
    counts: tuple[int, int]
    """Numbers of positive and negative texts."""

    @property
    def norm(self) -> float:
        """Norm of the vector."""
        return float(np.linalg.norm(self.vector))

    def step(self, unit: Unit = "residual") -> np.ndarray:
        """Return the vector [d] that alpha = 1 adds: with the mean norm of a residual, or the difference itself.

        Raises:
            ConfigError: an unknown unit.
            DataError: the two sets have the same mean, so there is no direction.
        """
        if unit not in get_args(Unit):
            raise ConfigError(f"The unit {unit!r} is unknown: give residual or difference.")
        if not self.norm > 0:
            raise DataError("Both sets have the same mean residual, so there is no direction: give other texts.")
        return self.vector if unit == "difference" else self.vector / self.norm * self.residual_norm


@dataclass(frozen=True)
class Dose(Drawable):
    """Target against the coefficient, with random directions and controls."""

    alphas: np.ndarray
    """[A] coefficients."""
    unit: Unit
    """Unit of alpha: the mean norm of the residual, or the difference itself."""
    layer: int
    """Block after which the direction is added."""
    where: Where
    """Steered tokens: all, or the last one."""
    unsteered: np.ndarray
    """[P] target without steering in nats."""
    values: np.ndarray
    """[P A] target of each text at each dose in nats."""
    nulls: np.ndarray
    """[N P A] target along random directions of the same norm in nats."""
    right: np.ndarray | None
    """[Q A] whether each unrelated question is still answered right; None if none were given."""
    kl: np.ndarray | None
    """[M A] KL(unsteered || steered) in nats per token of each neutral text; None if none were given."""

    def effect(self, dose: int) -> float:
        """Return the mean change of the target at a dose in nats."""
        return float((self.values[:, dose] - self.unsteered).mean())

    def null_effects(self, dose: int) -> np.ndarray:
        """Return the mean change [N] of the target along each random direction in nats."""
        return (self.nulls[:, :, dose] - self.unsteered).mean(-1)

    def z(self, dose: int) -> float:
        """Return how many standard deviations an effect lies from the mean of random directions; NaN without spread."""
        null = self.null_effects(dose)
        spread = float(null.std(ddof=1)) if len(null) > 1 else 0.0
        return (self.effect(dose) - float(null.mean())) / spread if spread > 0 else float("nan")

    def table(self) -> pd.DataFrame:
        """Return one row per dose.

        Columns: alpha, target with its bootstrap interval, share of texts above 0 with Wilson's, the null's mean and
        range, accuracy with Wilson's interval, KL with its bootstrap interval.
        """
        rows: list[dict[str, float]] = []
        for dose, alpha in enumerate(self.alphas):
            values, null = self.values[:, dose], self.nulls[:, :, dose].mean(-1)
            row = {"alpha": float(alpha)} | stats.bootstrap_mean(values).row(name="target")
            row |= stats.wilson(int((values > 0).sum()), len(values)).row(name="above_zero")
            if len(null):
                row |= {"null": float(null.mean()), "null_low": float(null.min()), "null_high": float(null.max())}
            if self.right is not None:
                row |= stats.wilson(int(self.right[:, dose].sum()), len(self.right)).row(name="accuracy")
            if self.kl is not None:
                row |= stats.bootstrap_mean(self.kl[:, dose], bounds=stats.NOT_NEGATIVE).row(name="kl")
            rows.append(row)
        return pd.DataFrame(rows)

    def figure(self) -> "go.Figure":
        """Draw the target against alpha, and to the right of it the costs of steering."""
        from probe.interventions.figures import dose_curves
        from probe.plotting.theme import METHODS

        return dose_curves(self.table(), label="target", colour=METHODS["dpo"], step=self.unit)


@torch.no_grad()
def contrast(lm: LM, positive: Sequence[str], negative: Sequence[str], layer: int, at: Where = "last") -> Direction:
    """Return the direction from the negative to the positive texts: the difference of mean residuals after a block.

    Args:
        lm: the model.
        positive: texts that have the property.
        negative: texts that lack it.
        layer: block; -1 is the embedding.
        at: tokens to average: the last of each text, or all but the first (every text has the same weight).

    Raises:
        DataError: a set is empty.
        ConfigError: the model lacks the block, or an unknown `at`.
    """
    _check(lm, layer, at)
    if not positive or not negative:
        raise DataError(
            f"A direction needs texts with and without the property, and got {len(positive)} and {len(negative)}."
        )
    name = Site("resid", layer).hook
    means: list[Tensor] = []
    norms: list[float] = []
    for texts in (positive, negative):
        rows = []
        for text in texts:
            _, cache = lm.run_with_cache(text, [name])
            states = cache[name][0].double()
            read = states[-1:] if at == "last" or len(states) == 1 else states[1:]
            rows.append(read.mean(0))
            norms.append(float(read.norm(dim=-1).mean()))
        means.append(torch.stack(rows).mean(0))
    vector = (means[0] - means[1]).cpu().numpy()
    return Direction(layer, vector, float(np.mean(norms)), at, (len(positive), len(negative)))


@torch.no_grad()
def steered_logits(
    lm: LM,
    texts: Sequence[Sequence[int]],
    layer: int,
    vector: Float[Tensor, "... d"] | np.ndarray,
    where: Where = "all",
    read: Sequence[int] | None = None,
) -> Float[Tensor, "P T V"]:
    """Return the logits of several texts with a vector added to the residual after a block.

    Args:
        lm: the model.
        texts: token ids of P texts, padded on the right in a batch.
        layer: block; -1 is the embedding.
        vector: vector to add, [d], or [P d] with one for each text.
        where: steer all tokens, or the last token of each text.
        read: token of each text whose logits are returned, [P 1 V]; None returns all.
    """
    _check(lm, layer, where)
    ends = torch.tensor([len(text) - 1 for text in texts])
    shift = torch.as_tensor(vector).expand(len(texts), -1)

    def add(states: Tensor, hook: Any) -> Tensor:
        change = shift.to(states)
        if where == "all":
            return states + change[:, None]
        states = states.clone()
        states[torch.arange(len(ends)), ends] += change
        return states

    def only(states: Tensor, hook: Any) -> Tensor | None:
        return None if read is None else states[torch.arange(len(ends)), torch.tensor(read)][:, None]

    with lm.hooks([(Site("resid", layer).hook, add), ("unembed.hook_in", only)]):
        return lm.logits([list(text) for text in texts]).float()


@dataclass(frozen=True)
class Dosing:
    """Doses of a direction, and the tokens that it is added at."""

    alphas: Sequence[float] = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
    """Multiples of the direction, [A]."""
    unit: Unit = "residual"
    """Unit of alpha (see `Direction.step`)."""
    where: Where = "all"
    """All tokens, or the last token of each text."""


@dataclass(frozen=True)
class Controls:
    """Controls of a dose-response: random directions, unrelated questions and neutral texts."""

    random: int = DRAWS
    """Number N of random directions of the same norm."""
    seed: int = 0
    """Random seed of these directions."""
    questions: Sequence[tuple[str, str]] = ()
    """(prompt, right answer) of questions unrelated to the direction; an answer counts as right if each of its tokens
    is the most probable one after those before it."""
    neutral: Sequence[str] = ()
    """Texts on which the KL to the unsteered model is averaged over tokens."""


@torch.no_grad()
def dose_response(
    lm: LM,
    texts: Sequence[str | Sequence[int]],
    targets: Sequence[Target],
    direction: Direction,
    dosing: Dosing = Dosing(),
    controls: Controls = Controls(),
    tick: Tick = ignore,
) -> Dose:
    """Add a direction in several doses and measure the target of each text.

    Args:
        lm: the model.
        texts: P texts.
        targets: quantity to measure in each text.
        direction: result of `contrast`; it is added after its block.
        dosing: doses, and the tokens that the direction is added at.
        controls: controls of the dose-response.
        tick: progress.

    Raises:
        DataError: there is no text, a text lacks a target inside it, the direction has another width, or controls are
            given for a scalar model, which has no distribution.
    """
    if not texts or len(texts) != len(targets):
        raise DataError(
            f"{len(texts)} texts have {len(targets)} targets: give at least one text, and a target for each."
        )
    if lm.readout != "tokens" and (controls.questions or controls.neutral):
        raise DataError(
            "A model with a scalar output answers no questions and has no KL: leave `questions` and `neutral` empty."
        )
    ids = [target.text(text_ids(lm.tokenizer, text)) for text, target in zip(texts, targets, strict=True)]
    for row, target in zip(ids, targets, strict=True):
        require_inside(target, len(row))
    size, width = direction.vector.size, lm.bridge.cfg.d_model
    if size != width:
        raise DataError(
            f"The direction has {size} numbers and the residual stream {width}: read the direction from this model."
        )
    step, where, alphas = direction.step(dosing.unit), dosing.where, dosing.alphas
    noise = random_directions(step, controls.random, controls.seed)
    prompts, answers, owners = answer_steps(lm, controls.questions)
    neutral_ids = [encode(lm.tokenizer, text) for text in controls.neutral]
    before = [lm.logits([text])[0].float().log_softmax(-1) for text in neutral_ids]

    def run(vectors: np.ndarray) -> np.ndarray:
        """Return the target [N P] of each text along each of N vectors, in as few passes as possible."""
        rows = [(vector, text, target) for vector in vectors for text, target in zip(ids, targets, strict=True)]
        size = max(1, TOKENS_PER_PASS // max(len(text) for text in ids))
        numbers = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            offsets = np.stack([vector for vector, _, _ in part])
            positions = [target.position for _, _, target in part]
            logits = steered_logits(lm, [text for _, text, _ in part], direction.layer, offsets, where, positions)[:, 0]
            numbers += [_value(row, target) for row, (_, _, target) in zip(logits, part, strict=True)]
        return np.array(numbers).reshape(len(vectors), len(ids))

    unsteered = run(0 * step[None])[0]
    values, nulls, right, divergence = [], [], [], []
    for index, alpha in enumerate(alphas):
        outputs = run(alpha * np.stack([step, *noise])) if alpha else np.tile(unsteered, (1 + len(noise), 1))
        values.append(outputs[0])
        nulls.append(outputs[1:])
        if prompts:
            ends = [len(text) - 1 for text in prompts]
            best = steered_logits(lm, prompts, direction.layer, alpha * step, where, ends)[:, 0].argmax(-1)
            wrong = {owner for token, answer, owner in zip(best, answers, owners, strict=True) if int(token) != answer}
            right.append([owner not in wrong for owner in range(len(controls.questions))])
        if neutral_ids:
            logits = steered_logits(lm, neutral_ids, direction.layer, alpha * step, where)
            divergence.append(
                [float(kl(p, row[: len(p)].log_softmax(-1)).mean()) for row, p in zip(logits, before, strict=True)]
            )
        tick((index + 1) / len(alphas))
    return Dose(
        alphas=np.asarray(alphas, dtype=float),
        unit=dosing.unit,
        layer=direction.layer,
        where=where,
        unsteered=unsteered,
        values=np.array(values).T,
        nulls=np.array(nulls).reshape(len(alphas), len(noise), len(ids)).transpose(1, 2, 0),
        right=np.array(right).T if prompts else None,
        kl=np.array(divergence).T if neutral_ids else None,
    )


def random_directions(step: Float[np.ndarray, " d"], count: int, seed: int = 0) -> Float[np.ndarray, "N d"]:
    """Return random directions as long as a step."""
    noise = np.random.default_rng(seed).standard_normal((count, step.size))
    noise *= np.linalg.norm(step) / np.linalg.norm(noise, axis=1, keepdims=True)
    return noise


def answer_steps(lm: LM, questions: Sequence[tuple[str, str]]) -> tuple[list[list[int]], list[int], list[int]]:
    """Return the texts up to each token of each right answer, that token, and the number of its question."""
    texts, tokens, owners = [], [], []
    for owner, (prompt, answer) in enumerate(questions):
        head, ids = encode(lm.tokenizer, prompt), answer_tokens(lm, [answer]).ids[0]
        for at, token in enumerate(ids):
            texts.append([*head, *ids[:at]])
            tokens.append(token)
            owners.append(owner)
    return texts, tokens, owners


def _value(row: Float[Tensor, " V"], target: Target) -> float:
    return float(row[target.answer] - (row[target.against] if target.against is not None else 0.0))


def _check(lm: LM, layer: int, where: str) -> None:
    depth = lm.bridge.cfg.n_layers
    if not -1 <= layer < depth:
        raise ConfigError(f"Block {layer} was requested in a model of {depth} blocks: give -1 to {depth - 1}.")
    if where not in get_args(Where):
        raise ConfigError(f"The tokens {where!r} are unknown: give all or last.")
