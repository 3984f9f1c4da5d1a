"""Figure of the scorecard: one panel for each truth of a family, one row for each method."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.intervals import whiskers
from probe.plotting.panels import Panels
from probe.plotting.theme import LIGHT, escape, row_axis
from probe.scorecard.family_record import ORACLE, RANDOM, Family
from probe.scorecard.method_scoring import Row

COLOURS = {
    "better": "#2A6EBB",
    "finds": "#B8860B",
    "floor": "#8A8F98",
    "alone": "#2A6EBB",
    "": "#8A8F98",
    "baseline": "#8A8F98",
}
"""Colour of each verdict, readable on light and dark backgrounds."""
SYMBOLS = {
    "better": "circle",
    "finds": "circle",
    "floor": "circle",
    "alone": "circle",
    "": "diamond-open",
    "baseline": "square",
}
LEGEND = {
    "better": "better than baseline",
    "finds": "above random",
    "floor": "not above random",
    "alone": "one model",
    "baseline": "baseline",
    "": "check",
}
ROW = 24
"""Height of a row in pixels."""


def card_figure(table: pd.DataFrame, rows: Sequence[Row], family: Family) -> go.Figure:
    """Draw the rows of a family: mean with interval over bases, a faint mark for each base, floor and ceiling as lines.

    Args:
        table: rows of the family (`Card.table`).
        rows: rows by seed, of any family.
        family: the family.
    """
    means = table.groupby("method")["score"].mean().sort_values(ascending=False)
    last = (family.baseline, RANDOM, ORACLE)
    order = [*(each for each in means.index if each not in last), *(each for each in last if each in means.index)]
    titles = dict(zip(table["method"], table["title"], strict=True))
    columns = min(len(family.truths), 3)
    lines = -(-len(family.truths) // columns)
    panels = Panels([each.words for each in family.truths], columns=columns, shared_y=True, gap=0.3 / lines)
    for at, truth in enumerate(family.truths, start=1):
        own = table[table["truth"] == truth.name]
        for line, dash in ((own["floor"], "dash"), (own["ceiling"], "dot"), (own["baseline"], "solid")):
            known = line.dropna()
            if len(known):
                panels.mark(at, {"color": LIGHT.muted, "width": 1.2, "dash": dash}, x=float(known.iloc[0]), opacity=0.8)
        seeds = [
            each for each in rows if (each.family, each.truth) == (family.name, truth.name) and each.method in order
        ]
        faint = {
            "type": "scatter",
            "x": [each.score for each in seeds],
            "y": [order.index(each.method) for each in seeds],
            "mode": "markers",
            "marker": {"size": 5, "color": LIGHT.muted, "opacity": 0.5},
            "hovertext": [f"seed {each.seed}: {each.score:.2f}" for each in seeds],
            "hoverinfo": "text",
            "name": "each base",
            "legendgroup": "seeds",
        }
        panels.add(at, faint)
        for verdict, name in LEGEND.items():
            part = own[own["verdict"] == verdict]
            points = {
                "type": "scatter",
                "x": part["score"].tolist(),
                "y": [order.index(each) for each in part["method"]],
                "mode": "markers",
                "marker": {"size": 9, "color": COLOURS[verdict], "symbol": SYMBOLS[verdict]},
                "error_x": whiskers(part["score"], part["low"], part["high"]),
                "hovertext": [f"{escape(row['title'])}: {row['score']:.2f}" for _, row in part.iterrows()],
                "hoverinfo": "text",
                "customdata": [[truth.name, each] for each in part["method"]],
                "name": name,
                "legendgroup": verdict or "checks",
                "legendrank": list(LEGEND).index(verdict),
                "showlegend": bool(verdict),  # the axis names the checks
            }
            if len(part):
                panels.add(at, points)
        least = float(np.nanmin([own["score"].min(), own["low"].min(), *(each.score for each in seeds), 0.0]))
        panels.axis("x", at, title=truth.score, zeroline=False, range=[least - 0.04, 1.05])
        panels.axis("y", at, **row_axis([escape(titles[each]) for each in order]))
    return panels.figure(showlegend=True, height=(ROW * len(order) + 70) * lines + 60)
