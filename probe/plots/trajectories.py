"""Logit dynamics: how sure a model is, and of what, over layers and over what it writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.lens import layer_names
from probe.plots.marks import few_ticks
from probe.plots.theme import DASHES, LIGHT, colour_axis, escape, new_figure, shorten, template, token_axis

RANKS = [1, 2, 5, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000]
"""Ticks of an axis of ranks."""


@dataclass(frozen=True)
class Side:
    """Measures of one model along an axis of R points (layers or written tokens)."""

    name: str
    colour: str
    entropy: np.ndarray
    """[R]"""
    margin: np.ndarray
    """[R]"""
    logprobs: np.ndarray
    """[R A]"""
    ranks: np.ndarray
    """[R A]"""
    points: Sequence[str]
    """[R] names of the points."""


def curves(
    sides: Sequence[Side],
    answers: Sequence[str],
    *,
    axis: str,
    ticks: Sequence[str],
    columns: int = 2,
    height: int = 430,
) -> go.Figure:
    """Log-probability and rank of the answers, entropy and margin along layers or written tokens.

    Args:
        sides: one line a model in each panel.
        answers: [A] what the lines of the first two panels are about; the second one is dashed.
        axis: name of the x axis.
        ticks: names of the points on it.
        columns: panels side by side.
        height: pixels.
    """
    panels = ["log-probability (nats)", "rank (1 = likeliest)", "entropy (nats)", "margin (nats)"]
    panels = panels if answers else panels[2:]
    down = -(-len(panels) // columns)
    figure = make_subplots(
        rows=down,
        cols=columns,
        subplot_titles=panels,
        horizontal_spacing=0.32 / columns**1.4,
        vertical_spacing=0.2 if down > 1 else 0,
        shared_xaxes=True,
    )
    for index, name in enumerate(panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        for side in sides:
            for trace in _lines(side, name, answers, legend=index == 0):
                figure.add_trace(trace, **place)
        if name.startswith("rank"):
            figure.update_yaxes(type="log", autorange="reversed", tickvals=RANKS, **place)
        last = index + columns >= len(panels)
        figure.update_xaxes(title_text=axis if last else "", showticklabels=last, **place)
    names = [escape(shorten(tick, 10)) for tick in ticks]
    figure.update_xaxes(tickangle=-45, **few_ticks(names, 16 // columns))
    figure.update_annotations(font_size=12)
    figure.update_layout(
        template=template(LIGHT),
        height=height,
        margin={"t": 62, "b": 50, "l": 46},
        legend={"yref": "container", "y": 1, "yanchor": "top"},
    )
    return figure


def kl_map(kl: np.ndarray, tokens: Sequence[str], *, width: int = 620) -> go.Figure:
    """KL of two models by layer and position.

    Args:
        kl: [R W] KL(aligned || base) after each layer, nats.
        tokens: [W] the tokens that were read.
        width: pixels, which decide whether numbers are written.
    """
    names = layer_names(len(kl))
    room = width / max(1, len(tokens)) >= 36 and len(kl) <= 14
    figure = new_figure(showlegend=False)
    figure.add_trace(
        go.Heatmap(
            z=kl,
            coloraxis="coloraxis",
            text=[[f"{value:.2f}" for value in row] for row in kl],
            texttemplate="%{text}" if room else "",
            textfont={"size": 10},
            customdata=[[f"{name}, {escape(token)} [{at}]" for at, token in enumerate(tokens)] for name in names],
            xgap=1,
            ygap=1,
            hovertemplate="%{customdata}: KL %{z:.3f} nats<extra></extra>",
        )
    )
    figure.update_layout(coloraxis=colour_axis("KL<br>nats", low=0, high=max(0.05, float(kl.max()))))
    figure.update_xaxes(title_text="token read", tickangle=-45, **token_axis(tokens))
    figure.update_yaxes(title_text="after layer", **few_ticks(names, 14))
    return figure


def _lines(side: Side, panel: str, answers: Sequence[str], *, legend: bool) -> list[go.Scatter]:
    """The lines of one model in one panel."""
    by_answer = {"log-probability (nats)": side.logprobs, "rank (1 = likeliest)": side.ranks + 1}
    if panel in by_answer:
        series = [(escape(shorten(answer, 14)), by_answer[panel][:, at]) for at, answer in enumerate(answers)]
    else:
        series = [("", side.entropy if panel.startswith("entropy") else side.margin)]
    name = escape(shorten(side.name, 20))
    return [
        go.Scatter(
            x=list(range(len(values))),
            y=values,
            mode="lines+markers",
            name=f"{name}: {what}" if what else name,
            showlegend=legend,
            line={"color": side.colour, "dash": DASHES[index % 2], "width": 2 if index == 0 else 1.5},
            marker={"size": 4},
            customdata=[escape(point) for point in side.points],
            hovertemplate="%{customdata}: %{y:.3f}<extra>" + (f"{name}: {what}" if what else name) + "</extra>",
        )
        for index, (what, values) in enumerate(series)
    ]
