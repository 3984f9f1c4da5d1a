"""Definitions of the metrics of a table: in column heads, in columns after the numbers, and as a list."""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.markdown import escape_markdown
from probe.terms import Term
from probe.terms import after_numbers as after_numbers

COLUMNS: dict[str, Any] = {
    "metric": st.column_config.TextColumn(pinned=True, width=240),
    "better": st.column_config.TextColumn(width=62, help="Which way the number is better, where one way is."),
    "what it is": st.column_config.TextColumn(width=80, help="What is measured; click a cell to read all of it."),
    "name in files": st.column_config.TextColumn(width=78, help="The name in files and in code; it never changes."),
}
"""Settings of text columns, narrow enough for the table of two models to fit a page 1280 pixels wide."""


def words_config(table: pd.DataFrame) -> dict[str, Any]:
    """Return the settings of a table's columns with definitions of metrics; empty without such columns."""
    return {name: COLUMNS[name] for name in table if name in COLUMNS} if "what it is" in table else {}


def head(metric: str, about: Term) -> Any:
    """Return the settings of a metric's column: its title without brackets, the full term on hover."""
    whole = f"{about.title}: {about.explain(metric)}"
    return st.column_config.TextColumn(about.title.partition(" (")[0], help=escape_markdown(whole))


def definitions(metrics: Iterable[str], words: Callable[[str], Term]) -> str:
    """Return metrics with their definitions as a Markdown list; unknown metrics are left out."""
    lines = []
    for metric in dict.fromkeys(metrics):
        about = words(metric)
        if about.definition:
            lines.append(f"- **{escape_markdown(about.title)}**: {escape_markdown(about.explain(metric))}")
    return "\n".join(lines)
