"""Maps whose cells take clicks, and bars of tokens and along a text.

A click on a heat map selects nothing, so a transparent square names its cell on hover and takes the click.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from probe.plotting.panels import Panels
from probe.plotting.theme import CHOSEN, numbered, on_hover, token_axis

CLICKS = {"clickmode": "event+select", "dragmode": False, "showlegend": False}
"""Layout of a figure whose cells take clicks: nothing to drag, no legend."""
MOST = 6
"""Squares along the longer side of a cell."""


def cells(
    values: np.ndarray,
    written: Sequence[Sequence[str]] | np.ndarray | None = None,
    hover: Sequence[Sequence[str]] | np.ndarray | None = None,
    *,
    legible: bool = True,
    axis: str = "coloraxis",
) -> go.Heatmap:
    """Return the cells of a map.

    Args:
        values: [rows columns] what colours them; NaN leaves a cell empty.
        written: what stands in each; by default nothing.
        hover: what is shown under the mouse, escaped; by default nothing.
        legible: whether they have room for what is written.
        axis: the colour axis.
    """
    under = {"hoverinfo": "skip"} if hover is None else on_hover(hover)
    return go.Heatmap(
        z=values.astype(np.float32),
        coloraxis=axis,
        text=written,
        texttemplate="%{text}" if written is not None and legible else "",
        textfont={"size": 10},
        hoverongaps=False,
        xgap=1,
        ygap=1,
        **under,
    )


def token_bars(
    panels: Panels, panel: int, tokens: Sequence[str], values: Any, length: int = 14, /, **look: Any
) -> None:
    """Draw a bar to the right a token, the first one on top.

    Args:
        panels: with the panel.
        panel: its number.
        tokens: [k] what the bars are named by.
        values: [k] their lengths.
        length: characters of a name.
        look: settings of the bars.
    """
    panels.add(panel, go.Bar(x=values, y=list(range(len(tokens))), orientation="h", **look))
    panels.axis("y", panel, autorange="reversed", **token_axis(tokens, length))


def text_bars(
    tokens: Sequence[str], values: Any, colour: str, hover: str, chosen: int | None = None, /, **look: Any
) -> go.Bar:
    """Return a bar at each token of a text.

    Args:
        tokens: [T] the text.
        values: [T] the heights.
        colour: of the bars.
        hover: what is shown under the mouse below the token, a template.
        chosen: token to emphasise.
        look: further settings.
    """
    at = list(range(len(tokens)))
    marker = {"color": colour, "opacity": [1.0 if chosen in (None, index) else 0.45 for index in at]}
    hover = f"%{{customdata}}<br>{hover}<extra></extra>"
    return go.Bar(x=at, y=values, customdata=numbered(tokens), marker=marker, hovertemplate=hover, **look)


def frame(x: float, y: float, width: float = 1, height: float = 1) -> dict:
    """Return the frame around the selection, as `add_shape` takes it, from its middle and its size in cells."""
    corners = {"x0": x - width / 2, "x1": x + width / 2, "y0": y - height / 2, "y1": y + height / 2}
    return {"type": "rect", **corners, "line": {"color": CHOSEN, "width": 2}}


def squares(
    xs: Sequence[float],
    ys: Sequence[float],
    customdata: Sequence[Sequence],
    size: float,
    hover: str,
    text: Sequence[str] | None = None,
) -> go.Scatter:
    """Transparent squares with the hover text of the cell below; they take the click.

    Args:
        xs: their middles.
        ys: the same.
        customdata: what a click on each gives.
        size: pixels of a side.
        hover: the template of what is shown above each.
        text: of each, for the template; escaped.
    """
    return go.Scatter(
        x=xs,
        y=ys,
        mode="markers",
        text=text,
        customdata=customdata,
        marker={"size": size, "symbol": "square", "opacity": 0, "color": "#888888"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate=hover,
        showlegend=False,
    )


def marks(
    xs: Sequence[int],
    ys: Sequence[int],
    hover: Sequence[str],
    customdata: Sequence[Sequence[object]],
    cell: tuple[float, float],
) -> go.Scatter:
    """Squares that cover each cell; a cell that is wider than high, or the reverse, gets several in a row.

    Args:
        xs: column of each cell.
        ys: row of each cell.
        hover: what is shown above each, escaped.
        customdata: what a click on each gives.
        cell: width and height of a cell in pixels.
    """
    size = max(3.0, min(cell))
    across, down = (min(MOST, max(1, round(side / size))) for side in cell)
    places = [((i + 0.5) / across - 0.5, (j + 0.5) / down - 0.5) for i in range(across) for j in range(down)]
    shift = np.array(places)
    return squares(
        np.add.outer(np.asarray(xs, dtype=float), shift[:, 0]).ravel().tolist(),
        np.add.outer(np.asarray(ys, dtype=float), shift[:, 1]).ravel().tolist(),
        [list(data) for data in customdata for _ in places],
        0.95 * size,
        "%{text}<extra></extra>",
        [text for text in hover for _ in places],
    )


def few_ticks(names: Sequence[str], most: int) -> dict:
    """Return settings for a numeric axis whose points have names: at most `most` are written, and always the last.

    Args:
        names: already escaped.
        most: ticks that the axis has room for.
    """
    stride = -(-len(names) // max(1, most))
    indices = sorted(range(len(names) - 1, -1, -stride))
    return {
        "tickmode": "array",
        "tickvals": indices,
        "ticktext": [names[index] for index in indices],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }
