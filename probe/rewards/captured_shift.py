"""Analysis of the rewards and KL of samples that a run captured over training (docs/runs.md)."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.numbers import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rewards.captured_pairs import Trained, run_of
from probe.rewards.shift import shift_curve, shift_steps
from probe.runs.reader import Run
from probe.terms import term

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMPLICIT = r"r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_{ref}(y \mid x)}"
MEASURES = ("proxy", "gold", "kl", "implicit")
"""Measures that are drawn, if captured."""
HEIGHT = 270
"""Height of the figure in pixels."""


@dataclass(frozen=True)
class CapturedShift(Drawable):
    """Rewards and KL of captured samples, step by step."""

    curve: pd.DataFrame
    """One row per step and measure (`probe.rewards.shift.shift_curve`)."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the run."""

    @property
    def measures(self) -> list[str]:
        """Return those of `MEASURES` that were captured."""
        return [name for name in MEASURES if name in set(self.curve["measure"])]

    def sentence(self) -> str:
        """Give the first and the last value of each measure."""
        parts = []
        for name in self.measures:
            rows = self.curve[self.curve["measure"] == name].sort_values("step")
            ends = [
                format_interval(float(row["value"]), float(row["ci_low"]), float(row["ci_high"]))
                for row in (rows.iloc[0], rows.iloc[-1])
            ]
            parts.append(f"{term(name, 'rewards').title.partition(' (')[0]} from {ends[0]} to {ends[1]}")
        return f"While {self.looks[0].name} was trained its captured samples went in {', '.join(parts)}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per step and measure."""
        return {"shift-curve": self.curve}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return one row per step and measure."""
        return {"Over training": self.curve}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw each measure over training."""
        from probe.rewards.figures import shift_curves

        chart = shift_curves(self.curve, self.looks[0].colour, self.measures)
        title = f"Samples that {self.looks[0].name} captured while it was trained"
        return {"shift-curve": titled(chart, title, HEIGHT)}


@analysis("rewards", title="Over training", equations=(IMPLICIT,), key="rew")
def follow_rewards(lm: LM, *, run: Trained = None) -> CapturedShift:
    """Measure how the rewards of a policy's samples changed over training.

    Training with a reference captures samples at chosen steps, with their rewards by the reward model and the verifier,
    their KL to the reference, and their implicit reward. Intervals (95 %) are over samples.

    Args:
        lm: policy that a run trained.
        run: folder of its run; by default that of the model.

    Raises:
        DataError: there is no run, or it captured no reward shift.
    """
    path = run or run_of(lm)
    if path is None or not shift_steps(Run(path)):
        name = path.name if path else "A model outside of the runs"
        raise DataError(
            f"{name} captured no reward shift: train with --capture-every by a method that has a reference, or give"
            " probe.watch the instrument probe.recording.RewardShift."
        )
    return CapturedShift(shift_curve(Run(path)))
