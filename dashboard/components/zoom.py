"""Zooming: the parts of a figure's panels that a reader looks at, which the page then draws finer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard.components.figure import figure_key
from probe.plotting.downsampling import Window

MOST = 200
"""Most panels whose zoom is kept."""


@st.cache_resource(show_spinner=False)
def _component() -> Callable:
    script = Path(__file__).with_name("zoom.js").read_text(encoding="utf-8")
    return st.components.v2.component("probe_zoom", html="<span></span>", js=script)


@dataclass(frozen=True)
class Zoom:
    """The part of a panel that a reader looks at; None for all of an axis."""

    x: Window | None
    y: Window | None
    """Ends on the vertical axis, as Plotly gives them: on a logarithmic axis decimal logarithms."""


def _key(name: str) -> str:
    return f"_{name}_zooms"


def zooms_of(name: str, title: str) -> dict[int, Zoom]:
    """Return the part that each zoomed panel of a figure shows, by its number from 1.

    Args:
        name: name of the figure on its page.
        title: title of the figure: another one shows something else, of which nothing is zoomed.
    """
    known, zooms = st.session_state.get(_key(name), ("", {}))
    return zooms if known == title else {}


def hold_zoom(chart: go.Figure, zooms: Mapping[int, Zoom]) -> go.Figure:
    """Return a figure with the parts that a reader looks at; Streamlit shows each new figure as a whole."""
    for panel, zoom in zooms.items():
        number = "" if panel == 1 else panel
        for axis, window in ((f"xaxis{number}", zoom.x), (f"yaxis{number}", zoom.y)):
            if window and axis in chart.layout:
                chart.layout[axis].update(range=window, autorange=False)
    return chart


def watch_zoom(name: str, title: str) -> None:
    """Draw the page again whenever the reader has zoomed into a figure, or out of it.

    Args:
        name: name of the figure on its page.
        title: title of the figure.
    """
    key = f"view-zoom-{name}"

    def zoomed() -> None:
        told = st.session_state[key].windows
        if isinstance(told, Mapping) and told.get("title") == title:
            st.session_state[_key(name)] = title, checked(told.get("windows"))

    windows = {str(panel): asdict(zoom) for panel, zoom in sorted(zooms_of(name, title).items())}
    data = {"figure": figure_key(name), "title": title, "windows": windows}
    _component()(data=data, key=key, on_windows_change=zoomed)


def checked(told: Any) -> dict[int, Zoom]:
    """Return the zooms that a browser told, without anything that is none."""
    zooms: dict[int, Zoom] = {}
    for panel, parts in [*told.items()][:MOST] if isinstance(told, Mapping) else ():
        if str(panel).isdecimal() and len(str(panel)) < 4 and isinstance(parts, Mapping):
            zoom = Zoom(_window(parts.get("x")), _window(parts.get("y")))
            zooms |= {int(panel): zoom} if zoom.x or zoom.y else {}
    return zooms


def _window(ends: Any) -> Window | None:
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    return (float(ends[0]), float(ends[1])) if numbers and all(map(math.isfinite, ends)) and ends[0] < ends[1] else None
