"""Runs of a sweep on two machines without a shared disk, which a store joins."""

from pathlib import Path

import pytest

from probe.errors import ConfigError
from probe.runs import RunWriter, open_run
from probe.runs.store.remote import Fenced
from probe.sweep import run_sweep
from probe.sweep.copies import InStore


def train(run: Path, *steps: int, finish: str = "interrupted") -> None:
    """Train a run by some steps, each with a checkpoint."""
    last = open_run(run).steps if run.exists() else 0
    writer = RunWriter.resume(run, last) if run.exists() else RunWriter.create(run, method="x", config={})
    for step in steps:
        writer.log(step, {"loss": 1.0 / step})
        with writer.checkpoint(step) as folder:
            (folder / "model").write_text(str(step))
    writer.finish(finish)


def test_a_run_goes_on_where_it_was_sent_from(tmp_path: Path):
    store = InStore(f"file://{tmp_path}/store")
    here, there = (tmp_path / name / "base" for name in ("here", "there"))
    first = store.watch(here, 1)
    with first:
        train(here, 1, 2)
    assert store.newest(here) == 1
    late = store.watch(here, 2)  # this attempt is lost: its machine goes on for a while
    with store.watch(there, 3):
        assert [each.step for each in open_run(there).checkpoints()] == [1, 2]
        with pytest.raises(Fenced), late:
            train(here, 3)
        assert late.taken_over()
        train(there, 4, finish="finished")
    assert [each.step for each in open_run(there).checkpoints()] == [1, 2, 4]
    with store.watch(here, 4):  # the copy here is older, whatever it made meanwhile
        assert [each.step for each in open_run(here).checkpoints()] == [1, 2, 4]
    inode = here.stat().st_ino
    with store.watch(here, 5):
        assert here.stat().st_ino == inode  # as new as that of the store: it is not fetched again
    other = tmp_path / "other" / "base"
    store.bring(other)
    assert list(open_run(other).metrics()["step"]) == [1, 2, 4]
    inode = other.stat().st_ino
    store.bring(other)
    assert other.stat().st_ino == inode


def test_a_run_of_another_sweep_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    store = InStore(f"file://{tmp_path}/store")
    with store.watch(tmp_path / "elsewhere" / "base", 1):
        train(tmp_path / "elsewhere" / "base", 1)
    spec = {"out": "runs/x", "store": store.url, "train": [{"name": "base", "method": "pretrain"}]}
    with pytest.raises(ConfigError, match="The store has a run `base` that this sweep did not make"):
        run_sweep(spec, serial=True)
    assert not (tmp_path / "runs").exists()
