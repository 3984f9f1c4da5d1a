"""Models of 2 blocks and width 32, and runs of a few steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import LM, Run
from probe.presets import ModelConfig
from probe.world import World
from trainers import pretrain
from trainers.pretrain import PretrainConfig

SMALL = ModelConfig(layers=2, width=32, heads=2, mlp=48, context=64)
QUICK: dict[str, Any] = {
    "length": 32,
    "batch_size": 8,
    "warmup": 2,
    "evaluate": 0,
    "capture_every": 0,
    "eval_every": 0,
    "log_every": 1,
    "device": "cpu",
}
"""Options that keep a pretraining run under a second."""


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with the world's tokenizer, in a Hugging Face directory that belongs to no run."""
    return LM.create(SMALL, World().tokenizer()).save(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def world_run(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that pretrained that model on the world for 20 steps."""
    out = tmp_path_factory.mktemp("runs") / "base"
    run = pretrain.train(PretrainConfig(out=out, base=str(model_dir), **QUICK | {"steps": 20, "lr": 1e-2}))
    assert run.status == "finished"
    return out


@pytest.fixture
def pretraining(model_dir: Path, tmp_path: Path) -> Callable[..., PretrainConfig]:
    """Configs of short pretraining runs on the world; the first argument names the run."""

    def make(name: str = "run", **changes: Any) -> PretrainConfig:
        return PretrainConfig(out=tmp_path / name, **{"base": str(model_dir), "steps": 4} | QUICK | changes)

    return make


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows to a JSONL file."""

    def write(rows: list[Any], name: str = "data.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def figures(run: Run) -> Any:
    """The metrics of a run without those that measure time."""
    return run.metrics().drop(columns=["time", "tokens_per_second", "step_time"])
