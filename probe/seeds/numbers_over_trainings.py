"""Numbers of an experiment over trainings for several models, together with those of one training over its answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.experiments.comparison import GAP, UNPAIRED, VALUE, ModelComparison, cell, term_of
from probe.experiments.metrics import PAIRS
from probe.numbers import shown_ends
from probe.plotting.notebook import Drawable, titled
from probe.seeds.coverage import cautions
from probe.seeds.group_tables import ANSWERS
from probe.seeds.grouping import Group
from probe.seeds.joined_results import GroupResults
from probe.seeds.t_intervals import OverTrainings
from probe.terms import DIFFERENCE, RATES, after_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go

NAN = float("nan")
OVER_TRAININGS = "Over trainings"
"""Label of the numbers over trainings."""
MOST = 10
"""Maximum number of metrics in the figure."""


@dataclass(frozen=True)
class Trainings:
    """Model with the stored results of all its seeds."""

    label: str
    """Label of the model."""
    name: str
    """Name of the group of seeds."""
    group: Group
    """Group of all seeds."""
    results: GroupResults
    """Results of the seeds that have one."""


@dataclass(frozen=True)
class NumbersOverTrainings(Drawable):
    """Numbers of several models over trainings."""

    answers: ModelComparison
    """Numbers over answers of one training of each model."""
    trainings: tuple[Trainings, ...]
    """Models with results of at least two trainings, the base first."""

    def table(self) -> pd.DataFrame:
        """Return all numbers, one row per run and metric.

        The columns are run, metric; value, ci_low, ci_high, n over trainings; answers, answers_low, answers_high,
        answers_n of the first seed; and the difference to the first model over trainings, with the number of pairs.
        """
        parts = []
        for each in self.trainings:
            part = each.results.table().assign(run=each.label)
            gaps = each.results.differences(self.trainings[0].results) if each is not self.trainings[0] else {}
            rows = [[*gaps[name][0][:3], gaps[name][1]] if name in gaps else [None] * 4 for name in part["metric"]]
            parts.append(part.join(pd.DataFrame(rows, columns=[*GAP, PAIRS], dtype=float)))
        whole = pd.concat(parts, ignore_index=True)
        return whole[["run", *(column for column in whole if column != "run")]]

    def sentence(self) -> str:
        """State the first metric that varies over trainings for every model, and the differences to the first one."""
        table = self.table()
        varied = set(table["metric"][table["ci_low"].notna()]) or set(table["metric"])  # a search never varies
        declared = (each.name for each in self.answers.experiment.metrics if each.name in varied)
        metric = next(declared, table["metric"].iloc[0])
        about, parts = self.answers.term(metric), []
        for row in table[table["metric"] == metric].to_dict("records"):
            parts.append(f"{row['run']} {_cell(row, about.unit)} ({row['n']} trainings)")
            if row[GAP[0]] == row[GAP[0]]:
                how = f"paired by seed, {row[PAIRS]:.0f} pairs" if row[PAIRS] else "independent trainings"
                parts.append(f"{row['run']} \u2212 {self.trainings[0].label} {_cell(row, about.unit, GAP)} ({how})")
        return f"Over trainings, {about.title}: {'; '.join(parts)}."

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the numbers formatted for reading, over trainings and over answers, one line per metric."""
        table, metrics = self.table(), self.answers.metrics
        rows = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
        base, *others = [each.label for each in self.trainings]
        lines = []
        for metric in dict.fromkeys(table["metric"]):
            about = term_of(self.answers.experiment, metrics, metric)
            cells = {label: rows.get((label, metric), {}) for label in (base, *others)}
            line: dict[str, Any] = {"metric": about.label}
            line |= {f"{label}, over trainings": _cell(row, about.unit) for label, row in cells.items()}
            for label in others:
                line[f"{label} \u2212 {base}, over trainings"] = _cell(cells[label], about.unit, GAP)
            line |= {f"{label}, over answers": _cell(row, about.unit, ANSWERS[:3]) for label, row in cells.items()}
            lines.append(line | (after_numbers(metric, about) if about.definition else {}))
        return {OVER_TRAININGS: pd.DataFrame(lines)}

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Note on the trainings, the intervals, and the pairing of differences."""
        members = "; ".join(f"{each.label}: {each.results.group.about}" for each in self.trainings)
        gap = f" Differences are paired by seed, except those with {UNPAIRED}: trainings without a common base."
        return (
            f"{members}. Over trainings: mean with its 95 % t interval, the same questions for all. Over answers: the"
            f" first seed with its 95 % interval over its answers.{gap if len(self.trainings) > 1 else ''}"
            f" {cautions({each.name: each.group for each in self.trainings})}",
        )

    def figures(self) -> "dict[str, go.Figure]":
        """Draw means over trainings with intervals, and each training faint; at most `MOST` metrics from -1 to 1."""
        from probe.plotting.intervals import headline_intervals

        table = self.table()
        order = dict.fromkeys(table["metric"])
        within = [name for name in order if table.loc[table["metric"] == name, "value"].between(-1, 1).all()][:MOST]
        if not within:
            return {}
        seeds = pd.concat([each.results.seeds().assign(run=each.label) for each in self.trainings], ignore_index=True)
        rows, words = table[table["metric"].isin(within)], self.answers.experiment.term
        chart = headline_intervals(rows, self.answers.result.styles, within, words=words, seeds=seeds)
        chart.update_xaxes(title_text="mean over trainings with 95 % t interval; faint: each training")
        return {"over-trainings": titled(chart, "Numbers over trainings", max(220, 110 + 42 * len(within)))}


def _cell(row: Mapping[Any, Any], unit: str, names: Sequence[str] = VALUE) -> str:
    """Format a number with its interval within the unit's range; trainings that lie apart are listed instead."""
    if names is VALUE and row.get("apart"):
        return OverTrainings.of(row).format(unit)
    low, high = (float(row.get(name, NAN)) for name in names[1:])
    ends = shown_ends(DIFFERENCE if names is GAP and unit in RATES else unit, low, high)
    return cell({**row, **dict(zip(names[1:], ends, strict=True))}, unit, names)
