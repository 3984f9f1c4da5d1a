"""Trainings as processes: a real one is started, found, stopped and continued; wrong ones are refused in a sentence."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dashboard import jobs
from probe.errors import ConfigError, RunError
from probe.runs import RunWriter, open_run

METHODS = ("pretrain", "rlvr")
SMALL = {
    "--preset": "tiny",
    "--tokenizer": "char",
    "--length": "16",
    "--batch-size": "2",
    "--steps": "100000",
    "--warmup": "0",
    "--log-every": "1",
    "--save-every": "0",
    "--eval-every": "0",
    "--capture-every": "0",
    "--threads": "1",
    "--device": "cpu",
}


def words(tmp_path: Path, **changes: str) -> list[str]:
    """A small pretraining on a text."""
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question\n" * 50)
    flags = SMALL | {"--data": str(text)} | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [word for pair in flags.items() for word in pair]


def wait(holds: Callable[[], bool], seconds: float = 180) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_training_is_started_found_stopped_and_continued(tmp_path: Path):
    out = tmp_path / "runs" / "mine"
    job = jobs.start("pretrain", out, words(tmp_path), METHODS)
    assert job.status == "starting"
    assert os.getpgid(job.pid) == job.pid, "Ctrl-C at the server does not reach it"
    with pytest.raises(ConfigError, match="is being trained already"):
        jobs.start("pretrain", out, words(tmp_path), METHODS)
    wait(lambda: job.status == "running" and len(open_run(out).metrics()) > 3)
    (found,) = jobs.list_trainings([out.parent])
    assert found == job
    jobs.stop(found)
    wait(lambda: job.status == "interrupted")
    run = open_run(out)
    step = run.checkpoints()[-1].step
    assert run.metrics()["step"].iloc[-1] == step
    assert "stopping after this step" in job.lines[-1]
    again = jobs.start("pretrain", out, ["--resume", "--steps", str(step + 2)], METHODS)
    wait(lambda: again.status == "finished")
    assert open_run(out).metrics()["step"].tolist() == list(range(1, step + 3))


@pytest.mark.slow
def test_another_server_finds_a_training_by_its_run_and_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "mine"
    job = jobs.start("pretrain", out, words(tmp_path), METHODS)
    child = job.child
    assert child
    monkeypatch.setattr(jobs, "_CHILDREN", {})
    assert job.status == "starting"
    with pytest.raises(RunError, match="cannot be stopped from here"):
        jobs.stop(job)
    wait(lambda: job.status == "running")
    (out.parent / jobs.FOLDER / "mine.json").unlink()
    (found,) = jobs.list_trainings([tmp_path])
    assert (found.out, found.method, found.pid) == (out, "pretrain", job.pid)
    jobs.stop(found)
    child.wait()
    assert found.status == "interrupted"


def test_a_training_that_is_stopped_before_its_first_step_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While it loads, whatever its Python is doing then; another server knows it by its log."""
    job = jobs.start("pretrain", tmp_path / "mine", words(tmp_path), METHODS)
    jobs.stop(job)
    wait(lambda: job.status != "starting")
    assert (job.status, job.run) == ("stopped", None)
    monkeypatch.setattr(jobs, "_CHILDREN", {})
    for last, status in (("probe: interrupted", "stopped"), ("probe: error: No.", "refused")):
        job.log.write_text(f"probe: note: anything\n{last}\n")
        (found,) = jobs.list_trainings([tmp_path])
        assert found.status == status


def test_what_the_trainer_refuses_is_its_own_sentence(tmp_path: Path):
    job = jobs.start("pretrain", tmp_path / "bad", words(tmp_path, steps="-1"), METHODS)
    wait(lambda: job.status == "refused")
    assert job.error == "--steps is -1; expected at least 1."
    assert not job.out.exists()


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "<b>", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="cannot name a run"):
        jobs.check_name(tmp_path, name)


def test_a_name_is_taken_by_a_folder_that_holds_something(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert jobs.check_name(tmp_path, "empty") == tmp_path / "empty"
    RunWriter.create(tmp_path / "full", method="dpo", config={}).finish("finished")
    with pytest.raises(ConfigError, match="exists already"):
        jobs.check_name(tmp_path, "full")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be started in"):
        jobs.start("pretrain", tmp_path / "file" / "x", [], METHODS)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"method": "dpo", "pid": "x", "started": 0}'])
def test_damaged_notes_are_no_trainings(tmp_path: Path, text: str):
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "x.json").write_text(text)
    (folder / "x.log").write_text("")
    assert jobs.list_trainings([tmp_path]) == []


@pytest.mark.parametrize("pid", [math.inf, -math.inf, math.nan, -1, 0, 1, 2**40, 1.5, True, None, "12", [], {}])
@pytest.mark.parametrize("started", [0, math.inf])
def test_a_note_may_hold_any_number(tmp_path: Path, pid: object, started: float):
    RunWriter.create(tmp_path / "x", method="dpo", config={}).finish("interrupted")
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps({"method": "dpo", "pid": pid, "started": started}))
    (folder / "x.log").write_text("")
    assert jobs.list_trainings([tmp_path]) == []


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen]:
    """A process of the same user that has nothing to do with any run."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def rewrite(run: Path, **changes: object) -> None:
    """Change what `run.json` says."""
    file = run / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("pid", ["bystander", math.inf, -1, 0, 1, 2**40, True, None, "1"])
def test_only_the_process_that_holds_the_lock_of_a_run_is_signalled(
    tmp_path: Path, bystander: subprocess.Popen, monkeypatch: pytest.MonkeyPatch, pid: object
):
    signalled: list[tuple[int, int]] = []
    kill = os.kill
    monkeypatch.setattr(jobs.os, "kill", lambda pid, sign: signalled.append((pid, sign)) if sign else kill(pid, sign))
    run = RunWriter.create(tmp_path / "x", method="dpo", config={})
    rewrite(run.path, pid=bystander.pid if pid == "bystander" else pid)
    listed = jobs.list_trainings([tmp_path])
    assert [job.status for job in listed] in ([], ["running"])  # a number that is no process damages the whole record
    for job in [*listed, jobs.Job(run.path, "dpo", 0, time.time())]:
        with pytest.raises(RunError, match="cannot be stopped from here"):
            jobs.stop(job)
    assert not signalled
    rewrite(run.path, pid=os.getpid())
    jobs.stop(jobs.list_trainings([tmp_path])[0])
    assert signalled == [(os.getpid(), signal.SIGINT)]
    run.finish("interrupted")


def test_a_note_does_not_make_another_training_of_this_server_stop(tmp_path: Path, bystander: subprocess.Popen):
    jobs._CHILDREN[bystander.pid] = tmp_path / "mine", bystander
    run = RunWriter.create(tmp_path / "copied", method="dpo", config={})
    rewrite(run.path, pid=bystander.pid)
    job = jobs.Job(run.path, "dpo", bystander.pid, time.time())
    with pytest.raises(RunError, match="cannot be stopped from here"):
        jobs.stop(job)
    assert bystander.poll() is None
    run.finish("interrupted")
    del jobs._CHILDREN[bystander.pid]


def test_links_in_a_copied_root_lead_nowhere(tmp_path: Path):
    private = tmp_path / "private"
    private.write_text("do not touch")
    root = tmp_path / "root"
    folder = root / jobs.FOLDER
    folder.mkdir(parents=True)
    for end in ("log", "part"):
        (folder / f"x.{end}").symlink_to(private)
    (folder / "y.log").symlink_to(private)
    (folder / "y.json").write_text(json.dumps({"method": "dpo", "pid": 2**22 + 1, "started": 0}))
    assert [job.lines for job in jobs.list_trainings([root])] == [[]]
    job = jobs.start("pretrain", root / "x", ["--steps", "-1", "--device", "cpu"], METHODS)
    wait(lambda: job.status == "refused")
    assert private.read_text() == "do not touch"


def test_a_folder_of_notes_that_is_a_link_is_not_used(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / jobs.FOLDER).symlink_to(elsewhere)
    (elsewhere / "x.json").write_text(json.dumps({"method": "dpo", "pid": 2**22 + 1, "started": 0}))
    (elsewhere / "x.log").write_text("")
    assert jobs.list_trainings([root]) == []
    with pytest.raises(RunError, match="is a link"):
        jobs.start("pretrain", root / "y", [], METHODS)
    assert sorted(file.name for file in elsewhere.iterdir()) == ["x.json", "x.log"]


def test_a_method_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"There is no method `--plugin=/tmp/evil\.py`"):
        jobs.start("--plugin=/tmp/evil.py", tmp_path / "x", ["--resume"], METHODS)
    assert not list(tmp_path.iterdir())


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    assert {each["method"] for each in jobs.describe()} >= {"pretrain", "rlvr"}


def test_output_is_shown_without_what_colours_a_terminal(tmp_path: Path):
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps({"method": "dpo", "pid": 2**22 + 1, "started": 0}))
    (folder / "x.log").write_bytes(b"a" * 20000 + b"\n\x1b[31mred\x1b[0m\rnext\n\nlast \xff\n")
    (job,) = jobs.list_trainings([tmp_path])
    assert job.lines[-3:] == ["red", "next", "last \ufffd"]
    assert (job.status, job.error) == ("refused", None)
