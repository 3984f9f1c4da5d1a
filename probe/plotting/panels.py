"""Figures that lay models side by side: panels, and in them curves, points, bars and ideals in each model's look.

Tables are tidy, with a column `model`; a number and the ends of its interval are columns too (`ENDS`).

`Panels` gives what `make_subplots`, `add_trace`, `add_vline`, `update_xaxes` and `update_yaxes` give, in a third of the
time: adding to a figure of `plotly.subplots` checks all of it again every time.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import in_unit
from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, band
from probe.plotting.panel_layout import wrap
from probe.plotting.theme import LIGHT, METHODS, escape, template
from probe.terms import SHARE

MODEL = "model"
Look = Mapping[str, Style]
"""The style of each model; its order is that in which models are drawn."""
Ends = tuple[str, str, str]
ENDS: Ends = ("value", "ci_low", "ci_high")
"""Columns of a number and of the ends of its interval."""
RATE: Mapping[str, Any] = MappingProxyType({"range": (-0.03, 1.03), "tickformat": ".0%"})
"""Settings of the axis of a rate."""
PATTERNS = {"solid": "", "dash": "/", "dot": ".", "dashdot": "x", "longdash": "\\"}
"""Filling of the bars of a model by its dash."""
EXACT = METHODS["pretrain"]
"""Colour of ideals and nulls."""
IDEAL = {"color": "#767C87", "dash": "dash", "width": 1.6}
"""Line of Bayes' rule or of chance, visible on a light and on a dark page."""
BAYES = "#8A6A1F"
"""Colour of an exact predictor, on light and dark pages."""
TITLE_SIZE, TITLE_LINE = 12, 15
"""Size of a panel's title and height of each of its lines, in pixels."""
ROW = 690
"""Pixels of a row of panels on a page of 1024 pixels; titles are broken into lines that fit there."""


def fit_titles(titles: Sequence[str], shares: Sequence[float]) -> tuple[list[str], int]:
    """Break titles into lines that their panels are wide enough for.

    Args:
        titles: one a panel, escaped; lines that they have already stay apart.
        shares: of the width of the row that each panel has.

    Returns:
        The titles, and by how many lines the highest has grown.
    """
    fitting = [
        "<br>".join(wrap(line, ROW * share, TITLE_SIZE) for line in title.split("<br>"))
        for title, share in zip(titles, shares, strict=True)
    ]
    before, after = (max((title.count("<br>") for title in each), default=0) for each in (titles, fitting))
    return fitting, after - before


class Panels:
    """A row of panels that traces and lines are added to; columns count from 1."""

    def __init__(
        self, titles: Sequence[str], *, spacing: float, widths: Sequence[float] | None = None, shared_y: bool = False
    ) -> None:
        """Lay the panels out.

        Args:
            titles: one a panel, escaped.
            spacing: share of the width between two panels.
            widths: of the panels in any unit; equal by default.
            shared_y: one scale of y for all, with its ticks at the first panel.
        """
        parts = list(widths or [1.0] * len(titles))
        room, start = 1 - spacing * (len(titles) - 1), 0.0
        self._traces: list[dict[str, Any]] = []
        self._shapes: list[dict[str, Any]] = []
        self._axes: dict[str, list[dict[str, Any]]] = {"x": [], "y": []}
        self._titles = []
        fitting, self._further_lines = fit_titles(titles, [room * part / sum(parts) for part in parts])
        for column, (title, part) in enumerate(zip(fitting, parts, strict=True), start=1):
            end = min(start + room * part / sum(parts), 1.0)
            self._axes["x"].append({"anchor": _axis("y", column), "domain": [start, end]})
            self._axes["y"].append({"anchor": _axis("x", column), "domain": [0.0, 1.0]})
            if shared_y and column > 1:
                self._axes["y"][-1] |= {"matches": "y", "showticklabels": False}
            place = {"x": (start + end) / 2, "y": 1.0, "xref": "paper", "yref": "paper"}
            look = {"xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": TITLE_SIZE}}
            self._titles.append({"text": title, **place, **look})
            start = end + spacing

    def add(self, column: int, *traces: Mapping[str, Any] | go.Scatter) -> None:
        """Draw traces: Plotly's own, or dictionaries with their `type`."""
        axes = {"xaxis": _axis("x", column), "yaxis": _axis("y", column)}
        plain = (trace if isinstance(trace, Mapping) else trace.to_plotly_json() for trace in traces)
        self._traces += [{**trace, **axes} for trace in plain]

    def mark(self, column: int, x: float, line: Mapping[str, Any]) -> None:
        """Draw a vertical line through a panel."""
        ends = {"x0": x, "x1": x, "xref": _axis("x", column), "y0": 0, "y1": 1}
        self._shapes.append({"type": "line", "line": dict(line), "yref": f"{_axis('y', column)} domain", **ends})

    def axis(self, letter: str, column: int | None = None, **settings: Any) -> None:
        """Set up the x or y axis of a column, or of all."""
        for at in self._axes[letter] if column is None else [self._axes[letter][column - 1]]:
            at |= settings

    def figure(self, **layout: Any) -> go.Figure:
        """Return the figure in the light theme, with further settings of its layout."""
        axes = {
            f"{letter}axis{at or ''}": settings
            for letter, layouts in self._axes.items()
            for at, settings in ((place + 1 if place else 0, each) for place, each in enumerate(layouts))
        }
        if self._further_lines:
            margin = {"t": 28, **layout.get("margin", {})}
            layout["margin"] = margin | {"t": margin["t"] + TITLE_LINE * self._further_lines}
        whole = {"template": template(LIGHT), "annotations": self._titles, "shapes": self._shapes or None}
        return go.Figure({"data": self._traces, "layout": whole | axes | layout})


def _axis(letter: str, column: int) -> str:
    return letter if column == 1 else f"{letter}{column}"


def panels(
    titles: Sequence[str], widths: Sequence[float] | None = None, shared: bool = False, gap: float = 0.1
) -> go.Figure:
    """Return an empty row of panels in the light theme, for figures that need what `Panels` does not offer."""
    parts, spacing = list(widths or [1.0] * len(titles)), gap / max(len(titles) - 1, 1)
    room = 1 - spacing * (len(titles) - 1)
    fitting, lines = fit_titles([escape(title) for title in titles], [room * part / sum(parts) for part in parts])
    figure = make_subplots(
        rows=1,
        cols=len(titles),
        subplot_titles=fitting,
        column_widths=list(widths) if widths else None,
        shared_yaxes=shared,
        horizontal_spacing=spacing,
    )
    figure.update_layout(template=template(LIGHT), margin={"t": 72 + TITLE_LINE * lines, "b": 48}, hovermode="closest")
    figure.update_layout(legend={"y": 1.13 + 0.05 * lines})
    figure.update_annotations(font_size=TITLE_SIZE)
    return figure


def models_of(table: pd.DataFrame, look: Look, by: str | None = None) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each model that has any, sorted by a column if one is named."""
    pairs = [(model, table[table[MODEL] == model]) for model in look if (table[MODEL] == model).any()]
    return [(model, rows if by is None else rows.sort_values(by, kind="stable")) for model, rows in pairs]


def offsets(count: int, width: float = 0.6) -> list[float]:
    """Offset of the marks of each of several models from the middle of their place."""
    return [(order - (count - 1) / 2) * width / max(count, 2) for order in range(count)]


def hover_texts(
    rows: pd.DataFrame, name: str, by: str = "", place: str = "", ends: Ends = ENDS, unit: str = ""
) -> list[str]:
    """Hover text of each row: the name, where it stands, the number as its unit is shown, and n if it is known.

    Args:
        rows: with the columns of `ends`.
        name: of the curve.
        by: the column that says where a row stands.
        place: what follows that in words.
        ends: columns of the number and of the ends of its interval.
        unit: of the number (`probe.terms`).
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
    """Return the settings of the error bars that show the intervals of a trace."""
    value, low, high = (rows[column] for column in ends)
    arrays = {"array": (high - value).tolist(), "arrayminus": (value - low).tolist()}
    return {"type": "data", "symmetric": False, "thickness": 1.6, "width": 0} | arrays


def curve(x: Any, y: Any, name: str, style: Style, hover: Sequence[str], marks: bool = True) -> go.Scatter:
    """Return a model's curve; `hover` is the hover text of each point, escaped."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers" if marks else "lines",
        name=escape(name),
        legendgroup=name,
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"size": 7, "symbol": SYMBOLS[style.dash], "color": style.colour},
        customdata=list(hover),
        hovertemplate="%{customdata}<extra></extra>",
    )


def curve_with_band(
    rows: pd.DataFrame, x: str, name: str, style: Style, *, named: bool = True, hover: str = "", unit: str = SHARE
) -> tuple[go.Scatter, go.Scatter]:
    """Return the band of the intervals of rows, which are sorted by `x`, and the curve of their values.

    Args:
        rows: columns `x`, value, ci_low, ci_high and n.
        x: the column of the horizontal axis.
        name: in the legend.
        style: colour and dash.
        named: whether the legend gets an entry.
        hover: name under the mouse; by default that in the legend.
        unit: of the values (`probe.terms`).
    """
    low, high = rows["ci_low"].fillna(rows["value"]), rows["ci_high"].fillna(rows["value"])
    line = curve(rows[x], rows["value"], name, style, hover_texts(rows, hover or name, unit=unit))
    return band(rows[x], low, high, style.colour).update(legendgroup=name), line.update(showlegend=named)


def points(x: Any, rows: pd.DataFrame, name: str, style: Style, hover: Sequence[str], ends: Ends = ENDS) -> go.Scatter:
    """Return values as marks with their intervals."""
    return go.Scatter(
        x=list(x),
        y=rows[ends[0]].tolist(),
        mode="markers",
        name=escape(name),
        legendgroup=name,
        error_y=error_bars(rows, ends),
        line={"color": style.colour, "width": 1.6},
        marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
        customdata=list(hover),
        hovertemplate="%{customdata}<extra></extra>",
    )


def bars(figure: go.Figure, table: pd.DataFrame, look: Look, column: int, legend: bool = True) -> None:
    """Rates: one bar a model and `place`, side by side, with its interval."""
    rows_by_model = models_of(table, look)
    width = 0.8 / max(len(rows_by_model), 1)
    for order, (model, rows) in enumerate(rows_by_model):
        style = look[model]
        figure.add_trace(
            go.Bar(
                x=rows["place"] + (order - (len(rows_by_model) - 1) / 2) * width,
                y=rows["value"],
                width=0.92 * width,
                name=escape(model),
                legendgroup=model,
                showlegend=legend,
                marker={
                    "color": _faint(style.colour),
                    "line": {"width": 1.2, "color": style.colour},
                    "pattern": {
                        "shape": PATTERNS[style.dash],
                        "fillmode": "overlay",
                        "fgcolor": style.colour,
                        "size": 6,
                        "solidity": 0.25,
                    },
                },
                error_y=error_bars(rows) | {"color": style.colour, "thickness": 2},
                customdata=hover_texts(rows, model, unit=SHARE),
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=1,
            col=column,
        )


def share_bars(table: pd.DataFrame, look: Look, title: str, axis: str, chance: float | None = 0.5) -> go.Figure:
    """Shares by `name`, one bar a model, with chance as a dashed line."""
    figure = panels((title,))
    names = list(dict.fromkeys(table["name"]))
    bars(figure, table.assign(place=[names.index(name) for name in table["name"]]), look, 1)
    if chance is not None:
        figure.add_hline(y=chance, line=IDEAL)
        figure.add_trace(legend_entry("chance", line=IDEAL))
    categories(figure, [escape(name.replace("_", " ")) for name in names], "")
    figure.update_yaxes(title_text=axis, range=[0, 1.04], tickformat=".0%", zeroline=False)
    return figure


def _faint(colour: str) -> str:
    """Return a colour (#rrggbb) at half strength, on which the same colour at full strength can be seen."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


def ideal(marks: Sequence[tuple[float, float]], name: str) -> go.Scatter:
    """Dashed marks over places."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, value in marks:
        x += [place - 0.46, place, place + 0.46, None]
        y += [value, value, value, None]
    return go.Scatter(x=x, y=y, mode="lines", name=name, line=IDEAL, hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>")


def exact(x: Any, y: Any, name: str, dash: str = "dash", colour: str | None = None) -> go.Scatter:
    """Return the curve of an exact predictor, an ideal or guessing, without hover text."""
    line = {"color": colour or BAYES, "dash": dash, "width": 1.6}
    return go.Scatter(x=list(x), y=list(y), mode="lines", name=name, legendgroup=name, line=line, hoverinfo="skip")


def level(panels: Panels, column: int, at: Sequence[float], values: Sequence[float], name: str) -> None:
    """Draw a dotted reference curve, such as guessing; the legend names it once, with the first panel."""
    panels.add(column, exact(at, values, name, "dot", LIGHT.muted).update(showlegend=column == 1))


def ideals(
    table: pd.DataFrame, look: Look, by: str, columns: Sequence[str]
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """Exact predictors on the questions, once where all models have the same questions.

    Args:
        table: of several models.
        look: of each.
        by: the column of the horizontal axis.
        columns: of the predictors.

    Yields:
        A colour and the rows of one model for each set of questions: that of the first model with them; None,
        for the common colour, where there is one set, or where a dash would be taken for that of a model.
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
    """Whether two tables are equal wherever both have a value."""
    both = first.merge(other, on=by, suffixes=("", "_other"))
    names = [name for name in first if name != by]
    x, y = (both[names].to_numpy(dtype=float), both[[f"{name}_other" for name in names]].to_numpy(dtype=float))
    return len(both) > 0 and bool(np.allclose(x, y, equal_nan=True))


def legend_entry(name: str, **look: Any) -> go.Scatter:
    """Return an entry of the legend without a curve, for a dash (`line=`) or a mark (`marker=`)."""
    return go.Scatter(x=[None], y=[None], mode="lines" if "line" in look else "markers", name=name, **look)


def categories(figure: go.Figure, names: Sequence[str], title: str, **place: Any) -> None:
    """Name the places of an axis 0, 1, ... below it; `place` says the row and column of a panel."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [-0.5, len(names) - 0.5]}
    figure.update_xaxes(title_text=title or None, showgrid=False, zeroline=False, **ticks, **place)
