"""The page Features where no fit is known: it fits features as a job, and shows them."""

import shutil
import time
from pathlib import Path

import pytest

from dashboard.pages import page_file
from probe.jobs.job import LIVE
from probe.jobs.trainings import list_jobs
from tests.dashboard.pages import Show, again, unescape
from tests.places import SAMPLES

PAGE = page_file("features")
BUTTON = "features-fit-run"


@pytest.mark.slow
def test_features_are_fitted_from_the_page(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "runs"
    shutil.copytree(SAMPLES / "dpo-honest", runs / "dpo-honest", ignore=shutil.ignore_patterns("captures"))
    app = show(runs, page=PAGE, base="dpo-honest", aligned="", features_tab="All features", **{"#top_texts.n": "20"})
    assert not app.exception
    for name, value in (("steps", 20), ("features", 32), ("n", 50)):
        app.number_input(key=f"option-features-fit-{name}").set_value(value)
    again(app)
    app.button(key=BUTTON).click()
    again(app)
    (job,) = list_jobs()
    options = ("--features", "32", "--steps", "20", "--n", "50")
    assert job.words == ("features", "fit", str(runs / "dpo-honest"), *options)
    end = time.monotonic() + 300
    while (job := list_jobs()[0]).status in LIVE and time.monotonic() < end:
        time.sleep(0.5)
    assert job.status == "finished", job.lines
    again(app)
    assert BUTTON not in {each.key for each in app.button}
    assert any("of 32 features after block 1 of dpo-honest are active" in unescape(each.value) for each in app.markdown)
