"""All heads of two models side by side, and what changed between them.

Axes: D layers, H heads, T tokens; rows of a pattern are queries (destination), columns keys (source).
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.heads import targets, tiles
from probe.plots.marks import lay_out
from probe.plots.theme import colour_axis, escape, shorten, two_bars


def mosaic_pair(
    pair: tuple[np.ndarray, np.ndarray],
    tokens: Sequence[str],
    *,
    names: tuple[str, str],
    others: Sequence[str] | None = None,
    layers: tuple[Sequence[int], Sequence[int]] | None = None,
    chosen: tuple[int, int] | None = None,
    height: int = 380,
    width: int = 900,
    boundary: int | None = None,
) -> go.Figure:
    """The mosaics of two models on one scale, and second minus first centred on zero, each head a place to click.

    Models of different depth, number of heads or tokens stand side by side without a difference.

    Args:
        pair: [D H T T] attention weights of both.
        tokens: [T] the tokens.
        names: how the two are called.
        others: [T] the second model's tokens, if it splits the text in another way.
        layers: numbers of the layers of each, if they do not start at 0.
        chosen: (layer, head) to frame in every panel.
        height: pixels, from which the size of the markers follows.
        width: the same.
        boundary: first token that a model wrote itself.
    """
    numbers = [list(range(len(one))) for one in pair] if layers is None else [list(one) for one in layers]
    panels = [(one, shown, "coloraxis") for one, shown in zip(pair, numbers, strict=True)]
    titles = [escape(shorten(name, 24)) for name in names]
    words = [tokens, tokens if others is None else others, tokens]
    if others is None and pair[0].shape == pair[1].shape:
        panels.append((pair[1].astype(np.float32) - pair[0].astype(np.float32), numbers[0], "coloraxis2"))
        titles.append("difference")
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.05)
    for column, (values, shown, axis) in enumerate(panels, start=1):
        tile = min((height - 80) / len(values), 0.85 * width / len(panels) / values.shape[1])
        tiles(figure, values, shown, chosen, boundary, str(column) if column > 1 else "", axis)
        signed = axis == "coloraxis2"
        target = targets(values, words[column - 1], shown, size=0.8 * tile, signed=signed)
        figure.add_trace(target, row=1, col=column)
    layout: dict = {"coloraxis": colour_axis("weight", low=0, high=1, x=1.0)}
    if len(panels) == 3:
        bound = max(0.1, float(np.abs(panels[2][0]).max()))
        upper, lower = two_bars(0.5)
        layout["coloraxis"] = colour_axis("weight", low=0, high=1, x=1.0, **upper)
        layout["coloraxis2"] = colour_axis("change", low=-bound, high=bound, diverging=True, x=1.0, **lower)
    lay_out(figure, height, margin={"l": 34, "t": 30, "b": 30, "r": 8}, **layout)
    return figure
