"""Figures of interventions: effects over sites, one effect and its nulls, estimates and exact effects, steering.

Effects are signed and centred on zero. The chosen site has a red frame, as on every heat map of heads. Nulls are grey:
filled for other sites, hollow for random directions.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.numbers import rate
from probe.plotting.intervals import band
from probe.plotting.marks import CLICKS, cells, frame, squares
from probe.plotting.panels import Panels
from probe.plotting.theme import CHOSEN, DOTTED, METHODS, escape, escape_lines, shorten, signed_axis, token_axis

NULL = METHODS["pretrain"]
"""Colour of null interventions."""
SYMBOLS = ("circle", "circle-open")
"""Marker of other sites, and of random directions."""
MOST_LAYERS = 16
"""Maximum number of rows that a grid labels one by one."""
MOST_NUMBERED = 10
"""Maximum number of columns whose cells have room for a number."""


ALPHA = {"residual": "alpha, in mean residual norms", "difference": "alpha, in differences of the means"}
"""Titles of an axis of doses, by unit of alpha (`probe.interventions.steering.Unit`)."""


def layer_labels(layers: Sequence[int]) -> list[str]:
    """Return the row names of a grid of sites; -1 is the embedding."""
    return ["embedding" if layer < 0 else f"L{layer}" for layer in layers]


def head_labels(count: int) -> list[str]:
    """Return the column names of a grid of heads."""
    return [f"H{head}" for head in range(count)]


def effect_grid(
    values: np.ndarray,
    layers: Sequence[int],
    columns: Sequence[str],
    *,
    label: str,
    axis: str,
    chosen: tuple[int, int] | None = None,
    marked: Sequence[int] = (),
    bound: float | None = None,
    height: int = 340,
) -> go.Figure:
    """Draw effects over layers (upwards) and tokens or heads (to the right); transparent markers take the clicks.

    Args:
        values: [rows columns] signed effects; NaN leaves a cell empty.
        layers: [rows] blocks, -1 for the embedding; a clicked point returns its block in `customdata[0]`.
        columns: [columns] names of tokens or heads; a clicked point returns the column's index in `customdata[1]`.
        label: title of the colour bar, such as `share restored`.
        axis: title of the column axis.
        chosen: (layer, column) to frame.
        marked: indices of columns with bold names (where two texts differ).
        bound: end of the colour scale, for figures that are compared; by default the largest effect.
        height: height of the figure in pixels, which determines the size of the markers.
    """
    rows, count = values.shape
    names = layer_labels(layers)
    finite = np.abs(values[np.isfinite(values)])
    end = bound or max(float(finite.max()) if finite.size else 0.0, 1e-6)
    panels = Panels()
    texts = [[_cell(value) for value in row] for row in values]
    at_row, at_column = (axis.ravel().tolist() for axis in np.indices(values.shape))
    named = [
        [layers[row], column, f"{names[row]}, {escape(columns[column])}", float(values[row, column])]
        for row, column in zip(at_row, at_column, strict=True)
    ]
    size = max(4.0, min(0.8 * (height - 90) / rows, 480 / count))
    hover = f"%{{customdata[2]}}<br>{escape(label)} %{{customdata[3]:.3f}}<extra></extra>"
    panels.add(1, cells(values, texts, legible=count <= MOST_NUMBERED and rows <= MOST_LAYERS))
    panels.add(1, squares(at_column, at_row, named, size, hover))
    if chosen is not None and chosen[0] in list(layers) and 0 <= chosen[1] < count:
        panels.shape(1, frame(chosen[1], list(layers).index(chosen[0])))
    ticks = token_axis(columns, 10)
    ticks["ticktext"] = [
        f"<b>{text}</b>" if at in marked else text
        for at, text in zip(ticks["tickvals"], ticks["ticktext"], strict=True)
    ]
    tilt = -45 if count > 6 else 0
    panels.axis("x", title=axis, tickangle=tilt, range=[-0.5, count - 0.5], fixedrange=True, **ticks)
    panels.axis("y", range=[-0.5, rows - 0.5], fixedrange=True, **_layer_axis(names))
    scale, around = signed_axis(label.replace(", ", "<br>", 1), end), {"l": 64, "t": 10, "r": 8, "b": 44}
    return panels.figure(**CLICKS, height=height, coloraxis=scale, margin=around)


def _layer_axis(names: Sequence[str]) -> dict:
    """Return axis settings with a tick at each layer, or at every second (third, ...) if there are many."""
    ticks = token_axis(names)
    step = 1 + len(names) // (MOST_LAYERS + 1)
    return ticks | {"tickvals": ticks["tickvals"][::step], "ticktext": ticks["ticktext"][::step]}


def _cell(value: float) -> str:
    """Format a number for a cell; empty if it rounds to 0, so that the other cells stand out."""
    text = f"{value:.2f}"
    return "" if text in ("0.00", "-0.00", "nan") else text.replace("-", "\u2212")


SEEN = 0.005
"""Minimum probability of a bar with a label; a smaller bar is invisible, and its label would be the widest."""


def probabilities(
    answers: Sequence[str],
    before: np.ndarray,
    after: np.ndarray,
    nulls: Sequence[tuple[str, np.ndarray]],
    *,
    colour: str,
) -> go.Figure:
    """Draw the probability of each answer before and after an intervention, and after each null draw as a point.

    Args:
        answers: [A] names of the answers.
        before: [A] log-probabilities in nats without the intervention.
        after: [A] log-probabilities in nats with the intervention.
        nulls: (name, [N A] log-probabilities in nats) of each null.
        colour: colour of the model's method.
    """
    panels = Panels()
    places = np.arange(len(answers))
    bars = (("before", before, -0.28, METHODS["pretrain"], 0.45), ("after", after, -0.02, colour, 1.0))
    for name, logprobs, shift, fill, opacity in bars:
        bar = go.Bar(
            x=places + shift,
            y=np.exp(logprobs),
            width=0.24,
            name=name,
            marker={"color": fill, "opacity": opacity},
            text=[rate(value) if value >= SEEN else "" for value in np.exp(logprobs)],
            textposition="outside",
            textfont={"size": 11},
            textangle=0,
            constraintext="none",
            cliponaxis=False,
            hovertemplate=f"{name}: %{{y:.4f}}<extra></extra>",
        )
        panels.add(1, bar)
    for (name, logprobs), shift, symbol in zip(nulls, (0.2, 0.34), SYMBOLS, strict=False):
        if not len(logprobs):
            continue
        spread = 0.035 * np.sin(2.4 * np.arange(len(logprobs)))[:, None]
        marks = go.Scatter(
            x=(places + shift + spread).ravel(),
            y=np.exp(logprobs).ravel(),
            mode="markers",
            name=escape(name),
            marker={"color": NULL, "size": 5, "opacity": 0.8, "symbol": symbol},
            hovertemplate=f"{escape(name)}: %{{y:.4f}}<extra></extra>",
        )
        panels.add(1, marks)
    panels.axis("x", range=[-0.5, len(answers) - 0.45], **token_axis(answers))
    panels.axis("y", title="probability", range=[0, 1.12], tickvals=[0, 0.25, 0.5, 0.75, 1])
    legend = {"font": {"size": 10}, "itemwidth": 30, "entrywidthmode": "fraction", "entrywidth": 0.5}
    return panels.figure(margin={"t": 8, "r": 8, "b": 40}, barmode="overlay", legend=legend)


def effect_and_nulls(
    effect: float, nulls: Sequence[tuple[str, np.ndarray]], *, label: str, colour: str, scale: float = 1.0
) -> go.Figure:
    """Draw one effect and the effects of null interventions on one axis.

    Args:
        effect: change of the target in nats.
        nulls: (name, [N] effects in nats) of each null.
        label: title of the axis.
        colour: colour of the model's method.
        scale: divisor of the effects (the gap between clean and corrupted run, for a share).
    """
    rows = [("this site", np.array([effect]), "diamond")]
    rows += [(name, effects, symbol) for (name, effects), symbol in zip(nulls, SYMBOLS, strict=False)]
    panels = Panels()
    for row, (name, effects, symbol) in enumerate(rows):
        jitter = 0.16 * np.sin(2.4 * np.arange(len(effects))) * (len(effects) > 1)
        marks = go.Scatter(
            x=effects / scale,
            y=row + jitter,
            mode="markers",
            name=escape(name),
            marker={"color": NULL if row else colour, "size": 7 if row else 11, "symbol": symbol},
            opacity=0.8 if row else 1.0,
            hovertemplate=f"{escape(name)}: %{{x:.3f}}<extra></extra>",
        )
        panels.add(1, marks)
    panels.mark(1, DOTTED, x=0)
    panels.axis("x", title=label, zeroline=False)
    panels.axis("y", range=[len(rows) - 0.5, -0.5], **token_axis([name for name, *_ in rows], 18))
    return panels.figure(showlegend=False, margin={"r": 16, "l": 90})


def exact_against_estimate(
    exact: np.ndarray, estimate: np.ndarray, names: Sequence[str], *, label: str, colour: str
) -> go.Figure:
    """Draw every site as a point with its estimated effect as x and its exact effect as y, and the line of equality.

    Args:
        exact: [S] exact effects.
        estimate: [S] estimated effects.
        names: [S] names of the sites.
        label: quantity on both axes, with its unit.
        colour: colour of the model's method.
    """
    panels = Panels()
    both = np.concatenate([exact, estimate])
    ends = [float(both.min()), float(both.max())]
    sites = go.Scatter(
        x=estimate,
        y=exact,
        mode="markers",
        customdata=[escape(name) for name in names],
        marker={"color": colour, "size": 7, "opacity": 0.7},
        hovertemplate="%{customdata}<br>estimate %{x:.3f}, exact %{y:.3f}<extra></extra>",
    )
    panels.add(1, go.Scatter(x=ends, y=ends, mode="lines", line=DOTTED, hoverinfo="skip"), sites)
    panels.axis("x", title=f"estimated {label}", zeroline=False, ticklabelstandoff=5)
    panels.axis("y", title=f"exact {label}", zeroline=False)
    return panels.figure(showlegend=False)


def dose_curves(
    table: pd.DataFrame,
    *,
    label: str,
    colour: str,
    chosen: float | None = None,
    unit: str = "nats",
    step: str = "residual",
) -> go.Figure:
    """Draw the target against alpha with its interval and the range of the null, and to the right the cost of steering.

    Args:
        table: table of `probe.interventions.steering.Dose.table`.
        label: name of the target.
        colour: colour of the model's method.
        chosen: alpha to mark.
        unit: unit of the target.
        step: unit of alpha.
    """
    controls = [name for name in ("accuracy", "kl") if name in table]
    names = {"accuracy": "unrelated questions right", "kl": "KL to the unsteered model"}
    titles = [escape_lines(title, 16) for title in (shorten(label, 44), *(names[each] for each in controls))]
    panels, alphas = Panels(titles, spacing=0.09), table["alpha"]
    if "null" in table:
        null = _line(alphas, table["null"], NULL, "random directions", dash="dot")
        panels.add(1, band(alphas, table["null_low"], table["null_high"], NULL), null)
    if len(table["target_low"].dropna()):
        panels.add(1, band(alphas, table["target_low"], table["target_high"], colour))
    panels.add(1, _line(alphas, table["target"], colour, "this direction"))
    panels.axis("x", title=ALPHA[step], zeroline=False, fixedrange=True)
    panels.axis("y", fixedrange=True)
    panels.axis("y", 1, title=unit)
    for column, name in enumerate(controls, start=2):
        line = _line(alphas, table[name], colour, name).update(showlegend=False)
        panels.add(column, band(alphas, table[f"{name}_low"], table[f"{name}_high"], colour), line)
        scale = {"range": [0, 1.05]} if name == "accuracy" else {"rangemode": "tozero", "title": "nats a token"}
        panels.axis("y", column, **scale)
    if chosen is not None:
        panels.mark(None, {"color": CHOSEN, "width": 1.5}, x=chosen)
    return panels.figure(clickmode="event+select")


def _line(x: pd.Series, y: pd.Series, colour: str, name: str, dash: str = "solid") -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name=name,
        line={"color": colour, "dash": dash, "width": 2},
        marker={"size": 7},
        hovertemplate=f"{name}<br>alpha %{{x:.2f}}: %{{y:.3f}}<extra></extra>",
    )
