"""Analyses of captures over training: rewards of fixed pairs, and rewards and KL of samples (docs/runs.md)."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.numbers import format_interval
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.rewards.shift import shift_curve, shift_steps
from probe.runs.captured import texts
from probe.runs.reader import Run
from probe.terms import term

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARGIN = r"m_t = R_{\phi_t}(x, y^+) - R_{\phi_t}(x, y^-)"
LABEL = 30
"""Largest number of characters of a text in the legend of pairs; the table has the texts."""
MARGIN_HEIGHT = 330
"""Height of the figure of pairs in pixels."""


def run_of(*lms: LM) -> Path | None:
    """Return the folder of the first model's run, if it has one."""
    return lms[0].run_dir


Trained = Annotated[Path | None, Input("Run", key="rew_run", first=run_of, advanced=True)]
"""Run whose captures are read."""


@dataclass(frozen=True)
class PairMargins(Drawable):
    """Rewards of a reward model's fixed pairs, step by step."""

    pairs: pd.DataFrame
    """One row per step and pair (`pair_rewards`)."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the model."""

    def sentence(self) -> str:
        """Give the number of pairs that the model ranked correctly at the first and at the last step."""
        steps = self.pairs["step"].agg(["min", "max"])
        first, last = (self.pairs.loc[self.pairs["step"] == step, "margin"] for step in steps)
        return (
            f"{self.looks[0].name} preferred the first text in {int((last > 0).sum())} of {len(last)} captured pairs at"
            f" step {steps['max']}, and in {int((first > 0).sum())} at step {steps['min']}."
        )

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per step and pair."""
        return {"pair-margins": self.pairs}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the pairs at the last step."""
        last = self.pairs[self.pairs["step"] == self.pairs["step"].max()]
        return {"Pairs": last[["prompt", "first", "second", "reward_first", "reward_second", "margin"]]}

    def figures(self) -> "dict[str, go.Figure]":
        """Draw the margin of each pair over training."""
        from probe.plotting.curves import answer_curves
        from probe.plotting.theme import shorten

        margins = self.pairs.pivot_table(index="step", columns="pair", values="margin")
        own = self.pairs.drop_duplicates("pair")
        pairs = zip(*(own[name].map(partial(shorten, length=LABEL)) for name in ("first", "second")), strict=True)
        labels = [f"{first} against {second}" for first, second in pairs]
        chart = answer_curves(list(margins.index), margins.to_numpy(), labels, axis="margin (nats)")
        title = f"By how much {self.looks[0].name} preferred the first text of each pair while it was trained"
        return {"pair-margins": titled(chart, title, MARGIN_HEIGHT)}


@analysis("rewards", title="Pairs over training", equations=(MARGIN,), key="rew")
def follow_pairs(lm: LM, *, run: Trained = None) -> PairMargins:
    """Measure how a reward model learned to prefer the first text of its fixed pairs.

    Training captures the model's rewards of a few pairs of texts at chosen steps. The margin is the reward of the first
    text minus that of the second, read at their last tokens, in nats of Bradley-Terry log-odds (E9).

    Args:
        lm: reward model that a run trained.
        run: folder of its run; by default that of the model.

    Raises:
        DataError: there is no run, or it captured no pairs.
    """
    path = run or run_of(lm)
    found = None if path is None else pair_rewards(Run(path))
    if found is None:
        name = path.name if path else "A model outside of the runs"
        raise DataError(f"{name} captured no rewards of pairs: `probe train reward-model` and TRL's RewardTrainer do.")
    return PairMargins(found)


def pair_rewards(run: Run) -> pd.DataFrame | None:
    """Return the rewards of the pairs at every captured step, or None without captured pairs.

    Returns:
        One row per step and pair: step, pair (its number), prompt, first, second (texts, end token shown),
        reward_first, reward_second (read at their last tokens) and margin, the first minus the second, in nats.
    """
    captures, tables = run.captures(), []
    names: dict[str, list[str]] = {}
    for step in captures.steps:
        tensors = captures.load(step)
        if "reward_tokens" not in tensors:
            continue
        ids, sizes = tensors["reward_ids"], tensors["reward_prompt"]
        lengths = (ids >= 0).sum(-1)
        rewards = np.take_along_axis(tensors["reward_tokens"], lengths[..., None] - 1, axis=-1)[..., 0].astype(float)
        if not names:
            rows = [(row, int(size), length) for row, size, length in zip(ids, sizes, lengths, strict=True)]
            names = {
                "prompt": texts(run, [row[0, :size] for row, size, _ in rows]),
                "first": texts(run, [row[0, size : length[0]] for row, size, length in rows]),
                "second": texts(run, [row[1, size : length[1]] for row, size, length in rows]),
            }
        first, second = rewards.T
        values = {"reward_first": first, "reward_second": second, "margin": first - second}
        tables.append(pd.DataFrame({"step": step, "pair": range(len(ids)), **names, **values}))
    return pd.concat(tables, ignore_index=True) if tables else None


IMPLICIT = r"r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_{ref}(y \mid x)}"
MEASURES = ("proxy", "gold", "kl", "implicit")
"""Measures that are drawn, if captured."""
SHIFT_HEIGHT = 270
"""Height of the figure of samples in pixels."""


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
        return {"shift-curve": titled(chart, title, SHIFT_HEIGHT)}


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
