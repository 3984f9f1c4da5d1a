"""The tabs of the Attention page on the captures of a run: how a head changed, and analyses of their patterns."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import data
from dashboard.analysis import draw_results
from dashboard.components.figure import figure
from dashboard.inputs import Page
from dashboard.markdown import note
from dashboard.pages.attention.choices import SCORE
from dashboard.pages.attention.compute import Head, Reading, captured_read
from dashboard.state import keep
from probe.analyses.catalogue import find_analysis
from probe.attention.head_figures import score_curves
from probe.attention.one_score import SCORES, OneScore, OneScores, score_label
from probe.attention.patterns import head_distance
from probe.attention.reading import AttentionShift, head_name
from probe.attention.scores import pattern_scores
from probe.attention.tracing import Rollout, Rollouts, rollout
from probe.plotting.notebook import Drawable, Look
from probe.texts import visible

SHARES = ("previous_token", "duplicate_token", "induction", "sink")
"""Scores whose course is drawn."""


def through_training(reading: Reading, head: Head) -> None:
    """Draw how the chosen head changed over all captures of its run."""
    moment = reading.moment
    assert moment is not None
    name, steps = head_name(head), data.captures(moment.run).steps
    reads = [captured_read(moment, step) for step in steps]
    scores = [pattern_scores(read).values for read in reads]
    lines = {score_label(kind): np.array([float(one[kind][head]) for one in scores]) for kind in SHARES}
    lines["moved since the first step"] = np.array([float(head_distance(reads[0], read)[head]) for read in reads])
    chart = score_curves(steps, lines, marker=moment.step)
    table = pd.DataFrame({"step": steps, "head": name, **lines})
    title = f"{name} of {moment.label} through training, on this prompt"
    figure(chart, table, "att-training", title=title, height=340, source=reading.source)
    note(
        "Shares of the head's attention on the token before, on earlier copies, on what followed them, and on the "
        "first token; and the share that went elsewhere since the first capture. Captures hold patterns only: for "
        "scores, values and circuits choose the run, or one of its checkpoints (RUN@STEP), above."
    )


def head_scores(reading: Reading, page: Page) -> None:
    """Draw a score of every head on the captured prompt."""
    options = [name for name, kind in SCORES.items() if not kind.repeats]
    left, _ = st.columns([1, 2])
    with left:
        key = keep(SCORE, options, options[0])
        name = st.selectbox(
            "Score", options, format_func=lambda each: visible(score_label(each)), key=key, bind="query-params"
        )
    results = [OneScore(str(name), pattern_scores(side.read)) for side in reading.sides]
    call = f"pattern_scores(read).table()[{name!r}]"
    _draw("score_heads", reading, page, OneScores(tuple(results), looks_of(reading)), "scores", call)


def moved(reading: Reading, page: Page, head: Head) -> None:
    """Draw which heads moved most since the first captured step."""
    first, second = reading.sides
    found = AttentionShift((first.read, second.read), head, looks_of(reading))
    _draw("compare_attention", reading, page, found, "patterns", "distance_table(first, read)")


def rolled_out(reading: Reading, page: Page) -> None:
    """Draw from which tokens a state can come."""
    results = [Rollout(side.read.tokens, side.read.prompt_length, rollout(side.read)) for side in reading.sides]
    found = Rollouts(tuple(results), looks_of(reading))
    _draw("attention_rollout", reading, page, found, "tracing", "rollout(read)")


def looks_of(reading: Reading) -> tuple[Look, ...]:
    """Return how the steps are drawn."""
    return tuple(Look(side.name, side.colour) for side in reading.sides)


def _draw(name: str, reading: Reading, page: Page, found: Drawable, module: str, call: str) -> None:
    """Draw what an analysis gives of captured patterns."""
    lines = partial(_lines, reading, f"probe.attention.{module}", call)
    draw_results(find_analysis(name), page.below(), [found], [()], reading.source, lines)


def _lines(reading: Reading, module: str, call: str, views: object) -> str:
    """Return the Python lines that compute the same from the captures."""
    moment = reading.moment
    assert moment is not None
    steps: Sequence[int] = data.captures(moment.run).steps
    return "\n".join(
        [
            "import numpy as np",
            "import probe",
            "from probe.attention.patterns import Attention",
            f"from {module} import {call.partition('(')[0]}",
            "from probe.runs.captured import attention",
            "",
            f"captures = probe.open_run({str(moment.run.path)!r}).captures()",
            f"prompt = captures.prompts[{moment.index}]",
            "",
            "",
            "def step(number):",
            f"    pattern = attention(captures.load(number), {moment.index}, prompt).astype(np.float32)",
            "    return Attention(list(prompt.tokens), list(prompt.token_ids), prompt.length, pattern)",
            "",
            "",
            f"first, read = step({steps[0]}), step({moment.step})",
            call,
        ]
    )
