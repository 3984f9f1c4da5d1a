"""A stored comparison of logs on the page of experiments: its finding, and the items with both transcripts."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import access
from dashboard.pages.experiments import log_results
from probe import plugins
from probe.cli import main
from tests.dashboard.pages import Everyone, heading, turn_to, unescape
from tests.logs.made_logs import write_lines

EVIL = "<script>alert(1)</script> **bold** [link](http://x)"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A comparison in the results of the working directory, and a folder that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(plugins.ENVIRONMENT, raising=False)
    for name, right in (("base", 0), ("tuned", 1)):
        lines = [
            {"id": f"q{at}", "score": right if at < 30 else 1, "prompt": f"{EVIL} {at}", "answer": f"{name} {EVIL}"}
            for at in range(40)
        ]
        write_lines(tmp_path / f"{name}.jsonl", lines)
    assert main(["logs", "base.jsonl", "tuned.jsonl", "--out", "results/logs/two"]) == 0
    (tmp_path / "results" / "logs" / "damaged").mkdir()
    (tmp_path / "results" / "logs" / "damaged" / "result.json").write_text("{")
    return tmp_path


def test_the_page_shows_the_items_that_differ_with_both_transcripts(kept: Path) -> None:
    assert list(log_results.stored_comparisons()) == ["two"]
    access.install(Everyone(8501))
    try:
        with plugins.aside():
            app = turn_to(
                AppTest.from_file(str(Path(log_results.__file__).parents[1] / "app.py")), "experiments/page.py"
            )
            app.query_params["logs"] = "two"
            app.query_params["logs~show"] = "differ"
            app.query_params["logs~item"] = "q3"
            app.run(timeout=60)
    finally:
        access.uninstall()
    assert not app.exception
    assert not app.error
    assert heading(app).startswith("tuned against base: score from 25 % to 100 %")
    texts = [each.value for each in app.text]
    assert [text for text in texts if text.startswith(("base ", "tuned "))] == [f"base {EVIL}", f"tuned {EVIL}"]
    assert f"{EVIL} 3" in texts
    notes = " ".join(unescape(each.value) for each in app.caption)
    assert "30 of 40 items" in notes
    assert "40 items are paired." in notes
    assert "known only by their logs" in notes
