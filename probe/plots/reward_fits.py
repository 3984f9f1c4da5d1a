"""Fits of overoptimisation (Gao et al. 2022) and best of N against its bound."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.analyses.overoptimisation import Fit
from probe.plots.curves import Style
from probe.plots.intervals import SYMBOLS, written
from probe.plots.rewards import AXES
from probe.plots.theme import LIGHT, METHODS, escape, template


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
    figure = make_subplots(
        rows=1, cols=len(titles), subplot_titles=[escape(title) for title in titles.values()], horizontal_spacing=0.1
    )
    for column, reward in enumerate(titles, start=1):
        for series, table in points.items():
            style, found = look[series], fits.get((series, reward))
            shared = {"legendgroup": series, "row": 1, "col": column}
            known = table[table[reward].notna()]
            figure.add_trace(
                go.Scatter(
                    x=known["d"],
                    y=known[reward],
                    mode="markers",
                    name=escape(series),
                    legendgroup=series,
                    showlegend=column == 1,
                    marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 7, "opacity": 0.85},
                    hovertemplate=escape(series) + "<br>d %{x:.3f}, reward %{y:.3f}<extra></extra>",
                ),
                row=shared["row"],
                col=shared["col"],
            )
            if found is None:
                continue
            grid = np.linspace(0, 1.05 * found.d.max(), 160)
            figure.add_trace(
                go.Scatter(
                    x=grid,
                    y=found.predict(grid),
                    mode="lines",
                    legendgroup=series,
                    showlegend=False,
                    line={"color": style.colour, "dash": style.dash, "width": 2},
                    hovertemplate=f"{escape(series)}: a = {written(*found.a)}, b = {written(*found.b)}<extra></extra>",
                ),
                row=1,
                col=column,
            )
            if found.seen and found.peak.value > 0:
                figure.add_trace(
                    go.Scatter(
                        x=[found.peak.value],
                        y=[found.origin + found.top.value],
                        mode="markers",
                        legendgroup=series,
                        showlegend=False,
                        marker={"symbol": "star", "size": 14, "color": style.colour},
                        hovertemplate=f"{escape(series)} peaks at d = {written(*found.peak)}<extra></extra>",
                    ),
                    row=1,
                    col=column,
                )
    figure.update_xaxes(title_text=AXES["d"], rangemode="tozero", zeroline=False)
    figure.update_yaxes(zeroline=False)
    figure.update_annotations(font_size=12)
    figure.update_layout(
        template=template(LIGHT), margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"}
    )
    return figure


def best_of_n(table: pd.DataFrame, curve: pd.DataFrame, *, reward: str, label: str) -> go.Figure:
    """Best of N exactly: its KL against the bound log N - (N-1)/N, and its reward by KL under the frontier.

    Args:
        table: of `Field.best_of_n`.
        curve: the frontier of the same reward.
        reward: column of `table` that N is chosen by.
        label: what the reward is called.
    """
    colour = METHODS["rsft"]
    titles = ["KL by N", f"{label} by KL"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=[escape(t) for t in titles], horizontal_spacing=0.12)
    exact = {"color": colour, "width": 2}
    bound = {"color": colour, "width": 1.5, "dash": "dash"}
    for column, (x, names) in enumerate((("n", ("kl", "bound")), (reward, ("kl", "bound"))), start=1):
        for name, line, title in zip(names, (exact, bound), ("exact", "bound log N \u2212 (N\u22121)/N"), strict=True):
            ends = (table[x], table[name]) if column == 1 else (table[name], table[x])
            figure.add_trace(
                go.Scatter(
                    x=ends[0],
                    y=ends[1],
                    mode="lines+markers",
                    name=title,
                    legendgroup=title,
                    showlegend=column == 1,
                    line=line,
                    marker={"size": 6},
                    customdata=table["n"],
                    hovertemplate="N = %{customdata}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    shown = curve[curve["kl"] <= 1.05 * table["bound"].max()]
    figure.add_trace(
        go.Scatter(
            x=shown["kl"],
            y=shown["reward"],
            mode="lines",
            name="frontier",
            line={"color": LIGHT.muted, "width": 2.5},
            hovertemplate="optimum: reward %{y:.3f} at KL %{x:.3f}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    figure.update_xaxes(type="log", title_text="N", tickvals=list(table["n"]), row=1, col=1)
    figure.update_xaxes(title_text="KL(best of N \u2225 reference), nats", rangemode="tozero", row=1, col=2)
    figure.update_yaxes(title_text="nats per answer", rangemode="tozero", row=1, col=1)
    figure.update_annotations(font_size=12)
    figure.update_layout(
        template=template(LIGHT), margin={"t": 64}, legend={"yref": "container", "y": 1, "yanchor": "top"}
    )
    return figure
