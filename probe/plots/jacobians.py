"""Jacobians: both paths of E23 in every head, and the singular values from each layer to the end.

Axes: D blocks, H heads, d width.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.lags import TOP, Model, interval_line
from probe.plots.theme import LIGHT, colour_axis, escape, new_figure, shorten, template

MOST_TICKS = 20
"""Layers or heads that an axis names one by one."""


def path_shares(shares: Sequence[np.ndarray], models: Sequence[Model]) -> go.Figure:
    """The bilinear-softmax path's share of each head's Jacobian (E23), and with two models of one size the difference.

    Args:
        shares: [D H] of each model, 0 to 1.
        models: their names.
    """
    titles = [escape(shorten(model.name, 24)) for model in models]
    both = len(shares) == 2 and shares[0].shape == shares[1].shape
    panels = [*shares, shares[1] - shares[0]] if both else list(shares)
    titles += [escape(shorten(f"{models[1].name} \u2212 {models[0].name}", 34))] if both else []
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.07)
    for column, values in enumerate(panels, start=1):
        difference = both and column == 3
        layer, head = (axis.ravel() for axis in np.indices(values.shape))
        figure.add_trace(
            go.Heatmap(
                z=values,
                coloraxis="coloraxis2" if difference else "coloraxis",
                customdata=np.array(
                    [f"L{row}H{place}" for row, place in zip(layer, head, strict=True)], dtype=object
                ).reshape(values.shape),
                hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
                xgap=2,
                ygap=2,
                texttemplate="%{z:.2f}" if values.shape[1] * len(panels) <= 24 and len(values) <= 8 else None,
            ),
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text="head", tickvals=ticks(values.shape[1]), showgrid=False, row=1, col=column)
        figure.update_yaxes(tickvals=ticks(len(values)), autorange="reversed", showgrid=False, row=1, col=column)
    figure.update_yaxes(title_text="layer", row=1, col=1)
    largest = float(np.nanmax(np.abs(panels[2]), initial=1e-3)) if both else 1.0
    figure.update_layout(
        template=template(LIGHT),
        margin={"t": 32},
        coloraxis=colour_axis("share", low=0, high=1, x=1.0, xanchor="left", len=1.0),
        coloraxis2=colour_axis("difference", low=-largest, high=largest, diverging=True, x=1.09, xanchor="left"),
    )
    figure.update_annotations(font_size=13)
    return figure


def singular_values(values: Sequence[np.ndarray], models: Sequence[Model]) -> go.Figure:
    """Singular values of d h_D / d h_l by layer l: their median, the middle 80 % as a band, and the line of 1.

    Args:
        values: [D d] of each model (`NeutralJacobian.to_end`), NaN where a value is not resolved.
        models: their names and colours.
    """
    figure = new_figure(hovermode="closest", **TOP)
    figure.add_hline(y=1, line={"color": LIGHT.muted, "width": 1, "dash": "dash"})
    for index, (found, model) in enumerate(zip(values, models, strict=True)):
        low, middle, high = np.nanquantile(found, [0.1, 0.5, 0.9], axis=-1)
        table = pd.DataFrame({"layer": np.arange(len(found)), "value": middle, "low": low, "high": high})
        table["n_readings"] = (~np.isnan(found)).sum(-1)
        line = interval_line(table, "layer", "value", model, index, len(values), "from layer %{x}")
        line.hovertemplate = (
            "%{customdata[3]}<br>%{customdata[4]}: median %{y:.3g}, middle 80 % %{customdata[0]:.3g} to "
            "%{customdata[1]:.3g}<extra></extra>"
        )
        figure.add_trace(line)
    names = ["embedding", *(f"block {block}" for block in range(max(map(len, values)) - 1))]
    figure.update_xaxes(title_text="from the residual after", tickvals=ticks(len(names)))
    figure.update_xaxes(ticktext=[names[tick] for tick in ticks(len(names))])
    figure.update_yaxes(title_text="singular values", type="log", exponentformat="power", dtick="D2")
    return figure


def ticks(count: int) -> list[int]:
    """Numbers of layers or heads for an axis; every second (third, ...) where there are many."""
    return list(range(0, count, max(1, -(-count // MOST_TICKS))))
