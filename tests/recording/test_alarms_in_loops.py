"""Alarms in a loop of one's own (`probe.watch`) and in a Hugging Face trainer (`ProbeCallback`)."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from probe import LM, open_run, watch
from probe.diagnosis import alarms
from probe.errors import ConfigError
from probe.integrations import ProbeCallback
from tests.models import random_lm
from tests.recording.test_integrations import trainer, weights


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look after every step: a training of a second has no time for looks."""
    monkeypatch.setattr(alarms, "SHARE", 1e9)


def train(lm: LM, rate: float, steps: int, recorder: Any = None) -> int:
    """Train on one sentence with the sign of the gradient turned round; gives the number of steps taken."""
    optimizer = torch.optim.SGD(lm.model.parameters(), lr=rate, maximize=True)
    ids = torch.tensor([lm.tokenizer("mira lives in oslo .")["input_ids"]])
    for step in range(1, steps + 1):
        loss = lm.model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(step, loss=loss, lr=rate)
            if recorder.stop:
                return step
    return steps


def test_a_loop_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lm = random_lm()
    with watch(lm, tmp_path / "run", every=0, config={"steps": 40}, stop_on=["rate_too_high"]) as recorder:
        taken = train(lm, 0.3, 40, recorder)
    run = open_run(tmp_path / "run")
    (alarm,) = [each for each in run.alarms() if each.fault == "rate_too_high"]
    assert alarm.step == taken < 40
    assert run.status == "interrupted"
    assert f"after step {taken}" in str(run.message)
    assert alarm.remedy in str(run.message)
    assert run.checkpoints()[-1].step == taken
    assert alarm.sentence() in capsys.readouterr().err.replace("\n", " ")


def test_a_loop_that_only_looks_goes_on_and_does_not_notice(tmp_path: Path):
    plain, watched = random_lm(), random_lm()
    train(plain, 0.3, 40)
    with watch(watched, tmp_path / "run", every=0, config={"steps": 40}, alarms=True) as recorder:
        assert train(watched, 0.3, 40, recorder) == 40
    run = open_run(tmp_path / "run")
    assert run.alarms()
    assert run.status == "finished"
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))


def test_a_trainer_stops_and_goes_on(tmp_path: Path):
    options = {"logging_steps": 1, "learning_rate": 0.0, "steps": 12, "save_strategy": "steps", "save_steps": 100}
    callback = ProbeCallback(tmp_path / "run", every=0, stop_on=["nothing_is_trained"])
    stopped = trainer(random_lm(), tmp_path, callback, **options)
    stopped.train()
    run = open_run(tmp_path / "run")
    (alarm,) = run.alarms()
    assert alarm.fault == "nothing_is_trained"
    assert stopped.state.global_step == alarm.step + 1 < 12
    assert run.status == "interrupted"
    assert alarm.remedy in str(run.message)
    assert [each.step for each in run.checkpoints()] == [alarm.step + 1]
    again = trainer(random_lm(), tmp_path, callback, **options)
    again.train(resume_from_checkpoint=True)
    run = open_run(tmp_path / "run")
    assert (run.status, again.state.global_step) == ("finished", 12)
    assert run.alarms() == [alarm]
    assert run.metrics()["step"].tolist() == list(range(1, 13))


def test_a_trainer_that_only_looks_does_not_notice(tmp_path: Path):
    plain, watched = random_lm(attention_dropout=0.1), random_lm(attention_dropout=0.1)
    options = {"logging_steps": 1, "learning_rate": 5.0, "steps": 20, "lr_scheduler_type": "constant"}
    trainer(plain, tmp_path, **options).train()
    trainer(watched, tmp_path, ProbeCallback(tmp_path / "run", every=0, alarms=True), **options).train()
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))
    assert open_run(tmp_path / "run").status == "finished"


def test_a_fault_that_is_unknown_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="did you mean `no_signal`"):
        ProbeCallback(tmp_path / "run", stop_on=["nosignal"])
    with pytest.raises(ConfigError, match="did you mean `no_signal`"):
        watch(random_lm(), tmp_path / "run", every=0, stop_on=["nosignal"])
    assert not (tmp_path / "run").exists()


def train_as_one_of_two(folder: Path, environment: dict[str, str]) -> None:
    """What each of two processes does: an alarm of the main one stops both after the same step."""
    os.environ.update(environment)
    alarms.SHARE = 1e9
    callback = ProbeCallback(folder / "run", every=0, checkpoint=False, stop_on=["nothing_is_trained"])
    told = {"logging_steps": 1, "learning_rate": 0.0, "steps": 12, "ddp_backend": "gloo"}
    both = trainer(random_lm(), folder, callback, **told)
    assert both.accelerator.num_processes == 2
    both.train()
    assert both.state.global_step == 5


@pytest.mark.slow
def test_all_processes_stop(tmp_path: Path):
    """Started as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    spawn = multiprocessing.get_context("spawn")
    pair = [spawn.Process(target=train_as_one_of_two, args=(tmp_path, each)) for each in ranks]
    for child in pair:
        child.start()
    for child in pair:
        child.join(200)
    assert [child.exitcode for child in pair] == [0, 0]
    assert open_run(tmp_path / "run").status == "interrupted"
