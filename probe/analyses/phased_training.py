"""Trainings in phases, run in a process of their own and read back: what the experiment `continual` measures.

`probe train continual` is called as a user would call it, in a folder that is thrown away; `training_worker` is the
process. In the world the models after each phase are asked the questions of every task, and a score is the exact
probability of the true answer. With files the scores of the held-out items are those that the training has saved with
its last checkpoint.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.numpy import load_file

from probe.errors import DataError, RunError
from probe.model.lm import LM
from probe.rows import DEMONSTRATIONS, Rows, read_columns, read_documents
from probe.runs.reader import Run
from probe.runs.roots import is_run
from probe.runs.schema import RESULTS
from probe.ticks import Tick

if TYPE_CHECKING:
    from probe.world.questions import Item

Array = NDArray[np.float64]
PAUSE_S = 0.2
LOG = "trainer.log"
CHUNK = 64


@dataclass
class Trainer:
    """Runs trainings that differ in few options only, one after the other in a process of their own.

    with Trainer(folder, options) as trainer:
        run = trainer.train("plain", tick, strategy="plain")
    """

    scratch: Path
    """Where runs are written."""
    options: dict[str, Any] = field(default_factory=dict)
    """What all of them have: option (with underscores) to value; None and False leave it out."""
    _worker: "subprocess.Popen[str] | None" = field(default=None, init=False, repr=False)

    def __enter__(self) -> "Trainer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def train(self, name: str, tick: Tick, **options: Any) -> Run:
        """Train and wait; a tick that raises ends the training.

        Args:
            name: of the run.
            tick: called with the share that is done, several times a second.
            options: of this run, over those of all.

        Raises:
            RunError: it was refused or failed; the message is the training's own.
        """
        told = self.options | options
        out, log, done = (self.scratch / each for each in (name, f"{name}.log", f"{name}.done"))
        argv = ["train", "continual", "--out", str(out), *words(told)]
        done.unlink(missing_ok=True)
        worker = self._send({"argv": argv, "log": str(log), "done": str(done)})
        try:
            while not done.is_file() and worker.poll() is None:
                tick(_share(out, int(told["steps"])))
                time.sleep(PAUSE_S)
        except BaseException:
            self.close()
            raise
        if not done.is_file() or done.read_text(encoding="utf-8") != "0":
            told_last = next(filter(None, map(_last_line, (log, self.scratch / LOG))), "no reason given")
            raise RunError(f"The training `{name}` ended early: {told_last.removeprefix('probe: error: ')}")
        tick(1.0)
        return Run(out)

    def close(self) -> None:
        """End the process, at once whatever it does: nothing of a training that is not over is used."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.communicate()
            self._worker = None

    def _send(self, job: dict[str, Any]) -> "subprocess.Popen[str]":
        """Hand a job to the process, which is started first if there is none."""
        if self._worker is None or self._worker.poll() is not None:
            self.close()
            argv = [sys.executable, "-P", "-m", "probe.analyses.training_worker"]
            with (self.scratch / LOG).open("wb") as file:
                self._worker = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=file, stderr=file, text=True, encoding="utf-8"
                )
        assert self._worker.stdin is not None
        self._worker.stdin.write(json.dumps(job) + "\n")
        self._worker.stdin.flush()
        return self._worker


def _last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


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


def read_phases(paths: Sequence[Path], objective: str, strict: bool = False) -> list[Rows[Any]]:
    """The rows of the files as the training reads them: documents to `pretrain` on, or demonstrations.

    Raises:
        DataError: a file cannot be used; see `probe.rows`.
    """
    if objective == "pretrain":
        return [read_documents(path, strict) for path in paths]
    return [read_columns(path, *DEMONSTRATIONS, strict=strict) for path in paths]


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
        about = json.loads((run.path / RESULTS / "continual" / "result.json").read_text(encoding="utf-8"))
        names = [*about["tasks"], *about["old"]]
        stored = load_file(run.checkpoints()[-1].path / "method.safetensors")
        return names, [stored[f"scores/{j}"].astype(float) for j in range(len(names))]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"The run `{run.name}` has no scores of its items ({error}): train it anew.") from None


def saved_texts(run: Run, tasks: Sequence[str]) -> list[list[tuple[str, str]]] | None:
    """For each task what its items asked and what would be right; None of a run from before these were written."""
    file = run.path / RESULTS / "continual" / "items.jsonl.gz"
    if not file.is_file():
        return None
    items = pd.read_json(file, lines=True, dtype={"prompt": str, "expected": str})
    parts = [items[items["kind"] == task] for task in tasks]
    return [list(zip(part["prompt"], part["expected"], strict=True)) for part in parts]


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
