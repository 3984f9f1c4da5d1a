"""Many runs in one panel: quantile bands over the runs of each method at each place of the horizontal axis."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.theme import escape, method_colour

MOST_LINES = 30
"""Most runs that are drawn as lines."""
PLACES = 512
"""Number of places at which a run behind is read, and of those at which bands are drawn."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
ABOUT = "Bands: 5 to 95 % and 25 to 75 % of the runs of a method at each place; dotted: their median."
Course = tuple[np.ndarray, np.ndarray]
"""Places [n] and values [n] of a metric of one run."""
Courses = Mapping[str, Course]
"""Courses of a run by metric."""


def course(places: pd.Series, values: np.ndarray) -> Course:
    """Return what the bands need of a curve: at most `PLACES` of its points, at even distances, with both ends.

    Args:
        places: [n] places, of which none is missing.
        values: [n] values, smoothed if they shall be, of which none is missing.
    """
    x = places.to_numpy(dtype=float)
    order = np.arange(len(x)) if (x[1:] >= x[:-1]).all() else np.argsort(x, kind="stable")
    x, y = x[order], values[order]
    kept = evenly(x)
    return x[kept], y[kept]


def evenly(places: np.ndarray) -> np.ndarray:
    """Return the indices of at most `PLACES` of rising places, at even distances, with both ends."""
    if len(places) <= PLACES:
        return np.arange(len(places))
    return np.unique(np.searchsorted(places, np.linspace(places[0], places[-1], PLACES)).clip(max=len(places) - 1))


def quantiles(courses: Sequence[Course]) -> tuple[np.ndarray, np.ndarray]:
    """Return places [p] and `QUANTILES` [5 p] over runs; between its points a run is read along a straight line.

    A run counts from its first to its last place. Places that no run reaches are left out.
    """
    courses = [each for each in courses if len(each[0])]
    if not courses:
        return np.empty(0), np.empty((len(QUANTILES), 0))
    ends = min(x[0] for x, _ in courses), max(x[-1] for x, _ in courses)
    grid = np.unique(np.linspace(*ends, PLACES))
    values = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in courses])
    reached = np.isfinite(values).any(axis=0)
    return grid[reached], np.nanquantile(values[:, reached], QUANTILES, axis=0)


def crowd_bands(
    courses: Mapping[str, Course], methods: Mapping[str, str], number: str, log_y: bool = False
) -> list[go.Scatter]:
    """Return the bands and the median of the runs of each method, the bands first.

    Args:
        courses: course of each run by name.
        methods: method of each run, which gives the colour.
        number: format of a value on hover.
        log_y: whether the vertical axis is logarithmic, on which a band begins above 0.
    """
    groups: dict[str, list[Course]] = {}
    for name, each in courses.items():
        groups.setdefault(methods.get(name, ""), []).append(each)
    traces = []
    for method, members in groups.items():
        x, found = quantiles(members)
        if log_y:
            found = np.where(found > 0, found, np.nan)
            whole = ~np.isnan(found).any(axis=0)
            x, found = x[whole], found[:, whole]
        count, colour = len(members), method_colour(method)
        name = f"{count} run{'s' * (count > 1)} of {method or 'any method'}"
        group = {"legendgroup": f"behind {method}", "name": escape(name)}
        for low, high in ((0, 4), (1, 3)):
            area = {"x": np.concatenate([x, x[::-1]]), "y": np.concatenate([found[high], found[low][::-1]])}
            look = {"fill": "toself", "fillcolor": colour, "opacity": 0.18, "line": {"width": 0}}
            traces.append(go.Scatter(**area, **look, **group, mode="lines", hoverinfo="skip", showlegend=False))
        line = {"color": colour, "width": 1.6, "dash": "dot"}
        hover = f"median of {escape(name)} at %{{x:.6g}}: {number}<extra></extra>"
        traces.append(go.Scatter(x=x, y=found[2], **group, mode="lines", line=line, hovertemplate=hover))
    return traces
