"""Trainings of every method under faults: each goes on to the bits of the undisturbed run."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from probe import Run, list_runs, open_run
from probe.cli import main
from probe.runs import RunWarning
from probe.runs.checksums import find_damage
from probe.runs.schema import CHECKSUMS, ENDINGS
from probe.runs.storage import LEFTOVER
from tests.faults.harm import silence
from tests.trainers.quick import METHODS, module, quick_config
from tests.trainers.written import CLOCK, same, without_events

EVERYTHING: dict[str, Any] = {"save_every": 2, "capture_every": 2, "eval_every": 2, "evaluate": 4}
"""Options with which a run of four steps writes every kind of file."""
OFTEN = ("killed", "killed at a time", "killed in a write", "killed twice", "disk full")
RARE = ("read-only", "folder gone", "clock backwards", "second writer")
KINDS = (*OFTEN, *RARE[:2], *OFTEN, *RARE[2:], *OFTEN, "killed in a write")
"""Kinds of fault that twenty moments of a training are of."""


class Training:
    """A short training of a method."""

    kinds, empty, wire = KINDS, True, None

    def __init__(self, method: str, base: Path, sound: Path) -> None:
        self.name, self._base, self._sound = method, base, sound

    def place(self, folder: Path) -> Path:
        """Return the folder of the run, beside a sound one that must stay in sight."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "sound").exists():
            (folder / "sound").symlink_to(self._sound)
        return folder / "run"

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the training; it is resumed if there is a run, and not begun again once it has finished."""
        config = quick_config(self.name, self._base, place, **EVERYTHING, resume=(place / "run.json").exists())
        return train, (self.name, config.to_dict())

    def look(self, place: Path) -> None:
        """Read everything of the run, as pages and commands do."""
        look_at_run(place, {"sound"})

    def compare(self, place: Path, whole: Path) -> None:
        """Compare all files but for the clock."""
        same(dict(without_events(whole)), dict(without_events(place)))
        compare_metrics(open_run(place), open_run(whole))


def train(method: str, options: dict[str, Any]) -> bool:
    """Train; return whether that was still to be done."""
    config = METHODS[method][1].from_dict(options)
    if config.resume and open_run(config.out).status == "finished":
        return False
    module(method).train(config)
    return True


def look_at_run(place: Path, others: set[str], whole: Run | None = None) -> None:
    """Check that all that is listed of a run is whole, that it hides no other run, and that its command answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        listed = {run.name for run in list_runs(place.parent)}
        assert listed >= others, f"{others - listed} are hidden"
        if not (place / "run.json").exists():
            assert all(LEFTOVER.fullmatch(path.name) for path in place.glob("*")), "files without a run"
            return
        assert place.name in listed
        run = open_run(place)
        assert run.status in {*ENDINGS, "killed"}, run.status
        rows, captures = run.metrics(), run.captures()
        assert len(rows) == 0 or rows["step"].is_monotonic_increasing
        for step in captures.steps:
            assert captures.load(step)
        for checkpoint in run.checkpoints():
            assert (checkpoint.path / CHECKSUMS).exists()
            assert find_damage(checkpoint.path) is None, f"{checkpoint.path} is damaged"
        run.rollouts(), run.results()
        with silence() as said:
            assert main(["runs", "show", str(place)]) == 0, said.getvalue()


def compare_metrics(one: Run, other: Run) -> None:
    """Compare the metrics as a reader has them, to the bit."""
    frames = [run.metrics().drop(columns=list(CLOCK), errors="ignore") for run in (one, other)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
