"""The items behind a number: filtered, beside each other for all models; a click shows one token by token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.parts.phenomena import item
from dashboard.parts.phenomena.numbers import metrics_of
from dashboard.parts.phenomena.source import Subject
from dashboard.state import keep
from dashboard.text import guarded, note
from probe.experiments.metrics import ITEM, Metric, Share
from probe.experiments.registry import Experiment
from probe.experiments.result import MODEL, Result

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

MOST = 300
"""Rows that the table shows; the download holds all."""
ANY = "any model"
ALL, ONES, ZEROS, HIGH, LOW, APART = "all", "counted (1)", "not counted (0)", "highest first", "lowest first", "differ"
"""What to show of a metric's items."""


def section(experiment: Experiment, subjects: Sequence[Subject], result: Result, metrics: Sequence[str]) -> None:
    """Widgets, table, and the chosen item.

    Args:
        experiment: what was asked.
        subjects: the models, the base first.
        result: of all of them.
        metrics: names of those in the summary.
    """
    labels = [subject.label for subject in subjects]
    columns = st.columns([4, 3, 3, 3, 4], gap="small")
    metric = choose_metric(experiment, result, metrics, columns[0])
    found, total = filtered(experiment.name, result.items, labels, metric, columns[1:])
    beyond = f", the first {MOST} of which are listed" if len(found) > MOST else ""
    note(f"{len(found):,} of {total:,} items{beyond}; click one to read it token by token.")
    if len(found):
        listing(experiment.name, found.head(MOST))
    key = f"{experiment.name}~item"
    known = set(result.items[ITEM])
    if key in st.session_state and st.session_state[key] not in known:
        st.session_state[key] = None
    columns = st.columns([4, 8], vertical_alignment="bottom")
    with columns[0]:
        options = list(dict.fromkeys([*found.index[:MOST], *filter(None, [_asked(key)])]))
        options = [option for option in options if option in known]
        chosen = st.selectbox(
            "Item", options, index=None, key=key, bind="query-params", placeholder="click a row, or choose one"
        )
    if chosen is None:
        return
    item.show(experiment, subjects, result, str(chosen), columns[1])


def choose_metric(
    experiment: Experiment, result: Result, names: Sequence[str], column: "DeltaGenerator"
) -> Metric | None:
    """The metric whose items are looked at; None for a number that is no function of items."""
    key = f"{experiment.name}~metric"
    keep(key, names, names[0])
    known = metrics_of(experiment, result)
    with column:
        name = st.selectbox("Items of", names, key=key, bind="query-params")
    if name not in known:
        note(f"{name.replace('_', ' ')} is no function of single items, so all of them are listed.")
    return known.get(name)


def _asked(key: str) -> str | None:
    """The item of the session or of the URL."""
    value = st.session_state.get(key) or st.query_params.get(key)
    return str(value) if value else None


def filtered(
    name: str, items: pd.DataFrame, labels: Sequence[str], metric: Metric | None, columns: "list[DeltaGenerator]"
) -> tuple[pd.DataFrame, int]:
    """The items that the widgets leave, one row each (`beside`), and how many the metric counts."""
    counted = metric.select(items) if metric is not None else items
    rows = beside(counted, labels, metric)
    total = len(rows)
    ways = [ALL, *((ONES, ZEROS) if isinstance(metric, Share) else (HIGH, LOW) if single(metric) else ())]
    ways += [APART] if len(labels) > 1 else []
    keep(f"{name}~show", ways, ALL)
    keep(f"{name}~of", [ANY, *labels], ANY)
    with columns[0]:
        way = st.selectbox("Show", ways, key=f"{name}~show", bind="query-params")
    with columns[1]:
        of = st.selectbox("Answered by", [ANY, *labels], key=f"{name}~of", bind="query-params")
    kinds = sorted({str(kind) for kind in items["kind"].dropna()}) if "kind" in items else []
    with columns[2]:
        if f"{name}~kind" in st.session_state:
            st.session_state[f"{name}~kind"] = [k for k in st.session_state[f"{name}~kind"] if k in kinds]
        picked = st.multiselect(
            "Kinds", kinds, key=f"{name}~kind", bind="query-params", placeholder="all", disabled=len(kinds) < 2
        )
    with columns[3]:
        placeholder = "part of a prompt or an answer"
        text = st.text_input("Text", key=f"{name}~text", bind="query-params", placeholder=placeholder)
    names = labels if of == ANY else [of]
    if picked and "kind" in rows:
        rows = rows[rows["kind"].astype(str).isin(picked)]
    if text:
        told = rows[[column for column in rows if column == "prompt" or str(column).startswith("answer: ")]]
        rows = rows[told.astype(str).apply(lambda line: text.lower() in " ".join(line).lower(), axis=1)]
    return shown(rows, way, names, labels, metric), total


def shown(
    rows: pd.DataFrame, way: str, names: Sequence[str], labels: Sequence[str], metric: Metric | None
) -> pd.DataFrame:
    """The rows that a way of showing leaves, in its order.

    Args:
        rows: see `beside`.
        way: one of those above.
        names: the models whose values count; a row stays if one of them fits.
        labels: all models.
        metric: whose values.
    """
    own = [column for column in (f"{value_name(metric)}: {name}" for name in names) if column in rows]
    every = [column for column in (f"{value_name(metric)}: {name}" for name in labels) if column in rows]
    values = rows[own].astype(float) if own and single(metric) else pd.DataFrame(index=rows.index)
    if way in (ONES, ZEROS):
        return rows[(values == float(way == ONES)).any(axis=1)]
    if way in (HIGH, LOW) and len(values.columns):
        extreme = values.max(axis=1) if way == HIGH else values.min(axis=1)
        return rows.loc[extreme.sort_values(ascending=way == LOW, kind="stable").index]
    if way == APART:
        if single(metric) and len(every) > 1:
            spread = rows[every].astype(float)
            gap = spread.max(axis=1) - spread.min(axis=1)
            return rows.loc[gap[gap > 0].sort_values(ascending=False, kind="stable").index]
        answers = rows[[column for column in rows if str(column).startswith("answer: ")]].astype(str)
        return rows[answers.nunique(axis=1) > 1]
    return rows


def single(metric: Metric | None) -> bool:
    """Whether a metric is about one column of numbers."""
    return metric is not None and len(metric.columns) == 1


def value_name(metric: Metric | None) -> str:
    """The column that a metric of one column reads."""
    return metric.columns[0] if metric is not None and single(metric) else ""


def beside(items: pd.DataFrame, labels: Sequence[str], metric: Metric | None) -> pd.DataFrame:
    """One row an item, indexed by its name: kind, prompt and expected answer, then of each model answer and values."""
    first = items.drop_duplicates(ITEM).set_index(ITEM)
    made = first[[column for column in ("kind", "prompt", "expected") if column in first]].copy()
    columns = [column for column in (metric.columns if metric else ()) if column in items]
    of = {label: rows.drop_duplicates(ITEM).set_index(ITEM) for label, rows in items.groupby(MODEL, sort=False)}
    for column in [*(["answer"] if "answer" in items else []), *columns]:
        for label in labels:
            if label in of:
                made[f"{column}: {label}"] = of[label][column].reindex(made.index)
    return made


def listing(name: str, found: pd.DataFrame) -> None:
    """The items as a table; a click anywhere in a row chooses its item."""
    widget = f"{name}-items"

    @guarded
    def choose() -> None:
        selection = st.session_state[widget]["selection"]
        rows = [*selection.get("rows", ()), *(row for row, _ in selection.get("cells", ()))]
        if rows and rows[0] < len(found):
            st.session_state[f"{name}~item"] = str(found.index[rows[0]])

    table = found.rename(columns=lambda column: str(column).replace("_", " "))
    table = table.rename_axis("item").reset_index().map(readable)
    number = st.column_config.NumberColumn(format="%.3g", width="small")
    floats = [str(column) for column in table if pd.api.types.is_float_dtype(table[column])]
    st.dataframe(
        table,
        hide_index=True,
        height=38 + 35 * min(8, len(found)),
        key=widget,
        on_select=choose,
        selection_mode="single-cell",
        column_config={
            "item": st.column_config.TextColumn(pinned=True),
            "prompt": st.column_config.TextColumn(width=230),
            **dict.fromkeys(floats, number),
        },
    )


def readable(value: Any) -> Any:
    """A cell: nothing where there is nothing, no check boxes."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value
