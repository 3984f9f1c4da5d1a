"""The lens of one model, or of two and their difference, around one chosen position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.lens import layer_names
from probe.plots.marks import cells, frame, lay_out, marks
from probe.plots.theme import colour_axis, escape, shorten, token_axis, two_bars

ROW = 13
"""Pixels that a row needs; of deeper models every second (third, ...) layer is shown."""
BESIDE, LETTER = 190, 5.6
"""Pixels that names and colour bars take of the width, and those of a letter in a cell; three dots take two of them."""


@dataclass(frozen=True)
class LensPanel:
    """The lens of one model on a window of a text."""

    name: str
    """Title of the panel."""
    values: np.ndarray
    """[R W] what colours the cells: log-probability of the answer, or the scalar."""
    favourites: np.ndarray | None = None
    """[R W k] likeliest tokens, best first; None for a scalar model."""
    logprobs: np.ndarray | None = None
    """[R W k] their log-probabilities."""


def lens_map(
    panels: Sequence[LensPanel],
    tokens: Sequence[str],
    *,
    start: int = 0,
    chosen: int | None = None,
    label: str,
    unit: str = "nats",
    width: int = 460,
    height: int = 430,
) -> go.Figure:
    """One lens, or two on one scale and their difference; the transparent markers carry the position as `customdata`.

    Args:
        panels: one above the other, all of one window; models of different depth get no difference.
        tokens: [W] the tokens of the window.
        start: position of the first of them.
        chosen: position whose column is framed.
        label: what the colour is, such as `log p(oslo)`.
        unit: of it.
        width: pixels, which decide how much of a token fits into a cell.
        height: pixels.
    """
    depths = {panel.values.shape[0] for panel in panels}
    both = len(panels) == 2 and len(depths) == 1
    shown = [*panels, LensPanel("aligned \u2212 base", panels[1].values - panels[0].values)] if both else list(panels)
    rows = [panel.values.shape[0] for panel in shown]
    margins = 90 + 24 * (len(shown) - 1)
    stride = -(-sum(rows) * ROW // (height - margins))
    titles = [escape(shorten(panel.name, 40)) for panel in shown] if len(shown) > 1 else None
    gap = 24 / (height - 90) if len(shown) > 1 else 0
    figure = make_subplots(rows=len(shown), cols=1, subplot_titles=titles, vertical_spacing=gap, shared_xaxes=True)
    finite = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    tokens_told = panels[0].favourites is not None
    bound = max(abs(low), abs(high), 1e-6)
    upper, lower = two_bars(2 / 3) if both else ({}, {})
    scale: dict[str, Any] = (
        {"low": max(-20.0, low), "high": 0.0} if tokens_told else {"low": -bound, "high": bound, "diverging": True}
    )
    layout = {
        "coloraxis": colour_axis(f"{escape(shorten(label, 16))}{f'<br>{unit}' * (unit != label)}", **scale, **upper)
    }
    if both:
        largest = max(0.5 if tokens_told else 1e-6, float(np.nanquantile(np.abs(shown[2].values), 0.98)))
        layout["coloraxis2"] = colour_axis(f"change<br>{unit}", low=-largest, high=largest, diverging=True, **lower)
    cell = (width - BESIDE) / len(tokens), (height - margins) * stride / sum(rows)
    for index, panel in enumerate(shown):
        kept = _thinned(rows[index], stride)
        difference = both and index == 2
        for trace in _lens_traces(panel, kept, tokens, start, label, unit, cell, difference):
            figure.add_trace(trace, row=index + 1, col=1)
        names = layer_names(rows[index])
        figure.update_yaxes(**token_axis([names[row] for row in kept]), row=index + 1, col=1)
        if chosen is not None and start <= chosen < start + len(tokens):
            column = frame(chosen - start, (len(kept) - 1) / 2, height=len(kept))
            figure.add_shape(column, row=index + 1, col=1)
    lay_out(figure, height, titles=12, margin={"t": 24 if titles else 10, "b": 66, "l": 60, "r": 8}, **layout)
    figure.update_xaxes(fixedrange=True, **token_axis(tokens))
    figure.update_yaxes(fixedrange=True)
    figure.update_xaxes(title_text="token read", tickangle=-45, row=len(shown), col=1)
    return figure


def _thinned(rows: int, stride: int) -> list[int]:
    """Rows that are shown: the output, every stride-th below it, and the embedding."""
    return sorted({0, *range(rows - 1, -1, -stride)})


def _lens_traces(
    panel: LensPanel,
    kept: list[int],
    tokens: Sequence[str],
    start: int,
    label: str,
    unit: str,
    cell: tuple[float, float],
    difference: bool,
) -> list[go.Scatter | go.Heatmap]:
    """The cells of a panel, and the markers above them that name them and take the click."""
    names, word = layer_names(panel.values.shape[0]), escape(shorten(label, 24))
    room = int(cell[0] // LETTER)
    numbers = panel.favourites is None and room >= 6
    hover, written = [], []
    for row in kept:
        written.append([""] * len(tokens))
        for column, token in enumerate(tokens):
            value = panel.values[row, column]
            lines = [f"{names[row]}, {escape(token)} [{start + column}]"]
            lines.append(f"{'change of ' * difference}{word}: {value:{'+' * difference}.2f} {unit}")
            if panel.favourites is not None and panel.logprobs is not None:
                lines += [
                    f"{escape(favourite)} {np.exp(float(logprob)):.3f}"
                    for favourite, logprob in zip(
                        panel.favourites[row, column], panel.logprobs[row, column], strict=True
                    )
                ]
                favourite = panel.favourites[row, column, 0]
                fits = len(favourite) <= room
                written[-1][column] = escape(favourite if fits else shorten(favourite, max(room - 1, 2)))
            elif numbers:
                written[-1][column] = f"{value:+.1f}"
            hover.append("<br>".join(lines))
    axis = "coloraxis2" if difference else "coloraxis"
    shown = cells(panel.values[kept], written, legible=room >= 3 or numbers, axis=axis)
    ys, xs = (axis.ravel().tolist() for axis in np.indices((len(kept), len(tokens))))
    return [shown, marks(xs, ys, hover, [[start + column] for column in xs], cell)]
