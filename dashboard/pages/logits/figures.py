"""The figures of the Logits page on one prompt: lens and trajectories, the map of parts, one part enlarged."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import sides
from dashboard.components.figure import figure
from dashboard.markdown import note
from dashboard.pages.logits import compute as results
from dashboard.pages.logits.choices import PART, POSITION
from dashboard.pages.logits.compute import Question
from probe.logits.attribution import PartPlace, carrier, parse_part, part_name, part_names
from probe.logits.figures import LensPanel, Side, curves, layer_names, lens_map
from probe.logits.part_figures import MLP, attribution_map, neuron_bars, promoted_bars, source_bars
from probe.numbers import signed
from probe.texts import visible

if TYPE_CHECKING:
    from probe.logits.attribution import Attribution
    from probe.logits.trajectories import LayerTrajectory, PairTrajectory, ScalarLens

HEIGHT = 385
NEURONS = 20


def lens_figure(question: Question, lenses: "list[LayerTrajectory]", table: pd.DataFrame) -> None:
    """Draw what each model would say after each layer, coloured by the answer's log-probability."""
    start, stop = question.window
    panels = [
        LensPanel(side.name, each.logprobs[..., 0], each.lens.top_tokens, each.lens.top_logprobs)
        for side, each in zip(question.sides, lenses, strict=True)
    ]
    word = lenses[-1].answers[0]
    chart = lens_map(
        panels,
        question.tokens[start:stop],
        start=start,
        chosen=question.target.position,
        label=f"log p({word})",
        height=HEIGHT,
    )
    title = "What follows each token, layer by layer (click a column)"
    figure(chart, table, "log-lens", title=title, source=question.source, on_select=_take_position)


def layer_figure(question: Question, lenses: "list[LayerTrajectory]", table: pd.DataFrame) -> None:
    """Log-probability, rank, entropy and margin after the chosen token, over layers."""
    sides = []
    for side, each in zip(question.sides, lenses, strict=True):
        column = question.target.position - each.start
        sides.append(
            Side(
                side.name,
                side.colour,
                each.entropy[:, column],
                each.margin[:, column],
                each.logprobs[:, column],
                each.ranks[:, column],
                layer_names(len(each.entropy)),
            )
        )
    deepest = max((side.points for side in sides), key=len)
    ticks = ["emb", *deepest[1:-1], deepest[-1].split(" ")[0]]
    chart = curves(sides, lenses[-1].answers, axis="after layer", ticks=ticks, height=HEIGHT)
    title = f"After token {question.target.position}, over layers"
    figure(chart, table, "log-layers", title=title, source=question.source)


def scalar_figure(question: Question, lenses: "list[ScalarLens]") -> None:
    """Draw the scalar by layer and position."""
    start, stop = question.window
    panels = [
        LensPanel(side.name, each.values[:, start:stop]) for side, each in zip(question.sides, lenses, strict=True)
    ]
    chart = lens_map(
        panels,
        question.tokens[start:stop],
        start=start,
        chosen=question.target.position,
        label=question.unit,
        unit=question.unit,
        width=850,
        height=HEIGHT,
    )
    frames = [each.table().assign(model=side.name) for side, each in zip(question.sides, lenses, strict=True)]
    title = f"The {question.unit} read after each token, layer by layer (click a column)"
    table = pd.concat(frames, ignore_index=True)
    figure(chart, table, "log-lens", title=title, source=question.source, on_select=_take_position)


def map_figure(question: Question, parts: "list[Attribution]", part: PartPlace) -> pd.DataFrame:
    """Draw what every part adds in each model, and what changed; return the table behind it."""
    from probe.logits.attribution import difference_table

    same = len(parts) == 2 and parts[0].heads.shape == parts[1].heads.shape
    panels = [
        each.panel(f"{side.name}: {signed(each.total)}") for side, each in zip(question.sides, parts, strict=True)
    ]
    frames = [each.table().assign(model=side.name) for side, each in zip(question.sides, parts, strict=True)]
    table = difference_table(parts[0], parts[1]) if same else pd.concat(frames, ignore_index=True)
    if same:
        panels.append(parts[1].panel(f"aligned \u2212 base: {signed(parts[1].total - parts[0].total)}", parts[0]))
    depth = max(each.heads.shape[0] for each in parts)
    title = f"What each part adds to {question.label} (click a head or an MLP)"
    options: dict[str, Any] = {"label": question.label, "unit": question.unit, "chosen": part}
    if len(parts) == 2 and not same:
        for side, panel, frame in zip(question.sides, panels, frames, strict=True):
            chart = attribution_map([panel], height=90 + 22 * (panel.heads.shape[0] + 1), **options)
            figure(chart, frame, f"log-parts-{side.role}", title=f"{title}: {side.name}", source=question.source)
        return table
    height = max(210, min(560, 80 + (26 if depth <= 12 else 14) * (depth + 1)))
    chart = attribution_map(panels, height=height, **options)
    figure(chart, table, "log-parts", title=title, source=question.source, on_select=_take_part)
    return table


def choose_part(parts: "list[Attribution]") -> PartPlace:
    """Return the head or MLP to enlarge: the one that the reader chooses, else the one that adds most."""
    names = part_names(parts[-1])
    carries = part_name(carrier(parts)[0])
    if st.session_state.get(PART) not in (None, *names):
        st.session_state[PART] = None
    hint = "Empty: the part that carries most. A click on the map chooses it too."
    choice = st.selectbox(
        "PartPlace",
        names,
        index=None,
        key=PART,
        bind="query-params",
        placeholder=f"most: {carries}",
        help=hint,
        format_func=visible,
    )
    return parse_part(choice or carries)


def part_figures(question: Question, parts: "list[Attribution]", part: PartPlace) -> None:
    """Which tokens a part promotes, and from which tokens (a head) or by which neurons (an MLP) it does."""
    layer, head = part
    pairs = [
        (side, each)
        for side, each in zip(question.sides, parts, strict=True)
        if layer < each.heads.shape[0] and (head is None or head < each.heads.shape[1])
    ]
    if question.scalar:
        note(f"A {question.unit} model gives one number and no tokens, so a part promotes none.")
        right = st.container()
    else:
        left, right = st.columns(2, gap="medium")
        with left:
            _draw_promoted(question, [side for side, _ in pairs], part)
    with right:
        if head is not None:
            length = question.target.position + 1
            bars = [(side.name, side.colour, each.sources[layer, head, :length]) for side, each in pairs]
            chart = source_bars(question.tokens[:length], bars, label=question.label, unit=question.unit)
            table = pd.concat([each.source_table(layer, head).assign(model=side.name) for side, each in pairs])
            title = f"From which tokens {part_name(part)} carries it"
            figure(chart, table, "log-sources", title=title, height=380, source=question.source)
            if not question.scalar:
                _weights(question, pairs[-1][0], layer, head, int(np.argmax(np.abs(bars[-1][2]))))
            return
        if any(each.neurons is None for _, each in pairs):
            note("The MLPs of this model are more than W_out of their neurons, so they cannot be split further.")
            return
        top = pairs[-1][1].neuron_table(layer, NEURONS)["neuron"].tolist()
        rows = [(side, each.neurons) for side, each in pairs if each.neurons is not None]
        bars = [(side.name, side.colour, values[layer, top]) for side, values in rows if max(top) < values.shape[1]]
        table = pd.concat([each.neuron_table(layer, 10**6).assign(model=side.name) for side, each in pairs])
        chart = neuron_bars(top, bars, label=question.label, unit=question.unit)
        title = f"The {len(top)} neurons of the L{layer} MLP that add or take most"
        figure(chart, table, "log-neurons", title=title, height=380, source=question.source)


def _draw_promoted(question: Question, sides: list[sides.Side], part: PartPlace) -> None:
    effects = [results.tokens_of(side, question, *part) for side in sides]
    chart = promoted_bars(
        [
            (side.name, side.colour, each.pieces, each.values, each.suppressed_pieces, each.suppressed_values)
            for side, each in zip(sides, effects, strict=True)
        ]
    )
    frames = [each.table().assign(model=side.name) for side, each in zip(sides, effects, strict=True)]
    title = f"What {part_name(part)} promotes and suppresses"
    figure(chart, pd.concat(frames), "log-promoted", title=title, height=380, source=question.source)


def _weights(question: Question, side: sides.Side, layer: int, head: int, source: int) -> None:
    """In words, what the head does with its strongest source by its weights alone."""
    effect = results.from_weights(side, layer, head, question.ids[source])
    up, down = (", ".join(words[:5]) for words in (effect.pieces, effect.suppressed_pieces))
    word = question.tokens[source]
    note(
        f"By its weights alone, L{layer}H{head} of {side.name} attending to {word} promotes {up} and suppresses {down}."
    )


def lens_table(question: Question, lenses: "list[LayerTrajectory]", both: "PairTrajectory | None") -> pd.DataFrame:
    """Every measure in the window, of all models shown."""
    if both is not None:
        return both.table()
    return pd.concat(
        [each.table().assign(model=side.name) for side, each in zip(question.sides, lenses, strict=True)],
        ignore_index=True,
    )


def _take_position(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom:
        st.session_state[POSITION] = int(custom[0])


def _take_part(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom and len(custom) == 2 and custom[0] >= 0 and custom[1] >= MLP:
        layer, head = int(custom[0]), int(custom[1])
        st.session_state[PART] = part_name((layer, None if head == MLP else head))
