"""Several models in one panel: curves, points, bars and reference values in each model's style.

Tables are tidy, with a column `model` and with columns for a value and the ends of its interval (`ENDS`).
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import in_unit
from probe.plotting.curves import Style, legend_entry
from probe.plotting.intervals import SYMBOLS, band, whiskers
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, METHODS, escape, on_hover
from probe.terms import SHARE

MODEL = "model"
Look = Mapping[str, Style]
"""Style of each model; the order is that in which models are drawn."""
Ends = tuple[str, str, str]
ENDS: Ends = ("value", "ci_low", "ci_high")
"""Columns of a value and of the ends of its interval."""
RATE: Mapping[str, Any] = MappingProxyType({"range": (-0.03, 1.03), "tickformat": ".0%"})
"""Axis settings for a rate."""
BARS: Mapping[str, Any] = MappingProxyType({"range": (0, 1.04), "tickformat": ".0%", "zeroline": False})
"""Axis settings for bars of rates."""
PATTERNS = {"solid": "", "dash": "/", "dot": ".", "dashdot": "x", "longdash": "\\"}
"""Fill pattern of a model's bars, by the dash of its style."""
EXACT = METHODS["pretrain"]
"""Colour of reference values, such as controls and random directions."""
IDEAL: dict[str, Any] = {"color": "#767C87", "dash": "dash", "width": 1.6}
"""Line of the Bayes-optimal or chance value, visible on light and dark pages."""
BAYES = "#8A6A1F"
"""Colour of an exact predictor, visible on light and dark pages."""


def models_of(table: pd.DataFrame, look: Look, by: str | None = None) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each model that has any, optionally sorted by a column."""
    pairs = [(model, table[table[MODEL] == model]) for model in look if (table[MODEL] == model).any()]
    return [(model, rows if by is None else rows.sort_values(by, kind="stable")) for model, rows in pairs]


def offsets(count: int, width: float = 0.6) -> list[float]:
    """Return the offset of each model's marks from the centre of their place."""
    return [(order - (count - 1) / 2) * width / max(count, 2) for order in range(count)]


def hover_texts(
    rows: pd.DataFrame, name: str, by: str = "", place: str = "", ends: Ends = ENDS, unit: str = ""
) -> list[str]:
    """Return the hover text of each row: name, place, value in its unit, and n if known.

    Args:
        rows: table with the columns `ends`.
        name: name of the curve.
        by: column with the place of a row.
        place: text after the place.
        ends: columns of the value and of the ends of its interval.
        unit: unit of the value (`probe.terms`).
    """
    texts = []
    for row in rows.to_dict("records"):
        where = f", {row[by]}{place}" if by else ""
        number = in_unit(unit, *(float(row[column]) for column in ends))
        n = row.get("n")
        has_n = n is not None and n == n and n > 0
        texts.append(f"{escape(name + where)}: {number}" + (f", n = {n:,.0f}" if has_n else ""))
    return texts


def error_bars(rows: pd.DataFrame, ends: Ends = ENDS) -> dict[str, Any]:
    """Return error bars for the intervals of the rows."""
    return whiskers(*(rows[column] for column in ends))


def curve(x: Any, y: Any, name: str, style: Style, hover: Sequence[str]) -> go.Scatter:
    """Return a model's curve; `hover` has the escaped hover text of each point."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers",
        name=escape(name),
        legendgroup=name,
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"size": 7, "symbol": SYMBOLS[style.dash], "color": style.colour},
        **on_hover(hover),
    )


def curve_with_band(
    rows: pd.DataFrame, x: str, name: str, style: Style, *, named: bool = True, hover: str = ""
) -> tuple[go.Scatter, go.Scatter]:
    """Return the interval band of the rows, which are sorted by `x`, and the curve of their values, which are shares.

    Args:
        rows: columns `x`, value, ci_low, ci_high and n.
        x: column of the horizontal axis.
        name: name in the legend.
        style: colour and dash.
        named: whether the curve has a legend entry.
        hover: name on hover; by default the name in the legend.
    """
    filled = rows.assign(**{end: rows[end].fillna(rows["value"]) for end in ENDS[1:]})
    area, line = shaded(rows[x], filled, name, style, hover_texts(rows, hover or name, unit=SHARE))
    return area.update(legendgroup=name), line.update(showlegend=named)


def shaded(
    x: Any, rows: pd.DataFrame, name: str, style: Style, hover: Sequence[str], ends: Ends = ENDS, /, **look: Any
) -> tuple[go.Scatter, go.Scatter]:
    """Return the interval band of the rows and the curve of their values; `look` changes settings of the curve."""
    value, low, high = (rows[end] for end in ends)
    return band(x, low, high, style.colour), curve(x, value, name, style, hover).update(**look)


def points(x: Any, rows: pd.DataFrame, name: str, style: Style, hover: Sequence[str], ends: Ends = ENDS) -> go.Scatter:
    """Return values as markers with their intervals."""
    return go.Scatter(
        x=list(x),
        y=rows[ends[0]].tolist(),
        mode="markers",
        name=escape(name),
        legendgroup=name,
        error_y=error_bars(rows, ends),
        line={"color": style.colour, "width": 1.6},
        marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
        **on_hover(hover),
    )


def bars(panels: Panels, column: int, table: pd.DataFrame, look: Look) -> None:
    """Draw rates with intervals as bars, one per model and `place`, side by side."""
    rows_by_model = models_of(table, look)
    width = 0.8 / max(len(rows_by_model), 1)
    for order, (model, rows) in enumerate(rows_by_model):
        colour, shape = look[model].colour, PATTERNS[look[model].dash]
        pattern = {"shape": shape, "fillmode": "overlay", "fgcolor": colour, "size": 6, "solidity": 0.25}
        bar = go.Bar(
            x=rows["place"] + (order - (len(rows_by_model) - 1) / 2) * width,
            y=rows["value"],
            width=0.92 * width,
            name=escape(model),
            legendgroup=model,
            marker={"color": _faint(colour), "line": {"width": 1.2, "color": colour}, "pattern": pattern},
            error_y=error_bars(rows) | {"color": colour, "thickness": 2},
            **on_hover(hover_texts(rows, model, unit=SHARE)),
        )
        panels.add(column, bar)


def share_bars(table: pd.DataFrame, look: Look, title: str, axis: str, chance: float | None = 0.5) -> go.Figure:
    """Draw the share of each `name` as one bar per model, with chance as a dashed line."""
    panels, names = Panels([title]), list(dict.fromkeys(table["name"]))
    bars(panels, 1, table.assign(place=[names.index(name) for name in table["name"]]), look)
    if chance is not None:
        panels.mark(1, IDEAL, y=chance)
        panels.add(1, legend_entry("chance", line=IDEAL))
    panels.axis("x", **categories([escape(name.replace("_", " ")) for name in names]))
    panels.axis("y", title=axis, **BARS)
    return panels.crowded()


def _faint(colour: str) -> str:
    """Return a colour (#rrggbb) at half opacity, on which the full colour remains visible."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


def ideal(marks: Sequence[tuple[float, float]], name: str) -> go.Scatter:
    """Return dashed horizontal marks at reference values, given as (place, value)."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, value in marks:
        x += [place - 0.46, place, place + 0.46, None]
        y += [value, value, value, None]
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=IDEAL, hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>")


def exact(x: Any, y: Any, name: str, dash: str = "dash", colour: str | None = None) -> go.Scatter:
    """Return the curve of an exact predictor or of guessing, without hover text; without a name also without entry."""
    line = {"color": colour or BAYES, "dash": dash, "width": 1.6}
    named = {"name": name, "legendgroup": name} if name else {"showlegend": False}
    return go.Scatter(x=list(x), y=list(y), mode="lines", line=line, hoverinfo="skip", **named)


def level(panels: Panels, column: int, at: Sequence[float], values: Sequence[float], name: str) -> None:
    """Draw a dotted reference curve, such as guessing."""
    panels.add(column, exact(at, values, name, "dot", LIGHT.muted))


def ideals(
    table: pd.DataFrame, look: Look, by: str, columns: Sequence[str]
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """Yield the exact predictors on the questions, once if all models have the same questions.

    Args:
        table: table of several models.
        look: style of each model.
        by: column of the horizontal axis.
        columns: columns of the predictors.

    Yields:
        For each distinct set of questions, a colour and the rows of the first model with that set. The colour is None,
        for the common colour, if there is only one set or if a model's curve is dashed like the predictors.
    """
    distinct: list[tuple[str, pd.DataFrame]] = []
    rows_by_model = models_of(table, look, by)
    for label, rows in rows_by_model:
        rows = rows.drop_duplicates(by)
        predictions = rows[[by, *columns]].dropna(how="all", subset=list(columns)).reset_index(drop=True)
        if len(predictions) and not any(_same(predictions, other[[by, *columns]], by) for _, other in distinct):
            distinct.append((label, predictions))
    has_dashes = any(look[label].dash != "solid" for label, _ in rows_by_model)
    for label, rows in distinct:
        yield (None if len(distinct) == 1 or has_dashes else look[label].colour), rows


def _same(first: pd.DataFrame, other: pd.DataFrame, by: str) -> bool:
    """Whether two tables agree in the rows whose value of `by` is in both; missing values equal each other."""
    both = first.merge(other, on=by, suffixes=("", "_other"))
    names = [name for name in first if name != by]
    x, y = (both[names].to_numpy(dtype=float), both[[f"{name}_other" for name in names]].to_numpy(dtype=float))
    return len(both) > 0 and bool(np.allclose(x, y, equal_nan=True))


def categories(names: Sequence[str]) -> dict[str, Any]:
    """Return settings of a horizontal axis with names at the places 0, 1, ..."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [-0.5, len(names) - 0.5]}
    return ticks | {"showgrid": False, "zeroline": False}
