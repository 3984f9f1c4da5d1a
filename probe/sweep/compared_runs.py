"""Trainings of a sweep beside each other: the options in which they differ, and the metrics that they reached."""

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.errors import ConfigError, suggest
from probe.numbers import in_unit
from probe.sweep.journal import Sweep, TaskState
from probe.terms import RUN, Term, term

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAME, ENTRY, SEED = "run", "entry", "seed"
IGNORED = ("experiment", "model", "baseline", "also")
"""Options of an experiment that do not tell two experiments on one run apart."""


@dataclass(frozen=True)
class ComparedRuns:
    """Finished trainings of a sweep, one row each."""

    options: pd.DataFrame
    """[runs, options] entry, options and seed of each run; None where a run was not given an option."""
    metrics: pd.DataFrame
    """[runs, metrics] headline metrics of each run, and, as `ENTRY: METRIC`, of experiments on it; NaN if missing."""
    about: dict[str, Term]
    """Term of each metric by its column; no two have the same label."""

    @cached_property
    def varying(self) -> list[str]:
        """The options in which the runs differ; one that distinguishes the same runs as another is left out.

        The entry comes first, the seed last.
        """
        found: dict[tuple[int, ...], str] = {}
        for name in sorted(map(str, self.options), key=lambda name: (name != ENTRY, name != SEED)):
            groups = pd.factorize(self.options[name].map(_key))[0]
            if len(set(groups)) > 1:
                found.setdefault(tuple(groups), name)
        return sorted(found.values(), key=lambda name: (name == SEED, name != ENTRY))

    @property
    def table(self) -> pd.DataFrame:
        """One row per run: its name, the options in which the runs differ, and its metrics."""
        return pd.concat([self.options[self.varying], self.metrics], axis=1).rename_axis(NAME).reset_index()

    @property
    def suggested(self) -> list[str]:
        """Metrics to look at first: two in which the runs differ, of experiments if there are any."""
        known = [name for name in self.about if self.metrics[name].notna().sum() > 1]
        known = [name for name in known if self.metrics[name].nunique() > 1] or known
        return [name for name in known if ": " in name][:2] or known[:2]

    def of(self, metrics: Sequence[str]) -> "ComparedRuns":
        """Return the runs that have all of the given metrics, with only these.

        Raises:
            ConfigError: a metric does not exist.
        """
        for name in metrics:
            if name not in self.about:
                raise ConfigError(f"The sweep has no metric `{name}`: {suggest(name, self.about, 'see its results.')}")
        rows = self.metrics[list(metrics)].notna().all(axis=1)
        about = {name: self.about[name] for name in metrics}
        return ComparedRuns(self.options[rows], self.metrics.loc[rows, list(metrics)], about)

    def sentence(self, metric: str) -> str:
        """Say in which runs a metric is lowest and highest."""
        values, about = self.metrics[metric].dropna(), self.about[metric]
        if len(values) < 2:
            return f"Fewer than two runs have the metric {about.label}."
        low, high = (
            (*_holders(values, end), in_unit(about.unit, end, math.nan, math.nan))
            for end in (values.min(), values.max())
        )
        if low[0] == high[0]:
            return f"{about.label} is {low[2]} in all {len(values):,} runs."
        ends = f"lowest in {low[0]}{low[1]} ({low[2]}), highest in {high[0]}{high[1]} ({high[2]})"
        return f"{about.label} over {len(values):,} runs: {ends}."

    def figure(
        self,
        metrics: Sequence[str] | None = None,
        colour: str | None = None,
        options: Sequence[str] | None = None,
    ) -> "go.Figure":
        """Draw parallel coordinates of the options and metrics, one line per run that has all metrics.

        Args:
            metrics: columns of `metrics`; by default those of `suggested`.
            colour: metric that colours the lines; by default the last one.
            options: columns of `options`; by default those in which the runs differ (`varying`).

        Raises:
            ConfigError: a metric does not exist, or fewer than two runs have all of them.
        """
        from probe.plotting.parallel import parallel_coordinates

        chosen = list(metrics or self.suggested)
        part = self.of(list(dict.fromkeys([*chosen, *([colour] if colour else [])])))
        if len(part.metrics) < 2 or not chosen:
            raise ConfigError(
                f"Finished runs with all of the metrics {', '.join(chosen) or '(none)'}: {len(part.metrics)}; at least"
                " two are needed: choose other metrics, or continue the sweep."
            )
        names = part.varying if options is None else list(options)
        return parallel_coordinates(part.options[names], part.metrics, part.about, colour or chosen[-1])


def compare_runs(sweep: Sweep) -> ComparedRuns:
    """Compare the finished trainings of a sweep; those that did not finish are left out.

    Metrics are the headline numbers of each run and the numbers of finished experiments on it.
    """
    trained = [task for task in sweep.tasks.values() if task.kind == "train" and task.state == "finished"]
    metrics: dict[str, dict[str, float]] = {task.name: {} for task in trained}
    about: dict[str, Term] = {}
    for task in trained:
        for name, value in _values(sweep, task):
            column = f"{name} (metric)" if name == NAME else name
            metrics[task.name][column] = value
            about.setdefault(column, term(name, RUN))
    asked = [task for task in sweep.tasks.values() if task.kind == "experiment" and task.state == "finished"]
    differing = _differing(asked)
    for task in asked:
        run, at, step = str(task.recipe.get("model")).partition("@")
        if run not in metrics:
            continue
        settings = [f"{name} {task.recipe[name]}" for name in differing[task.entry] if name in task.recipe]
        source = " ".join([task.entry, *settings]) + at + step
        for name, value in _values(sweep, task):
            metrics[run][f"{source}: {name}"] = value
            about.setdefault(f"{source}: {name}", term(name, str(task.recipe.get("experiment"))))
    rows = {task.name: {ENTRY: task.entry} | task.recipe for task in trained}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    options = pd.DataFrame(
        {
            f"{name} (option)" if name in (NAME, *about) else name: pd.Series(
                [row.get(name) for row in rows.values()], index=list(rows), dtype=object
            )
            for name in names
        }
    )
    table = pd.DataFrame(
        {name: [metrics[run].get(name, np.nan) for run in rows] for name in about}, index=list(rows), dtype=float
    )
    return ComparedRuns(options, table, _unlike(about))


def _unlike(about: Mapping[str, Term]) -> dict[str, Term]:
    """Return the terms with different labels: equal titles are followed by where they were measured or the column."""
    result = dict(about)
    for suffix in (lambda name: name.rpartition(": ")[0] or "end of training", lambda name: name):
        counts = Counter(each.label for each in result.values())
        for name, each in result.items():
            if counts[each.label] > 1:
                result[name] = replace(about[name], title=f"{about[name].title}, {suffix(name)}")
    return result


def _holders(values: pd.Series, value: float) -> tuple[str, str]:
    """Return the first run with a value, and words for how many others have it."""
    first, *others = values.index[values == value]
    count = len(others)
    return first, f" and {count:,} other{'s' * (count > 1)}" if count else ""


def _values(sweep: Sweep, task: TaskState) -> list[tuple[str, float]]:
    """Return the metrics of a task that are finite numbers."""
    found = []
    for row in sweep.numbers(task):
        name, value = row.get("metric"), row.get("value")
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if abs(value) <= sys.float_info.max:  # neither NaN nor an integer that no float can hold
            found.append((name, float(value)))
    return found


def _differing(asked: Sequence[TaskState]) -> dict[str, list[str]]:
    """Return, for each entry of experiments, the options in which its tasks differ, apart from those in `IGNORED`."""
    known: dict[str, dict[str, set[str]]] = {}
    for task in asked:
        of = known.setdefault(task.entry, {})
        for name in task.recipe:
            if name not in IGNORED:
                of.setdefault(name, set()).add(_key(task.recipe[name]))
    return {entry: [name for name, values in of.items() if len(values) > 1] for entry, of in known.items()}


def _key(value: Any) -> str:
    """Return a text that is equal for equal options."""
    return json.dumps(value, sort_keys=True, default=str)
