"""Groups of seeds on pages: one entry per group, chosen by the label of its first member."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dashboard import data
from dashboard.data import Store
from dashboard.held import Held
from probe.runs.schema import METRICS
from probe.seeds import coverage
from probe.seeds.group_tables import Curves, curves, headline
from probe.seeds.grouping import Group
from probe.seeds.t_intervals import UNKNOWN

_CURVES: Held[Curves] = Held(data.HELD // 2)
ANSWERS, TRAININGS = "answers", "trainings"
"""Texts in tables and figures for what an interval is over."""


@dataclass(frozen=True)
class SeedGroup:
    """A group of runs of a store that differ by seed only."""

    group: Group
    members: tuple[str, ...]
    """Labels of the members, by seed."""
    name: str
    """Common part of the members' names, or the label of a single run."""

    @property
    def label(self) -> str:
        """The label of the first member."""
        return self.members[0]

    @property
    def several(self) -> bool:
        """Whether there is more than one independent training."""
        return self.group.count > 1

    @property
    def title(self) -> str:
        """The name, with the number of seeds if there are several."""
        return f"{self.name} ({len(self.members)} seeds)" if self.several else self.name

    @property
    def over(self) -> str:
        """The unit that the intervals of its numbers are over."""
        return TRAININGS if self.several else ANSWERS

    @property
    def over_text(self) -> str:
        """The unit that the intervals are over, with the number of trainings if there are several."""
        return f"{self.group.count} {TRAININGS}" if self.several else ANSWERS


def seed_groups(store: Store) -> dict[str, SeedGroup]:
    """Return all groups of runs by the label of the first member, in the order of the runs."""
    labels = {str(run.path): label for label, run in store.runs.items()}
    found = {}
    for group in store.groups:
        members = tuple(labels[str(run.path)] for run in group.runs)
        found[members[0]] = SeedGroup(group, members, group.name if len(members) > 1 else members[0])
        for copy in group.copies:  # a separate entry, or it would not be listed
            label, twin = labels[str(copy.path)], next(run for run in group.runs if run.seed == copy.seed)
            found[label] = SeedGroup(replace(group.of([twin]), runs=(copy,)), (label,), label)
    names = [each.name for each in found.values()]
    taken = {name for name in names if names.count(name) > 1}
    found = {label: replace(each, name=label) if each.name in taken else each for label, each in found.items()}
    return {label: found[label] for label in store.runs if label in found}


def by_member(found: dict[str, SeedGroup]) -> dict[str, SeedGroup]:
    """Return the group of every run by the run's label."""
    return {label: group for group in found.values() for label in group.members}


def headlines(found: Sequence[SeedGroup]) -> pd.DataFrame:
    """Return headline metrics, one row per group and metric.

    The columns are run (its title), metric, value, ci_low, ci_high, n, over, apart. `apart` holds the values of
    trainings if some ended far from the others. Intervals and `n` are over the unit in `over`: trainings if there are
    several, else answers.
    """
    columns = ["run", "metric", "value", "ci_low", "ci_high", "n", "over", "apart"]
    tables = [
        (headline(each.group) if each.several else each.group.first.headline).assign(run=each.title, over=each.over)
        for each in found
        if any(run.meta.get("headline") for run in each.group.runs)
    ]
    tables = [table.reindex(columns=columns, fill_value="") for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def lineage_table(store: Store, found: dict[str, SeedGroup]) -> pd.DataFrame:
    """Return one row per group: name (the first member's label), title, method, status, and groups it started from."""
    groups_by_label = by_member(found)
    rows = []
    for row in data.lineage_table(store).to_dict("records"):
        if row["name"] in found:
            group = found[row["name"]]
            states = [store.runs[label].status for label in group.members]
            row |= {"title": group.title, "status": next((each for each in states if each != "finished"), "finished")}
            for relation in ("parent", "reference", "reward_model"):
                source = groups_by_label.get(row[relation])
                row[relation] = source.label if source else row[relation]
            rows.append(row)
    return pd.DataFrame(rows, columns=["name", "title", "method", "status", "parent", "reference", "reward_model"])


def group_curves(group: SeedGroup) -> Curves:
    """Return the curves of a group, which are shared; files are read again if they have changed."""
    key = tuple((run.path, data.stamp(run.path / METRICS)) for run in group.group.runs)
    return _CURVES.get_or(key, lambda: curves(group.group, data.metrics), _size)


def _size(found: Curves) -> int:
    frames = (found.mean, found.low, found.high, *found.members.values())
    return sum(int(frame.memory_usage().sum()) for frame in frames)


def remark(found: Sequence[SeedGroup]) -> str:
    """Explain in a few sentences what the intervals of groups mean, and what they do not cover."""
    several = [each for each in found if each.several]
    if not several:
        return f"Intervals are over answers. {UNKNOWN}" if found else ""
    single = "; a run with one seed: 95 % interval over answers" if len(several) < len(found) else ""
    mean = "Groups of seeds: mean over trainings with its 95 % t interval over trainings, questions held fixed"
    return f"{mean}{single}. {cautions(several)}".strip()


def cautions(found: Sequence[SeedGroup]) -> str:
    """Return the caveats for intervals over trainings of these groups; an empty text if there are none."""
    return coverage.cautions({each.name: each.group for each in found})
