"""Two models: KL a token and next tokens on one text, a corpus, the change of the weights, the way between them."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import chance, format_interval, in_percent, rate
from probe.plotting.curves import HOVER_WIDTH, TITLE_WIDTH
from probe.plotting.intervals import band
from probe.plotting.marks import cells
from probe.plotting.series import (
    EXACT,
    IDEAL,
    hover_texts,
)
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


def next_tokens(
    favourites: tuple[tuple[Sequence[str], np.ndarray], tuple[Sequence[str], np.ndarray]],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
) -> go.Figure:
    """Draw the favourites of both models for one token, side by side on one scale.

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
    """Draw what two scalar models read after each token, and below it how differently each token changes that.

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
    words = [["" if np.isnan(value) else in_percent(value) for value in row] for row in values]
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
    words = [["" if np.isnan(value) else in_percent(value) for value in row] for row in values]
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


WIDEST = 4
"""Times the largest mean that an axis of means reaches, at most: longer intervals leave the figure at its edge."""


def corpus_panels(kinds: pd.DataFrame, tokens: pd.DataFrame, *, most: int = 30) -> go.Figure:
    """KL by kind of text, and by how much the mean probability of tokens changed, with their 95 % intervals.

    Args:
        kinds: `kind`, `kl`, `kl_low`, `kl_high`, the most changed first.
        tokens: `token`, `direction` (promoted, suppressed), `value`, `ci_low`, `ci_high`.
        most: kinds that are drawn. Intervals beyond 4 times the largest mean end at the edge of the figure.
    """
    titles = ["KL(aligned \u2225 base) by kind", "tokens promoted and suppressed"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.22)
    kinds = kinds.head(most)
    rows = kinds[["kl", "kl_low", "kl_high"]].to_numpy(dtype=float)
    figure.add_trace(_points(rows, list(kinds["kind"]), METHODS["dpo"], " nats"), row=1, col=1)
    figure.update_yaxes(row=1, col=1, **_names(list(kinds["kind"])))
    ends = rows[np.isfinite(rows)]
    if ends.max(initial=0) > WIDEST * rows[:, 0].max(initial=0) > 0:  # one kind of few texts would flatten the others
        largest = WIDEST * rows[:, 0].max()
        figure.update_xaxes(range=[-0.02 * largest, largest], row=1, col=1)
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
    """Return an axis that names every row, from the top."""
    return {**token_axis(list(names), length=20, most=len(names)), "range": [len(names) - 0.5, -0.5]}


NULLS = {"matched parts": ("line-ns-open", "#B07D2B"), "random directions": ("x-thin-open", LIGHT.muted)}
"""Mark and colour of the controls of a transplant."""


def transplant_points(
    parts: pd.DataFrame, controls: pd.DataFrame, change: float, unit: str, titles: Mapping[str, str], *, most: int = 32
) -> go.Figure:
    """Effect of each part with its interval, and its controls behind it; the axis names the change of all parts.

    Args:
        parts: `probe.compare.transplant.Transplants.parts`.
        controls: one row a control: `part`, `effect`.
        change: of the behaviour from base to aligned.
        unit: of its values.
        titles: of the panels, by kind of part.
        most: parts of a kind that are drawn, those of the largest effects, in the order of the model.
    """
    kinds = list(dict.fromkeys(parts["kind"]))
    shown = []
    for kind in kinds:
        rows = parts[parts["kind"] == kind]
        shown.append(rows.loc[rows["effect"].abs().nlargest(most).index.sort_values()])
    scale, suffix = (100, " pp") if unit in RATES else (1, f" {unit}" if unit else "")
    columns = max(len(kinds), 1)
    figure = make_subplots(
        rows=1,
        cols=columns,
        subplot_titles=[titles[each] for each in kinds],
        horizontal_spacing=min(0.16, 0.5 / columns),
    )
    for column, rows in enumerate(shown, start=1):
        names = list(rows["part"])
        at = {name: index for index, name in enumerate(names)}
        for null, (mark, colour) in NULLS.items():
            own = controls[(controls["null"] == null) & controls["part"].isin(names)]
            x, y = scale * own["effect"], own["part"].map(at)
            ticks = go.Scatter(x=x, y=y, mode="markers", name=null, showlegend=column == 1, legendgroup=null)
            ticks.update(marker={"color": colour, "size": 8, "symbol": mark, "opacity": 0.65})
            figure.add_trace(
                ticks.update(hovertemplate=f"{null}: %{{x:.3g}}{suffix}<extra></extra>"), row=1, col=column
            )
        values = scale * rows[["effect", "effect_low", "effect_high"]].to_numpy(dtype=float)
        points = _points(values, names, METHODS["dpo"], suffix)
        points.update(name="part of the aligned model", showlegend=column == 1)
        figure.add_trace(points, row=1, col=column)
        figure.update_yaxes(row=1, col=column, **_names(names))
        figure.add_vline(x=0, line={"color": LIGHT.muted, "width": 1}, row=1, col=column)
    words = "pp" if unit in RATES else unit
    whole = f"{scale * change:+.3g}".replace("-", "\u2212")
    axis = f"change, {words} (all parts: {whole})" if words else f"change (all parts: {whole})"
    figure.update_xaxes(zeroline=False, title_text=axis)
    figure.update_annotations(font_size=13)
    height = 116 + 15 * max([len(rows) for rows in shown] + [12])
    figure.update_layout(
        template=template(LIGHT),
        height=height,
        margin={"t": 64},
        legend={"yref": "container", "y": 1, "yanchor": "top", "orientation": "h"},
    )
    return figure


def first_token_maps(layers: pd.DataFrame, tokens: pd.DataFrame, layer: int) -> go.Figure:
    """Size of the mean difference at the first tokens after each block, and what the lens reads in it after one block.

    Args:
        layers: `probe.compare.first_tokens.FirstTokens.layers`.
        tokens: rows of its `tokens` after one block.
        layer: that block, which is marked; -1 is the embedding.
    """
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.36, 0.64],
        horizontal_spacing=0.12,
        subplot_titles=["size, % of the residual", f"its lens after {_after(layer)} (* beyond random signs)"],
    )
    table = layers.pivot(index="layer", columns="position", values="relative")
    values = 100 * table.to_numpy(dtype=float)
    words = [[f"{value:.2g}" for value in row] for row in values]
    names = [_after(each) for each in table.index]
    sizes = cells(values, words, legible=len(table) <= 40)
    sizes.update(x=[str(each) for each in table.columns], y=names, hoverinfo=None)
    sizes.update(hovertemplate="%{y}, token %{x}: %{text} % of the residual<extra></extra>")
    figure.add_trace(sizes, row=1, col=1)
    rows = tokens.assign(row=tokens["rank"].where(tokens["direction"] == "promoted", -tokens["rank"]))
    order = [
        *sorted(row for row in rows["row"].unique() if row > 0),
        *sorted((row for row in rows["row"].unique() if row < 0), reverse=True),
    ]
    grid = rows.pivot(index="row", columns="position", values="score").reindex(order)
    scores = grid.to_numpy(dtype=float)
    own = {(row.row, row.position): row for row in rows.itertuples()}
    shown, hover = [], []
    for row in order:
        found = [own.get((row, position)) for position in grid.columns]
        shown.append(
            [
                "" if each is None else escape(shorten(str(each.token), 12)) + (" *" if each.beyond_null else "")
                for each in found
            ]
        )
        hover.append([_lens_hover(each) for each in found])
    lens = cells(scores, shown, legible=True, axis="coloraxis2")
    lens.update(x=[str(each) for each in grid.columns], y=[f"{'+' if row > 0 else MINUS}{abs(row)}" for row in order])
    lens.update(customdata=hover, hoverinfo=None, hovertemplate="%{customdata}<extra></extra>")
    figure.add_trace(lens, row=1, col=2)
    top = float(np.nanmax(np.abs(scores), initial=0.0)) or 1.0
    left = colour_axis("% of the<br>residual", low=0.0, high=float(values.max(initial=0.0)) or 1.0) | {
        "showscale": False
    }
    right = colour_axis("score, nats", low=-top, high=top, diverging=True)
    figure.update_layout(coloraxis=left, coloraxis2=right, template=template(LIGHT), margin={"t": 28, "l": 80})
    figure.update_layout(height=max(300, 90 + 22 * max(len(table), len(order))))
    figure.update_xaxes(title_text="position of the token", type="category")
    figure.update_yaxes(type="category", autorange=True, row=1, col=1)
    figure.update_yaxes(type="category", autorange="reversed", title_text="rank", row=1, col=2)
    figure.update_annotations(font_size=13)
    return figure


MINUS = "\u2212"


def _after(layer: int) -> str:
    return "embedding" if layer < 0 else f"block {layer}"


def _lens_hover(row: Any) -> str:
    if row is None:
        return ""
    where = "beyond" if row.beyond_null else "within"
    return (
        f"{escape(row.token)} ({row.direction}): {row.score:+.2f} nats, {where} the {row.null:.2f} of random signs"
        f"<br>among the first in both halves of the texts in {rate(row.same_rank)} of the splits"
    )


def steering_curve(doses: pd.DataFrame, unit: str) -> go.Figure:
    """Draw the change of a behaviour against alpha with its interval, and the range of random directions.

    Args:
        doses: `probe.compare.first_tokens.Steering.doses`.
        unit: of the behaviour's values.
    """
    scale = 100 if unit in RATES else 1
    zero = pd.DataFrame([dict.fromkeys(doses.columns, 0.0)])
    rows = pd.concat([doses, zero]).sort_values("alpha")
    columns = {name: scale * rows[name] for name in rows if str(name).startswith(("effect", "random_"))}
    figure = new_figure(height=340, margin={"t": 56})
    if doses["random"].any():
        figure.add_trace(band(rows["alpha"], columns["random_low"], columns["random_high"], LIGHT.muted))
        null = go.Scatter(
            x=rows["alpha"], y=columns["random_mean"], name="random directions (mean, range)", mode="lines"
        )
        figure.add_trace(null.update(line={"color": LIGHT.muted, "dash": "dot"}, hoverinfo="skip"))
    figure.add_trace(
        band(
            rows["alpha"],
            columns["effect_low"].fillna(columns["effect"]),
            columns["effect_high"].fillna(columns["effect"]),
            METHODS["dpo"],
        )
    )
    suffix = "pp" if unit in RATES else unit
    hover = [
        f"alpha {alpha:g}: {format_interval(*ends)} {suffix}"
        for alpha, *ends in zip(
            rows["alpha"], *(columns[name] for name in ("effect", "effect_low", "effect_high")), strict=True
        )
    ]
    line = go.Scatter(x=rows["alpha"], y=columns["effect"], name="this difference (95 %)", mode="lines+markers")
    line.update(line={"color": METHODS["dpo"], "width": 2}, customdata=hover)
    figure.add_trace(line.update(hovertemplate="%{customdata}<extra></extra>"))
    figure.update_xaxes(title_text="alpha (1 is as long as a residual)", zeroline=False)
    figure.update_yaxes(title_text=f"change, {suffix}" if suffix else "change")
    return figure
