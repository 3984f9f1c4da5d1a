"""Two models on one text: where they diverge (KL a token) and their next-token probabilities; and over a corpus."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.numbers import chance, format_interval
from probe.plotting.theme import LIGHT, METHODS, escape, new_figure, shorten, template, token_axis


def kl_bars(
    kl: np.ndarray,
    tokens: Sequence[str],
    *,
    start: int | None = None,
    chosen: int | None = None,
    colour: str = METHODS["dpo"],
) -> go.Figure:
    """KL of the two next-token distributions at every position of a text.

    Args:
        kl: [T] KL(aligned || base) in nats of the distributions that predict token t (NaN for the first token).
        tokens: [T] the text.
        start: first token of the continuation, marked by a line.
        chosen: position to emphasise.
        colour: of the aligned model's method.
    """
    figure = new_figure(showlegend=False, bargap=0.15, clickmode="event+select", margin={"t": 12})
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    strong = [1.0 if chosen is None or index == chosen else 0.45 for index in range(len(tokens))]
    figure.add_trace(
        go.Bar(
            x=list(range(len(tokens))),
            y=kl,
            customdata=names,
            marker={"color": colour, "opacity": strong},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.45}},
            hovertemplate="%{customdata}<br>KL %{y:.3f} nats<extra></extra>",
        )
    )
    if start is not None and 0 < start < len(tokens):
        figure.add_vline(x=start - 0.5, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
        late = start > 0.7 * len(tokens)  # no room to the right of the line
        text, anchor, x = ("prompt", "right", start - 0.55) if late else ("continuation", "left", start - 0.45)
        figure.add_annotation(x=x, y=1, yref="paper", xanchor=anchor, yanchor="top", text=text)
    figure.update_xaxes(tickangle=-45, range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    figure.update_yaxes(title_text="KL(aligned \u2225 base), nats", rangemode="tozero")
    return figure


def next_tokens(
    favourites: tuple[tuple[Sequence[str], np.ndarray], tuple[Sequence[str], np.ndarray]],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
) -> go.Figure:
    """The favourites of both models for one token, side by side on one scale.

    Args:
        favourites: (k tokens, [k] their probabilities, best first) of base and aligned.
        names: how the models are called.
        colours: of their methods.
    """
    titles = [escape(shorten(name, 22)) for name in names]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.2)
    for column, ((tokens, probabilities), colour) in enumerate(zip(favourites, colours, strict=True), start=1):
        bars = go.Bar(
            x=probabilities,
            y=list(range(len(tokens))),
            orientation="h",
            marker={"color": colour},
            text=[chance(float(value)) for value in probabilities],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
        figure.update_yaxes(autorange="reversed", **token_axis(list(tokens)), row=1, col=column)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title_text="probability", range=[0, 1.15], tickvals=[0, 0.5, 1], tickformat=".0%")
    figure.update_layout(template=template(LIGHT), showlegend=False, bargap=0.25, margin={"t": 32})
    return figure


def scalar_readings(
    readings: tuple[np.ndarray, np.ndarray],
    difference: np.ndarray,
    tokens: Sequence[str],
    *,
    names: tuple[str, str],
    colours: tuple[str, str],
    unit: str,
    start: int | None = None,
    chosen: int | None = None,
) -> go.Figure:
    """What two models of one number read after each token, and below it how differently each token changes that.

    Args:
        readings: [T] of base and aligned.
        difference: [T] change at a token of the aligned model's reading minus that of the base's; NaN at token 0.
        tokens: [T] the text.
        names: how the models are called.
        colours: of their methods.
        unit: what the number is, such as `reward`.
        start: first token of the completion, marked by a line.
        chosen: position to emphasise.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.09, row_heights=[0.6, 0.4])
    at, labels = list(range(len(tokens))), [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    for name, values, colour, dash in zip(names, readings, colours, ("solid", "dash"), strict=True):
        curve = go.Scatter(
            x=at,
            y=values,
            mode="lines+markers",
            name=escape(shorten(name, 24)),
            line={"color": colour, "width": 2, "dash": "solid" if colours[0] != colours[1] else dash},
            marker={"size": 5},
            customdata=labels,
            hovertemplate=f"%{{customdata}}<br>{unit} %{{y:+.3f}}<extra></extra>",
        )
        figure.add_trace(curve, row=1, col=1)
    bars = go.Bar(
        x=at,
        y=difference,
        customdata=labels,
        showlegend=False,
        marker={"color": colours[1], "opacity": [1.0 if chosen in (None, index) else 0.45 for index in at]},
        hovertemplate="%{customdata}<br>difference of the change %{y:+.3f}<extra></extra>",
    )
    figure.add_trace(bars, row=2, col=1)
    if start is not None and 0 < start < len(tokens):
        figure.add_vline(x=start - 0.5, line={"color": LIGHT.muted, "width": 1, "dash": "dot"})
    figure.update_layout(
        template=template(LIGHT), clickmode="event+select", bargap=0.15, legend={"y": 1.14}, margin={"t": 36, "l": 70}
    )
    figure.update_xaxes(range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    figure.update_xaxes(tickangle=-45, row=2, col=1)
    figure.update_yaxes(title_text=f"{unit} read here", row=1, col=1)
    figure.update_yaxes(title_text="change,<br>aligned \u2212 base", row=2, col=1)
    return figure


def corpus_panels(kinds: pd.DataFrame, tokens: pd.DataFrame, *, most: int = 30) -> go.Figure:
    """KL by kind of text, and by how much the mean probability of tokens changed, with their 95 % intervals.

    Args:
        kinds: `kind`, `kl`, `kl_low`, `kl_high`, the most changed first.
        tokens: `token`, `direction` (promoted, suppressed), `value`, `ci_low`, `ci_high`.
        most: kinds that are drawn.
    """
    titles = ["KL(aligned \u2225 base) by kind", "tokens promoted and suppressed"]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.22)
    kinds = kinds.head(most)
    rows = kinds[["kl", "kl_low", "kl_high"]].to_numpy(dtype=float)
    figure.add_trace(_points(rows, list(kinds["kind"]), METHODS["dpo"], " nats"), row=1, col=1)
    figure.update_yaxes(row=1, col=1, **_names(list(kinds["kind"])))
    figure.update_xaxes(title_text="nats a token", rangemode="tozero", row=1, col=1)
    tokens = tokens.sort_values("value", ascending=False)
    rows = 100 * tokens[["value", "ci_low", "ci_high"]].to_numpy(dtype=float)
    figure.add_trace(_points(rows, list(tokens["token"]), METHODS["dpo"], " pp"), row=1, col=2)
    figure.update_yaxes(row=1, col=2, **_names(list(tokens["token"])))
    figure.update_xaxes(title_text="change of the mean probability, percentage points", zeroline=True, row=1, col=2)
    figure.update_annotations(font_size=13)
    height = 110 + 20 * max(len(kinds), len(tokens), 8)
    figure.update_layout(template=template(LIGHT), showlegend=False, height=height, margin={"t": 36})
    return figure


def _points(rows: np.ndarray, names: Sequence[str], colour: str, unit: str) -> go.Scatter:
    """Values with the ends of their intervals [n 3], one below the other."""
    value, low, high = rows.reshape(-1, 3).T
    hover = [f"{escape(name)}: {format_interval(*row)}{unit}" for name, row in zip(names, rows.tolist(), strict=True)]
    return go.Scatter(
        x=value,
        y=list(range(len(value))),
        mode="markers",
        marker={"color": colour, "size": 7},
        error_x={"symmetric": False, "array": high - value, "arrayminus": value - low, "thickness": 1.6, "width": 0},
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
    )


def _names(names: Sequence[str]) -> dict:
    """An axis that names every row, from the top."""
    return {**token_axis(list(names), length=20, most=len(names)), "range": [len(names) - 0.5, -0.5]}
