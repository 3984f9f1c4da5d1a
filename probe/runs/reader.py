"""The reader of run directories: finished, running or killed, copied or broken, without the model."""

import html
import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from probe.errors import RunError
from probe.runs.addresses import is_cached, is_url
from probe.runs.alarm_rows import Alarm, read_alarms
from probe.runs.captures import Captures, Row, all_rows, rollouts_frame
from probe.runs.directories import find, local_folder, roots, run_directories, store_problems
from probe.runs.encoded_rows import EncodedRows, read_encoded_rows
from probe.runs.metric_log import MetricLog
from probe.runs.run_marks import Marks, read_marks
from probe.runs.schema import (
    CHECKPOINTS,
    ENDINGS,
    HEADLINE,
    RESULTS,
    ROLLOUTS,
    Checkpoint,
    RunWarning,
    parse_step,
    read_meta,
)
from probe.runs.storage import Position, is_locked, read_log
from probe.runs.trained_on import TrainedOn, read_trained_on
from probe.untrusted import LOG

STALE_S = 300.0
"""Seconds without a heartbeat after which a run with an invisible lock counts as killed; smaller clock differences are
ignored."""


class Run:
    """A run directory; repeated calls read a run that is being written again."""

    def __init__(self, path: str | Path) -> None:
        """Open the directory `path`; `open_run` also takes names.

        Raises:
            RunError: it is not a run, run.json is damaged, or its schema is newer.
        """
        self.path = Path(path)
        self._metrics = MetricLog(self.path)
        self._rollouts: tuple[list[Row], Position] = ([], Position())
        self.refresh()

    def refresh(self) -> "Run":
        """Read run.json again (status, headline) and return the run.

        Raises:
            RunError: it is gone or damaged.
        """
        self.meta = read_meta(self.path)
        return self

    @property
    def name(self) -> str:
        """Name of the directory, by which the run is known."""
        return os.path.basename(os.path.abspath(self.path))

    @property
    def method(self) -> str:
        """Training method of the run, such as `pretrain` or `dpo`."""
        return self.meta["method"]

    @property
    def config(self) -> dict[str, Any]:
        """Settings of the method."""
        return self.meta.get("config") or {}

    @property
    def parent(self) -> str | None:
        """Model from which training started."""
        return self.meta.get("parent")

    @property
    def reference(self) -> str | None:
        """Model to which the KL or the implicit reward refers."""
        return self.meta.get("reference")

    @property
    def reward_model(self) -> str | None:
        """Model that gave the rewards."""
        return self.meta.get("reward_model")

    @property
    def world(self) -> dict[str, Any] | None:
        """World of the run (`probe.world.of(run)` builds it)."""
        return self.meta.get("world")

    @property
    def seed(self) -> int:
        """Random seed of the run."""
        return self.meta.get("seed") or 0

    @property
    def created(self) -> str:
        """Time when the run was started: ISO 8601, UTC."""
        return self.meta.get("created") or ""

    @property
    def steps(self) -> int:
        """Highest step in run.json; while a run is being written it lags by up to 15 seconds."""
        return self.meta.get("step") or 0

    @property
    def message(self) -> str | None:
        """Sentence on how the run ended, if it left one."""
        return self.meta.get("message")

    @property
    def status(self) -> str:
        """Status: `running`, `finished`, `interrupted` (by the user), `failed`, or `killed` (its writer is gone)."""
        ended = self.meta.get("status") in ENDINGS
        lock = None if ended or is_cached(self.path) else is_locked(self.path)  # stores hold no locks
        if lock:
            return "running"
        if self.meta.get("status") not in ENDINGS:
            self.refresh()  # the writer says how it ended before it gives the lock back
        status = self.meta.get("status")
        if status in ENDINGS:
            return str(status)
        return "running" if beats_elsewhere(self.meta, locks=lock is not None) else "killed"

    @property
    def marks(self) -> Marks:
        """What readers say about the run: pinned, archived, tags, a note."""
        return read_marks(self.path)

    @property
    def headline(self) -> pd.DataFrame:
        """Headline metrics of the run: metric, value, ci_low, ci_high, n."""
        return pd.DataFrame(self.meta.get("headline") or [], columns=list(HEADLINE)).astype(
            {"value": float, "ci_low": float, "ci_high": float}
        )

    def metrics(self, most: int = LOG) -> pd.DataFrame:
        """Return the logged metrics: one row per step with `step`, `time` (seconds of training) and the metrics.

        A further call reads only lines appended since, another process what Probe has kept beside a large log
        (`probe.runs.metric_log`). A value that was not finite is NaN. Lines that cannot be read
        are left out with a `RunWarning`.

        Args:
            most: maximum number of bytes to read from the start of the file.
        """
        return self._metrics.read(live=self._live(), most=most).copy()

    def rollouts(self, most: int = LOG) -> pd.DataFrame:
        """Return the sampled completions, one row each with `step`, `prompt`, `completion` and fields of the method.

        Lines that cannot be read are left out with a `RunWarning`.

        Args:
            most: maximum number of bytes to read from the start of the file.
        """
        rows, position = self._rollouts
        fresh, after = read_log(self.path / ROLLOUTS, position, live=self._live(), most=most)
        self._rollouts = all_rows(rows if after.continues(position) else [], fresh, self.path / ROLLOUTS), after
        return rollouts_frame(self._rollouts[0])

    def alarms(self) -> list[Alarm]:
        """Return the faults that showed while the run was trained with alarms, in the order in which they were raised.

        Lines that cannot be read are left out with a `RunWarning`.
        """
        return read_alarms(self.path, live=self._live())

    def captures(self) -> Captures:
        """Return the captured attention, lens and residual norms."""
        return Captures(self.path, live=self._live())

    def checkpoints(self) -> list[Checkpoint]:
        """Return the saved models in the order of their steps."""
        folder = self.path / CHECKPOINTS
        pairs = [(parse_step(path.name), path) for path in folder.glob("*/")]
        return [Checkpoint(step, path) for step, path in sorted((s, p) for s, p in pairs if s is not None)]

    def results(self) -> dict[str, Path]:
        """Return the directories of experiments' results by name."""
        folder = self.path / RESULTS
        if not folder.is_dir():
            return {}
        return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}

    def trained_on(self) -> TrainedOn | None:
        """Return the sentences of the training data as hashes; None without a readable record."""
        return read_trained_on(self.path)

    def encoded_rows(self) -> EncodedRows | None:
        """Return rows as the model reads them beside its chat template; None without a readable record."""
        return read_encoded_rows(self.path)

    def _live(self) -> bool:
        return self.status == "running"

    def __repr__(self) -> str:
        return f"Run({self.name!r}, method={self.method!r}, status={self.status!r}, steps={self.steps})"

    def _repr_html_(self) -> str:
        facts = {
            "method": self.method,
            "status": self.status,
            "steps": self.steps,
            "parent": self.parent,
            "created": self.created,
            "path": self.path,
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in facts.items()
            if value is not None
        )
        headline = self.headline.to_html(index=False, border=0, escape=True) if len(self.headline) else ""
        return f"<b>{html.escape(self.name)}</b><table>{rows}</table>{headline}"


def open_run(ref: str | Path) -> Run:
    """Open the run that `ref` names.

    `ref` is the path of its directory, its name in one of the folders of runs, or its address in a store
    (`s3://bucket/runs/base`).

    Raises:
        RunError: there is none (similar names are listed), or it cannot be read.
    """
    return Run(find(ref))


def list_runs(root: str | Path | None = None, *, archived: bool = False) -> list[Run]:
    """Return the runs directly in `root`, or in all folders of runs, oldest first.

    Broken runs are left out with one `RunWarning` each that names the directory.

    Args:
        root: folder of runs; all by default.
        archived: return archived runs, too.

    Raises:
        RunError: `root` was given and is not a folder.
    """
    places = roots() if root is None else [checked_folder(root)]
    problems = store_problems(None if root is None else [root])
    runs = []
    for problem in problems.values():
        warnings.warn(problem, RunWarning, stacklevel=2)
    for place in places:
        if not os.path.isdir(place):
            if not is_cached(place):  # problems of a store were reported before
                problem = f"The run directory `{place}` is not a folder and is left out."
                warnings.warn(problem, RunWarning, stacklevel=2)
            continue
        for path in run_directories(place):
            try:
                run = Run(path)
                runs += [run] if archived or not run.marks.archived else []
            except RunError as error:
                warnings.warn(f"`{path}` is left out: {error}", RunWarning, stacklevel=2)
    return sorted(runs, key=lambda run: (run.created, run.name))


def checked_folder(root: str | Path) -> Path:
    """Return the path on this machine of a requested folder of runs.

    Raises:
        RunError: it is not a folder, or it is a store that cannot be reached and was never read.
    """
    if not is_url(root) and not os.path.isdir(os.path.expanduser(root)):
        raise RunError(f"`{root}` is not a folder: give one that holds run directories.")
    place = local_folder(root)
    if not place.is_dir():
        raise RunError(next(iter(store_problems([root]).values()), f"`{root}` cannot be read: try again."))
    return place


def beats_elsewhere(meta: dict[str, Any], *, locks: bool) -> bool:
    """Return whether the heartbeat shows that a run is being written on another machine, whose lock is invisible.

    A heartbeat from the future is ignored: a clock was wrong, or the file was forged.

    Args:
        meta: contents of run.json.
        locks: whether the file system supports locks, which then decide about writers on this machine.
    """
    if meta.get("status") in ENDINGS or (locks and meta.get("host") == socket.gethostname()):
        return False
    now, beat = time.time(), meta.get("heartbeat") or 0
    return now - STALE_S < beat < now + STALE_S
