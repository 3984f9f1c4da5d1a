"""Rewards of a reward model's fixed pairs of texts over training, read from its captures (docs/runs.md)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.runs.captured import texts
from probe.runs.reader import Run

if TYPE_CHECKING:
    import plotly.graph_objects as go

MARGIN = r"m_t = R_{\phi_t}(x, y^+) - R_{\phi_t}(x, y^-)"
HEIGHT = 330
"""Height of the figure in pixels."""


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

        margins = self.pairs.pivot_table(index="step", columns="pair", values="margin")
        own = self.pairs.drop_duplicates("pair")
        labels = [f"{first} against {second}" for first, second in zip(own["first"], own["second"], strict=True)]
        chart = answer_curves(list(margins.index), margins.to_numpy(), labels, axis="margin (nats)")
        title = f"By how much {self.looks[0].name} preferred the first text of each pair while it was trained"
        return {"pair-margins": titled(chart, title, HEIGHT)}


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
