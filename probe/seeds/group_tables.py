"""Headline numbers and curves of a group: means over its trainings with t intervals, and the numbers of one training.

An interval is over answers (one training, other questions) or over trainings (these questions, another seed). The names
of the columns say which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.runs.reader import Run
from probe.seeds.grouping import Group
from probe.seeds.t_intervals import by_unit, half_widths, mean_over_trainings

ANSWERS = ("answers", "answers_low", "answers_high", "answers_n")
"""Columns of one training's value: value, interval over answers, number of answers."""
FIGURES = ("metric", "value", "ci_low", "ci_high", "n", *ANSWERS, "apart")
"""Columns of `headline`: mean over trainings, its interval, the number of trainings; those of `ANSWERS`; and `apart`,
the values of all trainings separated by blanks if some ended far from the others (`probe.seeds.t_intervals`), else
empty."""


def headline(group: Group) -> pd.DataFrame:
    """Return the headline numbers of a group, one row per metric.

    Returns:
        metric; value, ci_low, ci_high over trainings and their number n; the value of the first member that has the
        metric with answers_low, answers_high over its answers and their number answers_n; and `apart` (see `FIGURES`).
    """
    return over_trainings([run.headline for run in group.runs], group.units)


def over_trainings(summaries: Sequence[pd.DataFrame], units: Sequence[str]) -> pd.DataFrame:
    """Join the summaries of a group's members into one table; see `headline`.

    Args:
        summaries: one table per member, with metric, value, ci_low, ci_high, n.
        units: the members' independent trainings (`Group.units`).
    """
    tables = [table.drop_duplicates("metric").set_index("metric") for table in summaries]
    rows = []
    for metric in dict.fromkeys(name for table in tables for name in table.index):
        values = [float(table["value"].get(metric, np.nan)) for table in tables]
        first = next(table.loc[metric] for table in tables if metric in table.index)
        noise = float(first["ci_high"]) - float(first["ci_low"])
        mean = mean_over_trainings(by_unit(values, units), noise=noise)
        rows.append(
            [
                metric,
                *mean,
                *(first[name] for name in ("value", "ci_low", "ci_high", "n")),
                " ".join(f"{each:.6g}" for each in mean.apart),
            ]
        )
    table = pd.DataFrame(rows, columns=list(FIGURES))
    return table.astype({name: float for name in FIGURES if name not in ("metric", "n", "apart")} | {"n": int})


@dataclass(frozen=True)
class Curves:
    """Training curves of a group: tables with the columns of `Run.metrics()`, one row per step that all logged."""

    mean: pd.DataFrame
    low: pd.DataFrame
    """Lower ends of the t intervals over trainings; NaN for fewer than two trainings."""
    high: pd.DataFrame
    members: dict[str, pd.DataFrame]
    """Metrics of each member by the name of its run."""


def curves(group: Group, read: Callable[[Run], pd.DataFrame] = Run.metrics) -> Curves:
    """Return a group's curves: the mean over trainings with its t interval at each step that all members logged.

    A metric has no mean at a step where a member that logs it has no value.

    Args:
        group: runs that differ by seed only.
        read: function that returns the metrics of a run; by default they are read from its file.
    """
    frames = [read(run).set_index("step") for run in group.runs]
    steps = frames[0].index
    for frame in frames[1:]:
        steps = steps.intersection(frame.index)
    mean, half = pd.DataFrame(index=steps), pd.DataFrame(index=steps)
    for name in dict.fromkeys(column for frame in frames for column in frame.columns):
        rows = {
            run.path: frame.loc[steps, name] for run, frame in zip(group.runs, frames, strict=True) if name in frame
        }
        units = [unit for run, unit in zip(group.runs, group.units, strict=True) if run.path in rows]
        values = pd.DataFrame(np.array([*rows.values()], dtype=float)).groupby(units, sort=False).mean().to_numpy()
        mean[name], half[name] = values.mean(axis=0), half_widths(values)
    if "time" in half:
        half["time"] = 0.0
    members = {run.name: frame.reset_index() for run, frame in zip(group.runs, frames, strict=True)}
    mean, low, high = (table.reset_index() for table in (mean, mean - half, mean + half))
    return Curves(mean, low, high, members)
