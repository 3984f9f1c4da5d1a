"""The benchmarks: all can be run by name, times become rows, and steps of TRL and ours alternate."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.__main__ import NAMES
from benchmarks.harness import compare, summary
from probe.runs.reader import Run


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
    assert steps == [1, 2, 3, 3]  # once more to count its products
    assert row.share is not None
    assert row.share > 0
    assert row.repeats == 2
    assert row.seconds_a > 0
    assert row.seconds_b > 0


def test_the_load_of_volume_is_the_same_runs_for_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    from benchmarks import volume

    monkeypatch.setattr(volume, "STEPS", 3)
    runs = [Run(path) for path in sorted(volume.make_runs(tmp_path / "runs", 11).iterdir())]
    frames = [run.metrics() for run in runs]
    assert [*frames[0]] == ["step", "time", *volume.NAMES]
    assert frames[10].equals(frames[0])
    assert not frames[1].equals(frames[0])
    logs = sorted(volume.make_events(tmp_path / "events", 2).glob("*/*"))
    for frame, log in zip(frames, logs, strict=False):
        events = [event for event in LegacyEventFileLoader(str(log)).Load() if event.summary.value]
        read = [[value.simple_value for value in event.summary.value] for event in events]
        np.testing.assert_allclose(read, frame[[*volume.NAMES]], rtol=1e-6, atol=0)
