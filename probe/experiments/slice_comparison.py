"""Comparison of slices: every metric on the items of a slice, on all other items, and on all items, for each model.

Values have the intervals of the experiment's own metrics. A slice and the other items are different items: the
difference of their values is that of independent values, with ends by square-and-add
(`metrics.unpaired_difference`). If units such as a person have items on both sides, the values are not independent. The
difference of two means is then the mean over all N items of

    d + (y - mean of the slice) N / n        for the n items of the slice
    d - (y - mean of the others) N / (N - n) for the others

where d is the difference; units are resampled (`stats.bootstrap_mean`), and the interval is the hull of both. Other
functions of items have no interval of the difference then. In 300 simulations each of means and shares, with 12 to 100
units that all have items on both sides and 20 or more items in the slice, the interval covered the difference in 95 to
100 % of cases.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.errors import ConfigError, DataError, suggest
from probe.experiments.comparison import GAP, VALUE, cell, metrics_of, term_of
from probe.experiments.definition import Experiment
from probe.experiments.metrics import ITEM, UNKNOWN, Mean, Metric, Statistic, unpaired_difference
from probe.experiments.result import MODEL, Result
from probe.experiments.run import explain_errors
from probe.experiments.slices import ANSWER, DIFFER, RIGHT, VERDICTS, Slice, verdicts
from probe.plotting.notebook import Drawable, titled
from probe.stats import Interval, floats
from probe.terms import Term, after_numbers

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.plotting.curves import Style

SLICE, METRIC, N = "slice", "metric", "n"
OTHERS, EVERY = "others", "every"
"""Columns of the values of all other items, and of all items; `_low`, `_high` and `_n` follow."""
ENDS = {name: (name, f"{name}_low", f"{name}_high") for name in (OTHERS, EVERY)}
BIASED = "*"
"""Mark of a slice that is selected by the outcome."""
COLUMNS = [
    METRIC,
    SLICE,
    MODEL,
    *VALUE,
    N,
    *ENDS[OTHERS],
    f"{OTHERS}_n",
    *GAP,
    *ENDS[EVERY],
    f"{EVERY}_n",
    "by_outcome",
]
"""Columns of the table."""
HEADS = (METRIC, SLICE, MODEL, "in the slice", "all others", "slice \u2212 others", "all items", N, "n of others")
"""Columns of the table for reading, before the definitions of the metrics."""
LISTED = 4
"""Largest number of metrics that a remark names."""
TITLE = "Slices and all other items"
INTERVALS = (
    "Values have the 95 % intervals of the experiment. A difference is the slice minus all other items; it has an"
    " interval if both values have one and the metric is a mean, or no unit, such as a person, has items on both sides."
)
EXPLORATORY = "Exploratory: {count:,} differences have an interval, and by chance alone about 1 in 20 excludes 0."


@dataclass(frozen=True)
class SliceComparison(Drawable):
    """Metrics of slices, of all other items, and of all items, for each model."""

    experiment: Experiment
    rows: pd.DataFrame
    """One row per metric, slice and model: value of the slice with interval and n, those of `OTHERS`, the difference,
    values of `EVERY`, and whether the slice is selected by the outcome (`by_outcome`)."""
    metrics: Mapping[str, Metric]
    styles: "Mapping[str, Style]"
    remarks: tuple[str, ...] = field(default=())
    """Sentences about single slices: selected by the outcome, or not applicable."""

    @property
    def names(self) -> list[str]:
        """Names of the metrics that have a value in some slice."""
        return list(dict.fromkeys(self.rows[METRIC]))

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Remarks on slices, the meaning of the intervals, and the number of comparisons."""
        count = int(self.rows["difference_low"].notna().sum())
        several = [EXPLORATORY.format(count=count)] if count > 1 else []
        return (*self.remarks, *([INTERVALS] if len(self.rows) else []), *several)

    def term(self, name: str) -> Term:
        """Return the term that describes a metric."""
        return term_of(self.experiment, self.metrics, name)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the numbers of all slices."""
        return {"slices": self.rows}

    def figures(self, metric: str = "") -> "dict[str, go.Figure]":
        """Return the figure of one metric (default: the first); empty without a slice that applies."""
        return {"slices": self._draw(metric or self.names[0])} if len(self.rows) else {}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the numbers formatted for reading."""
        lines = []
        for row in self.rows.to_dict("records"):
            about = self.term(row[METRIC])
            numbers = [cell(row, about.unit, columns) for columns in (VALUE, ENDS[OTHERS], GAP, ENDS[EVERY])]
            cells = about.label, self._marked(row, "{}"), row[MODEL], *numbers, row[N], row[f"{OTHERS}_n"]
            line = dict(zip(HEADS, cells, strict=True))
            lines.append(line | (after_numbers(row[METRIC], about) if about.definition else {}))
        return {TITLE: pd.DataFrame(lines)}

    def _draw(self, metric: str) -> "go.Figure":
        from probe.plotting.intervals import headline_intervals

        if metric not in self.names:
            hint = suggest(metric, self.names, f"it is one of {', '.join(self.names)}.")
            raise ConfigError(f"No slice has a value of the metric `{metric}`: {hint}")
        about, rows = self.term(metric), self.rows[self.rows[METRIC] == metric]
        points, titles = [], {}
        for row in rows.to_dict("records"):
            for words, columns in (("\u201c{}\u201d", VALUE), ("all but \u201c{}\u201d", ENDS[OTHERS])):
                title = self._marked(row, words)
                points.append(self._point(row, title, columns))
                titles[title] = Term(title, about.unit, definition=about.title)
        title = "all items"
        points += [self._point(row, title, ENDS[EVERY]) for row in rows.drop_duplicates(MODEL).to_dict("records")]
        titles[title] = Term(title, about.unit, definition=about.title)
        table = pd.DataFrame(points)
        chart = headline_intervals(table[table["value"].notna()], self.styles, list(titles), titles.__getitem__)
        chart.update_xaxes(title_text=f"{about.label}, with 95 % interval")
        height = 110 + 26 * len(titles) * max(1, len(set(table["run"])) // 2)
        return titled(chart, f"{about.title} in slices and in all other items", max(220, height))

    @staticmethod
    def _marked(row: Mapping[Any, Any], words: str) -> str:
        """Return the name of a row's slice in some words, with a mark if it is selected by the outcome."""
        return words.replace("{}", row[SLICE]) + (BIASED if row["by_outcome"] else "")

    @staticmethod
    def _point(row: Mapping[Any, Any], title: str, columns: Sequence[str]) -> dict[str, Any]:
        value, low, high = (row[name] for name in columns)
        return {"run": row[MODEL], METRIC: title, "value": value, "ci_low": low, "ci_high": high}


def compare_slices(experiment: Experiment, result: Result, slices: Sequence[Slice]) -> SliceComparison:
    """Compute all metrics on slices, on all other items, and on all items.

    Metrics without items in a slice are left out, and those by whose outcome the slice was selected.

    Args:
        experiment: experiment of the result.
        result: result of one or several models.
        slices: slices to compare; one that does not apply to these items is named in a remark.

    Raises:
        DataError: a metric cannot read the items.
        ConfigError: two slices have one name.
    """
    names = [each.name for each in slices]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two slices are called `{twice}`: give each a name of its own.")
    items, seed = result.items, int(result.meta.get("seed") or 0)
    metrics, by_model = metrics_of(experiment, items), dict(iter(items.groupby(MODEL, sort=False)))
    labels = [label for label in (*result.models[-1:], *result.models[:-1]) if label in by_model]  # the baseline first
    members, outcomes, remarks = dict[str, list[str]](), dict[str, set[str]](), []
    for each in slices:
        try:
            members[each.name] = each.select(items, metrics)
        except DataError as error:
            remarks.append(str(error))
            continue
        outcomes[each.name] = outcome_columns(each, items, metrics)
        remarks += [] if members[each.name] else [f"No item is in the slice `{each.name}`."]
        remarks += _describe_bias(each, outcomes[each.name], experiment, metrics)
    lines = []
    for name, metric in metrics.items():
        counted = {label: metric.select(by_model[label]) for label in labels}
        applying = [chosen for chosen in members if not outcomes[chosen] & set(metric.columns)]
        with explain_errors(experiment, f"The metric `{name}` of the experiment"):
            every = {label: _estimate(metric, rows, seed) for label, rows in counted.items()} if applying else {}
            for chosen in applying:
                for label, rows in counted.items():
                    inside = rows[ITEM].isin(members[chosen])
                    if inside.any():
                        line = {METRIC: name, SLICE: chosen, MODEL: str(label), "by_outcome": bool(outcomes[chosen])}
                        line |= _numbers(metric, rows[inside], rows[~inside], bool(outcomes[chosen]), seed)
                        lines.append(line | every[label].row(name=EVERY) | {f"{EVERY}_n": len(rows)})
    return SliceComparison(experiment, pd.DataFrame(lines, columns=COLUMNS), metrics, result.styles, tuple(remarks))


def _numbers(metric: Metric, inside: pd.DataFrame, outside: pd.DataFrame, biased: bool, seed: int) -> dict[str, Any]:
    """Return the values of a slice and of the others with their n, and their difference."""
    value, other = (_estimate(metric, rows, seed) for rows in (inside, outside))
    gap = slice_difference(metric, inside, outside, value, other, seed)
    gap = Interval(gap.value, *UNKNOWN[1:]) if biased else gap
    others = other.row(name=OTHERS) | {f"{OTHERS}_n": len(outside)}
    return value.row(len(inside)) | others | gap.row(name="difference")


def _estimate(metric: Metric, rows: pd.DataFrame, seed: int) -> Interval:
    return metric.estimate(rows, seed) if len(rows) else UNKNOWN


def slice_difference(
    metric: Metric, inside: pd.DataFrame, outside: pd.DataFrame, value: Interval, other: Interval, seed: int = 0
) -> Interval:
    """Return the value of a slice minus that of all other items, with an interval if there is an estimator for it.

    Args:
        metric: metric of both values.
        inside: rows of the slice that the metric counts.
        outside: all other rows that it counts.
        value: value of the slice.
        other: value of the others.
        seed: seed of the bootstrap.
    """
    bare = Interval(value.value - other.value, float("nan"), float("nan"))
    if not len(outside) or not isinstance(metric, Mean | Statistic):
        return bare
    units = metric.units(pd.concat([inside, outside]))
    if units is None:
        return unpaired_difference(value, other)
    ours, theirs = set(units[: len(inside)]), set(units[len(inside) :])
    if not ours & theirs:
        return unpaired_difference(value, other)
    if not isinstance(metric, Mean) or min(len(ours), len(theirs)) < stats.LEAST:
        return bare
    gaps = [_residuals(floats(rows, metric.columns[0]), len(units)) for rows in (inside, outside)]
    together = stats.bootstrap_mean(bare.value + np.concatenate([gaps[0], -gaps[1]]), seed=seed, units=units)
    apart = unpaired_difference(value, other)
    if math.isnan(apart.low) or math.isnan(together.low):
        return bare
    return Interval(bare.value, min(apart.low, together.low), max(apart.high, together.high))


def _residuals(values: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Return deviations from the mean, weighted so that their mean over all items is that over these."""
    return np.asarray((values - values.mean()) * total / len(values))


def outcome_columns(each: Slice, items: pd.DataFrame, metrics: Mapping[str, Metric]) -> set[str]:
    """Return the columns of the outcome by which a slice selects items; empty if the question alone selects them.

    A column that equals the outcome or its complement in every row that has both is part of it. A text that some item
    of the slice has only in an answer selects by the answer.

    Args:
        each: the slice.
        items: items of all models.
        metrics: metrics of the experiment by name.

    Raises:
        DataError: the slice does not apply to these items.
    """
    found = {ANSWER} if each.found_in_answers(items) & set(each.select(items, metrics)) else set()
    if each.show in VERDICTS:
        found |= {ANSWER, *(name for name in RIGHT if name in items)}
        outcome = pd.to_numeric(verdicts(items), errors="coerce").astype(float)
    elif each.metric:
        found.add(metrics[each.metric].columns[0])
        outcome = items[metrics[each.metric].columns[0]].astype(float)
    else:
        return found | ({ANSWER} if each.show == DIFFER else set())
    for column in {column for metric in metrics.values() for column in metric.columns} - found:
        values = pd.to_numeric(items[column], errors="coerce").astype(float)
        both = (values.notna() & outcome.notna()).to_numpy()
        pairs = values[both].to_numpy(), outcome[both].to_numpy()
        if both.any() and (np.array_equal(*pairs) or np.array_equal(1 - pairs[0], pairs[1])):
            found.add(column)
    return found


def _describe_bias(each: Slice, outcome: set[str], experiment: Experiment, metrics: Mapping[str, Metric]) -> list[str]:
    """State that a slice is selected by the outcome, and which metrics are left out; empty otherwise."""

    def title(metric: str) -> str:
        return term_of(experiment, metrics, metric).title

    left_out = [title(name) for name, metric in metrics.items() if outcome & set(metric.columns)]
    more = f" and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
    rest = f" Left out, since they follow from it: {', '.join(left_out[:LISTED])}{more}." if left_out else ""
    what = f"{BIASED} The slice `{each.name}` is selected by the outcome ({each.describe(title)})."
    return [f"{what} This choice biases its numbers, so their differences have no interval.{rest}"] if outcome else []
