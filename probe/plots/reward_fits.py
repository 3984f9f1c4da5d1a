"""Fits of overoptimisation (Gao et al. 2022) and best of N against its bound."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.analyses.overoptimisation import Fit
from probe.plots.rewards import AXES
from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, written
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, METHODS, escape


def overoptimisation(
    points: Mapping[str, pd.DataFrame],
    fits: Mapping[tuple[str, str], Fit],
    look: Mapping[str, Style],
    titles: Mapping[str, str],
) -> go.Figure:
    """Rewards against d with the fits of Gao et al.: one panel a reward, one colour a series.

    Args:
        points: columns d and each reward, by series.
        fits: by (series, reward).
        look: style of each series.
        titles: reward to the title of its panel.
    """
    panels = Panels([escape(title) for title in titles.values()], spacing=0.1)
    for column, reward in enumerate(titles, start=1):
        for series, table in points.items():
            style, found = look[series], fits.get((series, reward))
            known = table[table[reward].notna()]
            seen = {
                "type": "scatter",
                "x": known["d"],
                "y": known[reward],
                "mode": "markers",
                "name": escape(series),
                "legendgroup": series,
                "showlegend": column == 1,
                "marker": {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 7, "opacity": 0.85},
                "hovertemplate": escape(series) + "<br>d %{x:.3f}, reward %{y:.3f}<extra></extra>",
            }
            panels.add(column, seen)
            if found is None:
                continue
            silent = {"type": "scatter", "legendgroup": series, "showlegend": False}
            grid, told = np.linspace(0, 1.05 * found.d.max(), 160), f"a = {written(*found.a)}, b = {written(*found.b)}"
            curve = {
                "x": grid,
                "y": found.predict(grid),
                "mode": "lines",
                "line": {"color": style.colour, "dash": style.dash, "width": 2},
                "hovertemplate": f"{escape(series)}: {told}<extra></extra>",
            }
            panels.add(column, silent | curve)
            if found.seen and found.peak.value > 0:
                peak = {
                    "x": [found.peak.value],
                    "y": [found.origin + found.top.value],
                    "mode": "markers",
                    "marker": {"symbol": "star", "size": 14, "color": style.colour},
                    "hovertemplate": f"{escape(series)} peaks at d = {written(*found.peak)}<extra></extra>",
                }
                panels.add(column, silent | peak)
    panels.axis("x", title={"text": AXES["d"]}, rangemode="tozero", zeroline=False)
    panels.axis("y", zeroline=False)
    return panels.figure(margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"})


def best_of_n(table: pd.DataFrame, curve: pd.DataFrame, *, reward: str, label: str) -> go.Figure:
    """Best of N exactly: its KL against the bound log N - (N-1)/N, and its reward by KL under the frontier.

    Args:
        table: of `Field.best_of_n`.
        curve: the frontier of the same reward.
        reward: column of `table` that N is chosen by.
        label: what the reward is called.
    """
    colour = METHODS["rsft"]
    panels = Panels([escape(title) for title in ("KL by N", f"{label} by KL")], spacing=0.12)
    exact = {"color": colour, "width": 2}
    bound = {"color": colour, "width": 1.5, "dash": "dash"}
    for column, (x, names) in enumerate((("n", ("kl", "bound")), (reward, ("kl", "bound"))), start=1):
        for name, line, title in zip(names, (exact, bound), ("exact", "bound log N \u2212 (N\u22121)/N"), strict=True):
            ends = (table[x], table[name]) if column == 1 else (table[name], table[x])
            points = {
                "type": "scatter",
                "x": ends[0],
                "y": ends[1],
                "mode": "lines+markers",
                "name": title,
                "legendgroup": title,
                "showlegend": column == 1,
                "line": line,
                "marker": {"size": 6},
                "customdata": table["n"],
                "hovertemplate": "N = %{customdata}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
            }
            panels.add(column, points)
    shown = curve[curve["kl"] <= 1.05 * table["bound"].max()]
    least = {
        "type": "scatter",
        "x": shown["kl"],
        "y": shown["reward"],
        "mode": "lines",
        "name": "frontier",
        "line": {"color": LIGHT.muted, "width": 2.5},
        "hovertemplate": "optimum: reward %{y:.3f} at KL %{x:.3f}<extra></extra>",
    }
    panels.add(2, least)
    panels.axis("x", 1, type="log", title={"text": "N"}, tickvals=list(table["n"]))
    panels.axis("x", 2, title={"text": "KL(best of N \u2225 reference), nats"}, rangemode="tozero")
    panels.axis("y", 1, title={"text": "nats per answer"}, rangemode="tozero")
    return panels.figure(margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"})
