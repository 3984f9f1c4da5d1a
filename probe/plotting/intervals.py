"""Values with intervals as points on a line: headline figures of runs, and effects that claims are about."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from probe.numbers import format_interval, in_unit, percent, shown_ends
from probe.plotting.curves import Style, band
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, THIN, escape, escape_lines, row_axis
from probe.terms import DIFFERENCE, RATES, SHARE, Term, term

__all__ = ["SYMBOLS", "band", "effects", "format_interval", "headline_intervals", "in_unit", "percent"]

TICK = 24
"""Maximum line length of a tick label, in characters."""
SYMBOLS = {"solid": "circle", "dash": "diamond", "dot": "square", "dashdot": "triangle-up", "longdash": "x"}


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike, **look: Any) -> dict[str, Any]:
    """Return error bars for intervals around values; their colour is that of the trace by default."""
    middle = np.asarray(value, dtype=float)
    ends = {"array": np.asarray(high, dtype=float) - middle, "arrayminus": middle - np.asarray(low, dtype=float)}
    return {"type": "data", "symmetric": False, "thickness": 1.6, "width": 0, **ends, **look}


def headline_intervals(
    table: pd.DataFrame,
    look: Mapping[str, Style],
    metrics: Sequence[str] | None = None,
    words: Callable[[str], Term] = term,
    seeds: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw values with 95 % intervals, one line per metric; the marks of the runs are side by side.

    Each line is labelled with the title of its metric. The axis is in percent if all metrics are rates.

    Args:
        table: columns `run`, `metric`, `value`, `ci_low`, `ci_high`.
        look: style of each run.
        metrics: metrics to draw, from top to bottom; all by default.
        words: function that returns the term of a metric; by default as a headline figure.
        seeds: values of single trainings (`run`, `metric`, `value`), drawn faintly behind the mean of their run.
    """
    metrics = list(dict.fromkeys(table["metric"])) if metrics is None else list(metrics)
    runs = list(dict.fromkeys(table["run"]))
    about = {str(metric): words(str(metric)) for metric in metrics}
    panels, step = Panels(), 0.64 / max(len(runs), 1)
    for order, run in enumerate(runs):
        rows = table[(table["run"] == run) & table["metric"].isin(metrics)]
        columns = rows[["metric", "ci_low", "ci_high"]].itertuples(index=False)
        ends = np.array([shown_ends(about[name].unit, low, high) for name, low, high in columns]).reshape(-1, 2).T
        offset = (order - (len(runs) - 1) / 2) * step
        if seeds is not None:
            trainings = seeds[(seeds["run"] == run) & seeds["metric"].isin(metrics)]
            panels.add(1, _faint(trainings, metrics, offset, look[run]))
        points = go.Scatter(
            x=rows["value"],
            y=[metrics.index(metric) + offset for metric in rows["metric"]],
            mode="markers",
            name=escape(str(run)),
            marker={"color": look[run].colour, "symbol": SYMBOLS[look[run].dash], "size": 8},
            error_x=whiskers(rows["value"], *ends),
            customdata=[
                [_named(name, about[name]), in_unit(about[name].unit, value, low, high)]
                for name, value, low, high in zip(rows["metric"], rows["value"], *ends, strict=True)
            ],
            hovertemplate="%{customdata[0]}: %{customdata[1]}",
        )
        panels.add(1, points)
    for row in range(len(metrics) - 1):
        panels.mark(1, {"color": LIGHT.muted, "width": 0.5}, y=row + 0.5, opacity=0.35)
    panels.axis("x", title="share of answers, with 95 % interval", range=_range(table), zeroline=False)
    if all(each.unit in RATES for each in about.values()):
        panels.axis("x", tickformat=".0%")
    panels.axis("y", **row_axis([_tick(str(metric), each) for metric, each in about.items()]))
    return panels.figure(showlegend=True)


def _faint(rows: pd.DataFrame, metrics: list[str], offset: float, style: Style) -> go.Scatter:
    """Return single trainings as small, faint marks."""
    return go.Scatter(
        x=rows["value"],
        y=[metrics.index(metric) + offset for metric in rows["metric"]],
        mode="markers",
        marker={"color": style.colour, "size": 5, "opacity": 0.35},
        hoverinfo="skip",
        showlegend=False,
    )


def _named(metric: str, about: Term) -> str:
    """Return a metric's title with its name in parentheses; the title alone if both are equal."""
    return escape(metric if about.title == metric else f"{about.title} ({metric})")


def _tick(metric: str, about: Term) -> str:
    """Return a metric's title in lines of at most `TICK` characters; for an unknown metric, its name."""
    return escape_lines(about.title if about.definition else metric.replace("_", " "), TICK)


def _range(table: pd.DataFrame) -> list[float] | None:
    inside = table["value"].between(0, 1).all()
    return [-0.03, 1.03] if inside else None


COLOURS = {"holds": "#2A6EBB", "fails": "#C8553D", "undecided": "#8A8F98"}
"""Colour of each verdict, readable on light and dark backgrounds."""
VERDICT_SYMBOLS = {"holds": "circle", "fails": "x", "undecided": "diamond-open"}


UNITS = {DIFFERENCE: "percentage points", SHARE: "percent", "": "effect"}
"""Axis title of each unit whose title is not the unit itself."""
NAME, ROW, GAP, AROUND = 46, 40, 48, 96
"""Line length of a claim in characters; height of a claim, gap between panels, and height of all margins, in pixels."""


def effects(
    names: Sequence[str],
    rows: Sequence[tuple[float, float, float]],
    verdicts: Sequence[str],
    units: Sequence[str],
    seeds: Sequence[Sequence[float]] = (),
    thresholds: Sequence[float] = (),
) -> go.Figure:
    """Draw effects with 95 % intervals and the values of single trainings, one panel per unit.

    Args:
        names: claims, from top to bottom.
        rows: value, lower and upper end of each effect in its unit (shares, correlations or nats).
        verdicts: verdict on each claim: `holds`, `fails` or `undecided`.
        units: unit of each effect (`probe.terms`).
        seeds: values of single trainings for each effect, drawn as faint dots.
        thresholds: threshold that each effect must lie beyond.
    """
    order = sorted(dict.fromkeys(units), key=lambda unit: -units.count(unit))
    members = {unit: [i for i, each in enumerate(units) if each == unit] for unit in order}
    plot = ROW * len(names) + GAP * (len(order) - 1)
    heights = [len(members[unit]) for unit in order]
    panels = Panels([""] * max(len(order), 1), columns=1, gap=GAP / plot if plot else 0, heights=heights or None)
    named: set[str] = set()
    for panel, (unit, own) in enumerate(members.items(), start=1):
        dots = [(value, at, i) for at, i in enumerate(own) for value in (seeds[i] if seeds else ())]
        traces = [_seed_dots(dots, names, unit)] if dots else []
        if thresholds:
            traces.append(_threshold_marks([thresholds[i] for i in own]))
        for verdict in COLOURS:
            at = [(at, i) for at, i in enumerate(own) if verdicts[i] == verdict]
            if at:
                traces.append(_effect_marks(at, names, rows, verdict, unit))
        for trace in traces:
            panels.add(panel, trace.update(showlegend=trace.name not in named))
            named.add(trace.name)
        panels.mark(panel, THIN, x=0)
        panels.axis("x", panel, title=f"{UNITS.get(unit, unit)}, with 95 % interval", zeroline=False)
        if unit in (DIFFERENCE, SHARE):
            ticks = np.arange(-1, 1.01, 0.25)
            panels.axis("x", panel, tickvals=ticks, ticktext=[f"{100 * tick:.0f}" for tick in ticks])
        panels.axis("y", panel, **row_axis([escape_lines(names[i], NAME) for i in own]))
    return panels.figure(showlegend=True, height=AROUND + plot)


def _seed_dots(dots: Sequence[tuple[float, int, int]], names: Sequence[str], unit: str) -> go.Scatter:
    """Return marks for values of single trainings, given as (value, line of the panel, index of the claim)."""
    return go.Scatter(
        x=[value for value, _, _ in dots],
        y=[at for _, at, _ in dots],
        mode="markers",
        name="one training",
        legendgroup="one training",
        marker={"color": LIGHT.muted, "size": 7, "opacity": 0.5},
        customdata=[[escape(names[i]), in_unit(unit, value, None, None, sign=True)] for value, _, i in dots],
        hovertemplate="%{customdata[0]}, one training: %{customdata[1]}<extra></extra>",
    )


def _threshold_marks(values: Sequence[float]) -> go.Scatter:
    """Return marks at the thresholds of a panel's effects, from top to bottom."""
    return go.Scatter(
        x=list(values),
        y=list(range(len(values))),
        mode="markers",
        name="threshold",
        legendgroup="threshold",
        marker={"symbol": "line-ns-open", "size": 14, "color": LIGHT.muted, "line": {"width": 2}},
        hoverinfo="skip",
    )


def _effect_marks(
    at: Sequence[tuple[int, int]],
    names: Sequence[str],
    rows: Sequence[tuple[float, float, float]],
    verdict: str,
    unit: str,
) -> go.Scatter:
    """Return the effects with one verdict and their intervals, given as (line of the panel, index of the claim)."""
    values, lows, highs = (np.array([rows[i][end] for _, i in at]) for end in range(3))
    return go.Scatter(
        x=values,
        y=[place for place, _ in at],
        mode="markers",
        name=verdict,
        legendgroup=verdict,
        marker={"color": COLOURS[verdict], "symbol": VERDICT_SYMBOLS[verdict], "size": 9},
        error_x=whiskers(values, lows, highs, thickness=1.8, color=COLOURS[verdict]),
        customdata=[[escape(names[i]), in_unit(unit, *rows[i], sign=True)] for _, i in at],
        hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
    )
