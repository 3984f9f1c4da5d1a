"""Jobs: real processes start, wait for a core, stop and go on, for another server too; copied ones are only shown."""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from probe.commands.jobs import jobs as command
from probe.errors import ConfigError, RunError
from probe.jobs import control
from probe.jobs.job import FOLDER, LOG, PROGRESS, RECORD, read_job, sign
from probe.jobs.process import Reporter, cores
from probe.jobs.trainings import (
    check_name,
    list_jobs,
    resume_training,
    run_of,
    start_training,
    status_of,
    stop_job,
)
from probe.runs import RunWriter, open_run
from probe.runs.addresses import cache_root
from probe.runs.storage import hold_lock, unlock

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
DOCTOR = ["runs", "list", "--json"]
"""Words of a short command."""


@pytest.fixture(autouse=True)
def own_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' jobs take no core from these."""
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of runs, whose jobs end with the test."""
    root = tmp_path / "runs"
    root.mkdir()
    monkeypatch.setenv("PROBE_RUNS", str(root))
    yield root
    for job in list_jobs([root]):
        for _ in range(2):
            if status_of(job) in ("waiting", "running"):
                control.stop(job)
        wait(lambda job=job: status_of(job) not in ("waiting", "running"))


@pytest.fixture
def taken() -> Iterator[ExitStack]:
    """All cores but none are taken from the test's jobs until the stack is closed."""
    with ExitStack() as stack:
        for number in range(cores()):
            place = cache_root() / "cores" / str(number)
            place.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(hold_lock(place))
            stack.callback(unlock, handle)
        yield stack


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


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows is another server: it has started no process."""
    monkeypatch.setattr(control, "_CHILDREN", {})


def test_a_job_runs_a_command_and_keeps_what_it_printed(runs: Path):
    job = control.start(runs, "list", DOCTOR, title="List", link={"page": "overview"})
    assert job.status in ("waiting", "running", "finished")
    wait(lambda: job.status == "finished")
    assert job.lines == ["[]"]
    assert job.ended is not None
    assert job.error == ""
    (found,) = list_jobs([runs])
    assert (found, found.title, dict(found.link)) == (job, "List", {"page": "overview"})
    assert found.is_ours
    control.remove(found)
    assert list_jobs([runs]) == []


def test_what_a_command_refuses_is_its_own_sentence(runs: Path):
    job = control.start(runs, "bad", ["runs", "list", "--root", "nowhere"])
    wait(lambda: job.status == "failed")
    assert job.error == "`nowhere` is not a folder: give one that holds run directories."
    assert job.lines == [f"probe: error: {job.error}"]


def test_the_same_job_is_started_once_and_another_one_of_its_name_is_refused(runs: Path, taken: ExitStack):
    job = control.start(runs, "list", DOCTOR)
    assert control.start(runs, "list", DOCTOR) == job
    with pytest.raises(ConfigError, match="`list` is running already"):
        control.start(runs, "list", ["runs", "list"])
    with pytest.raises(ConfigError, match="`list` is waiting: stop it first"):
        control.remove(job)
    with pytest.raises(ConfigError, match="`list` is running already: stop it first"):
        control.resume(job)


def test_jobs_wait_for_a_core_in_an_order_that_can_be_changed(runs: Path, taken: ExitStack):
    names = ["a", "b", "c"]
    jobs = {name: control.start(runs, name, DOCTOR) for name in names}
    wait(lambda: all(job.progress.doing == "waiting for a core" for job in jobs.values()))
    assert {job.status for job in jobs.values()} == {"waiting"}
    control.move(jobs["c"], -1)
    assert sorted(names, key=lambda name: jobs[name].order) == ["a", "c", "b"]
    control.move(jobs["b"], -5)
    assert sorted(names, key=lambda name: jobs[name].order) == ["b", "a", "c"]
    control.move(jobs["b"], 5)
    assert sorted(names, key=lambda name: jobs[name].order) == ["a", "c", "b"]
    control.stop(jobs["c"])
    wait(lambda: jobs["c"].status == "stopped")
    assert jobs["c"].lines == []
    taken.close()
    wait(lambda: jobs["a"].status == jobs["b"].status == "finished")
    ends = [jobs[name].ended for name in ("a", "b")]
    assert all(ends)


def test_as_many_run_at_once_as_there_are_cores(runs: Path, tmp_path: Path):
    for number in range(cores() - 1):
        place = cache_root() / "cores" / str(number)
        place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for number in range(cores() - 1):
            stack.callback(unlock, stack.enter_context(hold_lock(cache_root() / "cores" / str(number))))
        first = start_training("pretrain", runs / "first", words(tmp_path), METHODS)
        wait(lambda: status_of(first) == "running")
        second = control.start(runs, "second", DOCTOR)
        wait(lambda: second.progress.doing == "waiting for a core")
        time.sleep(1)
        assert (status_of(first), second.status) == ("running", "waiting")
        stop_job(first)
        wait(lambda: second.status == "finished")


@pytest.mark.slow
def test_a_training_is_started_found_stopped_and_continued(runs: Path, tmp_path: Path):
    out = runs / "mine"
    job = start_training("pretrain", out, words(tmp_path), METHODS)
    assert os.getpgid(control._CHILDREN[job.folder].pid) == control._CHILDREN[job.folder].pid, (
        "Ctrl-C does not reach it"
    )
    with pytest.raises(ConfigError, match="is being trained already"):
        start_training("pretrain", out, words(tmp_path), METHODS)
    wait(lambda: status_of(job) == "running" and run_of(job) is not None and len(open_run(out).metrics()) > 3)
    progress = job.progress
    assert progress.doing == "pretrain steps"
    assert 0 < (progress.share or 0) < 1
    assert (progress.left or 0) > 0
    (found,) = list_jobs([runs])
    assert found == job
    stop_job(found)
    wait(lambda: status_of(job) == "stopped")
    run = open_run(out)
    step = run.checkpoints()[-1].step
    assert run.metrics()["step"].iloc[-1] == step
    assert "stopping after this step" in job.lines[-1]
    again = resume_training(job, METHODS, ["--steps", str(step + 2)])
    wait(lambda: status_of(again) == "finished")
    assert open_run(out).metrics()["step"].tolist() == list(range(1, step + 3))


@pytest.mark.slow
def test_another_server_stops_a_job_by_its_lock_and_a_training_by_that_of_its_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = start_training("pretrain", runs / "mine", words(tmp_path), METHODS)
    forget(monkeypatch)
    wait(lambda: status_of(job) == "running" and run_of(job) is not None)
    shutil.rmtree(job.folder)
    (found,) = list_jobs([runs])
    assert (found.name, found.words[:2], status_of(found)) == ("mine", ("train", "pretrain"), "running")
    stop_job(found)
    wait(lambda: status_of(found) == "stopped")
    assert open_run(runs / "mine").status == "interrupted"
    again = start_training("pretrain", runs / "mine", ["--resume"], METHODS)
    forget(monkeypatch)
    wait(lambda: again.progress.pid > 0)
    control.stop(again)
    wait(lambda: status_of(again) == "stopped")


def test_a_training_that_is_stopped_before_its_first_step_is_stopped(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While it loads, whatever its Python is doing then; another server knows it too."""
    job = start_training("pretrain", runs / "mine", words(tmp_path), METHODS)
    stop_job(job)
    wait(lambda: status_of(job) not in ("waiting", "running"))
    assert (status_of(job), run_of(job)) == ("stopped", None)
    forget(monkeypatch)
    assert status_of(job) == "stopped"


def test_a_process_that_is_killed_has_failed_and_its_command_runs_again(runs: Path, taken: ExitStack):
    job = control.start(runs, "list", DOCTOR)
    wait(lambda: job.progress.pid > 0)
    control._CHILDREN[job.folder].kill()
    wait(lambda: job.status == "failed")
    assert job.error == "Its process ended without a message: it was killed, or the machine was switched off."
    taken.close()
    again = control.resume(job)
    wait(lambda: again.status == "finished")


def test_a_copied_folder_of_jobs_is_shown_and_never_acted_on(runs: Path, tmp_path: Path, taken: ExitStack):
    job = control.start(runs, "list", DOCTOR, title="List")
    wait(lambda: job.progress.pid > 0)
    copy = tmp_path / "copy"
    shutil.copytree(runs, copy)
    (found,) = list_jobs([copy])
    assert (found.title, found.status, found.is_ours) == ("List", "failed", False)
    with pytest.raises(RunError, match="cannot be stopped from here"):
        control.stop(found)
    with pytest.raises(ConfigError, match="a copied command is not run"):
        control.resume(found)
    with pytest.raises(ConfigError, match="was not started here"):
        control.remove(found)
    assert job.status == "waiting"


def test_a_command_that_was_changed_is_not_ours(runs: Path):
    job = control.start(runs, "list", DOCTOR)
    wait(lambda: job.status == "finished")
    file = job.folder / RECORD
    about = json.loads(file.read_text())
    file.write_text(json.dumps(about | {"words": ["runs", "upload", "base", "s3://elsewhere"]}))
    changed = read_job(job.folder)
    assert changed is not None
    assert not changed.is_ours


def test_the_key_of_signatures_is_for_its_user_alone(runs: Path):
    sign(runs, "", ["a"])
    file = cache_root() / "jobs.key"
    assert file.stat().st_mode & 0o077 == 0
    assert sign(runs, "", ["a"]) == sign(runs, "", ["a"]) != sign(runs, "", ["b"])
    file.unlink()
    file.mkdir()
    assert sign(runs, "", ["a"]) != sign(runs, "", ["a"]), "without a key that lasts nothing is ours"


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a\\b", "<b>", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ConfigError, match="cannot name a run"):
        check_name(tmp_path, name)
    with pytest.raises(ConfigError, match="cannot name a job"):
        control.start(tmp_path, name, DOCTOR)
    assert control.NAME.fullmatch(control.name_of(name))


def test_a_name_is_taken_by_a_folder_that_holds_something(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert check_name(tmp_path, "empty") == tmp_path / "empty"
    RunWriter.create(tmp_path / "full", method="dpo", config={}).finish("finished")
    with pytest.raises(ConfigError, match="exists already"):
        check_name(tmp_path, "full")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        control.start(tmp_path / "file", "x", DOCTOR)


def test_nothing_is_written_through_a_link(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / FOLDER).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="is a link to another folder"):
        control.start(tmp_path / "root", "x", DOCTOR)
    assert not list((tmp_path / "elsewhere").iterdir())


def noted(root: Path, name: str, **about: Any) -> Path:
    """A folder as a job leaves it."""
    folder = root / FOLDER / name
    folder.mkdir(parents=True)
    known = {"words": ["train", "dpo"], "started": 1.7e9, **about}
    (folder / RECORD).write_text(json.dumps(known))
    return folder


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"words": [], "started": 0}', '{"words": ["a", 1], "started": 0}'])
def test_damaged_records_are_no_jobs(tmp_path: Path, text: str):
    folder = noted(tmp_path, "x")
    (folder / RECORD).write_text(text)
    assert list_jobs([tmp_path]) == []


ANY = [math.inf, -math.inf, math.nan, -1, 0, 1, 2**40, 1.5, True, None, "12", [], {}]


@pytest.mark.parametrize("value", ANY)
def test_a_record_may_hold_any_number(tmp_path: Path, value: object):
    folder = noted(tmp_path, "x", link=value, title=value, directory=value, signature=value)
    entries = dict.fromkeys(("share", "left", "pid", "begun", "time", "order", "exit", "doing"), value)
    for file in (PROGRESS, "queue.json"):
        (folder / file).write_text(json.dumps(entries))
    (job,) = list_jobs([tmp_path])
    assert status_of(job) == "failed"
    assert 0 <= (job.progress.share or 0) <= 1
    assert not job.is_ours
    with pytest.raises(RunError):
        control.stop(job)
    (folder / "end.json").write_text(json.dumps(entries))
    assert status_of(job) == ("finished" if value == 0 and value is not False else "failed")


def test_progress_is_written_at_once_when_the_work_changes_and_else_seldom(tmp_path: Path):
    noted(tmp_path, "x")
    (job,) = list_jobs([tmp_path])
    reporter = Reporter(job.folder)
    reporter.report("loading")
    reporter.report("asking", 0.1, 9.0)
    reporter.report("asking", 0.2, 8.0)
    progress = job.progress
    assert (progress.doing, progress.share, progress.left, progress.pid) == ("asking", 0.1, 9.0, os.getpid())


def test_a_state_without_a_job_is_that_of_the_run(tmp_path: Path):
    """A terminal may continue a run that a job was stopped at."""
    run = RunWriter.create(tmp_path / "x", method="dpo", config={})
    (job,) = list_jobs([tmp_path])
    assert status_of(job) == "running"
    folder = noted(tmp_path, "x", started=time.time() + 100)
    (folder / "end.json").write_text(json.dumps({"exit": 130, "time": 1.0}))
    (job,) = list_jobs([tmp_path])
    assert status_of(job) == "running"
    run.finish("finished")
    assert status_of(job) == "finished", "it was written after the job ended"
    (folder / "end.json").write_text(json.dumps({"exit": 2, "time": time.time() + 10}))
    assert status_of(job) == "failed", "the last job did not continue it"


def test_the_command_lists_follows_stops_and_continues(
    runs: Path, taken: ExitStack, capsys: pytest.CaptureFixture[str]
):
    assert command([]) == 0
    assert "No job runs or has run here" in capsys.readouterr().err
    first = control.start(runs, "first", DOCTOR, title="List the runs")
    second = control.start(runs, "second", DOCTOR)
    wait(lambda: first.progress.pid > 0 and second.progress.pid > 0)
    assert command(["list", "--json"]) == 0
    rows = {row["job"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["first"] | {"started": 0} == {
        "job": "first",
        "title": "List the runs",
        "state": "waiting",
        "doing": "waiting for a core",
        "share": None,
        "left": None,
        "started": 0,
        "error": "",
        "folder": str(first.folder),
    }
    assert command(["next", "second"]) == 0
    assert second.order < first.order
    assert command(["stop", "first"]) == 0
    wait(lambda: first.status == "stopped")
    with pytest.raises(ConfigError, match="`first` is stopped, and cannot be stopped"):
        command(["stop", "first"])
    assert command(["follow", "first"]) == 130
    with pytest.raises(ConfigError, match="only a waiting job"):
        command(["next", "first"])
    taken.close()
    assert command(["continue", "first"]) == 0
    capsys.readouterr()
    assert command(["follow", "first"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "[]\n"
    assert "List the runs: finished." in shown.err
    assert command(["remove", "first"]) == 0
    assert "first" not in [job.name for job in list_jobs()]
    with pytest.raises(RunError, match="There is no job `firts` beside the run directories"):
        command(["stop", "firts"])
    wait(lambda: second.status == "finished")


def test_hostile_output_is_literal_text(runs: Path, capsys: pytest.CaptureFixture[str]):
    folder = noted(runs, "x", title="a\x1b[31mb")
    (folder / LOG).write_text("\x1b]0;title\x07 red\n")
    assert command(["follow", "x"]) == 1
    assert "\x1b" not in "".join(capsys.readouterr())
