"""Options that make a run of each method take a second or two; the tests of the loop run over all of them."""

from importlib import import_module
from typing import Any

from probe import Run
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
