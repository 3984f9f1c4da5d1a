"""One head's three stages, what it writes, and values of all heads on one grid.

Axes: D layers, H heads, T tokens; rows of a map are queries (destination), columns keys (source).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.heads import WRITTEN, hover, named_axis
from probe.plots.marks import lay_out, squares
from probe.plots.theme import (
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
)

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
    hidden = np.triu(np.ones((length, length), dtype=bool), 1)
    titles = ["scores (E3)", "\u2192 softmax (E4)", "\u2192 written norm (E5)"]
    names = [f"{escape(shorten(one.name, 20))}: {title}" if many else title for one in stages for title in titles]
    figure = make_subplots(
        rows=len(stages),
        cols=3,
        subplot_titles=names,
        horizontal_spacing=0.11,
        vertical_spacing=0.09,
        shared_xaxes=True,
        shared_yaxes=True,
    )
    maps = [(one.scores, one.pattern, one.written) for one in stages]
    for row, three in enumerate(maps, start=1):
        for column, values in enumerate(three, start=1):
            _map(figure, values.astype(np.float32), hidden, tokens, row, column, boundary, query)
    around = {"l": 60, "t": 30, "b": 60, "r": 8}
    lay_out(figure, 70 + 300 * len(stages), margin=around, **_stage_scales(maps, hidden))
    figure.update_xaxes(tickangle=-90, range=[-0.5, length - 0.5], **named_axis(tokens, 18, 10))
    figure.update_yaxes(range=[length - 0.5, -0.5], **named_axis(tokens, 18, 10))
    return figure


def _stage_scales(maps: Sequence[Sequence[np.ndarray]], hidden: np.ndarray) -> dict:
    """Colour axes of the three columns, each the same in every row."""
    shown = [[np.nan_to_num(values[~hidden].astype(np.float32)) for values in three] for three in maps]
    bound = max(1e-6, *(float(np.quantile(np.abs(three[0]), 0.99)) for three in shown))
    most = max(1e-6, *(float(three[2].max()) for three in shown))
    places = [{"x": x, "len": 1.0, "thickness": 8, "title": ""} for x in (0.262, 0.63, 1.0)]
    return {
        "coloraxis": colour_axis("", low=-bound, high=bound, diverging=True) | {"colorbar": places[0]},
        "coloraxis2": colour_axis("", low=0, high=1) | {"colorbar": places[1]},
        "coloraxis3": colour_axis("", low=0, high=most) | {"colorbar": places[2]},
    }


def _map(
    figure: go.Figure,
    values: np.ndarray,
    hidden: np.ndarray,
    tokens: Sequence[str],
    row: int,
    column: int,
    boundary: int | None,
    query: int | None,
) -> None:
    """One map of a head: cells, the mask in grey, what takes clicks, and the marks."""
    length, at = len(tokens), {"row": row, "col": column}
    colours = "coloraxis" if column == 1 else f"coloraxis{column}"
    what = ("score", "weight", "norm")[column - 1]
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    grey = go.Heatmap(
        z=np.where(hidden, 1.0, np.nan), colorscale=[[0, MASKED], [1, MASKED]], showscale=False, hoverinfo="skip"
    )
    figure.add_trace(grey, **at)
    clickable = length <= MOST_CLICKABLE
    says: dict = (
        {"hoverinfo": "skip"}
        if clickable
        else hover(tokens, f"{{}} \u2192 {{}}<br>{what} %{{{{z:.3f}}}}<extra></extra>")
    )
    cells = go.Heatmap(
        z=np.where(hidden, np.nan, values),
        coloraxis=colours,
        hoverongaps=False,
        xgap=int(length <= 32),
        ygap=int(length <= 32),
        **says,
    )
    figure.add_trace(cells, **at)
    if clickable:
        below = [(t, s) for t in range(length) for s in range(t + 1)]
        figure.add_trace(
            squares(
                [s for _, s in below],
                [t for t, _ in below],
                [[t, s, f"{names[t]} \u2192 {names[s]}", float(values[t, s])] for t, s in below],
                max(4.0, 200 / length),
                f"%{{customdata[2]}}<br>{what} %{{customdata[3]:.3f}}<extra></extra>",
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
    rising, falling = LIGHT.diverging[5], LIGHT.diverging[1]
    titles = [escape(shorten(name, 22)) for name, _, _ in panels] if len(panels) > 1 else None
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.24)
    most = max(1e-9, *(float(np.abs(values).max(initial=0.0)) for _, _, values in panels))
    for column, (_, tokens, values) in enumerate(panels, start=1):
        bars = go.Bar(
            x=values,
            y=list(range(len(tokens))),
            orientation="h",
            marker={"color": [rising if value >= 0 else falling for value in values]},
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
