"""One number a head: grids whose cells can be clicked, and rankings.

Axes: D layers, H heads.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.marks import cells, frame, lay_out, squares
from probe.plots.theme import METHODS, colour_axis, escape, new_figure, shorten, token_axis, two_bars


def head_grids(
    panels: Sequence[tuple[str, np.ndarray]],
    label: str,
    *,
    signed: Sequence[bool] = (False,),
    low: float | None = None,
    high: float | None = None,
    chosen: tuple[int, int] | None = None,
    width: int = 900,
    digits: int = 2,
) -> go.Figure:
    """One or more [D H] grids side by side; unsigned panels share one scale, signed ones another, centred on zero.

    Args:
        panels: (title, [D H] values); NaN leaves a cell empty.
        label: of the colour bar, with its unit.
        signed: which panels are signed; a single entry holds for all.
        low: lower end of the unsigned scale; default: 0 or the least value.
        high: its upper end; default: the largest value.
        chosen: (layer, head) to frame.
        width: pixels of the figure, from which the size of the markers follows.
        digits: decimals of the numbers in the cells.
    """
    signs = list(signed) * len(panels) if len(signed) == 1 else list(signed)
    plain = [values for (_, values), sign in zip(panels, signs, strict=True) if not sign]
    moved = [values for (_, values), sign in zip(panels, signs, strict=True) if sign]
    deepest = max(len(values) for _, values in panels)
    height = 70 + int(np.clip(300 / deepest, 14, 46) * deepest)
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[escape(shorten(title, max(12, width // len(panels) // 8))) for title, _ in panels],
        horizontal_spacing=0.06,
    )
    for column, ((_, values), sign) in enumerate(zip(panels, signs, strict=True), start=1):
        room = 0.85 * width / len(panels) / values.shape[1]
        _grid(
            figure, values, column, sign, sign and bool(plain), label, digits, room, (height - 60) / len(values), chosen
        )
    layout: dict = {}
    upper, lower = two_bars(0.5) if plain and moved else ({}, {})
    if plain:
        known = np.concatenate([values[np.isfinite(values)].ravel() for values in plain] + [np.zeros(1)])
        ends = (float(known.min()) if low is None else low), (float(known.max()) if high is None else high)
        layout["coloraxis"] = colour_axis(label, low=ends[0], high=max(ends[1], ends[0] + 1e-9), **upper)
    if moved:
        bound = max(1e-9, *(float(np.nanmax(np.abs(values), initial=0.0)) for values in moved))
        name = "coloraxis2" if plain else "coloraxis"
        layout[name] = colour_axis("change" if plain else label, low=-bound, high=bound, diverging=True, **lower)
    lay_out(figure, height, margin={"l": 40, "t": 30, "b": 30, "r": 8}, **layout)
    return figure


def _grid(
    figure: go.Figure,
    values: np.ndarray,
    column: int,
    signed: bool,
    second: bool,
    label: str,
    digits: int,
    room: float,
    row_height: float,
    chosen: tuple[int, int] | None,
) -> None:
    """One panel with its numbers, its squares and the frame around the chosen head."""
    depth, heads = values.shape
    at = {"row": 1, "col": column}
    sign = "+" if signed else ""
    rounded = values.astype(float).round(digits) + 0.0  # no minus before a zero
    written = [["" if not np.isfinite(value) else f"{value:{sign}.{digits}f}" for value in row] for row in rounded]
    axis = "coloraxis2" if second else "coloraxis"
    figure.add_trace(cells(values, written, legible=room >= 30 and row_height >= 18, axis=axis), **at)
    known = [(layer, head) for layer in range(depth) for head in range(heads) if np.isfinite(values[layer, head])]
    name = escape(label.replace("<br>", " "))
    figure.add_trace(
        squares(
            [head for _, head in known],
            [layer for layer, _ in known],
            [[layer, head, float(values[layer, head])] for layer, head in known],
            max(5.0, 0.85 * min(room, row_height)),
            f"L%{{customdata[0]}}H%{{customdata[1]}}<br>{name} %{{customdata[2]:{sign}.3f}}<extra></extra>",
        ),
        **at,
    )
    if chosen is not None and chosen[0] < depth and chosen[1] < heads:
        figure.add_shape(frame(chosen[1], chosen[0]), **at)
    every = 1 + depth // 32
    figure.update_xaxes(
        tickvals=list(range(heads)),
        ticktext=[f"H{head}" for head in range(heads)],
        range=[-0.5, heads - 0.5],
        showgrid=False,
        zeroline=False,
        **at,
    )
    figure.update_yaxes(
        tickvals=list(range(0, depth, every)),
        ticktext=[f"L{layer}" for layer in range(0, depth, every)],
        range=[depth - 0.5, -0.5],
        showticklabels=column == 1 or room * heads > 190,
        showgrid=False,
        zeroline=False,
        **at,
    )


def head_ranking(
    heads: Sequence[tuple[int, int]],
    values: np.ndarray,
    label: str,
    *,
    chosen: tuple[int, int] | None = None,
    colour: str = METHODS["dpo"],
) -> go.Figure:
    """Heads as bars in the order given, the first on top; a bar takes a click.

    Args:
        heads: [k] (layer, head).
        values: [k] their values.
        label: of the axis, with its unit.
        chosen: (layer, head) drawn in full colour, the others paler.
        colour: of the bars.
    """
    figure = new_figure(bargap=0.2, clickmode="event+select", showlegend=False, margin={"t": 8})
    opacity = [1.0 if chosen in (None, head) else 0.55 for head in heads]
    figure.add_trace(
        go.Bar(
            x=values,
            y=list(range(len(heads))),
            orientation="h",
            customdata=[[layer, head] for layer, head in heads],
            marker={"color": colour, "opacity": opacity},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.55}},
            hovertemplate="L%{customdata[0]}H%{customdata[1]}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=label, rangemode="tozero")
    names = [f"L{layer}H{head}" for layer, head in heads]
    figure.update_yaxes(autorange="reversed", **token_axis(names))
    return figure
