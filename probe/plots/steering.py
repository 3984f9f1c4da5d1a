"""Steering: the target against the dose with its interval and its null, and what it costs."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.intervals import band
from probe.plots.interventions import NULL
from probe.plots.theme import CHOSEN, LIGHT, escape, shorten, template


def dose_curves(
    table: pd.DataFrame, *, label: str, colour: str, chosen: float | None = None, unit: str = "nats"
) -> go.Figure:
    """The target against alpha with its interval and the null's range; below, what it costs.

    Args:
        table: of `probe.analyses.steering.Dose.table`.
        label: of the target.
        colour: of the model's method.
        chosen: dose to mark.
        unit: of the target.
    """
    controls = [name for name in ("accuracy", "kl") if name in table]
    titles = [escape(shorten(label, 44)), "unrelated questions right", "KL to the unsteered model"][: 1 + len(controls)]
    if controls == ["kl"]:
        titles[1] = "KL to the unsteered model"
    figure = make_subplots(rows=1, cols=1 + len(controls), subplot_titles=titles, horizontal_spacing=0.09)
    alphas = table["alpha"]
    if "null" in table:
        figure.add_trace(band(alphas, table["null_low"], table["null_high"], NULL), row=1, col=1)
        _line(figure, alphas, table["null"], NULL, "random directions", 1, dash="dot")
    if len(table["target_low"].dropna()):
        figure.add_trace(band(alphas, table["target_low"], table["target_high"], colour), row=1, col=1)
    _line(figure, alphas, table["target"], colour, "this direction", 1)
    for column, name in enumerate(controls, start=2):
        figure.add_trace(band(alphas, table[f"{name}_low"], table[f"{name}_high"], colour), row=1, col=column)
        _line(figure, alphas, table[name], colour, name, column, legend=False)
        if name == "accuracy":
            figure.update_yaxes(range=[0, 1.05], row=1, col=column)
        else:
            figure.update_yaxes(rangemode="tozero", row=1, col=column)
    if chosen is not None:
        figure.add_vline(x=chosen, line={"color": CHOSEN, "width": 1.5})
    figure.update_layout(template=template(LIGHT), margin={"t": 56, "b": 44}, clickmode="event+select")
    figure.update_layout(legend={"y": 1.16})
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="alpha", zeroline=False, fixedrange=True)
    figure.update_yaxes(title_text=unit, row=1, col=1)
    figure.update_yaxes(fixedrange=True)
    if "kl" in controls:
        figure.update_yaxes(title_text="nats a token", row=1, col=1 + len(controls))
    return figure


def _line(
    figure: go.Figure,
    x: pd.Series,
    y: pd.Series,
    colour: str,
    name: str,
    column: int,
    dash: str = "solid",
    legend: bool = True,
) -> None:
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            name=name,
            showlegend=legend,
            line={"color": colour, "dash": dash, "width": 2},
            marker={"size": 7},
            hovertemplate=f"{name}<br>alpha %{{x:.2f}}: %{{y:.3f}}<extra></extra>",
        ),
        row=1,
        col=column,
    )
