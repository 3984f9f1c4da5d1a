"""Stored results of a group's members as one result: means over trainings, and differences of two groups by seed.

All members answered the same questions, so an interval over trainings describes another training on these questions;
the interval over answers describes one training on other questions.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import DataError
from probe.experiments.metrics import COLUMNS, COMPARED, PAIRS
from probe.experiments.registry import experiments
from probe.experiments.result import DAMAGE, Result, read_index, read_summary, stack
from probe.experiments.run import rename_model, settings_of
from probe.experiments.store import results
from probe.runs.directories import run_homes
from probe.runs.reader import Run
from probe.seeds.group_tables import over_trainings
from probe.seeds.grouping import Group, pair
from probe.seeds.t_intervals import (
    UNKNOWN,
    OverTrainings,
    by_unit,
    mean_over_trainings,
    paired_by_seed,
    unpaired_by_seed,
)
from probe.terms import DIFFERENCE, RATES, Term, term

SEED = "seed"
"""Column in the items of a group's result: seed of the training that gave the row."""


@dataclass(frozen=True)
class GroupResults:
    """Stored results of one experiment for the members of a group, all with the same settings."""

    group: Group
    """Members that have a result."""
    folders: tuple[Path, ...]
    """Result folder of each member."""
    name: str
    """Name of the experiment."""
    meta: Mapping[str, Any]
    """Metadata of the first member's result."""

    def summaries(self) -> list[pd.DataFrame]:
        """The summary of each member: metric, value, ci_low, ci_high, n."""
        return [read_summary(read_index(folder)) for folder in self.folders]

    def seeds(self) -> pd.DataFrame:
        """Return each member's values, one row per metric and member: seed, metric, value."""
        tables = zip(self.group.runs, self.summaries(), strict=True)
        return pd.concat([table[["metric", "value"]].assign(seed=run.seed) for run, table in tables], ignore_index=True)

    def table(self) -> pd.DataFrame:
        """Return means over trainings and the first member's value over its answers.

        The columns are those of `probe.seeds.group_tables.FIGURES`.
        """
        return over_trainings(self.summaries(), self.group.units)

    def differences(self, baseline: "GroupResults") -> dict[str, tuple[OverTrainings, int]]:
        """Return the difference over trainings of each common metric, and the number of pairs (0: unpaired).

        Args:
            baseline: group whose values are subtracted.
        """
        pairs, ours, theirs = pair(self.group, baseline.group), self._values(), baseline._values()
        widths = [
            (first["ci_high"] - first["ci_low"]).groupby(first["metric"]).first() for first in self.summaries()[:1]
        ]
        noise = {str(name): float(width) for table in widths for name, width in table.items()}
        found: dict[str, tuple[OverTrainings, int]] = {}
        for metric in (name for name in ours if name in theirs):
            first, second = ours[metric], theirs[metric]
            if pairs:
                sides = [
                    [np.mean([first[run.path] for run in runs]), np.mean([second[run.path] for run in others])]
                    for _, runs, others in pairs
                ]
                one, other = np.array(sides).T
                found[metric] = paired_by_seed(one, other, noise=noise.get(metric, math.inf)), len(pairs)
            else:
                independent = by_unit(first.values(), self.group.units), by_unit(second.values(), baseline.group.units)
                found[metric] = unpaired_by_seed(*independent), 0
        return found

    def _values(self) -> dict[str, dict[Path, float]]:
        """Return metric -> directory of a member -> its value, NaN if missing."""
        tables = [table.set_index("metric")["value"].astype(float) for table in self.summaries()]
        names = dict.fromkeys(str(name) for table in tables for name in table.index)
        runs = [run.path for run in self.group.runs]
        return {n: {run: float(t.get(n, np.nan)) for run, t in zip(runs, tables, strict=True)} for n in names}


def find_results(group: Group, name: str, like: Mapping[str, Any] | None = None) -> GroupResults:
    """Find the members' stored results of an experiment.

    Args:
        group: runs that differ by seed only.
        name: name of the experiment.
        like: the `meta` of a result whose settings (options, n, seed, data, world) are wanted; by default the settings
            that most members have, and of these the newest.

    Raises:
        DataError: no member has a result of the experiment, or none with these settings.
    """
    known = experiments().get(name)
    across = bool(known and known.across_worlds)
    wanted = None if like is None else _key(name, like, across)
    found: dict[str, dict[str, tuple[Run, Path, dict[str, Any]]]] = {}
    for run in group.runs:
        for folder, index in (each for home in run_homes(run.path) for each in results(home)):
            if index["name"] == name and len(index["meta"].get("models", ())) == 1 and _is_whole(index):
                same = found.setdefault(_key(name, index["meta"], across), {})
                same.setdefault(str(run.path), (run, folder, index["meta"]))
    if wanted is not None:
        found = {key: each for key, each in found.items() if key == wanted}
    if not found:
        how = " with these settings" if like is not None else ""
        raise DataError(
            f"No run of the group {group.name} has a stored result of `{name}`{how}: measure them with"
            f" `probe experiment {name} --model {group.first.name}`."
        )
    best = max(found.values(), key=lambda each: (len(each), max(str(m.get("created")) for _, _, m in each.values())))
    kept = [i for i, run in enumerate(group.runs) if str(run.path) in best]
    members = [best[str(group.runs[i].path)] for i in kept]
    part = group.of([group.runs[i] for i in kept])
    return GroupResults(part, tuple(folder for _, folder, _ in members), name, members[0][2])


def _is_whole(index: Mapping[str, Any]) -> bool:
    """Return whether the summary of a stored result can be read; the file is untrusted."""
    try:
        return set(COLUMNS) <= set(read_summary(index))
    except DAMAGE:
        return False


def _key(name: str, meta: Mapping[str, Any], across_worlds: bool) -> str:
    return json.dumps(settings_of(name, meta, across_worlds), sort_keys=True, default=str)


def result_of(group: Group, name: str, baseline: Group | None = None) -> Result:
    """Make the result of a group from the stored results of its members.

    Args:
        group: runs that differ by seed only.
        name: name of the experiment.
        baseline: another group that answered the same questions; differences are paired by seed if both start from the
            same bases, else unpaired.

    Returns:
        A result whose summary holds means over trainings (`value`, `ci_low`, `ci_high`, `n` trainings) and, in columns
        of their own, the first member's value over its answers; items and tables are those of all members, with their
        seeds.

    Raises:
        DataError: no member has such a result, or the baseline has none with the same settings.
    """
    ours = find_results(group, name)
    theirs = find_results(baseline, name, like=ours.meta) if baseline is not None else None
    summary = ours.table()
    if theirs is not None:
        summary = _compared(summary, ours, theirs)
    sides = [each for each in (ours, theirs) if each is not None]
    parts = [part for side in sides for part in _load(side)]
    tables = list(dict.fromkeys(table for part, _ in parts for table in part.tables))
    meta = dict(ours.meta) | {
        "models": [model for part, _ in parts for model in part.meta["models"]],
        "baseline": theirs.group.name if theirs else None,
        "over": "trainings",
        "groups": [{"name": s.group.name, "about": s.group.about, "seeds": list(s.group.seeds)} for s in sides],
    }
    result = Result(
        name,
        summary,
        stack([part.items.assign(**{SEED: seed}) for part, seed in parts]),
        {n: stack([p.tables[n].assign(**{SEED: seed}) for p, seed in parts if n in p.tables]) for n in tables},
        meta=meta,
    )
    return Result(result.name, summary, result.items, result.tables, meta=meta | {"finding": say(result)})


def _load(found: GroupResults) -> list[tuple[Result, int]]:
    return [
        (rename_model(Result.load(folder), run.name), run.seed)
        for run, folder in zip(found.group.runs, found.folders, strict=True)
    ]


def _compared(summary: pd.DataFrame, ours: GroupResults, theirs: GroupResults) -> pd.DataFrame:
    """Add the columns of a baseline, means over its trainings, to a summary."""
    bases = theirs.table().set_index("metric")[["value", "ci_low", "ci_high"]]
    gaps = ours.differences(theirs)
    unknown = mean_over_trainings([])
    rows = []
    for metric in summary["metric"]:
        gap, pairs = gaps.get(metric, (unknown, float("nan")))
        base = list(bases.loc[metric]) if metric in bases.index else [float("nan")] * 3
        rows.append([*base, *gap[:3], pairs])
    return pd.concat([summary, pd.DataFrame(rows, columns=[*COMPARED, PAIRS]).astype(float)], axis=1)


def say(result: Result) -> str:
    """State the first metric of a group's result in one sentence."""
    row, names = result.summary.iloc[0], [each["name"] for each in result.meta["groups"]]
    known = experiments().get(result.name)
    about: Term = known.term(row["metric"]) if known else term(row["metric"])
    mean = OverTrainings.of(row.to_dict())
    if mean.trainings < 2 and result.meta.get("baseline") is None:
        return f"{about.label} of {names[0]} is {mean.format(about.unit)}. {UNKNOWN}"
    text = f"{about.label} of {names[0]} is {mean.format(about.unit)} over {mean.trainings} trainings"
    if result.meta.get("baseline") is None:
        return f"{text}."
    unit = DIFFERENCE if about.unit in RATES else about.unit
    gap = OverTrainings(row["difference"], row["difference_low"], row["difference_high"], int(row[PAIRS]))
    how = f"paired, {gap.trainings} trainings" if gap.trainings else "of independent trainings"
    return f"{text}, {gap.format(unit, sign=True)} against {names[1]} ({how})."
