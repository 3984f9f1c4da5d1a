"""Options that make a run of each method take a second or two; the tests of the loop run over all of them."""

from importlib import import_module
from pathlib import Path
from typing import Any

from probe import LM, Run
from probe.model.presets import ModelConfig
from probe.world import World
from trainers.commands import METHODS
from trainers.config import TrainConfig

COMMON: dict[str, Any] = {
    "batch_size": 8,
    "steps": 4,
    "warmup": 2,
    "lr": 3e-3,
    "evaluate": 0,
    "capture_every": 0,
    "eval_every": 0,
    "log_every": 1,
    "device": "cpu",
}
SAMPLED: dict[str, Any] = {
    "tasks": ("fact", "opinion_false"),
    "prompts": 30,
    "group": 4,
    "max_new_tokens": 6,
    "reward": ("tests.trainers.judging:even",),
}
"""What methods that sample need: a reward that tells the completions of a random model apart."""
QUICK: dict[str, dict[str, Any]] = {
    "pretrain": {"length": 32},
    "sft": {"examples": 60},
    "dpo": {"pairs": 30},
    "reward-model": {"pairs": 30},
    "rlhf": {**SAMPLED, "updates": 2, "minibatches": 2, "adaptive_kl": 0.1},
    "rsft": {**SAMPLED, "select": "threshold", "threshold": 0.5, "minibatches": 2},
    "rlvr": {**SAMPLED, "updates": 2, "minibatches": 2},
    "continual": {"length": 32, "phases": 2, "strategy": "ewc", "fisher_samples": 6, "questions": 8},
}
"""Method to what it needs beside `COMMON`; tests/trainers/conftest.py gives the base."""
SMALL = ModelConfig(layers=2, width=32, heads=2, mlp=48, context=64)
UNDECIDED = ("rewards/accuracies",)
"""Figures of the first step that compare numbers which are equal up to rounding."""


def module(method: str) -> Any:
    """The module of a method."""
    return import_module(METHODS[method][0])


def make_config(method: str, **options: Any) -> TrainConfig:
    """A config of a method."""
    return METHODS[method][1](**options)


def method_of(config: TrainConfig) -> str:
    """The method that a config belongs to."""
    return next(name for name, (_, kind, _) in METHODS.items() if kind is type(config))


def train(config: TrainConfig) -> Run:
    """Train as `config` says, whatever its method."""
    return module(method_of(config)).train(config)


def small_model(folder: Path) -> Path:
    """Save a small random model with the world's tokenizer."""
    return LM.create(SMALL, World().tokenizer()).save(folder)


def short_run(out: Path, model: Path) -> Path:
    """Pretrain that model on the world for 20 steps; the base of all other methods."""
    options = QUICK["pretrain"] | {"steps": 20, "lr": 1e-2}
    assert train(quick_config("pretrain", model, out, **options)).status == "finished"
    return out


def quick_config(method: str, base: Path, out: Path, /, **changes: Any) -> TrainConfig:
    """A config of a run that takes a second or two."""
    return make_config(method, out=out, **{"base": str(base)} | COMMON | QUICK[method] | changes)
