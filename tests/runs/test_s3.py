"""Stores on S3, spoken to over the network that it has: a server of moto on this machine."""

from pathlib import Path

import pytest

from probe.errors import RunError
from probe.runs import Run, RunWriter, list_runs
from probe.runs.store.objects import Folder
from probe.runs.store.remote import Fenced, claim, download, upload
from probe.runs.store.uploads import Uploads
from tests.runs.conftest import Make
from tests.runs.stores import start, step, tree

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bucket")]
STORE = "s3://bucket/runs"


def test_sent_fenced_fetched_and_listed(make: Make, tmp_path: Path) -> None:
    writer = start(make("run"))
    address = f"{STORE}/run"
    assert claim(address, 1) is False
    with Uploads(writer.path, address, 1):
        step(writer, 2)
        (writer.path / "results" / "empty").mkdir(parents=True)
        (writer.path / "results" / "empty" / "note.txt").write_text("")
        with writer.checkpoint(3) as folder:
            (folder / "model.safetensors").write_bytes(bytes(60 * 2**20))
        writer.finish()
    assert upload(writer.path, address).files == 0
    assert claim(address, 2) is True
    for late in (lambda: upload(writer.path, address, 1), lambda: claim(address, 2)):
        with pytest.raises(Fenced):
            late()
    made = Run(download(address, tmp_path / "copy"))
    assert tree(made.path) == tree(writer.path)
    (run,) = list_runs(STORE)
    assert (run.name, run.status, len(run.checkpoints())) == ("run", "finished", 3)
    assert run.captures().load(2)["entropy"].tolist() == [[2.0, 2.0]]
    assert len(Folder(address).names("files/run.json")) == 1


def test_two_that_claim_one_number(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store itself refuses the second one, which saw nothing of the first."""
    monkeypatch.setattr("probe.runs.store.remote.newest_attempt", lambda _: 0)
    monkeypatch.setattr("probe.runs.store.remote._check_free", lambda _: None)
    claim(f"{STORE}/run", 1)
    with pytest.raises(Fenced):
        claim(f"{STORE}/run", 1)


def test_errors_are_sentences(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    writer: RunWriter = start(make("run"))
    with pytest.raises(RunError, match="names a bucket that does not exist: make it"):
        upload(writer.path, "s3://nobody/run")
    with pytest.raises(RunError, match="names a bucket that does not exist: make it"):
        list_runs("s3://nobody/runs")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RunError, match=r"asks for credentials .*: set AWS_ACCESS_KEY_ID"):
        upload(writer.path, f"{STORE}/run")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RunError, match=r"cannot be reached .*: check the address and the network"):
        upload(writer.path, f"{STORE}/run")
