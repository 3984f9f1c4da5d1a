"""Numbers with intervals, as text and as points on a line: headline figures of runs, and claims about them."""

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
"""Letters of a line of a tick."""
SYMBOLS = {"solid": "circle", "dash": "diamond", "dot": "square", "dashdot": "triangle-up", "longdash": "x"}


def whiskers(value: ArrayLike, low: ArrayLike, high: ArrayLike, **look: Any) -> dict[str, Any]:
    """Return an interval around each value as the settings of error bars, in the colour of their trace."""
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
    """Points with 95 % intervals: one line a metric, one mark a run, the runs of a metric side by side.

    A line is called by the title of its metric; where all are rates the axis is in percent.

    Args:
        table: columns `run`, `metric`, `value`, `ci_low`, `ci_high`.
        look: style of each run.
        metrics: which to draw, from the top; all by default.
        words: what the metrics mean; by default as headline figures.
        seeds: values of single trainings (`run`, `metric`, `value`), drawn faint under the mean of their run.
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
    """Single trainings as small marks."""
    return go.Scatter(
        x=rows["value"],
        y=[metrics.index(metric) + offset for metric in rows["metric"]],
        mode="markers",
        marker={"color": style.colour, "size": 5, "opacity": 0.35},
        hoverinfo="skip",
        showlegend=False,
    )


def _named(metric: str, about: Term) -> str:
    """Return the title of a metric with its name in parentheses; the title alone where both are equal."""
    return escape(metric if about.title == metric else f"{about.title} ({metric})")


def _tick(metric: str, about: Term) -> str:
    """Return the title of a metric on lines of at most `TICK` letters; the name of a metric that is not known."""
    return escape_lines(about.title if about.definition else metric.replace("_", " "), TICK)


def _range(table: pd.DataFrame) -> list[float] | None:
    inside = table["value"].between(0, 1).all()
    return [-0.03, 1.03] if inside else None


COLOURS = {"holds": "#2A6EBB", "fails": "#C8553D", "undecided": "#8A8F98"}
"""By verdict; all read on light and dark paper."""
VERDICT_SYMBOLS = {"holds": "circle", "fails": "x", "undecided": "diamond-open"}


UNITS = {DIFFERENCE: "percentage points", SHARE: "percent", "": "effect"}
"""What the axis of a unit is called, where it is not the unit's name."""
NAME, ROW, GAP, AROUND = 46, 32, 48, 96
"""Letters of a line of a claim; pixels of a claim, of what stands between two panels, and of what stands around all."""


def effects(
    names: Sequence[str],
    rows: Sequence[tuple[float, float, float]],
    verdicts: Sequence[str],
    units: Sequence[str],
    seeds: Sequence[Sequence[float]] = (),
    thresholds: Sequence[float] = (),
) -> go.Figure:
    """Effects with 95 % intervals, beside those of single trainings: one panel a unit, since units share no axis.

    Args:
        names: of the claims, from the top.
        rows: value, low and high of each, in its own unit (shares, correlations or nats).
        verdicts: `holds`, `fails` or `undecided` of each.
        units: of each (`probe.terms`).
        seeds: of each the values of single trainings, drawn as faint dots.
        thresholds: of each the value that its effect must lie beyond.
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
    """Values of single trainings: (value, place, claim)."""
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
    """Return marks at the thresholds that the effects of a panel must lie beyond, from the top."""
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
    """Effects of one verdict with their intervals: (place, claim)."""
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
