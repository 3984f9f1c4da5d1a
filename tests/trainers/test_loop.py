"""The loop that all methods share: accumulation, resuming, stopping, failing; nothing here knows a method's loss."""

import math
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from probe import LM, Run, open_run
from probe.errors import ConfigError, ModelError, RunError, TrainingStopped
from probe.runs.schema import CHECKSUMS
from tests.trainers import children
from tests.trainers.conftest import figures
from tests.trainers.quick import QUICK, UNDECIDED, train
from trainers import dpo, loop, pretrain
from trainers.config import DPOConfig, PretrainConfig, TrainConfig
from trainers.loop import Objective, draw, learning_rate, take_step
from trainers.pretrain import PADDING
from trainers.session import Session, derive_seed

Make = Callable[..., TrainConfig]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].path / "model.safetensors")


UNLIKE = ("dpo", "rlvr", "continual")
"""Methods where the loop alone decides: one that draws examples, one that samples completions, and one in phases."""
some_methods = pytest.mark.parametrize("make", UNLIKE, indirect=True)


@pytest.fixture(params=QUICK)
def make(request: pytest.FixtureRequest, configs: Callable[..., Make]) -> Make:
    """Configs of every method."""
    return configs(request.param)


def assert_same(one: Run, other: Run) -> None:
    """Bitwise equal in metrics and weights."""
    pd.testing.assert_frame_equal(figures(one), figures(other), check_exact=True)
    theirs = weights(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, theirs[name]), name


def decided(run: Run) -> pd.DataFrame:
    """The figures without those of the first step that hang on rounding."""
    rows = figures(run)
    rows.loc[0, [name for name in rows if name in UNDECIDED]] = 0.0
    return rows


def test_accumulation_equals_one_big_batch(make: Make) -> None:
    whole, parts = train(make("whole", lr=1e-3)), train(make("parts", lr=1e-3, accumulation=4))
    theirs = weights(parts)
    gaps = torch.cat([(tensor - theirs[name]).flatten() for name, tensor in weights(whole).items()])
    # Adam divides by the gradient's size: where that is near zero, rounding moves single weights by 1 % of a step, more
    # on some processors than on others. All together stay within a thousandth; a mean of means is 30 times that.
    assert gaps.square().mean().sqrt() < 1e-6
    exact = ["num_tokens", "lr"]
    pd.testing.assert_frame_equal(whole.metrics()[exact], parts.metrics()[exact])
    pd.testing.assert_frame_equal(decided(whole), decided(parts), rtol=1e-4, atol=1e-6)


def test_parts_with_different_numbers_of_tokens(model_dir: Path, tmp_path: Path) -> None:
    """Plain gradient descent with rate 1, so that the weights show the gradient and every wrong denominator."""
    rng = np.random.default_rng(0)
    rows = np.full((8, 24), PADDING)
    for row, length in zip(rows, (24, 3, 20, 5, 2, 22, 8, 11), strict=True):
        row[:length] = rng.integers(2, 400, length)
    made = []
    for accumulation in (1, 4, 8):
        config = PretrainConfig(
            out=tmp_path / "none", batch_size=8, accumulation=accumulation, clip=0.0, device="cpu", seed=5
        )
        session, model = Session(config), LM.load(model_dir).model
        method = pretrain.Pretraining(session, None, None)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        outcome = take_step(session, Objective(model, method.loss), optimizer, rows, lr=1.0, detail=True)
        made.append((outcome, [parameter.detach() for parameter in model.parameters()]))
    (whole, expected), *others = made
    assert whole.tokens == int((rows[:, 1:] != PADDING).sum())
    for outcome, parameters in others:
        assert outcome.tokens == whole.tokens
        for name in ("loss", "norm"):
            assert getattr(outcome, name) == pytest.approx(getattr(whole, name), rel=1e-5)
        assert outcome.metrics == pytest.approx(whole.metrics, rel=1e-5)
        for ours, theirs in zip(parameters, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_batch_without_a_target_changes_nothing(model_dir: Path, tmp_path: Path) -> None:
    session, model = (
        Session(PretrainConfig(out=tmp_path / "none", batch_size=2, device="cpu")),
        LM.load(model_dir).model,
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    method = pretrain.Pretraining(session, None, None)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(model.parameters())
    rows = np.array([[2, PADDING, PADDING]] * 2)
    outcome = take_step(session, Objective(model, method.loss), optimizer, rows, lr=1.0, detail=True)
    assert (outcome.loss, outcome.norm, outcome.metrics["entropy"]) == (0.0, 0.0, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal in the middle of a step."""

    def sends(at: int, config: TrainConfig) -> float:
        if at == step:
            signal.raise_signal(number)
        return learning_rate(at, config)

    monkeypatch.setattr(loop, "learning_rate", sends)


@pytest.mark.parametrize(
    ("make", "number"), [*((name, signal.SIGINT) for name in UNLIKE), ("dpo", signal.SIGTERM)], indirect=["make"]
)
def test_stopped_and_resumed_to_the_same_bits(make: Make, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    before = signal.getsignal(number)
    options: dict[str, Any] = {"steps": 6, "eval_every": 2, "save_every": 2}
    whole = train(make("whole", **options))
    with monkeypatch.context() as patch:
        stop_at(patch, 3, number)
        stopped = train(make("parts", **options))
    assert stopped.status == "interrupted"
    assert stopped.message is not None
    assert "step 3" in stopped.message
    assert stopped.checkpoints()[-1].step == 3
    assert signal.getsignal(number) is before
    resumed = train(make("parts", **options, resume=True))
    assert resumed.status == "finished"
    assert_same(whole, resumed)


@some_methods
def test_second_interrupt_stops_at_once(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def twice(*_: Any, **__: Any) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", twice)
        with pytest.raises(KeyboardInterrupt):
            train(make(steps=10))
    assert open_run(tmp_path / "run").status == "interrupted"
    assert open_run(tmp_path / "run").checkpoints() == []


@some_methods
def test_steps_may_grow(make: Make) -> None:
    if "steps" not in make().free:  # phases share them
        train(make("fixed"))
        with pytest.raises(ConfigError, match="leave --steps out to continue it"):
            train(make("fixed", steps=6, resume=True))
        return
    whole = train(make("whole", steps=6, schedule="constant", eval_every=2))
    train(make("parts", steps=2, schedule="constant", eval_every=2))
    resumed = train(make("parts", steps=6, schedule="constant", eval_every=2, resume=True))
    assert_same(whole, resumed)
    assert resumed.config["steps"] == 6


@some_methods
def test_resuming_is_held_to_the_options(make: Make, tmp_path: Path) -> None:
    train(make(steps=2))
    with pytest.raises(ConfigError, match=r"has --seed 0 and --resume came with 1: leave --seed out"):
        train(make(steps=2, seed=1, resume=True))
    with pytest.raises(ConfigError, match="has already made 2 steps: give a larger --steps"):
        train(make(steps=2, resume=True))
    with pytest.raises(RunError, match="There is no run to resume"):
        train(make("other", resume=True))
    with pytest.raises(RunError, match="holds something already"):
        train(make(steps=2))
    assert open_run(tmp_path / "run").status == "finished"


@some_methods
def test_a_short_training_reaches_its_learning_rate(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """Though its warm-up is longer than all of its steps, as the default of a method may be."""
    run = train(make(steps=5, warmup=10, lr=3e-3, save_every=2))
    rates = run.metrics()["lr"].dropna()
    assert rates.max() == pytest.approx(3e-3)
    assert rates.tolist()[:2] == pytest.approx([1.5e-3, 3e-3])
    said = capsys.readouterr().err
    assert said.count("--warmup 10 is too long for --steps 5") == 1
    assert "rises to 0.003 over 2 instead" in said
    train(make("long", steps=6, warmup=3))
    assert "--warmup" not in capsys.readouterr().err


def test_a_shortened_warmup_is_resumed_to_the_same_bits(
    pretraining: Callable[..., PretrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(pretraining("whole", steps=7, warmup=100))
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(pretraining("parts", steps=7, warmup=100)).status == "interrupted"
    assert_same(whole, train(pretraining("parts", steps=7, warmup=100, resume=True)))


def test_a_run_of_another_method_is_not_resumed(pretraining: Make, world_run: Path) -> None:
    out = pretrain.train(pretraining(steps=1)).path  # type: ignore[arg-type]
    with pytest.raises(RunError, match="was made by `pretrain`, not `dpo`"):
        dpo.train(DPOConfig(out=out, base=str(world_run), resume=True, pairs=4, device="cpu"))


def test_changed_data_are_not_resumed(tmp_path: Path, model_dir: Path, write_jsonl: Callable[..., Path]) -> None:
    rows = [{"prompt": "mira", "chosen": " oslo", "rejected": " rome"}]
    options: dict[str, Any] = {"base": str(model_dir), "data": str(write_jsonl(rows)), "batch_size": 1}
    config = DPOConfig(out=tmp_path / "run", steps=1, capture_every=0, **options)
    dpo.train(config)
    write_jsonl([*rows, {"prompt": "mira", "chosen": " paris", "rejected": " rome"}])
    with pytest.raises(RunError, match=r"The data of the run .* have changed \(hash was"):
        dpo.train(DPOConfig(out=tmp_path / "run", steps=2, capture_every=0, resume=True, **options))


def test_a_checkpoint_without_its_state_is_refused(pretraining: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(pretraining(steps=2))
    (run.checkpoints()[-1].path / CHECKSUMS).unlink()
    (run.checkpoints()[-1].path / "trainer.json").write_text("{")
    with pytest.raises(RunError, match="holds no state to continue from"):
        train(pretraining(steps=4, resume=True))


def test_nan_stops_with_the_last_good_checkpoint_named(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loop, "learning_rate", lambda step, config: 1e30 if step == 3 else 1e-3)
    with pytest.raises(
        TrainingStopped, match=r"In step [34] the loss was .*nan.*checkpoints/00000002.*--resume"
    ) as caught:
        train(make(steps=6, save_every=2))
    run = open_run(tmp_path / "run")
    assert run.status == "failed"
    assert run.message == str(caught.value)
    assert all(torch.isfinite(tensor).all() for tensor in weights(run).values())


def test_a_folder_may_be_called_as_another_run(
    pretraining: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--out base` is a folder here, although a sample run has that name."""
    monkeypatch.chdir(tmp_path)
    config = replace(pretraining(steps=2, schedule="constant"), out=Path("base"))
    assert train(config).status == "finished"
    assert train(replace(config, steps=3, resume=True)).steps == 3


def test_nan_without_a_checkpoint(pretraining: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "learning_rate", lambda *_: 1e30)
    with pytest.raises(TrainingStopped, match="no checkpoint had been written yet"):
        train(pretraining(steps=6))


@pytest.mark.slow
def test_full_disk_stops_with_the_last_good_checkpoint_named(pretraining: Make, tmp_path: Path) -> None:
    child = children.start(pretraining(steps=60, save_every=10), full_at=15)
    child.join(60)
    assert child.exitcode == 1
    run = open_run(tmp_path / "run")
    assert run.status == "failed"
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [10]
    assert LM.load(run.path).fingerprint
    assert "could not be written" in (run.message or "")
    assert "checkpoints/00000010" in (run.message or "")


@pytest.mark.parametrize("saved", [0, 2])
def test_a_folder_that_goes_while_it_trains_stops_training(
    pretraining: Make, monkeypatch: pytest.MonkeyPatch, saved: int
) -> None:
    config = pretraining(steps=6, save_every=saved, log_every=1)

    def rate(step: int, _: object) -> float:
        if step == 4:
            shutil.rmtree(config.out)
        return 1e-3

    monkeypatch.setattr(loop, "learning_rate", rate)
    with pytest.raises(TrainingStopped, match=r"deleted, moved or replaced.*start"):
        train(config)
    assert not Path(config.out).exists()


@pytest.mark.slow
@pytest.mark.parametrize("make", ["rlhf", "continual"], indirect=True)  # all, in a checkpoint: test_resume.py
def test_killed_at_any_moment_and_resumed_to_the_same_bits(make: Make) -> None:
    """SIGKILL once there are metrics, and again after a resume, at moments that differ between test runs."""
    quick: dict[str, Any] = {"steps": 24, "save_every": 3, "log_every": 2}
    whole, killed = make("whole", **quick), make("killed", **quick)
    expected = train(whole)
    for attempt in range(2):
        rows = len(lines(killed.out))
        child = children.start(replace(killed, resume=attempt > 0))
        while child.is_alive() and len(lines(killed.out)) <= rows:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.2))
        child.kill()
        child.join(10)
        assert child.exitcode is not None
        if open_run(killed.out).status == "finished":
            break
        assert open_run(killed.out).status == "killed"
    else:
        train(replace(killed, resume=True))
    assert_same(expected, open_run(killed.out))


def lines(out: Path) -> list[bytes]:
    """The rows of metrics so far."""
    file = out / "metrics.jsonl"
    return file.read_bytes().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    "method", [name if name == "rlvr" else pytest.param(name, marks=pytest.mark.slow) for name in QUICK]
)
def test_two_processes_give_the_losses_of_one(method: str, configs: Callable[..., Make], tmp_path: Path) -> None:
    quick: dict[str, Any] = {"steps": 4, "accumulation": 2, "batch_size": 8, "capture_every": 2, "eval_every": 2}
    make = configs(method)
    expected = train(make("one", **quick))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    config = make("two", **quick | {"device": None})
    pair = [children.start(config, common | {"RANK": r, "LOCAL_RANK": r}) for r in ("0", "1")]
    for child in pair:
        child.join(60)
    assert [child.exitcode for child in pair] == [0, 0]
    made = open_run(tmp_path / "two")
    pd.testing.assert_frame_equal(decided(expected), decided(made), rtol=2e-4, atol=1e-5)
    assert made.captures().steps == [0, 2, 4]


def test_captures_and_evaluations_change_nothing(make: Make) -> None:
    """And no file of the run is a pickle, whatever is written into it."""
    plain, watched = train(make("plain")), train(make("watched", capture_every=2, eval_every=2))
    assert set(watched.captures().steps) >= {0, 2, 4}
    theirs = weights(watched)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(plain).items())
    suffixes = {path.suffix for path in watched.path.rglob("*") if path.is_file() and path.name != CHECKSUMS}
    assert suffixes <= {".json", ".jsonl", ".csv", ".gz", ".safetensors", ".jinja"}


def test_clipping_bounds_the_step(pretraining: Make) -> None:
    free, bound = train(pretraining("free", clip=0.0, steps=1)), train(pretraining("bound", clip=1e-3, steps=1))
    assert free.metrics()["grad_norm"][0] == bound.metrics()["grad_norm"][0] > 1e-3
    moments = [load_file(run.checkpoints()[-1].path / "optimizer.safetensors") for run in (free, bound)]
    norms = [
        math.sqrt(sum(float(t.double().square().sum()) for name, t in m.items() if name.endswith("/exp_avg")))
        for m in moments
    ]
    beta = 1 - PretrainConfig(out=Path("x")).betas[0]
    assert norms[0] == pytest.approx(beta * free.metrics()["grad_norm"][0], rel=1e-4)
    assert norms[1] == pytest.approx(beta * 1e-3, rel=1e-4)


def test_draw_passes_over_all_examples() -> None:
    drawn = [index for step in range(1, 8) for index in draw(10, 7, step, seed=3)]
    for epoch in range(4):
        assert sorted(drawn[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert draw(3, 8, 1, seed=0) == draw(3, 8, 1, seed=0)


def test_seeds_of_steps_and_processes_differ() -> None:
    seeds = {derive_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 600


@some_methods
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "--steps is 0; expected at least 1"),
        ({"batch_size": 6, "accumulation": 4}, "--accumulation is 4; expected a divisor of --batch-size 6"),
        ({"lr": 0.0}, "--lr is 0.0; expected a number above 0"),
        ({"device": "cuda:7"}, "--device cuda:7 cannot be used here"),
        ({"device": "abacus"}, "--device abacus cannot be used here"),
        ({"final_lr": 2.0}, "--final-lr is 2.0"),
        ({"save_every": -1}, "--save-every is -1; expected 0 or more"),
    ],
)
def test_options_that_make_no_sense(make: Make, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make(**changes))
    assert not (tmp_path / "run").exists()


@some_methods
def test_unknown_base(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nosuch"):
        train(make(base=str(tmp_path / "nosuch")))
    assert not (tmp_path / "run").exists()


def test_config_survives_its_dictionary(make: Make) -> None:
    config = make(probe_prompts=Path("prompts.txt"), betas=(0.8, 0.9))
    assert type(config).from_dict(config.to_dict()) == config


def test_state_of_the_optimiser_is_restored(pretraining: Make) -> None:
    run = train(pretraining(steps=3))
    moments = load_file(run.checkpoints()[-1].path / "optimizer.safetensors")
    names = {name.rpartition("/")[0] for name in moments}
    assert names == {name for name, _ in LM.load(run.path).model.named_parameters()}
    assert {float(t) for name, t in moments.items() if name.endswith("/step")} == {3.0}
    assert np.mean([bool(t.any()) for name, t in moments.items() if name.endswith("/exp_avg")]) > 0.9
