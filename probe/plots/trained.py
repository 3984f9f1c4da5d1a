"""Logit dynamics over training: measures by layer, part, neuron and token at the captured steps of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.marks import few_ticks
from probe.plots.theme import DASHES, LIGHT, colour_axis, escape, new_figure, shorten, template, token_axis
from probe.plots.trajectories import RANKS

MARKS = ("circle", "diamond-open", "square-open", "triangle-up-open", "x")
FLAT = 0.05
"""Nats of KL that the colours span at least, so that rounding does not look like movement."""


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


def training_kl(kl: np.ndarray, steps: Sequence[int], tokens: Sequence[str]) -> go.Figure:
    """KL to the reference by token (read downwards) and training step (to the right).

    Args:
        kl: [T S] KL(pi || pi_ref) after each token, nats; NaN where it is not known.
        steps: [S] the captured steps.
        tokens: [T] the tokens that were read.
    """
    names = [f"{shorten(token, 14)} [{at}]" for at, token in enumerate(tokens)]
    known = kl[np.isfinite(kl)]
    figure = training_map(kl, steps, names, label="KL\nnats", low=0, high=max(FLAT, float(known.max(initial=0.0))))
    rows = few_ticks([escape(name) for name in names], 20)
    figure.update_yaxes(title_text="after token", autorange="reversed", **rows)
    return figure
