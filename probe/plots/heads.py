"""Attention: every head in one mosaic, and one head enlarged with its tokens."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.plots.theme import MASKED, colour_axis, escape, new_figure, token_axis

GAP = 1
"""Empty cells between two heads of the mosaic."""


def mosaic(attention: np.ndarray) -> np.ndarray:
    """All heads as one image: layers downwards, heads to the right, one row a query, NaN where nothing is shown.

    Args:
        attention: [D H T T] weights, rows = query.

    Returns:
        [D * (T + GAP) - GAP, H * (T + GAP) - GAP]; keys after the query are NaN, gaps too.
    """
    depth, heads, length, _ = attention.shape
    pitch = length + GAP
    image = np.full((depth * pitch, heads * pitch), np.nan, dtype=np.float32)
    hidden = np.triu(np.ones((length, length), dtype=bool), 1)
    for layer in range(depth):
        for head in range(heads):
            tile = np.where(hidden, np.nan, attention[layer, head].astype(np.float32))
            image[layer * pitch : layer * pitch + length, head * pitch : head * pitch + length] = tile
    return image[:-GAP, :-GAP]


def attention_mosaic(
    attention: np.ndarray,
    tokens: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    chosen: tuple[int, int] | None = None,
    height: int = 420,
) -> go.Figure:
    """Every head as one heat map; the transparent markers above the heads carry (layer, head) as `customdata`.

    Args:
        attention: [D H T T] attention weights of one prompt, rows = query (destination), columns = key (source).
        tokens: [T] the prompt's tokens.
        layers: numbers of the D layers, if they are not 0 to D - 1.
        chosen: (layer, head) to frame.
        height: pixels, from which the size of the markers follows.
    """
    depth, heads, length, _ = attention.shape
    layers = list(range(depth)) if layers is None else list(layers)
    image, pitch, middle = mosaic(attention), length + GAP, (length - 1) / 2
    tiles = np.isfinite(mosaic(np.ones_like(attention)))
    hidden = np.where(tiles | _gaps(image.shape, pitch, length), np.nan, 1.0)
    figure = new_figure(height=height, clickmode="event+select", dragmode=False, showlegend=False)
    figure.add_trace(go.Heatmap(z=hidden, colorscale=[[0, MASKED], [1, MASKED]], showscale=False, hoverinfo="skip"))
    figure.add_trace(go.Heatmap(z=image, coloraxis="coloraxis", hoverinfo="skip"))
    figure.add_trace(_targets(attention, tokens, layers, pitch, middle, size=0.8 * (height - 60) / depth))
    if chosen is not None and chosen[0] in layers:
        x, y = chosen[1] * pitch - 0.5 - GAP / 2, layers.index(chosen[0]) * pitch - 0.5 - GAP / 2
        figure.add_shape(type="rect", x0=x, y0=y, x1=x + pitch, y1=y + pitch, line={"color": "#E8555F", "width": 2})
    figure.update_layout(
        coloraxis=colour_axis("attention<br>weight", low=0, high=1), margin={"l": 40, "t": 8, "b": 34, "r": 8}
    )
    centres = {"tickmode": "array", "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    figure.update_xaxes(
        tickvals=[head * pitch + middle for head in range(heads)],
        ticktext=[f"H{head}" for head in range(heads)],
        range=[-1, heads * pitch - 0.5],
        constrain="domain",
        **centres,
    )
    figure.update_yaxes(
        tickvals=[row * pitch + middle for row in range(depth)],
        ticktext=[f"L{layer}" for layer in layers],
        range=[depth * pitch - 0.5, -1],
        scaleanchor="x",
        constrain="domain",
        **centres,
    )
    return figure


def _gaps(shape: tuple[int, ...], pitch: int, length: int) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows % pitch >= length) | (columns % pitch >= length)


def _targets(
    attention: np.ndarray, tokens: Sequence[str], layers: Sequence[int], pitch: int, middle: float, size: float
) -> go.Scatter:
    """A transparent square above every head: it names the head and its strongest link, and takes the click."""
    depth, heads, _, _ = attention.shape
    xs, ys, custom = [], [], []
    for row in range(depth):
        for head in range(heads):
            weights = np.tril(attention[row, head].astype(np.float32), -1)
            query, key = divmod(int(weights.argmax()), weights.shape[1])
            xs.append(head * pitch + middle)
            ys.append(row * pitch + middle)
            link = f"{escape(tokens[query])} \u2192 {escape(tokens[key])} ({weights[query, key]:.2f})"
            custom.append([layers[row], head, link])
    return go.Scatter(
        x=xs,
        y=ys,
        mode="markers",
        customdata=custom,
        marker={"size": size, "symbol": "square", "opacity": 0, "color": "#888888"},
        selected={"marker": {"opacity": 0}},
        unselected={"marker": {"opacity": 0}},
        hovertemplate="L%{customdata[0]}H%{customdata[1]}<br>strongest link back: %{customdata[2]}<extra></extra>",
    )


def attention_head(weights: np.ndarray, tokens: Sequence[str]) -> go.Figure:
    """One head: query tokens downwards, key tokens to the right, what the causal mask hides in grey.

    Args:
        weights: [T T] attention weights, rows = query.
        tokens: [T] the tokens; repeated ones stay apart because the axes are numeric.
    """
    length = len(tokens)
    hidden = np.triu(np.ones((length, length), dtype=bool), 1)
    shown = np.where(hidden, np.nan, weights.astype(np.float32))
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    pairs = [[[query, key] for key in names] for query in names]
    figure = new_figure(showlegend=False)
    figure.add_trace(
        go.Heatmap(
            z=np.where(hidden, 1.0, np.nan), colorscale=[[0, MASKED], [1, MASKED]], showscale=False, hoverinfo="skip"
        )
    )
    figure.add_trace(
        go.Heatmap(
            z=shown,
            coloraxis="coloraxis",
            customdata=pairs,
            hoverongaps=False,
            xgap=1,
            ygap=1,
            hovertemplate="query %{customdata[0]}<br>key %{customdata[1]}<br>weight %{z:.3f}<extra></extra>",
        )
    )
    figure.update_layout(coloraxis=colour_axis("attention<br>weight", low=0, high=1))
    figure.update_xaxes(title_text="key (source)", tickangle=-45, **token_axis(tokens))
    figure.update_yaxes(title_text="query (destination)", autorange="reversed", **token_axis(tokens))
    return figure
