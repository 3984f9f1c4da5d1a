"""The factorial of annotators as a figure: every cell a line, the exact optima and what trainings came to."""

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
"""The knob that stands within a line; the lines are the combinations of all others."""
LINES = [knob for knob in KNOBS if knob != WEIGHT]
NONE = "none of them"
ROW = 40
"""Pixels of a line."""
GAP = 0.15
"""Between two marks of one line, in lines."""
Marks = tuple[str, str, float, pd.DataFrame]
"""A series: name, colour, weight of correctness, rows."""


def draw_factorial(found: Factorial, trained: pd.DataFrame | None = None) -> go.Figure:
    """One panel an outcome, one line a combination of agreement, the fine and rare checks.

    Filled marks are annotators to whom correctness weighs little, open ones those to whom it weighs much; a dashed line
    is the reference.

    Args:
        found: the optima.
        trained: of `probe.rewards.factorial.trained`.
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
    """Yield the optima, then the trainings by method, each by the weight of correctness."""
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
    """Return the name of a cell's line: the knobs at the agreeable annotator's level."""
    return " + ".join(SHORT[knob] for knob in LINES if row[knob] == getattr(AGREEABLE, knob)) or NONE
