"""Attention as figures: every head in one mosaic, one head in its stages, two models and the change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plotting.marks import frame, lay_out, squares
from probe.plotting.theme import (
    CHOSEN,
    LIGHT,
    MASKED,
    METHODS,
    colour_axis,
    escape,
    new_figure,
    shorten,
    template,
    token_axis,
    two_bars,
)

GAP = 1
"""Empty cells between two heads of the mosaic."""

MOST_HEADS = 64
"""Heads that one mosaic still shows well; deeper models show some layers at a time."""

MOST_NAMED = 64
"""Tokens up to which every cell of a map carries the names of its query and key."""

WRITTEN = "#E8555F"
"""Lines between what was given and what the model wrote itself."""


def mosaic(attention: np.ndarray) -> np.ndarray:
    """All heads as one image: layers downwards, heads to the right, one row a query, NaN where no map is drawn.

    Args:
        attention: [D H T T] weights, rows = query.

    Returns:
        [D * (T + GAP) - GAP, H * (T + GAP) - GAP]; keys after the query are NaN, gaps too.
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
    """Every head as one heat map; `customdata` of the transparent markers above the heads begins with their names.

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
    x_axis: dict = {
        "tickvals": [head * pitch + middle for head in range(heads)],
        "ticktext": [f"H{head}" for head in range(heads)],
        "range": [-1, heads * pitch - 0.5],
        "constrain": "domain",
        **centres,
    }
    y_axis: dict = {
        "tickvals": [row * pitch + middle for row in range(depth)],
        "ticktext": [f"L{layer}" for layer in layers],
        "range": [depth * pitch - 0.5, -1],
        "scaleanchor": f"x{axis}",
        "constrain": "domain",
        **centres,
    }
    figure.update_layout({f"xaxis{axis}": x_axis, f"yaxis{axis}": y_axis})


def _borders(depth: int, heads: int, length: int, boundary: int) -> go.Scatter:
    """Lines in every tile between prompt and generated tokens, which are below and right of them."""
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
    """Draw the masked area above the diagonal of every tile in grey, as an outline, far smaller than a second image."""
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
    """Draw a transparent square above every head, which names the head and its strongest link and takes the click."""
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
    mask = np.triu(np.ones((length, length), dtype=bool), 1)
    visible = np.where(mask, np.nan, weights.astype(np.float32))
    figure = new_figure(showlegend=False)
    figure.add_trace(
        go.Heatmap(
            z=np.where(mask, 1.0, np.nan), colorscale=[[0, MASKED], [1, MASKED]], showscale=False, hoverinfo="skip"
        )
    )
    figure.add_trace(
        go.Heatmap(
            z=visible,
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
    """Draw the change of one head's attention weights from one model to another, centred on zero.

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
    """Return a token axis for a small figure, with at most `most` names.

    Args:
        tokens: [T] the tokens.
        most: names that have room.
        length: characters of a name.
    """
    axis = token_axis(tokens, length)
    every = -(-len(axis["tickvals"]) // most)
    return axis | {name: axis[name][::every] for name in ("tickvals", "ticktext")}


MOST_CLICKABLE = 40
"""Tokens up to which every cell of a map takes clicks; beyond it the page's widget chooses the query."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """One head of one model on one text, stage by stage."""

    name: str
    """How the model is called."""
    scores: np.ndarray
    """[T T] s = <R_t M h_t, R_s N h_s> / sqrt(d_h) (E3); what the mask hides is ignored."""
    pattern: np.ndarray
    """[T T] alpha = softmax(s) (E4)."""
    written: np.ndarray
    """[T T] norm of alpha_{t,s} L h_s, what the source writes into the residual stream of the query (E5)."""


def head_stages(
    stages: Sequence[Stages], tokens: Sequence[str], *, query: int | None = None, boundary: int | None = None
) -> go.Figure:
    """Scores, softmax and written norms of one head side by side; one row a model, one scale a column.

    Args:
        stages: of one or more models on the same tokens.
        tokens: [T] the tokens.
        query: the row to mark.
        boundary: first token that a model wrote itself.
    """
    length, many = len(tokens), len(stages) > 1
    mask = np.triu(np.ones((length, length), dtype=bool), 1)
    titles = ["scores (E3)", "\u2192 softmax (E4)", "\u2192 written norm (E5)"]
    names = [f"{escape(shorten(one.name, 20))}:<br>{title}" if many else title for one in stages for title in titles]
    figure = make_subplots(
        rows=len(stages),
        cols=3,
        subplot_titles=names,
        horizontal_spacing=0.11,
        vertical_spacing=0.12 if many else 0.09,
        shared_xaxes=True,
        shared_yaxes=True,
    )
    maps = [(one.scores, one.pattern, one.written) for one in stages]
    for row, three in enumerate(maps, start=1):
        for column, values in enumerate(three, start=1):
            _map(figure, values.astype(np.float32), mask, tokens, row, column, boundary, query)
    around = {"l": 60, "t": 46 if many else 30, "b": 60, "r": 8}
    lay_out(figure, 70 + 310 * len(stages), margin=around, **_stage_scales(maps, mask))
    figure.update_xaxes(tickangle=-90, range=[-0.5, length - 0.5], **named_axis(tokens, 18, 10))
    figure.update_yaxes(range=[length - 0.5, -0.5], **named_axis(tokens, 18, 10))
    return figure


def _stage_scales(maps: Sequence[Sequence[np.ndarray]], mask: np.ndarray) -> dict:
    """Colour axes of the three columns, each the same in every row."""
    visible = [[np.nan_to_num(values[~mask].astype(np.float32)) for values in three] for three in maps]
    bound = max(1e-6, *(float(np.quantile(np.abs(three[0]), 0.99)) for three in visible))
    most = max(1e-6, *(float(three[2].max()) for three in visible))
    places = [{"x": x, "len": 1.0, "thickness": 8, "title": ""} for x in (0.262, 0.63, 1.0)]
    return {
        "coloraxis": colour_axis("", low=-bound, high=bound, diverging=True) | {"colorbar": places[0]},
        "coloraxis2": colour_axis("", low=0, high=1) | {"colorbar": places[1]},
        "coloraxis3": colour_axis("", low=0, high=most) | {"colorbar": places[2]},
    }


def _map(
    figure: go.Figure,
    values: np.ndarray,
    mask: np.ndarray,
    tokens: Sequence[str],
    row: int,
    column: int,
    boundary: int | None,
    query: int | None,
) -> None:
    """One map of a head: cells, the mask in grey, what takes clicks, and the marks."""
    length, at = len(tokens), {"row": row, "col": column}
    colours = "coloraxis" if column == 1 else f"coloraxis{column}"
    quantity = ("score", "weight", "norm")[column - 1]
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    grey = go.Heatmap(
        z=np.where(mask, 1.0, np.nan), colorscale=[[0, MASKED], [1, MASKED]], showscale=False, hoverinfo="skip"
    )
    figure.add_trace(grey, **at)
    clickable = length <= MOST_CLICKABLE
    hover_options: dict = (
        {"hoverinfo": "skip"}
        if clickable
        else hover(tokens, f"{{}} \u2192 {{}}<br>{quantity} %{{{{z:.3f}}}}<extra></extra>")
    )
    cells = go.Heatmap(
        z=np.where(mask, np.nan, values),
        coloraxis=colours,
        hoverongaps=False,
        xgap=int(length <= 32),
        ygap=int(length <= 32),
        **hover_options,
    )
    figure.add_trace(cells, **at)
    if clickable:
        visible = [(t, s) for t in range(length) for s in range(t + 1)]
        figure.add_trace(
            squares(
                [s for _, s in visible],
                [t for t, _ in visible],
                [[t, s, f"{names[t]} \u2192 {names[s]}", float(values[t, s])] for t, s in visible],
                max(4.0, 200 / length),
                f"%{{customdata[2]}}<br>{quantity} %{{customdata[3]:.3f}}<extra></extra>",
            ),
            **at,
        )
    if boundary is not None and 0 < boundary < length:
        edge = boundary - 0.5
        line = {"color": WRITTEN, "width": 1, "dash": "dot"}
        xs, ys = [-0.5, length - 0.5, None, edge, edge], [edge, edge, None, edge, length - 0.5]
        figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip"), **at)
    if query is not None and query < length:
        line = {"color": CHOSEN, "width": 1.5}
        figure.add_shape(type="rect", x0=-0.5, x1=query + 0.5, y0=query - 0.5, y1=query + 0.5, line=line, **at)


def written_bars(
    sides: Sequence[tuple[str, np.ndarray, np.ndarray]],
    tokens: Sequence[str],
    *,
    query: int,
    colours: Sequence[str] = (METHODS["dpo"],),
    boundary: int | None = None,
) -> go.Figure:
    """How much a head writes into the residual stream of every token, as a share of that stream; lengths on hover.

    Args:
        sides: (name, [T] share |o_t| / |h_t|, [T] length |o_t|) of each model.
        tokens: [T] the tokens.
        query: the token to mark; a bar's `customdata` begins with its token, for clicks.
        colours: of the models.
        boundary: first token that a model wrote itself.
    """
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    figure = new_figure(bargap=0.2, clickmode="event+select", margin={"t": 28}, showlegend=len(sides) > 1)
    for (name, share, length), colour in zip(sides, colours, strict=True):
        figure.add_trace(
            go.Bar(
                x=list(range(len(share))),
                y=share,
                name=escape(shorten(name, 24)),
                customdata=[[t, names[t], float(value)] for t, value in enumerate(length)],
                marker={"color": colour},
                selected={"marker": {"opacity": 1}},
                unselected={"marker": {"opacity": 1}},
                hovertemplate="%{customdata[1]}<br>share %{y:.3f}, length %{customdata[2]:.3f}<extra></extra>",
            )
        )
    figure.add_vrect(x0=query - 0.5, x1=query + 0.5, fillcolor=CHOSEN, opacity=0.12, line_width=0)
    if boundary is not None and 0 < boundary < len(tokens):
        figure.add_vline(x=boundary - 0.5, line={"color": WRITTEN, "width": 1, "dash": "dot"})
    figure.update_xaxes(tickangle=-45, range=[-0.6, len(tokens) - 0.4], **named_axis(tokens, 28, 10))
    figure.update_yaxes(title_text="share of the residual", rangemode="tozero")
    return figure


def word_bars(
    panels: Sequence[tuple[str, Sequence[str], np.ndarray]], *, label: str = "change of the logit, nats"
) -> go.Figure:
    """Tokens that a head's output promotes and suppresses, side by side for each model on one scale.

    Args:
        panels: (model, [k] tokens, [k] what is added to their logits); drawn in this order from the top.
        label: of the axis.
    """
    positive, negative = LIGHT.diverging[5], LIGHT.diverging[1]
    titles = [escape(shorten(name, 22)) for name, _, _ in panels] if len(panels) > 1 else None
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.24)
    most = max(1e-9, *(float(np.abs(values).max(initial=0.0)) for _, _, values in panels))
    for column, (_, tokens, values) in enumerate(panels, start=1):
        bars = go.Bar(
            x=values,
            y=list(range(len(tokens))),
            orientation="h",
            marker={"color": [positive if value >= 0 else negative for value in values]},
            text=[f"{value:+.2f}" for value in values],
            textposition="outside",
            cliponaxis=False,
            customdata=[escape(token) for token in tokens],
            hovertemplate="%{customdata}: %{x:+.3f}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
        figure.update_yaxes(autorange="reversed", **token_axis(list(tokens), 12), row=1, col=column)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text=label, range=[-1.6 * most, 1.6 * most], nticks=5)
    figure.update_layout(template=template(LIGHT), showlegend=False, bargap=0.2, margin={"t": 30 if titles else 8})
    return figure


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
    """Draw the mosaics of two models on one scale, and second minus first centred on zero; every head takes a click.

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
    panels = [(one, layer_numbers, "coloraxis") for one, layer_numbers in zip(pair, numbers, strict=True)]
    titles = [escape(shorten(name, 24)) for name in names]
    words = [tokens, tokens if others is None else others, tokens]
    if others is None and pair[0].shape == pair[1].shape:
        panels.append((pair[1].astype(np.float32) - pair[0].astype(np.float32), numbers[0], "coloraxis2"))
        titles.append("difference")
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.05)
    for column, (values, layer_numbers, axis) in enumerate(panels, start=1):
        tile = min((height - 80) / len(values), 0.85 * width / len(panels) / values.shape[1])
        tiles(figure, values, layer_numbers, chosen, boundary, str(column) if column > 1 else "", axis)
        signed = axis == "coloraxis2"
        target = targets(values, words[column - 1], layer_numbers, size=0.8 * tile, signed=signed)
        figure.add_trace(target, row=1, col=column)
    layout: dict = {"coloraxis": colour_axis("weight", low=0, high=1, x=1.0)}
    if len(panels) == 3:
        bound = max(0.1, float(np.abs(panels[2][0]).max()))
        upper, lower = two_bars(0.5)
        layout["coloraxis"] = colour_axis("weight", low=0, high=1, x=1.0, **upper)
        layout["coloraxis2"] = colour_axis("change", low=-bound, high=bound, diverging=True, x=1.0, **lower)
    lay_out(figure, height, margin={"l": 34, "t": 30, "b": 30, "r": 8}, **layout)
    return figure
