"""Many runs and long ones: listed by the page, drawn as bands, held up to a size, downloaded whole."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboard import data
from dashboard.components.zoom import Zoom, checked, hold_zoom
from dashboard.data import read_store
from dashboard.held import Held
from dashboard.pages.training.lines import Line, Section, chart_of, numbers
from probe.plotting.crowds import MOST_LINES
from probe.plotting.downsampling import POINTS
from probe.runs import open_run
from probe.runs.run_marks import Marks, write_marks
from tests.dashboard.pages import Show, chart, read, values

EACH, STEPS = 50, 40
COUNT = EACH + 10
NAMES = [f"run-{index:02d}" for index in range(COUNT)]


def value(index: int, step: int) -> float:
    return index + 1 / (step + 1)


def write(run: Path, index: int, steps: int = STEPS) -> None:
    run.mkdir()
    meta = {"schema": 1, "method": "sft", "status": "finished", "step": steps - 1, "config": {"lr": index}}
    (run / "run.json").write_text(json.dumps(meta | {"created": f"2026-01-01T00:{index:02d}:00"}))
    rows = [{"step": step, "time": 2 * step, "loss": value(index, step)} for step in range(steps)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for index, name in enumerate(NAMES):
        write(root / name, index)
    return root


def test_the_table_of_runs_has_pages(show: Show, many: Path):
    write_marks(many / NAMES[-1], Marks(pinned=True))
    try:
        first = show(many)
        listed = list(first.dataframe[0].value["run"])
        assert listed == ["\u2605 " + NAMES[-1], *NAMES[: EACH - 1]]
        first.session_state["page"] = 2
        first.run()
        assert list(first.dataframe[0].value["run"]) == NAMES[EACH - 1 : -1]
        first.text_input(key="search").set_value("run-0").run()
        assert list(first.dataframe[0].value["run"]) == NAMES[:10]
    finally:
        write_marks(many / NAMES[-1], Marks())


@pytest.mark.parametrize("x", ["step", "relative step", "time"])
def test_more_runs_than_lines_are_bands(show: Show, many: Path, x: str):
    app = show(many, page="training/page.py", runs=NAMES, front=NAMES[3:5], x=x)
    assert not app.exception
    assert not app.error
    drawn = chart(app, "curves")["data"]
    bands = [trace for trace in drawn if trace.get("fill") == "toself"]
    assert [trace["name"] for trace in bands] == [f"{COUNT - 2} runs of sft"] * 2
    assert {trace["name"] for trace in drawn} == {f"{COUNT - 2} runs of sft", *NAMES[3:5]}
    assert "run-03 fell from 4 to" in read(app)
    assert f"{COUNT - 3} more below" in read(app)
    median = next(trace for trace in drawn if trace.get("line", {}).get("dash") == "dot")
    wanted = np.median([value(index, STEPS - 1) for index in range(COUNT) if index not in (3, 4)])
    assert values(median["y"])[-1] == pytest.approx(wanted)
    few = show(many, page="training/page.py", runs=NAMES[:MOST_LINES])
    assert {trace["name"] for trace in chart(few, "curves")["data"]} == set(NAMES[:MOST_LINES])


def test_downloads_hold_every_run_and_step(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "long", 7, 3 * POINTS)
    monkeypatch.setenv("PROBE_RUNS", f"{many}:{tmp_path}")
    store = read_store()
    lines = [Line("long", "long"), *(Line(name, name, behind=True).outline(store) for name in NAMES)]
    section = Section("loss", ["loss"], lines, "step", 0.0, False, dict.fromkeys(store.runs, "sft"))
    table = numbers(store, section, ["loss"])
    assert len(table) == 3 * POINTS + COUNT * STEPS
    for name in ("long", NAMES[11]):
        rows = table[table["run"] == name]
        wanted = open_run(store.runs[name].path).metrics()
        pd.testing.assert_series_equal(rows["loss"].reset_index(drop=True), wanted["loss"])
    whole = chart_of(store, section, None, ["loss"], 1, 1)
    assert max(len(trace.x) for trace in whole.data) == 3 * POINTS
    assert max(len(trace.x) for trace in chart_of(store, section, None, ["loss"], 1, 1, POINTS).data) < 2 * POINTS


def test_metrics_are_read_once_for_all_and_on_when_they_grow(many: Path, tmp_path: Path):
    write(tmp_path / "run", 0)
    run = open_run(tmp_path / "run")
    first = data.metrics(run)
    assert data.metrics(open_run(tmp_path / "run")) is first
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": STEPS, "time": 1, "loss": 0.5}) + "\n")
    assert data.metrics(run)["step"].tolist() == list(range(STEPS + 1))
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\nbroken\n')
    for _ in range(2):
        said: dict[str, None] = {}
        token = data._PROBLEMS.set(said)
        try:
            assert data.metrics(run)["loss"].tolist() == [1]
        finally:
            data._PROBLEMS.reset(token)
        assert "Line 2" in next(iter(said))


def test_what_is_held_has_a_limit():
    held: Held[str] = Held(100)
    for key in "abc":
        held.put(key, key.upper(), 40)
    assert [held.get(key) for key in "abc"] == [None, "B", "C"]
    held.get("b")
    held.put("d", "D", 40)
    assert [held.get(key) for key in "bcd"] == ["B", None, "D"], "the one used longest ago goes"
    held.put("e", "E", 1000)
    assert [held.get(key) for key in "bde"] == [None, None, "E"]
    held.put("e", "F", 10)
    held.put("b", "B", 90)
    assert [held.get(key) for key in "be"] == ["B", "F"], "sizes are those of the values held"
    assert held.get_or("b", lambda: "other", len) == "B"
    assert held.get_or("new", lambda: "N", len) == "N"


@pytest.mark.parametrize(
    "told",
    [
        None, [], "x", {"1": None}, {"1": {"x": [1, 2, 3]}}, {"1": {"x": ["1", "2"]}}, {"1": {"x": [2, 1]}},
        {"1": {"x": [math.nan, 1]}}, {"1": {"x": [0, math.inf]}}, {"x": {"x": [1, 2]}}, {"9999999": {"x": [1, 2]}},
        {"1": {"x": [True, 2]}}, {"\u00b2": {"x": [1, 2]}},
    ],
)  # fmt: skip
def test_a_browser_can_tell_no_zoom_that_is_none(told: object):
    assert checked(told) == {}


def test_a_zoom_is_held():
    import plotly.graph_objects as go

    zooms = checked({"1": {"x": [1, 2.5], "y": None}, "2": {"x": None, "y": [-1, 0]}})
    assert zooms == {1: Zoom((1.0, 2.5), None), 2: Zoom(None, (-1.0, 0.0))}
    held = hold_zoom(go.Figure(layout={"xaxis": {}, "yaxis": {}}), zooms)
    assert held.layout.xaxis.range == (1, 2.5)
    assert held.layout.yaxis.range is None
    assert len(checked({str(panel): {"x": [0, 1]} for panel in range(1, 999)})) == 200


def test_few_rows_keep_the_ends_and_what_is_rare():
    steps = np.arange(20_000)
    frame = pd.DataFrame({"step": steps, "loss": 1.0 / (1 + steps)})
    frame["eval_loss"] = frame["loss"].where(steps % 77 == 5)
    frame["never"] = np.nan
    few = data.few_rows(frame)
    assert few["eval_loss"].notna().sum() == frame["eval_loss"].notna().sum()
    assert few["step"].iloc[[0, -1]].tolist() == [0, 19_999]
    assert len(few) < 1000
    pd.testing.assert_frame_equal(few, frame.loc[few.index])
