"""`probe train --alarms --stop-on FAULT`: a training with a fault stops with a checkpoint, and goes on bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import open_run
from probe.diagnosis import alarms
from probe.errors import ConfigError
from tests.trainers.quick import train
from tests.trainers.test_loop import assert_same
from trainers.commands import INTERRUPTED, parse_training
from trainers.commands import train as command
from trainers.config import RLVRConfig, SFTConfig

Make = Callable[..., Any]


@pytest.fixture
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after every step: a training of a second has no time for looks."""
    monkeypatch.setattr(alarms, "SHARE", 1e9)


def nothing(completions: list[str], **_: Any) -> list[float | None]:
    """A reward that never pays."""
    return [0.0 for _ in completions]


@pytest.mark.usefixtures("look_always")
def test_a_reward_that_never_pays_stops_the_training(
    configs: Callable[..., Make], capsys: pytest.CaptureFixture[str]
) -> None:
    make = configs("rlvr")
    options = {"steps": 16, "reward": (f"{__name__}:nothing",), "updates": 1, "minibatches": 1, "prompts": 8}
    whole = train(make("whole", **options))
    assert not (whole.path / "alarms.jsonl").exists()
    stopped = train(make("run", **options, stop_on=("no_signal",)))
    (alarm,) = [each for each in stopped.alarms() if each.fault == "no_signal"]
    assert alarm.began <= alarm.step < 16
    assert (stopped.status, stopped.checkpoints()[-1].step) == ("interrupted", alarm.step + 1)
    for said in (f"after step {alarm.step + 1}", "No signal", alarm.remedy, "--resume"):
        assert said in str(stopped.message)
    said = capsys.readouterr().err.replace("\n", " ")
    assert alarm.sentence() in said
    assert f"stopped after step {alarm.step + 1} for an alarm" in said
    resumed = train(make("run", **options, stop_on=("no_signal",), resume=True))
    assert resumed.status == "finished"
    assert resumed.alarms() == stopped.alarms()
    assert_same(whole, resumed)


@pytest.mark.usefixtures("look_always")
def test_a_rate_a_thousand_times_too_high_on_the_command_line(world_run: Path, tmp_path: Path) -> None:
    words = ["sft", "--base", str(world_run), "--out", str(tmp_path / "run"), "--steps", "60", "--lr", "3"]
    words += ["--batch-size", "8", "--examples", "60", "--log-every", "1", "--capture-every", "0", "--evaluate", "0"]
    words += ["--schedule", "constant", "--clip", "0", "--device", "cpu"]
    assert command([*words, "--stop-on", "memorising", "--stop-on", "rate_too_high"]) == INTERRUPTED
    run = open_run(tmp_path / "run")
    assert run.config["stop_on"] == ["memorising", "rate_too_high"]
    assert "Rate too high" in str(run.message)
    assert run.checkpoints()[-1].step < 60
    assert command([*words, "--resume", "--no-alarms"]) == 0


@pytest.mark.usefixtures("look_always")
def test_alarms_alone_change_nothing(configs: Callable[..., Make]) -> None:
    make = configs("rlvr")
    plain, watched = train(make("plain")), train(make("watched", alarms=True))
    assert watched.status == "finished"
    assert_same(plain, watched)


def test_an_unknown_fault_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    words = ["--base", "nowhere", "--out", str(tmp_path / "run"), "--stop-on", "rate_to_high"]
    with pytest.raises(ConfigError, match="did you mean `rate_too_high`"):
        parse_training(SFTConfig, words, "sft")


def test_any_fault(tmp_path: Path) -> None:
    config = RLVRConfig(base="base", out=tmp_path / "run", stop_on=("any",))
    assert config.to_dict()["stop_on"] == ["any"]
