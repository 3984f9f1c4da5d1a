"""Display of a table on any page, with every text shown literally in heads and cells."""

from typing import Any

import pandas as pd
import streamlit as st

from probe.texts import visible, visible_parts


def show_table(table: pd.DataFrame, *, column_config: dict[Any, Any] | None = None, **options: Any) -> Any:
    """Draw a table with `st.dataframe` so that every text is shown literally and never interpreted.

    Args:
        table: table with the original texts.
        column_config: settings by the column names of `table`.
        options: further options of `st.dataframe`.
    """
    config = None if column_config is None else {_name(name): each for name, each in column_config.items()}
    return st.dataframe(shown_table(table), column_config=config, **options)


def number_formats(table: pd.DataFrame) -> dict[Any, Any]:
    """Return the formats of the columns of a table of numbers: ratios in percent, other numbers with three digits."""
    shown: dict[Any, Any] = {}
    for name in table:
        title = visible(str(name).replace("_", " "))
        if str(name).endswith(("relative", "share")):
            shown[name] = st.column_config.NumberColumn(title, format="percent", width="small")
        elif pd.api.types.is_float_dtype(table[name]):
            shown[name] = st.column_config.NumberColumn(title, format="%.3g", width="small")
    return shown


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with every text made `visible`, or the table itself if all texts are."""
    columns = {at: table.iloc[:, at] for at in range(table.shape[1])}
    texts = {at: each for at, each in columns.items() if isinstance(each.dtype, pd.CategoricalDtype) or _is_text(each)}
    changes = {at: each.map(visible_parts) for at, each in texts.items()}
    changes = {at: each for at, each in changes.items() if not each.equals(columns[at])}
    names, index = table.columns.map(_name), table.index.map(_name) if _is_text(table.index) else table.index
    if not changes and names.equals(table.columns) and index.equals(table.index):
        return table
    copy = table.copy()
    for at, each in changes.items():
        copy.isetitem(at, each.array)
    return copy.set_axis(names, axis="columns").set_axis(index, axis="index")


def _is_text(values: "pd.Series | pd.Index") -> bool:
    return bool(values.dtype.kind == "O")


def _name(name: Any) -> Any:
    return visible(name) if isinstance(name, str) else name
