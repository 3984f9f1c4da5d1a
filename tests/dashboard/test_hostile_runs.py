"""Every page on a folder in which most runs are damaged on purpose: it shows the sound ones, and waits for nothing."""

import json
import warnings
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import data
from dashboard.held import Held
from dashboard.pages import page_file, page_names
from probe.cli import main
from probe.runs import RunWarning, list_runs, open_run
from tests.dashboard import hostile
from tests.dashboard.pages import Show, chart, names, open_tab, read, shown

pytestmark = pytest.mark.timeout(600)
CURVES = page_file("training")
WITHOUT_RUNS = ("sweep", "findings", "scorecard", "experiments", "start")
"""Pages that do not name every run."""
HARMLESS = ("tokenizer-json-deep", "tokenizer-json-wide", "tokenizer_config-json-wide")
"""Names that a tokenizer does not know do nothing."""


@pytest.fixture(scope="module")
def hostile_runs(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hostile.write(tmp_path_factory.mktemp("hostile"), runs)


def bad(root: Path, name: str = "") -> list[str]:
    """The damaged runs, of one file if it is named."""
    return sorted(path.name for path in root.glob(f"bad-{name.replace('.', '-')}*"))


def offered(app: AppTest) -> set[str]:
    """All that a reader can choose."""
    return {option for box in (*app.selectbox, *app.multiselect) for option in box.options}


def told(app: AppTest) -> str:
    """What the page says is wrong, or would take too much."""
    return " ".join(part.value for part in (*app.error, *app.warning, *app.caption)).replace("\\", "")


@pytest.mark.parametrize("name", page_names())
def test_every_page_shows_the_sound_runs_and_names_the_others(show: Show, hostile_runs: Path, name: str):
    app = show(hostile_runs, page=page_file(name), base="base", aligned="dpo-agreeable")
    assert not app.exception
    assert not app.error
    assert [run for run in bad(hostile_runs, "run.json") if run not in read(app)] == []
    everything = " ".join(text for _, text in shown(app))
    assert name in WITHOUT_RUNS or all(run in everything for run in hostile.GOOD)


@pytest.mark.parametrize("file", ["metrics.jsonl", "rollouts.jsonl", "index.jsonl"])
def test_curves_of_sound_and_damaged_runs_in_one(show: Show, hostile_runs: Path, file: str):
    damaged = bad(hostile_runs, file)
    app = show(hostile_runs, page=CURVES, runs=[*hostile.GOOD, *damaged], joined="false")
    app = open_tab(app, "Rollouts") if file == "rollouts.jsonl" else app
    assert not app.exception
    assert {trace.get("name") for trace in chart(app, "curves")["data"]} >= set(hostile.GOOD)
    assert "loss over step" in read(app)  # a run without steps makes the others no shorter
    assert [run for run in damaged if f"{run}/" not in told(app)] == []


@pytest.mark.parametrize("file", ["prompts.json", "00000040.safetensors"])
def test_damaged_captures_hide_no_curve(show: Show, hostile_runs: Path, file: str):
    for run in bad(hostile_runs, file):
        app = show(hostile_runs, page=CURVES, runs=["base", run], watched=run, joined="false")
        assert not app.exception
        assert "curves" in names(app)
        assert f"{run}/" in told(app)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_damaged_model_is_one_sentence(show: Show, hostile_runs: Path, file: str):
    for run in bad(hostile_runs, file):
        app = show(hostile_runs, page=page_file("attention"), base="base", aligned=run)
        assert not app.exception
        assert run in told(app) or run.endswith(HARMLESS)
        assert set(hostile.GOOD) <= offered(app)


@pytest.mark.slow
def test_one_run_at_a_time_and_its_results(show: Show, hostile_runs: Path):
    for run in [*bad(hostile_runs, "result.json"), *bad(hostile_runs, "items.json.gz")]:
        app = open_tab(show(hostile_runs, run=run), "One run")
        assert not app.exception
        app = show(hostile_runs, page=page_file("sycophancy"), base="base", aligned=run)
        assert not app.exception


def test_the_list_of_runs_has_the_sound_ones(hostile_runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "list", "--root", str(hostile_runs), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {*hostile.GOOD, *bad(hostile_runs)} <= {Path(row.get("path") or row["name"]).name for row in listed}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        found = {run.name for run in list_runs(hostile_runs)}
    unreadable = set(bad(hostile_runs, "run.json"))
    assert set(hostile.GOOD) <= found
    assert not found & unreadable
    assert [run for run in unreadable if run not in " ".join(str(each.message) for each in caught)] == []


def test_a_report_of_all_runs_is_written(hostile_runs: Path, monkeypatch: pytest.MonkeyPatch):
    from probe.report.run_report import report

    monkeypatch.setenv("PROBE_RUNS", str(hostile_runs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        runs = [open_run(hostile_runs / name) for name in (*hostile.GOOD, *bad(hostile_runs, "metrics.jsonl"))]
        assert "dpo-agreeable" in report(runs, methods={})


def test_a_page_reads_its_share_of_a_long_run_and_says_so(hostile_runs: Path, monkeypatch: pytest.MonkeyPatch):
    file = hostile_runs / "base" / "metrics.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(data, "SHARE", sum(map(len, lines[:3])) + 5)
    monkeypatch.setattr(data, "_READ", Held(1))
    said: dict[str, None] = {}
    token = data._PROBLEMS.set(said)
    try:
        frame = data.metrics(open_run(hostile_runs / "base"))
    finally:
        data._PROBLEMS.reset(token)
    assert frame["step"].tolist() == [0, 1, 2]
    assert "only the first" in next(iter(said))
