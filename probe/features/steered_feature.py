"""Steering by a feature: its decoder added to the residual stream, beside random directions of equal norm.

The target is the log-odds of the token that the feature promotes over the answer that the model gives by itself, on
several prompts; the costs are those of `probe.interventions.steering`.

Axes: P texts, A doses, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import torch

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import ConfigError
from probe.features.activating_texts import Fitted, Named, usual_unit
from probe.features.feature_table import NEEDS
from probe.features.known_fits import open_fit
from probe.features.unit_activations import find_unit
from probe.interventions.sites import Site
from probe.interventions.steered_answers import steered_texts
from probe.interventions.steering import (
    Controls,
    Direction,
    Dose,
    Dosing,
    dose_response,
    random_directions,
    steered_logits,
)
from probe.logits.parts import direction_tokens
from probe.logits.targets import target_of
from probe.model.generation import end_tokens
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import encode, pieces
from probe.numbers import rate, signed
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.ticks import Tick, between, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
"""Doses, in mean norms of the residual stream."""
TOLD = 0.5
"""Dose of the sentence."""
NEW, RANDOM = 12, 10
"""Number of tokens of a continuation, and of random directions."""
HEIGHT = 330
"""Height of the figure in pixels."""
STEP = r"h_t \leftarrow h_t + \alpha\, \bar r \, d / \lVert d \rVert, \quad \bar r = \text{mean residual norm}"


@dataclass(frozen=True)
class SteeredFeature(Drawable):
    """Effect of a feature that is added to the residual stream."""

    feature: str
    """Name of the feature."""
    answer: str
    """Token whose log-odds are measured."""
    dose: Dose
    """Log-odds of that token over the model's own answer, for every prompt and dose, in nats."""
    continuations: pd.DataFrame
    """One row per dose and direction: `alpha`, `direction` (the feature, or `random direction`), `continuation`."""
    prompt: str
    """Prompt that is continued."""
    residual_norm: float
    """Mean norm of the residual stream: the norm that alpha = 1 adds."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """What is drawn."""
        return (
            f"Left: logit({self.answer}) minus the logit of the model's own answer, mean over {len(self.dose.values)}"
            f" prompts with its 95 % interval, and the range of {len(self.dose.nulls)} random directions of the same"
            " norm. Right: accuracy on unrelated questions, and KL to the unsteered model on neutral texts. Alpha is in"
            " mean norms of the residual stream.",
        )

    def sentence(self) -> str:
        """State what adding the feature does to the odds of its token, beside random directions, and what it costs."""
        at, zero = ALPHAS.index(TOLD), ALPHAS.index(0.0)
        null, table = self.dose.null_effects(at), self.dose.table()
        right = [float(table.iloc[each]["accuracy"]) for each in (at, zero)]
        effect = self.dose.effect(at)
        verdict = "more than" if effect > null.max() else "no more than"
        ends = " to ".join(signed(float(each)) for each in (null.min(), null.max()))
        return (
            f"{self.feature} added after block {self.dose.layer} of {self.looks[0].name} with half the norm of the"
            f" residual stream changes the log-odds of \u201c{self.answer}\u201d by {signed(effect)} nats, {verdict}"
            f" all random directions of that norm ({ends}); the model"
            f" then answers {rate(right[0])} of unrelated questions right, {rate(right[1])} without it."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per dose, and the continuations."""
        return {"steered": self.dose.table(), "continuations": self.continuations}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the continuations of the prompt, and one row per dose."""
        return {"Continuations": self.continuations, "Doses": self.dose.table()}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the log-odds by dose, and the costs."""
        from probe.interventions.figures import dose_curves

        label = f"log-odds of {self.answer}"
        chart = dose_curves(self.dose.table(), label=label, colour=self.looks[0].colour, chosen=TOLD)
        return {"steered": titled(chart, f"Steering {self.looks[0].name} by {self.feature}", HEIGHT)}


def usual_prompt(lm: LM) -> str:
    """Return the prompt to continue: a question of the model's world, or the beginning of a sentence."""
    texts, _, _, _ = prompts_of(lm)
    return texts[0]


def prompts_of(lm: LM) -> tuple[list[str], Sequence[Any], list[tuple[str, str]], list[str]]:
    """Return the prompts that are steered, unused answers, unrelated questions and neutral texts."""
    return steered_texts(lm)


def steer_seconds(lm: LM, features: Any = None, **rest: Any) -> float:
    """Estimate the seconds that all doses take."""
    if not features:
        return 0.0
    texts, _, questions, neutral = prompts_of(lm)
    own = sum(len(encode(lm.tokenizer, text)) for text in texts) * (1 + RANDOM)
    controls = sum(len(encode(lm.tokenizer, text)) for text in [*(each for each, _ in questions), *neutral])
    return seconds_a_token(lm) * len(ALPHAS) * (own + controls + 2 * NEW * 30)


@analysis("features", title="Steer", equations=(STEP,), seconds=steer_seconds, key="features_steer")
@torch.no_grad()
def steer_feature(
    lm: LM,
    *,
    features: Fitted = None,
    unit: Named = None,
    prompt: Annotated[str | None, Input("Prompt", key="features_prompt", first=usual_prompt)] = None,
    tick: Tick = ignore,
) -> SteeredFeature:
    """Steer a model by a feature, and measure the effect on its answers beside random directions of equal norm.

    Alpha times the mean norm of the residual stream, along the feature's decoder, is added at every token after the
    block of the features. The target is the logit of the token that the feature promotes most minus that of the
    likeliest other answer without steering, on 20 questions of the world with a claim, or on beginnings of sentences.
    If the odds rise while unrelated questions go wrong, the model is damaged more than steered. The prompt is continued
    greedily, along the feature and along one random direction.

    Args:
        lm: a model of tokens.
        features: features of this model: a fit that is found for it, or a folder (`probe features fit`, SAELens).
        unit: feature (`F12`).
        prompt: prompt that is continued.
        tick: progress.

    Raises:
        ConfigError: there are no features, they do not fit the model, or there is no such feature.
        DataError: the features cannot be read, or the tokenizer does not know a word of the prompt.
    """
    found = open_fit(features, lm)
    if found is None:
        raise ConfigError(NEEDS)
    place = find_unit(lm, unit or usual_unit(lm, features=found), found)
    if place.kind != "feature":
        raise ConfigError(f"{place.name} is no feature: name one such as F12 to steer by it.")
    vector = found.model.W_dec[place.index, -1].double().numpy()
    promoted = direction_tokens(lm, found.model.W_dec[place.index, -1], place.name, 1)
    texts, _, questions, neutral = prompts_of(lm)
    direction = Direction(place.layer, vector, _mean_norm(lm, neutral, place.layer), "all", (0, 0))
    ids = [encode(lm.tokenizer, text) for text in texts]
    token = int(promoted.ids[0])
    likely = [lm.logits([row])[0, -1].topk(2).indices.tolist() for row in ids]
    own = [first if first != token else second for first, second in likely]
    targets = [target_of(lm, row, token, each) for row, each in zip(ids, own, strict=True)]
    controls = Controls(random=RANDOM, questions=questions, neutral=neutral)
    dose = dose_response(lm, ids, targets, direction, Dosing(ALPHAS), controls, between(tick, 0, 0.8))
    asked = prompt or texts[0]
    continued = _continuations(lm, asked, direction, place.name, between(tick, 0.8, 1.0))
    return SteeredFeature(place.name, promoted.pieces[0], dose, continued, asked, direction.residual_norm)


def _mean_norm(lm: LM, texts: Sequence[str], layer: int) -> float:
    """Return the mean norm of the residual stream after a block, without the first token of each text."""
    name, norms = Site("resid", layer).hook, []
    for text in texts:
        _, cache = lm.run_with_cache(text, [name])
        norms.append(cache[name][0, 1:].float().norm(dim=-1))
    return float(torch.cat(norms).mean())


def _continuations(lm: LM, prompt: str, direction: Direction, name: str, tick: Tick) -> pd.DataFrame:
    """Return what the model writes at each dose, along the feature and along a random direction."""
    step = direction.step("residual")
    ways = {name: step, "random direction": random_directions(step, 1)[0]}
    rows = [(alpha, way) for alpha in ALPHAS for way in (ways if alpha else [name])]
    offsets = np.stack([alpha * ways[way] for alpha, way in rows])
    head, ends = encode(lm.tokenizer, prompt), set(end_tokens(lm.model, lm.tokenizer))
    texts = [list(head) for _ in rows]
    for new in range(NEW):
        read = [len(text) - 1 for text in texts]
        logits = steered_logits(lm, texts, direction.layer, offsets, "all", read)[:, 0]
        for text, token in zip(texts, logits.argmax(-1).tolist(), strict=True):
            text.append(token)
        tick((new + 1) / NEW)
    written = []
    for text in texts:
        new_ids = text[len(head) :]
        end = next((at for at, token in enumerate(new_ids) if token in ends), len(new_ids) - 1)
        written.append(" ".join(pieces(lm.tokenizer, new_ids[: end + 1])))
    table = pd.DataFrame(rows, columns=["alpha", "direction"]).assign(continuation=written)
    table.loc[table["alpha"] == 0, "direction"] = "none"
    return table
