"""Runs in a store: complete versions, sent once, fenced by the number of the attempt; damaged stores are refused."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from probe.errors import ConfigError, MissingToolError, RunError
from probe.runs import Run, RunWriter
from probe.runs.store.objects import Folder
from probe.runs.store.remote import Fenced, claim, download, upload
from tests.runs.conftest import Make
from tests.runs.stores import manifest, start, step, tree


@pytest.fixture
def writer(make: Make) -> RunWriter:
    return start(make("run"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store that is a folder; its address is `url(store)`."""
    return tmp_path / "store" / "run"


def url(store: Path) -> str:
    return f"file://{store}"


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_run_comes_back_as_it_was_and_nothing_is_sent_twice(
    kind: str, writer: RunWriter, store: Path, tmp_path: Path
) -> None:
    address = url(store) if kind == "file" else f"memory:/{store}"
    (writer.path / ".run.json.1.tmp").write_text("half")
    (writer.path / "checkpoints" / ".00000002.7.tmp").mkdir()
    (writer.path / "checkpoints" / ".00000002.7.tmp" / "model.safetensors").write_text("half")
    (writer.path / "checkpoints" / "00000009.dropped").mkdir()
    (writer.path / "checkpoints" / "00000009.dropped" / "model.safetensors").write_text("given up")
    assert upload(writer.path, address).files == 8
    assert upload(writer.path, address).files == 0
    writer.log(2, {"loss": 0.5})
    assert upload(writer.path, address).files == 1
    step(writer, 3)
    writer.finish()
    assert upload(writer.path, address).files == 4 + 3
    assert len(Folder(address).names("files/metrics.jsonl")) == 1
    shutil.rmtree(writer.path / "checkpoints" / "00000009.dropped")
    made = download(address, tmp_path / "copies" / "run")
    assert tree(made) == tree(writer.path)
    assert Run(made).status == "finished"
    assert [path.name for path in made.parent.iterdir()] == ["run"]


def test_a_copy_of_a_running_run_can_be_resumed_at_once(writer: RunWriter, store: Path, tmp_path: Path) -> None:
    upload(writer.path, url(store))
    made = Run(download(url(store), tmp_path / "copy"))
    assert (Run(writer.path).status, made.status) == ("running", "killed")
    with RunWriter.resume(made.path, 1) as resumed:
        step(resumed, 2)
    assert [checkpoint.step for checkpoint in made.checkpoints()] == [1, 2]


def test_what_a_lower_attempt_does_after_a_claim_is_not_seen(writer: RunWriter, store: Path, tmp_path: Path) -> None:
    assert claim(url(store), 1) is False
    upload(writer.path, url(store), 1)
    assert claim(url(store), 2) is True
    before = tree(download(url(store), tmp_path / "before"))
    step(writer, 2)
    with pytest.raises(Fenced, match=r"^Attempt 1 may not write .* attempt 2 has claimed: stop this one.*\.$"):
        upload(writer.path, url(store), 1)
    for number in (1, 2):
        with pytest.raises(Fenced):
            claim(url(store), number)
    assert tree(download(url(store), tmp_path / "after")) == before
    assert upload(writer.path, url(store), 2).files == 7
    assert claim(url(store), 5) is True


def test_an_upload_that_began_before_the_claim_is_fenced(
    writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(writer.path, url(store), 1)
    step(writer, 2)
    send, claims, one = Folder.send, [], Lock()

    def late(folder: Folder, name: str, file: Path) -> None:
        with one:  # files are sent side by side
            if not claims:
                claims.append(claim(url(store), 2))
        send(folder, name, file)

    monkeypatch.setattr(Folder, "send", late)
    with pytest.raises(Fenced):
        upload(writer.path, url(store), 1)
    assert claims == [True]
    assert [each.step for each in Run(download(url(store), tmp_path / "copy")).checkpoints()] == [1]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_claim_in_the_middle_of_an_upload_loses_no_object(
    moment: str, writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lower attempt publishes, and deletes what it no longer needs, right before or after the claim's write."""
    upload(writer.path, url(store), 1)
    step(writer, 2)
    create = Folder.create

    def interrupted(folder: Folder, name: str, data: bytes) -> bool:
        if moment == "before":
            upload(writer.path, url(store), 1)
        made = create(folder, name, data)
        if moment == "after":
            with pytest.raises(Fenced):
                upload(writer.path, url(store), 1)
        return made

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", interrupted)
        assert claim(url(store), 2)
    assert claim(url(store), 3)
    made = Run(download(url(store), tmp_path / "copy"))
    steps = [1, 2] if moment == "before" else [1]
    assert [each.step for each in made.checkpoints()] == made.metrics()["step"].to_list() == steps


def test_a_checkpoint_that_is_replaced_while_it_is_sent_is_whole(
    writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, replaced = Folder.send, []

    def late(folder: Folder, name: str, file: Path) -> None:
        send(folder, name, file)
        if "trainer.json" in name and not replaced:
            replaced.append(name)
            with writer.checkpoint(1) as saved:
                (saved / "model.safetensors").write_bytes(b"new")
                (saved / "trainer.json").write_bytes(b"{}")

    monkeypatch.setattr(Folder, "send", late)
    upload(writer.path, url(store))
    made = download(url(store), tmp_path / "copy")
    assert replaced
    assert tree(made / "checkpoints") == tree(writer.path / "checkpoints")


def test_a_version_that_is_replaced_while_it_is_fetched(
    writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(writer.path, url(store))
    read, again = Folder.read, []

    def late(folder: Folder, name: str, start: int, end: int) -> bytes:
        if "run.json" in name and not again:
            again.append(name)
            step(writer, 2)
            upload(writer.path, url(store))
        return read(folder, name, start, end)

    monkeypatch.setattr(Folder, "read", late)
    made = Run(download(url(store), tmp_path / "copy"))
    assert [each.step for each in made.checkpoints()] == made.metrics()["step"].to_list() == [1, 2]


def test_refused_in_a_sentence(make: Make, writer: RunWriter, store: Path, tmp_path: Path) -> None:
    upload(writer.path, url(store))
    other = start(make("other", method="dpo"))
    created = json.loads((other.path / "run.json").read_text()) | {"created": "2020-01-01T00:00:00+00:00"}
    (other.path / "run.json").write_text(json.dumps(created))
    refusals: list[tuple[Callable[[], Any], str]] = [
        (lambda: upload(other.path, url(store)), "holds another run"),
        (lambda: upload(other.path, url(store.parent)), "give the address of the run itself"),
        (lambda: upload(tmp_path / "none", url(store)), "has no run.json"),
        (lambda: upload(writer.path, url(store), 0), "numbered from 1"),
        (lambda: download(url(store / "none"), tmp_path / "x"), "holds no run"),
        (lambda: download(url(store), writer.path), "holds something already"),
    ]
    for call, words in refusals:
        with pytest.raises(RunError, match=rf"{words}.*\.$"):
            call()
    with pytest.raises(ConfigError, match="not the address of a store"):
        claim("unheard://of", 1)
    (writer.path / "results").mkdir()
    (writer.path / "results" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="is a link"):
        upload(writer.path, url(store))
    assert not (tmp_path / "x").exists()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingToolError, match=r"pip install 'probe-lm\[store\]'"):
        claim("s3a://bucket/run", 1)  # no other test loads this one


LEADS_OUT = [
    "../x",
    "a/../../x",
    "/etc/x",
    "..\\x",
    "C:x",
    ".lock",
    "a/.hid",
    "a//b",
    "",
    "a\0b",
    "a\nb",
    "x" * 2000,
    7,
]


def test_a_strangers_manifest_is_refused(writer: RunWriter, store: Path, tmp_path: Path) -> None:
    upload(writer.path, url(store))
    file, content = manifest(store)
    first, *rest = content["files"]
    rows: list[Any] = [first | {"name": name} for name in [*LEADS_OUT, "metrics.jsonl/x", rest[0]["name"]]]
    rows += [first | {"bytes": size} for size in (-1, 10**18, True, "1")]
    rows += [first | {"sha256": "../../x"}, first | {"attempt": "1"}, first | {"more": 1}, {}, 5, None]
    texts = [json.dumps(content | {"files": [row, *rest]}) for row in rows]
    texts += ["", "{", "[]", "null", '{"schema": 1, "attempt": 1, "created": 3, "files": []}', "[" * 100_000]
    for text in texts:
        file.write_text(text)
        with pytest.raises(RunError, match=r"is damaged \(.*: upload the run again\.$"):
            download(url(store), tmp_path / "copy")
    file.write_text('{"schema": 2}')
    with pytest.raises(RunError, match="reads up to 1"):
        download(url(store), tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "store"]


def test_a_claim_that_cannot_be_written_whole_is_not_there(
    writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a manifest under the highest number would hide what the store holds."""
    upload(writer.path, url(store))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            claim(url(store), 2)
    assert [path.name for path in (store / "attempts").iterdir()] == ["00000001.json"]
    assert claim(url(store), 2)
    with pytest.raises(Fenced):
        claim(url(store), 2)
    assert tree(download(url(store), tmp_path / "copy") / "checkpoints") == tree(writer.path / "checkpoints")


def test_damaged_objects_and_a_full_disk(
    writer: RunWriter, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(writer.path, url(store))
    (held,) = (store / "files/checkpoints/00000001/model.safetensors").iterdir()
    data = held.read_bytes()
    for wrong in (data[:-1], b"x" + data[1:]):
        held.write_bytes(wrong)
        with pytest.raises(RunError, match=r"model.safetensors` of .* is damaged"):
            download(url(store), tmp_path / "copy")
    held.write_bytes(data + b"what follows is not read")
    download(url(store), tmp_path / "copy")
    held.unlink()
    with pytest.raises(RunError, match="lacks files"):
        download(url(store), tmp_path / "again")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2**30 + 10})())
    with pytest.raises(RunError, match="1 GiB stays free: make room"):
        download(url(store), tmp_path / "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run", "store"]
