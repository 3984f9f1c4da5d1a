"""Figures of two models: KL and next tokens on a text, a corpus, changes of the weights, and the path between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.interventions.figures import ALPHA
from probe.numbers import chance, format_interval, in_percent, rate, share_text, signed
from probe.plotting.curves import small_multiples
from probe.plotting.intervals import band, whiskers
from probe.plotting.marks import cells, text_bars, token_bars
from probe.plotting.panels import Panels
from probe.plotting.series import EXACT, IDEAL, exact, hover_texts
from probe.plotting.theme import (
    DOTTED,
    LIGHT,
    METHODS,
    THIN,
    colour_axis,
    escape,
    numbered,
    on_hover,
    row_axis,
    shorten,
    signed_axis,
    token_axis,
)
from probe.terms import DIFFERENCE, RATES, Term


def next_tokens(
    favourites: tuple[tuple[Sequence[str], np.ndarray], tuple[Sequence[str], np.ndarray]],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
) -> go.Figure:
    """Draw the likeliest next tokens of both models at one position, side by side on one scale.

    Args:
        favourites: ([k] tokens, [k] probabilities, likeliest first) of base and aligned.
        names: names of the two models.
        colours: colours of the models' methods.
    """
    titles = [escape(shorten(name, 22)) for name in names]
    panels = Panels(titles, spacing=0.2)
    for column, ((tokens, probabilities), colour) in enumerate(zip(favourites, colours, strict=True), start=1):
        texts = {"text": [chance(float(value)) for value in probabilities], "textposition": "outside"}
        look = {"marker": {"color": colour}, "cliponaxis": False, "hovertemplate": "%{text}<extra></extra>"}
        token_bars(panels, column, list(tokens), probabilities, **texts, **look)
    panels.axis("x", title="probability", range=[0, 1.15], tickvals=[0, 0.5, 1], tickformat=".0%")
    return panels.figure(showlegend=False, bargap=0.25)


def carrier_bars(parts: pd.DataFrame, measures: Sequence[str], titles: Sequence[str], *, colour: str) -> go.Figure:
    """Draw measures of the parts of a model side by side, each on a scale of its own, with the largest bar full.

    Args:
        parts: rows of `probe.compare.carriers.Carriers.parts`, the first one at the top.
        measures: columns to draw.
        titles: title of each panel with its unit.
        colour: colour of the aligned model's method.
    """
    panels = Panels([escape(title) for title in titles], shared_y=True, spacing=0.06)
    for column, measure in enumerate(measures, start=1):
        values = parts[measure].to_numpy(dtype=float)
        size = np.abs(values)
        largest = size == np.nanmax(size, initial=0.0)
        in_nats = measure == "direct"
        words = ["" if np.isnan(each) else signed(each) if in_nats else share_text(each) for each in values]
        look = {"marker": {"color": colour, "opacity": np.where(largest, 1.0, 0.45).tolist()}, "cliponaxis": False}
        hover = {"hovertemplate": "%{text}<extra></extra>", "text": words, "textposition": "outside"}
        token_bars(panels, column, list(parts["part"]), np.nan_to_num(values), **look, **hover)
        room = float(np.nanmax(size, initial=0.0)) or 1.0
        low = min(0.0, float(np.nanmin(values, initial=0.0)))
        ends = [low - 0.3 * room * (low < 0), 1.3 * room]
        panels.axis("x", column, range=ends, **({} if in_nats else {"tickformat": ".0%"}))
    return panels.figure(showlegend=False, bargap=0.25, height=120 + 26 * len(parts), margin={"l": 70})


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
    """Draw the readings of two scalar models after each token, and below them the difference in each token's effect.

    Args:
        readings: ([T], [T]) readings of base and aligned.
        difference: [T] change of the aligned model's reading at a token minus that of the base's; NaN at token 0.
        tokens: [T] the text.
        names: names of the two models.
        colours: colours of the models' methods.
        unit: name of the quantity, such as `reward`.
        start: index of the completion's first token, marked by a line.
        chosen: index of the token to emphasise.
    """
    panels = Panels(["", ""], columns=1, gap=0.09, heights=[0.6, 0.4], shared_x=True)
    for name, values, colour, dash in zip(names, readings, colours, ("solid", "dash"), strict=True):
        curve = go.Scatter(
            x=list(range(len(tokens))),
            y=values,
            mode="lines+markers",
            name=escape(shorten(name, 24)),
            line={"color": colour, "width": 2, "dash": "solid" if colours[0] != colours[1] else dash},
            marker={"size": 5},
            customdata=numbered(tokens),
            hovertemplate=f"%{{customdata}}<br>{unit} %{{y:+.3f}}<extra></extra>",
        )
        panels.add(1, curve)
    hover = "difference of the change %{y:+.3f}"
    panels.add(2, text_bars(tokens, difference, colours[1], hover, chosen, showlegend=False))
    if start is not None and 0 < start < len(tokens):
        panels.mark(None, DOTTED, x=start - 0.5)
    panels.axis("x", range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    panels.lowest(tickangle=-45)
    panels.axis("y", 1, title=f"{unit} read here")
    panels.axis("y", 2, title="change,<br>aligned \u2212 base")
    return panels.figure(clickmode="event+select", bargap=0.15, margin={"l": 70})


KINDS = ("q", "k", "v", "qkv", "o", "attention", "mlp", "norm", "embed", "unembed", "other")
"""Kinds of parameters that are columns of the map of weights, if the model has them."""


def weight_map(matrices: pd.DataFrame) -> go.Figure:
    """Draw the relative change of each kind of weight in each block: norm of the change over norm of the base.

    Args:
        matrices: `probe.compare.weights.WeightChange.matrices`; weights outside the blocks are in the top row.
    """
    rows = matrices.assign(block=matrices["block"].fillna(-1).astype(int))
    squares = (rows[["norm", "base_norm"]] ** 2).groupby([rows["block"], rows["kind"]]).sum()
    ratio = (squares["norm"] / squares["base_norm"].where(squares["base_norm"] > 0)) ** 0.5
    table = ratio.unstack("kind").sort_index()
    table = table[[kind for kind in KINDS if kind in table]]
    table.index = ["outside blocks" if block < 0 else f"block {block}" for block in table.index]
    return _change_map(table, "kind of parameter", legible=len(table) <= 40)


def head_change_map(heads: pd.DataFrame, part: str) -> go.Figure:
    """Draw the relative change of one part of every head, with blocks as rows and heads as columns.

    Args:
        heads: `probe.compare.weights.WeightChange.heads`.
        part: name of the part: q, k, v, o, qk or ov.
    """
    table = heads.pivot(index="block", columns="head", values=f"{part}_relative")
    table = table.rename(index=lambda block: f"block {block}", columns=lambda head: f"H{head}")
    return _change_map(table, "head", legible=len(table) <= 16 and len(table.columns) <= 8)


def _change_map(table: pd.DataFrame, title: str, legible: bool) -> go.Figure:
    """Draw relative changes, with blocks as rows and the table's columns as columns."""
    values = table.to_numpy(dtype=float)
    words = [["" if np.isnan(value) else in_percent(value) for value in row] for row in values]
    heat = cells(values, words, legible=legible).update(x=list(table.columns), y=list(table.index), hoverinfo=None)
    axis = colour_axis("relative change", low=0.0, high=float(np.nanmax(values, initial=0.0)) or 1.0, tickformat=".2~%")
    panels = Panels()
    panels.add(1, heat.update(hovertemplate="%{y}, %{x}: %{text}<extra></extra>"))
    panels.axis("x", title=title, side="bottom")
    panels.axis("y", autorange="reversed")
    return panels.figure(height=max(220, 120 + 28 * len(table)), margin={"l": 110, "t": 40}, coloraxis=axis)


def path_curves(table: pd.DataFrame, terms: Mapping[str, Term], names: tuple[str, str]) -> go.Figure:
    """Draw each metric against alpha with its interval, the straight line between both models, and the two models.

    Args:
        table: `probe.compare.path.WeightPath.table`.
        terms: term of each metric to draw.
        names: names of the base and the aligned model.
    """
    panels = small_multiples(list(terms.items()), 3)
    colours = METHODS["pretrain"], METHODS["dpo"]
    for at, (metric, about) in enumerate(terms.items(), start=1):
        points = table[(table["metric"] == metric) & table["value"].notna()].sort_values("alpha")
        low, high = (points[end].fillna(points["value"]) for end in ("ci_low", "ci_high"))
        places = [f"alpha {alpha:g}" for alpha in points["alpha"]]
        hover = hover_texts(points.assign(alpha=places), about.title, "alpha", unit=about.unit)
        chord = exact(points["alpha"], points["chord"], "straight line between the models", colour=IDEAL["color"])
        line = go.Scatter(x=points["alpha"], y=points["value"], mode="lines+markers", showlegend=False)
        line.update(line={"color": EXACT, "width": 2}, marker={"size": 5}, **on_hover(hover))
        panels.add(at, band(points["alpha"], low, high, LIGHT.muted), chord, line)
        for end, (name, colour) in enumerate(zip(names, colours, strict=True)):
            model = points[points["alpha"] == end]
            mark = go.Scatter(x=model["alpha"], y=model["value"], mode="markers", name=escape(f"{name} (alpha {end})"))
            mark.update(marker={"size": 11, "color": colour, "symbol": ("circle", "diamond")[end]}, hoverinfo="skip")
            panels.add(at, mark.update(legendgroup=f"alpha {end}"))
        if about.unit in (*RATES, DIFFERENCE):
            panels.axis("y", at, tickformat=".0%")
    panels.lowest(title="alpha")
    return panels.figure(height=120 + 220 * -(-len(terms) // 3))


WIDEST = 4
"""Maximum length of the axis of means, in multiples of the largest mean; longer intervals are cut off."""
MOST_KINDS, MOST_PARTS = 30, 32
"""Maximum numbers of kinds of text and of parts of one kind in a figure; parts with the largest effects are drawn."""


def corpus_panels(kinds: pd.DataFrame, tokens: pd.DataFrame) -> go.Figure:
    """Draw KL by kind of text and the changes of tokens' mean probabilities, with 95 % intervals.

    Args:
        kinds: `kind`, `kl`, `kl_low`, `kl_high`, the most changed first.
        tokens: `token`, `direction` (promoted, suppressed), `value`, `ci_low`, `ci_high`.
    """
    panels = Panels(["KL(aligned \u2225 base) by kind", "tokens promoted and suppressed"], spacing=0.22)
    kinds = kinds.head(MOST_KINDS)
    rows = kinds[["kl", "kl_low", "kl_high"]].to_numpy(dtype=float)
    _add_points(panels, 1, rows, list(kinds["kind"]), " nats")
    ends = rows[np.isfinite(rows)]
    if ends.max(initial=0) > WIDEST * rows[:, 0].max(initial=0) > 0:  # a kind with few texts would flatten the others
        largest = WIDEST * rows[:, 0].max()
        panels.axis("x", 1, range=[-0.02 * largest, largest])
    panels.axis("x", 1, title="nats a token", rangemode="tozero")
    tokens = tokens.sort_values("value", ascending=False)
    rows = 100 * tokens[["value", "ci_low", "ci_high"]].to_numpy(dtype=float)
    _add_points(panels, 2, rows, list(tokens["token"]), " pp")
    panels.axis("x", 2, title="change of the mean probability, percentage points", zeroline=True)
    return panels.figure(showlegend=False, height=110 + 20 * max(len(kinds), len(tokens), 8))


def _add_points(panels: Panels, panel: int, rows: np.ndarray, names: Sequence[str], unit: str, **look: str) -> None:
    """Draw values with the ends of their intervals [n 3] from top to bottom, each with its name."""
    value, low, high = rows.reshape(-1, 3).T
    hover = [f"{escape(name)}: {format_interval(*row)}{unit}" for name, row in zip(names, rows.tolist(), strict=True)]
    marks = go.Scatter(x=value, y=list(range(len(value))), mode="markers", error_x=whiskers(value, low, high), **look)
    panels.add(panel, marks.update(marker={"color": METHODS["dpo"], "size": 7}, **on_hover(hover)))
    panels.axis("y", panel, **row_axis([escape(shorten(name, 20)) for name in names]), ticks="")


NULLS = {"matched parts": ("line-ns-open", "#B07D2B"), "random directions": ("x-thin-open", LIGHT.muted)}
"""Marker and colour of each control of a transplant."""


def transplant_points(
    parts: pd.DataFrame, controls: pd.DataFrame, change: float, unit: str, titles: Mapping[str, str]
) -> go.Figure:
    """Draw the effect of each part with its interval and controls; the axis title states the effect of all parts.

    Args:
        parts: `probe.compare.transplant.Transplants.parts`.
        controls: one row per control: `null`, `part`, `effect`.
        change: change of the behaviour from base to aligned.
        unit: unit of the behaviour.
        titles: title of the panel of each kind of part.
    """
    kinds = list(dict.fromkeys(parts["kind"]))
    shown = []
    for kind in kinds:
        rows = parts[parts["kind"] == kind]
        shown.append(rows.loc[rows["effect"].abs().nlargest(MOST_PARTS).index.sort_values()])
    scale, suffix = (100, " pp") if unit in RATES else (1, f" {unit}" if unit else "")
    columns = max(len(kinds), 1)
    panels = Panels([titles[each] for each in kinds] or [""], spacing=min(0.16, 0.5 / columns))
    for column, rows in enumerate(shown, start=1):
        names = list(rows["part"])
        at = {name: index for index, name in enumerate(names)}
        for null, (mark, colour) in NULLS.items():
            own = controls[(controls["null"] == null) & controls["part"].isin(names)]
            ticks = go.Scatter(x=scale * own["effect"], y=own["part"].map(at), mode="markers", name=null)
            ticks.update(marker={"color": colour, "size": 8, "symbol": mark, "opacity": 0.65}, legendgroup=null)
            panels.add(column, ticks.update(hovertemplate=f"{null}: %{{x:.3g}}{suffix}<extra></extra>"))
        values = scale * rows[["effect", "effect_low", "effect_high"]].to_numpy(dtype=float)
        _add_points(panels, column, values, names, suffix, name="part of the aligned model", legendgroup="part")
    panels.mark(None, THIN, x=0)
    words = "pp" if unit in RATES else unit
    whole = f"{scale * change:+.3g}".replace("-", "\u2212")
    axis = f"change, {words} (all parts: {whole})" if words else f"change (all parts: {whole})"
    panels.axis("x", zeroline=False, title=axis)
    return panels.figure(height=116 + 15 * max([len(rows) for rows in shown] + [12]))


def first_token_maps(layers: pd.DataFrame, tokens: pd.DataFrame, layer: int) -> go.Figure:
    """Draw the norm of the mean difference at the first tokens after each block, and its logit lens after one block.

    Args:
        layers: `probe.compare.first_tokens.FirstTokens.layers`.
        tokens: rows of `FirstTokens.tokens` for that one block.
        layer: the block of the lens; -1 is the embedding.
    """
    titles = ["norm, % of the residual", f"logit lens after {_after(layer)} (*: beyond random signs)"]
    panels = Panels(titles, widths=[0.36, 0.64], spacing=0.12)
    table = layers.pivot(index="layer", columns="position", values="relative")
    values = 100 * table.to_numpy(dtype=float)
    sizes = cells(values, [[f"{value:.2g}" for value in row] for row in values], legible=len(table) <= 40)
    sizes.update(x=[str(each) for each in table.columns], y=[_after(each) for each in table.index], hoverinfo=None)
    panels.add(1, sizes.update(hovertemplate="%{y}, token %{x}: %{text} % of the residual<extra></extra>"))
    rows = tokens.assign(row=tokens["rank"].where(tokens["direction"] == "promoted", -tokens["rank"]))
    order = sorted(rows["row"].unique(), key=lambda row: (row < 0, abs(row)))
    grid = rows.pivot(index="row", columns="position", values="score").reindex(order)
    scores = grid.to_numpy(dtype=float)
    own = {(row.row, row.position): row for row in rows.itertuples()}
    found = [[own.get((row, position)) for position in grid.columns] for row in order]
    shown = [
        ["" if each is None else escape(shorten(str(each.token), 12)) + " *" * bool(each.beyond_null) for each in line]
        for line in found
    ]
    lens = cells(scores, shown, [[_lens_hover(each) for each in line] for line in found], axis="coloraxis2")
    ranks = [f"{'+' if row > 0 else MINUS}{abs(row)}" for row in order]
    panels.add(2, lens.update(x=[str(each) for each in grid.columns], y=ranks))
    top = float(np.nanmax(np.abs(scores), initial=0.0)) or 1.0
    left = colour_axis("", low=0.0, high=float(values.max(initial=0.0)) or 1.0) | {"showscale": False}
    right = signed_axis("score, nats", top)
    panels.axis("x", title="position of the token", type="category")
    panels.axis("y", 1, type="category", autorange=True)
    panels.axis("y", 2, type="category", autorange="reversed", title="rank")
    height = max(300, 90 + 22 * max(len(table), len(order)))
    return panels.figure(showlegend=False, height=height, margin={"l": 80}, coloraxis=left, coloraxis2=right)


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
        unit: unit of the behaviour.
    """
    scale = 100 if unit in RATES else 1
    zero = pd.DataFrame([dict.fromkeys(doses.columns, 0.0)])
    rows = pd.concat([doses, zero]).sort_values("alpha")
    columns = {name: scale * rows[name] for name in rows if str(name).startswith(("effect", "random_"))}
    panels, suffix = Panels(), "pp" if unit in RATES else unit
    if doses["random"].any():
        null = exact(rows["alpha"], columns["random_mean"], "random directions (mean, range)", "dot", LIGHT.muted)
        panels.add(1, band(rows["alpha"], columns["random_low"], columns["random_high"], LIGHT.muted), null)
    low, high = (columns[f"effect_{end}"].fillna(columns["effect"]) for end in ("low", "high"))
    hover = [
        f"alpha {alpha:g}: {format_interval(*ends)} {suffix}"
        for alpha, *ends in zip(
            rows["alpha"], *(columns[name] for name in ("effect", "effect_low", "effect_high")), strict=True
        )
    ]
    line = go.Scatter(x=rows["alpha"], y=columns["effect"], name="this difference (95 %)", mode="lines+markers")
    line.update(line={"color": METHODS["dpo"], "width": 2}, **on_hover(hover))
    panels.add(1, band(rows["alpha"], low, high, METHODS["dpo"]), line)
    panels.axis("x", title=ALPHA["residual"], zeroline=False)
    panels.axis("y", title=f"change, {suffix}" if suffix else "change")
    return panels.figure(height=340, margin={"t": 56})
