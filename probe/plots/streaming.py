"""Attention over long texts: how far back layers look, one head along the text, and where its weight comes from.

Axes: D layers that attend, H heads, T tokens, K + 1 lags, k sources of a query.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from probe.plots.theme import MASKED, METHODS, colour_axis, escape, new_figure, token_axis

DEPTH = [[0.0, METHODS["sft"]], [0.5, METHODS["rlhf"]], [1.0, METHODS["dpo"]]]
"""Colours of lines from the first layer to the last, readable on a light and on a dark page."""

ITSELF = 0.5
"""Where lag 0, which has no logarithm, stands on the axis."""

TICKS = 16
"""Tokens that an axis names: two of these figures stand side by side."""

MOST_MARKS = 8000
"""Sources that one figure draws; weaker ones are left out."""


def lag_profiles(profile: np.ndarray, layers: Sequence[int]) -> go.Figure:
    """Mean weight by distance back, one line a layer (mean over its heads), both axes logarithmic.

    Beyond lag 32 neighbours are averaged, ever more of them. Where heads rest on the first token, lines rise at the
    end: the longest lags lead from the last queries to it.

    Args:
        profile: [D H K+1] mean weight at each lag.
        layers: [D] their numbers.
    """
    figure, lags = new_figure(showlegend=False), profile.shape[-1]
    edges = _edges(lags)
    lines = np.add.reduceat(profile.mean(1), edges, axis=1) / np.diff([*edges, lags])
    lines = np.where(lines > 0, lines, np.nan)
    ends = [*edges[1:], lags]
    names = [
        str(first) if end == first + 1 else f"{first} to {end - 1}" for first, end in zip(edges, ends, strict=True)
    ]
    colours = sample_colorscale(DEPTH, np.linspace(0, 1, max(len(layers), 2)))
    x = [ITSELF, *(float(np.sqrt(first * (end - 1))) for first, end in zip(edges[1:], ends[1:], strict=True))]
    for layer, line, colour in zip(layers, lines, colours, strict=False):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=line,
                mode="lines",
                line={"color": colour, "width": 1.5},
                customdata=names,
                hovertemplate=f"L{layer}, lag %{{customdata}}: %{{y:.2g}}<extra></extra>",
            )
        )
    bar = {"title": {"text": "layer<br>\u2009", "side": "top"}, "thickness": 10, "outlinewidth": 0, "nticks": 6}
    marker = {"color": [layers[0]], "colorscale": DEPTH, "cmin": layers[0], "cmax": max(layers[-1], layers[0] + 1)}
    figure.add_trace(
        go.Scatter(x=[None], y=[None], mode="markers", marker=marker | {"showscale": True, "colorbar": bar})
    )
    ticks = [2**power for power in range(int(np.log2(max(lags - 1, 1))) + 1)]
    figure.update_xaxes(
        title_text="lag: tokens back from the query",
        type="log",
        tickvals=[ITSELF, *ticks],
        ticktext=["itself", *map(str, ticks)],
    )
    figure.update_yaxes(title_text="mean attention weight", type="log", exponentformat="power", dtick=1)
    return figure


def _edges(lags: int) -> list[int]:
    """First lags of the groups that are averaged: each alone up to 32, then eight groups an octave."""
    far = [round(32 * 2 ** (step / 8)) for step in range(1, 8 * 32) if 32 * 2 ** (step / 8) < lags]
    return [*range(min(33, lags)), *far]


def query_statistic(
    lines: Sequence[tuple[str, np.ndarray]], tokens: Sequence[str], label: str, *, colours: Sequence[str]
) -> go.Figure:
    """A statistic of one head along the text, one line a model.

    Args:
        lines: (name, [T] values).
        tokens: [T] the text.
        label: of the axis, with its unit.
        colours: of the lines.
    """
    figure = new_figure(showlegend=len(lines) > 1)
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    for (name, values), colour in zip(lines, colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=list(range(len(tokens))),
                y=values,
                name=escape(name),
                mode="lines",
                line={"color": colour, "width": 1.2},
                customdata=names,
                hovertemplate="%{customdata}: %{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_xaxes(title_text="query", tickangle=-45, **token_axis(tokens, most=TICKS))
    figure.update_yaxes(title_text=escape(label), rangemode="tozero")
    return figure


def top_sources(keys: np.ndarray, weights: np.ndarray, tokens: Sequence[str], *, least: float = 0.05) -> go.Figure:
    """The strongest sources of every query of one head: queries downwards, keys to the right, the future in grey.

    Args:
        keys: [T k] positions, -1 for none.
        weights: [T k] their attention weights.
        tokens: [T] the text.
        least: weights below it are left out, so that a long text stays readable.
    """
    length = len(tokens)
    query, rank = np.nonzero((keys >= 0) & (weights >= least))
    order = np.argsort(weights[query, rank], kind="stable")[-MOST_MARKS:]  # the strongest are drawn last, on top
    query, key, weight = query[order], keys[query[order], rank[order]], weights[query[order], rank[order]]
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    figure = new_figure(showlegend=False)
    edge = [-0.5, length - 0.5]
    future = {"x": [edge[0], edge[1], edge[1]], "y": [edge[0], edge[0], edge[1]]}
    figure.add_trace(
        go.Scatter(**future, mode="none", fill="toself", fillcolor=MASKED, hoverinfo="skip", line={"width": 0})
    )
    figure.add_trace(
        go.Scatter(
            x=key,
            y=query,
            mode="markers",
            marker={
                "size": float(np.clip(400 / length, 2.5, 9)),
                "symbol": "square",
                "color": weight,
                "coloraxis": "coloraxis",
            },
            customdata=[[names[source], names[at]] for source, at in zip(key, query, strict=True)],
            hovertemplate="query %{customdata[1]}<br>key %{customdata[0]}<br>weight %{marker.color:.3f}<extra></extra>",
        )
    )
    figure.update_layout(coloraxis=colour_axis("attention<br>weight", low=0, high=1))
    figure.update_xaxes(title_text="key (source)", tickangle=-45, range=edge, **token_axis(tokens, most=TICKS))
    figure.update_yaxes(title_text="query (destination)", range=edge[::-1], **token_axis(tokens, most=TICKS))
    return figure
