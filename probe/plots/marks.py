"""Transparent squares above the cells of a heat map: they name a cell on hover and take the click."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

MOST = 6
"""Squares along the longer side of a cell."""


def marks(
    xs: Sequence[int],
    ys: Sequence[int],
    hover: Sequence[str],
    customdata: Sequence[Sequence[int]],
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
    return go.Scatter(
        x=np.add.outer(np.asarray(xs, dtype=float), shift[:, 0]).ravel().tolist(),
        y=np.add.outer(np.asarray(ys, dtype=float), shift[:, 1]).ravel().tolist(),
        mode="markers",
        text=[text for text in hover for _ in places],
        customdata=[list(data) for data in customdata for _ in places],
        marker={"size": 0.95 * size, "symbol": "square", "opacity": 0, "color": "#888888"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate="%{text}<extra></extra>",
    )


def few_ticks(names: Sequence[str], most: int) -> dict:
    """Settings for a numeric axis whose points have names, of which at most `most` and always the last are written.

    Args:
        names: already escaped.
        most: ticks that the axis has room for.
    """
    stride = -(-len(names) // max(1, most))
    shown = sorted(range(len(names) - 1, -1, -stride))
    return {
        "tickmode": "array",
        "tickvals": shown,
        "ticktext": [names[index] for index in shown],
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
    }
