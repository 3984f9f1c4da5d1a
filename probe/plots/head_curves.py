"""What belongs to one head or one query as a curve or a small map: spectra, lags, rollout.

Axes: D layers, T tokens, r rank of a head's maps, K lags.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.plots.heads import WRITTEN
from probe.plots.theme import LIGHT, METHODS, colour_axis, escape, new_figure, shorten, template, token_axis

KINDS = ("#3F78C6", "#B8860B", "#E8555F", "#868B94", "#1B8A3D")
"""Colours of curves that are no training methods."""


def spectra(
    panels: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]], *, colours: Sequence[str] = (METHODS["dpo"],)
) -> go.Figure:
    """Singular values of a head's maps, largest first, one panel a map and one line a model.

    Args:
        panels: (title, [(model, [r] singular values)]).
        colours: of the models.
    """
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=[escape(title) for title, _ in panels])
    for column, (_, lines) in enumerate(panels, start=1):
        for (name, values), colour in zip(lines, colours, strict=True):
            line = go.Scatter(
                x=list(range(1, len(values) + 1)),
                y=values,
                mode="lines+markers",
                name=escape(shorten(name, 24)),
                line={"color": colour, "width": 2},
                marker={"size": 4},
                showlegend=column == 1 and len(lines) > 1,
                hovertemplate="%{x}: %{y:.4f}<extra></extra>",
            )
            figure.add_trace(line, row=1, col=column)
    figure.update_layout(template=template(LIGHT), margin={"t": 60}, legend={"y": 1.14})
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="rank of the singular value", rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(title_text="singular value", col=1)
    return figure


def rollout_map(values: np.ndarray, tokens: Sequence[str], *, boundary: int | None = None) -> go.Figure:
    """What share of one query's residual comes from each token of the input, after each layer.

    Args:
        values: [D T] rollout row of the query after each layer, rows summing to 1.
        tokens: [T] the tokens.
        boundary: first token that the model wrote itself.
    """
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    figure = new_figure(showlegend=False, margin={"t": 8})
    figure.add_trace(
        go.Heatmap(
            z=values.astype(np.float32),
            coloraxis="coloraxis",
            customdata=[[f"after L{layer}: {name}" for name in names] for layer in range(len(values))],
            xgap=1,
            ygap=1,
            hovertemplate="%{customdata}<br>share %{z:.3f}<extra></extra>",
        )
    )
    if boundary is not None and 0 < boundary < len(tokens):
        figure.add_vline(x=boundary - 0.5, line={"color": WRITTEN, "width": 1, "dash": "dot"})
    figure.update_layout(coloraxis=colour_axis("share", low=0, high=max(1e-6, float(values.max()))))
    figure.update_xaxes(title_text="token of the input", tickangle=-45, **token_axis(tokens))
    layers = [f"L{layer}" for layer in range(len(values))]
    figure.update_yaxes(title_text="after layer", **token_axis(layers))
    return figure


def lag_curves(
    lines: Sequence[tuple[str, np.ndarray]], *, colours: Sequence[str] = (METHODS["dpo"],), log_x: bool = True
) -> go.Figure:
    """Mean attention by distance back: one line a model or a head.

    Args:
        lines: (name, [K] mean weight at lag 0, 1, ...).
        colours: of the lines.
        log_x: lag + 1 on a logarithmic axis, so that near and far both show.
    """
    figure = new_figure(margin={"t": 28}, showlegend=len(lines) > 1)
    for (name, values), colour in zip(lines, colours, strict=True):
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(values)) + int(log_x),
                y=values,
                mode="lines",
                name=escape(shorten(name, 24)),
                line={"color": colour, "width": 2},
                customdata=np.arange(len(values)),
                hovertemplate="lag %{customdata}: %{y:.4f}<extra></extra>",
            )
        )
    title = "1 + lag t \u2212 s (tokens)" if log_x else "lag t \u2212 s (tokens)"
    figure.update_xaxes(title_text=title, type="log" if log_x else "linear")
    figure.update_yaxes(title_text="mean weight", rangemode="tozero")
    return figure


def score_curves(steps: Sequence[int], lines: Mapping[str, np.ndarray], *, marker: int | None = None) -> go.Figure:
    """Several shares of one head over training steps.

    Args:
        steps: [S] of the captures.
        lines: [S] shares, 0 to 1, by name.
        marker: step to mark.
    """
    figure = new_figure(margin={"t": 30})
    for index, (name, values) in enumerate(lines.items()):
        figure.add_trace(
            go.Scatter(
                x=list(steps),
                y=values,
                mode="lines+markers",
                name=escape(name),
                line={"color": KINDS[index % len(KINDS)], "width": 2},
                marker={"size": 5},
                hovertemplate=f"{escape(name)}<br>step %{{x:,}}: %{{y:.3f}}<extra></extra>",
            )
        )
    top = 1.08 * max(0.05, *(float(np.nanmax(values)) for values in lines.values()))
    if marker is not None:
        figure.add_vline(x=marker, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text="training step")
    figure.update_yaxes(title_text="share of attention", range=[0, top])
    return figure
