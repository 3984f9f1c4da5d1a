"""Trainings in phases, started as processes of their own and read back: what the experiment `continual` measures.

`probe train continual` is called as a user would call it, in a folder that is thrown away. In the world the models
after each phase are asked the questions of every task, and a score is the exact probability of the true answer. With
files the scores of the held-out items are those that the training has saved with its last checkpoint.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import load_file

from probe.errors import DataError, RunError
from probe.lm import LM
from probe.runs.reader import Run
from probe.runs.roots import is_run
from probe.runs.schema import RESULTS
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.world.questions import Item

Array = NDArray[np.float64]
PAUSE_S = 0.2
CHUNK = 64


@dataclass(frozen=True)
class Trainer:
    """Starts trainings that differ in few options only."""

    scratch: Path
    """Where runs are written."""
    options: dict[str, Any] = field(default_factory=dict)
    """What all of them have: option (with underscores) to value; None and False leave it out."""

    def train(self, name: str, tick: Tick, **options: Any) -> Run:
        """Train and wait; a tick that raises ends the training.

        Args:
            name: of the run.
            tick: called with the share that is done.
            options: of this run, over those of all.

        Raises:
            RunError: it was refused or failed; the message is the training's own.
        """
        told = self.options | options
        out, log = self.scratch / name, self.scratch / f"{name}.log"
        argv = [sys.executable, "-m", "probe.cli", "train", "continual", "--out", str(out), *words(told)]
        with log.open("wb") as file:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                tick(_share(out, int(told["steps"])))
                time.sleep(PAUSE_S)
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if child.returncode:
            text = log.read_text(encoding="utf-8", errors="replace")
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given")
            raise RunError(f"The training `{name}` ended early: {last.removeprefix('probe: error: ')}")
        tick(1.0)
        return Run(out)


def words(options: dict[str, Any]) -> list[str]:
    """Options as the command line takes them."""
    found = []
    for name, value in options.items():
        if value is not None and value is not False:
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def base_of(lm: LM, scratch: Path) -> str:
    """A reference to the model that a process of its own can load: its folder, or a copy of one that has none."""
    if lm.directory is not None:
        return str(lm.directory)
    return str(lm.save(scratch / "base"))


def files_of(data: str | Path) -> list[Path]:
    """The files of the phases: those of a folder by name, or a list separated by commas.

    Raises:
        DataError: one does not exist, or there is none.
    """
    expected = "a folder, or a list such as a.jsonl,b.jsonl: text, or JSON Lines with `text` or with questions"
    place = Path(data).expanduser()
    if place.is_dir():
        found = sorted(path for path in place.iterdir() if path.suffix in (".jsonl", ".json", ".txt", ".md"))
    else:
        found = [Path(part.strip()).expanduser() for part in str(data).split(",") if part.strip()]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        what = f"`{missing[0]}` is no file" if missing else f"`{data}` holds no files"
        raise DataError(f"The phases cannot be read, since {what}: give {expected}.")
    return found


@torch.no_grad()
def truth(lm: LM, items: "Sequence[Item]") -> Float[Array, " N"]:
    """The exact probability of the true answer to each question, its end token included."""
    end = lm.tokenizer.eos_token or ""
    found = []
    for start in range(0, len(items), CHUNK):
        part = items[start : start + CHUNK]
        scored = lm.logprobs([item.prompt for item in part], [f"{item.answers[0]} {end}".rstrip() for item in part])
        found.append(scored.values.double().sum(1).exp().cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0)


def saved_scores(run: Run) -> tuple[list[str], list[Float[Array, "rows N"]]]:
    """Names of the tasks, what the base knew last, and the scores of their items after each phase.

    Raises:
        RunError: the run has none.
    """
    try:
        import json

        about = json.loads((run.path / RESULTS / "continual" / "result.json").read_text(encoding="utf-8"))
        names = [*about["tasks"], *about["old"]]
        stored = load_file(run.checkpoints()[-1].path / "method.safetensors")
        return names, [stored[f"scores/{j}"].astype(float) for j in range(len(names))]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"The run `{run.name}` has no scores of its items ({error}): train it anew.") from None


def learning_curve(run: Run, task: str) -> tuple[list[int], list[float]]:
    """Steps and accuracies of a task as the training has logged them, from before it on."""
    metrics = run.metrics()
    rows = metrics[metrics[f"accuracy/{task}"].notna()]
    return [int(step) for step in rows["step"]], [float(value) for value in rows[f"accuracy/{task}"]]


def task_name(path: Path) -> str:
    """How the training calls the task of a single file."""
    return f"1-{path.stem}"


def _share(out: Path, steps: int) -> float:
    """How far a training is."""
    if not is_run(out):
        return 0.0
    try:
        metrics = Run(out).metrics()
    except RunError:
        return 0.0
    return float(metrics["step"].max()) / steps if len(metrics) else 0.0
