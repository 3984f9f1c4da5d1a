"""One head of the Attention page: its three stages, its way through training, and the rollout of all heads."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data, models
from dashboard.components.figure import figure
from dashboard.parts.attention.source import Head, Reading, Side, captured_read
from dashboard.state import keep
from dashboard.text import note
from probe.attention import figures as plots
from probe.attention.head_figures import rollout_map, score_curves

if TYPE_CHECKING:
    from probe.attention.patterns import Stages
    from probe.model.lm import LM

WORDS = 5
"""Tokens that are named on each side of what a head writes."""


def choose_query(reading: Reading) -> int:
    """The token whose output the figures are about; the one that predicts what follows the prompt, at first."""
    tokens = reading.tokens
    names = [f"{index}: {token}" for index, token in enumerate(tokens)]
    default = reading.last.read.prompt_length - 1
    asked = tuple(reading.last.read.ids)
    if st.session_state.get("_att_asked") not in (None, asked):
        st.session_state["att_query"] = default
    st.session_state["_att_asked"] = asked
    keep("att_query", range(len(tokens)), default)
    return int(
        st.selectbox(
            "Query (the token that looks)",
            range(len(tokens)),
            format_func=names.__getitem__,
            key="att_query",
            bind="query-params",
        )
    )


def stages(reading: Reading, head: Head) -> None:
    """Scores, softmax and mixed values of the chosen head, and what it writes after each token."""
    name = f"L{head[0]}H{head[1]}"
    found = [(side, staged(side, head)) for side in reading.named(head)]
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        query = choose_query(reading)
    if len(found) < len(reading.sides):
        with right:
            note(f"The stages are those of {reading.last.name}: the other model has other tokens, or no {name}.")
    drawn = [
        plots.Stages(name=side.name, scores=one.scores, pattern=one.pattern, written=one.contribution)
        for side, one in found
    ]
    chart = plots.head_stages(drawn, reading.tokens, query=query, boundary=reading.boundary)
    table = pd.concat([one.table().assign(of=side.name) for side, one in found], ignore_index=True)
    hint = " (click a cell to choose its query)" if len(reading.tokens) <= plots.MOST_CLICKABLE else ""
    title = f"{name}: bilinear, softmax, linear{hint}"
    figure(chart, table, "att-stages", title=title, source=reading.source, on_select=_take_query)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        bars = [(side.name, one.share, one.written) for side, one in found]
        colours = [side.colour for side, _ in found]
        chart = plots.written_bars(bars, reading.tokens, query=query, colours=colours, boundary=reading.boundary)
        table = pd.concat([one.written_table().assign(of=side.name) for side, one in found], ignore_index=True)
        title = f"What {name} writes after each token (click one)"
        figure(chart, table, "att-written", title=title, height=330, source=reading.source, on_select=_take_query)
    with right:
        words(found, reading, name, query)
    note(
        "Left: length of what the head adds at each token, as a share of the residual stream that it is added to. "
        "Right: the tokens whose logits that output moves most, through the final norm (its scale held fixed) and the "
        "unembedding."
    )


def words(found: "list[tuple[Side, Stages]]", reading: Reading, name: str, query: int) -> None:
    """The tokens that the head's output at one position promotes and suppresses, for each side."""
    shown = []
    for side, one in found:
        up = list(zip(one.promoted.tokens[query], one.promoted.logits[query], strict=True))
        down = list(zip(one.suppressed.tokens[query], one.suppressed.logits[query], strict=True))
        shown.append((side.name, [*up, *reversed(down)]))
    chart = plots.word_bars(
        [(label, [str(word) for word, _ in rows], np.array([value for _, value in rows])) for label, rows in shown],
        label="change of the logit, nats" if _tokens(found) else "change of the logit or scalar",
    )
    table = pd.DataFrame(
        [{"of": label, "token": word, "logit_change": float(value)} for label, rows in shown for word, value in rows]
    )
    token = reading.tokens[query].strip()
    title = f"What its output after \u201c{token}\u201d moves"
    figure(chart, table, "att-words", title=title, height=330, source=reading.source | {"head": name, "query": query})


def staged(side: Side, head: Head) -> "Stages":
    """The stages of one head of a live side."""
    assert side.lm is not None
    text = tuple(int(token) for token in side.read.ids)
    return models.computed(_stages, side.lm, say="Taking the head apart", text=text, layer=head[0], head=head[1])


def _stages(lm: "LM", text: tuple[int, ...], layer: int, head: int) -> "Stages":
    from probe.attention.patterns import stages

    return stages(lm, text, layer, head, k=WORDS)


def _tokens(found: "list[tuple[Side, Stages]]") -> bool:
    return all(side.lm is not None and side.lm.readout == "tokens" for side, _ in found)


def through_training(reading: Reading, head: Head) -> None:
    """How the chosen head changed over all captures of its run."""
    from probe.attention.patterns import head_distance
    from probe.attention.scores import pattern_scores

    moment = reading.moment
    assert moment is not None
    name, steps = f"L{head[0]}H{head[1]}", data.captures(moment.run).steps
    reads = [captured_read(moment, step) for step in steps]
    scores = [pattern_scores(read).values for read in reads]
    shares = ("previous_token", "duplicate_token", "induction", "sink")
    lines = {kind.replace("_", " "): np.array([float(one[kind][head]) for one in scores]) for kind in shares}
    lines["moved since the first step"] = np.array([float(head_distance(reads[0], read)[head]) for read in reads])
    chart = score_curves(steps, lines, marker=moment.step)
    table = pd.DataFrame({"step": steps, "head": name, **lines})
    title = f"{name} of {moment.label} through training, on this prompt"
    figure(chart, table, "att-training", title=title, height=340, source=reading.source)
    note(
        "Shares of the head's attention on the token before, on earlier copies, on what followed them, and on the "
        "first token; and the share that went elsewhere since the first capture. Captures hold patterns only: for "
        "scores, values and circuits choose the run, or one of its checkpoints (RUN@STEP), in the sidebar."
    )


def rollout(reading: Reading, head: Head) -> None:
    """From which tokens of the input the state of one position comes, layer by layer, if attention were all."""
    from probe.attention import patterns as rolled

    left, middle = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        query = choose_query(reading)
    with middle:
        weighted = not reading.moment and st.toggle(
            "Weigh heads and keys by what they write", key="att_weighted", bind="query-params"
        )
    columns = st.columns(len(reading.sides), gap="medium")
    for index, (column, side) in enumerate(zip(columns, reading.sides, strict=True)):
        norms = None
        if weighted and side.lm is not None:
            text = tuple(int(token) for token in side.read.ids)
            norms = models.computed(_value_norms, side.lm, say="Reading values", text=text)
        seen = rolled.rollout(side.read, value_norms=norms)
        at = min(query, len(side.read.tokens) - 1)
        with column:
            chart = rollout_map(seen[:, at], side.read.tokens, boundary=reading.boundary)
            title = f"{side.name}: what \u201c{side.read.tokens[at].strip()}\u201d can have seen"
            table = rolled.rollout_table(seen, side.read.tokens)
            height = 130 + 26 * min(len(seen), 16)
            figure(chart, table, f"att-rollout-{index}", title=title, height=height, source=reading.source)
    note(
        "Rollout multiplies the mean attention of the heads through the layers, half of each state passing unmixed "
        "(Abnar and Zuidema 2020). It knows nothing of MLPs and of what the values hold: where states could come from, "
        "not what they hold."
    )


def _value_norms(lm: "LM", text: tuple[int, ...]) -> np.ndarray:
    from probe.attention.patterns import value_norms

    return value_norms(lm, text)


def _take_query(points: list[dict]) -> None:
    custom = points[0].get("customdata")
    if custom and isinstance(custom[0], int | float):
        st.session_state["att_query"] = int(custom[0])
