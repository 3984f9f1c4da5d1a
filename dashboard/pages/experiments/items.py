"""The items behind a number, with filters and pages, for all models side by side; one of them is shown in full."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.components import metric_words
from dashboard.components.details import csv_button
from dashboard.components.table import show_table
from dashboard.components.transcript import walk
from dashboard.markdown import guard_callback, note
from dashboard.pages.experiments.asking import Subject
from dashboard.pages.experiments.item import show
from dashboard.pages.experiments.kept_slices import offer_slices
from dashboard.state import has_changed, keep
from probe.experiments.comparison import NUMBERS, ModelComparison
from probe.experiments.metrics import EXPECTED, ITEM, Metric, Share
from probe.experiments.result import MODEL
from probe.experiments.slices import ALL, DIFFER, ONES, RIGHT, VERDICTS, ZEROS, Slice
from probe.model.messages import last_words
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
WORDS = 34
"""Largest number of characters of a prompt in the table."""
EACH = 100
"""Number of rows on a page of the table."""
ANY = "any model"
HIGH, LOW = "highest first", "lowest first"
"""Ways of showing all items of a metric in an order; the others select items (`probe.experiments.slices.SHOWS`)."""


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


@st.fragment
@guard_callback
def section(both: ModelComparison, subjects: Sequence[Subject]) -> None:
    """Draw the widgets, the table and the chosen item, apart from the page: a key walks through the items quickly.

    Args:
        both: the results of all models.
        subjects: models, the base first.
    """
    experiment, result = both.experiment, both.result
    labels = [subject.label for subject in subjects]
    columns = st.columns([4, 3, 3, 3, 4], gap="small")
    metric = choose_metric(both, columns[0])
    rows, total, now = filter_items(both, labels, metric, columns[1:])
    listed = page_of(both, rows, total, now)
    if len(listed):
        listing(experiment.name, listed)
    key = experiment.name + CHOSEN_ITEM
    names = set(result.items[ITEM])
    if key in st.session_state and st.session_state[key] not in names:
        st.session_state[key] = None
    left, right = st.columns([4, 8], vertical_alignment="bottom")
    with left:
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

    def turn_page(at: int) -> None:
        st.session_state[experiment.name + PAGE] = at // EACH + 1

    with right:
        walk(list(rows.index), key, turn_page)
    if choice is None:
        return
    show(experiment, subjects, result, str(choice), scores_of(both, metric))


def page_of(both: ModelComparison, rows: pd.DataFrame, total: int, now: Slice) -> pd.DataFrame:
    """Draw the pages of the table, its download and the slices, and return the rows of the open page.

    When the filters change, the first page opens.

    Args:
        both: the results of all models.
        rows: all rows that pass the filters.
        total: number of items without filters.
        now: the filters.
    """
    name = both.experiment.name
    key, pages = name + PAGE, max(1, -(-len(rows) // EACH))
    if has_changed(f"_{name}_rows", tuple(rows.index)):
        st.session_state[key] = 1
    keep(key, range(1, pages + 1), 1)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        place = st.container(width="content")
        page = st.pagination(pages, key=key, bind="query-params") if pages > 1 else 1
        csv_button(rows.rename_axis(ITEM).reset_index(), f"items-of-{name}")
        offer_slices(name, now, partial(apply_slice, both), lambda metric: both.term(metric).title)
    first = EACH * (page - 1)
    listed = rows.iloc[first : first + EACH]
    where = f", {first + 1:,} to {first + len(listed):,} listed" if pages > 1 else ""
    with place:
        note(f"{len(rows):,} of {total:,} items{where}; click one to read it.")
    return listed


def apply_slice(both: ModelComparison, each: Slice) -> None:
    """Set the filters to those of a slice.

    Raises:
        DataError: the slice does not apply to these items.
    """
    each.check(both.result.items, both.metrics)
    name = both.experiment.name
    st.session_state[name + KIND], st.session_state[name + TEXT] = list(each.kinds), each.text
    st.session_state[name + SHOW], st.session_state[name + OF_MODEL] = each.show, each.model or ANY
    if each.metric:
        st.session_state[name + OF_METRIC] = each.metric


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
    both: ModelComparison, labels: Sequence[str], metric: Metric | None, columns: "list[DeltaGenerator]"
) -> tuple[pd.DataFrame, int, Slice]:
    """Draw the filters.

    Returns:
        The items that pass, one row each (`beside`), the number that the metric counts, and the filters.
    """
    name, items = both.experiment.name, both.result.items
    subset = metric.select(items) if metric is not None else items
    rows = beside(subset, labels, metric)
    total = len(rows)
    ways = [ALL, *((ONES, ZEROS) if isinstance(metric, Share) else (HIGH, LOW) if single(metric) else ())]
    ways += [DIFFER] if len(labels) > 1 else []
    ways += VERDICTS if {*RIGHT, EXPECTED} & set(items) else []
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
    now = Slice(
        kinds=tuple(picks),
        text=text,
        show=ALL if way in (HIGH, LOW) else way,
        metric=metric.name if metric is not None and single(metric) else "",
        model="" if of == ANY else of,
    )
    if not now.is_all:
        rows = rows[rows.index.isin(now.select(items, both.metrics))]
    return in_order(rows, way, labels if of == ANY else [of], labels, metric), total, now


def in_order(
    rows: pd.DataFrame, way: str, names: Sequence[str], labels: Sequence[str], metric: Metric | None
) -> pd.DataFrame:
    """Return the rows in the order of a way of showing them.

    Args:
        rows: see `beside`.
        way: one of the ways above.
        names: models whose values are sorted by.
        labels: labels of all models, whose spread counts if models differ.
        metric: metric of the values.
    """
    columns = [f"{value_name(metric)}: {name}" for name in (labels if way == DIFFER else names)]
    columns = [column for column in columns if column in rows]
    if way not in (HIGH, LOW, DIFFER) or not columns or not single(metric):
        return rows
    values = rows[columns].astype(float).to_numpy()
    keys = {HIGH: np.fmax.reduce(values, axis=1), LOW: np.fmin.reduce(values, axis=1)}
    by = pd.Series(keys.get(way, keys[HIGH] - keys[LOW]), index=rows.index)
    return rows.loc[by.sort_values(ascending=way == LOW, kind="stable").index]


def scores_of(both: ModelComparison, metric: Metric | None) -> dict[str, str]:
    """Return the columns of a metric with their titles."""
    if metric is None:
        return {}
    titles = [both.term(metric.name).label] if single(metric) else [name.replace("_", " ") for name in metric.columns]
    return dict(zip(metric.columns, titles, strict=True))


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
    if "prompt" in table:
        table["prompt"] = [None if each is None else last_words(str(each), WORDS) for each in table["prompt"]]
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
            "prompt": st.column_config.TextColumn(width=230, help="Its last words."),
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
