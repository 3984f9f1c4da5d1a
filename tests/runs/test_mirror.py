"""Runs of a store on this machine: listed from manifests, fetched when they are opened, shown when nothing answers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dashboard import data
from dashboard.consent import may_look_up
from probe import cli
from probe.errors import ModelError, RunError
from probe.model.adapters import base_of
from probe.model.references import bytes_to_fetch, place, resolve
from probe.runs import RunWarning, RunWriter, list_runs, open_run, roots
from probe.runs.addresses import cache_root, is_cached
from probe.runs.directories import find, present, run_homes, shown_name
from probe.runs.store import mirror
from probe.runs.store.objects import Folder
from probe.runs.store.remote import claim, upload
from tests.runs.conftest import HEADLINE, Make
from tests.runs.stores import manifest, start, step, tree


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, in which nothing counts as new."""
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    for name in ("FRESH_S", "ENDED_S"):
        monkeypatch.setattr(mirror, name, 0.0)
    mirror.mirror.cache_clear()
    yield tmp_path / "cache"
    mirror.mirror.cache_clear()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of runs in a store, which is one of the folders of runs."""
    address = f"file://{tmp_path}/store"
    monkeypatch.setenv("PROBE_RUNS", os.pathsep.join([address, str(tmp_path / "here")]))
    (tmp_path / "here").mkdir()
    return address


@pytest.fixture
def writer(make: Make, store: str) -> RunWriter:
    """A run that is being written, and is in the store."""
    made = start(make("run"))
    upload(made.path, f"{store}/run")
    return made


def fail(folder: Folder, *_: object) -> None:
    with folder.contact():
        raise ConnectionError("no route to host")


def test_listed_at_once_and_fetched_when_opened(writer: RunWriter, store: str, cache: Path) -> None:
    (run,) = list_runs()
    assert run.path.is_relative_to(cache)
    assert (run.name, run.status, run.steps) == ("run", "running", 1)
    assert run.metrics()["loss"].to_list() == [1.0]
    (checkpoint,) = run.checkpoints()
    bulky = [run.path / "captures" / "00000001.safetensors", *sorted(checkpoint.path.iterdir())]
    assert {file.stat().st_size for file in bulky} == {0}
    assert run.captures().load(1)["entropy"].tolist() == [[1.0, 1.0]]
    assert [file.stat().st_size > 0 for file in bulky] == [True, False, False, False]
    assert bytes_to_fetch("run@1") == sum(
        file.stat().st_size for file in (writer.path / "checkpoints/00000001").iterdir()
    )
    with pytest.raises(ModelError, match=r"has no config\.json"):  # fetched, and found to be none
        resolve(f"{store}/run@1")
    assert bytes_to_fetch("run@1") == 0
    assert tree(run.path) == tree(writer.path)
    assert find("run") == find(f"{store}/run") == run.path
    assert shown_name(run.path) == f"{store}/run"
    assert run_homes(run.path)[0] == Path("results/run")


def test_an_address_is_enough(writer: RunWriter, store: str) -> None:
    """Nothing of the folder has been listed before."""
    assert open_run(f"{store}/run").captures().load(1)["entropy"].tolist() == [[1.0, 1.0]]


def test_a_checkpoint_that_is_gone_is_not_shown_as_another(writer: RunWriter, store: str) -> None:
    (run,) = list_runs()
    with writer.checkpoint(1) as folder:
        (folder / "config.json").write_text("{}")
    upload(writer.path, f"{store}/run")
    with pytest.raises(RunError, match=r"has no `checkpoints/00000001/model.safetensors` any more"):
        present(run.path / "checkpoints" / "00000001" / "model.safetensors")
    assert {file.name for file in (run.path / "checkpoints" / "00000001").iterdir()} == {"config.json", "SHA256SUMS"}


def test_a_run_that_goes_on_is_read_anew(writer: RunWriter, store: str) -> None:
    (run,) = list_runs(store)
    run.captures().load(1)
    step(writer, 2)
    writer.finish(headline=HEADLINE)
    upload(writer.path, f"{store}/run")
    assert roots()[0] == run.path.parent
    assert (run.refresh().status, len(run.headline), len(run.metrics())) == ("finished", 1, 2)
    assert [each.step for each in run.checkpoints()] == [1, 2]
    assert run.captures().load(2)["entropy"].tolist() == [[2.0, 2.0]]
    claim(f"{store}/next", 1)
    with RunWriter.resume(writer.path, 1) as resumed:
        resumed.log(2, {"loss": 0.0})
    upload(writer.path, f"{store}/run")
    (run,) = list_runs(store)
    assert [each.step for each in run.checkpoints()] == [1]
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["00000001"]


def test_offline_the_cache_is_shown_with_a_sentence(
    writer: RunWriter, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    list_runs()
    monkeypatch.setattr(Folder, "names", fail)
    said = r"^What was fetched 0 min ago is shown, since .* reached \(no route to host\)"
    with pytest.warns(RunWarning, match=said):
        (run,) = list_runs()
    with pytest.warns(RunWarning, match="is shown, since"):
        assert open_run(f"{store}/run").path == run.path
    assert list(data.read_store().problems) == [store]
    assert cli.main(["runs", "list"]) == 0
    shown = capsys.readouterr()
    assert "run\tpretrain" in shown.out
    assert "What was fetched 0 min ago is shown, since" in shown.err
    monkeypatch.setattr(Folder, "read", fail)
    with pytest.raises(RunError, match="cannot be reached"):
        run.captures().load(1)


def test_a_store_that_was_never_read_is_an_error(
    store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Folder, "names", fail)
    with pytest.raises(RunError, match="no route to host"):
        list_runs(store)
    with pytest.raises(RunError, match="no route to host"):
        open_run(f"{store}/run")
    assert list(data.read_store().problems) == [store]
    assert cli.main(["dashboard", "--runs", store, "--no-browser"]) == 2
    assert "no route to host" in capsys.readouterr().err


def test_slow_answers_are_not_waited_for(writer: RunWriter, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    list_runs()
    release = Event()
    monkeypatch.setattr(Folder, "names", lambda *_: release.wait(20) and [])
    monkeypatch.setattr(mirror, "PATIENCE_S", 0.01)
    with pytest.warns(RunWarning, match="has not answered within"):
        assert len(list_runs()) == 1
    release.set()


def test_a_strangers_names_stay_in_the_cache(
    writer: RunWriter, store: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "store" / "run"
    file, content = manifest(folder)
    content["files"][0]["name"] = "../../out"
    file.write_text(json.dumps(content))
    (tmp_path / "store" / "..x").mkdir()
    assert data.read_store().runs == {}
    assert list(data.read_store().problems) == [f"{store}/run"]
    assert not list(cache.rglob("out"))
    for name in ("..", ".", "a\\b", "*"):
        with pytest.raises(RunError, match="is not the address of a run"):
            find(f"{store}/{name}")
    assert not is_cached(tmp_path)
    assert cache_root() == cache


def test_a_link_asks_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a link or a file names is looked up only where a person said so."""
    monkeypatch.setattr(Folder, "__init__", lambda *_: pytest.fail("a store was opened"))
    assert is_cached(place("s3://elsewhere/runs/x@3"))
    assert not may_look_up("s3://elsewhere/runs/x")
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "s3://elsewhere/runs/x"}'
    )
    with pytest.raises(ModelError, match="is not fetched from a store"):
        base_of(tmp_path)


def test_commands(writer: RunWriter, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step(writer, 2)
    assert cli.main(["runs", "upload", str(writer.path), f"{store}/run"]) == 0
    assert "Sent 7 files (0.0 MB)" in capsys.readouterr().out
    assert cli.main(["runs", "download", f"{store}/run", str(tmp_path / "copy")]) == 0
    assert "pretrain, killed, 2 steps" in capsys.readouterr().out
    assert cli.main(["runs", "list", "--root", store]) == 0
    assert "run\tpretrain\t\trunning\t2" in capsys.readouterr().out
    assert cli.main(["runs", "show", f"{store}/none"]) == 2
    assert "holds no run" in capsys.readouterr().err
