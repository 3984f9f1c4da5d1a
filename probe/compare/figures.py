"""Two models: KL a token and next tokens on one text, a corpus, the change of the weights, the way between them."""

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import chance, format_interval
from probe.plotting.curves import HOVER_WIDTH, TITLE_WIDTH
from probe.plotting.intervals import band
from probe.plotting.marks import cells
from probe.plotting.panels import EXACT, IDEAL, hover_texts
from probe.plotting.theme import (
    LIGHT,
    METHODS,
    colour_axis,
    escape,
    escape_lines,
    new_figure,
    shorten,
    template,
    token_axis,
)
from probe.terms import DIFFERENCE, RATES, Term


def kl_bars(
    kl: np.ndarray,
    tokens: Sequence[str],
    *,
    start: int | None = None,
    chosen: int | None = None,
    colour: str = METHODS["dpo"],
) -> go.Figure:
    """KL of the two next-token distributions at every position of a text.

    Args:
        kl: [T] KL(aligned || base) in nats of the distributions that predict token t (NaN for the first token).
        tokens: [T] the text.
        start: first token of the continuation, marked by a line.
        chosen: position to emphasise.
        colour: of the aligned model's method.
    """
    figure = new_figure(showlegend=False, bargap=0.15, clickmode="event+select", margin={"t": 12})
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    strong = [1.0 if chosen is None or index == chosen else 0.45 for index in range(len(tokens))]
    figure.add_trace(
        go.Bar(
            x=list(range(len(tokens))),
            y=kl,
            customdata=names,
            marker={"color": colour, "opacity": strong},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.45}},
            hovertemplate="%{customdata}<br>KL %{y:.3f} nats<extra></extra>",
        )
    )
    if start is not None and 0 < start < len(tokens):
        figure.add_vline(x=start - 0.5, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
        late = start > 0.7 * len(tokens)  # no room to the right of the line
        text, anchor, x = ("prompt", "right", start - 0.55) if late else ("continuation", "left", start - 0.45)
        figure.add_annotation(x=x, y=1, yref="paper", xanchor=anchor, yanchor="top", text=text)
    figure.update_xaxes(tickangle=-45, range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    figure.update_yaxes(title_text="KL(aligned \u2225 base), nats", rangemode="tozero")
    return figure


def next_tokens(
    favourites: tuple[tuple[Sequence[str], np.ndarray], tuple[Sequence[str], np.ndarray]],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
) -> go.Figure:
    """The favourites of both models for one token, side by side on one scale.

    Args:
        favourites: (k tokens, [k] their probabilities, best first) of base and aligned.
        names: how the models are called.
        colours: of their methods.
    """
    titles = [escape(shorten(name, 22)) for name in names]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.2)
    for column, ((tokens, probabilities), colour) in enumerate(zip(favourites, colours, strict=True), start=1):
        bars = go.Bar(
            x=probabilities,
            y=list(range(len(tokens))),
            orientation="h",
            marker={"color": colour},
            text=[chance(float(value)) for value in probabilities],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
        figure.update_yaxes(autorange="reversed", **token_axis(list(tokens)), row=1, col=column)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="probability", range=[0, 1.15], tickvals=[0, 0.5, 1], tickformat=".0%")
    figure.update_layout(template=template(LIGHT), showlegend=False, bargap=0.25, margin={"t": 32})
    return figure


def scalar_readings(
    readings: tuple[np.ndarray, np.ndarray],
    difference: np.ndarray,
    tokens: Sequence[str],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
    unit: str,
    start: int | None = None,
    chosen: int | None = None,
) -> go.Figure:
    """What two models of one number read after each token, and below it how differently each token changes that.

    Args:
        readings: [T] of base and aligned.
        difference: [T] change at a token of the aligned model's reading minus that of the base's; NaN at token 0.
        tokens: [T] the text.
        names: how the models are called.
        colours: of their methods.
        unit: what the number is, such as `reward`.
        start: first token of the completion, marked by a line.
        chosen: position to emphasise.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.6, 0.4])
    at, labels = list(range(len(tokens))), [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    for name, values, colour, dash in zip(names, readings, colours, ("solid", "dash"), strict=True):
        curve = go.Scatter(
            x=at,
            y=values,
            mode="lines+markers",
            name=escape(shorten(name, 24)),
            line={"color": colour, "width": 2, "dash": "solid" if colours[0] != colours[1] else dash},
            marker={"size": 5},
            customdata=labels,
            hovertemplate=f"%{{customdata}}<br>{unit} %{{y:+.3f}}<extra></extra>",
        )
        figure.add_trace(curve, row=1, col=1)
    bars = go.Bar(
        x=at,
        y=difference,
        customdata=labels,
        showlegend=False,
        marker={"color": colours[1], "opacity": [1.0 if chosen in (None, index) else 0.45 for index in at]},
        hovertemplate="%{customdata}<br>difference of the change %{y:+.3f}<extra></extra>",
    )
    figure.add_trace(bars, row=2, col=1)
    if start is not None and 0 < start < len(tokens):
        figure.add_vline(x=start - 0.5, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
    figure.update_layout(
        template=template(LIGHT), clickmode="event+select", bargap=0.15, legend={"y": 1.14}, margin={"t": 36, "l": 70}
    )
    figure.update_xaxes(range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    figure.update_xaxes(tickangle=-45, row=2, col=1)
    figure.update_yaxes(title_text=f"{unit} read here", row=1, col=1)
    figure.update_yaxes(title_text="change,<br>aligned \u2212 base", row=2, col=1)
    return figure


KINDS = ("q", "k", "v", "qkv", "o", "attention", "mlp", "norm", "embed", "unembed", "other")
"""Columns of the map of weights, as far as a model has them."""


def weight_map(matrices: pd.DataFrame) -> go.Figure:
    """Relative change of the weights of each kind in each block: the norm of all their changes by that of all of them.

    Args:
        matrices: `probe.compare.weights.WeightChange.matrices`; what is outside of the blocks has the top row.
    """
    rows = matrices.assign(block=matrices["block"].fillna(-1).astype(int))
    squares = (rows[["norm", "base_norm"]] ** 2).groupby([rows["block"], rows["kind"]]).sum()
    ratio = (squares["norm"] / squares["base_norm"].where(squares["base_norm"] > 0)) ** 0.5
    table = ratio.unstack("kind").sort_index()
    table = table[[kind for kind in KINDS if kind in table]]
    values = table.to_numpy(dtype=float)
    words = [["" if np.isnan(value) else f"{100 * value:.2g} %" for value in row] for row in values]
    names = ["outside blocks" if block < 0 else f"block {block}" for block in table.index]
    figure = new_figure(height=max(220, 120 + 28 * len(table)), margin={"l": 110, "t": 40})
    heat = cells(values, words, legible=len(table) <= 40)
    heat.update(x=list(table.columns), y=names, hoverinfo=None)
    heat.update(hovertemplate="%{y}, %{x}: %{text}<extra></extra>")
    figure.add_trace(heat)
    top = float(np.nanmax(values, initial=0.0)) or 1.0
    axis = colour_axis("relative change", low=0.0, high=top)
    axis["colorbar"] |= {"tickformat": ".2~%"}
    figure.update_layout(coloraxis=axis)
    figure.update_xaxes(title_text="kind of parameter", side="bottom")
    figure.update_yaxes(autorange="reversed")
    return figure


def head_change_map(heads: pd.DataFrame, part: str) -> go.Figure:
    """Relative change of one part of every head, blocks against heads.

    Args:
        heads: `probe.compare.weights.WeightChange.heads`.
        part: q, k, v, o, qk or ov.
    """
    table = heads.pivot(index="block", columns="head", values=f"{part}_relative")
    values = table.to_numpy(dtype=float)
    words = [["" if np.isnan(value) else f"{100 * value:.2g} %" for value in row] for row in values]
    figure = new_figure(height=max(220, 120 + 28 * len(table)), margin={"l": 70, "t": 40})
    heat = cells(values, words, legible=len(table) <= 16 and len(table.columns) <= 8)
    heat.update(x=[f"H{head}" for head in table.columns], y=[f"block {block}" for block in table.index], hoverinfo=None)
    heat.update(hovertemplate="%{y}, %{x}: %{text}<extra></extra>")
    figure.add_trace(heat)
    axis = colour_axis("relative change", low=0.0, high=float(np.nanmax(values, initial=0.0)) or 1.0)
    axis["colorbar"] |= {"tickformat": ".2~%"}
    figure.update_layout(coloraxis=axis)
    figure.update_xaxes(title_text="head", side="bottom")
    return figure.update_yaxes(autorange="reversed")


def path_curves(table: pd.DataFrame, terms: Mapping[str, Term], names: tuple[str, str], columns: int = 3) -> go.Figure:
    """Small multiples: a metric against alpha with its interval, the chord of the two models, and the two marked.

    Args:
        table: `probe.compare.path.WeightPath.table`.
        terms: each metric that is drawn, in words.
        names: of the base and the aligned model.
        columns: panels side by side, at most.
    """
    columns = min(columns, len(terms))
    rows = ceil(len(terms) / columns)
    titles = [escape_lines(each.label, TITLE_WIDTH) for each in terms.values()]
    spacing = {"horizontal_spacing": 0.3 / columns**1.5, "vertical_spacing": min(0.4 / rows, 0.3)}
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=titles, **spacing)
    colours = METHODS["pretrain"], METHODS["dpo"]
    for index, (metric, about) in enumerate(terms.items()):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        points = table[(table["metric"] == metric) & table["value"].notna()].sort_values("alpha")
        figure.layout.annotations[index].hovertext = escape_lines(about.explain(metric), HOVER_WIDTH)
        low, high = (points[end].fillna(points["value"]) for end in ("ci_low", "ci_high"))
        at = [f"alpha {alpha:g}" for alpha in points["alpha"]]
        hover = hover_texts(points.assign(alpha=at), about.title, "alpha", unit=about.unit)
        figure.add_trace(band(points["alpha"], low, high, LIGHT.muted), **place)
        chord = go.Scatter(x=points["alpha"], y=points["chord"], mode="lines", name="straight line between the models")
        figure.add_trace(chord.update(line=IDEAL, hoverinfo="skip", showlegend=index == 0), **place)
        line = go.Scatter(x=points["alpha"], y=points["value"], mode="lines+markers", customdata=hover)
        line.update(line={"color": EXACT, "width": 2}, marker={"size": 5}, showlegend=False)
        figure.add_trace(line.update(hovertemplate="%{customdata}<extra></extra>"), **place)
        for end, (name, colour) in enumerate(zip(names, colours, strict=True)):
            model = points[points["alpha"] == end]
            mark = go.Scatter(x=model["alpha"], y=model["value"], mode="markers", name=escape(f"{name} (alpha {end})"))
            mark.update(marker={"size": 11, "color": colour, "symbol": ("circle", "diamond")[end]})
            figure.add_trace(mark.update(hoverinfo="skip", showlegend=index == 0), **place)
        ticks = {"tickformat": ".0%"} if about.unit in (*RATES, DIFFERENCE) else {}
        figure.update_yaxes(**ticks, **place)
        figure.update_xaxes(title_text="alpha" if index + columns >= len(terms) else "", **place)
    lines = max((title.count("<br>") + 1 for title in titles[:columns]), default=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(
        template=template(LIGHT),
        height=120 + 220 * rows,
        margin={"t": 40 + 16 * lines},
        legend={"yref": "container", "y": 1, "yanchor": "top"},
    )
    return figure


def corpus_panels(kinds: pd.DataFrame, tokens: pd.DataFrame, *, most: int = 30) -> go.Figure:
    """KL by kind of text, and by how much the mean probability of tokens changed, with their 95 % intervals.

    Args:
        kinds: `kind`, `kl`, `kl_low`, `kl_high`, the most changed first.
        tokens: `token`, `direction` (promoted, suppressed), `value`, `ci_low`, `ci_high`.
        most: kinds that are drawn.
    """
    titles = ["KL(aligned \u2225 base) by kind", "tokens promoted and suppressed"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.22)
    kinds = kinds.head(most)
    rows = kinds[["kl", "kl_low", "kl_high"]].to_numpy(dtype=float)
    figure.add_trace(_points(rows, list(kinds["kind"]), METHODS["dpo"], " nats"), row=1, col=1)
    figure.update_yaxes(row=1, col=1, **_names(list(kinds["kind"])))
    figure.update_xaxes(title_text="nats a token", rangemode="tozero", row=1, col=1)
    tokens = tokens.sort_values("value", ascending=False)
    rows = 100 * tokens[["value", "ci_low", "ci_high"]].to_numpy(dtype=float)
    figure.add_trace(_points(rows, list(tokens["token"]), METHODS["dpo"], " pp"), row=1, col=2)
    figure.update_yaxes(row=1, col=2, **_names(list(tokens["token"])))
    figure.update_xaxes(title_text="change of the mean probability, percentage points", zeroline=True, row=1, col=2)
    figure.update_annotations(font_size=13)
    height = 110 + 20 * max(len(kinds), len(tokens), 8)
    figure.update_layout(template=template(LIGHT), showlegend=False, height=height, margin={"t": 36})
    return figure


def _points(rows: np.ndarray, names: Sequence[str], colour: str, unit: str) -> go.Scatter:
    """Values with the ends of their intervals [n 3], one below the other."""
    value, low, high = rows.reshape(-1, 3).T
    hover = [f"{escape(name)}: {format_interval(*row)}{unit}" for name, row in zip(names, rows.tolist(), strict=True)]
    return go.Scatter(
        x=value,
        y=list(range(len(value))),
        mode="markers",
        marker={"color": colour, "size": 7},
        error_x={"symmetric": False, "array": high - value, "arrayminus": value - low, "thickness": 1.6, "width": 0},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _names(names: Sequence[str]) -> dict:
    """An axis that names every row, from the top."""
    return {**token_axis(list(names), length=20, most=len(names)), "range": [len(names) - 0.5, -0.5]}
