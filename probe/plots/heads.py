"""Attention: every head in one mosaic, and one head enlarged with its tokens.

Axes: D layers, H heads, T tokens; rows of a pattern are queries (destination), columns keys (source).
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from probe.plots.marks import frame, squares
from probe.plots.theme import MASKED, colour_axis, escape, new_figure, token_axis

GAP = 1
"""Empty cells between two heads of the mosaic."""

MOST_NAMED = 64
"""Tokens up to which every cell of a map carries the names of its query and key."""

WRITTEN = "#E8555F"
"""Lines between what was given and what the model wrote itself."""


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
    boundary: int | None = None,
) -> go.Figure:
    """Every head as one heat map; the transparent markers above the heads carry (layer, head) as `customdata`.

    Args:
        attention: [D H T T] attention weights of one prompt, rows = query (destination), columns = key (source).
        tokens: [T] the prompt's tokens.
        layers: numbers of the D layers, if they are not 0 to D - 1.
        chosen: (layer, head) to frame.
        height: pixels, from which the size of the markers follows.
        boundary: first token that the model wrote itself, marked by lines in every head.
    """
    depth = attention.shape[0]
    layers = list(range(depth)) if layers is None else list(layers)
    figure = new_figure(height=height, clickmode="event+select", dragmode=False, showlegend=False)
    tiles(figure, attention, layers, chosen, boundary, "", "coloraxis")
    figure.add_trace(targets(attention, tokens, layers, size=0.8 * (height - 60) / depth))
    figure.update_layout(
        coloraxis=colour_axis("attention<br>weight", low=0, high=1), margin={"l": 40, "t": 8, "b": 34, "r": 8}
    )
    return figure


def tiles(
    figure: go.Figure,
    values: np.ndarray,
    layers: Sequence[int],
    chosen: tuple[int, int] | None,
    boundary: int | None,
    axis: str,
    colours: str,
) -> None:
    """Draw the tiles of all heads on the axes number `axis`, with names at their middles and the chosen one framed."""
    depth, heads, length, _ = values.shape
    pitch, middle = length + GAP, (length - 1) / 2
    place: dict = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    figure.add_trace(_masks(depth, heads, length).update(place))
    figure.add_trace(go.Heatmap(z=mosaic(values), coloraxis=colours, hoverinfo="skip", **place))
    if boundary is not None and 0 < boundary < length:
        figure.add_trace(_borders(depth, heads, length, boundary).update(place))
    if chosen is not None and chosen[0] in layers and chosen[1] < heads:
        x, y = chosen[1] * pitch + middle, layers.index(chosen[0]) * pitch + middle
        figure.add_shape(frame(x, y, pitch, pitch), xref=f"x{axis}", yref=f"y{axis}")
    centres = {"tickmode": "array", "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    across: dict = {
        "tickvals": [head * pitch + middle for head in range(heads)],
        "ticktext": [f"H{head}" for head in range(heads)],
        "range": [-1, heads * pitch - 0.5],
        "constrain": "domain",
        **centres,
    }
    down: dict = {
        "tickvals": [row * pitch + middle for row in range(depth)],
        "ticktext": [f"L{layer}" for layer in layers],
        "range": [depth * pitch - 0.5, -1],
        "scaleanchor": f"x{axis}",
        "constrain": "domain",
        **centres,
    }
    figure.update_layout({f"xaxis{axis}": across, f"yaxis{axis}": down})


def _borders(depth: int, heads: int, length: int, boundary: int) -> go.Scatter:
    """Lines in every tile between what was given and what the model wrote: below it and right of it is written."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row in range(depth):
        for head in range(heads):
            x, y, at = head * (length + GAP) - 0.5, row * (length + GAP) - 0.5, boundary
            xs += [x, x + length, None, x + at, x + at, None]
            ys += [y + at, y + at, None, y + at, y + length, None]
    line = {"color": WRITTEN, "width": 1, "dash": "dot"}
    return go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _masks(depth: int, heads: int, length: int) -> go.Scatter:
    """The staircase above the diagonal of every tile in grey: an outline, far smaller than a second image."""
    step = np.arange(length - 1)
    stair_x = np.concatenate([np.repeat(step + 0.5, 2), [length - 0.5, length - 0.5, 0.5, np.nan]])
    stair_y = np.concatenate([np.stack([step - 0.5, step + 0.5], 1).ravel(), [length - 1.5, -0.5, -0.5, np.nan]])
    pitch = length + GAP
    rows, columns = (axis.ravel() * pitch for axis in np.indices((depth, heads)))
    return go.Scatter(
        x=(columns[:, None] + stair_x).ravel(),
        y=(rows[:, None] + stair_y).ravel(),
        mode="none",
        fill="toself",
        fillcolor=MASKED,
        hoverinfo="skip",
        showlegend=False,
    )


def targets(
    attention: np.ndarray, tokens: Sequence[str], layers: Sequence[int], size: float, signed: bool = False
) -> go.Scatter:
    """A transparent square above every head: it names the head and its strongest link, and takes the click."""
    depth, heads, length, _ = attention.shape
    pitch, middle = length + GAP, (length - 1) / 2
    xs, ys, custom = [], [], []
    for row in range(depth):
        for head in range(heads):
            weights = np.tril(attention[row, head].astype(np.float32), 0 if signed else -1)
            query, key = divmod(int(np.abs(weights).argmax()), weights.shape[1])
            xs.append(head * pitch + middle)
            ys.append(row * pitch + middle)
            weight = f"{weights[query, key]:{'+' if signed else ''}.2f}"
            link = f"{escape(tokens[query])} \u2192 {escape(tokens[key])} ({weight})"
            custom.append([layers[row], head, link])
    what = "largest change" if signed else "strongest link back"
    return squares(
        xs, ys, custom, size, f"L%{{customdata[0]}}H%{{customdata[1]}}<br>{what}: %{{customdata[2]}}<extra></extra>"
    )


def hover(tokens: Sequence[str], template: str) -> dict:
    """Hover settings of a [T T] heat map: tokens and positions, or positions alone where names would weigh too much.

    Args:
        tokens: [T] the tokens.
        template: the text, with two places for query and key.
    """
    if len(tokens) > MOST_NAMED:
        return {"hovertemplate": template.format("[%{y}]", "[%{x}]")}
    names = np.array([f"{escape(token)} [{index}]" for index, token in enumerate(tokens)], dtype=object)
    pairs = np.stack(np.meshgrid(names, names, indexing="ij"), axis=-1)
    return {"customdata": pairs, "hovertemplate": template.format("%{customdata[0]}", "%{customdata[1]}")}


def attention_head(weights: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """One head: query tokens downwards, key tokens to the right, what the causal mask hides in grey.

    Args:
        weights: [T T] attention weights, rows = query.
        tokens: [T] the tokens; repeated ones stay apart because the axes are numeric.
        boundary: first token that the model wrote itself, marked by lines.
    """
    length = len(tokens)
    hidden = np.triu(np.ones((length, length), dtype=bool), 1)
    shown = np.where(hidden, np.nan, weights.astype(np.float32))
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
            hoverongaps=False,
            xgap=int(length <= MOST_NAMED),
            ygap=int(length <= MOST_NAMED),
            **hover(tokens, "query {}<br>key {}<br>weight %{{z:.3f}}<extra></extra>"),
        )
    )
    if boundary is not None and 0 < boundary < length:
        figure.add_trace(_borders(1, 1, length, boundary))
    figure.update_layout(coloraxis=colour_axis("attention<br>weight", low=0, high=1))
    figure.update_xaxes(title_text="key (source)", **named_axis(tokens, 26), tickangle=-45 if length <= 16 else -90)
    figure.update_yaxes(title_text="query (destination)", autorange="reversed", **named_axis(tokens, 26))
    return figure


def change_map(change: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """What one head gives more (or less) in one model than in another, centred on zero.

    Args:
        change: [T T] difference of the weights, rows = query.
        tokens: [T] the tokens.
        boundary: first token that a model wrote itself.
    """
    figure = attention_head(change, tokens, boundary=boundary)
    bound = max(1e-6, float(np.abs(change).max()))
    figure.data[1].hovertemplate = figure.data[1].hovertemplate.replace("weight %{z:.3f}", "change %{z:+.3f}")
    figure.update_layout(coloraxis=colour_axis("change of<br>weight", low=-bound, high=bound, diverging=True))
    return figure


def named_axis(tokens: Sequence[str], most: int, length: int = 14) -> dict:
    """A token axis of a small figure: at most so many names.

    Args:
        tokens: [T] the tokens.
        most: names that have room.
        length: characters of a name.
    """
    axis = token_axis(tokens, length)
    every = -(-len(axis["tickvals"]) // most)
    return axis | {name: axis[name][::every] for name in ("tickvals", "ticktext")}
