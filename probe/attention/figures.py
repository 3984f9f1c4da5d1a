"""Figures of attention: all heads in one mosaic, one head stage by stage, and two models with their difference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from probe.plotting.marks import CLICKS, frame, squares, token_bars
from probe.plotting.panels import Panels
from probe.plotting.theme import (
    CHOSEN,
    LIGHT,
    MASKED,
    METHODS,
    colour_axis,
    escape,
    numbered,
    on_hover,
    shorten,
    signed_axis,
    token_axis,
    two_bars,
)

GAP = 1
"""Number of empty cells between two heads of the mosaic."""

MOST_HEADS = 64
"""Maximum number of heads in one readable mosaic; deeper models show a selection of layers."""

MOST_CELLS = 270_000
"""Largest number of weights in one mosaic: more take long to send and are not visible on a screen."""

MOST_NAMED = 64
"""Maximum number of tokens for which the hover text of every cell names its query and key."""

BORDER = {"color": "#E8555F", "width": 1, "dash": "dot"}
"""Line between the prompt and the tokens that the model generated."""


def layer_groups(depth: int, heads: int, length: int) -> dict[str, list[int]]:
    """Group the layers that one mosaic shows, by name: up to `MOST_HEADS` heads and `MOST_CELLS` weights."""
    most = min(MOST_HEADS, MOST_CELLS // length**2)
    each = depth if depth * heads <= most else max(1, most // heads)
    groups = [list(range(first, min(first + each, depth))) for first in range(0, depth, each)]
    return {f"L{one[0]}" if len(one) == 1 else f"L{one[0]}\u2013L{one[-1]}": one for one in groups}


def mosaic(attention: np.ndarray) -> np.ndarray:
    """Return all heads as one image: layers from top to bottom, heads from left to right, NaN outside the maps.

    Args:
        attention: [D H T T] attention weights, rows = query.

    Returns:
        [D * (T + GAP) - GAP, H * (T + GAP) - GAP]; NaN at keys after the query and in gaps.
    """
    depth, heads, length, _ = attention.shape
    pitch = length + GAP
    image = np.full((depth * pitch, heads * pitch), np.nan, dtype=np.float32)
    mask = np.triu(np.ones((length, length), dtype=bool), 1)
    for layer in range(depth):
        for head in range(heads):
            tile = np.where(mask, np.nan, attention[layer, head].astype(np.float32))
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
    """Draw every head as a small heat map; `customdata` of the transparent markers begins with the head's name.

    Args:
        attention: [D H T T] attention weights of one prompt, rows = query (destination), columns = key (source).
        tokens: [T] the prompt's tokens.
        layers: [D] indices of the layers; 0 to D - 1 by default.
        chosen: (layer, head) to frame.
        height: height of the figure in pixels, which determines the size of the markers.
        boundary: index of the first generated token, marked by lines in every head.
    """
    depth = attention.shape[0]
    layers = list(range(depth)) if layers is None else list(layers)
    panels = Panels()
    _tiles(panels, 1, attention, layers, chosen, boundary)
    panels.add(1, _targets(attention, tokens, layers, size=0.8 * (height - 60) / depth))
    axis = colour_axis("attention<br>weight", low=0, high=1)
    return panels.figure(**CLICKS, height=height, coloraxis=axis, margin={"l": 40, "t": 8, "b": 34, "r": 8})


def _tiles(
    panels: Panels,
    panel: int,
    values: np.ndarray,
    layers: Sequence[int],
    chosen: tuple[int, int] | None,
    boundary: int | None,
    colours: str = "coloraxis",
) -> None:
    """Draw the tiles of all heads in a panel, with layers and heads as tick labels, and frame the chosen head."""
    depth, heads, length, _ = values.shape
    pitch, middle = length + GAP, (length - 1) / 2
    panels.add(panel, _masks(depth, heads, length), go.Heatmap(z=mosaic(values), coloraxis=colours, hoverinfo="skip"))
    if boundary is not None and 0 < boundary < length:
        panels.add(panel, _borders(depth, heads, length, boundary))
    if chosen is not None and chosen[0] in layers and chosen[1] < heads:
        x, y = chosen[1] * pitch + middle, layers.index(chosen[0]) * pitch + middle
        panels.shape(panel, frame(x, y, pitch, pitch))
    centres = {"tickmode": "array", "showgrid": False, "zeroline": False, "ticks": "", "fixedrange": True}
    names = {"x": [f"H{head}" for head in range(heads)], "y": [f"L{layer}" for layer in layers]}
    ends = {"x": [-1, heads * pitch - 0.5], "y": [depth * pitch - 0.5, -1]}
    for letter, texts in names.items():
        ticks = {"tickvals": [at * pitch + middle for at in range(len(texts))], "ticktext": texts}
        panels.axis(letter, panel, **ticks, range=ends[letter], constrain="domain", **centres)
    panels.axis("y", panel, scaleanchor=f"x{panel if panel > 1 else ''}")


def _borders(depth: int, heads: int, length: int, boundary: int) -> go.Scatter:
    """Return the lines in every tile between the prompt and the generated tokens, which are below and to the right."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row in range(depth):
        for head in range(heads):
            x, y, at = head * (length + GAP) - 0.5, row * (length + GAP) - 0.5, boundary
            xs += [x, x + length, None, x + at, x + at, None]
            ys += [y + at, y + at, None, y + at, y + length, None]
    return go.Scatter(x=xs, y=ys, mode="lines", line=BORDER, hoverinfo="skip", showlegend=False)


def _masks(depth: int, heads: int, length: int) -> go.Scatter:
    """Return the masked area above the diagonal of every tile as a grey outline, far smaller than a second image."""
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


def _targets(
    attention: np.ndarray, tokens: Sequence[str], layers: Sequence[int], size: float, signed: bool = False
) -> go.Scatter:
    """Return transparent, clickable squares over the heads, which name the head and its strongest link on hover."""
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
            custom.append([f"L{layers[row]}H{head}", link])
    what = "largest change" if signed else "strongest link back"
    return squares(xs, ys, custom, size, f"%{{customdata[0]}}<br>{what}: %{{customdata[1]}}<extra></extra>")


def pair_hover(tokens: Sequence[str], template: str, first: int = 0) -> dict:
    """Return hover settings of a [R T] heat map: tokens and positions, or only positions if there are too many tokens.

    Args:
        tokens: [T] the tokens.
        template: hover text with two placeholders, for query and key.
        first: index of the first query.
    """
    if len(tokens) > MOST_NAMED:
        return {"hovertemplate": template.format("[%{y}]", "[%{x}]")}
    names = np.array(numbered(tokens), dtype=object)
    pairs = np.stack(np.meshgrid(names[first:], names, indexing="ij"), axis=-1)
    return {"customdata": pairs, "hovertemplate": template.format("%{customdata[0]}", "%{customdata[1]}")}


def attention_head(weights: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """Draw one head: queries from top to bottom, keys from left to right, cells hidden by the causal mask in grey.

    Args:
        weights: [R T] attention weights, rows = the last R queries.
        tokens: [T] the tokens; repeated tokens have separate rows and columns.
        boundary: index of the first generated token, marked by lines if all queries are there.
    """
    return _head(weights, tokens, boundary, "weight %{{z:.3f}}", colour_axis("attention<br>weight", low=0, high=1))


def _head(values: np.ndarray, tokens: Sequence[str], boundary: int | None, number: str, axis: dict) -> go.Figure:
    """Draw a map of queries and keys; `number` is the hover template of a value, with doubled braces."""
    length, panels, first = len(tokens), Panels(), len(tokens) - len(values)
    texts = pair_hover(tokens, first=first, template=f"query {{}}<br>key {{}}<br>{number}<extra></extra>")
    panels.add(1, *_visible(values, "coloraxis", boundary, MOST_NAMED, texts))
    tilt = -45 if length <= 16 else -90
    panels.axis("x", title="key (source)", **named_axis(tokens, 26), tickangle=tilt)
    queries = named_axis(tokens[first:], 26)
    queries["tickvals"] = [first + place for place in queries["tickvals"]]
    panels.axis("y", title="query (destination)", autorange="reversed", **queries)
    return panels.figure(showlegend=False, coloraxis=axis)


def _visible(
    values: np.ndarray, colours: str, boundary: int | None, apart: int, hover: dict
) -> Iterator[go.Heatmap | go.Scatter]:
    """Yield the masked cells in grey, the visible cells, and the lines at the first generated token.

    Args:
        values: [R T] values, rows = the last R queries, placed at their positions.
        colours: name of the colour axis.
        boundary: index of the first generated token.
        apart: maximum number of tokens for which the cells have gaps.
        hover: hover settings of the cells.
    """
    rows, length = values.shape
    mask = np.triu(np.ones((rows, length), dtype=bool), 1 + length - rows)
    grey = {"colorscale": [[0, MASKED], [1, MASKED]], "showscale": False, "hoverinfo": "skip"}
    grey, hover = ({**each, "y0": length - rows, "dy": 1} for each in (grey, hover))
    yield go.Heatmap(z=np.where(mask, 1.0, np.nan), **grey)
    gaps, visible = int(length <= apart), np.where(mask, np.nan, values.astype(np.float32))
    yield go.Heatmap(z=visible, coloraxis=colours, hoverongaps=False, xgap=gaps, ygap=gaps, **hover)
    if boundary is not None and 0 < boundary < length == rows:
        yield _borders(1, 1, length, boundary)


def change_map(change: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """Draw the change of one head's attention weights from one model to another, centred on zero.

    Args:
        change: [T T] difference of the weights, rows = query.
        tokens: [T] the tokens.
        boundary: index of the first generated token.
    """
    bound = max(1e-6, float(np.abs(change).max()))
    return _head(change, tokens, boundary, "change %{{z:+.3f}}", signed_axis("change of<br>weight", bound))


def named_axis(tokens: Sequence[str], most: int, length: int = 14) -> dict:
    """Return a token axis for a small figure, with at most `most` labels.

    Args:
        tokens: [T] the tokens.
        most: maximum number of labels.
        length: maximum number of characters of a label.
    """
    axis = token_axis(tokens, length)
    every = -(-len(axis["tickvals"]) // most)
    return axis | {name: axis[name][::every] for name in ("tickvals", "ticktext")}


MOST_CLICKABLE = 40
"""Maximum number of tokens for which every cell takes clicks; for more tokens a widget of the page sets the query."""


@dataclass(frozen=True, kw_only=True)
class HeadMaps:
    """Maps of one head of one model on one text, for each stage of attention."""

    name: str
    """Name of the model."""
    scores: np.ndarray
    """[T T] scores s = <R_t M h_t, R_s N h_s> / sqrt(d_h) (E3); masked values are ignored."""
    pattern: np.ndarray
    """[T T] attention weights alpha = softmax(s) (E4)."""
    written: np.ndarray
    """[T T] norms of alpha_{t,s} L h_s, the vector that source s adds to the residual stream of query t (E5)."""


def head_stages(
    stages: Sequence[HeadMaps], tokens: Sequence[str], *, query: int | None = None, boundary: int | None = None
) -> go.Figure:
    """Draw scores, softmax and written norms of one head side by side, with one row per model and one scale per column.

    Args:
        stages: stages of one or more models on the same tokens.
        tokens: [T] the tokens.
        query: index of the query whose row is marked.
        boundary: index of the first generated token.
    """
    length, many = len(tokens), len(stages) > 1
    titles = ["scores (E3)", "\u2192 softmax (E4)", "\u2192 written norm (E5)"]
    names = [f"{escape(shorten(one.name, 20))}:<br>{title}" if many else title for one in stages for title in titles]
    panels = Panels(names, columns=3, spacing=0.11, gap=0.12, shared_x=True, shared_y=True)
    maps = [(one.scores, one.pattern, one.written) for one in stages]
    for at, (values, stage) in enumerate(
        ((each, stage) for three in maps for stage, each in enumerate(three)), start=1
    ):
        panels.add(at, *_stage(values.astype(np.float32), stage, tokens, boundary))
        if query is not None and query < length:
            ends = {"x0": -0.5, "x1": query + 0.5, "y0": query - 0.5, "y1": query + 0.5}
            panels.shape(at, {"type": "rect", **ends, "line": {"color": CHOSEN, "width": 1.5}})
    panels.axis("x", tickangle=-90, range=[-0.5, length - 0.5], **named_axis(tokens, 18, 10))
    panels.axis("y", range=[length - 0.5, -0.5], **named_axis(tokens, 18, 10))
    around = {"l": 60, "b": 60, "r": 8}
    return panels.figure(**CLICKS, height=70 + 310 * len(stages), margin=around, **_stage_scales(maps))


def _stage_scales(maps: Sequence[Sequence[np.ndarray]]) -> dict:
    """Return the colour axes of the three columns; each is the same in every row."""
    seen = [
        [np.nan_to_num(values[np.tri(len(values), dtype=bool)].astype(np.float32)) for values in one] for one in maps
    ]
    bound = max(1e-6, *(float(np.quantile(np.abs(three[0]), 0.99)) for three in seen))
    most = max(1e-6, *(float(three[2].max()) for three in seen))
    places = [{"x": x, "len": 1.0, "thickness": 8, "title": ""} for x in (0.262, 0.63, 1.0)]
    return {
        "coloraxis": signed_axis("", bound) | {"colorbar": places[0]},
        "coloraxis2": colour_axis("", low=0, high=1) | {"colorbar": places[1]},
        "coloraxis3": colour_axis("", low=0, high=most) | {"colorbar": places[2]},
    }


def _stage(
    values: np.ndarray, stage: int, tokens: Sequence[str], boundary: int | None
) -> Iterator[go.Heatmap | go.Scatter]:
    """Yield one map of a head, and its clickable squares if there are not too many tokens."""
    length, quantity = len(tokens), ("score", "weight", "norm")[stage]
    clickable = length <= MOST_CLICKABLE
    texts = f"{{}} \u2192 {{}}<br>{quantity} %{{{{z:.3f}}}}<extra></extra>"
    hover = {"hoverinfo": "skip"} if clickable else pair_hover(tokens, texts)
    yield from _visible(values, "coloraxis" if stage == 0 else f"coloraxis{stage + 1}", boundary, 32, hover)
    if clickable:
        names, visible = numbered(tokens), [(t, s) for t in range(length) for s in range(t + 1)]
        yield squares(
            [s for _, s in visible],
            [t for t, _ in visible],
            [[t, s, f"{names[t]} \u2192 {names[s]}", float(values[t, s])] for t, s in visible],
            max(4.0, 200 / length),
            f"%{{customdata[2]}}<br>{quantity} %{{customdata[3]:.3f}}<extra></extra>",
        )


def written_bars(
    sides: Sequence[tuple[str, np.ndarray, np.ndarray]],
    tokens: Sequence[str],
    *,
    query: int,
    colours: Sequence[str] = (METHODS["dpo"],),
    boundary: int | None = None,
) -> go.Figure:
    """Draw how much a head writes into the residual stream of every token, as a share of the stream's norm.

    Args:
        sides: (name, [T] shares |o_t| / |h_t|, [T] norms |o_t|) of each model; the norms are shown on hover.
        tokens: [T] the tokens.
        query: index of the token to mark; a bar's `customdata` begins with its token, for clicks.
        colours: colour of each model.
        boundary: index of the first generated token.
    """
    names, panels = numbered(tokens), Panels()
    for (name, share, length), colour in zip(sides, colours, strict=True):
        bars = go.Bar(
            x=list(range(len(share))),
            y=share,
            name=escape(shorten(name, 24)),
            customdata=[[t, names[t], float(value)] for t, value in enumerate(length)],
            marker={"color": colour},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
            hovertemplate="%{customdata[1]}<br>share %{y:.3f}, length %{customdata[2]:.3f}<extra></extra>",
        )
        panels.add(1, bars)
    panels.span(1, query - 0.5, query + 0.5, CHOSEN, 0.12)
    if boundary is not None and 0 < boundary < len(tokens):
        panels.mark(1, BORDER, x=boundary - 0.5)
    panels.axis("x", tickangle=-45, range=[-0.6, len(tokens) - 0.4], **named_axis(tokens, 28, 10))
    panels.axis("y", title="share of the residual", rangemode="tozero")
    return panels.figure(bargap=0.2, clickmode="event+select", showlegend=len(sides) > 1)


def word_bars(
    panels: Sequence[tuple[str, Sequence[str], np.ndarray]], *, label: str = "change of the logit, nats"
) -> go.Figure:
    """Draw the tokens that a head's output promotes and suppresses, side by side for each model on one scale.

    Args:
        panels: (model, [k] tokens, [k] changes of their logits), drawn from top to bottom.
        label: title of the axis.
    """
    positive, negative = LIGHT.diverging[5], LIGHT.diverging[1]
    titles = [escape(shorten(name, 22)) if len(panels) > 1 else "" for name, _, _ in panels]
    canvas = Panels(titles, spacing=0.24)
    most = max(1e-9, *(float(np.abs(values).max(initial=0.0)) for _, _, values in panels))
    for column, (_, tokens, values) in enumerate(panels, start=1):
        marker = {"color": [positive if value >= 0 else negative for value in values]}
        written = {"text": [f"{value:+.2f}" for value in values], "textposition": "outside", "cliponaxis": False}
        hover = on_hover(map(escape, tokens)) | {"hovertemplate": "%{customdata}: %{x:+.3f}<extra></extra>"}
        token_bars(canvas, column, list(tokens), values, 12, marker=marker, **written, **hover)
    canvas.axis("x", title=label, range=[-1.6 * most, 1.6 * most], nticks=5)
    return canvas.figure(showlegend=False, bargap=0.2)


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
    """Draw the mosaics of two models on one scale and second minus first centred on zero; every head is clickable.

    Models that differ in depth, number of heads or tokens are drawn side by side without a difference.

    Args:
        pair: ([D H T T], [D H T T]) attention weights of the two models.
        tokens: [T] the tokens.
        names: names of the two models.
        others: [T] the second model's tokens, if its tokenizer splits the text differently.
        layers: indices of the layers of each model; from 0 by default.
        chosen: (layer, head) to frame in every panel.
        height: height of the figure in pixels, which determines the size of the markers.
        width: width of the figure in pixels, which does likewise.
        boundary: index of the first generated token.
    """
    numbers = [list(range(len(one))) for one in pair] if layers is None else [list(one) for one in layers]
    maps = [(one, layer_numbers, "coloraxis") for one, layer_numbers in zip(pair, numbers, strict=True)]
    titles = [escape(shorten(name, 24)) for name in names]
    words = [tokens, tokens if others is None else others, tokens]
    if others is None and pair[0].shape == pair[1].shape:
        maps.append((pair[1].astype(np.float32) - pair[0].astype(np.float32), numbers[0], "coloraxis2"))
        titles.append("difference")
    panels = Panels(titles, spacing=0.05)
    for column, (values, layer_numbers, axis) in enumerate(maps, start=1):
        size = 0.8 * min((height - 80) / len(values), 0.85 * width / len(maps) / values.shape[1])
        _tiles(panels, column, values, layer_numbers, chosen, boundary, axis)
        panels.add(column, _targets(values, words[column - 1], layer_numbers, size, signed=axis == "coloraxis2"))
    upper, lower = two_bars(0.5) if len(maps) == 3 else ({}, {})
    layout = {"coloraxis": colour_axis("weight", low=0, high=1, x=1.0, **upper)}
    if len(maps) == 3:
        layout["coloraxis2"] = signed_axis("change", max(0.1, float(np.abs(maps[2][0]).max())), x=1.0, **lower)
    return panels.figure(**CLICKS, height=height, margin={"l": 34, "t": 30, "b": 30, "r": 8}, **layout)
