"""Sweeps of real trainings, each a process: on two nodes of Ray of which one is killed; stopped and resumed on S3."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from probe.runs import open_run
from probe.runs.store.remote import download
from probe.sweep import Sweep, run_sweep, schedule
from tests.places import ROOT
from tests.sweep.inside import Inside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OFF = dict.fromkeys(("evaluate", "capture_every", "eval_every"), 0)
OPTIONS = {"batch_size": 8, "length": 32, "save_every": 10, "log_every": 1, "threads": 1, "device": "cpu", **OFF}


def spec(out: Path, steps: int) -> dict[str, Any]:
    entry = {"name": "base", "method": "pretrain", "seeds": [0, 1], "options": {"steps": steps, **OPTIONS}}
    return {"out": str(out), "train": [entry]}


def losses(out: Path) -> dict[str, list[float]]:
    """The loss of every step, to the bit."""
    return {path.name: list(open_run(path).metrics()["loss"]) for path in sorted(out.glob("base-*"))}


def test_a_node_is_killed_and_the_numbers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = [sys.executable, "-m", "tests.sweep.two_nodes", json.dumps(spec(tmp_path / "ray", 150))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert {state for state, *_ in facts["tasks"].values()} == {"finished"}
    (_, first, _, ended), (_, second, started, _) = sorted(facts["tasks"].values(), key=lambda task: task[1])
    assert (first, second) == (1, 2)  # one was lost in the middle
    assert started > ended - 0.1  # the node that is left has one CPU; clocks of two processes, rounded
    assert "takes up 9 CPUs, and no machine has more than 1" in facts["refused"]
    assert max(facts["made"].values()) < 150
    assert set(facts["listening"]) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    again = next(name for name, (_, attempt, *_) in facts["tasks"].items() if attempt == 2)
    assert open_run(tmp_path / "ray" / again).meta["attempt"] == 2
    monkeypatch.setattr(schedule, "make_engine", Inside)
    assert run_sweep(spec(tmp_path / "serial", 150)).finished
    assert losses(tmp_path / "ray") == losses(tmp_path / "serial")
    assert [len(values) for values in losses(tmp_path / "ray").values()] == [150, 150]


@pytest.mark.usefixtures("bucket")
def test_a_stopped_sweep_goes_on_and_asks_what_it_trained(tmp_path: Path):
    tables = spec(tmp_path / "stopped", 40) | {"store": "s3://bucket/stopped"}
    tables["train"][0]["seeds"] = [0]
    tables["experiment"] = [{"name": "sycophancy", "of": ["base"], "options": {"n": 4, "interventions": 0}}]
    asked: list[bool] = []

    def tick(sweep: Sweep) -> None:
        progress = sweep.progress("base-seed0")
        if progress is not None and progress[0] >= 5:
            asked.append(True)

    sweep = run_sweep(tables, serial=True, stop=lambda: bool(asked), tick=tick)
    assert [task.state for task in sweep.tasks.values()] == ["interrupted", "waiting"]
    assert open_run(tmp_path / "stopped" / "base-seed0").status == "interrupted"
    sweep = run_sweep(tables, serial=True)
    assert sweep.finished
    assert sweep.tasks["base-seed0"].attempt == 2
    assert open_run(tmp_path / "stopped" / "base-seed0").steps == 40
    assert "deferral" in set(sweep.results()["metric"])
    copy = open_run(download("s3://bucket/stopped/base-seed0", tmp_path / "copy"))
    assert list(copy.metrics()["loss"]) == list(open_run(tmp_path / "stopped" / "base-seed0").metrics()["loss"])
    assert any(name.startswith("sycophancy") for name in copy.results())
