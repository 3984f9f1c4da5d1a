"""Direct logit attribution as figures: a map of all parts, one part enlarged, and both over training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from probe.logits.figures import RANKS
from probe.plotting.marks import cells, few_ticks, frame, lay_out, marks
from probe.plotting.theme import DASHES, LIGHT, colour_axis, escape, new_figure, shorten, template, token_axis

ROOM = 34
"""Pixels of a cell from which its number is written into it."""


@dataclass(frozen=True)
class Parts:
    """What each part adds to one number, of one model or as a difference of two."""

    name: str
    """Title of the panel."""
    heads: np.ndarray
    """[D H]"""
    mlps: np.ndarray
    """[D]"""
    biases: np.ndarray
    """[D] of the attention outputs."""
    single: Sequence[tuple[str, float]]
    """Parts without a layer, such as the embedding, by name."""


def attribution_map(
    panels: Sequence[Parts],
    *,
    label: str,
    unit: str = "nats",
    chosen: tuple[int, int | None] | None = None,
    width: int = 900,
    height: int = 300,
) -> go.Figure:
    """Every part as a cell: layers upwards, heads and the MLP to the right, what has no layer in the lowest row.

    The transparent markers above the cells carry the name of their head or MLP, such as `L2H1`, as `customdata`.

    Args:
        panels: side by side on one diverging scale, centred on zero; all of one shape.
        label: the number that is split, such as `oslo - paris`.
        unit: of the number.
        chosen: (layer, head) to frame, head None for the MLP.
        width: pixels of the figure, from which follows what is written into a cell.
        height: pixels of the figure.
    """
    grids = [_cells(panel) for panel in panels]
    rows, columns = grids[0][0].shape
    bound = max(1e-6, *(float(np.nanmax(np.abs(values))) for values, _ in grids))
    titles = [escape(shorten(panel.name, 40)) for panel in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles, horizontal_spacing=0.02, shared_yaxes=True)
    cell = (width - 120) / len(panels) / columns, (height - 70) / rows
    numbers = cell[0] >= ROOM and cell[1] >= 14
    word = escape(shorten(label, 40))
    for column, (values, names) in enumerate(grids, start=1):
        hover = [[f"{escape(name)}: {v:+.3f} {unit} of {word}" for name, v in zip(*row)] for row in zip(names, values)]  # noqa: B905
        text = [[f"{v:+.1f}" if np.isfinite(v) and abs(v) >= 0.05 else "" for v in row] for row in values]
        place = {"row": 1, "col": column}
        figure.add_trace(cells(values, text, legible=numbers), **place)
        figure.add_trace(_marks(values, names, hover, panels[0].heads.shape[1], cell), **place)
        if chosen is not None:
            layer, head = chosen
            figure.add_shape(frame(panels[0].heads.shape[1] if head is None else head, layer + 1), **place)
    depth, heads = panels[0].heads.shape
    across = [*(f"H{head}" for head in range(heads)), "MLP", "bias"][:columns]
    lowest = "embedding" if sum(bool(number) for _, number in panels[0].single) == 1 else "rest"
    options = {"fixedrange": True, "constrain": "domain"}
    figure.update_xaxes(**token_axis(across), **options)
    figure.update_yaxes(**token_axis([lowest, *(f"L{layer}" for layer in range(depth))]), **options)
    scale = colour_axis(f"adds<br>{unit}", low=-bound, high=bound, diverging=True)
    lay_out(figure, height, coloraxis=scale, margin={"l": 44, "t": 30, "b": 30, "r": 8})
    return figure


def promoted_bars(
    sides: Sequence[tuple[str, str, Sequence[str], np.ndarray, Sequence[str], np.ndarray]], *, unit: str = "nats"
) -> go.Figure:
    """Draw what a part promotes (upper bars) and suppresses (lower bars), one panel per model on one scale.

    Args:
        sides: (name, colour, promoted tokens, [k] their values, suppressed tokens, [k] their values), best first.
        unit: of the values.
    """
    titles = [escape(shorten(side[0], 30)) for side in sides]
    figure = make_subplots(rows=1, cols=len(sides), subplot_titles=titles, horizontal_spacing=0.16)
    bound = max(1e-6, *(float(np.abs([*side[3], *side[5]]).max()) for side in sides))
    for column, (_, colour, up, gains, down, losses) in enumerate(sides, start=1):
        tokens, values = [*up, *reversed(down)], [*gains, *reversed(losses)]
        bars = go.Bar(
            x=values,
            y=list(range(len(tokens))),
            orientation="h",
            marker={"color": colour, "opacity": [0.95] * len(up) + [0.45] * len(down)},
            customdata=[escape(token) for token in tokens],
            hovertemplate=f"%{{customdata}}: %{{x:+.3f}} {unit}<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
        figure.update_yaxes(autorange="reversed", **token_axis(tokens, 12), row=1, col=column)
    figure.update_xaxes(title_text=f"added to the logit ({unit})", range=[-1.08 * bound, 1.08 * bound])
    figure.update_annotations(font_size=13)
    figure.update_layout(template=template(LIGHT), showlegend=False, bargap=0.2, margin={"t": 30})
    return figure


def source_bars(
    tokens: Sequence[str], sides: Sequence[tuple[str, str, np.ndarray]], *, label: str, unit: str = "nats"
) -> go.Figure:
    """From which tokens a head carried what it adds.

    Args:
        tokens: [T] the text up to the target's position.
        sides: (name, colour, [T] values) of each model.
        label: the number that is split.
        unit: of the number.
    """
    names = [f"{escape(token)} [{index}]" for index, token in enumerate(tokens)]
    figure = _draw_grouped(
        [(name, colour, list(range(len(tokens))), values) for name, colour, values in sides], names, unit
    )
    figure.update_xaxes(title_text="source token", tickangle=-45, **token_axis(tokens))
    figure.update_yaxes(title_text=f"adds to {escape(shorten(label, 20))}{f' ({unit})' * (unit != label)}")
    return figure


def neuron_bars(
    neurons: Sequence[int], sides: Sequence[tuple[str, str, np.ndarray]], *, label: str, unit: str = "nats"
) -> go.Figure:
    """Draw what single neurons of an MLP add.

    Args:
        neurons: [k] their numbers.
        sides: (name, colour, [k] values) of each model.
        label: the number that is split.
        unit: of the number.
    """
    names = [f"neuron {neuron}" for neuron in neurons]
    figure = _draw_grouped(
        [(name, colour, list(range(len(neurons))), values) for name, colour, values in sides], names, unit
    )
    figure.update_xaxes(title_text="neuron", tickangle=-45, **token_axis([str(neuron) for neuron in neurons]))
    figure.update_yaxes(title_text=f"adds to {escape(shorten(label, 20))}{f' ({unit})' * (unit != label)}")
    return figure


def _draw_grouped(
    sides: Sequence[tuple[str, str, Sequence[int], np.ndarray]], names: Sequence[str], unit: str
) -> go.Figure:
    figure = new_figure(barmode="group", bargap=0.25, showlegend=len(sides) > 1)
    for name, colour, xs, values in sides:
        figure.add_trace(
            go.Bar(
                x=list(xs),
                y=values,
                name=escape(shorten(name, 24)),
                marker={"color": colour},
                customdata=list(names),
                hovertemplate=f"%{{customdata}}: %{{y:+.3f}} {unit}<extra>{escape(shorten(name, 24))}</extra>",
            )
        )
    return figure


def _cells(panel: Parts) -> tuple[np.ndarray, list[list[str]]]:
    """[D+1, H+1 or H+2] values, the lowest row first, and the name of each cell; NaN where there is none."""
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
    """Draw the markers that name the parts and take the click."""
    rows, columns = (axis.tolist() for axis in np.nonzero(np.isfinite(values)))
    texts = [hover[row][column] for row, column in zip(rows, columns, strict=True)]
    named = [names[row][column] if row and column <= heads else None for row, column in zip(rows, columns, strict=True)]
    return marks(columns, rows, texts, [[name] for name in named], cell)


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
    """Draw a measure by layer (upwards) and training step (to the right).

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
    form = ".0f" if logarithmic else ".3f"
    figure = new_figure(showlegend=False)
    figure.add_trace(
        go.Heatmap(
            z=np.log10(values) if logarithmic else values,
            coloraxis="coloraxis",
            customdata=[
                [
                    f"{escape(layer)}, step {step:,}: {value:{form}}" if np.isfinite(value) else ""
                    for step, value in pairs
                ]
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
    """Draw the parts that added or took most at some training step, the strongest in the highest row, around zero.

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
            label = escape(shorten(name, 20))
            figure.add_trace(
                go.Scatter(
                    x=list(steps),
                    y=values,
                    mode="lines+markers",
                    name=label,
                    showlegend=len(lines) > 1,
                    line={"color": colour, "dash": DASHES[index % len(DASHES)], "width": 2},
                    marker={"size": 6, "symbol": MARKS[index % len(MARKS)]},
                    hovertemplate=f"step %{{x:,}}: %{{y:.3f}}<extra>{label}</extra>",
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
    finite = kl[np.isfinite(kl)]
    figure = training_map(kl, steps, names, label="KL\nnats", low=0, high=max(FLAT, float(finite.max(initial=0.0))))
    rows = few_ticks([escape(name) for name in names], 20)
    figure.update_yaxes(title_text="after token", autorange="reversed", **rows)
    return figure
