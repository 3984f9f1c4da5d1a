"""Curves of training: metrics of several runs over steps or time, and the log-probability of chosen answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import shown_ends
from probe.plotting.panels import Panels
from probe.plotting.theme import ANSWERS, DASHES, DOTTED, SECOND, escape, escape_lines, log_axis, method_colour
from probe.terms import RATES, Term, logged

RELATIVE = "relative step"
"""Column that `relative_steps` adds: the axis that runs of different lengths share."""
AXES = {"step": "step", RELATIVE: "step (% of the run)", "time": "training time (s)"}
HOVER_WIDTH = 60
"""Characters of a line of a definition under the mouse."""
TITLE_WIDTH = 22
"""Characters of a line of a panel's title."""
REWARD = ("reward", "kl", "expected_gold", "kl_to_optimal", "expected_reward", "kl_to_reference", "reward_std")
"""Headline metrics of a method that samples, in this order; the loss of a policy gradient is not one."""


Curve = Sequence[float] | pd.Series


@dataclass(frozen=True)
class Spread:
    """What is drawn around the curves of a mean over trainings."""

    low: pd.DataFrame
    """Lower ends of its intervals; the columns of the mean's table."""
    high: pd.DataFrame
    members: Sequence[pd.DataFrame]
    """The metrics of each training."""


@dataclass(frozen=True)
class Style:
    """How one run is drawn on every figure."""

    colour: str
    """Colour of its method, or the second one of it."""

    dash: str = "solid"
    """Tells runs of one method apart where it says nothing else."""


def styles(methods: Mapping[str, str], first: str | None = None) -> dict[str, Style]:
    """One style a run from its method: a second run of a method has its second colour, all differ by dash too.

    Args:
        methods: method of each run by name, in order of appearance.
        first: the run that has the colour of its method whatever stands before it, such as the baseline.
    """
    counts: dict[str, int] = {}
    result = {}
    for name in sorted(methods, key=lambda name: name != first):
        colour = method_colour(methods[name])
        order = counts[colour] = counts.get(colour, -1) + 1
        result[name] = Style(SECOND[colour] if order % 2 else colour, DASHES[order % len(DASHES)])
    return {name: result[name] for name in methods}


def sections(columns: Sequence[str]) -> dict[str, list[str]]:
    """Metrics by section: the part before the first slash and the slash; those without one by their meaning.

    Columns `step` and `time` are no metrics. The section of the losses comes first, then that of reward and KL.
    """
    speed = {"tokens_per_second", "step_time", "num_tokens"}
    groups: dict[str, list[str]] = {"loss": [], "reward": [name for name in REWARD if name in columns]}
    for column in columns:
        if column in ("step", "time", *REWARD):
            continue
        if "/" in column:
            section = column.partition("/")[0] + "/"
        elif column in speed:
            section = "speed"
        elif "loss" in column or column in ("eval_bpb", "mean_token_accuracy"):
            section = "loss"
        else:
            section = "optimiser" if column in ("lr", "grad_norm") else "other"
        groups.setdefault(section, []).append(column)
    return {section: names for section, names in groups.items() if names}


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average, corrected for its start; gaps (NaN) stay gaps.

    Args:
        values: [n] a metric over steps.
        weight: share of the past in [0, 1); 0 changes nothing.
    """
    result = np.full(len(values), np.nan)
    mean, total = 0.0, 0.0
    for index, value in enumerate(values):
        if np.isfinite(value):
            mean = weight * mean + (1 - weight) * value
            total = weight * total + (1 - weight)
            result[index] = mean / total
    return result


def relative_steps(frame: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Return the metrics of a run with the column `RELATIVE`: the step in percent of the run's `steps`."""
    return frame.assign(**{RELATIVE: 100 * frame["step"] / max(1, steps)})


@dataclass(frozen=True)
class MetricPanel:
    """A metric of the runs that mean the same by it."""

    metric: str
    about: Term
    runs: tuple[str, ...]


def metric_panels(
    runs: Mapping[str, pd.DataFrame], metrics: Sequence[str], methods: Mapping[str, str]
) -> list[MetricPanel]:
    """Give each meaning of a metric a panel: the losses of two objectives are no numbers of one axis.

    Args:
        runs: metrics of each run by name (`Run.metrics()`).
        metrics: columns to draw.
        methods: method of each run, which says what its metrics mean (`probe.terms`); where one meaning is known, runs
            of other methods are taken to have it too.
    """
    result = []
    for metric in metrics:
        found: dict[Term, list[str]] = {}
        for name in (name for name, frame in runs.items() if metric in frame):
            found.setdefault(logged(metric, (methods.get(name, ""),)), []).append(name)
        known = [about for about in found if about.definition]
        if len(known) <= 1:
            names = tuple(name for name in runs if any(name in each for each in found.values()))
            found = {next(iter(known or found), Term(metric)): [*names]}
        result += [MetricPanel(metric, about, tuple(names)) for about, names in found.items()]
    return result


def metric_curves(
    runs: Mapping[str, pd.DataFrame],
    metrics: Sequence[str],
    look: Mapping[str, Style],
    *,
    methods: Mapping[str, str] | None = None,
    x: str = "step",
    weight: float = 0.0,
    log_y: bool = False,
    marker: float | None = None,
    columns: int = 2,
    spreads: Mapping[str, Spread] | None = None,
    most: int | None = None,
) -> go.Figure:
    """Small multiples, one panel a metric and one line a run; smoothing leaves the raw curve faint behind.

    A metric by which methods mean different things, such as the loss, has a panel for each meaning (`metric_panels`).

    A panel is called by the title of its metric (`probe.terms`) with its unit; the title tells the metric's name and
    definition under the mouse.

    Args:
        runs: metrics of each run by name (`Run.metrics()`).
        metrics: columns to draw.
        look: style of each run (`styles`).
        methods: method of each run, which says what its metrics mean.
        x: "step", "time" (seconds of training) or `RELATIVE`, where the frames have it (`relative_steps`).
        weight: smoothing in [0, 1).
        log_y: logarithmic y axes.
        marker: x of a vertical line, such as the step whose captures are shown.
        columns: panels side by side.
        spreads: intervals and single trainings of those that are means, drawn pale and faint behind them.
        most: panels that are drawn, the first ones; all by default.
    """
    drawn = metric_panels(runs, metrics, methods or {})[:most]
    panels = small_multiples([(each.metric, each.about) for each in drawn], columns)
    for at, (metric, unit, names) in enumerate(((each.metric, each.about.unit, each.runs) for each in drawn), start=1):
        for name in names:
            rows, number = runs[name][runs[name][metric].notna()], "%{y:.1%}" if unit in RATES else "%{y:.4g}"
            if spreads and name in spreads:
                panels.add(at, *_around(spreads[name], name, metric, look[name], unit, x, weight, log_y))
            panels.add(at, *_lines(name, metric, rows, look[name], x, weight, number, has_label=at == 1))
        values = [runs[name][metric].to_numpy(dtype=float) for name in names]
        ticks = log_axis(np.concatenate([np.empty(0), *values])) if log_y else {"type": "linear"}
        ticks |= {"tickformat": "~%" if log_y else ".0%"} if unit in RATES else {}
        panels.axis("y", at, **ticks)
        if marker is not None:
            panels.mark(at, DOTTED, x=marker)
    panels.lowest(title=AXES[x])
    for name in runs:  # an entry each, even where a run lacks the first metric
        line = {"color": look[name].colour, "dash": look[name].dash, "width": 2}
        panels.add(1, legend_entry(escape(name), legendgroup=name, line=line))
    return panels.figure(hovermode="x unified" if len(drawn) == 1 else "closest")


def small_multiples(metrics: Sequence[tuple[str, Term]], columns: int) -> Panels:
    """Return a panel for each metric, called by its title with its unit; its name and definition are under the mouse.

    Args:
        metrics: their names, and what they mean.
        columns: panels side by side, at most.
    """
    columns = max(1, min(columns, len(metrics)))
    titles = [escape_lines(about.label, TITLE_WIDTH) for _, about in metrics] or [""]
    gap = min(0.4 / -(-len(titles) // columns), 0.3)
    panels = Panels(titles, columns=columns, spacing=0.3 / columns**1.5, gap=gap)
    for at, (metric, about) in enumerate(metrics, start=1):
        if about.definition:
            panels.explain(at, escape_lines(about.explain(metric), HOVER_WIDTH))
    return panels


def legend_entry(name: str, **look: Any) -> go.Scatter:
    """Return an entry of the legend without a curve, for a dash (`line=`) or a mark (`marker=`)."""
    return go.Scatter(x=[None], y=[None], mode="lines" if "line" in look else "markers", name=name, **look)


def _lines(
    name: str, metric: str, frame: pd.DataFrame, style: Style, x: str, weight: float, number: str, has_label: bool
) -> list[go.Scatter]:
    values = frame[metric].to_numpy(dtype=float)
    line = {"color": style.colour, "dash": style.dash, "width": 2}
    mode = "lines" if len(frame) > 1 else "markers"  # a line through one point is not seen
    settings = {"x": frame[x].to_numpy(), "mode": mode, "legendgroup": name, "showlegend": False}
    settings["marker"] = {"color": style.colour, "size": 8}
    curve = go.Scatter(
        y=smooth(values, weight) if weight else values,
        name=escape(name),
        line=line,
        hovertemplate=number if has_label else "%{x:.6g}: " + number,
        **settings,
    )
    if not weight:
        return [curve]
    raw = go.Scatter(y=values, line=line | {"width": 1}, opacity=0.25, hoverinfo="skip", **settings)
    return [raw, curve]


def _around(
    spread: Spread, name: str, metric: str, style: Style, unit: str, x: str, weight: float, log_y: bool
) -> list[go.Scatter]:
    """Return the traces around a mean over trainings: the curve of each training, and the mean's interval."""
    traces, least = [], math.inf
    for frame in (frame for frame in spread.members if metric in frame):
        rows = frame[frame[metric].notna()]
        y = smooth(rows[metric].to_numpy(dtype=float), weight)
        least = min(least, *y[y > 0], math.inf)
        quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": name}
        line = {"color": style.colour, "width": 1}
        traces.append(go.Scatter(x=rows[x], y=y, mode="lines", line=line, opacity=0.3, **quiet))
    known = spread.low[metric].notna() if metric in spread.low else pd.Series(dtype=bool)
    if known.any():
        ends = [smooth(each.loc[known, metric].to_numpy(dtype=float), weight) for each in (spread.low, spread.high)]
        low, high = np.array([shown_ends(unit, *pair) for pair in zip(*ends, strict=True)]).T
        low = np.maximum(low, least) if log_y else low
        traces.append(band(spread.low.loc[known, x], low, high, style.colour).update(legendgroup=name))
    return traces


def band(x: Curve, low: Curve, high: Curve, colour: str) -> go.Scatter:
    """Return the area between two curves as an interval around a line: pale, without a name or hover text."""
    return go.Scatter(
        x=[*x, *reversed(list(x))],
        y=[*high, *reversed(list(low))],
        mode="lines",
        fill="toself",
        fillcolor=colour,
        opacity=0.18,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def answer_curves(
    steps: Sequence[int],
    values: np.ndarray,
    answers: Sequence[str],
    *,
    marker: float | None = None,
    axis: str = "log-probability (nats)",
) -> go.Figure:
    """Log-probability of each chosen answer after the prompt, over training; each has a colour, a dash and a mark.

    Args:
        steps: [S] captured steps.
        values: [S A] natural log-probabilities at the last position of the prompt, or what `axis` says.
        answers: [A] the answers, the true one first where there is one.
        marker: step to mark.
        axis: title of the vertical axis.
    """
    marks = ("circle", "diamond-open", "square-open", "triangle-up-open", "x")
    panels = Panels()
    for index, answer in enumerate(answers):
        curve = go.Scatter(
            x=list(steps),
            y=values[:, index],
            mode="lines+markers",
            name=escape(answer),
            marker={"size": 7, "symbol": marks[index % len(marks)]},
            line={"color": ANSWERS[index % len(ANSWERS)], "dash": DASHES[index % len(DASHES)], "width": 2},
            hovertemplate="step %{x}: %{y:.3f}" + " nats" * ("nats" in axis),
        )
        panels.add(1, curve)
    if marker is not None:
        panels.mark(1, DOTTED, x=marker)
    panels.axis("x", title="step")
    panels.axis("y", title=axis)
    return panels.figure(showlegend=True)
