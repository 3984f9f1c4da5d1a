"""Pages on the real sample runs where their base is missing: what is stored is shown, the rest is said."""

import re
from pathlib import Path

import pytest

from dashboard.pages import page_file, page_names
from probe.model.references import REAL_MODEL
from tests.dashboard.pages import Show, heading, names, read
from tests.places import SAMPLES

CHOICES = {"base": REAL_MODEL, "aligned": "real-honest", "prompt": "What is 27 + 14? The answer is"}
HOW = "make real-model"


@pytest.fixture(autouse=True)
def no_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROBE_MODELS", str(tmp_path))


@pytest.mark.parametrize("name", page_names())
def test_no_page_fails(name: str, show: Show) -> None:
    app = show(SAMPLES, page=page_file(name), **CHOICES)
    assert not app.exception
    for error in app.error:
        assert HOW in error.value


def test_a_stored_experiment_is_one_click_away(show: Show) -> None:
    app = show(SAMPLES, page="sycophancy/page.py", **CHOICES)
    assert HOW in read(app)
    assert "4-bit rounding" in read(app)
    offers = [button for button in app.button if button.label.startswith("n 60")]
    assert len(offers) == 2
    app = offers[-1].click().run()
    assert not app.exception
    assert "A user's wrong guess moves the share of right answers" in heading(app)
    assert "templates" in names(app)


def test_shipped_files_name_no_place() -> None:
    """A text of a question may hold a slash; a value that is a path begins with one, or with a drive."""
    for run in (SAMPLES / REAL_MODEL, *SAMPLES.glob("real-*")):
        for file in run.rglob("*.json"):
            assert not re.search(r'"(/|~|[A-Z]:)[^"]*"', file.read_text()), file
    assert not (SAMPLES / "real-data").exists()
