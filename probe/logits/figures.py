"""Figures of the logit lens for one model or two, and of confidence over layers and generated tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from probe.plotting.marks import CLICKS, ROW, cells, every_row, few_ticks, fit_text, frame, marks, space_rows, text_bars
from probe.plotting.panels import Panels
from probe.plotting.series import Style, curve
from probe.plotting.theme import (
    DASHES,
    DOTTED,
    METHODS,
    colour_axis,
    escape,
    log_axis,
    numbered,
    shorten,
    signed_axis,
    token_axis,
    two_bars,
)
from probe.runs.captured import Favourites

if TYPE_CHECKING:
    from probe.plotting.notebook import Look


def layer_names(rows: int) -> list[str]:
    """Return the names of the lens rows, from the embedding (row 0) to the output (last row)."""
    return ["embedding"] + [f"L{layer}" for layer in range(rows - 2)] + [f"L{rows - 2} = output"] * (rows > 1)


def lens_grid(favourites: Favourites, tokens: Sequence[str], *, width: int = 620, height: int = 450) -> go.Figure:
    """Draw the lens of one model: tokens to the right, layers upwards, the top token in the cell, the others on hover.

    Args:
        favourites: likeliest tokens of every row and position.
        tokens: [T] the text.
        width: width of the grid in pixels, which determines how much of a token fits into a cell.
        height: height of the figure in pixels; it is higher if the rows need it.
    """
    panels, rows = Panels(), len(favourites[0])
    best = np.exp(favourites[1][..., 0].astype(np.float32))
    panels.add(1, _grid(favourites, best, tokens, width))
    height = max(height, round(MARGINS + ROW * rows))
    panels.axis("x", title="token read", tickangle=-45, **token_axis(tokens))
    panels.axis("y", title="after layer", **token_axis(layer_names(len(favourites[0]))))
    bar = colour_axis("probability<br>of favourite", low=0, high=1)
    return panels.figure(showlegend=False, height=height, coloraxis=bar)


PAIR_WIDTH = 900
"""Width in pixels of the lenses of two models, which determines how much of a token fits into a cell."""


def lens_pair(
    lenses: tuple[Favourites, Favourites],
    followed: tuple[np.ndarray, np.ndarray],
    tokens: Sequence[str],
    *,
    names: tuple[str, str],
    answer: str,
) -> go.Figure:
    """Draw the lens of two models on one scale, and the difference of their log-probabilities of one answer.

    Colours: the log-probability of `answer` under each model (same scale), then aligned minus base, centred on zero.
    Cells name each model's likeliest token. Models of different depth have no difference panel.

    Args:
        lenses: likeliest tokens of base and aligned.
        followed: ([D+1 T], [D+1 T]) log-probability of the answer under base and aligned, nats.
        tokens: [T] the text, tokenized alike for both models.
        names: names of the two models.
        answer: token whose log-probability is drawn.
    """
    titles = [escape(shorten(name, 40)) for name in names]
    word = escape(shorten(answer, 18))
    rows = [values.shape[0] for values in followed]
    titles += ["aligned \u2212 base"] * (rows[0] == rows[1])
    depth = max(rows)
    panels = Panels(titles, columns=1, gap=0.2 / depth**0.5, shared_x=True)
    for row, (favourites, values) in enumerate(zip(lenses, followed, strict=True), start=1):
        trace = _grid(favourites, values.astype(np.float32), tokens, PAIR_WIDTH)
        trace.hovertemplate = f"log p({word}) = %{{z:.2f}} nats<br>%{{customdata}}<extra>{titles[row - 1]}</extra>"
        panels.add(row, trace)
        panels.axis("y", row, **token_axis(layer_names(rows[row - 1])))
    low = min(float(np.where(np.isfinite(values), values, 0.0).min()) for values in followed)
    upper, lower = two_bars(2 / 3) if len(titles) == 3 else ({}, {})
    layout = {"coloraxis": colour_axis(f"log p({word})<br>nats", low=max(-20.0, low), high=0, **upper)}
    if len(titles) == 3:
        change = (followed[1] - followed[0]).astype(np.float32)
        trace = cells(change, hover=_places(layer_names(depth), tokens), axis="coloraxis2")
        trace.hovertemplate = f"%{{customdata}}<br>change of log p({word}): %{{z:+.2f}} nats<extra></extra>"
        panels.add(3, trace)
        panels.axis("y", 3, **token_axis(layer_names(depth)))
        bound = max(0.5, float(np.nanquantile(np.abs(change), 0.98)))
        layout["coloraxis2"] = signed_axis("change<br>nats", bound, **lower)
    panels.axis("x", **token_axis(tokens))
    panels.lowest(title="token read", tickangle=-45)
    height = MARGINS + len(titles) * (34 + (24 if depth <= 13 else round(ROW)) * depth)
    return panels.figure(showlegend=False, height=height, **layout)


def _places(layers: Sequence[str], tokens: Sequence[str]) -> list[list[str]]:
    """Return the name of each cell of a map of layers and tokens, for hover texts."""
    return [[f"{layer}, {token}" for token in numbered(tokens)] for layer in layers]


def _grid(favourites: Favourites, z: np.ndarray, tokens: Sequence[str], width: int) -> go.Heatmap:
    top_tokens, logprobs = favourites
    places, cell = _places(layer_names(len(top_tokens)), tokens), (width / max(len(tokens), 1), ROW)
    hover = [
        ["<br>".join([where, *_chances(*cell)]) for where, *cell in zip(names, *row, strict=True)]
        for names, *row in zip(places, top_tokens, logprobs, strict=True)
    ]
    return cells(z, [[fit_text(position[0], cell) for position in row] for row in top_tokens], hover)


def _chances(tokens: Sequence[str], logprobs: np.ndarray) -> list[str]:
    """Return each token with its probability, escaped."""
    return [f"{escape(token)} {np.exp(float(value)):.3f}" for token, value in zip(tokens, logprobs, strict=True)]


MARGINS, BESIDE, BETWEEN = 120, 160, 24
"""Height of the margins, width of row names and colour bar, and height between two maps, in pixels."""
NUMBER = 34
"""Least width of a cell with a number in pixels."""
TALLEST = 640
"""Largest height of a lens in pixels; of deeper models every second (third, ...) layer is drawn."""


@dataclass(frozen=True)
class LensPanel:
    """Lens of one model on a window of a text."""

    name: str
    """Title of the panel."""
    values: np.ndarray
    """[R W] values that determine the colours: log-probability of the answer in nats, or the scalar."""
    favourites: np.ndarray | None = None
    """[R W k] likeliest tokens, likeliest first; None for a scalar model."""
    logprobs: np.ndarray | None = None
    """[R W k] log-probabilities of the likeliest tokens in nats."""


def lens_map(
    panels: Sequence[LensPanel],
    tokens: Sequence[str],
    *,
    start: int = 0,
    chosen: int | None = None,
    label: str,
    unit: str = "nats",
    width: int = 500,
    height: int = 430,
    every: int | None = None,
) -> go.Figure:
    """Draw one lens, or two on one scale and their difference; transparent markers hold the position as `customdata`.

    Args:
        panels: lenses of one window, from top to bottom; models of different depth have no difference.
        tokens: [W] tokens of the window.
        start: position of the window's first token.
        chosen: position whose column is framed.
        label: quantity that determines the colours, such as `log p(oslo)`.
        unit: unit of that quantity.
        width: width in pixels, which determines how much of a token fits into a cell.
        height: least height in pixels; the rows may need more.
        every: draw every n-th layer, and the embedding; by default `lens_stride`.
    """
    rows = _map_rows(panels)
    pair = len(rows) > len(panels)
    maps = [*panels, LensPanel("aligned \u2212 base", panels[1].values - panels[0].values)] if pair else list(panels)
    stride, margins = every or lens_stride(panels), MARGINS + BETWEEN * (len(maps) - 1)
    shown = [every_row(count, stride) for count in rows]
    height = max(height, round(margins + ROW * sum(map(len, shown))))
    titles = [escape(shorten(panel.name, 40)) for panel in maps] if len(maps) > 1 else None
    gap = BETWEEN / (height - MARGINS) if len(maps) > 1 else 0
    canvas = Panels(titles or [""], columns=1, gap=gap, shared_x=True)
    finite = np.concatenate([panel.values[np.isfinite(panel.values)] for panel in panels])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    log_scale = panels[0].favourites is not None
    upper, lower = two_bars(2 / 3) if pair else ({}, {})
    bar = f"{escape(shorten(label, 16))}{f'<br>{unit}' * (unit != label)}"
    signed = signed_axis(bar, max(abs(low), abs(high), 1e-6), **upper)
    layout = {"coloraxis": colour_axis(bar, low=max(-20.0, low), high=0.0, **upper) if log_scale else signed}
    if pair:
        largest = max(0.5 if log_scale else 1e-6, float(np.nanquantile(np.abs(maps[2].values), 0.98)))
        layout["coloraxis2"] = signed_axis(f"change<br>{unit}", largest, **lower)
    cell = (width - BESIDE) / len(tokens), (height - margins) / sum(map(len, shown))
    for index, (panel, row_indices) in enumerate(zip(maps, shown, strict=True)):
        names = layer_names(rows[index])
        canvas.add(index + 1, *_lens_traces(panel, row_indices, tokens, start, label, unit, cell, pair and index == 2))
        canvas.axis("y", index + 1, **token_axis([names[row] for row in row_indices]))
        if chosen is not None and start <= chosen < start + len(tokens):
            column = frame(chosen - start, (len(row_indices) - 1) / 2, height=len(row_indices))
            canvas.shape(index + 1, column)
    canvas.axis("x", fixedrange=True, **token_axis(tokens))
    canvas.axis("y", fixedrange=True)
    canvas.lowest(title="token read", tickangle=-45)
    return canvas.figure(
        **CLICKS, height=height, margin={"t": 24 if titles else 10, "b": 66, "l": 60, "r": 8}, **layout
    )


def lens_stride(panels: Sequence[LensPanel]) -> int:
    """Return the smallest n for which every n-th layer of some lenses fits into one figure (`lens_map`)."""
    rows = _map_rows(panels)
    return space_rows(rows, TALLEST - MARGINS - BETWEEN * (len(rows) - 1))


def _map_rows(panels: Sequence[LensPanel]) -> list[int]:
    """Return the number of rows of each map: of the lenses, and of the difference of two of the same depth."""
    rows = [panel.values.shape[0] for panel in panels]
    return [*rows, rows[0]] if len(rows) == 2 and rows[0] == rows[1] else rows


def _lens_traces(
    panel: LensPanel,
    row_indices: list[int],
    tokens: Sequence[str],
    start: int,
    label: str,
    unit: str,
    cell: tuple[float, float],
    difference: bool,
) -> list[go.Scatter | go.Heatmap]:
    """Return the cells of a panel, and the markers above them that show the hover texts and take the clicks."""
    names, word = layer_names(panel.values.shape[0]), escape(shorten(label, 24))
    numbers = panel.favourites is None and cell[0] >= NUMBER
    hover, labels = [], []
    for row in row_indices:
        labels.append([""] * len(tokens))
        for column, token in enumerate(tokens):
            value = panel.values[row, column]
            lines = [f"{names[row]}, {escape(token)} [{start + column}]"]
            lines.append(f"{'change of ' * difference}{word}: {value:{'+' * difference}.2f} {unit}")
            if panel.favourites is not None and panel.logprobs is not None:
                lines += _chances(panel.favourites[row, column], panel.logprobs[row, column])
                labels[-1][column] = fit_text(panel.favourites[row, column, 0], cell)
            elif numbers:
                labels[-1][column] = f"{value:+.1f}"
            hover.append("<br>".join(lines))
    axis = "coloraxis2" if difference else "coloraxis"
    heatmap = cells(panel.values[row_indices], labels, axis=axis)
    ys, xs = (axis.ravel().tolist() for axis in np.indices((len(row_indices), len(tokens))))
    return [heatmap, marks(xs, ys, hover, [[start + column] for column in xs], cell)]


RANKS = [1, 2, 5, 10, 30, 100, 300, 1000]
"""Ticks of an axis of ranks in a small vocabulary; in a larger one there is room for the powers of ten."""


@dataclass(frozen=True)
class ModelMeasures:
    """Measures of one model at R points of an axis (layers or generated tokens)."""

    name: str
    colour: str
    entropy: np.ndarray
    """[R] entropies of the next token in nats."""
    margin: np.ndarray
    """[R] margins between the two likeliest tokens."""
    logprobs: np.ndarray
    """[R A] log-probabilities of the answers in nats."""
    ranks: np.ndarray
    """[R A] ranks of the answers, from 1."""
    points: Sequence[str]
    """[R] names of the points."""


def curves(
    sides: Sequence[ModelMeasures],
    answers: Sequence[str],
    *,
    axis: str,
    ticks: Sequence[str],
    columns: int = 2,
    height: int = 430,
) -> go.Figure:
    """Draw log-probability and rank of the answers, entropy, and margin along layers or generated tokens.

    Args:
        sides: measures of each model, which has one line in each panel.
        answers: [A] answers in the first two panels; the second one is dashed.
        axis: title of the x axis.
        ticks: names of the points on the x axis.
        columns: number of panels side by side.
        height: height in pixels.
    """
    titles = ["log-probability (nats)", "rank (1 = likeliest)", "entropy (nats)", "margin (nats)"]
    titles = titles if answers else titles[2:]
    panels = Panels(titles, columns=columns, spacing=0.32 / columns**1.4, gap=0.2, shared_x=True)
    panels.axis("x", tickangle=-45, **few_ticks([escape(shorten(tick, 10)) for tick in ticks], 16 // columns))
    largest = max((float(side.ranks.max()) for side in sides if side.ranks.size), default=0.0)
    for index, name in enumerate(titles, start=1):
        for side in sides:
            panels.add(index, *_lines(side, name, answers, legend=index == 1))
        if name.startswith("rank"):
            panels.axis("y", index, **log_axis(), autorange="reversed", tickvals=rank_ticks(largest))
    panels.lowest(title=axis)
    return panels.figure(height=height)


def rank_ticks(largest: float) -> list[int]:
    """Return the ticks of a logarithmic axis of ranks up to the largest."""
    return RANKS if largest < RANKS[-1] else [10**power for power in range(len(str(int(largest))) + 1)]


def kl_bars(
    kl: np.ndarray,
    tokens: Sequence[str],
    *,
    start: int | None = None,
    chosen: int | None = None,
    colour: str = METHODS["dpo"],
) -> go.Figure:
    """Draw the KL between the two next-token distributions at every position of a text.

    Args:
        kl: [T] KL(aligned || base) in nats for the distributions that predict token t (NaN for the first token).
        tokens: [T] the text.
        start: index of the continuation's first token, marked by a line.
        chosen: index of the position to emphasise.
        colour: colour of the aligned model's method.
    """
    panels = Panels()
    bars = text_bars(tokens, kl, colour, "KL %{y:.3f} nats", chosen)
    panels.add(1, bars.update(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0.45}}))
    if start is not None and 0 < start < len(tokens):
        panels.mark(1, DOTTED, x=start - 0.5)
        late = start > 0.7 * len(tokens)  # no room to the right of the line
        text, anchor, x = ("prompt", "right", start - 0.55) if late else ("continuation", "left", start - 0.45)
        panels.note(1, text, x=x, y=1, yref="paper", xanchor=anchor, yanchor="top")
    panels.axis("x", tickangle=-45, range=[-0.6, len(tokens) - 0.4], **token_axis(tokens))
    panels.axis("y", title="KL(aligned \u2225 base), nats", rangemode="tozero")
    return panels.figure(showlegend=False, bargap=0.15, clickmode="event+select")


def lens_distances(lenses: "Sequence[tuple[Look, pd.DataFrame]]") -> go.Figure:
    """Draw the KL of fitted lenses to the output by layer, beside those of the logit lens and the unigram distribution.

    Args:
        lenses: name and colour of each model, and the table of its lens (`FittedLens.table`).
    """
    panels, deepest = Panels(), max((len(table) for _, table in lenses), default=1)
    for look, table in lenses:
        of = f", {look.name}" * (len(lenses) > 1)
        kinds = {
            "kl": (f"{table['lens'].iloc[0]} lens", "solid"),
            "kl_logit": ("logit lens", "dash"),
            "kl_unigram": ("unigram", "dot"),
        }
        for column, (name, dash) in kinds.items():
            places = zip(layer_names(len(table)), table[column], strict=True)
            hover = [f"{escape(name + of)}, {layer}: KL {value:.3f} nats" for layer, value in places]
            panels.add(1, curve(range(len(table)), table[column], name + of, Style(look.colour, dash), hover))
    panels.axis("x", title="after layer", **few_ticks(layer_names(deepest), 14))
    panels.axis("y", title="KL(output \u2225 lens), nats", rangemode="tozero")
    return panels.figure(showlegend=True)


def kl_map(kl: np.ndarray, tokens: Sequence[str], *, width: int = 620) -> go.Figure:
    """Draw the KL between two models by layer and position.

    Args:
        kl: [R W] KL(aligned || base) after each layer, nats.
        tokens: [W] the text.
        width: width in pixels, which determines whether the cells show numbers.
    """
    names, panels = layer_names(len(kl)), Panels()
    room = width / max(1, len(tokens)) >= 36 and len(kl) <= 14
    written = [[f"{value:.2f}" for value in row] for row in kl]
    trace = cells(kl, written, _places(names, tokens), legible=room)
    panels.add(1, trace.update(hovertemplate="%{customdata}: KL %{z:.3f} nats<extra></extra>"))
    panels.axis("x", title="token read", tickangle=-45, **token_axis(tokens))
    panels.axis("y", title="after layer", **few_ticks(names, 14))
    axis = colour_axis("KL<br>nats", low=0, high=max(0.05, float(kl.max())))
    return panels.figure(showlegend=False, coloraxis=axis)


def _lines(side: ModelMeasures, panel: str, answers: Sequence[str], *, legend: bool) -> list[go.Scatter]:
    """Return the lines of one model in one panel."""
    by_answer = {"log-probability (nats)": side.logprobs, "rank (1 = likeliest)": side.ranks + 1}
    if panel in by_answer:
        series = [(escape(shorten(answer, 14)), by_answer[panel][:, at]) for at, answer in enumerate(answers)]
    else:
        series = [("", side.entropy if panel.startswith("entropy") else side.margin)]
    whole = escape(shorten(side.name, 20))
    names = [f"{whole}: {suffix}" if suffix else whole for suffix, _ in series]
    return [
        go.Scatter(
            x=list(range(len(values))),
            y=values,
            mode="lines+markers",
            name=name,
            showlegend=legend,
            line={"color": side.colour, "dash": DASHES[index % 2], "width": 2 if index == 0 else 1.5},
            marker={"size": 4},
            customdata=[escape(point) for point in side.points],
            hovertemplate="%{customdata}: %{y:.3f}<extra>" + name + "</extra>",
        )
        for index, (name, (_, values)) in enumerate(zip(names, series, strict=True))
    ]
