"""The folded section at the end of a page: equations, definitions, and the Python lines that reproduce it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from dashboard.markdown import escape_markdown
from probe.experiments.result import words_of
from probe.plotting.export import MIME, render_table
from probe.plotting.names import file_name
from probe.texts import visible

Table = pd.DataFrame | Callable[[], pd.DataFrame]
DETAILS, TAB_DETAILS = "details", "tab_details"
"""Keys of the open state of the page's section, and of a tab's own section."""


@st.fragment
def details(
    equations: Sequence[str],
    definition: str,
    code: str,
    tables: Mapping[str, Table] | Callable[[], Mapping[str, Table]] | None = None,
    files: Mapping[str, Callable[[], bytes]] | None = None,
    key: str = DETAILS,
) -> None:
    """Draw a closed section with equations, definitions, the Python lines and tables to download.

    Its content is drawn when the reader opens it.

    Args:
        equations: LaTeX, one equation per line.
        definition: Markdown written by us; never text from data.
        code: Python lines that reproduce the page; strings from data are inserted with `repr`.
        tables: tables by file name, or a function that returns them when the section is open; each downloads as CSV and
            LaTeX. A table may be a function that returns it when it is downloaded.
        files: further downloads by file name, made on request.
        key: key of the section on its page.
    """
    section = st.expander("Definition, Python, data", icon=":material/function:", key=key, on_change="rerun")
    if not section.open:
        return
    with section:
        for equation in equations:
            st.latex(equation)
        st.markdown(definition)
        st.code(visible(code, lines=True), language="python")
        with st.container(horizontal=True):
            for name, table in (tables() if callable(tables) else tables or {}).items():
                st.download_button(
                    escape_markdown(f"{name}.csv"),
                    data=partial(_render, table, "csv"),
                    file_name=f"{file_name(name)}.csv",
                    mime="text/csv",
                    key=f"table-{name}",
                    on_click="ignore",
                    icon=":material/download:",
                )
                st.download_button(
                    escape_markdown(f"{name}.tex"),
                    data=partial(_render, table, "tex", words_of(name), name),
                    file_name=f"{file_name(name)}.tex",
                    mime=MIME["tex"],
                    key=f"latex-{name}",
                    on_click="ignore",
                    icon=":material/download:",
                )
            for name, maker in (files or {}).items():
                st.download_button(
                    escape_markdown(name),
                    data=maker,
                    file_name=file_name(name),
                    key=f"file-{name}",
                    on_click="ignore",
                    icon=":material/folder_zip:",
                )


def _render(table: Table, *how: Any) -> bytes:
    return render_table(table() if callable(table) else table, *how)


def csv_button(table: pd.DataFrame, name: str) -> None:
    """Offer all rows that pass the filters of a list, as `NAME.csv`, if there are any."""
    if not len(table):
        return
    st.download_button(
        "CSV of the 1 row" if len(table) == 1 else f"CSV of all {len(table):,} rows",
        data=partial(render_table, table, "csv"),
        file_name=f"{file_name(name)}.csv",
        mime="text/csv",
        key=f"rows-{name}",
        on_click="ignore",
        icon=":material/download:",
        help="Every row that passes the filters.",
    )
