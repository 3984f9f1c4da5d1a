"""Models of 2 blocks and width 32, and runs of a few steps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import Run
from tests.trainers.quick import quick_config, short_run, small_model
from trainers.config import PretrainConfig


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model with the world's tokenizer, in a Hugging Face directory that belongs to no run."""
    return small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.fixture(scope="session")
def world_run(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that pretrained that model on the world for 20 steps."""
    return short_run(tmp_path_factory.mktemp("runs") / "base", model_dir)


@pytest.fixture
def configs(model_dir: Path, world_run: Path, tmp_path: Path) -> Callable[..., Callable[..., Any]]:
    """Method to a function that makes configs of short runs; its first argument names the run."""

    def of(method: str) -> Callable[..., Any]:
        base = model_dir if method == "pretrain" else world_run

        def make(name: str = "run", **changes: Any) -> Any:
            return quick_config(method, base, tmp_path / name, **changes)

        return make

    return of


@pytest.fixture
def pretraining(configs: Callable[..., Callable[..., PretrainConfig]]) -> Callable[..., PretrainConfig]:
    """Configs of short pretraining runs on the world."""
    return configs("pretrain")


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
