"""Figures of single heads and queries: spectra, lag profiles, rollout, scores, and attention on long texts."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from probe.attention.figures import BORDER
from probe.plotting.curves import legend_entry
from probe.plotting.marks import CLICKS, cells, frame, squares, token_bars
from probe.plotting.panels import Panels
from probe.plotting.series import categories
from probe.plotting.theme import (
    DOTTED,
    MASKED,
    METHODS,
    colour_axis,
    escape,
    log_axis,
    numbered,
    row_axis,
    shorten,
    signed_axis,
    token_axis,
    two_bars,
)

KINDS = ("#3F78C6", "#B8860B", "#E8555F", "#868B94", "#1B8A3D")
"""Colours of curves that do not stand for training methods."""


def spectra(
    panels: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], *, colours: Sequence[str] = (METHODS["dpo"],)
) -> go.Figure:
    """Draw the singular values of a head's maps in descending order, one panel per map and one line per model.

    Args:
        panels: (title, [(model, [r] singular values)]).
        colours: colour of each model.
    """
    canvas = Panels([escape(title) for title, _ in panels], spacing=0.2 / len(panels))
    for column, (_, lines) in enumerate(panels, start=1):
        for (name, values), colour in zip(lines, colours, strict=True):
            short = escape(shorten(name, 24))
            line = go.Scatter(
                x=list(range(1, len(values) + 1)),
                y=values,
                mode="lines+markers",
                name=short,
                legendgroup=colour,
                line={"color": colour, "width": 2},
                marker={"size": 4},
                hovertemplate="%{x}: %{y:.4f}<extra></extra>",
            )
            canvas.add(column, line)
    canvas.axis("x", title="rank of the singular value", rangemode="tozero")
    canvas.axis("y", rangemode="tozero")
    canvas.axis("y", 1, title="singular value")
    return canvas.figure(showlegend=any(len(lines) > 1 for _, lines in panels))


def rollout_map(values: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """Draw the share of one query's residual that comes from each token of the input, after each layer.

    Args:
        values: [D T] rollout of the query after each layer; rows sum to 1.
        tokens: [T] the tokens.
        boundary: index of the first generated token.
    """
    hover = [[f"after L{layer}: {name}" for name in numbered(tokens)] for layer in range(len(values))]
    shares, panels = cells(values, hover=hover), Panels()
    panels.add(1, shares.update(hovertemplate="%{customdata}<br>share %{z:.3f}<extra></extra>"))
    if boundary is not None and 0 < boundary < len(tokens):
        panels.mark(1, BORDER, x=boundary - 0.5)
    panels.axis("x", title="token of the input", tickangle=-45, **token_axis(tokens))
    panels.axis("y", title="after layer", **token_axis([f"L{layer}" for layer in range(len(values))]))
    axis = colour_axis("share", low=0, high=max(1e-6, float(values.max())))
    return panels.figure(showlegend=False, coloraxis=axis)


def lag_curves(lines: Sequence[tuple[str, np.ndarray]], *, colours: Sequence[str] = (METHODS["dpo"],)) -> go.Figure:
    """Draw the mean attention weight by lag + 1 on a logarithmic axis, one line per model or head.

    Args:
        lines: (name, [K] mean weight at lag 0, 1, ...).
        colours: colour of each line.
    """
    panels = Panels()
    for (name, values), colour in zip(lines, colours, strict=True):
        lags = np.arange(len(values))
        line = go.Scatter(x=lags + 1, y=values, mode="lines", name=escape(shorten(name, 24)), customdata=lags)
        line.update(line={"color": colour, "width": 2}, hovertemplate="lag %{customdata}: %{y:.4f}<extra></extra>")
        panels.add(1, line)
    scale = log_axis([1, *(len(values) for _, values in lines)])
    panels.axis("x", title="1 + lag t \u2212 s (tokens)", **scale)
    panels.axis("y", title="mean weight", rangemode="tozero")
    return panels.figure(showlegend=len(lines) > 1)


def score_curves(steps: Sequence[int], lines: Mapping[str, np.ndarray], *, marker: int | None = None) -> go.Figure:
    """Draw several shares of one head over training.

    Args:
        steps: [S] training steps of the captures.
        lines: [S] shares from 0 to 1, by name.
        marker: step to mark.
    """
    panels = Panels()
    for index, (name, values) in enumerate(lines.items()):
        line = go.Scatter(
            x=list(steps),
            y=values,
            mode="lines+markers",
            name=escape(name),
            line={"color": KINDS[index % len(KINDS)], "width": 2},
            marker={"size": 5},
            hovertemplate=f"{escape(name)}<br>step %{{x:,}}: %{{y:.3f}}<extra></extra>",
        )
        panels.add(1, line)
    if marker is not None:
        panels.mark(1, DOTTED, x=marker)
    top = 1.08 * max(0.05, *(float(np.nanmax(values)) for values in lines.values()))
    panels.axis("x", title="training step")
    panels.axis("y", title="share of attention", range=[0, top])
    return panels.figure()


def head_grids(
    panels: Sequence[tuple[str, np.ndarray]],
    label: str,
    *,
    signed: Sequence[bool] = (False,),
    chosen: tuple[int, int] | None = None,
    width: int = 900,
    digits: int = 2,
) -> go.Figure:
    """Draw one or more [D H] grids side by side; unsigned panels share a scale, signed ones another, centred on zero.

    Args:
        panels: (title, [D H] values); NaN leaves a cell empty.
        label: title of the colour bar, with the unit.
        signed: whether each panel is signed; a single entry holds for all.
        chosen: (layer, head) to frame.
        width: width of the figure in pixels, which determines the size of the markers.
        digits: number of decimals of the values in the cells.
    """
    signs = list(signed) * len(panels) if len(signed) == 1 else list(signed)
    plain = [values for (_, values), sign in zip(panels, signs, strict=True) if not sign]
    changes = [values for (_, values), sign in zip(panels, signs, strict=True) if sign]
    deepest = max(len(values) for _, values in panels)
    height = 70 + int(np.clip(300 / deepest, 14, 46) * deepest)
    titles = [escape(shorten(title, max(12, width // len(panels) // 8))) for title, _ in panels]
    canvas = Panels(titles, spacing=0.06)
    for column, ((_, values), sign) in enumerate(zip(panels, signs, strict=True), start=1):
        depth, heads = values.shape
        cell = 0.85 * width / len(panels) / heads, (height - 60) / depth
        axis, words = "coloraxis2" if sign and plain else "coloraxis", label.replace("<br>", " ")
        canvas.add(column, *_grid(values, axis, escape(words), f"{'+' if sign else ''}.{digits}f", cell))
        if chosen is not None and chosen[0] < depth and chosen[1] < heads:
            canvas.shape(column, frame(chosen[1], chosen[0]))
        canvas.axis("x", column, **categories([f"H{head}" for head in range(heads)]))
        layers = range(0, depth, 1 + depth // 32)
        every = {"tickvals": list(layers), "ticktext": [f"L{layer}" for layer in layers]}
        canvas.axis("y", column, **row_axis([""] * depth) | every, showticklabels=column == 1 or cell[0] * heads > 190)
    layout: dict = {}
    upper, lower = two_bars(0.5) if plain and changes else ({}, {})
    if plain:
        finite = np.concatenate([values[np.isfinite(values)].ravel() for values in plain] + [np.zeros(1)])
        low, high = float(finite.min()), float(finite.max())
        layout["coloraxis"] = colour_axis(label, low=low, high=max(high, low + 1e-9), **upper)
    if changes:
        bound = max(1e-9, *(float(np.nanmax(np.abs(values), initial=0.0)) for values in changes))
        layout["coloraxis2" if plain else "coloraxis"] = signed_axis("change" if plain else label, bound, **lower)
    return canvas.figure(**CLICKS, height=height, margin={"l": 40, "t": 30, "b": 30, "r": 8}, **layout)


def _grid(
    values: np.ndarray, axis: str, name: str, form: str, cell: tuple[float, float]
) -> tuple[go.Heatmap, go.Scatter]:
    """Return the cells of all heads with their values, and the squares that take clicks.

    Args:
        values: [D H] values; NaN leaves a cell empty.
        axis: name of the colour axis.
        name: name of the value, escaped.
        form: format of a value in a cell.
        cell: width and height of a cell in pixels.
    """
    numbers = values.astype(float).round(int(form[-2])) + 0.0  # avoids a minus sign before zero
    texts = [["" if not np.isfinite(value) else f"{value:{form}}" for value in row] for row in numbers]
    layers, heads = (at.tolist() for at in np.nonzero(np.isfinite(values)))
    named = [[f"L{layer}H{head}", float(values[layer, head])] for layer, head in zip(layers, heads, strict=True)]
    hover = f"%{{customdata[0]}}<br>{name} %{{customdata[1]:{form[:-2]}3f}}<extra></extra>"
    return (
        cells(values, texts, legible=cell[0] >= 30 and cell[1] >= 18, axis=axis),
        squares(heads, layers, named, max(5.0, 0.85 * min(cell)), hover),
    )


def head_ranking(
    heads: Sequence[tuple[int, int]],
    values: np.ndarray,
    label: str,
    *,
    chosen: tuple[int, int] | None = None,
    colour: str = METHODS["dpo"],
) -> go.Figure:
    """Draw heads as clickable bars in the given order, the first at the top.

    Args:
        heads: [k] (layer, head).
        values: [k] values of the heads.
        label: title of the axis, with the unit.
        chosen: (layer, head) drawn in full colour; the others are paler.
        colour: colour of the bars.
    """
    panels, names = Panels(), [f"L{layer}H{head}" for layer, head in heads]
    marker = {"color": colour, "opacity": [1.0 if chosen in (None, head) else 0.55 for head in heads]}
    clicks = {"selected": {"marker": {"opacity": 1}}, "unselected": {"marker": {"opacity": 0.55}}}
    hover = {"customdata": [[name] for name in names], "hovertemplate": "%{customdata[0]}: %{x:.3f}<extra></extra>"}
    token_bars(panels, 1, names, values, marker=marker, **clicks, **hover)
    panels.axis("x", title=label, rangemode="tozero")
    return panels.figure(bargap=0.2, clickmode="event+select", showlegend=False)


DEPTH = [[0.0, METHODS["sft"]], [0.5, METHODS["rlhf"]], [1.0, METHODS["dpo"]]]
"""Colour scale of lines from the first to the last layer, readable on light and dark pages."""

ITSELF = 0.5
"""Position of lag 0 on the logarithmic axis."""

TICKS = 16
"""Maximum number of token labels on an axis; two of these figures are shown side by side."""

MOST_MARKS = 8000
"""Maximum number of sources in one figure; weaker ones are left out."""


def lag_profiles(profile: np.ndarray, layers: Sequence[int]) -> go.Figure:
    """Draw the mean weight by lag, one line per layer (mean over its heads), with both axes logarithmic.

    Beyond lag 32, weights are averaged over groups of lags that grow with the lag. If heads attend to the first token,
    the lines rise at the end, because the longest lags lead from the last queries to it.

    Args:
        profile: [D H K+1] mean weight at each lag.
        layers: [D] indices of the layers.
    """
    panels, lags = Panels(), profile.shape[-1]
    edges = _edges(lags)
    lines = np.add.reduceat(profile.mean(1), edges, axis=1) / np.diff([*edges, lags])
    lines = np.where(lines > 0, lines, np.nan)
    groups = list(zip(edges, [*edges[1:], lags], strict=True))
    names = [str(first) if end == first + 1 else f"{first} to {end - 1}" for first, end in groups]
    colours = sample_colorscale(DEPTH, np.linspace(0, 1, max(len(layers), 2)))
    x = [ITSELF, *(float(np.sqrt(first * (end - 1))) for first, end in groups[1:])]
    for layer, line, colour in zip(layers, lines, colours, strict=False):
        hover = f"L{layer}, lag %{{customdata}}: %{{y:.2g}}<extra></extra>"
        curve = go.Scatter(x=x, y=line, mode="lines", customdata=names, hovertemplate=hover)
        panels.add(1, curve.update(line={"color": colour, "width": 1.5}))
    bar = colour_axis("layer", low=layers[0], high=max(layers[-1], layers[0] + 1), nticks=6) | {"colorscale": DEPTH}
    panels.add(1, legend_entry("", marker={"color": [layers[0]], "coloraxis": "coloraxis"}))
    ticks = [2**power for power in range(int(np.log2(max(lags - 1, 1))) + 1)]
    places = {"tickvals": [ITSELF, *ticks], "ticktext": ["itself", *map(str, ticks)]}
    panels.axis("x", title="lag: tokens back from the query", **log_axis(), **places)
    panels.axis("y", title="mean attention weight", **log_axis(lines))
    return panels.figure(showlegend=False, coloraxis=bar)


def _edges(lags: int) -> list[int]:
    """Return the first lag of each averaged group: single lags up to 32, then eight groups per octave."""
    far = [round(32 * 2 ** (step / 8)) for step in range(1, 8 * 32) if 32 * 2 ** (step / 8) < lags]
    return [*range(min(33, lags)), *far]


def query_statistic(
    lines: Sequence[tuple[str, np.ndarray]], tokens: Sequence[str], label: str, *, colours: Sequence[str]
) -> go.Figure:
    """Draw a statistic of one head along the text, one line per model.

    Args:
        lines: (name, [T] values).
        tokens: [T] the text.
        label: title of the axis, with the unit.
        colours: colour of each line.
    """
    panels = Panels()
    for (name, values), colour in zip(lines, colours, strict=True):
        line = go.Scatter(x=list(range(len(tokens))), y=values, name=escape(name), mode="lines")
        line.update(line={"color": colour, "width": 1.2}, customdata=numbered(tokens))
        panels.add(1, line.update(hovertemplate="%{customdata}: %{y:.3f}<extra>%{fullData.name}</extra>"))
    panels.axis("x", title="query", tickangle=-45, **token_axis(tokens, most=TICKS))
    panels.axis("y", title=escape(label), rangemode="tozero")
    return panels.figure(showlegend=len(lines) > 1)


def top_sources(keys: np.ndarray, weights: np.ndarray, tokens: Sequence[str], *, least: float = 0.05) -> go.Figure:
    """Draw the strongest sources of every query of one head: queries downwards, keys to the right, masked keys in grey.

    Args:
        keys: [T k] positions of the sources, -1 for none.
        weights: [T k] attention weights of the sources.
        tokens: [T] the text.
        least: minimum weight that is drawn, which keeps a long text readable.
    """
    length = len(tokens)
    query, rank = np.nonzero((keys >= 0) & (weights >= least))
    order = np.argsort(weights[query, rank], kind="stable")[-MOST_MARKS:]  # the strongest are drawn last, on top
    query, key, weight = query[order], keys[query[order], rank[order]], weights[query[order], rank[order]]
    names, edge = numbered(tokens), [-0.5, length - 0.5]
    future = {"x": [edge[0], edge[1], edge[1]], "y": [edge[0], edge[0], edge[1]], "fillcolor": MASKED}
    size = float(np.clip(400 / length, 2.5, 9))
    sources = go.Scatter(
        x=key,
        y=query,
        mode="markers",
        marker={"size": size, "symbol": "square", "color": weight, "coloraxis": "coloraxis"},
        customdata=[[names[source], names[at]] for source, at in zip(key, query, strict=True)],
        hovertemplate="query %{customdata[1]}<br>key %{customdata[0]}<br>weight %{marker.color:.3f}<extra></extra>",
    )
    panels = Panels()
    panels.add(1, go.Scatter(**future, mode="none", fill="toself", hoverinfo="skip", line={"width": 0}), sources)
    panels.axis("x", title="key (source)", tickangle=-45, range=edge, **token_axis(tokens, most=TICKS))
    panels.axis("y", title="query (destination)", range=edge[::-1], **token_axis(tokens, most=TICKS))
    return panels.figure(showlegend=False, coloraxis=colour_axis("attention<br>weight", low=0, high=1))
