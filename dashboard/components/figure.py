"""The one way a page shows a figure: the chart in the page's theme, and a button with every download."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.markdown import escape_markdown, guard_callback, note
from probe.plotting.export import FORMATS, MIME, STATIC, file_name, missing, provenance, render
from probe.plotting.theme import DARK, LIGHT, Theme, apply, escape

CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}


def page_theme() -> Theme:
    """The theme of figures that suits the page, light or dark."""
    return DARK if st.context.theme.type == "dark" else LIGHT


@st.cache_data(ttl=30, show_spinner=False)
def _missing() -> str | None:
    return missing()


def figure(
    chart: go.Figure,
    data: pd.DataFrame,
    name: str,
    *,
    title: str,
    height: int | None = None,
    source: dict[str, object] | None = None,
    on_select: Callable[[list[dict]], None] | None = None,
) -> None:
    """Show a figure with its title and a button that offers it as PNG, SVG, PDF, HTML and its data as CSV.

    Files are made when they are asked for, in the light theme of paper.

    Args:
        chart: the figure.
        data: the table behind it.
        name: of the files; also identifies the figure on its page.
        title: what it shows, in words.
        height: pixels; the figure's own by default.
        source: provenance that goes into the files.
        on_select: called with the clicked points before the page runs again.
    """
    key = f"figure-{name}"
    if height:
        chart = go.Figure(chart).update_layout(height=height)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape_markdown(title)}**")
        _downloads(chart, data, name, source or {})
    # A reader's zoom survives a refresh for as long as the figure shows the same thing.
    plot = apply(chart, page_theme()).update_layout(uirevision=escape(title))
    if on_select is None:
        st.plotly_chart(plot, key=key, theme=None, config=CONFIG)
    else:
        st.plotly_chart(
            plot,
            key=key,
            theme=None,
            config=CONFIG,
            selection_mode="points",
            on_select=guard_callback(partial(_read_selection, key, on_select)),
        )


def _read_selection(key: str, act: Callable[[list[dict]], None]) -> None:
    points = st.session_state[key]["selection"]["points"]
    if points:
        act(points)


def _downloads(chart: go.Figure, data: pd.DataFrame, name: str, source: dict[str, object]) -> None:
    reason = _missing()
    about = provenance(figure=name, **source)
    with (
        st.container(key=f"offer-{name}", width="content"),
        st.popover("", icon=":material/download:", type="tertiary", help="Download this figure or its data"),
    ):
        with st.container(horizontal=True, gap="small"):
            for kind in FORMATS:
                st.download_button(
                    kind.upper(),
                    data=partial(render, chart, data, kind, about),
                    file_name=f"{file_name(name)}.{kind}",
                    mime=MIME[kind],
                    key=f"download-{name}-{kind}",
                    on_click="ignore",
                    disabled=bool(reason) and kind in STATIC,
                )
        if reason:
            note(reason)
