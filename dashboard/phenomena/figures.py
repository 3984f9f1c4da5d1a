"""The numbers of an experiment: one row a metric, one column a model; a click leads to the items behind one."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.markdown import guard_callback, note
from dashboard.phenomena.choices import OF_METRIC, OF_MODEL
from probe.experiments.metrics import PAIRS, Metric, Share
from probe.experiments.registry import Experiment
from probe.experiments.result import Result
from probe.experiments.run import columns_as_metrics
from probe.plotting.intervals import format_interval, headline_intervals, percent

UNPAIRED = "\u2020"
"""Marks a difference of values over different items."""
ROWS = 12
"""Metrics that the table shows without scrolling."""


def metrics_of(experiment: Experiment, result: Result) -> dict[str, Metric]:
    """The metrics that are functions of items, by name."""
    metrics = experiment.metrics or columns_as_metrics(result.items)
    return {metric.name: metric for metric in metrics if metric.applies(result.items)}


def cell(row: Mapping[Any, Any], kind: Metric | None, prefix: str = "") -> str:
    """A number with its interval; shares in percent, their differences in percentage points."""
    names = {"": ("value", "ci_low", "ci_high"), "difference": ("difference", "difference_low", "difference_high")}
    value, low, high = (float(row.get(name, math.nan)) for name in names[prefix])
    if math.isnan(value):
        return "\u2014"
    sign = "+" if prefix and value > 0 else ""
    text, mark = number_with_interval(value, low, high), f" {UNPAIRED}" if prefix and row.get(PAIRS) == 0 else ""
    if isinstance(kind, Share):
        text = f"{100 * value:.0f} %" if math.isnan(low) else percent(value, low, high)
        text = text.replace("%", "pp") if prefix else text
    return sign + re.sub(r"-(0(?:\.0+)?)(?![\d.])", r"\1", text).replace("-", "\u2212") + mark


def number_with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval; more digits where all of it is small."""
    largest = max(abs(each) for each in (value, low, high) if not math.isnan(each))
    if math.isnan(low) or math.isnan(high) or largest >= 0.1 or largest == 0:
        return format_interval(value, low, high)
    digits = 3 if largest >= 0.01 else 4
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def wide(experiment: Experiment, result: Result, summaries: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """metric, then value with interval of each model, then differences to the first model, then n."""
    metrics = metrics_of(experiment, result)
    names = list(dict.fromkeys(name for table in summaries.values() for name in table["metric"]))
    rows = {label: {row["metric"]: row for row in table.to_dict("records")} for label, table in summaries.items()}
    base, *others = summaries
    lines = []
    for name in names:
        line: dict[str, Any] = {"metric": name}
        for label in summaries:
            line[label] = cell(rows[label].get(name, {}), metrics.get(name))
        for label in others:
            line[f"{label} \u2212 {base}"] = cell(rows[label].get(name, {}), metrics.get(name), "difference")
        line["n"] = max((rows[label][name]["n"] for label in summaries if name in rows[label]), default=0) or None
        lines.append(line)
    return pd.DataFrame(lines)


def table(experiment: Experiment, result: Result, summaries: dict[str, pd.DataFrame]) -> list[str]:
    """The table; a click on a number chooses its metric and its model for the items. Gives the metrics' names."""
    numbers = wide(experiment, result, summaries)
    names = list(numbers["metric"])
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

    st.dataframe(
        numbers,
        hide_index=True,
        height="content" if len(numbers) <= ROWS else 38 + 35 * ROWS,
        key=widget,
        on_select=choose,
        selection_mode="single-cell",
        column_config={
            "metric": st.column_config.TextColumn(pinned=True, width="medium"),
            "n": st.column_config.NumberColumn(width="small"),
        },
    )
    several = len(summaries) > 1
    apart = any((summary[PAIRS] == 0).any() for summary in summaries.values() if PAIRS in summary)
    note(
        "Values with 95 % intervals"
        + ("; differences are paired, item by item (pp: percentage points)" if several else "")
        + (f", but not those with {UNPAIRED}, where the models were asked different things" if apart else "")
        + ". Click a number to see the items behind it."
    )
    return names


def sentence(experiment: Experiment, summaries: dict[str, pd.DataFrame]) -> str:
    """A finding for an experiment that says none: its first number of every model."""
    first = next(iter(summaries.values()))
    name = str(first["metric"].iloc[0])
    kinds = {metric.name: metric for metric in experiment.metrics}
    parts = []
    for label, summary in summaries.items():
        rows = summary[summary["metric"] == name].to_dict("records")
        if rows:
            parts.append(f"{cell(rows[0], kinds.get(name))} for {label}")
    return f"{experiment.title}: {name.replace('_', ' ')} is {', '.join(parts)}."


def points(result: Result, summaries: dict[str, pd.DataFrame]) -> tuple[go.Figure, pd.DataFrame]:
    """All numbers as points with intervals, for an experiment that draws nothing; and the table behind them."""
    long = pd.concat([table.assign(run=label) for label, table in summaries.items()], ignore_index=True)
    within = [name for name, rows in long.groupby("metric", sort=False) if rows["value"].between(-1, 1).all()]
    selection = long[long["metric"].isin(within)] if within else long
    chart = headline_intervals(selection, result.styles)
    chart.update_xaxes(title_text="value, with 95 % interval")
    return chart.update_layout(height=max(220, 100 + 45 * selection["metric"].nunique())), long


def behind(result: Result, name: str) -> pd.DataFrame:
    """The table behind a figure: that of its name, one whose name begins alike, or the summary."""
    near = [key for key in result.tables if name.startswith(key) or key.startswith(name)]
    return result.tables[name] if name in result.tables else result.tables[near[0]] if near else result.summary
