"""Weights, on Side by side: how much, where, and in how many directions two models of one architecture differ."""

import time
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from dashboard.components.details import csv_button, details
from dashboard.components.figure import figure
from dashboard.components.table import show_table
from dashboard.markdown import note, prose
from dashboard.models import compute_once
from dashboard.pages.compare.choices import HEAD_PART, WEIGHT_LIST, Pair, compute_when_asked
from dashboard.state import keep
from probe.compare.figures import head_change_map, weight_map
from probe.errors import ModelError
from probe.numbers import in_percent, rate

if TYPE_CHECKING:
    from probe.compare.weights import WeightChange
    from probe.model.lm import LM
    from probe.ticks import Tick

PARTS = {
    "QK": "qk",
    "OV": "ov",
    "query": "q",
    "key": "k",
    "value": "v",
    "output": "o",
}
"""What of a head is drawn, as the columns of its table begin."""
MATRICES, HEADS, BLOCKS = LISTS = ("Matrices", "Heads", "Blocks")
FIRST = ("name", "shape", "relative", "rank", "participation_rank", "entropy_rank", "cosine")
"""Columns of the table of matrices that come first."""
TIMED = 192
"""Rows and columns of the matrix by which the time of all is told."""
HEIGHT = 360
EQUATIONS = [
    r"\Delta W = W_{\mathrm{aligned}} - W_{\mathrm{base}} = \sum_i s_i u_i v_i^\top, \quad"
    r"\mathrm{relative} = \lVert \Delta W \rVert_F / \lVert W_{\mathrm{base}} \rVert_F",
    r"\mathrm{participation\ rank} = \frac{(\sum_i s_i^2)^2}{\sum_i s_i^4}, \quad"
    r"\mathrm{entropy\ rank} = \exp\Big(-\sum_i \tfrac{s_i}{\sum_j s_j} \log \tfrac{s_i}{\sum_j s_j}\Big)",
]
DEFINITION = """
The change of a matrix is described by its singular values. *rank* counts those above what rounding to the format of the
weights can do (*noise*); both effective ranks are of these alone: 1 for one direction, r for r equally strong ones. A
LoRA adapter is compared as it is loaded, merged into its base, so its change has at most the adapter's rank. *cosine*
is that of the change and the base's matrix: below 0 the matrix shrinks. QK is the product of a head's query and key
maps, OV that of its output and value maps. A tied matrix counts once.
"""


def draw(pair: Pair) -> None:
    """Draw the tab from its sentence to its folded section."""
    try:
        change = compute_when_asked(
            measure,
            *pair.lms,
            button="Run the decomposition of every matrix",
            seconds=compute_once(tell_cost, *pair.lms, say="Timing a decomposition"),
            key="weights-run",
            say="Decomposing the change of every matrix",
        )
    except ModelError as error:
        pair.tell(f"The weights of {pair.names[0]} and {pair.names[1]} cannot be set against each other.")
        st.error(prose(error))
        return
    if change is None:
        pair.tell("Press the button to measure what changed in the weights.")
        note("It tells how much every matrix, head and block changed, and in how many directions.")
        return
    pair.tell(sentence(change, pair.names))
    left, right = st.columns([5, 4], gap="medium")
    with left:
        title = f"Relative change from {pair.names[0]} to {pair.names[1]}"
        figure(
            weight_map(change.matrices),
            change.matrices,
            "weights",
            title=title,
            height=height(change),
            source=pair.source,
        )
    with right:
        draw_heads(change, pair)
    remarks(change)
    tables(change)
    code = [
        "import probe",
        *["import probe.model.rewards"] * (pair.base.readout != "tokens"),
        "",
        pair.loads,
        "change = probe.compare.weight_change(base, aligned)",
        "change.figure(), change.matrices, change.heads, change.blocks",
    ]
    downloads = {"weights": change.matrices, "heads": change.heads, "blocks": change.blocks}
    details(EQUATIONS, DEFINITION, "\n".join(code), {name: table for name, table in downloads.items() if len(table)})


def measure(base: "LM", aligned: "LM", tick: "Tick") -> "WeightChange":
    """`weight_change`."""
    from probe.compare.weights import weight_change

    return weight_change(base, aligned, tick)


def tell_cost(base: "LM", aligned: "LM") -> float:
    """Seconds that the singular values of all changes take, about: those of one matrix are timed."""
    import torch

    matrix = torch.randn(TIMED, TIMED, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.linalg.svdvals(matrix)
    start = time.perf_counter()
    torch.linalg.svdvals(matrix)
    each = (time.perf_counter() - start) / TIMED**3
    sizes = [tuple(weight.flatten(1).shape) for weight in aligned.model.parameters() if weight.ndim > 1]
    return 2 * each * sum(rows * columns * min(rows, columns) for rows, columns in sizes)  # heads take as long again


def height(change: "WeightChange") -> int:
    """Pixels of both maps."""
    return max(HEIGHT, 120 + 18 * len(change.blocks))


def draw_heads(change: "WeightChange", pair: Pair) -> None:
    """Draw the change of one part of every head."""
    if not len(change.heads):
        note(f"Heads are not shown: {change.why_no_heads}")
        return
    key = keep(HEAD_PART, PARTS, next(iter(PARTS)))
    part = str(st.session_state.get(key))
    title = f"{part} of every head: relative change"
    chart = head_change_map(change.heads, PARTS[part])
    figure(chart, change.heads, "weight-heads", title=title, height=height(change) - 50, source=pair.source)
    st.segmented_control(
        "Part of a head", list(PARTS), key=key, bind="query-params", required=True, label_visibility="collapsed"
    )


def remarks(change: "WeightChange") -> None:
    """Explain what the colours are, and say how many changes rounding may explain."""
    note(
        "Each cell is the norm of the change over the norm of the base's weights. QK and OV are what a head compares "
        "and what it copies, so rotations of its inner basis count for nothing."
    )
    if change.rounding:
        note(f"{change.rounding} parameters changed by no more than rounding to {change.precision} explains.")


def tables(change: "WeightChange") -> None:
    """All numbers, the most changed first."""
    lists = [name for name in LISTS if name != HEADS or len(change.heads)]
    listed = st.segmented_control(
        "Ranked", lists, key=keep(WEIGHT_LIST, lists, MATRICES), bind="query-params", required=True
    )
    part = PARTS[str(st.session_state.get(HEAD_PART, next(iter(PARTS))))]
    if listed == MATRICES:
        shapes = [" x ".join(map(str, shape)) for shape in change.matrices["shape"]]
        rest = [name for name in change.matrices if name not in FIRST]
        table, by = change.matrices.assign(shape=shapes)[[*FIRST, *rest]], "relative"
    elif listed == HEADS:
        table, by = change.heads, f"{part}_relative"
        first = [name for name in table if name in ("block", "head", "key_head") or str(name).startswith(f"{part}_")]
        table = table[[*first, *(name for name in table if name not in first)]]
    else:
        table, by = change.blocks, "relative"
    table = table.sort_values(by, ascending=False, kind="stable", ignore_index=True)
    show_table(
        table, hide_index=True, height=38 + 35 * min(10, len(table)), key="weights-list", column_config=look(table)
    )
    csv_button(table, f"weights-{str(listed).lower()}")


def look(table: pd.DataFrame) -> dict[str, Any]:
    """How columns are shown: ratios in percent, other numbers with three digits."""
    shown = {}
    for name in map(str, table):
        title = name.replace("_", " ")
        if name.endswith(("relative", "share")):
            shown[name] = st.column_config.NumberColumn(title, format="percent", width="small")
        elif pd.api.types.is_float_dtype(table[name]):
            shown[name] = st.column_config.NumberColumn(title, format="%.3g", width="small")
    return shown


def sentence(change: "WeightChange", names: tuple[str, str]) -> str:
    """How much changed, where most, and in how many directions."""
    rows = change.matrices
    total = float((rows["norm"] ** 2).sum()) ** 0.5
    if not total:
        return f"No weight of {names[1]} differs from that of {names[0]}."
    whole = total / max(float((rows["base_norm"] ** 2).sum()) ** 0.5, 1e-300)
    blocks = change.blocks.dropna(subset="block").sort_values("relative", ascending=False)
    where = ""
    if len(blocks) > 1:
        most, least = blocks.iloc[0], blocks.iloc[-1]
        where = (
            f", most in block {most['block']} ({in_percent(most['relative'])}) and least in block {least['block']} "
            f"({in_percent(least['relative'])})"
        )
    wide = rows[rows["shape"].map(min) > 1]
    changed = wide[wide["rank"] > 0]
    start = f"From {names[0]} to {names[1]} the weights changed by {in_percent(whole)} of their norm{where}"
    if not len(changed):
        return f"{start}; no matrix changed by more than rounding."
    widths, top = changed["shape"].map(min), int(changed["rank"].max())
    if top <= widths.min() / 4:
        how = (
            f"{len(changed)} of {len(wide)} matrices changed, each in at most {top} of its {widths.min()} or more "
            f"directions, as by a LoRA adapter of rank {top}"
        )
    else:
        share = (changed["participation_rank"] / widths).median()
        how = (
            f"the median matrix in {changed['participation_rank'].median():.0f} effective directions (participation "
            f"ratio), {rate(share)} of those that it has"
        )
    return f"{start}; {how}."
