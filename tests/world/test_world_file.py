"""A copy of a model's folder belongs to the world of the model."""

import json
import shutil
from pathlib import Path

import pytest

import probe.world
from probe import LM
from probe.cli import main
from probe.errors import ConfigError, DataError
from probe.runs import RunWriter
from probe.runs.checksums import find_damage
from probe.runs.world_file import MOST_BYTES, WORLD_FILE
from probe.world import World
from tests.models import random_lm
from tests.places import SAMPLES


def test_a_copy_of_a_checkpoint_keeps_its_world(tmp_path: Path) -> None:
    world = World(seed=3)
    with RunWriter.create(tmp_path / "run", method="mine", config={}, world=world.to_dict()) as writer:
        with writer.checkpoint(1) as directory:
            random_lm().save(directory)
        writer.finish()
    shutil.copytree(tmp_path / "run" / "checkpoints" / "00000001", tmp_path / "copy")
    copy = LM.load(tmp_path / "copy")
    assert copy.run_dir is None
    found = probe.world.of(copy)
    assert found is not None
    assert found.hash == world.hash
    again = probe.world.of(LM.load(copy.save(tmp_path / "again")))
    assert again is not None
    assert again.hash == world.hash


def test_a_model_of_a_run_is_saved_with_its_world(tmp_path: Path) -> None:
    lm = LM.load(SAMPLES / "base")
    world, found = probe.world.of(lm), probe.world.of(LM.load(lm.save(tmp_path / "copy")))
    assert world is not None
    assert found is not None
    assert found.hash == world.hash


def test_a_checkpoint_of_a_run_without_a_world_has_none(tmp_path: Path) -> None:
    lm = LM.load(SAMPLES / "base")
    with RunWriter.create(tmp_path / "run", method="mine", config={}) as writer:
        with writer.checkpoint(1) as directory:
            lm.save(directory)
        writer.finish()
    assert probe.world.of(LM.load(tmp_path / "run")) is None
    shutil.copytree(tmp_path / "run" / "checkpoints" / "00000001", tmp_path / "copy")
    assert probe.world.of(LM.load(tmp_path / "copy")) is None
    assert find_damage(tmp_path / "copy") is None


def test_a_model_whose_run_is_gone_is_saved_all_the_same(tmp_path: Path) -> None:
    lm = random_lm()
    lm.run_dir = tmp_path / "gone"
    assert not (lm.save(tmp_path / "copy") / WORLD_FILE).exists()


@pytest.mark.parametrize("content", ["{", "[1]", '"x"', '{"format": 1}', '{"format": 99}', " " * (MOST_BYTES + 1)])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    folder = random_lm().save(tmp_path / "model")
    (folder / WORLD_FILE).write_text(content)
    with pytest.raises(DataError):
        probe.world.of(LM.load(folder))


def test_a_world_beyond_all_bounds_is_refused(tmp_path: Path) -> None:
    folder = random_lm().save(tmp_path / "model")
    world = World().to_dict()
    (folder / WORLD_FILE).write_text(json.dumps(world | {"config": world["config"] | {"known": 10**9}}))
    with pytest.raises(ConfigError):
        probe.world.of(LM.load(folder))


@pytest.mark.slow
def test_commands_take_the_world_of_a_copy_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "dpo-agreeable"):
        shutil.copytree(next((SAMPLES / name / "checkpoints").iterdir()), tmp_path / "copies" / name)
    pair = ["./copies/base", "./copies/dpo-agreeable"]
    run, copy = str(SAMPLES / "base"), ["experiment", "retrieval", "--model", pair[0], "--n", "4", "--json"]
    assert main(["experiment", "retrieval", "--model", run, "--n", "4", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert main([*copy, "--world", run]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"] == expected["summary"]
    assert found["meta"]["world"] == expected["meta"]["world"]
    assert main(["audit", *pair, "--world", run, "--only", "sycophancy", "--n", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["meta"]["sets"] == ["world"]
    assert main(["audit", *pair, "--world", str(tmp_path / "copies"), "--n", "6"]) == 2
    assert main([*copy[:3], run, "--n", "4", "--world", run]) == 2
    assert "belongs to a world already" in capsys.readouterr().err
    (tmp_path / "world.json").write_text(json.dumps(json.loads((SAMPLES / "base" / "run.json").read_text())["world"]))
    assert main([*copy, "--world", "world.json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == expected["summary"]
