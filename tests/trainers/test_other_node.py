"""A training that is lost on one machine and goes on from a store on another one."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probe.runs.store.remote import Fenced, claim, download, upload
from probe.runs.store.uploads import Uploads
from tests.trainers.test_loop import assert_same
from trainers import loop
from trainers.config import PretrainConfig, TrainConfig
from trainers.loop import learning_rate
from trainers.pretrain import train


def test_lost_and_resumed_elsewhere_to_the_same_bits(
    pretraining: Callable[..., PretrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(pretraining("whole", steps=8, save_every=3))
    config = pretraining("first/run", steps=8, save_every=3)
    address = f"file://{tmp_path}/store/run"

    class Lost(BaseException):
        """The machine is gone: nothing that runs when a training ends is seen by anybody."""

    def rate(step: int, given: TrainConfig) -> float:
        if step == 5:
            upload(config.out, address, 1)
            raise Lost
        return learning_rate(step, given)

    assert claim(address, 1) is False
    with monkeypatch.context() as patch:
        patch.setattr(loop, "learning_rate", rate)
        with pytest.raises(Lost):
            train(config)
    assert claim(address, 2) is True
    with pytest.raises(Fenced):
        upload(config.out, address, 1)
    other = download(address, tmp_path / "second" / "run")
    assert json.loads((other / "run.json").read_text())["status"] == "running"
    shutil.rmtree(tmp_path / "first")
    with Uploads(other, address, 2):
        resumed = train(replace(config, out=other, resume=True))
    assert_same(whole, resumed)
    assert time.time() - resumed.meta["heartbeat"] < 60
    third = download(address, tmp_path / "third" / "run")
    assert (third / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
