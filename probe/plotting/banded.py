"""Lines with 95 % bands and marked points in a row of panels, one colour and mark a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, format_interval
from probe.plotting.panels import Panels
from probe.plotting.theme import escape

SHARE = (-0.03, 1.03)
Look = Mapping[str, Style]


def line(
    panels: Panels,
    column: int,
    rows: pd.DataFrame,
    label: str,
    style: Style,
    *,
    x: str,
    named: bool,
    group: str | None = None,
    dash: str | None = None,
    what: str = "",
) -> None:
    """Draw one curve with its band.

    Args:
        panels: to draw into.
        column: of the panel, from 1.
        rows: columns `x`, value, ci_low, ci_high and n, sorted by x.
        label: name in the legend.
        style: colour and dash.
        x: the column of the horizontal axis.
        named: whether the legend gets an entry.
        group: of the legend; by default the label.
        dash: in place of the style's.
        what: told under the mouse before the value, escaped.
    """
    low, high = rows["ci_low"].fillna(rows["value"]), rows["ci_high"].fillna(rows["value"])
    at = rows[x].tolist()
    panels.add(
        column,
        {
            "type": "scatter",
            "x": [*at, *reversed(at)],
            "y": [*high, *reversed(low.tolist())],
            "mode": "lines",
            "fill": "toself",
            "fillcolor": style.colour,
            "opacity": 0.18,
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            "legendgroup": group or label,
        },
        {
            "type": "scatter",
            "x": at,
            "y": rows["value"].tolist(),
            "mode": "lines+markers",
            "name": escape(label),
            "legendgroup": group or label,
            "showlegend": named,
            "line": {"color": style.colour, "dash": dash or style.dash, "width": 2},
            "marker": {"color": style.colour, "symbol": SYMBOLS.get(dash or style.dash, "circle"), "size": 7},
            "customdata": _told(rows, f"{escape(label)} {what}"),
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def points(
    panels: Panels, column: int, places: Sequence[float], rows: pd.DataFrame, label: str, style: Style, named: bool
) -> None:
    """Draw points with error bars at the given places."""
    panels.add(
        column,
        {
            "type": "scatter",
            "x": list(places),
            "y": rows["value"].tolist(),
            "mode": "markers",
            "name": escape(label),
            "legendgroup": label,
            "showlegend": named,
            "marker": {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": (rows["ci_high"] - rows["value"]).tolist(),
                "arrayminus": (rows["value"] - rows["ci_low"]).tolist(),
                "thickness": 1.8,
                "width": 0,
            },
            "customdata": _told(rows, f"{escape(label)} "),
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def level(panels: Panels, column: int, at: Sequence[float], values: Sequence[float], name: str, colour: str) -> None:
    """A dashed curve of what is known exactly, such as guessing; the name stands in the legend of the first panel."""
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": list(at),
        "y": list(values),
        "mode": "lines",
        "name": escape(name),
        "legendgroup": name,
        "showlegend": column == 1,
        "line": {"color": colour, "dash": "dot", "width": 1.4},
        "hoverinfo": "skip",
    }
    panels.add(column, trace)


def _told(rows: pd.DataFrame, what: str) -> list[str]:
    """What stands under the mouse at each point; a row without a value (a model that lacks it) says so."""
    columns = (rows[name].tolist() for name in ("value", "ci_low", "ci_high", "n"))
    return [
        f"{what}{format_interval(value, low, high)}" + (f", n = {int(n):,}" if n == n and n else "")
        for value, low, high, n in zip(*columns, strict=True)
    ]
