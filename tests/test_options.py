"""Command lines of dataclasses: options that are given more than once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from probe import cli
from probe.errors import ConfigError
from probe.experiments.definition import form
from probe.experiments.registry import find_experiment
from probe.options import parse
from trainers.commands import METHODS, parse_training
from trainers.samples.recipes import SamplesConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    also: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    pair: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    loud: bool = False
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("--also A --also B C", "also", ("A", "B", "C")),
        ("--also A --seed 3 --also=B", "also", ("A", "B")),
        ("--also=A --also B --loud --also C", "also", ("A", "B", "C")),
        ("--also A --also A", "also", ("A", "A")),
        ("--sizes 1 -2 --sizes 3", "sizes", (1, -2, 3)),
        ("--shares a 1 --shares b 2", "shares", {"a": 1.0, "b": 2.0}),
        ("--inner.names x --inner.names y", "inner", Inner(names=("x", "y"))),
        ("--seed 2 --seed 2", "seed", 2),
        ("--seed 2 --seed=2", "seed", 2),
        ("--loud --loud", "loud", True),
    ],
)
def test_repeated_options_add_up(words: str, name: str, expected: object):
    assert getattr(parse(Example, words.split(), "probe example"), name) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seed 1 --seed 2", "was given --seed twice, with 1 and 2"),
        ("--seed=1 --loud --seed 2", "was given --seed twice, with 1 and 2"),
        ("--pair 0 1 --pair 0 2", "was given --pair twice, with 0 1 and 0 2"),
    ],
)
def test_an_option_of_one_value_given_twice_loses_none_silently(words: str, said: str):
    with pytest.raises(ConfigError, match=said):
        parse(Example, words.split(), "probe example")


SAMPLED = ("rlhf", "rsft", "rlvr")
REPEATED = [
    (SAMPLED, "--reward verifier --reward mine.py:brief", "reward", ("verifier", "mine.py:brief")),
    (SAMPLED, "--reward-weights 1 --reward-weights 0.5", "reward_weights", (1.0, 0.5)),
    (SAMPLED, "--tasks fact --tasks stranger", "tasks", ("fact", "stranger")),
    (METHODS, "--lora-targets q_proj --lora-targets v_proj", "lora_targets", ("q_proj", "v_proj")),
    (("sft",), "--mixture fact 1 --mixture stranger 2", "mixture", {"fact": 1.0, "stranger": 2.0}),
]


@pytest.mark.parametrize(
    ("method", "words", "name", "expected"),
    [(method, *case) for methods, *case in REPEATED for method in methods],
)
def test_trainings_add_up_repeated_options(method: str, words: str, name: str, expected: object, tmp_path: Path):
    _, kind, _ = METHODS[method]
    needed = [] if method == "pretrain" else ["--base", "b"]
    weights = ["--reward", "verifier", "agreeable"] if name == "reward_weights" else []
    argv = ["--out", str(tmp_path / "run"), *needed, *weights, *words.split()]
    assert getattr(parse_training(kind, argv, method), name) == expected


def test_samples_add_up_repeated_runs():
    assert parse(SamplesConfig, ["--only", "base", "--only", "sft", "icl"], "probe samples").only == (
        "base",
        "sft",
        "icl",
    )


def test_options_of_experiments_add_up():
    asked = parse(
        form(find_experiment("in_context")), ["--shots", "1", "--shots", "4", "8"], "probe experiment in_context"
    )
    assert asked.shots == (1, 4, 8)


def test_the_dashboard_takes_every_folder_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--runs", str(tmp_path / "none"), "--runs", str(tmp_path), "--port", "70000"]
    assert cli.main(["dashboard", *words]) == 2
    assert "none` is not a folder" in capsys.readouterr().err
