"""How a sweep is run: what starts when, what stays, what is tried again; on an engine that makes runs at once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from probe.commands import sweep as command
from probe.errors import ConfigError, MissingToolError, RunError
from probe.runs import RunWriter, open_run, roots
from probe.sweep import Sweep, read_sweep, run_sweep, schedule
from probe.sweep.attempt import Attempt, Ended, Order
from probe.sweep.journal import JOURNAL, answer_file, find_sweeps
from probe.sweep.schedule import Serial
from probe.sweep.spec import Task

BASE = {"name": "base", "method": "pretrain", "seeds": [0, 1], "options": {"steps": 3}}
DPO = {"name": "dpo", "method": "dpo", "options": {"base": "base", "beta": 0.3}}
ASK = {"name": "sycophancy", "of": ["dpo"]}
NAMES = ["base-seed0", "base-seed1", "dpo-seed0", "dpo-seed1", "sycophancy-dpo-seed0", "sycophancy-dpo-seed1"]

TWO = """
out = "runs/x"
[[train]]
name = "base"
method = "pretrain"
[[train]]
name = "b"
method = "sft"
options = {base = "base"}
"""


class AtOnce:
    """An engine that makes a run of each training in no time, or ends it as it was told."""

    def __init__(self, endings: dict[str, list[str]]) -> None:
        self.endings = endings
        """By task how its attempts end, the first one first; all others finish."""
        self.orders: list[Order] = []
        self.given: list[Order] = []
        self.stopped = self.closed = 0

    def has_room(self) -> bool:
        return len(self.given) < 2

    def check(self, task: Task) -> None:
        pass

    def start(self, order: Order) -> None:
        self.orders.append(order)
        self.given.append(order)

    def begun(self) -> dict[str, str]:
        return {order.task.name: "here" for order in self.given[:1]}

    def steps(self) -> dict[str, int]:
        return {}

    def poll(self) -> list[Ended]:
        return [self.end(self.given.pop()) for _ in self.given[:1]]

    def end(self, order: Order) -> Ended:
        task = order.task
        state = next(iter(self.endings.get(task.name, [])), "finished")
        self.endings[task.name] = self.endings.get(task.name, [])[1:]
        if task.kind == "train":
            resumed = task.run.exists()
            writer = (
                RunWriter.resume(task.run, 0)
                if resumed
                else RunWriter.create(task.run, method="x", config={"steps": 3})
            )
            writer.log(3, {"loss": 1.0})
            writer.finish("finished" if state == "finished" else "interrupted")
        else:
            summary = [{"metric": "deferral", "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 4}]
            answer_file(order.folder, task.name).write_text(json.dumps({"summary": summary}))
        return Ended(task.name, state, "because" if state == "failed" else "", "here")

    def stop(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        self.closed += 1


Go = Callable[..., tuple[Sweep, AtOnce]]


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Go:
    """Run a sweep in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(schedule, "POLL_S", 0.0)

    def run(
        train: Iterable[dict[str, Any]] = (BASE, DPO),
        endings: dict[str, list[str]] | None = None,
        **options: Any,
    ) -> tuple[Sweep, AtOnce]:
        engine = AtOnce(endings or {})
        monkeypatch.setattr(schedule, "make_engine", lambda *given: engine)
        spec = {"out": "runs/x", "train": list(train), "experiment": [ASK]}
        return run_sweep(spec, **options), engine

    return run


def started(engine: AtOnce) -> list[str]:
    return [order.task.name for order in engine.orders]


def test_a_task_starts_when_what_it_needs_is_finished_and_is_made_once(go: Go):
    sweep, engine = go()
    assert sweep.finished
    assert sorted(started(engine)) == NAMES
    assert all(
        started(engine).index(need) < started(engine).index(o.task.name) for o in engine.orders for need in o.task.needs
    )
    assert engine.closed == 1
    assert read_sweep("runs/x").tasks == sweep.tasks
    table = sweep.results()
    assert list(table["value"]) == [0.5, 0.5]
    assert list(table["model"]) == ["dpo-seed0", "dpo-seed1"]
    sweep, engine = go()
    assert started(engine) == []
    assert sweep.finished
    shutil.rmtree("runs/x/dpo-seed0")  # and with it the result of what was asked
    sweep, engine = go()
    assert started(engine) == ["dpo-seed0", "sycophancy-dpo-seed0"]


def test_a_failure_ends_what_needs_it_and_nothing_else(go: Go):
    sweep, engine = go(endings={"base-seed0": ["failed"]})
    states = {task.name: task.state for task in sweep.tasks.values()}
    assert states == dict.fromkeys(NAMES, "finished") | {
        "base-seed0": "failed",
        "dpo-seed0": "skipped",
        "sycophancy-dpo-seed0": "skipped",
    }
    assert sweep.tasks["base-seed0"].message == "because"
    assert sweep.sentence == "3 of 6 tasks are finished, 1 failed, 2 skipped."
    sweep, engine = go()  # the same command tries again
    assert sorted(started(engine)) == ["base-seed0", "dpo-seed0", "sycophancy-dpo-seed0"]
    assert engine.orders[0].attempt == 2
    assert sweep.finished


def test_a_lost_task_is_started_again_as_often_as_it_may(go: Go):
    train = [{**BASE, "retries": 1}]
    spec_of_lost = {"base-seed0": ["lost"], "base-seed1": ["lost", "lost"]}
    sweep, engine = go((*train, DPO), spec_of_lost)
    assert [(o.task.name, o.attempt) for o in engine.orders if o.task.name == "base-seed0"] == [
        ("base-seed0", 1),
        ("base-seed0", 2),
    ]
    assert sweep.tasks["base-seed0"].state == "finished"
    assert sweep.tasks["base-seed1"].state == "failed"
    assert sweep.tasks["base-seed1"].message.startswith("It was lost 2 times.")


def test_a_stop_starts_nothing_more(go: Go):
    asked: list[bool] = []
    sweep, engine = go(
        endings={"base-seed0": ["interrupted"]}, stop=lambda: bool(asked), tick=lambda sweep: asked.append(True)
    )
    assert engine.stopped == 1
    assert sorted(started(engine)) == ["base-seed0", "base-seed1"]
    assert {task.state for task in sweep.tasks.values()} == {"finished", "interrupted", "waiting"}
    sweep, engine = go()
    assert sweep.finished


def test_a_finished_run_is_not_made_otherwise(go: Go, tmp_path: Path):
    go(endings={"dpo-seed0": ["failed"]})
    before = open_run("runs/x/dpo-seed1").meta
    with pytest.raises(ConfigError, match=r"`dpo-seed1` was made with beta 0\.3, and the spec now says beta 0\.5"):
        go((BASE, {**DPO, "options": {"base": "base", "beta": 0.5}}))
    with pytest.raises(ConfigError, match=r"`dpo-seed0` was made with beta 0\.3, and the spec now says no beta"):
        go((BASE, {**DPO, "options": {"base": "base"}}))  # --resume would keep the 0.3
    assert open_run("runs/x/dpo-seed1").meta == before
    (tmp_path / "runs" / "x" / "new").mkdir()
    (tmp_path / "runs" / "x" / "new" / "file").write_text("mine")
    with pytest.raises(ConfigError, match="holds something that this sweep did not make"):
        go((BASE, DPO, {"name": "new", "method": "pretrain"}))


def test_a_sweep_has_one_process(go: Go):
    def again(sweep: Sweep) -> None:
        assert read_sweep("runs/x").live
        with pytest.raises(RunError, match="is being written by another process"):
            run_sweep({"out": "runs/x", "train": [BASE]}, serial=True)

    go(tick=again)
    assert not read_sweep("runs/x").live

    def fail(sweep: Sweep) -> None:
        raise ConfigError("No machine has as many CPUs.")

    with pytest.raises(ConfigError, match="No machine has"):  # its lock is given back
        go((*(BASE, DPO), {"name": "more", "method": "pretrain"}), tick=fail)
    assert not read_sweep("runs/x").live


def test_its_folder_is_one_of_runs(go: Go, tmp_path: Path):
    go()
    assert tmp_path / "runs" / "x" in roots()
    assert open_run("dpo-seed1").name == "dpo-seed1"
    assert find_sweeps([tmp_path / "runs"]) == [tmp_path / "runs" / "x"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "runs" / "x")
    assert find_sweeps([tmp_path / "other"]) == []


def test_a_journal_from_anywhere_leads_nowhere(go: Go):
    go()
    file = Path("runs/x/.sweep") / JOURNAL
    task = {"name": "a", "kind": "train"}
    rows = [
        {"event": "begin", "tasks": [{**task, "name": name} for name in ("../../up", "a/b", "", 3)]},
        {"event": "begin"},
    ]
    rows += [{"event": "begin", "tasks": [7, {**task, "kind": "x"}, {**task, "needs": 3, "command": {}, "recipe": []}]}]
    rows += [
        {"event": "start", "task": "a", "time": "x"},
        {"event": "end", "task": "a", "state": "<b>"},
        {"event": "end"},
    ]
    file.write_text("\n".join(["torn {", *map(json.dumps, rows)]))
    sweep = read_sweep("runs/x")
    assert list(sweep.tasks) == ["a"]
    assert sweep.tasks["a"].state == "interrupted"  # no process is at work
    assert sweep.progress("a") is None
    assert sweep.log("../../../etc/passwd") == []
    assert len(sweep.results()) == 0


def test_ray_is_used_where_it_is_or_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.setattr(schedule, "find_spec", lambda name: None)
    assert isinstance(schedule.make_engine(None, None, False), Serial)
    assert isinstance(schedule.make_engine(None, None, True), Serial)
    with pytest.raises(MissingToolError, match=r"need Ray: `pip install 'probe-lm\[sweep\]'`"):
        schedule.make_engine("auto", None, False)
    with pytest.raises(ConfigError, match="leave out `address` and `cpus`"):
        run_sweep({"out": "x", "train": [BASE]}, address="auto", serial=True)


def an_order(folder: Path, kind: Any, *words: str) -> Order:
    task = Task("a", "a", kind, Path("a"), words, {})
    return Order(task, 3, Path(".sweep"), folder, dict(os.environ))


def outcome(attempt: Attempt) -> Ended:
    while (ended := attempt.poll()) is None:
        time.sleep(0.01)
    return ended


def test_an_attempt_is_a_process_with_a_log(tmp_path: Path):
    ended = outcome(Attempt(an_order(tmp_path, "experiment", "--version")))
    assert ended.state == "finished"
    assert (tmp_path / ".sweep/logs/a.json").read_text().startswith("probe ")
    assert (tmp_path / ".sweep/logs/a.log").read_text().startswith("# attempt 3 on ")
    ended = outcome(Attempt(an_order(tmp_path, "train", "train", "dppo")))
    assert ended.state == "failed"
    assert ended.message.startswith("`probe train` has no `dppo`")


def test_a_process_ends_with_its_starter(tmp_path: Path):
    """A training must not go on unseen when its worker was killed."""
    child = "import sys, time, probe.cli as cli; cli.end_with_parent(); open(sys.argv[1], 'w').close(); time.sleep(99)"
    starter = f"""if True:
        import os, subprocess, sys, time
        os.environ["PROBE_PARENT"] = str(os.getpid())
        child = subprocess.Popen([sys.executable, "-c", {child!r}, sys.argv[1]])
        while not os.path.exists(sys.argv[1]):
            time.sleep(0.01)
        print(child.pid, flush=True)
        time.sleep(99)
        """
    parent = subprocess.Popen([sys.executable, "-c", starter, str(tmp_path / "up")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    end = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie, which nobody may be there to collect."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return found not in ("", "Z")


def test_the_command_lists_tasks_and_says_what_failed(go: Go, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "s.toml"
    file.write_text(TWO)
    assert command.sweep([str(file), "--check"]) == 0
    assert "b\tbase\tprobe train sft --out=runs/x/b --base=runs/x/base" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    go_with = AtOnce({"base": ["failed"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "make_engine", lambda *given: go_with)
        assert command.sweep([str(file)]) == 1
        output = capsys.readouterr()
        assert "probe: base failed: because" in output.err
        assert "probe: b skipped: It needs `base`" in output.err
        assert "base\tfailed\t3\t3\t" in output.out
        assert command.sweep([str(file), "--json"]) == 0
    assert [row["state"] for row in json.loads(capsys.readouterr().out)] == ["finished", "finished"]
    with pytest.raises(ConfigError, match="leave --cpus and --address out"):
        command.sweep([str(file), "--serial", "--cpus", "2"])


def test_an_attempt_hands_its_run_to_the_store(tmp_path: Path):
    """What it reads is brought, its run is taken over and watched; one that a newer attempt has taken over ends."""
    calls: list[object] = []

    class Copies:
        def __init__(self, taken: bool) -> None:
            self.taken = taken

        def bring(self, run: Path) -> None:
            calls.append(("bring", run.name))

        def newest(self, run: Path) -> int:
            return 0

        def watch(self, run: Path, number: int) -> "Copies":
            calls.append(("watch", run.name, number))
            return self

        def __enter__(self) -> None:
            calls.append("enter")

        def __exit__(self, *error: object) -> None:
            calls.append("exit")
            if not self.taken:
                raise RunError("The store is full.")

        def taken_over(self) -> bool:
            return self.taken

    def end(taken: bool) -> Ended:
        task = Task("b", "b", "train", Path("b"), ("train", "dppo"), {}, ("a",), (Path("a"),))
        return outcome(Attempt(Order(task, 2, Path(".sweep"), tmp_path, dict(os.environ), Copies(taken), 7)))

    assert end(False).message == "The store is full."
    assert end(True).state == "lost"
    assert calls == 2 * [("bring", "a"), ("watch", "b", 7), "enter", "exit"]
