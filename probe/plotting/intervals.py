"""Numbers with intervals, as text and as points on a line: headline figures of runs, and claims about them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import format_interval, in_unit, percent, shown_ends
from probe.plotting.curves import Style, band
from probe.plotting.theme import LIGHT, escape, escape_lines, new_figure
from probe.terms import RATES, Term, term

__all__ = ["SYMBOLS", "band", "effects", "format_interval", "headline_intervals", "in_unit", "percent"]

TICK = 24
"""Letters of a line of a tick."""
SYMBOLS = {"solid": "circle", "dash": "diamond", "dot": "square", "dashdot": "triangle-up", "longdash": "x"}


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
    figure = new_figure(hovermode="closest")
    step = 0.64 / max(len(runs), 1)
    for order, run in enumerate(runs):
        rows = table[(table["run"] == run) & table["metric"].isin(metrics)]
        columns = rows[["metric", "ci_low", "ci_high"]].itertuples(index=False)
        ends = np.array([shown_ends(about[name].unit, low, high) for name, low, high in columns]).reshape(-1, 2).T
        offset = (order - (len(runs) - 1) / 2) * step
        if seeds is not None:
            trainings = seeds[(seeds["run"] == run) & seeds["metric"].isin(metrics)]
            figure.add_trace(_faint(trainings, metrics, offset, look[run]))
        figure.add_trace(
            go.Scatter(
                x=rows["value"],
                y=[metrics.index(metric) + offset for metric in rows["metric"]],
                mode="markers",
                name=escape(str(run)),
                marker={"color": look[run].colour, "symbol": SYMBOLS[look[run].dash], "size": 8},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": ends[1] - rows["value"],
                    "arrayminus": rows["value"] - ends[0],
                    "thickness": 1.6,
                    "width": 0,
                },
                customdata=[
                    [_named(name, about[name]), in_unit(about[name].unit, value, low, high)]
                    for name, value, low, high in zip(rows["metric"], rows["value"], *ends, strict=True)
                ],
                hovertemplate="%{customdata[0]}: %{customdata[1]}",
            )
        )
    across = {"type": "line", "xref": "x domain", "x0": 0, "x1": 1, "yref": "y", "opacity": 0.35}
    line = {"color": LIGHT.muted, "width": 0.5}
    between = [{**across, "y0": row + 0.5, "y1": row + 0.5, "line": line} for row in range(len(metrics) - 1)]
    figure.update_layout(shapes=between)  # at once: `add_hline` copies all that is there each time
    figure.update_xaxes(title_text="share of answers, with 95 % interval", range=_range(table), zeroline=False)
    if all(each.unit in RATES for each in about.values()):
        figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(
        tickvals=list(range(len(metrics))),
        ticktext=[_tick(str(metric), each) for metric, each in about.items()],
        range=[len(metrics) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(showlegend=True)
    return figure


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
    """The title of a metric and its name."""
    return escape(metric if about.title == metric else f"{about.title} ({metric})")


def _tick(metric: str, about: Term) -> str:
    """The title of a metric on lines of at most `TICK` letters; the name of one that is not known."""
    return escape_lines(about.title if about.definition else metric.replace("_", " "), TICK)


def _range(table: pd.DataFrame) -> list[float] | None:
    inside = table["value"].between(0, 1).all()
    return [-0.03, 1.03] if inside else None


COLOURS = {"holds": "#2A6EBB", "does not hold": "#C8553D"}
"""By verdict; both read on light and dark paper."""
VERDICT_SYMBOLS = {"holds": "circle", "does not hold": "x"}


def effects(
    names: Sequence[str],
    rows: Sequence[tuple[float, float, float]],
    verdicts: Sequence[str],
    units: Sequence[str],
    seeds: Sequence[Sequence[float]] = (),
) -> go.Figure:
    """Effects with 95 % intervals, beside those of further trainings.

    Args:
        names: of the claims, from the top.
        rows: value, low and high of each, in its own unit (shares, correlations or nats).
        verdicts: `holds` or `does not hold` of each.
        units: of each (`probe.terms`).
        seeds: of each the values of further trainings, drawn as faint dots.
    """
    figure = new_figure(hovermode="closest")
    dots = [(value, i) for i, values in enumerate(seeds) for value in values]
    if dots:
        figure.add_trace(
            go.Scatter(
                x=[value for value, _ in dots],
                y=[i for _, i in dots],
                mode="markers",
                name="another seed",
                marker={"color": LIGHT.muted, "size": 7, "opacity": 0.5},
                customdata=[[escape(names[i]), in_unit(units[i], value, None, None, sign=True)] for value, i in dots],
                hovertemplate="%{customdata[0]}, another seed: %{customdata[1]}<extra></extra>",
            )
        )
    for verdict, colour in COLOURS.items():
        at = [i for i, each in enumerate(verdicts) if each == verdict]
        figure.add_trace(
            go.Scatter(
                x=[rows[i][0] for i in at],
                y=at,
                mode="markers",
                name=verdict,
                marker={"color": colour, "symbol": VERDICT_SYMBOLS[verdict], "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [rows[i][2] - rows[i][0] for i in at],
                    "arrayminus": [rows[i][0] - rows[i][1] for i in at],
                    "thickness": 1.8,
                    "width": 0,
                    "color": colour,
                },
                customdata=[[escape(names[i]), in_unit(units[i], *rows[i], sign=True)] for i in at],
                hovertemplate="%{customdata[0]}: %{customdata[1]}<extra></extra>",
            )
        )
    figure.add_vline(x=0, line={"color": LIGHT.muted, "width": 1})
    figure.update_xaxes(title_text="effect with 95 % interval, each in its own unit", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(names))),
        ticktext=[escape(name.replace("_", " ")) for name in names],
        range=[len(names) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(showlegend=True, height=110 + 26 * len(names))
    return figure
