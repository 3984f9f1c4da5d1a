"""Figures of circuits: faithfulness by size, the score of every part by every method, and the strongest edges."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.curves import band
from probe.plotting.marks import cells
from probe.plotting.notebook import Look
from probe.plotting.panels import Panels
from probe.plotting.series import Style, curve, offsets
from probe.plotting.theme import ANSWERS, DOTTED, LIGHT, METHODS, escape, signed_axis

COLOURS = {
    "exhaustive": LIGHT.ink,
    "greedy": METHODS["rsft"],
    "removed": ANSWERS[0],
    "restored": METHODS["dpo"],
    "attribution": ANSWERS[1],
    "integrated": ANSWERS[2],
    "direct": ANSWERS[4],
    "random": LIGHT.muted,
}
"""Colour of each method."""
DRAWN = 40
"""Largest number of parts that are drawn."""


def faithfulness_curves(
    table: pd.DataFrame, titles: Mapping[str, str], chosen: tuple[int, float] | None = None
) -> go.Figure:
    """Draw faithfulness by the size of the circuit for every method, with random orders as a band.

    Where methods choose the same parts, their lines lie over each other: the first ones are wider.

    Args:
        table: rows of `Circuit.curves`.
        titles: name of each method.
        chosen: size and faithfulness of the circuit, marked by a ring.
    """
    panels = Panels()
    panels.mark(1, DOTTED, y=1)
    methods = list(table.groupby("method", sort=False))
    for index, (name, rows) in enumerate(methods):
        colour, title = COLOURS[str(name)], titles[str(name)]
        if name == "random":
            panels.add(1, band(rows["size"], rows["low"], rows["high"], colour))
        hover = [
            f"{escape(title)}, {size} parts: {value:.2f}"
            for size, value in zip(rows["size"], rows["faithfulness"], strict=True)
        ]
        line = curve(
            rows["size"], rows["faithfulness"], title, Style(colour, "dash" if name == "random" else "solid"), hover
        )
        wider = len(methods) - 1 - index
        panels.add(1, line.update(line={"width": 2 + 0.8 * wider}, marker={"size": 6 + 0.8 * wider}))
    if chosen is not None:
        ring = {"color": LIGHT.ink, "symbol": "circle-open", "size": 17, "line": {"width": 2}}
        shown = f"the circuit: {chosen[0]} parts, {chosen[1]:.2f}<extra></extra>"
        mark = go.Scatter(
            x=[chosen[0]], y=[chosen[1]], mode="markers", marker=ring, showlegend=False, hovertemplate=shown
        )
        panels.add(1, mark)
    low, high = table["faithfulness"].min(), table["faithfulness"].max()
    panels.axis("x", title="parts in the circuit")
    panels.axis("y", title="faithfulness", range=[max(-1.0, low) - 0.08, min(2.0, high) + 0.08])
    return panels.crowded()


def score_map(table: pd.DataFrame, titles: Mapping[str, str], circuit: Collection[str], gap: float) -> go.Figure:
    """Draw the score of every part by every method as a share of the gap; parts of the circuit are in bold.

    Args:
        table: rows of `Circuit.scores`.
        titles: name of each method.
        circuit: names of the parts of the circuit.
        gap: target with all parts minus that without any, in nats.
    """
    methods = [str(name) for name in table if name != "part"]
    order = table[methods].abs().max(axis=1).sort_values(ascending=False).index[:DRAWN]
    rows = table.loc[sorted(order)]
    values = rows[methods].to_numpy(dtype=float).T / gap
    hover = [
        [
            f"{escape(part)}, {escape(titles[name])}: {value:+.2f} of the gap"
            for part, value in zip(rows["part"], line, strict=True)
        ]
        for name, line in zip(methods, values, strict=True)
    ]
    written = [[f"{value:.2f}" for value in line] for line in values]
    panels = Panels()
    panels.add(1, cells(values, written, hover, legible=len(rows) <= 10))
    labels = [f"<b>{part}</b>" if part in circuit else part for part in rows["part"]]
    panels.axis("x", tickmode="array", tickvals=list(range(len(labels))), ticktext=labels, tickangle=-60)
    names = [escape(titles[name]) for name in methods]
    panels.axis("y", tickmode="array", tickvals=list(range(len(names))), ticktext=names, autorange="reversed")
    bound = min(2.0, max(0.05, float(np.abs(values).max())))
    return panels.figure(showlegend=False, coloraxis=signed_axis("share<br>of gap", bound))


def edge_marks(models: Sequence[tuple[Look, pd.DataFrame]], gaps: Sequence[float], most: int) -> go.Figure:
    """Draw the loss without each of the strongest edges: exact as a filled mark, estimated as a ring.

    Args:
        models: name and colour of each model, and its rows of `Edges.ran`.
        gaps: gap of each model between both prompts, in nats.
        most: number of edges.
    """
    shares = [rows.set_index("edge")[["exact", "estimate"]] / gap for (_, rows), gap in zip(models, gaps, strict=True)]
    size = pd.concat([each["exact"].abs() for each in shares], axis=1).max(axis=1)
    names = [str(name) for name in size.sort_values(ascending=False, kind="stable").index[:most]]
    panels = Panels()
    panels.mark(1, DOTTED, x=0)
    for (look, _), table, shift in zip(models, shares, offsets(len(models)), strict=True):
        own = table.reindex(names)
        places = [at + shift for at in range(len(names))]
        for column, symbol in (("exact", "circle"), ("estimate", "circle-open")):
            values = own[column].to_numpy(dtype=float)
            title = f"{look.name}, {column}"
            hover = [
                f"{escape(title)}, {escape(name)}: {value:+.2f} of the gap"
                for name, value in zip(names, values, strict=True)
            ]
            mark = {"color": look.colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": look.colour}}
            panels.add(
                1,
                go.Scatter(
                    x=values,
                    y=places,
                    mode="markers",
                    name=escape(title),
                    marker=mark,
                    hovertext=hover,
                    hovertemplate="%{hovertext}<extra></extra>",
                ),
            )
    panels.axis("x", title="loss without the edge, share of the gap")
    labels = [escape(name) for name in names]
    panels.axis("y", tickmode="array", tickvals=list(range(len(names))), ticktext=labels, autorange="reversed")
    return panels.crowded()
