"""Curves over training: metrics of several runs by step, tokens or time, and the log-probability of given answers."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import shown_ends
from probe.plotting.crowds import Courses, crowd_bands
from probe.plotting.downsampling import Window, shown
from probe.plotting.panels import Panels
from probe.plotting.theme import ANSWERS, DASHES, DOTTED, SECOND, escape, escape_lines, log_axis, method_colour
from probe.terms import RATES, Term, logged

RELATIVE, TOKENS = "relative step", "tokens trained on"
"""Columns that `with_axes` adds: the step in percent, which makes runs of different lengths comparable, and the number
of tokens in all updates so far, if the run counts them."""
AXES = {"step": "step", RELATIVE: "step (% of the run)", TOKENS: TOKENS, "time": "training time (s)"}
"""Title of each horizontal axis, by its column. The time is that of training: no pause before a resume counts."""
WARNING = "#F2A900"
"""Colour of marks on curves."""
COUNT = "num_tokens"
"""Metric with the tokens trained on since the start (docs/metrics.md)."""
HOVER_WIDTH = 60
"""Maximum line length of a definition on hover, in characters."""
TITLE_WIDTH = 22
"""Maximum line length of a panel's title, in characters."""
ROUNDING, MARGIN = 1e-5, 0.01
"""Changes as shares of a curve's size: up to which they are rounding, and what its axis then shows above and below."""
REWARD = ("reward", "kl", "expected_gold", "kl_to_optimal", "expected_reward", "kl_to_reference", "reward_std")
"""Headline metrics of methods that sample, in the order shown; their policy-gradient loss is not a headline metric."""


Curve = Sequence[float] | pd.Series


@dataclass(frozen=True)
class Spread:
    """Intervals and single trainings that are drawn around a mean over trainings."""

    low: pd.DataFrame
    """Lower ends of the intervals, with the columns of the table of means."""
    high: pd.DataFrame
    members: Sequence[pd.DataFrame]
    """Metrics of each training."""


@dataclass(frozen=True)
class Style:
    """Colour and dash of a run, the same in every figure."""

    colour: str
    """Colour of the run's method: the first, or the second for another run of that method."""

    dash: str = "solid"
    """Dash of the lines, which distinguishes runs of one method."""


def styles(methods: Mapping[str, str], first: str | None = None) -> dict[str, Style]:
    """Return a style for each run: colour by method, a second colour for the method's second run, and different dashes.

    Args:
        methods: method of each run by name, in order of appearance.
        first: run that gets the first colour of its method regardless of its position, such as the baseline.
    """
    counts: dict[str, int] = {}
    result = {}
    for name in sorted(methods, key=lambda name: name != first):
        colour = method_colour(methods[name])
        order = counts[colour] = counts.get(colour, -1) + 1
        result[name] = Style(SECOND[colour] if order % 2 else colour, DASHES[order % len(DASHES)])
    return {name: result[name] for name in methods}


def sections(columns: Sequence[str]) -> dict[str, list[str]]:
    """Group metrics into sections: by the part before the first slash, or by subject if there is no slash.

    The columns of axes (`AXES`) are left out. The section of losses comes first, then the one of reward and KL.
    """
    speed = {"tokens_per_second", "step_time", COUNT}
    groups: dict[str, list[str]] = {"loss": [], "reward": [name for name in REWARD if name in columns]}
    for column in columns:
        if column in (*AXES, *REWARD):
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
    """Smooth a metric by an exponential moving average with bias correction; missing values (NaN) stay missing.

    Args:
        values: [n] metric over steps.
        weight: weight of the past, in [0, 1); 0 leaves the values unchanged.
    """
    known = np.isfinite(values)
    scale = max(1.0, np.abs(values[known]).max(initial=0.0))  # sums of weighted values stay below the largest float
    scaled = pd.Series(np.where(known, values, np.nan) / scale)
    return np.where(known, scaled.ewm(alpha=1 - weight, ignore_na=True).mean() * scale, np.nan)


def with_axes(frame: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Return the metrics of a run with further columns for the horizontal axis: `RELATIVE`, and `TOKENS` if known.

    Tokens are those that the run logged as `num_tokens`. They are unknown for steps without a count, except for step 0,
    before which nothing was trained on. A run whose count falls, because it began anew, gets no such column.

    Args:
        frame: metrics (`Run.metrics()`).
        steps: number of steps of the run.
    """
    frame = frame.assign(**{RELATIVE: 100 * frame["step"] / max(1, steps)})
    if COUNT not in frame:
        return frame
    tokens = frame[COUNT].mask(frame[COUNT].isna() & (frame["step"] == 0), 0.0)
    return frame.assign(**{TOKENS: tokens}) if tokens.dropna().is_monotonic_increasing else frame


@dataclass(frozen=True)
class MetricPanel:
    """Panel of a metric, with the runs for which it has the same meaning."""

    metric: str
    about: Term
    runs: tuple[str, ...]


def metric_panels(
    runs: Mapping[str, Collection[Any]], metrics: Sequence[str], methods: Mapping[str, str]
) -> list[MetricPanel]:
    """Return a panel for each meaning of each metric: the losses of two objectives must not share an axis.

    Args:
        runs: metrics of each run by name (`Run.metrics()`), or their names alone.
        metrics: columns to draw.
        methods: method of each run, which determines what its metrics mean (`probe.terms`); if only one meaning is
            known, it is assumed for runs of other methods too.
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


@dataclass(frozen=True)
class Mark:
    """A step of a run that is marked on the curves of some metrics."""

    step: int
    metrics: tuple[str, ...]
    text: str
    """Text shown on hover."""


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
    points: int | None = None,
    windows: Mapping[int, Window] = MappingProxyType({}),
    behind: Mapping[str, Courses] = MappingProxyType({}),
    marks: Mapping[str, Sequence[Mark]] = MappingProxyType({}),
) -> go.Figure:
    """Draw one panel per metric and one line per run; smoothed curves keep the raw curve behind them, drawn faintly.

    A metric that means different things for different methods, such as the loss, has a panel for each meaning
    (`metric_panels`). The title of a panel is the metric's title and unit (`probe.terms`); on hover it shows the
    metric's name and definition.

    Args:
        runs: metrics of each run by name (`Run.metrics()`).
        metrics: columns to draw.
        look: style of each run (`styles`).
        methods: method of each run, which determines what its metrics mean.
        x: column of the horizontal axis (`AXES`); runs without it are not drawn (`with_axes`).
        weight: weight of the past in smoothing, in [0, 1).
        log_y: whether the y axes are logarithmic.
        marker: position of a vertical line, such as the step whose captures are shown.
        columns: number of panels side by side.
        spreads: intervals and single trainings of each run that is a mean over trainings.
        most: maximum number of panels; all by default.
        points: about the number of points of each curve (`probe.plotting.downsampling`); all by default.
        windows: part of the horizontal axis that a panel shows, by its number from 1, drawn with as many points.
        behind: further runs, drawn as quantile bands, one per method (`probe.plotting.crowds`).
        marks: marks on the curves of runs, such as the step at which a fault begins.
    """
    runs = {name: _known(frame, x) for name, frame in runs.items() if x in frame}
    columns_of: Mapping[str, Collection[Any]] = {**runs, **behind}
    drawn = metric_panels(columns_of, metrics, methods or {})[:most]
    panels = small_multiples([(each.metric, each.about) for each in drawn], columns)
    for at, (metric, unit, names) in enumerate(((each.metric, each.about.unit, each.runs) for each in drawn), start=1):
        form, number = Form(x, weight, points, windows.get(at)), "%{y:.1%}" if unit in RATES else "%{y:.4g}"
        crowd = [name for name in names if name in behind]
        panels.add(at, *crowd_bands({name: behind[name][metric] for name in crowd}, methods or {}, number, log_y))
        front = [name for name in names if name in runs]
        for name in front:
            rows = _known(runs[name], metric)
            if spreads and name in spreads:
                panels.add(at, *_around(spreads[name], name, metric, look[name], unit, form, log_y))
            panels.add(at, *_lines(name, metric, rows, look[name], form, number, has_label=at == 1))
            panels.add(
                at, *_signs([each for each in marks.get(name, ()) if metric in each.metrics], metric, rows, form)
            )
        values = [runs[name][metric].to_numpy(dtype=float) for name in front]
        values += [behind[name][metric][1] for name in crowd]
        together = np.concatenate([np.empty(0), *values])
        ticks = log_axis(together) if log_y else linear_axis(together, unit)
        panels.axis("y", at, **ticks | ({"tickformat": "~%"} if log_y and unit in RATES else {}))
        if marker is not None:
            panels.mark(at, DOTTED, x=marker)
    panels.lowest(title=AXES[x])
    for name in runs:  # an entry each, even where a run lacks the first metric
        line = {"color": look[name].colour, "dash": look[name].dash, "width": 2}
        panels.add(1, legend_entry(escape(name), legendgroup=name, line=line))
    return panels.figure(hovermode="x unified" if len(drawn) == 1 else "closest")


def linear_axis(values: np.ndarray, unit: str) -> dict[str, Any]:
    """Return settings of a linear axis on which rounding looks flat and ticks can be told apart."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    size = max(abs(low), abs(high))
    axis: dict[str, Any] = {"type": "linear", "exponentformat": "e", "tickformat": tick_format(unit, low, high)}
    if 0 < high - low < ROUNDING * size:
        low, high = low - MARGIN * size, high + MARGIN * size
        axis |= {"range": [low, high], "tickformat": tick_format(unit, low, high)}
    return axis


def tick_format(unit: str, low: float, high: float) -> str | None:
    """Return the format of the ticks of a rate, with enough decimals to tell them apart; None for other metrics."""
    if unit not in RATES:
        return None
    return ".0%" if high - low >= 0.1 else ".1%" if high - low >= 0.01 else ".2%"


def small_multiples(metrics: Sequence[tuple[str, Term]], columns: int) -> Panels:
    """Return a panel for each metric, titled with the metric's title and unit; name and definition are shown on hover.

    Args:
        metrics: name and meaning of each metric.
        columns: maximum number of panels side by side.
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
    """Return a legend entry without a curve, for a dash (`line=`) or a marker (`marker=`)."""
    return go.Scatter(x=[None], y=[None], mode="lines" if "line" in look else "markers", name=name, **look)


@dataclass(frozen=True)
class Form:
    """How the curves of a panel are drawn (see `metric_curves`)."""

    x: str
    weight: float
    points: int | None = None
    window: Window | None = None

    def curve(self, x: pd.Series, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return the coordinates of the points of a curve that are drawn."""
        places = x.to_numpy()
        if self.points is None or len(y) <= self.points:
            return {"x": places, "y": y}
        kept = shown(places, y, self.points, self.window)
        few = y[kept].astype(np.float32)  # half the bytes, seven digits
        return {"x": places[kept], "y": few if np.isfinite(few).all() else y[kept]}


def _known(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows that have a value in a column: the table itself if all do."""
    known = frame[column].notna()
    return frame if known.all() else frame[known]


def _lines(
    name: str, metric: str, frame: pd.DataFrame, style: Style, form: Form, number: str, has_label: bool
) -> list[go.Scatter]:
    values = frame[metric].to_numpy(dtype=float)
    line = {"color": style.colour, "dash": style.dash, "width": 2}
    mode = "lines" if len(frame) > 1 else "markers"  # a line through one point is invisible
    settings: dict[str, Any] = {"mode": mode, "legendgroup": name, "showlegend": False}
    settings["marker"] = {"color": style.colour, "size": 8}
    curve = go.Scatter(
        name=escape(name),
        line=line,
        hovertemplate=number if has_label else "%{x:.6g}: " + number,
        **form.curve(frame[form.x], smooth(values, form.weight) if form.weight else values),
        **settings,
    )
    if not form.weight:
        return [curve]
    look = {"line": line | {"width": 1}, "opacity": 0.25, "hoverinfo": "skip"}
    return [go.Scatter(**form.curve(frame[form.x], values), **look, **settings), curve]


def _around(
    spread: Spread, name: str, metric: str, style: Style, unit: str, form: Form, log_y: bool
) -> list[go.Scatter]:
    """Return the traces around a mean over trainings: the curve of each training and the interval of the mean."""
    traces, least, x = [], math.inf, form.x
    for frame in (frame for frame in spread.members if metric in frame):
        rows = frame[[x, metric]].dropna()
        y = smooth(rows[metric].to_numpy(dtype=float), form.weight)
        least = min(least, float(y[y > 0].min(initial=math.inf)))
        quiet = {"hoverinfo": "skip", "showlegend": False, "legendgroup": name}
        line = {"color": style.colour, "width": 1}
        traces.append(go.Scatter(**form.curve(rows[x], y), mode="lines", line=line, opacity=0.3, **quiet))
    known = spread.low[[x, metric]].notna().all(axis=1) if metric in spread.low else pd.Series(dtype=bool)
    if known.any():
        ends = [
            smooth(each.loc[known, metric].to_numpy(dtype=float), form.weight) for each in (spread.low, spread.high)
        ]
        places = spread.low.loc[known, x].to_numpy()
        if form.points is not None:
            kept = np.unique(np.concatenate([shown(places, end, form.points, form.window) for end in ends]))
            places, ends = places[kept], [end[kept] for end in ends]
        low, high = np.array([shown_ends(unit, *pair) for pair in zip(*ends, strict=True)]).T
        low = np.maximum(low, least) if log_y else low
        traces.append(band(places, low, high, style.colour).update(legendgroup=name))
    return traces


def _signs(marks: Sequence[Mark], metric: str, rows: pd.DataFrame, form: Form) -> list[go.Scatter]:
    """Return a trace with a sign on a curve for each of its marks; the text is shown on hover."""
    marks = [each for each in marks if metric in each.metrics]
    if not marks or "step" not in rows or not len(rows):
        return []
    values = smooth(rows[metric].to_numpy(dtype=float), form.weight)
    places = [int(np.abs(rows["step"].to_numpy(dtype=float) - each.step).argmin()) for each in marks]
    return [
        go.Scatter(
            x=rows[form.x].to_numpy()[places],
            y=values[places],
            mode="markers",
            marker={"symbol": "triangle-up", "size": 13, "color": WARNING, "line": {"width": 1.5, "color": "#333333"}},
            text=[escape(each.text) for each in marks],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    ]


def band(x: Curve, low: Curve, high: Curve, colour: str) -> go.Scatter:
    """Return the area between two curves as the pale interval of a line, without legend entry and hover text."""
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
    """Draw the log-probability of each answer after the prompt over training; each has a colour, dash and marker.

    Args:
        steps: [S] training steps of the captures.
        values: [S A] natural log-probabilities at the last position of the prompt, or the quantity that `axis` names.
        answers: [A] answers, the true one first if there is one.
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
