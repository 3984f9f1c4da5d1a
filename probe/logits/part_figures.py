"""Figures of direct logit attribution: a map of all parts, one part in detail, and both over training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from probe.logits.figures import rank_ticks
from probe.plotting.marks import CLICKS, cells, few_ticks, frame, marks, token_bars
from probe.plotting.panels import Panels
from probe.plotting.theme import DASHES, Kind, colour_axis, escape, numbered, on_hover, shorten, signed_axis, token_axis

ROOM = 34
"""Minimum width of a cell that shows its number, in pixels."""


@dataclass(frozen=True)
class PartContributions:
    """Contributions of all parts to one number, for one model or as the difference of two."""

    name: str
    """Title of the panel."""
    heads: np.ndarray
    """[D H] contributions of the heads."""
    mlps: np.ndarray
    """[D] contributions of the MLPs."""
    biases: np.ndarray
    """[D] contributions of the attention output biases."""
    single: Sequence[tuple[str, float]]
    """Names and contributions of parts without a layer, such as the embedding."""


def attribution_map(
    panels: Sequence[PartContributions],
    *,
    label: str,
    unit: str = "nats",
    chosen: tuple[int, int | None] | None = None,
    width: int = 900,
    height: int = 300,
) -> go.Figure:
    """Draw every part as a cell: layers upwards, heads and MLP to the right, parts without a layer in the lowest row.

    The transparent markers above the cells hold the name of the head or MLP, such as `L2H1`, as `customdata`.

    Args:
        panels: contributions for each panel, of equal shape; all on one diverging scale centred on zero.
        label: quantity that is decomposed, such as `oslo - paris`.
        unit: unit of the quantity.
        chosen: (layer, head) to frame; the head is None for the MLP.
        width: width of the figure in pixels, which determines whether the cells show numbers.
        height: height of the figure in pixels.
    """
    grids = [_cells(panel) for panel in panels]
    rows, columns = grids[0][0].shape
    bound = max(1e-6, *(float(np.nanmax(np.abs(values))) for values, _ in grids))
    titles = [escape(shorten(panel.name, 40)) for panel in panels]
    canvas = Panels(titles, spacing=0.02, shared_y=True)
    cell = (width - 120) / len(panels) / columns, (height - 70) / rows
    numbers = cell[0] >= ROOM and cell[1] >= 14
    word, (depth, heads) = escape(shorten(label, 40)), panels[0].heads.shape
    for column, (values, names) in enumerate(grids, start=1):
        hover = [[f"{escape(name)}: {v:+.3f} {unit} of {word}" for name, v in zip(*row)] for row in zip(names, values)]  # noqa: B905
        text = [[f"{v:+.1f}" if np.isfinite(v) and abs(v) >= 0.05 else "" for v in row] for row in values]
        canvas.add(column, cells(values, text, legible=numbers), _marks(values, names, hover, heads, cell))
        if chosen is not None:
            layer, head = chosen
            canvas.shape(column, frame(heads if head is None else head, layer + 1))
    across = [*(f"H{head}" for head in range(heads)), "MLP", "bias"][:columns]
    lowest = "embedding" if sum(bool(number) for _, number in panels[0].single) == 1 else "rest"
    options = {"fixedrange": True, "constrain": "domain"}
    canvas.axis("x", **token_axis(across), **options)
    canvas.axis("y", **token_axis([lowest, *(f"L{layer}" for layer in range(depth))]), **options)
    around = {"l": 44, "t": 30, "b": 30, "r": 8}
    return canvas.figure(**CLICKS, height=height, margin=around, coloraxis=signed_axis(f"adds<br>{unit}", bound))


def promoted_bars(
    sides: Sequence[tuple[str, str, Sequence[str], np.ndarray, Sequence[str], np.ndarray]],
) -> go.Figure:
    """Draw the tokens that a part promotes (upper bars) and suppresses (lower bars), one panel per model on one scale.

    Args:
        sides: (name, colour, promoted tokens, [k] values, suppressed tokens, [k] values) in nats, strongest first.
    """
    titles = [escape(shorten(side[0], 30)) for side in sides]
    panels = Panels(titles, spacing=0.16)
    bound = max(1e-6, *(float(np.abs([*side[3], *side[5]]).max()) for side in sides))
    for column, (_, colour, up, gains, down, losses) in enumerate(sides, start=1):
        tokens, values = [*up, *reversed(down)], [*gains, *reversed(losses)]
        marker = {"color": colour, "opacity": [0.95] * len(up) + [0.45] * len(down)}
        template = "%{customdata}: %{x:+.3f} nats<extra></extra>"
        hover = on_hover(map(escape, tokens)) | {"hovertemplate": template}
        token_bars(panels, column, tokens, values, 12, marker=marker, **hover)
    panels.axis("x", title="added to the logit (nats)", range=[-1.08 * bound, 1.08 * bound])
    return panels.figure(showlegend=False, bargap=0.2)


def source_bars(
    tokens: Sequence[str], sides: Sequence[tuple[str, str, np.ndarray]], *, label: str, unit: str = "nats"
) -> go.Figure:
    """Draw the contribution of a head by the source token that it attends to.

    Args:
        tokens: [T] the text up to the target's position.
        sides: (name, colour, [T] values) of each model.
        label: quantity that is decomposed.
        unit: unit of the quantity.
    """
    return _grouped_bars(numbered(tokens), tokens, sides, "source token", label, unit)


def neuron_bars(
    neurons: Sequence[int], sides: Sequence[tuple[str, str, np.ndarray]], *, label: str, unit: str = "nats"
) -> go.Figure:
    """Draw the contributions of single neurons of an MLP.

    Args:
        neurons: [k] indices of the neurons.
        sides: (name, colour, [k] values) of each model.
        label: quantity that is decomposed.
        unit: unit of the quantity.
    """
    names = [str(neuron) for neuron in neurons]
    return _grouped_bars([f"neuron {name}" for name in names], names, sides, "neuron", label, unit)


def _grouped_bars(
    hover: Sequence[str],
    ticks: Sequence[str],
    sides: Sequence[tuple[str, str, np.ndarray]],
    axis: str,
    label: str,
    unit: str,
) -> go.Figure:
    panels = Panels()
    for name, colour, values in sides:
        short = escape(shorten(name, 24))
        bars = go.Bar(x=list(range(len(ticks))), y=values, name=short, marker={"color": colour}, customdata=list(hover))
        panels.add(1, bars.update(hovertemplate=f"%{{customdata}}: %{{y:+.3f}} {unit}<extra>{short}</extra>"))
    panels.axis("x", title=axis, tickangle=-45, **token_axis(ticks))
    panels.axis("y", title=f"adds to {escape(shorten(label, 20))}{f' ({unit})' * (unit != label)}")
    return panels.figure(barmode="group", bargap=0.25, showlegend=len(sides) > 1)


def _cells(panel: PartContributions) -> tuple[np.ndarray, list[list[str]]]:
    """Return [D+1, H+1 or H+2] values, lowest row first, NaN where there is no part, and the name of each cell."""
    depth, heads = panel.heads.shape
    columns = heads + 1 + bool(np.abs(panel.biases).max(initial=0.0) > 0)
    single = [(name, number) for name, number in panel.single if number]
    columns = max(columns, len(single))
    values = np.full((depth + 1, columns), np.nan)
    names = [[name for name, _ in single] + [""] * (columns - len(single))]
    values[0, : len(single)] = [number for _, number in single]
    for layer in range(depth):
        values[layer + 1, :heads], values[layer + 1, heads] = panel.heads[layer], panel.mlps[layer]
        own = [*(f"L{layer}H{head}" for head in range(heads)), f"L{layer} MLP"]
        if columns > heads + 1:
            values[layer + 1, heads + 1] = panel.biases[layer]
            own.append(f"L{layer} bias of attention")
        names.append(own + [""] * (columns - len(own)))
    return values, names


def _marks(
    values: np.ndarray, names: list[list[str]], hover: list[list[str]], heads: int, cell: tuple[float, float]
) -> go.Scatter:
    """Return the markers that name the parts on hover and take the clicks."""
    rows, columns = (axis.tolist() for axis in np.nonzero(np.isfinite(values)))
    texts = [hover[row][column] for row, column in zip(rows, columns, strict=True)]
    named = [names[row][column] if row and column <= heads else None for row, column in zip(rows, columns, strict=True)]
    return marks(columns, rows, texts, [[name] for name in named], cell)


MARKS = ("circle", "diamond-open", "square-open", "triangle-up-open", "x")
FLAT = 0.05
"""Minimum range of the colour scale of KL in nats, so that rounding errors do not look like changes."""


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
    """Draw a measure by layer (upwards) and training step (to the right).

    Args:
        values: [R S] values, one row per layer; NaN if unknown.
        steps: [S] the captured steps, evenly spaced on the axis.
        layers: [R] names of the rows.
        label: quantity, with its unit.
        low: lower end of the colour scale.
        high: upper end of the colour scale.
        logarithmic: whether the colour scale is logarithmic, for ranks from 1; rank 1 is the darkest.
        diverging: whether the colour scale is diverging, for values of both signs.
    """
    bar: dict[str, Any] = {}
    if logarithmic:
        ranks = rank_ticks(high)
        bar = {"tickvals": np.log10(ranks).tolist(), "ticktext": [f"{rank:,}" for rank in ranks]}
        low, high = np.log10(low), np.log10(high)
    form = ".0f" if logarithmic else ".3f"
    hover = [
        [
            f"{escape(layer)}, step {step:,}: {value:{form}}" if np.isfinite(value) else ""
            for step, value in zip(steps, row, strict=True)
        ]
        for layer, row in zip(layers, values, strict=True)
    ]
    panels, title = Panels(), "<br>".join(escape(part) for part in label.split("\n"))
    panels.add(1, cells(np.log10(values) if logarithmic else values, hover=hover))
    panels.axis("x", title="training step", **token_axis([f"{step:,}" for step in steps]))
    panels.axis("y", **few_ticks([escape(layer) for layer in layers], 14))
    kind: Kind = "diverging" if diverging else "sequential"
    axis = colour_axis(title, low=low, high=high, kind=kind, **bar) | {"reversescale": logarithmic}
    return panels.figure(showlegend=False, coloraxis=axis)


def training_parts(
    values: np.ndarray, steps: Sequence[int], names: Sequence[str], *, label: str, k: int = 12
) -> go.Figure:
    """Draw the parts with the largest contribution at any training step, the strongest at the top, centred on zero.

    Args:
        values: [N S] contribution of each part at each step, nats; NaN if unknown.
        steps: [S] the captured steps.
        names: [N] names of the parts.
        label: quantity that is decomposed.
        k: maximum number of parts.
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
    """Draw panels of curves over the captured steps; the curves of a panel differ by dash and marker.

    Args:
        panels: [S] values by the name of the curve, by title of the panel (with the unit).
        steps: [S] the captured steps.
        colour: colour of the run's method.
    """
    canvas = Panels(list(panels), spacing=0.14)
    for column, lines in enumerate(panels.values(), start=1):
        for index, (name, values) in enumerate(lines.items()):
            label = escape(shorten(name, 20))
            line = go.Scatter(
                x=list(steps),
                y=values,
                mode="lines+markers",
                name=label,
                showlegend=len(lines) > 1,
                line={"color": colour, "dash": DASHES[index % len(DASHES)], "width": 2},
                marker={"size": 6, "symbol": MARKS[index % len(MARKS)]},
                hovertemplate=f"step %{{x:,}}: %{{y:.3f}}<extra>{label}</extra>",
            )
            canvas.add(column, line)
    canvas.axis("x", title="training step")
    return canvas.figure(showlegend=any(len(lines) > 1 for lines in panels.values()))


def training_kl(kl: np.ndarray, steps: Sequence[int], tokens: Sequence[str]) -> go.Figure:
    """Draw the KL to the reference by token (downwards) and training step (to the right).

    Args:
        kl: [T S] KL(pi || pi_ref) after each token, nats; NaN if unknown.
        steps: [S] the captured steps.
        tokens: [T] the text.
    """
    names = [f"{shorten(token, 14)} [{at}]" for at, token in enumerate(tokens)]
    finite = kl[np.isfinite(kl)]
    figure = training_map(kl, steps, names, label="KL\nnats", low=0, high=max(FLAT, float(finite.max(initial=0.0))))
    rows = few_ticks([escape(name) for name in names], 20)
    figure.update_yaxes(title_text="after token", autorange="reversed", **rows)
    return figure
