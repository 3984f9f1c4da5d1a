"""Uploads while a run is written: at each checkpoint, tried again, and never in the way of the training."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from probe.errors import RunError
from probe.runs import Run, RunWriter
from probe.runs.store import uploads
from probe.runs.store.objects import Folder
from probe.runs.store.remote import Fenced, claim, download
from probe.runs.store.uploads import Uploads
from tests.runs.conftest import Make
from tests.runs.stores import start, step


@pytest.fixture
def writer(make: Make, monkeypatch: pytest.MonkeyPatch) -> RunWriter:
    monkeypatch.setattr(uploads, "LOOK_S", 0.01)
    return start(make("run"))


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"memory:/{tmp_path}/run"


def until(condition: Callable[[], bool]) -> None:
    """Wait for another thread, some seconds at most."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def steps(address: str) -> list[int]:
    """The checkpoints in the store."""
    return [int(name) for name in Folder(address).names("files/checkpoints")]


def test_uploaded_at_each_checkpoint_and_as_it_ended(writer: RunWriter, address: str, tmp_path: Path) -> None:
    with Uploads(writer.path, address) as watched:
        until(lambda: steps(address) == [1])
        step(writer, 2)
        until(lambda: steps(address) == [1, 2])
        writer.log(3, {"loss": 0.1})
        writer.finish()
    assert watched.problem is None
    made = Run(download(address, tmp_path / "copy"))
    assert (made.status, made.steps) == ("finished", 3)


def test_a_run_without_a_new_checkpoint_is_uploaded_now_and_then(writer: RunWriter, address: str) -> None:
    with Uploads(writer.path, address, every=0.02):
        until(lambda: steps(address) == [1])
        old = Folder(address).names("files/metrics.jsonl")
        writer.log(2, {"loss": 0.1})
        until(lambda: Folder(address).names("files/metrics.jsonl") != old)


def test_a_network_that_fails_is_told_of_and_tried_again(
    writer: RunWriter, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    write = Folder.write

    def fail(folder: Folder, *_: object) -> None:
        with folder.contact():
            raise ConnectionError("no route to host")

    monkeypatch.setattr(Folder, "write", fail)
    with Uploads(writer.path, address, tell=told.append) as watched:
        until(lambda: watched.problem is not None)
        monkeypatch.setattr(Folder, "write", write)
        until(lambda: watched.problem is None)
    assert [text.split(" ", 1)[1] for text in told] == [
        "cannot be reached (no route to host): check the address and the network, and try again.",
        f"is uploaded to `{address}` again.",
    ]
    monkeypatch.setattr(Folder, "write", fail)
    writer.log(2, {"loss": 0.1})
    with pytest.raises(RunError, match="no route to host"), Uploads(writer.path, address, patience=0, tell=told.append):
        pass
    with pytest.raises(ZeroDivisionError), Uploads(writer.path, address, patience=0, tell=told.append):
        _ = 1 / 0


def test_a_fenced_run_is_left_alone(writer: RunWriter, address: str) -> None:
    claim(address, 1)
    watched = Uploads(writer.path, address, 1, tell=lambda _: None)
    watched.__enter__()
    until(lambda: steps(address) == [1])
    claim(address, 2)
    step(writer, 2)
    until(lambda: isinstance(watched.problem, Fenced))
    with pytest.raises(Fenced):
        watched.__exit__(None, None, None)


def test_a_run_that_never_began(tmp_path: Path, address: str) -> None:
    with Uploads(tmp_path / "none", address):
        pass
    assert Folder(address).names() == []
