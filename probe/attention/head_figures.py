"""One head or one query as a curve, a map or a number on a grid: spectra, lags, rollout, scores, long texts."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from probe.attention.figures import WRITTEN
from probe.plotting.marks import cells, frame, lay_out, squares
from probe.plotting.theme import (
    LIGHT,
    MASKED,
    METHODS,
    colour_axis,
    escape,
    log_axis,
    new_figure,
    shorten,
    template,
    token_axis,
    two_bars,
)

KINDS = ("#3F78C6", "#B8860B", "#E8555F", "#868B94", "#1B8A3D")
"""Colours of curves that are no training methods."""


def spectra(
    panels: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], *, colours: Sequence[str] = (METHODS["dpo"],)
) -> go.Figure:
    """Singular values of a head's maps, largest first, one panel a map and one line a model.

    Args:
        panels: (title, [(model, [r] singular values)]).
        colours: of the models.
    """
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=[escape(title) for title, _ in panels])
    for column, (_, lines) in enumerate(panels, start=1):
        for (name, values), colour in zip(lines, colours, strict=True):
            line = go.Scatter(
                x=list(range(1, len(values) + 1)),
                y=values,
                mode="lines+markers",
                name=escape(shorten(name, 24)),
                line={"color": colour, "width": 2},
                marker={"size": 4},
                showlegend=column == 1 and len(lines) > 1,
                hovertemplate="%{x}: %{y:.4f}<extra></extra>",
            )
            figure.add_trace(line, row=1, col=column)
    figure.update_layout(template=template(LIGHT), margin={"t": 60}, legend={"y": 1.14})
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="rank of the singular value", rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="singular value", col=1)
    return figure


def rollout_map(values: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """Draw the share of one query's residual that comes from each token of the input, after each layer.

    Args:
        values: [D T] rollout row of the query after each layer, rows summing to 1.
        tokens: [T] the tokens.
        boundary: first token that the model wrote itself.
    """
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    figure = new_figure(showlegend=False, margin={"t": 8})
    figure.add_trace(
        go.Heatmap(
            z=values.astype(np.float32),
            coloraxis="coloraxis",
            customdata=[[f"after L{layer}: {name}" for name in names] for layer in range(len(values))],
            xgap=1,
            ygap=1,
            hovertemplate="%{customdata}<br>share %{z:.3f}<extra></extra>",
        )
    )
    if boundary is not None and 0 < boundary < len(tokens):
        figure.add_vline(x=boundary - 0.5, line={"color": WRITTEN, "width": 1, "dash": "dot"})
    figure.update_layout(coloraxis=colour_axis("share", low=0, high=max(1e-6, float(values.max()))))
    figure.update_xaxes(title_text="token of the input", tickangle=-45, **token_axis(tokens))
    layers = [f"L{layer}" for layer in range(len(values))]
    figure.update_yaxes(title_text="after layer", **token_axis(layers))
    return figure


def lag_curves(
    lines: Sequence[tuple[str, np.ndarray]], *, colours: Sequence[str] = (METHODS["dpo"],), log_x: bool = True
) -> go.Figure:
    """Mean attention by distance back: one line a model or a head.

    Args:
        lines: (name, [K] mean weight at lag 0, 1, ...).
        colours: of the lines.
        log_x: lag + 1 on a logarithmic axis, so that near and far both show.
    """
    figure = new_figure(margin={"t": 28}, showlegend=len(lines) > 1)
    for (name, values), colour in zip(lines, colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(values)) + int(log_x),
                y=values,
                mode="lines",
                name=escape(shorten(name, 24)),
                line={"color": colour, "width": 2},
                customdata=np.arange(len(values)),
                hovertemplate="lag %{customdata}: %{y:.4f}<extra></extra>",
            )
        )
    title = "1 + lag t \u2212 s (tokens)" if log_x else "lag t \u2212 s (tokens)"
    figure.update_xaxes(
        title_text=title, **(log_axis([1, *(len(values) for _, values in lines)]) if log_x else {"type": "linear"})
    )
    figure.update_yaxes(title_text="mean weight", rangemode="tozero")
    return figure


def score_curves(steps: Sequence[int], lines: Mapping[str, np.ndarray], *, marker: int | None = None) -> go.Figure:
    """Several shares of one head over training steps.

    Args:
        steps: [S] of the captures.
        lines: [S] shares, 0 to 1, by name.
        marker: step to mark.
    """
    figure = new_figure(margin={"t": 30})
    for index, (name, values) in enumerate(lines.items()):
        figure.add_trace(
            go.Scatter(
                x=list(steps),
                y=values,
                mode="lines+markers",
                name=escape(name),
                line={"color": KINDS[index % len(KINDS)], "width": 2},
                marker={"size": 5},
                hovertemplate=f"{escape(name)}<br>step %{{x:,}}: %{{y:.3f}}<extra></extra>",
            )
        )
    top = 1.08 * max(0.05, *(float(np.nanmax(values)) for values in lines.values()))
    if marker is not None:
        figure.add_vline(x=marker, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text="share of attention", range=[0, top])
    return figure


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
    changes = [values for (_, values), sign in zip(panels, signs, strict=True) if sign]
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
    upper, lower = two_bars(0.5) if plain and changes else ({}, {})
    if plain:
        finite = np.concatenate([values[np.isfinite(values)].ravel() for values in plain] + [np.zeros(1)])
        ends = (float(finite.min()) if low is None else low), (float(finite.max()) if high is None else high)
        layout["coloraxis"] = colour_axis(label, low=ends[0], high=max(ends[1], ends[0] + 1e-9), **upper)
    if changes:
        bound = max(1e-9, *(float(np.nanmax(np.abs(values), initial=0.0)) for values in changes))
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
    choice: tuple[int, int] | None,
) -> None:
    """One panel with its numbers, its squares and the frame around the chosen head."""
    depth, heads = values.shape
    at = {"row": 1, "col": column}
    sign = "+" if signed else ""
    numbers = values.astype(float).round(digits) + 0.0  # no minus before a zero
    texts = [["" if not np.isfinite(value) else f"{value:{sign}.{digits}f}" for value in row] for row in numbers]
    axis = "coloraxis2" if second else "coloraxis"
    figure.add_trace(cells(values, texts, legible=room >= 30 and row_height >= 18, axis=axis), **at)
    finite = [(layer, head) for layer in range(depth) for head in range(heads) if np.isfinite(values[layer, head])]
    name = escape(label.replace("<br>", " "))
    figure.add_trace(
        squares(
            [head for _, head in finite],
            [layer for layer, _ in finite],
            [[f"L{layer}H{head}", float(values[layer, head])] for layer, head in finite],
            max(5.0, 0.85 * min(room, row_height)),
            f"%{{customdata[0]}}<br>{name} %{{customdata[1]:{sign}.3f}}<extra></extra>",
        ),
        **at,
    )
    if choice is not None and choice[0] < depth and choice[1] < heads:
        figure.add_shape(frame(choice[1], choice[0]), **at)
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
            customdata=[[f"L{layer}H{head}"] for layer, head in heads],
            marker={"color": colour, "opacity": opacity},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.55}},
            hovertemplate="%{customdata[0]}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text=label, rangemode="tozero")
    names = [f"L{layer}H{head}" for layer, head in heads]
    figure.update_yaxes(autorange="reversed", **token_axis(names))
    return figure


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
        **log_axis(),
        tickvals=[ITSELF, *ticks],
        ticktext=["itself", *map(str, ticks)],
    )
    figure.update_yaxes(title_text="mean attention weight", **log_axis(lines))
    return figure


def _edges(lags: int) -> list[int]:
    """First lags of the groups that are averaged: each alone up to 32, then eight groups an octave."""
    far = [round(32 * 2 ** (step / 8)) for step in range(1, 8 * 32) if 32 * 2 ** (step / 8) < lags]
    return [*range(min(33, lags)), *far]


def query_statistic(
    lines: Sequence[tuple[str, np.ndarray]], tokens: Sequence[str], label: str, *, colours: Sequence[str]
) -> go.Figure:
    """Draw a statistic of one head along the text, one line per model.

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
    """Draw the strongest sources of every query of one head: queries downwards, keys to the right, the future in grey.

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
