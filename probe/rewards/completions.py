"""Analysis of two completions of a prompt: their rewards, and the tokens that cause them.

Axes: P tokens of the prompt, T tokens of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

import probe.world
from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.pace import seconds_a_token
from probe.model.text import require_known
from probe.numbers import signed
from probe.plotting.chips import Chip, TokenRow, TokenRows
from probe.plotting.notebook import Look, alone, titled
from probe.rewards.token_effects import STEPS, Contrast, Kind, contrast, scalar, truth_and_claim

if TYPE_CHECKING:
    import plotly.graph_objects as go

LOSS = r"\mathcal{L} = -\log \sigma\big(R_\phi(x, y^+) - R_\phi(x, y^-)\big)"
INTEGRAL = r"a_t = (e_t - b)^\top \int_0^1 \nabla_{e_t} R\big(b + \alpha (e - b)\big)\, d\alpha"
COLOURS: dict[str, Kind] = {
    "left out": "occlusion",
    "integrated gradients": "gradient",
    "as it is written": "increment",
}
"""Quantities that colours of tokens show."""
MEANING = "Red: the token adds to the margin (prompt) or the score (completions); blue: it takes away."
STRENGTH = 0.75
"""Colour strength of the strongest token."""
CLEAR_NATS = 0.005
"""Minimum change of the margin in nats that the sentence mentions."""
LENGTH = 12
"""Maximum number of tokens of an answer that a model writes."""
LARGE = 20_000_000
"""Number of parameters above which gradients are computed only on request."""
LETTERS, COSTLIER = 4, 3
"""Approximate letters per token; and cost of a gradient relative to reading."""
HEIGHT = 330
"""Height of the figure in pixels."""


def tokens_of(found: "TwoCompletions") -> dict[str, str]:
    """Return the tokens of prompt and completions by the key of a click."""
    return {
        f"{part} {at}": f"{part}, {at}: {token.strip()}"
        for part, tokens in found.tokens.items()
        for at, token in enumerate(tokens)
    }


Colour = Annotated[Literal["left out", "integrated gradients", "as it is written"], Input("Colour", key="rew_colour")]
"""Quantity that colours of tokens show."""
Token = Annotated[str | None, Input("Token", key="rew_token", choices=tokens_of)]
"""Token of the prompt or of a completion."""


@dataclass(frozen=True)
class TwoCompletions(Contrast):
    """Two completions of one prompt, scored by one reward model."""

    texts: tuple[str, str] = ("", "")
    """The two completions as given."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the reward model."""

    @property
    def _whole(self) -> bool:
        return bool(np.isfinite(self.chosen.gradient).all())

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain how well the two attributions agree, and how complete the gradients are."""
        if not self._whole:
            return ("Integrated gradients are left out: give the integral steps to see them.",)
        ranks = [
            f"{value:.2f} {what}"
            for value, what in (
                (self.chosen.agreement, "on the chosen text"),
                (self.rejected.agreement, "on the rejected one"),
                (self.agreement, "on the margin over the prompt"),
            )
            if np.isfinite(value)
        ]
        gap = max(abs(self.chosen.gap), abs(self.rejected.gap))
        return (
            f"Rank correlation of the two attributions: {', '.join(ranks)}. Integrated gradients (from the mean"
            f" embedding, {self.chosen.steps} nodes) miss their sum by {gap:.0e} nats. They change the text in"
            " different ways, so neither is right where they disagree.",
        )

    def sentence(self) -> str:
        """Say which completion is preferred, and which token of the prompt matters most."""
        sides = [(self.chosen, "chosen", self.texts[0]), (self.rejected, "rejected", self.texts[1])]
        sides.sort(key=lambda side: -side[0].score)
        scores = [f"{side.score:.2f}".replace("-", "\u2212") for side, *_ in sides]
        texts = [f"\u201c{text.strip() or 'nothing'}\u201d" for *_, text in sides]
        first, second = map(" ".join, zip(texts, scores, strict=True))
        share = max(self.probability, 1 - self.probability)
        words = (
            f"{self.looks[0].name} gives {first} and {second}: the {sides[0][1]} one is preferred with probability"
            f" {100 * share:.0f} %."
        )
        effects = np.nan_to_num(self.prompt_effects("occlusion"))
        strongest = int(np.abs(effects).argmax()) if len(effects) else 0
        change = float(effects[strongest]) if len(effects) else 0.0
        if abs(change) < CLEAR_NATS:
            return words
        token = f"\u201c{self.chosen.tokens[strongest].strip()}\u201d (token {strongest})"
        way = "falls" if change > 0 else "rises"
        return (
            f"{words} Without the prompt's {token} the margin of the chosen completion {way} by {abs(change):.2f} nats."
        )

    def chips(self, colour: Colour = "left out", token: Token = None) -> TokenRows:
        """Return prompt and completions; prompt tokens show effects on the margin, others effects on their score.

        Args:
            colour: quantity of the colours: loss of score without the token, its integrated gradient, or the change of
                the scalar at the token.
            token: token to mark.
        """
        from probe.rewards.figures import PART_COLOURS

        effects, colours = self.effects(COLOURS[colour]), PART_COLOURS
        most = max(float(np.nanmax(np.abs(values), initial=0.0)) for values in effects.values()) or 1.0
        rows = []
        for part, values in effects.items():
            side = self.rejected if part == "rejected" else self.chosen
            label = part if part == "prompt" else f"{part} {signed(side.score)}"
            rows.append(TokenRow(label=label, colour=colours[part], tokens=self._chips(part, values / most)))
        return TokenRows(rows=rows, chosen=self._at(token) or (0, -1), note=MEANING)

    def _at(self, token: str | None) -> tuple[int, int] | None:
        """Return the part (its number) and the index in it of a token; None if there is no such token."""
        part, _, place = (token or "").partition(" ")
        return (list(self.tokens).index(part), int(place)) if token in tokens_of(self) else None

    def _chips(self, part: str, shares: np.ndarray) -> list[Chip]:
        """Return the tokens of a part, coloured by shares of the strongest effect."""
        side = self.rejected if part == "rejected" else self.chosen
        first, about = (0, "the margin") if part == "prompt" else (side.prompt_length, "the score")
        more: dict[str, np.ndarray] = {
            f"left out, {about} falls by": self.effects("occlusion")[part],
            f"integrated gradients, on {about}": self.effects("gradient")[part],
            "reward read here": side.values[first:],
            "change at this token": side.increments[first:],
        }
        chips = []
        for j, share in enumerate(np.nan_to_num(shares).tolist()):
            lines = [f"token {first + j}: {side.tokens[first + j]}"]
            lines += [f"{name} {series[j]:+.3f} nats" for name, series in more.items() if np.isfinite(series[j])]
            strength = STRENGTH * float(np.sign(share)) * abs(share) ** 0.5
            own: dict[str, Any] = {"prompt": part == "prompt", "inputs": {"token": f"{part} {j}"}}
            chips.append(Chip(text=side.tokens[first + j], tip="\n".join(lines), strength=strength, **own))
        return chips

    def figures(self, token: str | None = None) -> "dict[str, go.Figure]":
        """Draw the effect of each token of prompt, chosen and rejected completion on the reward."""
        from probe.rewards.figures import PART_COLOURS, token_effects

        at = self._at(token)
        chosen = None if at is None else (list(self.tokens)[at[0]], at[1])
        chart = token_effects(self.tokens, self.effects("occlusion"), self.effects("gradient"), PART_COLOURS, chosen)
        return {"token-effects": titled(chart, f"What each token does to {self.looks[0].name}", HEIGHT)}

    def figure(self) -> "go.Figure":
        """Draw the effect of each token on the reward."""
        return self.figures()["token-effects"]

    def tables(self) -> "dict[str, Any]":
        """Return one row per token of either text."""
        return {"token-effects": self.table()}

    def lists(self) -> "dict[str, Any]":
        """Return the effect of each token."""
        columns = ["text", "position", "token", "part", "value", "increment", "gradient", "occlusion"]
        return {"Tokens": self.table()[columns]}


def suggest_completions(*lms: LM, prompt: str) -> tuple[str, str] | None:
    """Return two completions that are worth comparing.

    Args:
        lms: the reward model, and perhaps the base and the aligned model.
        prompt: prompt of the completions.

    Returns:
        Truth and claim in a world, else the answers of the last and the first model that generate text; None without
        such models.
    """
    world = next(filter(None, map(probe.world.of, lms)), None)
    found: Any = truth_and_claim(world, prompt) if world else None
    writers = [lm for lm in lms if lm.readout == "tokens"]
    if found is None and writers:
        ends = writers[-1], writers[0]
        found = tuple(lm.generate(prompt, max_new_tokens=LENGTH, temperature=0).text[0] for lm in ends)
    return None if found is None else (found[0].strip(), found[1].strip())


def suggest_chosen(*lms: LM, prompt: str) -> str | None:
    """Return the better of the suggested completions."""
    found = suggest_completions(*lms, prompt=prompt)
    return None if found is None else found[0]


def suggest_rejected(*lms: LM, prompt: str) -> str | None:
    """Return the completion to compare it with."""
    found = suggest_completions(*lms, prompt=prompt)
    return None if found is None else found[1]


def settle_completions(lms: Sequence[LM], *, chosen: str | None, rejected: str | None, **rest: Any) -> dict[str, Any]:
    """Return the same two completions for all reward models."""
    return {"chosen": chosen, "rejected": rejected}


def usual_steps(*lms: LM) -> int:
    """Return the default number of steps of the integral: 0 for a large model, because of the cost of gradients."""
    return STEPS if lms[0].n_parameters < LARGE else 0


def effects_seconds(lm: LM, *, prompt: str, steps: int, **rest: Any) -> float:
    """Estimate the seconds that both texts take."""
    tokens = len(prompt) / LETTERS + LENGTH
    return 2 * tokens * (tokens + COSTLIER * steps) * seconds_a_token(lm)


@analysis(
    "rewards",
    title="Per-token reward",
    equations=(LOSS, INTEGRAL),
    seconds=effects_seconds,
    key="rew",
    settle=settle_completions,
)
def compare_completions(
    lm: LM,
    prompt: Prompt,
    *,
    chosen: Annotated[str | None, Input("Chosen completion", key="rew_chosen", first=suggest_chosen)] = None,
    rejected: Annotated[str | None, Input("Rejected completion", key="rew_rejected", first=suggest_rejected)] = None,
    steps: Annotated[int | None, Input("Steps", key="rew_steps", first=usual_steps, within=(0, 8 * STEPS))] = None,
) -> TwoCompletions:
    """Measure how a reward model scores two completions of a prompt, and which tokens cause the scores.

    Its scalar is read at the end of the text, in nats of Bradley-Terry log-odds (E9): only differences between
    completions of one prompt mean something. So a token of the prompt is judged by its effect on the margin between the
    two, a token of a completion by its effect on the score. Each token is left out in turn, which shifts the later ones
    by one position. Integrated gradients go from the mean embedding to the text and sum to the score minus that of the
    mean embedding. The scalar in the middle of a text was never trained.

    Args:
        lm: a reward model, or a value head.
        prompt: prompt of both completions.
        chosen: the first completion; by default the truth in a world.
        rejected: the second one; by default the user's false claim in a world, else a wrong answer.
        steps: number of steps of the integral, doubled until it is exact enough; 0 leaves gradients out, the default
            for a large model.

    Raises:
        ModelError: the model generates tokens and has no scalar output.
        DataError: no completions are given outside a world's questions, or the model does not know a word.
    """
    reader = scalar(lm)
    if chosen is None or rejected is None:
        found = suggest_completions(lm, prompt=prompt)
        if found is None:
            raise DataError("This prompt asks nothing that a world answers: give two completions, chosen and rejected.")
        chosen, rejected = chosen if chosen is not None else found[0], rejected if rejected is not None else found[1]
    first, second = (f" {text.strip()}" if text.strip() else "" for text in (chosen, rejected))
    require_known(reader.tokenizer, [prompt, first, second])
    pair = contrast(reader, prompt, first, second, usual_steps(lm) if steps is None else steps)
    return TwoCompletions(pair.prompt, pair.chosen, pair.rejected, (first, second))
