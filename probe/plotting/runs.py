"""Figures of runs: the tree of runs by parent, reference and reward model, and one completion token by token.

The tree is drawn like a listing: one row per run, parents above their children, one column per generation. No label
covers another, and no line crosses a run, for any number of runs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import legend_entry
from probe.plotting.marks import text_bars
from probe.plotting.panels import ABOVE, Panels
from probe.plotting.theme import LIGHT, METHODS, escape, method_colour, new_figure, shorten, token_axis
from probe.runs.captured import MEASURES

RELATIONS = {"parent": "solid", "reward_model": "dash", "reference": "dot"}
"""Relations of a run to an earlier one, strongest first, and the dash of their lines."""

SYMBOLS = {"finished": "circle", "running": "circle-open-dot", "interrupted": "diamond"}
"""Marker of each status; any other status is drawn as a cross."""

ROW = 30
"""Distance between two rows in pixels."""

Edge = tuple[str, str, str]
Place = tuple[float, float]


def edges(runs: pd.DataFrame) -> list[Edge]:
    """Return the relations between the runs of the table as (from, to, relation), at most one for each pair of runs.

    Args:
        runs: columns `name`, `parent`, `reference`, `reward_model` (a name or None).
    """
    names = set(runs["name"])
    pairs: list[Edge] = []
    for row in runs.to_dict("records"):
        sources = {row["name"]}
        for relation in RELATIONS:
            source = row[relation]
            if source in names and source not in sources:
                sources.add(source)
                pairs.append((str(source), str(row["name"]), relation))
    return pairs


def layout(runs: pd.DataFrame) -> dict[str, Place]:
    """Return the position of each run: x = generations since its first ancestor, y = row, descendants directly below.

    A run is placed below its parent, without one below its reward model, then its reference; cycles are cut.
    """
    parents: dict[str, str] = {}
    for source, target, _ in edges(runs):
        parents.setdefault(target, source)
    names = [str(name) for name in runs["name"]]
    place: dict[str, Place] = {}

    def put(name: str, depth: int) -> None:
        if name not in place:
            place[name] = (float(depth), float(len(place)))
            for child in names:
                if parents.get(child) == name:
                    put(child, depth + 1)

    for name in names:
        if name not in parents:
            put(name, 0)
    for name in names:
        put(name, 0)
    return place


def lineage(runs: pd.DataFrame, selected: Sequence[str] = ()) -> go.Figure:
    """Draw the tree of runs; each marker holds its run's name in `customdata[0]`, so that a click selects the run.

    Args:
        runs: one row per run with `name`, `method`, `status`, `parent`, `reference`, `reward_model`, and optionally
            `title`, the displayed name.
        selected: names of the runs with a ring.
    """
    place = layout(runs)
    figure = new_figure(showlegend=True, hovermode="closest", clickmode="event+select", dragmode=False)
    for relation, dash in RELATIONS.items():
        lines = [(place[a], place[b]) for a, b, kind in edges(runs) if kind == relation]
        if lines:
            xs, ys = _path(lines, elbow=relation == "parent")
            line = {"color": "#9AA1AC", "width": 1.6, "dash": dash}
            way = go.Scatter(x=xs, y=ys, mode="lines", name=relation.replace("_", " "), hoverinfo="skip", line=line)
            figure.add_trace(way)
    for method, group in runs.groupby("method", sort=False):
        figure.add_trace(_markers(group, str(method), place, selected))
        figure.add_trace(legend_entry(escape(str(method)), marker={"size": 11, "color": method_colour(str(method))}))
    for status in dict.fromkeys(str(status) for status in runs["status"] if status != "finished"):
        marker = {"size": 11, "color": "#9AA1AC", "symbol": SYMBOLS.get(status, "x")}
        figure.add_trace(legend_entry(escape(status), marker=marker))
    depth = max((x for x, _ in place.values()), default=0.0)
    figure.update_xaxes(visible=False, range=[-0.3, depth + 1.6], fixedrange=True)
    figure.update_yaxes(visible=False, range=[len(place) - 0.4, -0.6], fixedrange=True)
    figure.update_layout(margin={"l": 4, "r": 4, "t": 48, "b": 4}, height=max(170, 56 + ROW * len(place)))
    figure.update_layout(legend=ABOVE | {"itemclick": False})
    return figure


def _markers(group: pd.DataFrame, method: str, place: dict[str, Place], selection: Sequence[str]) -> go.Scatter:
    names = [str(name) for name in group["name"]]
    titles = [str(title) for title in group["title" if "title" in group else "name"]]
    states = [str(status) for status in group["status"]]
    return go.Scatter(
        x=[place[name][0] for name in names],
        y=[place[name][1] for name in names],
        mode="markers+text",
        name=escape(method),
        showlegend=False,
        text=["  " + escape(shorten(title, 30)) for title in titles],
        textposition="middle right",
        customdata=[
            [name, escape(title), escape(state)] for name, title, state in zip(names, titles, states, strict=True)
        ],
        hovertemplate=f"%{{customdata[1]}}<br>{escape(method)}, %{{customdata[2]}}<extra></extra>",
        marker={
            "size": 16,
            "opacity": 1,
            "color": method_colour(method),
            "symbol": [SYMBOLS.get(status, "x") for status in states],
            "line": {"width": [3 if name in selection else 0 for name in names], "color": LIGHT.muted},
        },
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}, "textfont": {"color": None}},
        cliponaxis=False,
    )


def _path(lines: Sequence[tuple[Place, Place]], elbow: bool) -> tuple[list[float | None], list[float | None]]:
    """Return elbow lines from parents to children, or curves that bend to the left for other relations."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for (x0, y0), (x1, y1) in lines:
        if elbow:
            xs += [x0, x0, x1, None]
            ys += [y0, y1, y1, None]
        else:
            for t in (step / 16 for step in range(17)):
                xs.append(x0 + (x1 - x0) * t - 1.6 * t * (1 - t))
                ys.append(y0 + (y1 - y0) * t)
            xs.append(None)
            ys.append(None)
    return xs, ys


def token_panels(
    measures: Mapping[str, np.ndarray],
    tokens: Sequence[str],
    *,
    chosen: int | None = None,
    colour: str = METHODS["rlvr"],
) -> go.Figure:
    """Draw a row of bars over the tokens for each measure.

    Args:
        measures: values [L] by name (`probe.runs.captured.token_measures`).
        tokens: [L] tokens of the completion.
        chosen: index of the token to emphasise.
        colour: colour of the run's method.
    """
    count = max(1, len(measures))
    panels = Panels([""] * count, columns=1, gap=0.06, shared_x=True)
    for row, (name, values) in enumerate(measures.items(), start=1):
        unit = MEASURES.get(name, "")
        panels.add(row, text_bars(tokens, values, colour, f"{name} %{{y:.4g}}", chosen))
        panels.axis("y", row, title=f"{name}<br>({unit})" if unit else name, nticks=4)
    panels.axis("x", range=[-0.6, max(1, len(tokens)) - 0.4], **token_axis(tokens))
    panels.lowest(tickangle=-45)
    return panels.figure(showlegend=False, bargap=0.15, clickmode="event+select")
