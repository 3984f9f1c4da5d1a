"""What the stored results of other seeds say: an experiment's numbers over trainings, beside those over answers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.components import metric_words
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note
from dashboard.phenomena import figures as numbers
from dashboard.phenomena.compute import Outcome
from dashboard.seed_groups import SeedGroup, by_member, cautions, seed_groups
from dashboard.state import current, split_choice
from probe.errors import DataError
from probe.experiments.definition import Experiment
from probe.experiments.metrics import PAIRS
from probe.experiments.result import Result
from probe.numbers import in_unit, shown_ends
from probe.plotting.intervals import headline_intervals
from probe.seeds.group_tables import ANSWERS
from probe.seeds.joined_results import GroupResults, find_results
from probe.seeds.t_intervals import UNKNOWN, OverTrainings
from probe.terms import DIFFERENCE, RATES

MOST = 10
"""Metrics that the figure shows."""
VALUE, GAP = ("value", "ci_low", "ci_high"), ("difference", "difference_low", "difference_high")


@dataclass(frozen=True)
class Trainings:
    """A model of the page with the stored results of all its seeds."""

    label: str
    group: SeedGroup
    results: GroupResults


@dataclass(frozen=True)
class Found:
    """What is known over trainings of the models of a page."""

    known: list[Trainings]
    """The models with results of at least two trainings, the base first."""
    lacking: list[str]
    """Groups of seeds whose other members have no result with the page's options."""
    single: bool
    """Whether all models that are runs have one seed."""

    def table(self) -> pd.DataFrame:
        """Return all numbers, one row a run and metric.

        The columns are run, metric; value, ci_low, ci_high, n over trainings; answers, answers_low, answers_high,
        answers_n of the first seed; and the difference to the first model over trainings, with the number of pairs.
        """
        parts = []
        for each in self.known:
            part = each.results.table().assign(run=each.label)
            gaps = each.results.differences(self.known[0].results) if each is not self.known[0] else {}
            rows = [[*gaps[name][0][:3], gaps[name][1]] if name in gaps else [None] * 4 for name in part["metric"]]
            parts.append(part.join(pd.DataFrame(rows, columns=[*GAP, PAIRS], dtype=float)))
        whole = pd.concat(parts, ignore_index=True)
        return whole[["run", *(column for column in whole if column != "run")]]


def find(outcomes: Sequence[Outcome]) -> Found:
    """Find the stored results of other seeds, for those of the models that are runs with other seeds."""
    store = current().store
    groups, found, runs = by_member(seed_groups(store)), Found([], [], True), 0
    for each in outcomes:
        label, step = split_choice(store, each.subject.choice)
        group = groups.get(label or "")
        if group is None or step is not None or each.result is None:
            continue
        runs += 1
        if not group.several:
            continue
        results = None
        with suppress(DataError):
            results = find_results(group.group, each.result.name, like=each.result.meta)
        if results is not None and results.group.count > 1:
            found.known.append(Trainings(each.subject.label, group, results))
        else:
            found.lacking.append(group.name)
    return Found(found.known, found.lacking, single=bool(runs) and not found.known and not found.lacking)


def remark(experiment: Experiment, found: Found) -> None:
    """State what is known over trainings; with one seed, state that nothing is."""
    if found.single:
        note(f"Intervals are over answers. {UNKNOWN}")
    if found.lacking:
        names = " and ".join(dict.fromkeys(found.lacking))
        note(f"Intervals are over answers: other seeds of {names} have no stored result with these options.")
    if not found.known:
        return
    table = found.table()
    varied = set(table["metric"][table["ci_low"].notna()]) or set(
        table["metric"]
    )  # a search is the same for all models
    metric = next((each.name for each in experiment.metrics if each.name in varied), table["metric"].iloc[0])
    about = numbers.about(experiment, {each.name: each for each in experiment.metrics}, metric)
    parts = []
    for row in table[table["metric"] == metric].to_dict("records"):
        parts.append(f"{row['run']} {cell(row, about.unit)} ({row['n']} trainings)")
        if row[GAP[0]] == row[GAP[0]]:
            how = f"paired by seed, {row[PAIRS]:.0f} pairs" if row[PAIRS] else "independent trainings"
            parts.append(f"{row['run']} \u2212 {found.known[0].label} {cell(row, about.unit, GAP)} ({how})")
    note(f"Over trainings, {about.title}: {'; '.join(parts)}.")


def section(experiment: Experiment, result: Result, found: Found) -> None:
    """Draw a figure and a table of all numbers over trainings, beside those of one training over answers."""
    table, base = found.table(), found.known[0].label
    order = list(dict.fromkeys(table["metric"]))
    draw(experiment, result, found, table, order)
    metrics = numbers.metrics_of(experiment, result)
    rows = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
    lines = []
    for metric in order:
        words = numbers.about(experiment, metrics, metric)
        line: dict[str, Any] = {"metric": words.label}
        cells = {each.label: rows.get((each.label, metric), {}) for each in found.known}
        line |= {f"{label}, over trainings": cell(row, words.unit) for label, row in cells.items()}
        for each in found.known[1:]:
            line[f"{each.label} \u2212 {base}, over trainings"] = cell(cells[each.label], words.unit, GAP)
        line |= {f"{label}, over answers": cell(row, words.unit, ANSWERS[:3]) for label, row in cells.items()}
        lines.append(line | (metric_words.after_numbers(metric, words) if words.definition else {}))
    show_table(
        pd.DataFrame(lines), hide_index=True, key=f"{experiment.name}-trainings", column_config=metric_words.COLUMNS
    )
    members = "; ".join(f"{each.label}: {each.results.group.about}" for each in found.known)
    gap = (
        f" Differences are paired by seed, but those with {numbers.UNPAIRED}: trainings without a common base."
        if len(found.known) > 1
        else ""
    )
    note(
        f"{members}. Over trainings: mean with its 95 % t interval, the same questions for all. Over answers: the first"
        f" seed with its 95 % interval over its answers.{gap} {cautions([each.group for each in found.known])}"
    )


def draw(experiment: Experiment, result: Result, found: Found, table: pd.DataFrame, order: Sequence[str]) -> None:
    """Draw means over trainings as points with intervals, each training faint."""
    within = [name for name in order if table.loc[table["metric"] == name, "value"].between(-1, 1).all()][:MOST]
    if not within:
        return
    seeds = pd.concat([each.results.seeds().assign(run=each.label) for each in found.known], ignore_index=True)
    rows = table[table["metric"].isin(within)]
    chart = headline_intervals(rows, result.styles, within, words=experiment.term, seeds=seeds)
    chart.update_xaxes(title_text="mean over trainings with 95 % t interval; faint: each training")
    figure(
        chart,
        table,
        "over-trainings",
        title="Numbers over trainings",
        height=max(220, 110 + 42 * len(within)),
        source={"experiment": result.name, "intervals": "95 % t intervals over trainings"},
    )


def cell(row: Mapping[Any, Any], unit: str, names: Sequence[str] = VALUE) -> str:
    """Format a number with its interval; differences of rates are in percentage points, unpaired ones are marked."""
    if names is VALUE and row.get("apart"):
        return OverTrainings.of(row).format(unit)
    value, low, high = (float(row.get(name, float("nan"))) for name in names)
    unit = DIFFERENCE if names is GAP and unit in RATES else unit
    mark = f" {numbers.UNPAIRED}" if names is GAP and row.get(PAIRS) == 0 else ""
    return in_unit(unit, value, *shown_ends(unit, low, high), sign=names is GAP) + mark
