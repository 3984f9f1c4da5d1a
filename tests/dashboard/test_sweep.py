"""The page Sweep: how to make one, how one stands, and one from a stranger."""

import json
import time
from pathlib import Path

import pytest

from probe.jobs.job import LIVE
from probe.jobs.trainings import list_jobs
from probe.runs import RunWriter
from probe.sweep.journal import JOURNAL, LOGS
from tests.dashboard.pages import Show, chart, heading, linked, read, unescape, values

PAGE = "sweep/page.py"


def a_sweep(out: Path) -> None:
    """Two trainings, one of which failed, and an experiment that needs it."""
    logs = out / ".sweep" / LOGS
    logs.mkdir(parents=True)
    tasks = [
        {"name": "base-seed0", "entry": "base", "kind": "train", "command": ["probe", "train", "pretrain"]},
        {"name": "b", "entry": "b", "kind": "train", "command": ["probe", "train", "sft", "--out", "a b"]},
        {"name": "ask-b", "entry": "ask", "kind": "experiment", "needs": ["b"]},
    ]
    events = [
        {"event": "begin", "tasks": tasks},
        {"event": "submit", "task": "base-seed0", "attempt": 2},
        {"event": "start", "task": "base-seed0", "time": 60.0, "node": "<b>here</b>"},
        {"event": "end", "task": "base-seed0", "state": "finished", "time": 180.0},
        {"event": "end", "task": "b", "state": "failed", "message": "[no](http://x.y) such `model`."},
        {"event": "end", "task": "ask-b", "state": "skipped"},
    ]
    (out / ".sweep" / JOURNAL).write_text("\n".join(map(json.dumps, events)))
    (logs / "b.log").write_text("# attempt 1 on here: probe train sft\nprobe: error: **no** such model\n")
    with RunWriter.create(out / "base-seed0", method="pretrain", config={"steps": 20}) as writer:
        writer.log(20, {"loss": 1.0})


def test_without_a_sweep_it_says_how_to_make_one(show: Show, tmp_path: Path):
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert heading(app).startswith("There is no sweep in the run directories.")
    assert "[[experiment]]" in app.text_area(key="sweep_spec").value
    assert "Trainings: 15, experiments: 15; their runs go to runs/betas" in unescape(read(app))


def test_a_sweep_is_written_checked_and_started(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    root.mkdir()
    app = show(root, page=PAGE)
    app.text_area(key="sweep_spec").set_value("out = 3").run()
    assert "The sweep needs `out`" in unescape(app.error[0].value)
    app.text_area(key="sweep_spec").set_value("out = ").run()
    assert "The text is not TOML" in unescape(app.error[0].value)
    text = 'out = "runs/small"\n\n[[train]]\nname = "bad"\nmethod = "pretrain"\noptions = {steps = -1}\n'
    app.text_area(key="sweep_spec").set_value(text)
    app.text_input(key="sweep_name").set_value("small").run()
    assert [unescape(error.value) for error in app.error] == []
    assert "Trainings: 1, experiments: 0" in read(app)
    next(button for button in app.button if button.label == "Start sweep").click().run()
    assert not app.exception
    assert (root / "small.toml").read_text() == text
    end = time.monotonic() + 120
    while (job := next(iter(list_jobs([root])))).status in LIVE:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert (job.title, job.words, dict(job.link)) == (
        "Sweep small",
        ("sweep", str(root / "small.toml")),
        {"page": "sweep"},
    )
    assert (job.status, "--steps is -1" in job.error) == ("failed", True)
    app.text_area(key="sweep_spec").set_value(text + "\n").run()
    next(button for button in app.button if button.label == "Start sweep").click().run()
    assert "exists already with another text" in read(app)


def test_a_sweep_shows_its_tasks_and_why_one_failed(show: Show, tmp_path: Path):
    a_sweep(tmp_path / "betas")
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert heading(app) == "betas: 1 of 3 tasks are finished, 1 failed, 1 skipped."
    table = app.dataframe[0].value
    assert list(table["task"]) == ["base-seed0", "b", "ask-b"]
    assert table["progress"].iloc[0] == 1
    assert list(table["steps"]) == ["20 of 20", "", ""]
    assert table["minutes"].iloc[0] == 2
    assert table["machine"].iloc[0] == "<b>here</b>"
    assert app.selectbox(key="sweep_task").value == "b"
    assert "[no](http://x.y) such `model`." in read(app)
    assert "[no](http" not in app.error[0].value
    assert app.code[0].value == "probe train sft --out 'a b'"
    assert app.code[1].value.endswith("probe: error: **no** such model")
    app.selectbox(key="sweep_task").select("base-seed0").run()
    assert linked(app, "Curves of base\\-seed0") == {"runs": "base-seed0"}


def test_runs_of_one_entry_have_one_way_to_their_curves(show: Show, tmp_path: Path):
    out, runs = tmp_path / "seeds", ("base-seed0", "base-seed1", "sft")
    tasks = [{"name": name, "entry": name.partition("-")[0], "kind": "train"} for name in runs]
    (out / ".sweep").mkdir(parents=True)
    (out / ".sweep" / JOURNAL).write_text(json.dumps({"event": "begin", "tasks": tasks}))
    for name in runs:
        RunWriter.create(out / name, method="sft", config={}).finish("finished")
    app = show(tmp_path, page=PAGE)
    assert [link.proto.label for link in app.get("page_link") if "Curves of" in link.proto.label] == [
        r"Curves of base \(2 runs\)",
        r"Curves of base\-seed0",
    ]


def compared(out: Path, runs: int = 4, state: str = "finished") -> None:
    """Trainings with two betas and seeds, of which the last one ended in a state, and an experiment on each."""
    logs = out / ".sweep" / LOGS
    logs.mkdir(parents=True)
    tasks, events = [], []
    for index in range(runs):
        name, recipe = f"dpo-{index}", {"method": "dpo", "beta": [0.1, 3][index // 2], "seed": index % 2}
        tasks.append({"name": name, "entry": "dpo", "kind": "train", "recipe": recipe})
        ask = {"experiment": "sycophancy", "model": name}
        tasks.append({"name": f"ask-{name}", "entry": "<b>ask</b>", "kind": "experiment", "recipe": ask})
        ended = state if index == runs - 1 else "finished"
        events.append({"event": "end", "task": name, "state": ended, "time": 60.0})
        if ended == "finished":
            events.append({"event": "end", "task": f"ask-{name}", "state": "finished", "time": 90.0})
        summary = [{"metric": "deferral", "value": index / 10}, {"metric": "x", "value": 1.0 + index}]
        (logs / f"ask-{name}.json").write_text(json.dumps({"summary": summary}))
        rows = [{"metric": "accuracy", "value": 0.5 + index / 10, "ci_low": None, "ci_high": None, "n": 9}]
        RunWriter.create(out / name, method="dpo", config={}).finish("finished", headline=rows)
    (out / ".sweep" / JOURNAL).write_text("\n".join(map(json.dumps, [{"event": "begin", "tasks": tasks}, *events])))


def test_options_and_metrics_of_the_trainings_are_drawn_and_listed(show: Show, tmp_path: Path):
    compared(tmp_path / "betas")
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    deferral, other = "<b>ask</b>: deferral", "<b>ask</b>: x"
    assert app.multiselect(key="sweep_metrics").value == [deferral, other]
    axes = chart(app, "options-and-metrics")["data"][0]["dimensions"]
    assert [axis["label"] for axis in axes[:2]] == ["beta (log scale)", "seed"]
    assert len(axes) == 4
    text = unescape(read(app))
    assert "over 4 runs: lowest in dpo-0 (0 %), highest in dpo-3 (30 %)." in text
    assert "Each line is one of 4 trainings" in text
    assert "not drawn" not in text
    listed = app.dataframe[1].value
    assert listed["beta"].tolist() == [0.1, 0.1, 3, 3]
    app.multiselect(key="sweep_metrics").set_value([deferral, "accuracy"]).run()
    app.selectbox(key="sweep_colour").select("accuracy").run()
    assert not app.exception
    assert list(values(chart(app, "options-and-metrics")["data"][0]["line"]["color"])) == pytest.approx(
        [0.5, 0.6, 0.7, 0.8]
    )


def test_a_training_that_did_not_finish_is_not_drawn(show: Show, tmp_path: Path):
    compared(tmp_path / "betas", state="failed")
    text = unescape(read(show(tmp_path, page=PAGE)))
    assert "Each line is one of 3 trainings" in text
    assert "Trainings that are not drawn: 1 failed." in text


@pytest.mark.parametrize("runs", [1, 2])
def test_one_training_has_nothing_to_be_compared_with(show: Show, tmp_path: Path, runs: int):
    compared(tmp_path / "betas", runs=runs, state="failed")
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert "Options and metrics are compared here when two trainings have finished." in read(app)


def test_a_damaged_sweep_is_a_sentence(show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a_sweep(tmp_path / "betas")
    file = tmp_path / "betas" / ".sweep" / JOURNAL
    file.write_bytes(
        b'{"event": "begin", "tasks": {"a": 1}}\n\xff\x00{{{\n[1]\n{"event": "end", "task": ["b"], "state": []}'
    )
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert heading(app) == "betas: 0 of 0 tasks are finished."
    monkeypatch.setattr("probe.sweep.journal.MOST", 10)
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert heading(app) == "betas cannot be read."
    assert "which no sweep writes" in app.error[0].value


def test_what_a_strangers_sweep_names_is_shown_and_not_run(show: Show, tmp_path: Path):
    """A plugin and a reward file in its commands, and the spec that lies beside it."""
    evil, ran = tmp_path / "evil.py", tmp_path / "ran"
    evil.write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\ndef score(**given): return []\n")
    words = ["train", "rlvr", f"--plugin={evil}", f"--reward={evil}:score"]
    folder = tmp_path / "betas" / ".sweep"
    folder.mkdir(parents=True)
    tasks = [
        {"name": "b", "entry": "b", "kind": "train", "command": ["probe", *words], "recipe": {"plugin": str(evil)}}
    ]
    (folder / JOURNAL).write_text(json.dumps({"event": "begin", "tasks": tasks}))
    (tmp_path / "betas" / "spec.toml").write_text(
        f'out = "x"\n[[train]]\nname = "b"\nmethod = "rlvr"\noptions = {{plugin = "{evil}"}}\n'
    )
    app = show(tmp_path, page=PAGE)
    assert not app.exception
    assert app.code[0].value == " ".join(["probe", *words])
    assert not ran.exists()
