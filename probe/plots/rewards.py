"""Rewards against the KL that they cost: the exact frontier with all methods, fits of overoptimisation, best of N.

One colour a method (`theme.METHODS`), the reference grey. Tables come from `probe.analyses.reward_frontier` and
`overoptimisation`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import Style
from probe.plotting.intervals import SYMBOLS, written
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, METHODS, escape, label_places, shorten, template

BEYOND = "rgba(128,132,140,0.10)"
"""What no policy reaches."""
AXES = {"d": "d = \u221aKL(policy \u2225 reference), \u221anats", "kl": "KL(policy \u2225 reference), nats per answer"}


def reward_frontier(
    curve: pd.DataFrame,
    places: pd.DataFrame,
    look: Mapping[str, Style],
    *,
    reward: str,
    label: str,
    axis: str = "d",
    best_of_n: pd.DataFrame | None = None,
    paths: Mapping[str, pd.DataFrame] | None = None,
    chosen: str | None = None,
    size: tuple[int, int] = (640, 400),
) -> go.Figure:
    """Every policy under the frontier of pi*_beta; a dotted line is the KL that it spends in excess of the optimum.

    Args:
        curve: columns kl, d, reward, beta (`Field.frontier`).
        places: columns run, kl, excess, and `reward` by its name, with their _low and _high (`Place.row`).
        look: style of each run.
        reward: name of the reward on the y axis, a column of `places` and `best_of_n`.
        label: of the y axis.
        axis: "d" or "kl".
        best_of_n: exact path of best of N (`Field.best_of_n`).
        paths: way of a run while it was trained: columns d, kl, reward, step.
        chosen: run to emphasise.
        size: pixels that the labels are laid out for.
    """
    traces: list[go.Scatter] = []
    notes: list[dict[str, Any]] = []

    def across(table: pd.DataFrame) -> pd.Series:
        return table["kl"].clip(lower=0) ** (0.5 if axis == "d" else 1)

    x, y = across(curve).to_numpy(), curve["reward"].to_numpy()
    right = 1.12 * max(float(across(places).max()), float(x.max()) if axis == "d" else 0.0, 1e-3)
    top = y.max() + 0.2 * (np.ptp(y) or 1.0)
    traces.append(
        go.Scatter(
            x=[*x, 1.1 * right, 1.1 * right, 0.0],
            y=[*y, y[-1], top, top],
            fill="toself",
            fillcolor=BEYOND,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
        )
    )
    traces.append(
        go.Scatter(
            x=[*x, right * 1.1],
            y=[*y, y[-1]],
            mode="lines",
            line={"color": LIGHT.muted, "width": 2.5},
            customdata=[*(f"{beta:.3g}" for beta in curve["beta"]), "0"],
            hovertemplate="optimum at beta = %{customdata}<br>reward %{y:.3f}, KL " + _kl(axis) + "<extra></extra>",
        )
    )
    if best_of_n is not None:
        traces.append(
            go.Scatter(
                x=across(best_of_n),
                y=best_of_n[reward],
                mode="lines+markers",
                line={"color": METHODS["rsft"], "width": 1, "dash": "dash"},
                marker={"size": 4, "color": METHODS["rsft"]},
                customdata=best_of_n["n"],
                hovertemplate="best of %{customdata}<br>reward %{y:.3f}<extra></extra>",
            )
        )
    for name, path in (paths or {}).items():
        traces.append(
            go.Scatter(
                x=across(path),
                y=path["reward"],
                mode="lines+markers",
                line={"color": look[name].colour, "width": 1},
                marker={"size": 4, "symbol": "circle-open"},
                opacity=0.6,
                customdata=path["step"],
                hovertemplate=escape(name) + " at step %{customdata}<br>reward %{y:.3f}<extra></extra>",
            )
        )
    for row in records(places):
        _policy(traces, row, look[row["run"]], reward, axis, row["run"] == chosen)
    low = min(float(places[reward].min()), float(y.min()))
    low -= 0.12 * (top - low)
    labelled = places.assign(text=[f"{shorten(str(row['run']), 22)} {excess_words(row)}" for row in records(places)])
    if best_of_n is not None:
        last = best_of_n.tail(1).assign(run="", text="best of N")
        labelled = pd.concat([labelled, last], ignore_index=True)

    def pixels(along: np.ndarray, up: np.ndarray) -> np.ndarray:
        return np.stack([along / (1.05 * right) * size[0], (up - low) / (top - low) * size[1]], axis=1)

    ways = [(x, y)] if best_of_n is None else [(x, y), (across(best_of_n).to_numpy(), best_of_n[reward].to_numpy())]
    fine = np.linspace(0, right, 80)
    avoid = [pixels(fine, np.interp(fine, *way)) for way in ways]
    avoid.append(np.stack([np.linspace(0, 130, 20), np.full(20, size[1] - 10.0)], axis=1))  # the note in the corner
    avoid += [pixels(across(path).to_numpy(), path["reward"].to_numpy()) for path in (paths or {}).values()]
    for row in records(places):
        if np.isfinite(row["beta"]):
            ends = pd.DataFrame({"kl": [max(row["kl"] - row["excess"], 0.0), row["kl"]]})
            avoid.append(pixels(np.linspace(across(ends)[0], across(ends)[1], 40), np.full(40, row[reward])))
    points = pixels(across(labelled).to_numpy(), labelled[reward].to_numpy())
    shifts = label_places(points, list(labelled["text"]), size, np.concatenate(avoid))
    for row, place, shift in zip(records(labelled), across(labelled), shifts, strict=True):
        text = escape(row["text"].strip())
        note = {
            "x": place,
            "y": row[reward],
            "text": f"<b>{text}</b>" if chosen and row["run"] == chosen else text,
            "xshift": shift[0],
            "yshift": shift[1],
            "font": {"color": look[row["run"]].colour if row["run"] else METHODS["rsft"], "size": 12},
        }
        notes.append(note)
    corner = {"x": 0.01, "y": 0.995, "xref": "paper", "yref": "paper", "xanchor": "left", "yanchor": "top"}
    notes.append({**corner, "text": "no policy gets here"})
    layout = {
        "template": template(LIGHT),
        "hovermode": "closest",
        "showlegend": False,
        "margin": {"t": 12},
        "annotations": notes,
        "xaxis": {"title": {"text": AXES[axis]}, "range": [-0.03 * right, 1.05 * right], "zeroline": False},
        "yaxis": {"title": {"text": escape(label)}, "range": [low, top], "zeroline": False},
    }
    return go.Figure({"data": traces, "layout": layout})


def _policy(traces: list[go.Scatter], row: dict, style: Style, reward: str, axis: str, strong: bool) -> None:
    """One policy with its intervals, and a line to the point of the frontier with the same reward."""
    x = float(np.sqrt(max(row["kl"], 0.0))) if axis == "d" else float(row["kl"])
    least = max(row["kl"] - row["excess"], 0.0)
    if np.isfinite(row["beta"]) and row["excess"] > 1e-6:
        traces.append(
            go.Scatter(
                x=[float(np.sqrt(least)) if axis == "d" else least, x],
                y=[row[reward]] * 2,
                mode="lines",
                line={"color": style.colour, "width": 1.5, "dash": "dot"},
                hoverinfo="skip",
            )
        )
    told = [
        f"reward {written(row[reward], row[f'{reward}_low'], row[f'{reward}_high'])}",
        f"KL {written(row['kl'], row['kl_low'], row['kl_high'])} nats",
        f"beyond the optimum {written(row['excess'], row['excess_low'], row['excess_high'])} nats",
        f"gives an answer {100 * row['mass']:.0f} % of the time",
    ]
    traces.append(
        go.Scatter(
            x=[x],
            y=[row[reward]],
            mode="markers",
            name=escape(str(row["run"])),
            marker={"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 13 if strong else 9},
            hovertemplate=f"<b>{escape(str(row['run']))}</b><br>" + "<br>".join(told) + "<extra></extra>",
        )
    )


def excess_words(row: Mapping) -> str:
    """The label behind a policy's name: what it spends beyond the optimum, nothing for the reference."""
    if row["kl"] < 1e-6:
        return ""
    return f"+{row['excess']:.2f}" if np.isfinite(row["beta"]) else f"+{row['excess']:.2f}, nothing gained"


def reward_gains(
    places: pd.DataFrame, look: Mapping[str, Style], columns: Mapping[str, str], chosen: str | None = None
) -> go.Figure:
    """What each policy gained over the reference and what it wasted: one line a policy, with 95 % intervals.

    Args:
        places: columns run and, for each of `columns`, its value, _low and _high.
        look: style of each run.
        columns: column to title of its panel.
        chosen: run to emphasise.
    """
    runs = [str(run) for run in places["run"]]
    panels = Panels([escape(title) for title in columns.values()], spacing=0.06, shared_y=True)
    for place, column in enumerate(columns, start=1):
        for at, row in enumerate(records(places)):
            style = look[row["run"]]
            value, low, high = (row[column + end] for end in ("", "_low", "_high"))
            ends = {"array": [high - value], "arrayminus": [value - low], "thickness": 1.6, "width": 0}
            point = {
                "type": "scatter",
                "x": [value],
                "y": [at],
                "mode": "markers",
                "marker": {"color": style.colour, "symbol": SYMBOLS[style.dash], "size": 9},
                "error_x": {"type": "data", "symmetric": False, **ends},
                "hovertemplate": f"{escape(str(row['run']))}: {written(value, low, high)}<extra></extra>",
            }
            panels.add(place, point)
        panels.mark(place, 0, {"color": LIGHT.muted, "width": 1, "dash": "dot"})
    names = [f"<b>{escape(shorten(run, 18))}</b>" if run == chosen else escape(shorten(run, 18)) for run in runs]
    ticks: dict[str, Any] = {"tickvals": list(range(len(runs))), "ticktext": names, "range": [len(runs) - 0.5, -0.5]}
    panels.axis("y", **ticks, showgrid=False, zeroline=False)
    panels.axis("x", zeroline=False, nticks=5)
    return panels.figure(showlegend=False, margin={"t": 40, "b": 30})


def _kl(axis: str) -> str:
    return "%{x:.3f} nats" if axis == "kl" else "(%{x:.3f})\u00b2 nats"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries by column."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
