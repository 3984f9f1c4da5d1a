"""Two completions of a prompt under one reward model: the margin, and which tokens make it.

A reward is known up to a constant of the prompt only (Bradley-Terry, E9): only differences between completions of one
prompt mean something. So a completion's tokens are judged by what they do to its score, and a prompt's tokens by what
they do to the margin R(x, y+) - R(x, y-). For views and their limits see `probe.analyses.reward_attribution`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import expit

from probe.analyses.reward_attribution import STEPS, Attribution, Baseline, Kind, attribute, rank_correlation, scalar
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.rewards import RewardModel

if TYPE_CHECKING:
    from probe.world import World


@dataclass(frozen=True)
class Contrast:
    """Two completions of one prompt, read by one reward model."""

    prompt: str
    chosen: Attribution
    rejected: Attribution

    @property
    def margin(self) -> float:
        """R(x, y+) - R(x, y-) in nats of Bradley-Terry log-odds."""
        return self.chosen.score - self.rejected.score

    @property
    def probability(self) -> float:
        """sigma(margin): how likely the model takes the first to be preferred (E9)."""
        return float(expit(self.margin))

    def prompt_effects(self, kind: Kind) -> np.ndarray:
        """[P] what each token of the prompt does to the margin: its effect on the chosen text less on the rejected.

        Zero for increments: the prompt is read before the two texts part.
        """
        size = self.chosen.prompt_length
        return self.chosen.effects(kind)[:size] - self.rejected.effects(kind)[:size]

    @property
    def agreement(self) -> float:
        """Spearman's rank correlation of both attributions of the margin over the prompt; NaN where it is undefined."""
        return rank_correlation(self.prompt_effects("gradient"), self.prompt_effects("occlusion"))

    def table(self) -> pd.DataFrame:
        """One row a token of either text, `text` being chosen or rejected."""
        sides = (("chosen", self.chosen), ("rejected", self.rejected))
        return pd.concat([side.table().assign(text=name) for name, side in sides], ignore_index=True)


def contrast(
    model: LM | RewardModel, prompt: str, chosen: str, rejected: str, steps: int = STEPS, baseline: Baseline = "mean"
) -> Contrast:
    """Attribute the scores of two completions of a prompt; see `attribute`."""
    lm = scalar(model)
    first, second = (attribute(lm, prompt, text, steps, baseline) for text in (chosen, rejected))
    return Contrast(prompt, first, second)


def truth_and_claim(world: "World", prompt: str) -> tuple[str, str] | None:
    """Two completions of a world's prompt worth setting against each other; None where it asks nothing.

    Returns:
        The best answer (the truth, for a stranger the abstention), and the user's claim if it is false, else the first
        wrong answer.
    """
    try:
        options = world.candidates(prompt)
    except DataError:
        return None
    kinds = [world.verify(prompt, option).kind for option in options]
    best = next(
        (o for want in ("true", "abstain") for o, kind in zip(options, kinds, strict=True) if kind == want), None
    )
    worse = [o for want in ("deferred", "wrong") for o, kind in zip(options, kinds, strict=True) if kind == want]
    return (best, worse[0]) if best is not None and worse else None
