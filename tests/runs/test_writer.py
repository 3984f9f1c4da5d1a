"""What the writer promises: one of it, whole lines, files that appear at once, clear sentences."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from probe.errors import RunError
from probe.runs import ProbePrompt, RunWriter, open_run
from probe.runs.storage import LineFile, holds, write_inside
from tests.runs.conftest import HEADLINE, Make

PROMPT = ProbePrompt(id="a", text="x y", token_ids=[1, 2], tokens=["x", "y"], answers=[" z"], answer_ids=[3])


def strict(text: str) -> object:
    """Standard JSON only: NaN and Infinity are refused."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no standard JSON")

    return json.loads(text, parse_constant=refuse)


def test_run_json_tells_where_the_run_comes_from(make: Make):
    writer = make("dpo", method="dpo", parent="base", reference="base", reward_model="rm", seed=3, world={"hash": "ab"})
    meta = strict((writer.path / "run.json").read_text())
    assert isinstance(meta, dict)
    assert meta["schema"] == 1
    assert (meta["method"], meta["parent"], meta["reference"], meta["reward_model"]) == ("dpo", "base", "base", "rm")
    assert (meta["seed"], meta["config"], meta["world"]) == (3, {"lr": 1e-3}, {"hash": "ab"})
    assert torch.__version__.startswith(meta["versions"]["torch"])  # of a CUDA build the package has no suffix
    assert meta["git"] is None or len(meta["git"]["revision"]) == 40
    assert (meta["status"], meta["pid"]) == ("running", os.getpid())
    assert abs(meta["heartbeat"] - time.time()) < 10
    writer.finish(headline=HEADLINE)
    meta = strict((writer.path / "run.json").read_text())
    assert isinstance(meta, dict)
    assert (meta["status"], meta["headline"]) == ("finished", HEADLINE)
    assert not {"pid", "host"} & set(meta)


def test_a_directory_in_use_is_not_taken(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"holds something already: choose another folder"):
        RunWriter.create(tmp_path / "run", method="x", config={})
    assert os.listdir(tmp_path / "run") == ["notes.txt"]


def test_an_empty_directory_is_taken(tmp_path: Path):
    (tmp_path / "run").mkdir()
    RunWriter.create(tmp_path / "run", method="x", config={}).finish()
    with pytest.raises(RunError, match="holds a run already"):
        RunWriter.create(tmp_path / "run", method="x", config={})


def test_one_writer_in_a_process(make: Make):
    writer = make()
    for take in (
        lambda: RunWriter.resume(writer.path, 0),
        lambda: RunWriter.create(writer.path, method="x", config={}),
    ):
        with pytest.raises(RunError, match="is being written by another process"):
            take()
    writer.finish()
    RunWriter.resume(writer.path, 0).finish()


CHILD = """
import sys, time
from probe.runs import RunWriter
writer = RunWriter.create(sys.argv[1], method="pretrain", config={})
writer.log(0, {"loss": 1.0})
print("ready", flush=True)
time.sleep(60)
"""


def test_one_writer_among_processes_and_the_dead_leave_no_lock(tmp_path: Path):
    path = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", CHILD, path], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        run = open_run(path)
        assert run.status == "running"
        with pytest.raises(RunError, match="is being written by another process"):
            RunWriter.resume(path, 0)
        child.send_signal(signal.SIGKILL)
    assert run.refresh().status == "killed"
    shutil.copytree(path, tmp_path / "copy")
    assert open_run(tmp_path / "copy").status == "killed"
    with RunWriter.resume(path, 0) as writer:
        writer.log(1, {"loss": 0.5})
        assert run.refresh().status == "running"
    assert run.refresh().status == "finished"
    assert list(run.metrics()["loss"]) == [1.0, 0.5]


def test_a_heartbeat_tells_about_writers_on_other_machines(make: Make):
    path = make().path
    meta = json.loads((path / "run.json").read_text())
    copy = path.parent / "copy"
    copy.mkdir()
    # one from the future (a wrong clock, a file that somebody wrote) must not say "running" for ever
    ages = (
        (10, "running"),
        (-10, "running"),
        (1000, "killed"),
        (-1000, "killed"),
        (-1e12, "killed"),
    )
    for age, status in ages:
        changed = meta | {"host": "elsewhere", "heartbeat": int(time.time()) - int(age)}
        (copy / "run.json").write_text(json.dumps(changed))
        assert open_run(copy).status == status
        if status == "running":
            with pytest.raises(RunError, match="is being written"):
                RunWriter.resume(copy, 0)


def test_a_heartbeat_of_no_number_of_seconds_is_none(make: Make):
    meta = (make().path / "run.json").read_text()
    (copy := make("copy").path.parent / "third").mkdir()
    for beat in ("NaN", "Infinity", "-Infinity", str(10**400), "null"):
        (copy / "run.json").write_text(
            re.sub(r'"heartbeat": [\d.]+', f'"heartbeat": {beat}', meta).replace('"host": "', '"host": "x')
        )
        if beat == "null":
            assert open_run(copy).status == "killed"
        else:
            with pytest.raises(RunError, match="damaged entry `heartbeat`"):
                open_run(copy)


DEEDS = {
    "deleted": lambda path: shutil.rmtree(path),
    "moved": lambda path: path.rename(path.with_name("elsewhere")),
    "replaced": lambda path: (path.rename(path.with_name("elsewhere")), path.mkdir()),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize(
    "act",
    [
        lambda run: run.log(2, {"loss": 0.5}),
        lambda run: run.rollouts([{"step": 2, "prompt": "a", "completion": "b"}]),
        lambda run: run.capture(2, {"entropy": np.zeros(2)}),
        lambda run: run.checkpoint(2).__enter__(),
        lambda run: run.finish(),
    ],
)
def test_a_folder_that_goes_under_its_writer_is_noticed(tmp_path: Path, deed: str, act: Callable[[RunWriter], object]):
    path = tmp_path / "run"
    run = RunWriter.create(path, method="sft", config={})
    run.log(1, {"loss": 1.0})
    DEEDS[deed](path)
    with pytest.raises(RunError, match="deleted, moved or replaced while the run was being written: start it again"):
        act(run)
    assert not path.exists() or not list(path.iterdir())  # nothing is made anew
    with pytest.raises(RunError) as caught, run:
        raise RunError("what ended it")
    assert str(caught.value) == "what ended it"
    if deed == "moved":
        assert open_run(path.with_name("elsewhere")).status == "killed"


@pytest.mark.parametrize("name", ["run.json", "captures/00000001.safetensors"])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path, name: str):
    """It may go between the look at it and the write."""
    with pytest.raises(RunError, match="could not be written"):
        write_inside(tmp_path / "run", name, b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_while_a_checkpoint_is_saved_is_not_made_anew(tmp_path: Path):
    """Libraries that save a model make its folder if there is none."""
    run = RunWriter.create(tmp_path / "run", method="x", config={})

    def save(folder: Path) -> None:
        run.path.rename(tmp_path / "elsewhere")
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")

    with pytest.raises(RunError, match="deleted, moved or replaced"), run.checkpoint(2) as folder:
        save(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_capture_that_is_killed_leaves_nothing_after_a_resume(tmp_path: Path):
    """The library writes to a file of its own name beside the one that it is given."""
    code = """if True:
        import os, signal, sys
        import numpy
        from probe.runs import RunWriter, writer
        def killed(arrays, path, metadata):
            path.with_name(".tmpAbCdEf").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        writer.save_file = killed
        RunWriter.create(sys.argv[1], method="x", config={}).capture(0, {"x": numpy.zeros(3)})
        """
    path = tmp_path / "run"
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert list(path.glob("captures/**/.tmpAbCdEf"))
    RunWriter.resume(path, 0).finish()
    assert list(path.glob("captures/*")) == []


def test_a_resumed_run_says_nothing_of_a_capture_that_was_being_listed(make: Make):
    writer = make()
    writer.capture(0, {"x": np.zeros(3)})
    writer.finish("failed")
    with open(writer.path / "captures" / "index.jsonl", "a") as file:
        file.write('{"step": 1, "fi')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed = RunWriter.resume(writer.path, 0)
        assert resumed.first_capture(5)[0] is not None
        resumed.capture(1, {"x": np.zeros(3)})
        resumed.finish()
    assert open_run(writer.path).captures().steps == [0, 1]


def test_a_file_that_is_deleted_under_its_writer_is_noticed(make: Make):
    run = make()
    run.log(1, {"loss": 1.0})
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(RunError, match="deleted while it was being written"):
        run.log(2, {"loss": 0.5})


def test_numbers_of_every_kind_and_no_text(make: Make):
    writer = make()
    writer.log(1, {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.int64(7), "d": True, "e": float("nan")})
    writer.log(2, {"c": 10**400, "a": float("inf"), "b": torch.tensor(float("-inf"))})
    rows = [strict(line) for line in (writer.path / "metrics.jsonl").read_text().splitlines()]
    assert isinstance(rows[0], dict)
    assert isinstance(rows[1], dict)
    assert {key: rows[0][key] for key in "abcde"} == {"a": 0.5, "b": 0.25, "c": 7, "d": True, "e": None}
    assert (rows[1]["a"], rows[1]["b"], rows[1]["c"]) == (None, None, None)
    with pytest.raises(RunError, match="metric `loss` was given as 'high': log single numbers"):
        writer.log(3, {"loss": "high"})
    with pytest.raises(RunError, match="log single numbers"):
        writer.log(3, {"loss": torch.ones(2)})
    with pytest.raises(RunError, match="`time` is reserved"):
        writer.log(3, {"time": 1.0})
    for step in (-1, 1.5, "x", None):
        with pytest.raises(RunError, match="whole numbers from 0 on"):
            writer.log(step, {"loss": 1.0})  # type: ignore[arg-type]
    assert len(open_run(writer.path).metrics()) == 2


def test_rollouts_need_their_columns(make: Make):
    writer = make()
    with pytest.raises(RunError, match="lacks `completion`"):
        writer.rollouts([{"step": 1, "prompt": "a"}])
    with pytest.raises(RunError, match="type object cannot be written"):
        writer.rollouts([{"step": 1, "prompt": "a", "completion": "b", "x": object()}])
    assert open_run(writer.path).rollouts().empty


def test_prompts_are_fixed_once(make: Make):
    writer = make()
    writer.prompts([PROMPT])
    writer.prompts([PROMPT])
    with pytest.raises(RunError, match="captures 1 other prompts already"):
        writer.prompts([PROMPT, PROMPT])
    writer.finish()
    resumed = RunWriter.resume(writer.path, 0)
    resumed.prompts([PROMPT])
    resumed.finish()
    assert open_run(writer.path).captures().prompts == [PROMPT]


def test_a_checkpoint_appears_when_it_is_whole(make: Make):
    writer = make()
    with writer.checkpoint(5) as directory:
        (directory / "config.json").write_text("{}")
        assert open_run(writer.path).checkpoints() == []
    assert [(c.step, c.path.name) for c in open_run(writer.path).checkpoints()] == [(5, "00000005")]

    def fail() -> None:
        with writer.checkpoint(6) as directory:
            (directory / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(writer.path / "checkpoints") == ["00000005"]
    with writer.checkpoint(5) as directory:
        (directory / "new").write_text("x")
    assert set(os.listdir(writer.path / "checkpoints" / "00000005")) == {"new", "SHA256SUMS"}


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    file = LineFile(tmp_path / "lines")
    with open("/dev/full", "ab") as full:
        os.dup2(full.fileno(), file._handle)
    with pytest.raises(RunError, match=r"lines` could not be written \(No space left on device\): free some space"):
        file.append(["{}"])
    file.close()


def test_a_full_disk_of_a_library_in_rust_is_one_sentence(make: Make):
    """The library `tokenizers` raises a plain Exception, with the number of the error in its text."""
    says = r"tmp` could not be written \(No space left on device\): free some space"
    with pytest.raises(RunError, match=says), make().checkpoint(1):
        raise Exception("No space left on device (os error 28)")
    with pytest.raises(ZeroDivisionError), make("other").checkpoint(1):
        raise ZeroDivisionError("of the caller (os error unknown)")


@pytest.mark.parametrize("with_reader", [False, True])
def test_nothing_is_written_into_a_pipe(tmp_path: Path, with_reader: bool):
    os.mkfifo(tmp_path / "lines")
    reader = os.open(tmp_path / "lines", os.O_RDONLY | os.O_NONBLOCK) if with_reader else None
    with pytest.raises(RunError, match=r"lines` could not be written \(.*\): "):
        LineFile(tmp_path / "lines")
    if reader is not None:
        os.close(reader)


def test_a_file_in_the_way_of_a_run_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="a file stands where a folder is needed"):
            RunWriter.create(place, method="pretrain", config={})


LIMITED = """
import resource, signal, sys
from probe.errors import RunError
from probe.runs import RunWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = RunWriter.create(sys.argv[1], method="pretrain", config={})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
step = 0
try:
    while True:
        writer.log(step, {"loss": 1.0})
        step += 1
except RunError as error:
    print(step, error)
try:
    import numpy
    writer.capture(0, {"x": numpy.zeros(100_000)})
except RunError as error:
    print(error)
try:
    with writer.checkpoint(0) as directory:
        import torch
        from safetensors.torch import save_file
        save_file({"x": torch.zeros(100_000)}, directory / "model.safetensors")
except RunError as error:
    print(error)
writer.finish("failed", message="disk full")
"""


def test_a_disk_that_fills_leaves_whole_lines(tmp_path: Path):
    path = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    run = open_run(path)
    assert len(run.metrics()) == int(first.split()[0])
    assert all("could not be written" in line for line in (first, second, third))
    assert run.status == "failed"
    assert not list(path.rglob("*.tmp"))
    assert run.captures().steps == []


def test_an_unwritable_place_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        RunWriter.create(tmp_path / "file" / "run", method="x", config={})
    with pytest.raises(RunError, match="could not be written"):
        RunWriter.create("/proc/run", method="x", config={})


def test_the_context_ends_the_run(tmp_path: Path):
    with RunWriter.create(tmp_path / "a", method="x", config={}):
        pass
    with pytest.raises(ZeroDivisionError), RunWriter.create(tmp_path / "b", method="x", config={}):
        print(1 / 0)
    with pytest.raises(KeyboardInterrupt), RunWriter.create(tmp_path / "c", method="x", config={}):
        raise KeyboardInterrupt
    found = [open_run(tmp_path / name) for name in "abc"]
    assert [run.status for run in found] == ["finished", "failed", "interrupted"]
    assert found[1].message == "division by zero"


def test_an_ended_run_takes_nothing_more(make: Make):
    writer = make()
    writer.finish()
    writer.finish("failed")
    for act in (
        lambda: writer.log(1, {}),
        lambda: writer.rollouts([]),
        lambda: writer.prompts([]),
        lambda: writer.capture(1, {}),
        lambda: writer.checkpoint(1).__enter__(),
    ):
        with pytest.raises(RunError, match="has ended"):
            act()
    assert open_run(writer.path).status == "finished"


def test_an_ending_must_be_known(make: Make):
    writer = make()
    with pytest.raises(RunError, match="choose finished, interrupted, failed"):
        writer.finish("done")
    with pytest.raises(RunError, match="give metric, value, ci_low, ci_high, n"):
        writer.finish(headline=[{"metric": "a", "mean": 1}])


def test_resume_takes_later_steps_back(make: Make):
    writer = make()
    for step in range(6):
        writer.log(step, {"loss": float(step)})
        writer.rollouts([{"step": step, "prompt": "p", "completion": f"first {step}"}])
        writer.capture(step, {"x": np.full(3, step)})
        with writer.checkpoint(step):
            pass
    with open(writer.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')
    writer.finish("interrupted")
    before = open_run(writer.path)
    again = RunWriter.resume(writer.path, 3, config={"steps": 9})
    assert again.seconds >= before.metrics()["time"].iloc[3]
    again.log(4, {"loss": 40.0})
    again.rollouts([{"step": 4, "prompt": "p", "completion": "second 4"}])
    again.capture(4, {"x": np.full(3, 40)})
    again.finish()
    run = open_run(writer.path)
    assert list(run.metrics()["loss"]) == [0, 1, 2, 3, 40]
    assert list(before.metrics()["loss"]) == [0, 1, 2, 3, 40]
    assert list(run.rollouts()["completion"]) == ["first 0", "first 1", "first 2", "first 3", "second 4"]
    assert run.captures().steps == [0, 1, 2, 3, 4]
    assert run.captures().load(4)["x"].tolist() == [40, 40, 40]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [0, 1, 2, 3]
    assert (run.config, run.steps) == ({"steps": 9}, 4)
    assert run.metrics()["time"].is_monotonic_increasing


def test_the_pause_before_a_resume_is_no_time_of_training(make: Make, monkeypatch: pytest.MonkeyPatch):
    clock = [100.0]
    monkeypatch.setattr("probe.runs.writer.time.monotonic", lambda: clock[0])
    writer = make()
    clock[0] += 10
    writer.log(1, {"loss": 1.0})
    writer.finish("interrupted")
    clock[0] += 5000
    again = RunWriter.resume(writer.path, 1)
    clock[0] += 3
    again.log(2, {"loss": 1.0})
    again.finish()
    assert open_run(writer.path).metrics()["time"].tolist() == [10, 13]


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl"])
def test_nothing_is_written_through_a_link_in_a_copied_run(tmp_path: Path, name: str):
    private = tmp_path / "private"
    private.write_text("do not touch, and no line end")
    with RunWriter.create(tmp_path / "run", method="dpo", config={}) as run:
        run.log(1, {"loss": 1.0})
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(private)
    with pytest.raises(RunError, match="is a link to another file"):
        RunWriter.resume(run.path, 1)
    with pytest.raises(RunError, match="is a link to another file"):
        LineFile(run.path / name)
    assert private.read_text() == "do not touch, and no line end"


def test_only_the_holder_of_a_lock_holds_it(tmp_path: Path):
    with RunWriter.create(tmp_path / "run", method="dpo", config={}) as run:
        assert holds(os.getpid(), run.path)
        for other in (os.getppid(), 1, 0, -1, 2**40, float("inf"), float("nan"), True, None, str(os.getpid()), []):
            assert not holds(other, run.path)
    assert not holds(os.getpid(), run.path)
