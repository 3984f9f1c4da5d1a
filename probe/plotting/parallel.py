"""Parallel coordinates: one line per run through its options and its metrics, coloured by one of the metrics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import tick_format
from probe.plotting.panel_layout import wrap
from probe.plotting.panels import ROW
from probe.plotting.theme import LIGHT, colour_axis, escape, new_figure, shorten
from probe.terms import RATES, Term

DECADE = 10.0
"""Ratio of the largest to the smallest number from which an option has a logarithmic axis."""
APART = 0.05
"""Minimum distance of two labelled ticks, as a share of the axis; ticks in between have no label."""
FAN, EDGE = 0.2, 0.42
"""Share of the distance between two ticks over which the lines through one of them are spread, and distance of the
first and the last one from the ends of the axis. A drag selects what lies within a quarter of the distance to the next
tick; so there is a tick without a label at each end, and every line of a fan lies within that quarter."""
NOT_SET = "not set"
"""Label of an option that a run was not given."""
LONGEST, LETTER, LINE = 18, 6.4, 15
"""Maximum number of characters of a tick label, and the assumed width and height of a character in pixels."""
AROUND = 110
"""Width of the colour bar with its labels, in pixels."""


def parallel_coordinates(
    options: pd.DataFrame, metrics: pd.DataFrame, about: Mapping[str, Term], colour: str
) -> go.Figure:
    """Draw a line for each run through one axis per option and per metric.

    Numbers that span a decade have a logarithmic axis; values of which one is not a number are categories. Lines that
    share a value are spread around its tick in the order of the coloured metric, so that each is seen. Dragging along
    an axis selects the lines that cross it there.

    Args:
        options: option of each run by column, of any type; None where a run was not given one.
        metrics: metric of each run by column, with the same rows, without missing values.
        about: title and unit of each metric.
        colour: metric that colours the lines.
    """
    count = len(options.columns) + len(metrics.columns)
    room = ROW / max(count - 1, 1)
    shades = metrics[colour].to_numpy(dtype=float)
    order = np.argsort(np.argsort(shades, kind="stable"), kind="stable")
    axes = [option_axis(str(name), list(options[name]), order) for name in options]
    axes += [metric_axis(about[str(name)], metrics[name].to_numpy(dtype=float)) for name in metrics]
    for axis in axes:
        axis["label"] = wrap(axis["label"], room, 12)
    lines = max((1 + axis["label"].count("<br>") for axis in axes), default=1)
    left = LETTER * max((len(text) for text in (axes[0].get("ticktext") or ())), default=6) + 18 if axes else 40
    low, high = _ends(about[colour].unit, shades)
    trace = go.Parcoords(
        dimensions=axes,
        line={"color": shades, "coloraxis": "coloraxis"},
        labelside="bottom",
        rangefont={"color": "rgba(0,0,0,0)", "size": 1},  # ticks say it
        unselected={"line": {"color": LIGHT.muted, "opacity": 0.15}},
    )
    bar = colour_axis(wrap(escape(about[colour].label), AROUND, 12), low=low, high=high, kind="lines")
    bar["colorbar"]["tickformat"] = tick_format(about[colour].unit, low, high) or "~g"
    margin = {"l": left, "r": 24, "t": 30, "b": 24 + LINE * lines}
    figure = new_figure(coloraxis=bar, margin=margin, height=420 + LINE * lines)
    return figure.add_trace(trace)


def option_axis(name: str, values: Sequence[Any], order: np.ndarray) -> dict[str, Any]:
    """Return the axis of an option as Plotly's dimension: a tick at each value, and lines spread around it.

    Args:
        name: name of the option.
        values: value of each run.
        order: [n] order of the runs by the coloured metric.
    """
    numbers = _numbers(values)
    if numbers is None:
        texts = [_text(value) for value in values]
        ticks = dict.fromkeys(sorted(set(texts), key=lambda text: (text != NOT_SET, texts.index(text))))
        places, words = [list(ticks).index(text) for text in texts], list(ticks)
        at, label = list(map(float, range(len(words)))), escape(name)
    else:
        is_log = min(numbers) > 0 and max(numbers) >= DECADE * min(numbers)
        known = sorted(set(numbers))
        places, words = [known.index(number) for number in numbers], [f"{number:g}" for number in known]
        at = [math.log10(number) if is_log else number for number in known]
        label = f"{escape(name)} (log scale)" if is_log else escape(name)
    gap = min(np.diff(at), default=1.0)
    spread = np.array([at[place] for place in places])
    for place in range(len(at)):
        here = np.flatnonzero(np.array(places) == place)
        inside = here[np.argsort(order[here])]
        spread[inside] += np.linspace(-0.5, 0.5, len(inside)) * FAN * gap if len(inside) > 1 else 0.0
    low, high = at[0] - EDGE * gap, at[-1] + EDGE * gap
    shown = _without_close(at, [escape(shorten(word, LONGEST)) for word in words], APART * (high - low))
    ticks = {"tickvals": [low, *at, high], "ticktext": ["", *shown, ""]}
    return {"label": label, "values": spread, "range": [low, high], **ticks}


def metric_axis(about: Term, values: np.ndarray) -> dict[str, Any]:
    """Return the axis of a metric as Plotly's dimension."""
    low, high = _ends(about.unit, values)
    return {
        "label": escape(about.label),
        "values": values,
        "range": [low, high],
        "tickformat": tick_format(about.unit, low, high) or "~g",
    }


def _numbers(values: Sequence[Any]) -> list[float] | None:
    """Return the values as finite numbers, or None if one is not."""
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    try:
        numbers = [float(value) for value in values]
    except OverflowError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _text(value: Any) -> str:
    """Return a value as in a spec."""
    return NOT_SET if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _without_close(at: Sequence[float], words: Sequence[str], least: float) -> list[str]:
    """Return the labels with an empty text for each tick that is too close to the last labelled one."""
    shown, last = [], -math.inf
    for place, word in zip(at, words, strict=True):
        shown.append(word if place - last >= least else "")
        last = place if shown[-1] else last
    return shown


def _ends(unit: str, values: np.ndarray) -> tuple[float, float]:
    """Return the ends of the axis of a metric, with some room around equal values."""
    low, high = float(values.min()), float(values.max())
    if low == high and unit in RATES:
        return max(low - 0.05, 0.0), min(high + 0.05, 1.0)
    if low == high:
        room = abs(low) / 10 or 1.0
        return low - room, high + room
    return low, high
