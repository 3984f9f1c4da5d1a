"""Stored comparisons of logs of other harnesses: their numbers, and the items with both transcripts."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from dashboard import models
from dashboard.data import stamp
from dashboard.markdown import finding, note
from dashboard.pages.experiments import items
from dashboard.pages.experiments.asking import Subject
from dashboard.pages.experiments.experiment import draw_figure
from dashboard.state import keep
from probe.experiments.comparison import ModelComparison
from probe.experiments.result import RESULT_FILE, Result, sendable_result
from probe.experiments.store import results
from probe.logs.paired_logs import LOGS, stored_comparison
from probe.runs.directories import WORK
from probe.texts import visible

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

CHOICE = "logs"
"""Key of the chosen comparison."""
MOST = 100
"""Largest number of comparisons to choose from, the newest."""
HEIGHT = 300
"""Height of the figure in pixels."""


def stored_comparisons() -> dict[str, Path]:
    """Return the folders of the stored comparisons by name, newest first."""
    found = [place for place, index in results(WORK / LOGS) if index["name"] == LOGS]
    return {place.name: place for place in found[:MOST]}


def choose_comparison(known: dict[str, Path]) -> Path | None:
    """Let the reader choose a comparison of logs; None for none."""
    name = st.selectbox(
        "Comparison of logs",
        list(known),
        index=None,
        key=keep(CHOICE, [None, *known], None),
        bind="query-params",
        placeholder="none",
        format_func=visible,
        help="Made by `probe logs BASE ALIGNED`.",
    )
    return known.get(name) if name is not None else None


def draw_comparison(place: Path, answer: "DeltaGenerator") -> None:
    """Draw a comparison of logs: its finding, figure, numbers and items.

    Args:
        place: folder of the stored result.
        answer: place of the finding.

    Raises:
        DataError: the folder holds no comparison of logs, or a damaged one.
    """
    result, both = read_comparison(place)
    with answer:
        finding(result.finding or both.sentence())
    note("The models are those of the logs; the choices above are for experiments.")
    for name, chart in both.figures().items():
        draw_figure(both, name, chart, HEIGHT)
    for remark in result.meta.get("notes") or ():
        note(str(remark))
    items.draw_numbers(both)
    items.section(both, [Subject(label, "", "") for label in both.summaries])


def read_comparison(place: Path) -> tuple[Result, ModelComparison]:
    """Read a stored comparison, once for each state of its file.

    Raises:
        DataError: see `draw_comparison`.
    """
    key = "comparison of logs", str(place), stamp(place / RESULT_FILE)
    known: tuple[Result, ModelComparison] | None = models.RESULTS.get(key)
    if known is None:
        result = sendable_result(Result.load(place))
        known = result, stored_comparison(result)
        models.RESULTS.put(key, known)
    return known
