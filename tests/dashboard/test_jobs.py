"""Trainings as processes: a real one is started, found, stopped and continued; wrong ones are refused in a sentence."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dashboard import jobs
from probe.errors import ConfigError, RunError
from probe.runs import RunWriter, open_run

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


def test_a_training_is_started_found_stopped_and_continued(tmp_path: Path):
    out = tmp_path / "runs" / "mine"
    job = jobs.start("pretrain", out, words(tmp_path))
    assert job.status == "starting"
    assert os.getpgid(job.pid) == job.pid, "Ctrl-C at the server does not reach it"
    with pytest.raises(ConfigError, match="is being trained already"):
        jobs.start("pretrain", out, words(tmp_path))
    wait(lambda: job.status == "running" and len(open_run(out).metrics()) > 3)
    (found,) = jobs.listed([out.parent])
    assert found == job
    jobs.stop(found)
    wait(lambda: job.status == "interrupted")
    run = open_run(out)
    step = run.checkpoints()[-1].step
    assert run.metrics()["step"].iloc[-1] == step
    assert "stopping after this step" in job.lines[-1]
    again = jobs.start("pretrain", out, ["--resume", "--steps", str(step + 2)])
    wait(lambda: again.status == "finished")
    assert open_run(out).metrics()["step"].tolist() == list(range(1, step + 3))


def test_another_server_finds_a_training_by_its_run_and_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "mine"
    job = jobs.start("pretrain", out, words(tmp_path))
    child = jobs._CHILDREN[job.pid]
    monkeypatch.setattr(jobs, "_CHILDREN", {})
    assert job.status == "starting"
    with pytest.raises(RunError, match="cannot be stopped from here"):
        jobs.stop(job)
    wait(lambda: job.status == "running")
    (out.parent / jobs.FOLDER / "mine.json").unlink()
    (found,) = jobs.listed([tmp_path])
    assert (found.out, found.method, found.pid) == (out, "pretrain", job.pid)
    jobs.stop(found)
    child.wait()
    assert found.status == "interrupted"


def test_what_the_trainer_refuses_is_its_own_sentence(tmp_path: Path):
    job = jobs.start("pretrain", tmp_path / "bad", words(tmp_path, steps="-1"))
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
        jobs.start("pretrain", tmp_path / "file" / "x", [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"method": "dpo", "pid": "x", "started": 0}'])
def test_damaged_notes_are_no_trainings(tmp_path: Path, text: str):
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "x.json").write_text(text)
    (folder / "x.log").write_text("")
    assert jobs.listed([tmp_path]) == []


def test_output_is_shown_without_what_colours_a_terminal(tmp_path: Path):
    folder = tmp_path / jobs.FOLDER
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps({"method": "dpo", "pid": 2**22 + 1, "started": 0}))
    (folder / "x.log").write_bytes(b"a" * 20000 + b"\n\x1b[31mred\x1b[0m\rnext\n\nlast \xff\n")
    (job,) = jobs.listed([tmp_path])
    assert job.lines[-3:] == ["red", "next", "last \ufffd"]
    assert (job.status, job.error) == ("refused", None)
