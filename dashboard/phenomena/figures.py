"""The numbers of an experiment: one row a metric, one column a model; a click leads to the items behind one."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.components import metric_words
from dashboard.components.table import show_table
from dashboard.markdown import guard_callback, note
from dashboard.phenomena.choices import OF_METRIC, OF_MODEL
from probe.experiments.definition import Experiment
from probe.experiments.forms import FORMS
from probe.experiments.metrics import BARE, PAIRS, Metric, Share, has_bare
from probe.experiments.result import Result
from probe.experiments.run import columns_as_metrics
from probe.plotting.intervals import headline_intervals, in_unit
from probe.terms import DIFFERENCE, RATES, SHARE, Term

OTHER = {"chat": "plain", "plain": "chat"}
UNPAIRED = "\u2020"
"""Marks a difference of values over different items."""
ROWS = 12
"""Metrics that the table shows without scrolling."""


def metrics_of(experiment: Experiment, result: Result) -> dict[str, Metric]:
    """Return the metrics that are functions of items, by name."""
    metrics = experiment.metrics or columns_as_metrics(result.items)
    return {metric.name: metric for metric in metrics if metric.applies(result.items)}


def about(experiment: Experiment, metrics: Mapping[str, Metric], name: str) -> Term:
    """Return the term of a metric; a `Share` of a custom experiment, which has no known unit, gets that of shares."""
    known = experiment.term(name)
    return replace(known, unit=SHARE) if not known.unit and isinstance(metrics.get(name), Share) else known


def cell(row: Mapping[Any, Any], unit: str, prefix: str = "") -> str:
    """Format a number with its interval; rates are in percent, their differences in percentage points."""
    names = {"": ("value", "ci_low", "ci_high"), "difference": ("difference", "difference_low", "difference_high")}
    value, low, high = (float(row.get(name, math.nan)) for name in names[prefix])
    unit = DIFFERENCE if prefix and unit in RATES else unit
    mark = f" {UNPAIRED}" if prefix and row.get(PAIRS) == 0 and not math.isnan(value) else ""
    return in_unit(unit, value, low, high, sign=bool(prefix)) + mark


def wide(experiment: Experiment, result: Result, summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return title, values with intervals, differences to the first model, n and meaning, one line a metric."""
    metrics = metrics_of(experiment, result)
    names = list(dict.fromkeys(name for table in summaries.values() for name in table["metric"]))
    rows = {label: {row["metric"]: row for row in table.to_dict("records")} for label, table in summaries.items()}
    base, *others = summaries
    lines = []
    for name in names:
        words = about(experiment, metrics, name)
        line: dict[str, Any] = {"metric": words.label}
        for label in summaries:
            line[label] = cell(rows[label].get(name, {}), words.unit)
        for label in others:
            line[f"{label} \u2212 {base}"] = cell(rows[label].get(name, {}), words.unit, "difference")
        line["n"] = max((rows[label][name]["n"] for label in summaries if name in rows[label]), default=0) or None
        line |= metric_words.after_numbers(name, words) if words.definition else {}
        lines.append(line)
    return pd.DataFrame(lines)


def table(experiment: Experiment, result: Result, summaries: dict[str, pd.DataFrame]) -> list[str]:
    """Draw the table of numbers, and return the names of its metrics.

    A click on a number chooses its metric and its model for the items.
    """
    numbers = wide(experiment, result, summaries)
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary["metric"]))
    widget = f"{experiment.name}-numbers"

    @guard_callback
    def choose() -> None:
        selection = st.session_state[widget]["selection"]
        rows = [*selection.get("rows", ()), *(row for row, _ in selection.get("cells", ()))]
        if rows and rows[0] < len(names):
            st.session_state[experiment.name + OF_METRIC] = names[rows[0]]
            columns = [column for _, column in selection.get("cells", ())]
            if columns and columns[0] in summaries:
                st.session_state[experiment.name + OF_MODEL] = columns[0]

    show_table(
        numbers,
        hide_index=True,
        height="content" if len(numbers) <= ROWS else 38 + 35 * ROWS,
        key=widget,
        on_select=choose,
        selection_mode="single-cell",
        column_config=metric_words.COLUMNS | {"n": st.column_config.NumberColumn(width=56)},
    )
    several = len(summaries) > 1
    apart = any((summary[PAIRS] == 0).any() for summary in summaries.values() if PAIRS in summary)
    note(
        "Values with 95 % intervals over answers"
        + ("; differences are paired, item by item (pp: percentage points)" if several else "")
        + (f", but not those with {UNPAIRED}, where the models were asked different things" if apart else "")
        + (f"; {BARE}" if any(has_bare(summary) for summary in summaries.values()) else "")
        + ". Click a number to see the items behind it."
    )
    return names


def forms(experiment: Experiment, result: Result) -> None:
    """Draw every metric in both forms of the prompts with the paired difference, one line a model and metric."""
    metrics, lines = metrics_of(experiment, result), []
    sent = {model["label"]: model["facts"]["form"] for model in result.meta["models"] if "form" in model["facts"]}
    for row in result.tables[FORMS].to_dict("records"):
        words = about(experiment, metrics, row["metric"])
        sides = {OTHER[sent[row["model"]]]: [row[name] for name in ("other", "other_low", "other_high")]}
        sides[sent[row["model"]]] = [row[name] for name in ("value", "ci_low", "ci_high")]
        line = {"metric": words.label, "model": row["model"], "sent": sent[row["model"]]}
        line |= {form: in_unit(words.unit, *sides[form]) for form in ("plain", "chat")}
        line |= {"other \u2212 sent": cell(row, words.unit, "difference"), "n": int(row["n"])}
        lines.append(line | (metric_words.after_numbers(row["metric"], words) if words.definition else {}))
    show_table(pd.DataFrame(lines), hide_index=True, key=f"{experiment.name}-forms", column_config=metric_words.COLUMNS)
    note(
        "Chat: each prompt as a user's message in the template of the model's tokenizer. Plain: without it. Some of the"
        " questions were asked in the other form as well; values are those of these questions, differences are paired."
    )


def sentence(experiment: Experiment, summaries: dict[str, pd.DataFrame]) -> str:
    """State the first number of every model, as the finding of an experiment that gives none."""
    first = next(iter(summaries.values()))
    name = str(first["metric"].iloc[0])
    words = about(experiment, {metric.name: metric for metric in experiment.metrics}, name)
    parts = []
    for label, summary in summaries.items():
        rows = summary[summary["metric"] == name].to_dict("records")
        if rows:
            parts.append(f"{cell(rows[0], words.unit)} for {label}")
    return f"{experiment.title}: {words.title.replace('_', ' ')} is {', '.join(parts)}."


def points(
    experiment: Experiment, result: Result, summaries: dict[str, pd.DataFrame]
) -> tuple[go.Figure, pd.DataFrame]:
    """Draw all numbers as points with intervals, for an experiment without figures; return the chart and its table."""
    long = pd.concat([table.assign(run=label) for label, table in summaries.items()], ignore_index=True)
    within = [name for name, rows in long.groupby("metric", sort=False) if rows["value"].between(-1, 1).all()]
    selection = long[long["metric"].isin(within)] if within else long
    chart = headline_intervals(selection, result.styles, words=experiment.term)
    chart.update_xaxes(title_text="value, with 95 % interval")
    return chart.update_layout(height=max(220, 100 + 45 * selection["metric"].nunique())), long


def behind(result: Result, name: str) -> pd.DataFrame:
    """Return the table behind a figure: that of its name, one whose name begins alike, or the summary."""
    near = [key for key in result.tables if name.startswith(key) or key.startswith(name)]
    return result.tables[name] if name in result.tables else result.tables[near[0]] if near else result.summary
