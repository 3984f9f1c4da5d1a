"""Figures that lay models side by side: panels, bars, lines and ideal marks in each model's colour and dash."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, format_interval
from probe.plotting.theme import LIGHT, METHODS, escape, template

Look = Mapping[str, Style]
PATTERNS = {"solid": "", "dash": "/", "dot": ".", "dashdot": "x", "longdash": "\\"}
"""Filling of the bars of a model by its dash."""
EXACT = METHODS["pretrain"]
"""Colour of ideals and nulls."""
IDEAL = {"color": "#767C87", "dash": "dash", "width": 1.6}
"""Line of what Bayes' rule or chance gives, to be seen on a light and on a dark page."""
NO_CLAIM = "dot"


def models_of(table: pd.DataFrame) -> list[str]:
    """The models of a table in order of appearance."""
    return [str(model) for model in dict.fromkeys(table["model"])]


def panels(
    titles: Sequence[str], widths: Sequence[float] | None = None, shared: bool = False, gap: float = 0.1
) -> go.Figure:
    """An empty row of panels in the light theme."""
    figure = make_subplots(
        rows=1,
        cols=len(titles),
        subplot_titles=[escape(title) for title in titles],
        column_widths=list(widths) if widths else None,
        shared_yaxes=shared,
        horizontal_spacing=gap / max(len(titles) - 1, 1),
    )
    figure.update_layout(template=template(LIGHT), margin={"t": 72, "b": 48}, legend={"y": 1.13}, hovermode="closest")
    figure.update_annotations(font_size=13)
    return figure


def faint(colour: str) -> str:
    """A colour (#rrggbb) at half strength, over which its own full strength is seen."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.5)"


def error_bars(rows: pd.DataFrame) -> dict[str, Any]:
    """Settings of the intervals of a trace, from `value`, `ci_low` and `ci_high`."""
    above, below = rows["ci_high"] - rows["value"], rows["value"] - rows["ci_low"]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1.3, "width": 0}


def hover_text(model: str, row: Any) -> str:
    """What a mark says under the mouse: model, value and interval."""
    return f"{escape(model)}: {format_interval(row.value, row.ci_low, row.ci_high)}"


def bars(figure: go.Figure, table: pd.DataFrame, look: Look, column: int, legend: bool = True) -> None:
    """One bar a model and place, side by side, with its interval."""
    models = models_of(table)
    width = 0.8 / max(len(models), 1)
    for order, model in enumerate(models):
        rows = table[table["model"] == model]
        style = look[model]
        figure.add_trace(
            go.Bar(
                x=rows["place"] + (order - (len(models) - 1) / 2) * width,
                y=rows["value"],
                width=0.92 * width,
                name=escape(model),
                legendgroup=model,
                showlegend=legend,
                marker={
                    "color": faint(style.colour),
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
                customdata=[hover_text(model, row) for row in rows.itertuples()],
                hovertemplate="%{customdata}<extra></extra>",
            ),
            row=1,
            col=column,
        )


def ideal(figure: go.Figure, marks: Sequence[tuple[float, float]], name: str, column: int = 1) -> None:
    """Dashed marks over places, one entry in the legend."""
    x: list[float | None] = []
    y: list[float | None] = []
    for place, value in marks:
        x += [place - 0.46, place, place + 0.46, None]
        y += [value, value, value, None]
    figure.add_trace(
        go.Scatter(x=x, y=y, mode="lines", name=name, line=IDEAL, hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>"),
        row=1,
        col=column,
    )


def line(rows: pd.DataFrame, x: str, model: str, look: Look, legend: bool, **changes: Any) -> go.Scatter:
    """A line with marks and intervals."""
    style = look[model]
    dash = changes.pop("dash", style.dash)
    return go.Scatter(
        x=rows[x],
        y=rows["value"],
        mode="lines+markers",
        name=changes.pop("name", escape(model)),
        legendgroup=model,
        showlegend=legend,
        line={"color": style.colour, "dash": dash, "width": 2},
        marker={"symbol": SYMBOLS[style.dash], "size": 7, "color": style.colour},
        error_y=error_bars(rows),
        customdata=[hover_text(model, row) for row in rows.itertuples()],
        hovertemplate="%{customdata}<extra></extra>",
        **changes,
    )


def share_bars(table: pd.DataFrame, look: Look, title: str, axis: str, chance: float | None = 0.5) -> go.Figure:
    """Shares by `name`, one bar a model, with chance as a dashed line."""
    figure = panels((title,))
    names = list(dict.fromkeys(table["name"]))
    bars(figure, table.assign(place=[names.index(name) for name in table["name"]]), look, 1)
    if chance is not None:
        figure.add_hline(y=chance, line=IDEAL)
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="lines", name="chance", line=IDEAL))
    words = [escape(name.replace("_", " ")) for name in names]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=words, showgrid=False)
    figure.update_yaxes(title_text=axis, range=[0, 1.04], tickformat=".0%", zeroline=False)
    return figure
