"""Sections of the Logits page beyond one token: how far apart two models are, and what they write."""

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st

from dashboard.components.figure import figure
from dashboard.parts.logits import results
from dashboard.parts.logits.views import Question
from dashboard.text import note
from probe.compare.figures import kl_bars
from probe.logits.figures import Side, curves, kl_map

if TYPE_CHECKING:
    from probe.logits.trajectories import PairTrajectory

COSTLY = 2e7
"""Parameters above which a model writes only when asked to."""
SECONDS = 1e-9
"""Seconds that one parameter takes for one token, roughly, on one core."""


def distance(asked: Question, both: "PairTrajectory") -> None:
    """KL of the two models along the text, and by layer around the chosen token."""
    left, right = st.columns(2, gap="medium")
    table = pd.DataFrame({"position": range(len(both.tokens)), "token": both.tokens, "kl": both.token_kl})
    with left:
        chart = kl_bars(both.token_kl, both.tokens, chosen=asked.target.position, colour=asked.sides[1].colour)
        title = "How far apart they are after each token"
        figure(chart, table, "log-kl", title=title, height=300, source=asked.source, on_select=_take_position)
    with right:
        if both.kl is None:
            note("The models have different depths, so their layers have no counterparts.")
            return
        start, stop = asked.window
        chart = kl_map(both.kl, asked.tokens[start:stop], width=440)
        frame = both.table()
        kept = frame[frame["measure"] == "kl"].drop(columns=["measure", "answer"])
        figure(chart, kept, "log-kl-layers", title="The same after each layer", height=300, source=asked.source)


def writing(asked: Question) -> None:
    """What the models held likely before every token that they write."""
    left, right = st.columns([3, 9], vertical_alignment="bottom", gap="medium")
    with left:
        n = int(st.slider("Tokens to write", 1, 32, 8, key="log_new", bind="query-params"))
    waiting = [side for side in asked.sides if side.lm.n_parameters > COSTLY and not results.is_written(side, asked, n)]
    if waiting:
        seconds = sum(SECONDS * side.lm.n_parameters * n for side in waiting)
        with right:
            pressed = st.button(f"Write {n} tokens (about {max(1, round(seconds))} s)", key="log-write")
        if not pressed:
            return
    told = [results.written(side, asked, n) for side in asked.sides]
    with right:
        for side, each in zip(asked.sides, told, strict=True):
            blanks = any(token.startswith("\u00b7") for token in each.tokens)
            note(f"{side.name}: {('' if blanks else ' ').join(each.tokens)}")
    sides = [
        Side(side.name, side.colour, each.entropy, each.margin, each.logprobs, each.ranks, each.tokens)
        for side, each in zip(asked.sides, told, strict=True)
    ]
    longest = max(told, key=lambda each: len(each.tokens))
    ticks = told[0].tokens if len(told) == 1 else [str(step) for step in range(len(longest.tokens))]
    axis = "written token"
    chart = curves(sides, told[-1].answers, axis=axis, ticks=ticks, columns=4, height=290)
    frames = [each.table().assign(model=side.name) for side, each in zip(asked.sides, told, strict=True)]
    title = "Before every token that is written"
    figure(chart, pd.concat(frames, ignore_index=True), "log-written", title=title, source=asked.source)


def _take_position(points: list[dict]) -> None:
    if isinstance(points[0].get("x"), int | float):
        st.session_state["log_position"] = int(points[0]["x"])
