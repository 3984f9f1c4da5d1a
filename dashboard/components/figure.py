"""Display of a figure on any page: the chart in the page's theme, and a button with all downloads."""

from collections.abc import Callable
from functools import partial

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from dashboard.components.focus import take_focus
from dashboard.markdown import escape_markdown, guard_callback, last_sentence, note
from probe.plotting.export import FORMATS, MIME, STATIC, TABLES, missing, provenance, render
from probe.plotting.names import file_stem
from probe.plotting.paper import DPI, FAMILIES, WIDTHS, Paper, paper_of
from probe.plotting.theme import DARK, LIGHT, Theme, apply, escape
from probe.texts import visible

PAPER = "paper"
"""Key of the session's choice of width, text size and theme of downloaded images."""
CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "modeBarButtonsToRemove": ["toImage", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}


def figure_key(name: str) -> str:
    """Return the key of a figure on its page."""
    return f"figure-{name}"


def page_theme() -> Theme:
    """Return the theme of figures for the page, light or dark."""
    return DARK if st.context.theme.type == "dark" else LIGHT


@st.cache_data(ttl=30, show_spinner=False)
def _missing() -> str | None:
    return missing()


def figure(
    chart: go.Figure,
    data: pd.DataFrame | Callable[[], pd.DataFrame],
    name: str,
    *,
    title: str,
    height: int | None = None,
    source: dict[str, object] | None = None,
    says: str = "",
    whole: Callable[[], go.Figure] | None = None,
    on_select: Callable[[list[dict]], None] | None = None,
) -> None:
    """Show a figure with its title and a button that offers PNG, SVG, PDF, HTML, and its data as CSV and LaTeX.

    Files are made on request, with the width, text size and theme that the reader chose for all figures.

    Args:
        chart: the figure.
        data: table behind the figure, or a function that returns it when it is downloaded.
        name: name of the files; it also identifies the figure on its page.
        title: title above the figure.
        height: height in pixels; by default the figure's own.
        source: provenance that goes into the files.
        says: sentence that a screen reader reads after the title; by default the last one on the page.
        whole: function that returns the figure to download, where the one shown has fewer points.
        on_select: called with the clicked points before the page runs again.
    """
    key = figure_key(name)
    _head(whole or (lambda: chart), data if callable(data) else (lambda: data), name, title, height, source or {})
    # Its title is drawn above it.
    plot = apply(chart, page_theme()).update_layout(uirevision=escape(title), meta=None)
    if height:
        plot.update_layout(height=height)
    heard = visible(f"{title}. {says or last_sentence()}".strip())
    if on_select is None:
        st.plotly_chart(plot, key=key, theme=None, config=CONFIG, alt=heard)
    else:
        st.plotly_chart(
            plot,
            key=key,
            theme=None,
            config=CONFIG,
            alt=heard,
            selection_mode="points",
            on_select=guard_callback(partial(_read_selection, key, on_select)),
        )


def _read_selection(key: str, act: Callable[[list[dict]], None]) -> None:
    points = st.session_state[key]["selection"]["points"]
    if points:
        act(points)


@st.fragment
def _head(
    chart: Callable[[], go.Figure],
    data: Callable[[], pd.DataFrame],
    name: str,
    title: str,
    height: int | None,
    source: dict[str, object],
) -> None:
    """Draw the title and a button that opens the downloads."""
    with st.container(horizontal=True, wrap=False, vertical_alignment="center", gap="small"):
        st.markdown(f"**{escape_markdown(title)}**", width="stretch")
        offer = st.container(key=f"offer-{name}", width="content").popover(
            "",
            icon=":material/download:",
            type="tertiary",
            help="Download this figure or its data",
            key=f"downloads-{name}",
            on_change="rerun",
        )
    if not offer.open:
        return
    reason = _missing()
    about = provenance(figure=name, **source)
    stem = file_stem(name, about)
    with offer:
        paper = _choose_paper(name)
        with st.container(horizontal=True, gap="small"):
            for kind in FORMATS:
                st.download_button(
                    kind.upper(),
                    data=partial(_render, chart, data, height, kind, about, paper, title),
                    file_name=f"{stem}.{kind}",
                    mime=MIME[kind],
                    key=f"download-{name}-{kind}",
                    on_click="ignore",
                    disabled=bool(reason) and kind in STATIC,
                )
        note(reason or f"Images are {paper.inches:g} in wide, their text has {paper.points:g} pt.")
        take_focus(name)


def _render(
    chart: Callable[[], go.Figure],
    data: Callable[[], pd.DataFrame],
    height: int | None,
    kind: str,
    about: dict[str, object],
    paper: Paper,
    title: str,
) -> bytes:
    """Return a file of a figure or of its data (`probe.plotting.export.render`), which are made only now."""
    if kind in TABLES:
        return render(go.Figure(), data(), kind, about, paper=paper, title=title)
    drawn = go.Figure(chart()).update_layout(height=height) if height else chart()
    return render(drawn, None, kind, about, paper=paper, title=title)


def _choose_paper(name: str) -> Paper:
    """Let the reader choose width, text size and theme of images; all figures share the choice."""
    paper: Paper = st.session_state.get(PAPER) or Paper()
    widths = {"single": "column, 3.3 in", "double": "page, 6.8 in", "slide": "slide, 13.3 x 7.5 in"}
    first, second, third = st.columns(3)
    width = first.selectbox(
        "Width",
        [*WIDTHS],
        index=[*WIDTHS].index(str(paper.width)),
        format_func=widths.__getitem__,
        key=f"paper-width-{name}",
    )
    height = second.number_input(
        "Height, in", 0.5, 40.0, paper.height, 0.5, placeholder="of the figure", key=f"paper-height-{name}"
    )
    dpi = third.number_input("PNG, dpi", *DPI, paper.dpi, 50, key=f"paper-dpi-{name}")
    font = first.selectbox(
        "Font", [*FAMILIES], index=[*FAMILIES].index(paper.font), key=f"paper-font-{name}", format_func=str
    )
    size = second.number_input(
        "Text, pt", 3.0, 72.0, paper.font_size, 1.0, placeholder="8, slide 18", key=f"paper-size-{name}"
    )
    theme = third.selectbox(
        "Theme",
        ["paper", "light"],
        index=["paper", "light"].index(paper.theme),
        key=f"paper-theme-{name}",
        format_func=str,
    )
    show_title = st.checkbox("Title in the image", paper.show_title, key=f"paper-title-{name}")
    options = {"width": width, "height": height, "dpi": dpi, "font": font, "font_size": size, "theme": theme}
    chosen = paper_of(options | {"show_title": show_title})
    st.session_state[PAPER] = chosen
    return chosen
