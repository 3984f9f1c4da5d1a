"""What the figures of the experiment `in_context` have in common: panels, curves and marks, exact predictors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from probe.plotting.curves import DASHES, Style
from probe.plotting.intervals import SYMBOLS, format_interval
from probe.plotting.theme import LIGHT, escape, template

MODEL = "model"
KINDS = {"map": "maps", "function": "functions of the pool", "function_new": "new functions", "markov": "Markov chains"}
TEXTS = {"repeat": "repeated words", "markov": "Markov chains", "map": "maps"}
MODES = {"gold": "gold", "random": "random", "permuted": "permuted"}
PREDICTORS = {"unigram": "the unigram", "bigram": "the bigram", "bayes": "Bayes"}
BAYES = "#8A6A1F"
"""Colour of what Bayes' rule says, on light and dark pages."""
Styles = Mapping[str, Style]


Ends = tuple[str, str, str]
ENDS: Ends = ("value", "ci_low", "ci_high")
"""Columns of a number and of the ends of its interval."""


def hover_texts(rows: pd.DataFrame, name: str, by: str = "", unit: str = "", ends: Ends = ENDS) -> list[str]:
    """What the mouse shows of each row: the name, where it is, the number with its interval, and n if it is known."""
    found = []
    for row in rows.to_dict("records"):
        place = f", {row[by]}{unit}" if by else ""
        number = format_interval(*(float(row[column]) for column in ends))
        found.append(f"{escape(name + place)}: {number}" + (f", n = {row['n']:.0f}" if "n" in row else ""))
    return found


def by_size(curve: pd.DataFrame) -> dict[str, Style]:
    """A colour for each model of a curve over pools, from blue for small ones to green for large ones."""
    known = curve.drop_duplicates(MODEL)
    sizes = sorted(known["pool_size"].unique())
    colours = dict(zip(sizes, sample_colorscale("Viridis", list(np.linspace(0.25, 0.8, len(sizes)))), strict=True))
    twice = known.groupby("pool_size").cumcount()  # models with pools of one size differ by dash
    return {
        str(label): Style(colours[size], DASHES[index % len(DASHES)])
        for label, size, index in zip(known[MODEL], known["pool_size"], twice, strict=True)
    }


def models(table: pd.DataFrame, styles: Styles, by: str = "examples") -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each model, in the order of the styles."""
    for label in styles:
        rows = table[table[MODEL] == label]
        if len(rows):
            yield label, rows.sort_values(by, kind="stable") if by in rows else rows


def offsets(table: pd.DataFrame, styles: Styles) -> Iterator[tuple[float, tuple[str, pd.DataFrame]]]:
    """The same with a shift for each, so that marks of one category stand side by side."""
    found = list(models(table, styles))
    for index, each in enumerate(found):
        yield (index - (len(found) - 1) / 2) * 0.6 / max(len(found), 2), each


def ideals(
    table: pd.DataFrame, styles: Styles, by: str, columns: Sequence[str]
) -> Iterator[tuple[str | None, pd.DataFrame]]:
    """What exact predictors say of the questions, once where all models were asked the same.

    Args:
        table: of several models.
        styles: of each.
        by: the column of the horizontal axis.
        columns: of what the predictors say.

    Yields:
        A colour and the rows of one model for each set of questions: that of the first model that was asked them; None,
        for the common colour, where there is one set, or where a dash would be taken for that of a model.
    """
    found: list[tuple[str, pd.DataFrame]] = []
    for label, rows in models(table, styles, by):
        rows = rows.drop_duplicates(by)
        made = rows[[by, *columns]].dropna(how="all", subset=list(columns)).reset_index(drop=True)
        if len(made) and not any(_same(made, other[[by, *columns]], by) for _, other in found):
            found.append((label, made))
    dashed = any(styles[label].dash != "solid" for label, _ in models(table, styles, by))
    for label, rows in found:
        yield (None if len(found) == 1 or dashed else styles[label].colour), rows


def _same(first: pd.DataFrame, other: pd.DataFrame, by: str) -> bool:
    """Whether two tables say the same wherever both say something."""
    both = first.merge(other, on=by, suffixes=("", "_other"))
    names = [name for name in first if name != by]
    ours, theirs = both[names].to_numpy(dtype=float), both[[f"{name}_other" for name in names]].to_numpy(dtype=float)
    return len(both) > 0 and bool(np.allclose(ours, theirs, equal_nan=True))


def panels(titles: Sequence[str]) -> go.Figure:
    """Panels side by side in the common look, their titles below the legend."""
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=list(titles), horizontal_spacing=0.24 / len(titles))
    figure.update_annotations(font_size=12)
    legend = {"yref": "container", "y": 1, "yanchor": "top"}
    figure.update_layout(template=template(LIGHT), margin={"t": 62}, hovermode="closest", legend=legend)
    return figure


def line(x: Any, y: Any, name: str, style: Style, hover: Sequence[str], marks: bool = True) -> go.Scatter:
    """A model's curve."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers" if marks else "lines",
        name=escape(name),
        line={"color": style.colour, "dash": style.dash, "width": 2},
        marker={"size": 5, "symbol": SYMBOLS[style.dash]},
        customdata=list(hover),
        hovertemplate="%{customdata}<extra></extra>",
    )


def exact(x: Any, y: Any, name: str, dash: str = "dash", colour: str | None = None) -> go.Scatter:
    """What an exact predictor says; where models were asked different things, in the colour of who was asked."""
    line = {"color": colour or BAYES, "dash": dash, "width": 1.8}
    return go.Scatter(x=list(x), y=list(y), mode="lines", name=name, line=line, hoverinfo="skip")


def points(x: Any, y: Any, low: Any, high: Any, name: str, style: Style, hover: Sequence[str]) -> go.Scatter:
    """Marks with intervals."""
    bars = {"type": "data", "symmetric": False, "array": list(high - y), "arrayminus": list(y - low)}
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="markers",
        name=escape(name),
        error_y=bars | {"thickness": 1.6, "width": 0},
        line={"color": style.colour, "width": 1.6},
        marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 8},
        customdata=list(hover),
        hovertemplate="%{customdata}<extra></extra>",
    )


def categories(figure: go.Figure, names: Sequence[str], title: str) -> None:
    """Name the places of an axis 0, 1, ... below it."""
    ticks = {"tickvals": list(range(len(names))), "ticktext": list(names), "range": [-0.5, len(names) - 0.5]}
    figure.update_xaxes(title_text=title, showgrid=False, zeroline=False, **ticks)
