"""Resuming: a training that was killed and goes on leaves the files of one that was not, but for the clock."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from probe import LM, open_run
from probe.errors import RunError
from probe.runs import RunWriter, thin
from probe.runs.checksums import find_damage, write_checksums
from probe.runs.schema import CHECKSUMS
from tests.trainers import children
from tests.trainers.quick import QUICK, train
from tests.trainers.written import contents, same, without_events
from trainers.config import TrainConfig

Make = Callable[..., TrainConfig]
EVERYTHING: dict[str, Any] = {"save_every": 3, "capture_every": 2, "eval_every": 2, "evaluate": 4}
"""Of four steps the first checkpoint is between the two updates on one batch of completions."""
ADAPTERS = [
    pytest.param((method, {"lora": 2}), id=f"{method}-lora", marks=pytest.mark.slow) for method in ("dpo", "rlhf")
]


@pytest.fixture(params=[*(pytest.param((method, {}), id=method) for method in QUICK), *ADAPTERS])
def make(request: pytest.FixtureRequest, configs: Callable[..., Make]) -> Make:
    """Configs of every method, of all weights and of adapters, that write everything that it can."""
    method, changes = request.param
    of = configs(method)
    return lambda name, **more: of(name, **EVERYTHING | changes | more)


def killed_in_checkpoint(config: TrainConfig, step: int) -> list[str]:
    """Kill a training that is writing the checkpoint of a step; gives the hidden names that it leaves there."""
    child = children.start(config, kill_at=step)
    child.join(120)
    assert child.exitcode == -9
    assert open_run(config.out).status == "killed"
    return [path.name for path in (config.out / "checkpoints").glob(".*")]


def test_killed_and_resumed_to_the_same_files(make: Make) -> None:
    """It goes on from its last checkpoint."""
    whole, late = make("whole"), make("late")
    train(whole)
    assert killed_in_checkpoint(late, 4)
    train(replace(late, resume=True))
    same(dict(without_events(whole.out)), dict(without_events(late.out)))


def test_killed_in_its_first_checkpoint_it_begins_anew(configs: Callable[..., Make]) -> None:
    """Byte by byte: the record removes what an attempt left, of any method, and this one leaves every kind of file."""
    whole, early = (configs("rlvr")(name, **EVERYTHING | {"capture_every": 1}) for name in ("whole", "early"))
    train(whole)
    assert killed_in_checkpoint(early, 3)
    assert (early.out / "metrics.jsonl").stat().st_size
    train(replace(early, resume=True))
    same(contents(whole.out), contents(early.out))


def test_killed_while_its_result_is_written_it_leaves_nothing(configs: Callable[..., Make]) -> None:
    config = configs("continual")("run", **EVERYTHING)
    killed_in_checkpoint(config, 4)
    half = config.out / "results" / "continual" / ".matrix.csv.77.tmp"
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_text("after,ta")
    train(replace(config, resume=True))
    assert (half.parent / "matrix.csv").exists()
    assert not half.exists()


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", [None, "bpe"])
def test_a_new_model_keeps_its_files(tokenizer: str | None, configs: Callable[..., Make], tmp_path: Path) -> None:
    """Its tokenizer is made in the first attempt and read in the second."""
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat, and the dog lay by the door. " * 200)
    few: dict[str, Any] = {"base": None, "batch_size": 2, "capture_every": 3, "eval_every": 3, "evaluate": 0}
    options = EVERYTHING | few | ({"data": str(text), "tokenizer": tokenizer} if tokenizer else {})
    whole, parts = (configs("pretrain")(name, **options) for name in ("whole", "parts"))
    train(whole)
    killed_in_checkpoint(parts, 4)
    train(replace(parts, resume=True))
    same(dict(without_events(whole.out)), dict(without_events(parts.out)))


def test_a_run_that_begins_anew_is_read_anew(tmp_path: Path) -> None:
    """By a reader that has read a part of it."""
    with RunWriter.create(tmp_path / "run", method="x", config={}) as writer:
        writer.log(0, {"loss": 1.0})
        writer.rollouts([{"step": 0, "prompt": "p", "completion": "first"}])
        with writer.checkpoint(0):
            pass
    reader = open_run(writer.path)
    assert list(reader.metrics()["loss"]) == [1.0]
    assert list(reader.rollouts()["completion"]) == ["first"]
    with RunWriter.resume(writer.path, None) as writer:
        assert writer.seconds < 1
        writer.log(0, {"loss": 2.0})
        writer.log(1, {"loss": 3.0})
        writer.rollouts([{"step": 0, "prompt": "p", "completion": f"second {i}"} for i in range(3)])
    assert list(reader.metrics()["loss"]) == [2.0, 3.0]
    assert list(reader.rollouts()["completion"]) == ["second 0", "second 1", "second 2"]
    assert reader.checkpoints() == []


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "run", method="x", config={}) as writer, writer.checkpoint(1):
        pass
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".00000009.1.tmp").write_text("not ours")
    folder = writer.path / "checkpoints"
    for name in (".00000002.77.tmp", "..00000002.77.tmp.0a1b2c3d", ".00000001.old", ".00000003.old"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(name)
    (writer.path / ".run.json.77.tmp").write_text("{")
    for name in (".notes.old", ".gitignore", ".draft.tmp"):
        (writer.path / name).write_text("mine")
    (writer.path / "captures").symlink_to(tmp_path / "elsewhere")
    RunWriter.resume(writer.path, 3).finish()
    assert sorted(path.name for path in folder.iterdir()) == ["00000001", "00000003"]
    assert (folder / "00000003" / "file").read_text() == ".00000003.old"
    hidden = sorted(path.name for path in writer.path.glob(".*"))
    assert hidden == [".draft.tmp", ".gitignore", ".notes.old"]
    assert (tmp_path / "elsewhere" / ".00000009.1.tmp").exists()


def test_killed_before_there_was_a_run_starts_as_if_new(configs: Callable[..., Make]) -> None:
    config = configs("pretrain")("run", steps=1)
    config.out.mkdir()
    (config.out / ".run.json.77.tmp").write_text("{")
    assert train(config).status == "finished"
    assert list(config.out.glob(".*")) == []


@pytest.mark.parametrize("kind", ["dpo-lora", "rlhf", "continual"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_offered(kind: str, configs: Callable[..., Make]) -> None:
    """One flipped bit in any file of it, weights, moments, counters or tokenizer."""
    make = configs(kind.removesuffix("-lora"))
    options: dict[str, Any] = {"save_every": 2, "steps": 6, **({"lora": 2} if kind.endswith("lora") else {})}
    whole, parts = make("whole", **options), make("parts", **options)
    train(whole)
    killed_in_checkpoint(parts, 6)
    resume = replace(parts, resume=True)
    first, last = (checkpoint.path for checkpoint in open_run(parts.out).checkpoints())
    names = {path.name for path in last.iterdir()}
    assert names >= {"optimizer.safetensors", "trainer.json", "SHA256SUMS"}
    for path in sorted(last.iterdir()):
        before = path.read_bytes()
        damaged = bytearray(before)
        damaged[len(damaged) // 2] ^= 1 << 3
        path.write_bytes(damaged)
        with pytest.raises(RunError) as refused:
            train(resume)
        message = str(refused.value)
        # of two files that disagree the list may be the one that is damaged
        assert f"`{path}` is damaged" in message or path.name == "SHA256SUMS"
        assert (
            f"type `rm -r {last}` and then the same command, to continue from the checkpoint before it, `{first}`"
            in message
        )
        path.write_bytes(before)
    (last / "optimizer.safetensors").unlink()
    (first / "trainer.json").write_text("{}")
    with pytest.raises(RunError, match=f"type `rm -r {last} {first}` and then the same command, to start again"):
        train(resume)
    write_checksums(first)
    (first / "trainer.json").write_text('{"schema": 1, "step": 2, "num_tokens": 3}')
    shutil.rmtree(last)
    with pytest.raises(RunError, match=r"trainer\.json` is damaged"):
        train(resume)
    shutil.rmtree(first)
    train(resume)
    same(contents(whole.out), contents(parts.out))


def test_going_back_from_a_damaged_checkpoint_gives_the_same_run(configs: Callable[..., Make]) -> None:
    make = configs("sft")
    options = EVERYTHING | {"save_every": 2, "steps": 6}
    whole, parts = make("whole", **options), make("parts", **options)
    train(whole)
    killed_in_checkpoint(parts, 6)
    shutil.rmtree(parts.out / "checkpoints" / "00000004")  # as the message says
    train(replace(parts, resume=True))
    same(dict(without_events(whole.out)), dict(without_events(parts.out)))


def test_a_checkpoint_without_checksums_is_resumed_as_before(configs: Callable[..., Make]) -> None:
    make = configs("pretrain")
    train(make("parts", steps=2, schedule="constant"))
    (checkpoint,) = open_run(make("parts").out).checkpoints()
    (checkpoint.path / CHECKSUMS).unlink()
    assert train(make("parts", steps=4, schedule="constant", resume=True)).status == "finished"


def test_checksums_stay_true_when_a_checkpoint_is_thinned_or_saved_over(configs: Callable[..., Make]) -> None:
    run = train(configs("dpo")(steps=2, capture_every=1))
    (checkpoint,) = run.checkpoints()
    thin(run.path, keep=2, half=False)
    assert (checkpoint.path / CHECKSUMS).exists()
    assert find_damage(checkpoint.path) is None
    weights = checkpoint.path / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    assert find_damage(checkpoint.path) == weights
    with pytest.raises(RunError, match=r"model.safetensors` is damaged .* copy the checkpoint again"):
        thin(run.path, keep=2)
    weights.write_bytes(before)
    thin(run.path, keep=2)
    assert not (checkpoint.path / CHECKSUMS).exists()
    assert LM.load(run.path).fingerprint

    write_checksums(checkpoint.path)
    LM.load(run.path).save(checkpoint.path)
    assert find_damage(checkpoint.path) is None


def test_checksums_are_those_of_sha256sum_and_lead_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "naïve name.json").write_text("{}")
    write_checksums(folder)
    sums = folder / CHECKSUMS
    expected = hashlib.sha256(b"weights").hexdigest()
    assert sums.read_text().splitlines()[0] == f"{expected}  model.safetensors"
    assert find_damage(folder) is None
    (tmp_path / "secret").write_bytes(b"weights")
    for line in (f"{expected}  ../secret", f"{expected}  /etc/passwd", "nothing", "", f"{expected}  .\n\n"):
        sums.write_text(line)
        assert find_damage(folder) is not None
    sums.write_bytes(b"\xff")
    assert find_damage(folder) == sums
