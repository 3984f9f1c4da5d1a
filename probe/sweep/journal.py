"""The journal of a sweep: events of its tasks and their output, stored in `OUT/.sweep` and readable at any time.

    journal.jsonl      one line per event: `begin` with all tasks, `submit`, `start` and `end` of each attempt
    logs/NAME.log      output of a task, attempt after attempt
    logs/NAME.json     result of an experiment

The journal is untrusted: events that do not fit are skipped, and no name can point outside the folder.
"""

import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import ConfigError, RunError
from probe.runs.addresses import is_run
from probe.runs.directories import SWEEP, roots
from probe.runs.reader import Run
from probe.runs.schema import METRICS, dumps
from probe.runs.storage import Position, append_lines, disk, is_locked, last_lines, read_lines
from probe.sweep.spec import NAME, Spec, Task
from probe.untrusted import parse_json, read_json, readable

if TYPE_CHECKING:
    import pandas as pd

JOURNAL, LOGS = "journal.jsonl", "logs"
TASK = re.compile(NAME.pattern + r"(@\d+)?")
"""Pattern of a task's name; it may contain the `@STEP` of a checkpoint."""
STATES = ("waiting", "running", "finished", "failed", "interrupted", "lost", "skipped")
"""States of a task: a `lost` task will be started again, a `skipped` task needs one that did not finish."""
ENDED = "The process of the sweep ended; run the same command to continue."
MOST = 2**26
"""Largest number of bytes of a journal that are read."""


@dataclass
class TaskState:
    """A task of a sweep with its state."""

    name: str
    entry: str
    kind: str
    command: tuple[str, ...]
    """Command line of the task."""
    needs: tuple[str, ...] = ()
    recipe: dict[str, Any] = field(default_factory=dict)
    """Options that its result depends on."""
    state: str = "waiting"
    attempt: int = 0
    """Number of times it was started, over all restarts of the sweep."""
    node: str = ""
    """Machine of the last attempt."""
    started: float | None = None
    """Start of the last attempt, in seconds since 1970."""
    ended: float | None = None
    message: str = ""
    """Reason why it failed or was not run."""
    step: int | None = None
    """Optimiser steps that a training has made, if known."""

    @property
    def seconds(self) -> float | None:
        """Duration of the last attempt so far, in seconds."""
        if self.started is None:
            return None
        return max((self.ended if self.ended is not None else time.time()) - self.started, 0.0)


@dataclass
class Sweep:
    """State of a sweep."""

    out: Path
    """Folder of its runs."""
    tasks: dict[str, TaskState] = field(default_factory=dict)
    """Tasks by name, each after the tasks that it needs."""
    live: bool = False
    """Whether a process is running the sweep."""
    made: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recipe with which each task was last started; it includes tasks that are no longer in the spec."""

    @property
    def folder(self) -> Path:
        """The folder of the sweep's journal and logs."""
        return self.out / SWEEP

    def count(self, *states: str) -> int:
        """Return the number of tasks in any of the given states."""
        return sum(task.state in states for task in self.tasks.values())

    @property
    def finished(self) -> bool:
        """Whether all tasks are finished."""
        return self.count("finished") == len(self.tasks)

    @property
    def sentence(self) -> str:
        """The state of the sweep in one sentence."""
        total = len(self.tasks)
        parts = [f"{self.count('finished')} of {total} tasks are finished"]
        parts += [f"{count} {state}" for state in STATES if state != "finished" and (count := self.count(state))]
        return ", ".join(parts) + "."

    def run(self, name: str) -> Run | None:
        """Return the run of a training, if there is one that can be read."""
        path = self.out / name
        try:
            return Run(path) if self.tasks[name].kind == "train" and is_run(path) else None
        except RunError:
            return None

    def progress(self, name: str) -> tuple[int, int] | None:
        """Return (steps made, total steps) of a training, as far as its run records them."""
        run = self.run(name)
        total = run.config.get("steps") if run else None
        if run is None or type(total) is not int or total < 1:
            return None
        return min(max(run.steps, last_step(run.path), self.tasks[name].step or 0), total), total

    def log(self, name: str) -> list[str]:
        """Return the last lines of a task's output without the terminal's colour codes."""
        return last_lines(log_file(self.folder, name)) if TASK.fullmatch(name) else []

    def results(self) -> "pd.DataFrame":
        """Return the metrics of the runs and experiments, one row per metric.

        The columns are task, entry, kind, the options (as in the spec), metric, value, ci_low, ci_high, n: for a run
        its headline numbers, for an experiment its summary (with a baseline also difference, difference_low,
        difference_high).
        """
        rows = []
        for task in self.tasks.values():
            about = {"task": task.name, "entry": task.entry, "kind": task.kind} | task.recipe
            rows += [about | row for row in self.numbers(task)]
        return pd.DataFrame(rows)

    def numbers(self, task: TaskState) -> list[dict[str, Any]]:
        """Return the metrics of a finished task, as in `results` but without its options."""
        if task.state != "finished":
            return []
        if task.kind == "train":
            run = self.run(task.name)
            return (
                [] if run is None else [{str(k): v for k, v in row.items()} for row in run.headline.to_dict("records")]
            )
        try:
            answer = readable(read_json(answer_file(self.folder, task.name)))
            summary = answer["summary"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [row for row in summary if isinstance(row, dict)] if isinstance(summary, list) else []

    def apply(self, event: Mapping[str, Any]) -> None:
        """Apply an event of the journal to the sweep; an event that does not fit changes nothing."""
        what, at = event.get("event"), _time(event.get("time"))
        if what == "begin":
            states = [state for each in _list(event.get("tasks")) if (state := _task(each)) is not None]
            self.tasks = {state.name: self._kept(state) for state in states}
            return
        task = self.tasks.get(str(event.get("task")))
        if task is None:
            return
        if what == "submit":
            attempt = event.get("attempt")
            task.attempt = attempt if type(attempt) is int and 0 < attempt < 10**6 else task.attempt + 1
            self.made[task.name] = task.recipe
        elif what == "start":
            task.state, task.started, task.ended, task.message = "running", at, None, ""
            task.node = str(event.get("node") or "")[:200]
        elif what == "end" and event.get("state") in STATES:
            task.state, task.ended = str(event["state"]), at
            task.message = str(event.get("message") or "")[:2000]

    def _kept(self, state: TaskState) -> TaskState:
        """Return a task as a restart finds it: finished tasks stay finished, all others run again."""
        before = self.tasks.get(state.name)
        if before is None or before.kind != state.kind or before.recipe != state.recipe:
            return state
        state.attempt, state.node = before.attempt, before.node
        state.started, state.ended, state.message = before.started, before.ended, before.message
        state.state = "finished" if before.state == "finished" else "waiting"
        return state


class Journal:
    """Writer of a sweep's journal; every event is written before it is applied."""

    def __init__(self, sweep: Sweep) -> None:
        """Create the folder of the journal.

        Raises:
            RunError: it cannot be written, or is a link.
        """
        self.sweep, self._file = sweep, sweep.folder / JOURNAL
        with disk(sweep.folder):
            (sweep.folder / LOGS).mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **values: Any) -> None:
        """Append an event to the journal and apply it."""
        row = {"event": event, "time": round(time.time(), 3)} | values
        append_lines(self._file, [dumps(row)])
        self.sweep.apply(row)

    def begin(self, spec: Spec) -> None:
        """Record all tasks."""
        self.write("begin", tasks=[described(task) for task in spec.tasks])


def described(task: Task) -> dict[str, Any]:
    """Convert a task to its journal entry."""
    facts = {"name": task.name, "entry": task.entry, "kind": task.kind, "needs": list(task.needs)}
    return facts | {"command": ["probe", *task.words], "recipe": dict(task.recipe)}


def read_sweep(out: str | Path) -> Sweep:
    """Read the sweep in a folder of runs.

    Args:
        out: folder of its runs.

    Raises:
        ConfigError: there is none, or its journal cannot be read.
    """
    path = Path(os.path.expanduser(out))
    file = path / SWEEP / JOURNAL
    if not is_sweep(path):
        raise ConfigError(f"There is no sweep in `{path}`: give the folder `out` of a spec that was run.")
    if file.stat().st_size > MOST:
        raise ConfigError(f"The journal `{file}` has more than {MOST // 2**20} MB, which no sweep writes: delete it.")
    sweep = Sweep(path, live=bool(is_locked(path / SWEEP)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an incomplete last line is being written
        try:
            rows, _ = read_lines(file, Position(), live=True)
        except RunError as error:
            raise ConfigError(str(error)) from error
    for row in rows:
        sweep.apply(readable(row))
    for task in sweep.tasks.values():
        if task.state == "running" and not sweep.live and is_locked(path / SWEEP) is not None:
            task.state, task.message = "interrupted", ENDED
    return sweep


def is_sweep(out: Path) -> bool:
    """Return whether a folder holds the journal of a sweep (a link to one does not count)."""
    folder = out / SWEEP
    return (folder / JOURNAL).is_file() and not folder.is_symlink() and not (folder / JOURNAL).is_symlink()


def find_sweeps(folders: Sequence[Path] | None = None) -> list[Path]:
    """Find the folders with a sweep: folders of runs (default: `probe.runs.roots()`) and those directly in them."""
    places = []
    for root in roots() if folders is None else folders:
        with_children = [root, *(sorted(root.iterdir()) if root.is_dir() and os.access(root, os.R_OK) else [])]
        places += [path for path in with_children if not path.is_symlink() and is_sweep(path)]
    return list(dict.fromkeys(places))


def log_file(folder: Path, name: str) -> Path:
    """Return the log file of a task."""
    return folder / LOGS / f"{name}.log"


def answer_file(folder: Path, name: str) -> Path:
    """Return the JSON file with the result of an experiment."""
    return folder / LOGS / f"{name}.json"


def last_step(run: Path) -> int:
    """Return the step in the last line of a run's metrics, or 0 without one."""
    for line in reversed(last_lines(run / METRICS)):
        try:
            step = parse_json(line).get("step")
        except (ValueError, AttributeError):
            continue
        return step if type(step) is int and 0 <= step < 2**53 else 0
    return 0


def _task(row: Any) -> TaskState | None:
    """Read a task from a row of the journal; return None if the row is not a task."""
    if not isinstance(row, dict):
        return None
    name, kind = row.get("name"), row.get("kind")
    if not isinstance(name, str) or not TASK.fullmatch(name) or len(name) > 250 or kind not in ("train", "experiment"):
        return None
    recipe = row.get("recipe")
    return TaskState(
        name,
        str(row.get("entry") or "")[:250],
        kind,
        tuple(str(word)[:1000] for word in _list(row.get("command"))),
        tuple(str(each)[:250] for each in _list(row.get("needs"))),
        recipe if isinstance(recipe, dict) else {},
    )


def _list(value: Any) -> Iterator[Any]:
    return iter(value[:100_000] if isinstance(value, list) else [])


def _time(value: Any) -> float | None:
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if is_time else None
