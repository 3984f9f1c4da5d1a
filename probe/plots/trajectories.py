"""Logit dynamics: how sure a model is, and of what, over layers, over what it writes, and over its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.lens import layer_names
from probe.plots.marks import few_ticks
from probe.plots.theme import DASHES, LIGHT, colour_axis, escape, new_figure, shorten, template, token_axis

MARKS = ("circle", "diamond-open", "square-open", "triangle-up-open", "x")
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


def training_map(
    values: np.ndarray,
    steps: Sequence[int],
    layers: Sequence[str],
    *,
    label: str,
    low: float,
    high: float,
    logarithmic: bool = False,
    diverging: bool = False,
) -> go.Figure:
    """A measure by layer (upwards) and training step (to the right).

    Args:
        values: [R S] one row a layer; NaN where it is not known.
        steps: [S] the captured steps, evenly spaced on the axis.
        layers: [R] names of the rows.
        label: what is measured, with its unit.
        low: end of the colour scale.
        high: the other end.
        logarithmic: colours go with the logarithm, for ranks from 1; the likeliest is the darkest.
        diverging: two hues, for values of both signs.
    """
    bar: dict[str, Any] = {}
    if logarithmic:
        bar = {"tickvals": np.log10(RANKS).tolist(), "ticktext": [f"{rank:,}" for rank in RANKS]}
        low, high = np.log10(low), np.log10(high)
    figure = new_figure(showlegend=False)
    figure.add_trace(
        go.Heatmap(
            z=np.log10(values) if logarithmic else values,
            coloraxis="coloraxis",
            customdata=[
                [f"{escape(layer)}, step {step:,}: {value:{'.0f' if logarithmic else '.3f'}}" for step, value in pairs]
                for layer, pairs in zip(layers, (zip(steps, row, strict=True) for row in values), strict=True)
            ],
            hoverongaps=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    title = "<br>".join(escape(part) for part in label.split("\n"))
    figure.update_layout(coloraxis=colour_axis(title, low=low, high=high, diverging=diverging, **bar))
    figure.update_layout(coloraxis={"reversescale": logarithmic})
    figure.update_xaxes(title_text="training step", **token_axis([f"{step:,}" for step in steps]))
    figure.update_yaxes(**few_ticks([escape(layer) for layer in layers], 14))
    return figure


def training_parts(
    values: np.ndarray, steps: Sequence[int], names: Sequence[str], *, label: str, k: int = 12
) -> go.Figure:
    """The parts that added or took most at some training step, the strongest in the highest row, around zero.

    Args:
        values: [N S] what each part adds at each step, nats; NaN where it is not known.
        steps: [S] the captured steps.
        names: [N] of the parts.
        label: the number that is split.
        k: how many parts are drawn.
    """
    size = np.nanmax(np.abs(values), axis=1)
    order = np.argsort(-size, kind="stable")[:k][::-1]
    bound = max(1e-6, float(size.max()))
    return training_map(
        values[order],
        steps,
        [names[row] for row in order],
        label=f"adds to\n{shorten(label, 20)}\nnats",
        low=-bound,
        high=bound,
        diverging=True,
    )


def training_lines(panels: Mapping[str, Mapping[str, np.ndarray]], steps: Sequence[int], *, colour: str) -> go.Figure:
    """Panels over the captured steps; lines of one panel are told apart by dashes and marks, and named at their end.

    Args:
        panels: by title (with the unit), [S] values by the name of the line.
        steps: [S] the captured steps.
        colour: of the run's method.
    """
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=list(panels), horizontal_spacing=0.14)
    for column, lines in enumerate(panels.values(), start=1):
        for index, (name, values) in enumerate(lines.items()):
            what = escape(shorten(name, 20))
            figure.add_trace(
                go.Scatter(
                    x=list(steps),
                    y=values,
                    mode="lines+markers",
                    name=what,
                    showlegend=len(lines) > 1,
                    line={"color": colour, "dash": DASHES[index % len(DASHES)], "width": 2},
                    marker={"size": 6, "symbol": MARKS[index % len(MARKS)]},
                    hovertemplate=f"step %{{x:,}}: %{{y:.3f}}<extra>{what}</extra>",
                ),
                row=1,
                col=column,
            )
    figure.update_annotations(font_size=12)
    figure.update_xaxes(title_text="training step")
    figure.update_layout(
        template=template(LIGHT), margin={"t": 62}, legend={"yref": "container", "y": 1, "yanchor": "top"}
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
