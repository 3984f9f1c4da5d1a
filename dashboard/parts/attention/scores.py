"""All heads of the Attention page as numbers: scores on a grid, and what moved between two sides."""

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard import models
from dashboard.components.figure import figure
from dashboard.parts.attention.choices import take_head
from dashboard.parts.attention.source import Head, Reading, Side
from dashboard.state import keep
from dashboard.text import note, plain
from probe.attention.figures import change_map
from probe.attention.head_figures import head_grids, head_ranking

if TYPE_CHECKING:
    from probe.attention.scores import HeadScores
    from probe.model.lm import LM

ON_TEXT = {
    "previous_token": ("previous token", "share", "Share of all attention on the token before."),
    "duplicate_token": ("duplicate token", "share", "Share of all attention on earlier copies of the token."),
    "induction": ("induction", "share", "Share of all attention on the tokens that followed earlier copies."),
    "entropy": ("entropy", "nats", "Mean entropy of a row: 0 looks at one token only."),
    "distance": ("distance", "tokens", "How far back a head looks, on average."),
    "sink": ("sink", "share", "Mean attention on the first token."),
    "self": ("itself", "share", "Mean attention of a token on itself."),
}
"""Scores of the patterns on the page: how they are called, their unit, what they say."""

ON_REPEATS = {
    "prefix_matching": (
        "prefix matching",
        "share",
        "On repeated random tokens: attention on what followed the earlier occurrence (Olsson et al. 2022).",
    ),
    "copying": (
        "copying",
        "\u22121 to 1",
        "On repeated random tokens: whether what a head writes raises the token that it attends to most.",
    ),
}
"""Scores that run the model on texts of their own."""

PATIENCE_S = 3.0
"""Seconds that are spent without asking."""

SMOL_PARAMETERS = 1.35e8
"""Size of SmolLM2-135M, on which seconds were measured (one core): costs of other models are scaled."""

RANKED = 16
"""Heads that a ranking shows."""


def scores(reading: Reading, head: Head) -> None:
    """A score of every head on a grid, both sides and their difference; a click chooses the head."""
    live = all(side.lm is not None for side in reading.sides)
    offered = ON_TEXT | (ON_REPEATS if live else {})
    if any(side.lm is not None and side.lm.readout != "tokens" for side in reading.sides):
        offered = {name: about for name, about in offered.items() if name != "copying"}
    keep("att_score", offered, "previous_token")
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        name = st.selectbox(
            "Score", list(offered), format_func=lambda key: offered[key][0], key="att_score", bind="query-params"
        )
    label, unit, says = offered[name]
    with right:
        note(says)
    if name in ON_REPEATS and not affordable(reading):
        return
    found = [(side, scored(side, repeats=name in ON_REPEATS)) for side in reading.sides]
    panels = [(side.name, one.values[name]) for side, one in found]
    signed = [False] * len(panels)
    if len(panels) == 2 and panels[0][1].shape == panels[1][1].shape:
        panels.append(("difference", panels[1][1] - panels[0][1]))
        signed.append(True)
    if name == "copying":
        signed = [True] * len(panels)
    chart = head_grids(panels, f"{label}<br>{unit}", signed=signed, chosen=head)
    table = pd.concat([one.table().assign(of=side.name) for side, one in found], ignore_index=True)
    title = f"{label.capitalize()} of every head (click one)"
    figure(chart, table, "att-scores", title=title, source=reading.source, on_select=take_head)


def scored(side: Side, *, repeats: bool) -> "HeadScores":
    """Scores of one side on the page's text, or on repeated random tokens."""
    from probe.attention.scores import pattern_scores

    if not repeats:
        return pattern_scores(side.read)
    assert side.lm is not None
    return models.computed(_repeats, side.lm, say="Reading repeated random tokens")


def _repeats(lm: "LM") -> "HeadScores":
    from probe.attention.scores import repeat_scores

    return repeat_scores(lm)


def affordable(reading: Reading) -> bool:
    """Whether the scores on repeats are there, are quick, or were asked for; else a button says what they cost."""
    waiting = [side for side in reading.sides if side.lm and models.ready(_repeats, side.lm) is None]
    seconds = sum(1.8 * side.lm.n_parameters / SMOL_PARAMETERS for side in waiting if side.lm)
    names = " and ".join(side.name for side in waiting)
    return allowed("att-repeats", seconds, f"Scores on repeated random tokens of {names}")


def allowed(key: str, seconds: float, what: str) -> bool:
    """Whether a computation may begin: it is cheap, or the reader has agreed to what it costs."""
    agreed = st.session_state.setdefault("_att_agreed", set())
    if seconds <= PATIENCE_S or (key, what) in agreed:
        return True
    cost = f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
    note(f"{what}: {cost}, then kept.")
    if st.button(plain(f"Compute ({cost})"), key=f"{key}-compute", icon=":material/play_arrow:"):
        agreed.add((key, what))
        st.rerun()
    return False


def ranking(reading: Reading, head: Head) -> None:
    """Which heads moved most between the two sides, and where the chosen one did."""
    from probe.attention.patterns import difference, distance_table
    from probe.runs.captured import attention_table

    first, second = reading.sides
    table = distance_table(first.read, second.read)
    top = table.head(RANKED)
    pairs = [(int(layer), int(number)) for layer, number in zip(top["layer"], top["head"], strict=True)]
    left, right = st.columns([4, 5], gap="medium")
    with left:
        values = top["total_variation"].to_numpy()
        chart = head_ranking(pairs, values, "share of attention that went elsewhere", chosen=head, colour=second.colour)
        title = f"Heads that moved most, of {len(table)} (click one)"
        figure(chart, table, "att-moved", title=title, height=430, source=reading.source, on_select=take_head)
    with right:
        change = difference(first.read, second.read)[head]
        chart = change_map(change, reading.tokens, boundary=reading.boundary)
        rows = attention_table(change[None, None], reading.tokens, [head[0]]).assign(head=head[1])
        title = f"L{head[0]}H{head[1]}: {second.name} minus {first.name}"
        figure(
            chart,
            rows.rename(columns={"weight": "change"}),
            "att-change",
            title=title,
            height=430,
            source=reading.source,
        )
    place = int(table.index[(table["layer"] == head[0]) & (table["head"] == head[1])][0])
    note(
        f"L{head[0]}H{head[1]} is number {place + 1} of {len(table)}: {100 * table['total_variation'][place]:.1f} % of "
        f"its attention went elsewhere (Jensen-Shannon divergence {table['jensen_shannon'][place]:.3f} nats), mean "
        "over the tokens that have a choice."
    )
