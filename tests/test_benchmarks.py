"""The benchmarks: all can be run by name, times become rows, and steps of TRL and ours alternate."""

from importlib import import_module
from typing import Any

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.harness import compare, summary


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_has_a_run(name: str) -> None:
    assert callable(import_module(f"benchmarks.{name}").run)


def test_a_row_has_medians_and_ratios_of_pairs() -> None:
    row = summary("step", "ours", "theirs", [(1.0, 2.0), (2.0, 6.0), (4.0, 4.0)], ">= 2")
    assert (row.seconds_a, row.seconds_b, row.ratio, row.repeats) == (2.0, 4.0, 2.0, 3)
    assert row.cells()[1:3] == ["ours: 2000.0 ms", "theirs: 4000.0 ms"]


def test_both_ways_are_called_in_turn() -> None:
    calls: list[str] = []
    compare("turns", ("a", lambda: calls.append("a")), ("b", lambda: calls.append("b")), repeats=3, warmup=1)
    assert calls == ["a", "b"] * 4


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's own use of transformers
def test_steps_of_trl_and_ours_alternate(monkeypatch: pytest.MonkeyPatch, trl: Any) -> None:
    """The harness itself, on three steps of SFT; ours sees the steps 1, 2, 3 and trains the model."""
    from benchmarks import against_trl, sft

    monkeypatch.setitem(against_trl.COMMON, "max_steps", 3)
    monkeypatch.setattr(against_trl, "WARMUP", 1)
    monkeypatch.setattr(sft, "EXAMPLES", 4)
    steps: list[int] = []
    made = against_trl.stepper

    def stepper(*args: Any, **options: Any) -> Any:
        step = made(*args, **options)
        return lambda number: (steps.append(number), step(number))

    monkeypatch.setattr(sft, "stepper", stepper)
    row = sft.measure("SFT", sft.equal()[:12])
    assert steps == [1, 2, 3]
    assert row.repeats == 2
    assert row.seconds_a > 0
    assert row.seconds_b > 0
