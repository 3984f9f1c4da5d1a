"""Maps with clickable cells, bars of tokens, and bars along a text.

Plotly cannot select a cell of a heat map. A transparent square over the cell shows its hover text and takes the click.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from probe.plotting.panels import Panels
from probe.plotting.theme import CHOSEN, escape, numbered, on_hover, shorten, token_axis

CLICKS = {"clickmode": "event+select", "dragmode": False, "showlegend": False}
"""Layout of a figure with clickable cells: no dragging, no legend."""
MOST = 6
"""Maximum number of squares along the longer side of a cell."""
ROW, LETTER = 14.0, 5.6
"""Least height of a row with text, and width of a character of such a text, in pixels; an ellipsis takes two."""


def cells(
    values: np.ndarray,
    written: Sequence[Sequence[str]] | np.ndarray | None = None,
    hover: Sequence[Sequence[str]] | np.ndarray | None = None,
    *,
    legible: bool = True,
    axis: str = "coloraxis",
) -> go.Heatmap:
    """Return the cells of a heat map.

    Args:
        values: [rows columns] values that determine the colours; NaN leaves a cell empty.
        written: text in each cell; none by default.
        hover: text of each cell on hover, escaped; none by default.
        legible: whether the cells have room for their text.
        axis: name of the colour axis.
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


def fit_text(text: str, cell: tuple[float, float]) -> str:
    """Return a token as it fits into a cell, escaped: whole, cut with an ellipsis, or nothing.

    Args:
        text: the token.
        cell: width and height of the cell in pixels.
    """
    room = int(cell[0] // LETTER)
    if cell[1] < ROW or room < min(len(text), 3):
        return ""
    return escape(text if len(text) <= room else shorten(text, room - 1))


def space_rows(counts: Sequence[int], height: float) -> int:
    """Return the smallest n for which every n-th row of some maps, one below the other, fits a height with its text.

    Args:
        counts: number of rows of each map.
        height: height of all maps in pixels.
    """
    n = 1
    while n < max(counts) and ROW * sum(len(every_row(count, n)) for count in counts) > height:
        n += 1
    return n


def every_row(count: int, n: int) -> list[int]:
    """Return the indices of every n-th row, counted from the last one, and of the first."""
    return sorted({0, *range(count - 1, -1, -n)})


def token_bars(
    panels: Panels, panel: int, tokens: Sequence[str], values: Any, length: int = 14, /, **look: Any
) -> None:
    """Draw a horizontal bar for each token, the first one at the top.

    Args:
        panels: figure that contains the panel.
        panel: number of the panel.
        tokens: [k] labels of the bars.
        values: [k] lengths of the bars.
        length: maximum number of characters of a label.
        look: further settings of the bars.
    """
    panels.add(panel, go.Bar(x=values, y=list(range(len(tokens))), orientation="h", **look))
    panels.axis("y", panel, autorange="reversed", **token_axis(tokens, length))


def text_bars(
    tokens: Sequence[str], values: Any, colour: str, hover: str, chosen: int | None = None, /, **look: Any
) -> go.Bar:
    """Return a vertical bar at each token of a text.

    Args:
        tokens: [T] tokens of the text.
        values: [T] heights of the bars.
        colour: colour of the bars.
        hover: template of the hover text below the token.
        chosen: index of the token to emphasise.
        look: further settings of the bars.
    """
    at = list(range(len(tokens)))
    marker = {"color": colour, "opacity": [1.0 if chosen in (None, index) else 0.45 for index in at]}
    hover = f"%{{customdata}}<br>{hover}<extra></extra>"
    return go.Bar(x=at, y=values, customdata=numbered(tokens), marker=marker, hovertemplate=hover, **look)


def frame(x: float, y: float, width: float = 1, height: float = 1) -> dict:
    """Return the frame around the selection as a Plotly shape, given its centre and its size in cells."""
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
    """Return transparent squares that take the clicks of the cells below them and show their hover texts.

    Args:
        xs: x coordinates of the centres.
        ys: y coordinates of the centres.
        customdata: data that a click on each square returns.
        size: side length in pixels.
        hover: template of the hover text.
        text: text of each square for the template, escaped.
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
    """Return transparent squares that cover each cell, several in a row or column if the cell is not square.

    Args:
        xs: column of each cell.
        ys: row of each cell.
        hover: hover text of each cell, escaped.
        customdata: data that a click on each cell returns.
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
    """Return settings for a numeric axis with named points, of which at most `most` are labelled, always the last one.

    Args:
        names: names of the points, escaped.
        most: maximum number of labels.
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
