"""The items behind a number, with filters and pages, for all models side by side; a click shows an item in full."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.components import metric_words
from dashboard.components.details import csv_button
from dashboard.components.table import show_table
from dashboard.markdown import guard_callback, note
from dashboard.pages.experiments.asking import Subject
from dashboard.pages.experiments.item import RIGHT, show, verdict
from dashboard.state import has_changed, keep
from probe.experiments.comparison import NUMBERS, ModelComparison
from probe.experiments.metrics import ITEM, Metric, Share
from probe.experiments.result import MODEL
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

OF_METRIC, OF_MODEL, CHOSEN_ITEM = "~metric", "~of", "~item"
"""Suffixes of keys after the experiment's name: metric and model of the filter, and chosen item."""
SHOW, KIND, TEXT, PAGE = "~show", "~kind", "~text", "~page"
"""Suffixes of keys after the experiment's name: further filters, and page of the table."""
CHOICES = (OF_METRIC, OF_MODEL, CHOSEN_ITEM, SHOW, KIND, TEXT, PAGE)
"""Suffixes of the keys of all choices of items."""
ROWS = 12
"""Number of metrics in the table of numbers that are visible without scrolling."""
EACH = 100
"""Number of rows on a page of the table."""
ANY = "any model"
ALL, ONES, ZEROS, HIGH, LOW, APART = "all", "counted (1)", "not counted (0)", "highest first", "lowest first", "differ"
"""Ways of showing a metric's items."""
ANSWERS = {"answered right": True, "answered wrong": False}
"""Ways of showing items by the verdict on the answers, if it is recorded."""


def draw_numbers(both: ModelComparison) -> None:
    """Draw the table of numbers; a click on one chooses its metric and its model for the items."""
    name, table = both.experiment.name, both.lists()[NUMBERS]
    widget = f"{name}-numbers"

    @guard_callback
    def choose() -> None:
        selection = st.session_state[widget]["selection"]
        rows = [*selection.get("rows", ()), *(row for row, _ in selection.get("cells", ()))]
        if rows and rows[0] < len(both.names):
            st.session_state[name + OF_METRIC] = both.names[rows[0]]
            columns = [column for _, column in selection.get("cells", ())]
            if columns and columns[0] in both.summaries:
                st.session_state[name + OF_MODEL] = columns[0]

    show_table(
        table,
        hide_index=True,
        height="content" if len(table) <= ROWS else 38 + 35 * ROWS,
        key=widget,
        on_select=choose,
        selection_mode="single-cell",
        column_config=metric_words.COLUMNS | {"n": st.column_config.NumberColumn(width=56)},
    )
    note(f"{both.intervals} Click a number to see the items behind it.")


def section(both: ModelComparison, subjects: Sequence[Subject]) -> None:
    """Draw the widgets, the table and the chosen item.

    Args:
        both: the results of all models.
        subjects: models, the base first.
    """
    experiment, result = both.experiment, both.result
    labels = [subject.label for subject in subjects]
    columns = st.columns([4, 3, 3, 3, 4], gap="small")
    metric = choose_metric(both, columns[0])
    rows, total = filter_items(experiment.name, result.items, labels, metric, columns[1:])
    listed = page_of(experiment.name, rows, total)
    if len(listed):
        listing(experiment.name, listed)
    key = experiment.name + CHOSEN_ITEM
    names = set(result.items[ITEM])
    if key in st.session_state and st.session_state[key] not in names:
        st.session_state[key] = None
    columns = st.columns([4, 8], vertical_alignment="bottom")
    with columns[0]:
        options = list(dict.fromkeys([*listed.index, *filter(None, [_current_item(key)])]))
        options = [option for option in options if option in names]
        choice = st.selectbox(
            "Item",
            options,
            index=None,
            key=key,
            bind="query-params",
            placeholder="click a row, or choose one",
            format_func=visible,
        )
    if choice is None:
        return
    show(experiment, subjects, result, str(choice), columns[1])


def page_of(name: str, rows: pd.DataFrame, total: int) -> pd.DataFrame:
    """Draw the pages of the table and a button to download all rows, and return the rows of the open page.

    When the filters change, the first page opens.

    Args:
        name: name of the experiment.
        rows: all rows that pass the filters.
        total: number of items without filters.
    """
    key, pages = name + PAGE, max(1, -(-len(rows) // EACH))
    if has_changed(f"_{name}_rows", tuple(rows.index)):
        st.session_state[key] = 1
    keep(key, range(1, pages + 1), 1)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        place = st.container(width="content")
        page = st.pagination(pages, key=key, bind="query-params") if pages > 1 else 1
        csv_button(rows.rename_axis(ITEM).reset_index(), f"items-of-{name}")
    first = EACH * (page - 1)
    listed = rows.iloc[first : first + EACH]
    where = f", {first + 1:,} to {first + len(listed):,} listed" if pages > 1 else ""
    with place:
        note(f"{len(rows):,} of {total:,} items{where}; click one to read it token by token.")
    return listed


def choose_metric(both: ModelComparison, column: "DeltaGenerator") -> Metric | None:
    """Let the reader choose the metric whose items are listed; None for a metric that does not depend on items."""
    experiment, metrics, names = both.experiment, both.metrics, both.names
    with column:
        key, titles = experiment.name + OF_METRIC, {name: experiment.term(name).title for name in names}
        asked = st.query_params.get(key)
        if key not in st.session_state and asked in titles:
            st.session_state[key] = asked  # a link may contain the name of a metric; the widget uses its title
        keep(key, names, names[0])
        name = st.selectbox(
            "Items of", names, key=key, bind="query-params", format_func=lambda each: visible(titles[each])
        )
    if name not in metrics:
        note(f"{titles[name].replace('_', ' ')} is not computed from single items, so all items are listed.")
    return metrics.get(name)


def _current_item(key: str) -> str | None:
    """Return the chosen item of the session or of the URL, or None."""
    value = st.session_state.get(key) or st.query_params.get(key)
    return str(value) if value else None


def filter_items(
    name: str, items: pd.DataFrame, labels: Sequence[str], metric: Metric | None, columns: "list[DeltaGenerator]"
) -> tuple[pd.DataFrame, int]:
    """Draw the filters; return the items that pass, one row each (`beside`), and the number that the metric counts."""
    subset = metric.select(items) if metric is not None else items
    rows = beside(subset, labels, metric)
    total = len(rows)
    ways = [ALL, *((ONES, ZEROS) if isinstance(metric, Share) else (HIGH, LOW) if single(metric) else ())]
    ways += [APART] if len(labels) > 1 else []
    ways += ANSWERS if {*RIGHT, "expected"} & set(items) else []
    with columns[0]:
        way = st.selectbox("Show", ways, key=keep(name + SHOW, ways, ALL), bind="query-params", format_func=visible)
    with columns[1]:
        key = keep(name + OF_MODEL, [ANY, *labels], ANY)
        of = st.selectbox("Answered by", [ANY, *labels], key=key, bind="query-params", format_func=visible)
    kinds = sorted({str(kind) for kind in items["kind"].dropna()}) if "kind" in items else []
    with columns[2]:
        key = name + KIND
        if key in st.session_state:
            st.session_state[key] = [kind for kind in st.session_state[key] if kind in kinds]
        picks = st.multiselect(
            "Kinds",
            kinds,
            key=key,
            bind="query-params",
            placeholder="all",
            disabled=len(kinds) < 2,
            format_func=visible,
        )
    with columns[3]:
        placeholder = "part of a prompt or an answer"
        text = st.text_input("Text", key=name + TEXT, bind="query-params", placeholder=placeholder)
    names = labels if of == ANY else [of]
    if picks and "kind" in rows:
        rows = rows[rows["kind"].astype(str).isin(picks)]
    if text:
        texts = rows[[column for column in rows if column == "prompt" or str(column).startswith("answer: ")]]
        rows = rows[texts.astype(str).apply(lambda line: text.lower() in " ".join(line).lower(), axis=1)]
    if way in ANSWERS:
        return rows[rows.index.isin(judged(subset, names, ANSWERS[way]))], total
    return rows_shown(rows, way, names, labels, metric), total


def judged(items: pd.DataFrame, names: Sequence[str], right: bool) -> list[str]:
    """Return the items that at least one model answered right (or wrong, if `right` is False)."""
    rows = items[items[MODEL].isin(names)].to_dict("records")
    return [str(row[ITEM]) for row in rows if verdict(row) is right]


def rows_shown(
    rows: pd.DataFrame, way: str, names: Sequence[str], labels: Sequence[str], metric: Metric | None
) -> pd.DataFrame:
    """Return the rows that a way of showing selects, in its order.

    Args:
        rows: see `beside`.
        way: one of the ways above.
        names: models whose values count; a row is selected if one of them matches.
        labels: labels of all models.
        metric: metric of the values.
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
    """Return whether a metric reads a single column of numbers."""
    return metric is not None and len(metric.columns) == 1


def value_name(metric: Metric | None) -> str:
    """Return the name of the column of a metric that reads a single one; empty for other metrics."""
    return metric.columns[0] if metric is not None and single(metric) else ""


def beside(items: pd.DataFrame, labels: Sequence[str], metric: Metric | None) -> pd.DataFrame:
    """Return one row per item, by name: kind, prompt and expected answer, then each model's answer and values."""
    first = items.drop_duplicates(ITEM).set_index(ITEM)
    table = first[[column for column in ("kind", "prompt", "expected") if column in first]].copy()
    columns = [column for column in (metric.columns if metric else ()) if column in items]
    of = {label: rows.drop_duplicates(ITEM).set_index(ITEM) for label, rows in items.groupby(MODEL, sort=False)}
    for column in [*(["answer"] if "answer" in items else []), *columns]:
        for label in labels:
            if label in of:
                table[f"{column}: {label}"] = of[label][column].reindex(table.index)
    return table


def listing(name: str, items: pd.DataFrame) -> None:
    """Draw the items as a table; a click anywhere in a row chooses its item."""
    widget = f"{name}-items"

    @guard_callback
    def choose() -> None:
        selection = st.session_state[widget]["selection"]
        rows = [*selection.get("rows", ()), *(row for row, _ in selection.get("cells", ()))]
        if rows and rows[0] < len(items):
            st.session_state[name + CHOSEN_ITEM] = str(items.index[rows[0]])

    table = items.rename(columns=lambda column: str(column).replace("_", " "))
    table = table.rename_axis("item").reset_index().map(readable)
    number = st.column_config.NumberColumn(format="%.3g", width="small")
    floats = [str(column) for column in table if pd.api.types.is_float_dtype(table[column])]
    answers = [str(column) for column in table if str(column).startswith("answer: ")]
    show_table(
        table,
        hide_index=True,
        height=38 + 35 * min(8, len(items)),
        key=widget,
        on_select=choose,
        selection_mode="single-cell",
        column_config={
            "item": st.column_config.TextColumn(pinned=True),
            "kind": st.column_config.TextColumn(width=90),
            "prompt": st.column_config.TextColumn(width=230),
            "expected": st.column_config.TextColumn(width=90),
            **dict.fromkeys(answers, st.column_config.TextColumn(width=120)),
            **dict.fromkeys(floats, number),
        },
    )


def readable(value: Any) -> Any:
    """Convert a value to a cell: None if it is missing, 0 or 1 instead of a check box."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool | np.bool_):
        return int(value)
    return value
