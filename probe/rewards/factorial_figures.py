"""Figure of the factorial of annotators: one line per cell, with the exact optima and the results of trainings."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from probe.numbers import in_unit
from probe.plotting.intervals import whiskers
from probe.plotting.panels import Panels
from probe.plotting.series import (
    BAYES,
    IDEAL,
    RATE,
)
from probe.plotting.theme import escape, escape_lines, method_colour, on_hover, row_axis
from probe.rewards.factorial import ENDS, KNOBS, OUTCOMES, SHORT, Factorial
from probe.terms import SHARE, term
from probe.world.annotators import AGREEABLE, HONEST

WEIGHT = "correctness"
"""Factor shown within each line; the lines are the combinations of all other factors."""
LINES = [knob for knob in KNOBS if knob != WEIGHT]
NONE = "none of them"
ROW = 40
"""Height of a line in pixels."""
GAP = 0.15
"""Distance between two marks of a line, in lines."""
Marks = tuple[str, str, float, pd.DataFrame]
"""Series of marks: name, colour, weight of correctness, rows."""


def draw_factorial(found: Factorial, trained: pd.DataFrame | None = None) -> go.Figure:
    """Draw one panel per outcome, with one line per combination of agreement, fine and rare checks.

    Filled marks are annotators with a low weight of correctness, open ones those with a high weight. The dashed line is
    the reference.

    Args:
        found: exact optima of all cells.
        trained: results of trainings (`probe.rewards.factorial.trained`).
    """
    optima = found.cells[found.cells["annotator"].notna()]
    lines = list(dict.fromkeys(map(_line, optima.to_dict("records"))))
    titles = [escape_lines(term(f"{metric}_listed", "rewards").title, 30) for metric in OUTCOMES]
    panels = Panels(titles, spacing=0.05, shared_y=True)
    series = list(_series(optima, trained))
    for column, metric in enumerate(OUTCOMES, start=1):
        for order, (name, colour, weight, rows) in enumerate(series):
            rows = rows[rows["metric"] == metric]
            offset = (order - (len(series) - 1) / 2) * GAP
            panels.add(column, _trace(rows, name, colour, weight, lines, offset))
        base = found.cells[found.cells["annotator"].isna() & (found.cells["metric"] == metric)]
        panels.mark(column, IDEAL, x=float(base["value"].iloc[0]))
    panels.axis("y", **row_axis([escape(line) for line in lines]))
    panels.axis("x", **RATE, zeroline=False, nticks=3)
    return panels.figure(height=ROW * len(lines) + 150, margin={"t": 96})


def _series(optima: pd.DataFrame, trained: pd.DataFrame | None) -> Iterator[Marks]:
    """Yield the optima, then the trainings by method, each by weight of correctness."""
    parts: list[tuple[str, str, pd.DataFrame]] = [("optimum", BAYES, optima)]
    if trained is not None:
        parts += [(str(method).upper(), method_colour(str(method)), rows) for method, rows in trained.groupby("method")]
    for name, colour, rows in parts:
        for annotator in (AGREEABLE, HONEST):
            own = rows[rows[WEIGHT] == annotator.correctness]
            if len(own):
                yield f"{name}, weight {annotator.correctness:g}", colour, annotator.correctness, own


def _trace(rows: pd.DataFrame, name: str, colour: str, weight: float, lines: list[str], offset: float) -> go.Scatter:
    low, high = (rows[end].fillna(rows["value"]).clip(0, 1) for end in ENDS[1:])
    symbol = ("diamond" if colour == BAYES else "circle") + "-open" * (weight != AGREEABLE.correctness)
    hover = [
        f"{escape(str(row.get('run') or name))}, {escape(row['annotator'])}: "
        f"{in_unit(SHARE, *(row[end] for end in ENDS))}"
        for row in rows.to_dict("records")
    ]
    return go.Scatter(
        x=rows["value"].tolist(),
        y=[lines.index(_line(row)) + offset for row in rows.to_dict("records")],
        mode="markers",
        name=escape(name),
        legendgroup=name,
        marker={"color": colour, "size": 8, "symbol": symbol},
        error_x=whiskers(rows["value"], low, high, thickness=1.4, color=colour),
        **on_hover(hover),
    )


def _line(row: Mapping[Any, Any]) -> str:
    """Return the name of a cell's line: the factors at the agreeable annotator's level."""
    return " + ".join(SHORT[knob] for knob in LINES if row[knob] == getattr(AGREEABLE, knob)) or NONE
