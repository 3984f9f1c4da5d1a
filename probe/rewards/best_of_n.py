"""Analysis of best of N: its exact KL against the usual bound, and its reward under the frontier."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.analyses.catalogue import analysis
from probe.model.lm import LM
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rewards.ground import By, Judge, Kinds, list_answers, listing_seconds, usual_kinds, usual_reward

if TYPE_CHECKING:
    import plotly.graph_objects as go

BOUND = r"\mathrm{KL}(\text{best of } N \,\|\, \pi_{ref}) \le \log N - (N-1)/N"
LABELS = {"proxy": "proxy reward (exact)", "gold": "true reward (exact)"}
HEIGHT = 340
"""Height of the figure in pixels."""


@dataclass(frozen=True)
class BestOfN(Drawable):
    """Best of N draws from the base by one reward, exactly."""

    points: pd.DataFrame
    """One row per number of draws (`Field.best_of_n`)."""
    curve: pd.DataFrame
    """Frontier of the same reward."""
    by: str
    """Reward by which the best is chosen: proxy or gold."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the base."""

    def sentence(self) -> str:
        """Compare the bound with the exact KL, and the path of best of N with the frontier."""
        last = self.points.iloc[-1]
        return (
            f"At N = {last['n']:.0f} the bound log N \u2212 (N\u22121)/N says {last['bound']:.2f} nats and the"
            f" exact KL is {last['kl']:.2f}: because draws repeat and equal answers tie. Placed by the bound"
            " (dashed), best of N looks worse than it is: computed exactly, it stays within"
            f" {self.points['excess'].max():.2f} nats of the frontier."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return best of N by the number of draws, and the frontier."""
        return {"best-of-n": self.points, "best-of-n-frontier": self.curve}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return best of N by the number of draws."""
        return {"Best of N": self.points}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the KL by N, exact and by the bound, and the reward by KL."""
        from probe.rewards.figures import best_of_n

        chart = best_of_n(self.points, self.curve, reward=self.by, label=LABELS[self.by])
        return {"best-of-n": titled(chart, "Best of N against its bound", HEIGHT)}


def ranking_seconds(lm: LM, *, kinds: tuple[str, ...], reward: Any, by: str) -> float:
    """Estimate the seconds that listing the answers takes."""
    return listing_seconds(lm, kinds, reward)


@analysis("rewards", title="Best of N", equations=(BOUND,), seconds=ranking_seconds, key="rew")
def compare_best_of_n(lm: LM, *, kinds: Kinds = None, reward: Judge = None, by: By = None) -> BestOfN:
    """Compare the exact KL of best of N with its bound, and its reward with the frontier.

    All answers to 64 questions of the world are listed, so the distribution of the best of N draws by a reward (E14)
    and its KL to the model are exact. The bound log N - (N-1)/N holds for draws that never repeat and never tie.

    Args:
        lm: model to draw from; it must have a world.
        kinds: kinds of questions; by default known facts, true and false claims, and unseen entities.
        reward: a reward model, the proxy.
        by: reward by which the best is chosen: the proxy, if there is a reward model, or gold, the world's verifier.

    Raises:
        DataError: the model has no world, or there is no such reward.
    """
    kinds = usual_kinds(lm) if kinds is None else tuple(kinds)
    name = by or usual_reward(lm, reward=reward)
    ground = list_answers(lm, kinds, reward)
    ground.field.reward(name)  # raises an error that lists the rewards
    return BestOfN(ground.best[name], ground.curves[name], name)
