"""An audit of two logs: its rows are those of `probe logs`, its bounds hold for scores, and pages and files show it."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import dashboard.pages
from dashboard import access
from probe import plugins
from probe.audit.change import read_audit
from probe.audit.figures import audit_html
from probe.cli import main
from probe.logs import compare_logs, read_log
from tests.dashboard.pages import Everyone, heading, turn_to
from tests.logs.made_logs import HEAD, log, sample

SCORE = "exact_match,strict-match"


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Samples of two models: 10 and 30 of 40 are right."""
    monkeypatch.chdir(tmp_path)
    for name, right in (("base", 10), ("tuned/../../..", 30)):
        more = [{"scores": {SCORE: {"value": at < right}}, "metadata": {"passage": at // 4}} for at in range(40)]
        samples = [sample(at, input=f"{at} + 1?", **each) for at, each in enumerate(more)]
        log(tmp_path / f"{right}.eval", *samples, head=HEAD | {"eval": {"task": "sums", "model": name}})
    return ["10.eval", "30.eval"]


def test_rows_are_those_of_the_logs(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--logs", *two, "--cluster", "passage", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = compare_logs(*map(read_log, map(Path, two)), cluster="passage").rows
    row = next(each for each in told["rows"] if each["metric"] == SCORE)
    own = expected[expected["score"] == SCORE].iloc[0]
    assert row["verdict"] == own["verdict"] == "changed"
    for name in ("difference", "difference_low", "difference_high", "p_corrected"):
        assert row[name] == pytest.approx(own[name])
    (saved,) = Path("results/audits").iterdir()
    assert saved.resolve().parent == (Path.cwd() / "results" / "audits").resolve()
    audit = read_audit(saved)
    assert audit.sentence == told["sentence"]
    assert ">Where<" not in audit_html(audit)


def test_the_page_shows_it_without_the_tab_of_what_needs_weights(two: list[str]) -> None:
    assert main(["audit", "--logs", *two]) == 0
    access.install(Everyone(8501))
    try:
        with plugins.aside():
            app = turn_to(AppTest.from_file(str(Path(dashboard.pages.__file__).with_name("app.py"))), "audit/page.py")
            app.run(timeout=60)
            (choice,) = [each for each in app.selectbox if each.label == "Audit shown"]
            choice.set_value(choice.options[1]).run(timeout=60)
    finally:
        access.uninstall()
    assert not app.exception
    assert not app.error
    assert f"{SCORE} from 25 % to 75 %" in heading(app)
    assert [each.label for each in app.tabs][:2] == ["What changed", "All measures"]


def test_bounds_hold_for_scores(two: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--logs", *two, "--fail-if", f"{SCORE}<0.0"]) == 0
    assert main(["audit", "--logs", *two, "--fail-if", f"{SCORE}>+0.1"]) == 1
    assert "the whole interval lies beyond the bound" in capsys.readouterr().err
    assert main(["audit", "--logs", *two, "--require-within", f"{SCORE}:0.05"]) == 1
    assert main(["audit", "--logs", *two, "--fail-if", "sycophancy>0.1"]) == 2
    assert "sycophancy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--logs", "--n", "5"], "--n is for an audit that asks models"),
        (["--logs", "--world", "base"], "--world is for an audit that asks models"),
        (["--cluster", "passage"], "--cluster names a field of logs"),
        (["--logs", "--cluster", "pasage"], "passage"),
    ],
)
def test_options_that_do_not_apply_are_refused(
    two: list[str], words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *two, *words]) == 2
    assert told in capsys.readouterr().err
