"""Every page with each of its tabs, beside runs of strangers: sentence, downloads, words, letters, Python lines."""

import os
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import models
from dashboard.pages import page_file, page_names
from tests.dashboard.experiments import press
from tests.dashboard.pages import FEW, Show, every_tab, heading, literal_backticks, not_numbers, offered, opened, read
from tests.dashboard.test_hostile_texts import acting
from tests.dashboard.test_pages import assert_nothing_is_markup
from tests.dashboard.test_snippets import lines, run

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("few")]
WITH_FIGURES = ("overview", "training", "compare", "attention", "logits", "interventions", "autoregression", "rewards")
"""Pages that draw on the small runs, which have no stored results."""
WITH_LINES = (*WITH_FIGURES, "train")
"""Pages whose every tab shows Python lines."""
FEWER = {"Over a corpus": 1, "Gradient": 1, "The line between them": 1, "Transplants": 1, "Who carries it": 1}
"""Figures of the tabs that have fewer than two."""
SHORT = {"train": ('base="base")', 'base="base", steps=1, evaluate=10, pairs=60)')}
"""By page: what its Python lines say, and what a short run says instead."""
BOTH = {"base": "base", "aligned": "dpo-agreeable"}


def check(app: AppTest, view: str) -> None:
    """Whether what is shown is text and numbers, opens with a sentence, and can be taken away in every format."""
    assert not app.exception
    assert not app.error
    assert heading(app).endswith(".")
    assert_nothing_is_markup(app)
    assert not acting(app)
    assert not literal_backticks(app)
    assert not_numbers(app) == []
    if view in WITH_FIGURES:
        figures, buttons = len(app.get("plotly_chart")), offered(app)
        assert figures >= FEWER.get(opened(app) or "", 2)
        assert [buttons.count(kind) for kind in ("PNG", "SVG", "PDF", "HTML", "CSV")] == [figures] * 5


@pytest.mark.parametrize("view", page_names())
def test_every_tab(show: Show, runs: Path, hostile: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, view: str):
    every = os.pathsep.join([str(hostile), str(runs)])
    app = show(hostile, runs, page=page_file(view), **BOTH, **FEW)
    for each in every_tab(app):
        for offer in [button.key for button in each.button if view == "compare" and str(button.key).endswith("-run")]:
            press(each, offer)  # nobody knows how long it takes
        check(each, view)
        models.warm().wait()
        monkeypatch.setenv("PROBE_RUNS", str(runs))
        shown = lines(each) if view in WITH_LINES else []
        assert shown or view not in WITH_LINES
        for code in shown:
            run(code.replace(*SHORT[view]) if view in SHORT else code)
        monkeypatch.setenv("PROBE_RUNS", every)


@pytest.mark.parametrize("view", page_names())
def test_every_page_without_runs(show: Show, tmp_path: Path, view: str):
    app = show(tmp_path, page=page_file(view))
    assert not app.exception
    assert not app.error
    assert heading(app).endswith(".")
    assert not literal_backticks(app)
    assert not_numbers(app) == []
    assert view != "overview" or "probe train pretrain" in read(app)
