"""Logit lens: what the model would say after each layer, for one model or for two and their difference."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.captured import Favourites
from probe.plots.theme import LIGHT, colour_axis, escape, new_figure, shorten, template, token_axis, two_bars


def layer_names(rows: int) -> list[str]:
    """Names of the lens rows, from the embedding (row 0) to the output (last row)."""
    return ["embedding"] + [f"L{layer}" for layer in range(rows - 2)] + [f"L{rows - 2} = output"] * (rows > 1)


def lens_grid(favourites: Favourites, tokens: Sequence[str], *, width: int = 620) -> go.Figure:
    """The lens of one model: tokens to the right, layers upwards, the favourite in the cell, the others on hover.

    Args:
        favourites: of every row and position.
        tokens: [T] the tokens that were read.
        width: pixels of the grid, which decide how much of a token fits into a cell.
    """
    figure = new_figure(showlegend=False)
    best = np.exp(favourites[1][..., 0].astype(np.float32))
    figure.add_trace(_grid(favourites, best, tokens, width))
    figure.update_traces(hovertemplate="%{customdata}<extra></extra>")
    figure.update_layout(coloraxis=colour_axis("probability<br>of favourite", low=0, high=1))
    figure.update_xaxes(title_text="token read", tickangle=-45, **token_axis(tokens))
    figure.update_yaxes(title_text="after layer", **token_axis(layer_names(len(favourites[0]))))
    return figure


def lens_pair(
    lenses: tuple[Favourites, Favourites],
    followed: tuple[np.ndarray, np.ndarray],
    tokens: Sequence[str],
    *,
    names: tuple[str, str],
    answer: str,
    width: int = 900,
) -> go.Figure:
    """The lens of two models on one scale, and the difference in what they give to one answer.

    Colours: the log-probability of `answer` under each model (same scale), then aligned minus base, centred on zero.
    Cells name each model's favourite. Models of different depth have no difference panel.

    Args:
        lenses: favourites of base and aligned.
        followed: ([D+1 T], [D+1 T]) log-probability of the answer under base and aligned, nats.
        tokens: [T] the tokens that both read.
        names: how the two models are called.
        answer: the token that is followed.
        width: pixels of the figure, which decide how much of a token fits into a cell.
    """
    titles = [escape(shorten(name, 40)) for name in names]
    word = escape(shorten(answer, 18))
    rows = [values.shape[0] for values in followed]
    panels = [*titles, "aligned \u2212 base"] if rows[0] == rows[1] else titles
    depth = max(rows)
    figure = make_subplots(
        rows=len(panels), cols=1, subplot_titles=panels, vertical_spacing=0.2 / depth**0.5, shared_xaxes=True
    )
    for row, (favourites, values) in enumerate(zip(lenses, followed, strict=True), start=1):
        trace = _grid(favourites, values.astype(np.float32), tokens, width)
        trace.hovertemplate = f"log p({word}) = %{{z:.2f}} nats<br>%{{customdata}}<extra>{titles[row - 1]}</extra>"
        figure.add_trace(trace, row=row, col=1)
        figure.update_yaxes(**token_axis(layer_names(rows[row - 1])), row=row, col=1)
    low = min(float(np.where(np.isfinite(values), values, 0.0).min()) for values in followed)
    upper, lower = two_bars(2 / 3) if len(panels) == 3 else ({}, {})
    layout = {"coloraxis": colour_axis(f"log p({word})<br>nats", low=max(-20.0, low), high=0, **upper)}
    if len(panels) == 3:
        change = (followed[1] - followed[0]).astype(np.float32)
        bound = max(0.5, float(np.nanquantile(np.abs(change), 0.98)))
        figure.add_trace(_difference(change, tokens, word), row=3, col=1)
        figure.update_yaxes(**token_axis(layer_names(depth)), row=3, col=1)
        layout["coloraxis2"] = colour_axis("change<br>nats", low=-bound, high=bound, diverging=True, **lower)
    cell = 24 if depth <= 13 else 13
    figure.update_layout(
        template=template(LIGHT), height=90 + len(panels) * (34 + cell * depth), margin={"t": 32, "b": 70}, **layout
    )
    figure.update_annotations(font_size=13)
    figure.update_xaxes(**token_axis(tokens))
    figure.update_xaxes(title_text="token read", tickangle=-45, row=len(panels), col=1)
    return figure


def _difference(change: np.ndarray, tokens: Sequence[str], word: str) -> go.Heatmap:
    rows = layer_names(change.shape[0])
    where = [[f"{layer}, {escape(token)} [{index}]" for index, token in enumerate(tokens)] for layer in rows]
    return go.Heatmap(
        z=change,
        coloraxis="coloraxis2",
        customdata=where,
        xgap=1,
        ygap=1,
        hovertemplate=f"%{{customdata}}<br>change of log p({word}): %{{z:+.2f}} nats<extra></extra>",
    )


def _grid(favourites: Favourites, z: np.ndarray, tokens: Sequence[str], width: int) -> go.Heatmap:
    top_tokens, logprobs = favourites
    rows, room = layer_names(len(top_tokens)), width // (8 * max(len(tokens), 1))
    hover = [
        [
            _cell(f"{rows[layer]}, {escape(tokens[index])} [{index}]", position, logprobs[layer, index])
            for index, position in enumerate(row)
        ]
        for layer, row in enumerate(top_tokens)
    ]
    return go.Heatmap(
        z=z,
        coloraxis="coloraxis",
        text=[[escape(shorten(position[0], max(room, 2))) for position in row] for row in top_tokens],
        texttemplate="%{text}" if room >= 5 else "",
        textfont={"size": 10},
        customdata=hover,
        xgap=1,
        ygap=1,
    )


def _cell(where: str, tokens: Sequence[str], logprobs: np.ndarray) -> str:
    lines = [f"{escape(token)} {np.exp(float(value)):.3f}" for token, value in zip(tokens, logprobs, strict=True)]
    return "<br>".join([where, *lines])
