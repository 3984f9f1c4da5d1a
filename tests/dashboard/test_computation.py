"""Results of analyses on a page: stored, found again, the nearest one, and those that a job computes."""

import json
import shutil
from pathlib import Path

import pytest

from dashboard import access, computation, models
from dashboard.models import Results
from probe.jobs.job import END, FOLDER, LOG
from probe.jobs.trainings import list_jobs
from tests.dashboard.experiments import press
from tests.dashboard.pages import Show, heading, names, read, unescape

PAGE = "compare/page.py"
QUERY = {"compare_tab": "Over a corpus"}
RUN = "compare_corpus-run"


@pytest.fixture
def own(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs that results may be put in; whatever takes any time is a job."""
    monkeypatch.setattr(computation, "JOB_S", 0.0)
    monkeypatch.setattr(models, "is_quick", lambda seconds: False)
    return Path(shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("results", FOLDER)))


def test_a_job_computes_what_takes_long_and_the_next_visit_finds_it(
    show: Show, own: Path, monkeypatch: pytest.MonkeyPatch
):
    app = show(own, page=PAGE, **QUERY)
    assert heading(app).startswith("Press the button to ")
    press(app, RUN)
    assert not app.exception
    (job,) = list_jobs([own])
    assert job.title == "Over a corpus: base and dpo-agreeable"
    assert job.words[:4] == ("show", "compare_corpus", str(own / "dpo-agreeable"), str(own / "base"))
    assert names(app)
    said = heading(app)
    assert not said.startswith("Press the button")
    monkeypatch.setattr(models, "RESULTS", Results())
    again = show(own, page=PAGE, **QUERY)
    assert heading(again) == said
    assert RUN not in {button.key for button in again.button}


@pytest.mark.slow
def test_other_inputs_show_the_nearest_stored_result_and_what_differs(show: Show, own: Path):
    press(show(own, page=PAGE, **QUERY), RUN)
    app = show(own, page=PAGE, **QUERY, corpus_seed="2")
    assert names(app)
    assert RUN in {button.key for button in app.button}
    assert "This is the stored result with seed 0." in read(app)


def test_without_the_token_no_job_starts(show: Show, own: Path):
    access.uninstall()
    app = show(own, page=PAGE, **QUERY)
    press(app, RUN)
    assert not (own / FOLDER).exists()
    assert names(app), "it is computed for this reader alone"
    assert not list(own.glob("*/results/analyses/*"))


@pytest.mark.slow
def test_why_a_job_failed_is_said_where_its_result_would_be(show: Show, own: Path, monkeypatch: pytest.MonkeyPatch):
    press(show(own, page=PAGE, **QUERY), RUN)
    (job,) = list_jobs([own])
    shutil.rmtree(own / "dpo-agreeable" / "results" / "analyses")
    (job.folder / END).write_text(json.dumps({"exit": 2, "time": 1.0}))
    (job.folder / LOG).write_text("probe: error: The disk is full.\n")
    monkeypatch.setattr(models, "RESULTS", Results())
    app = show(own, page=PAGE, **QUERY)
    assert "The disk is full." in [unescape(each.value) for each in app.caption]
    assert RUN in {button.key for button in app.button}
