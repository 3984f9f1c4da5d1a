"""Tabs of the Attention page for the captures of a run: changes of heads, and analyses of captured patterns."""

from functools import partial

import streamlit as st

from dashboard.analysis import draw_results, say
from dashboard.components.details import TAB_DETAILS
from dashboard.inputs import Page, Values
from dashboard.state import keep
from probe.analyses.catalogue import find_analysis
from probe.attention.moved_heads import AttentionShift
from probe.attention.one_score import SCORES, OneScore, OneScores, score_label
from probe.attention.reading import parse_head
from probe.attention.scores import pattern_scores
from probe.attention.tracing import Rollout, Rollouts, rollout
from probe.attention.trained_heads import CapturedAttention
from probe.plotting.notebook import Drawable
from probe.texts import visible

SCORE = "att_score"
"""Key of the chosen score of heads."""


def head_scores(found: CapturedAttention, page: Page) -> None:
    """Draw a score of every head on the captured prompt."""
    options = [name for name, kind in SCORES.items() if not kind.repeats]
    key = keep(SCORE, options, options[0])
    with st.container(width=300):
        name = st.selectbox(
            "Score", options, format_func=lambda each: visible(score_label(each)), key=key, bind="query-params"
        )
    results = tuple(OneScore(str(name), pattern_scores(read)) for read in found.results)
    _draw("score_heads", page, OneScores(results, found.looks), "scores", f"pattern_scores(read).table()[{name!r}]")


def moved(found: CapturedAttention, page: Page) -> None:
    """Draw which heads moved most since the first captured step."""
    first, second = found.results
    shift = AttentionShift((first, second), parse_head(page.given["head"]), (found.looks[0], found.looks[1]))
    _draw("compare_attention", page, shift, "patterns", "distance_table(first, read)")


def rolled_out(found: CapturedAttention, page: Page) -> None:
    """Draw the attention rollout: the tokens from which a state can come."""
    results = tuple(Rollout(read.tokens, read.prompt_length, rollout(read)) for read in found.results)
    _draw("attention_rollout", page, Rollouts(results, found.looks), "tracing", "rollout(read)")


def _draw(name: str, page: Page, result: Drawable, module: str, call: str) -> None:
    """Draw an analysis of captured patterns."""
    below, lines = page.below(tell=say, section=TAB_DETAILS), partial(_lines, page.given, module, call)
    draw_results(find_analysis(name), below, [result], [()], page.given, lines)


def _lines(given: Values, module: str, call: str, views: Values) -> str:
    """Return the Python lines that reproduce the analysis from the captures."""
    options = f"run=Path({str(given['run'])!r}), captured={given['captured']!r}, step={given['step']}"
    return "\n".join(
        [
            "from pathlib import Path",
            "",
            "import probe",
            f"from probe.attention.{module} import {call.partition('(')[0]}",
            "",
            f"found = probe.attention.captured_attention({options})",
            "first, read = found.results[0], found.results[-1]",
            call,
        ]
    )
