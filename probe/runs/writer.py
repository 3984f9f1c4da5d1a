"""The writer of a run directory: it appends whole lines, and finished files appear at once.

Only a context around a loop learns that an exception ended it. Without a context, a run ends when the notebook cell in
which it began ends, when nothing refers to its owner any more, or when the process ends.
"""

import os
import shutil
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from safetensors.numpy import save_file

from probe.errors import RunError
from probe.runs.addresses import RUN_FILE, is_run
from probe.runs.alarm_rows import Alarm
from probe.runs.captures import Captures
from probe.runs.checksums import write_checksums
from probe.runs.encoded_rows import EncodedRows, write_encoded_rows
from probe.runs.metric_log import MetricLog
from probe.runs.reader import Run, beats_elsewhere
from probe.runs.schema import (
    ALARMS,
    CAPTURE_DTYPES,
    CAPTURES,
    CHECKPOINTS,
    ENDINGS,
    HEADLINE,
    INDEX,
    METRICS,
    PROMPTS,
    RESERVED,
    ROLLOUTS,
    SCHEMA,
    ProbePrompt,
    RunWarning,
    as_step,
    dumps,
    git_revision,
    jsonable,
    number,
    parse_step,
    step_name,
    versions,
)
from probe.runs.storage import (
    IN_USE,
    LineFile,
    append_lines,
    cut_torn_line,
    delete,
    disk,
    hold_lock,
    is_empty,
    refuse_link,
    remove_leftovers,
    replace_folder,
    sync_tree,
    unlock,
    write_atomic,
    write_inside,
)
from probe.runs.trained_on import collect, write_trained_on
from probe.runs.world_file import write_world

HEARTBEAT_S = 15.0
"""Seconds between two updates of run.json during a run."""
ATTEMPT = "PROBE_ATTEMPT"
"""Environment variable with the number of an attempt, from 1, that a sweep sets (`probe.sweep.attempt`)."""


class RunWriter:
    """Writer of one run; `create` or `resume` make it, `finish` ends it.

    As a context manager it ends the run as finished, as interrupted after Ctrl-C, or as failed after an error. All
    methods raise `RunError` when the disk is full or the directory cannot be written.
    """

    def __init__(self, path: Path, meta: dict[str, Any], handle: int | None, seconds: float = 0.0) -> None:
        self.path = path
        self._meta = meta | attempt()
        self._handle = handle
        self._start = time.monotonic() - seconds
        self.fixed_prompts = Captures(path, live=True).prompts
        """Prompts of the captures; empty until they are fixed."""
        self.captured = 0
        """Bytes of the newest capture."""
        self._open = True
        self._folder = _identity(path)
        self._beat()  # first, because only a folder with run.json can be resumed
        self._metrics = LineFile(path / METRICS)
        self._rollouts: LineFile | None = None

    @classmethod
    def create(
        cls,
        directory: str | Path,
        *,
        method: str,
        config: Any,
        parent: str | None = None,
        reference: str | None = None,
        reward_model: str | None = None,
        world: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Self:
        """Start a run in a new or empty directory.

        Args:
            directory: directory of the run; its last part is the run's name.
            method: method that makes the run, such as `pretrain`, `dpo`, `watch`.
            config: settings as a dict or dataclass of plain values.
            parent: model from which training starts, as the user named it.
            reference: model to which the KL or the implicit reward refers.
            reward_model: model that gives the rewards.
            world: the world's `to_dict()`, if the run has a world.
            data: facts about other data: path, hash, number of rows.
            seed: random seed of the run.

        Raises:
            RunError: the directory is not empty, is being written, or cannot be written.
        """
        path = Path(os.path.expanduser(directory))
        with disk(path):
            path.mkdir(parents=True, exist_ok=True)
        with hold_lock(path) as handle:
            if not is_empty(path):
                what = "a run" if is_run(path) else "something"
                raise RunError(
                    f"`{path}` holds {what} already: choose another folder, continue the run (--resume), or delete it."
                )
            meta = {
                "schema": SCHEMA,
                "method": method,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "parent": parent,
                "reference": reference,
                "reward_model": reward_model,
                "seed": seed,
                "config": config,
                "world": world,
                "data": data,
                "versions": versions(),
                "git": git_revision(),
            }
            with disk(path):
                remove_leftovers(path)
            return cls(path, jsonable(meta), handle)

    @classmethod
    def resume(cls, directory: str | Path, step: int | None, config: Any = None) -> Self:
        """Continue a run from `step`; later log lines stay in the files, and the reader ignores them.

        Checkpoints after `step` belong to the discarded branch and are renamed `STEP.dropped`. Incomplete files of
        killed writers are removed.

        Args:
            directory: directory of the run.
            step: number of optimiser steps of the state from which to continue; None starts over: logs, captures and
                checkpoints are removed.
            config: settings from now on, if they differ (such as more steps); None keeps those of the run.

        Raises:
            RunError: it is not a run, or another process is writing it.
        """
        run, step = Run(Path(os.path.expanduser(directory))), None if step is None else as_step(step)
        with hold_lock(run.path) as handle:
            run.refresh()
            if beats_elsewhere(run.meta, locks=handle is not None):
                raise RunError(IN_USE.format(run.path))
            with disk(run.path):
                for folder in (run.path, run.path / CAPTURES, run.path / CHECKPOINTS):
                    remove_leftovers(folder)
                seconds = _begin_anew(run) if step is None else _go_back(run, step)
            gone = ("attempt", "pid", "host", "message", *(("headline",) if step is None else ()))
            meta = {key: value for key, value in run.meta.items() if key not in gone}
            changes = {"step": step or 0} if config is None else {"step": step or 0, "config": jsonable(config)}
            return cls(run.path, meta | changes, handle, seconds)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Append the metrics of a step; a repeated step is completed, and the newest value of a key counts.

        Args:
            step: number of optimiser steps, from 0.
            values: single numbers by name (tensors are moved to the CPU); NaN and infinity are stored as null.

        Raises:
            RunError: a value is not a number, a name is reserved, or the run has ended.
        """
        clashes = [name for name in RESERVED if name in values]
        if clashes:
            raise RunError(f"The metric name `{clashes[0]}` is reserved: choose another than {', '.join(RESERVED)}.")
        row = {"step": as_step(step), "time": round(self.seconds, 3)}
        self._check_open()
        self._metrics.append([dumps(row | {name: number(name, value) for name, value in values.items()})])
        self._meta["step"] = max(row["step"], self._meta.get("step") or 0)
        if time.time() - self._meta["heartbeat"] > HEARTBEAT_S:
            self._beat()

    def rollouts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append sampled completions, one dict each with at least `step`, `prompt` and `completion` (docs/runs.md).

        Raises:
            RunError: a row lacks one of these, holds a value that JSON cannot represent, or the run has ended.
        """
        lines = []
        for row in rows:
            lacking = [name for name in ("step", "prompt", "completion") if name not in row]
            if lacking:
                raise RunError(f"A rollout has the columns {', '.join(row)} and lacks `{lacking[0]}`: add it.")
            lines.append(dumps({**row, "step": as_step(row["step"])}))
        self._check_open()
        if self._rollouts is None:
            self._rollouts = LineFile(self.path / ROLLOUTS)
        self._rollouts.append(lines)

    def alarm(self, alarm: Alarm) -> None:
        """Append an alarm: a fault that showed while the run was trained.

        Raises:
            RunError: the run has ended, or the file is a link.
        """
        self._check_open()
        append_lines(self.path / ALARMS, [dumps(alarm.row() | {"time": round(self.seconds, 3)})])

    def prompts(self, prompts: Sequence[ProbePrompt], left_out: str = "", holds: str = "") -> None:
        """Fix the prompts of the captures; repeating the same ones does nothing.

        Args:
            prompts: prompts in the order of the tensors' first axis.
            left_out: sentences on prompts that should be captured and cannot be, and why.
            holds: sentence on what a capture holds.

        Raises:
            RunError: other prompts were fixed before.
        """
        self._check_open()
        if self.fixed_prompts == list(prompts):
            return
        if self.fixed_prompts:
            raise RunError(
                f"`{self.path}` captures {len(self.fixed_prompts)} other prompts already:"
                " keep them, or start a new run."
            )
        content = {"schema": SCHEMA, "prompts": [asdict(prompt) for prompt in prompts]}
        content |= {name: text for name, text in (("left_out", left_out), ("holds", holds)) if text}
        write_inside(self.path, f"{CAPTURES}/{PROMPTS}", dumps(content, indent=1).encode())
        self.fixed_prompts = list(prompts)

    def trained_on(self, texts: Iterable[str]) -> None:
        """Record the sentences of the data as hashes (`probe.runs.trained_on`); write nothing if there are none."""
        self._check_open()
        record = collect(texts)
        if record.sentences:
            write_trained_on(self.path, record)

    def encoded_rows(self, record: EncodedRows) -> None:
        """Record rows as the model reads them (`probe.runs.encoded_rows`); write nothing if there are none."""
        self._check_open()
        if record.rows:
            write_encoded_rows(self.path, record)

    def capture(self, step: int, tensors: Mapping[str, Any], started: float | None = None) -> Path:
        """Store tensors (torch or NumPy) of a step, with the recorder's tensors in the types of `CAPTURE_DTYPES`.

        Args:
            step: number of optimiser steps.
            tensors: tensors by name; a large one may lie in a file (`numpy.memmap`) and is not copied to memory.
            started: `time.perf_counter()` when the capture began; the run then records the seconds that it took.

        Returns:
            The safetensors file.
        """
        self._check_open()
        step = as_step(step)
        arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
        name = f"{CAPTURES}/{step_name(step)}.safetensors"
        path = write_inside(self.path, name, partial(_save_arrays, arrays, {"step": str(step)}))
        with disk(path):
            self.captured = path.stat().st_size
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        took = {} if started is None else {"seconds": round(time.perf_counter() - started, 3)}
        row = {"step": step, "file": path.name, "bytes": self.captured, "time": round(self.seconds, 3)}
        append_lines(path.with_name(INDEX), [dumps(row | took | {"tensors": shapes})])
        return path

    def first_capture(self, before: int) -> tuple[Path | None, Path]:
        """Return the file of the first capture, if it is of an earlier step, and the folder of all captures."""
        files = {step: file for step, file in Captures(self.path, live=True).files.items() if step < before}
        return files[min(files)] if files else None, self.path / CAPTURES

    @contextmanager
    def checkpoint(self, step: int) -> Iterator[Path]:
        """Yield a temporary directory to save into, which becomes `checkpoints/STEP` if no error occurs.

        The run's world and SHA256SUMS are added; from SHA256SUMS a resume checks that the checkpoint is complete.
        """
        self._check_open()
        final = self.path / CHECKPOINTS / step_name(as_step(step))
        temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
        try:
            with disk(temporary):
                final.parent.mkdir(exist_ok=True)
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                yield temporary
                write_world(temporary, self._meta.get("world"))  # of the run, even if the model has another
                write_checksums(temporary)
                sync_tree(temporary)
                self._check_there()
                for log in (self._metrics, self._rollouts):
                    if log is not None:
                        log.sync()
                replace_folder(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if not self._is_there():  # libraries that save a model make a folder that is gone anew
                for folder in (final.parent, self.path):
                    with suppress(OSError):
                        folder.rmdir()
        self._beat()

    def finish(
        self, status: str = "finished", headline: Iterable[Mapping[str, Any]] | None = None, message: str | None = None
    ) -> None:
        """End the run and release its directory; a second call does nothing.

        Args:
            status: `finished`, `interrupted` or `failed`.
            headline: rows with `metric`, `value`, `ci_low`, `ci_high`, `n`; None keeps the existing rows.
            message: sentence on how it ended.

        Raises:
            RunError: the status or a row's columns are invalid, or the directory is gone.
        """
        if not self._open:
            return
        if status not in ENDINGS:
            raise RunError(f"A run cannot end as `{status}`: choose {', '.join(ENDINGS)}.")
        if headline is not None:
            self._meta["headline"] = [_headline_row(row) for row in headline]
        self._open = False
        try:
            self._check_there()
            self._metrics.sync()
            self._write_meta({**self._meta, "status": status, "message": message, "heartbeat": time.time()})
        finally:
            self._metrics.close()
            if self._rollouts is not None:
                self._rollouts.close()
            unlock(self._handle)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)  # readers say what they leave out
            MetricLog(self.path).read(live=False)  # keeps the columns of a long log for them

    @property
    def seconds(self) -> float:
        """Seconds of training so far, over all resumes."""
        return time.monotonic() - self._start

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif issubclass(kind, KeyboardInterrupt):
            self.finish("interrupted")
        else:
            try:
                self.finish("failed", message=str(error))
            except RunError:
                if self._is_there():  # otherwise the original error matters more
                    raise

    def _beat(self) -> None:
        self._meta["heartbeat"] = time.time()
        here = {"pid": os.getpid(), "host": socket.gethostname()}
        self._write_meta({**self._meta, **here, "status": "running", "message": None})

    def _write_meta(self, meta: dict[str, Any]) -> None:
        write_inside(self.path, RUN_FILE, dumps(meta, indent=1).encode())

    def _check_open(self) -> None:
        if not self._open:
            raise RunError(f"The run `{self.path}` has ended: continue it with `RunWriter.resume`.")
        self._check_there()

    def _check_there(self) -> None:
        """Raise an error if the folder is gone or replaced, because earlier files would be missing from a new one.

        Raises:
            RunError: the directory was deleted, moved or replaced.
        """
        if not self._is_there():
            raise RunError(
                f"The folder of the run `{self.path}` was deleted, moved or replaced while the run was being written: "
                "start it again, in another folder or after it is put back."
            )

    def _is_there(self) -> bool:
        return self._folder is not None and _identity(self.path) == self._folder


def _begin_anew(run: Run) -> float:
    """Remove all files of a run's writers except run.json; return 0 seconds of training.

    Logs are emptied, not deleted; a reader recognises a replaced file by its inode.
    """
    logs = [run.path / name for name in (METRICS, ROLLOUTS, ALARMS)]
    for log in logs:
        refuse_link(log)
    for log in filter(Path.exists, logs):
        write_atomic(log, b"")
    for name in (CAPTURES, CHECKPOINTS):
        delete(run.path / name)
    return 0.0


def _go_back(run: Run, step: int) -> float:
    """Discard what a run logged after `step`; return the seconds of training up to there."""
    files = [run.path / name for name in (METRICS, ROLLOUTS, ALARMS, f"{CAPTURES}/{INDEX}")]
    for file in files:
        cut_torn_line(file)
    metrics = run.metrics()
    earlier = metrics.loc[metrics["step"] <= step, "time"]
    seconds = float(earlier.iloc[-1]) if len(earlier) else 0.0
    for checkpoint in run.checkpoints():
        if checkpoint.step > step:
            replace_folder(checkpoint.path, checkpoint.path.with_suffix(".dropped"))
    for file in files:
        if file.exists():
            append_lines(file, [dumps({"event": "resume", "step": step, "time": seconds})])
    captures = run.path / CAPTURES
    for path in () if captures.is_symlink() else captures.glob("*.safetensors"):
        if (parse_step(path.stem) or 0) > step:
            delete(path)
    return seconds


def attempt() -> dict[str, int]:
    """Return the number of this process's attempt at a sweep's task for run.json; empty outside a sweep."""
    number = os.environ.get(ATTEMPT, "")
    return {"attempt": int(number)} if number.isdecimal() and len(number) < 9 else {}


def _identity(path: Path) -> tuple[int, int] | None:
    """Return an identity of the folder that survives renaming (device and inode); None if it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _save_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], path: Path) -> None:
    save_file(dict(arrays), path, dict(metadata))


def _array(name: str, tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type
            tensor = tensor.float()
        tensor = tensor.numpy()
    return np.ascontiguousarray(tensor, dtype=CAPTURE_DTYPES.get(name))


def _headline_row(row: Mapping[str, Any]) -> dict[str, Any]:
    if "metric" not in row or set(row) - set(HEADLINE):
        raise RunError(f"A headline row has the columns {', '.join(row)}: give {', '.join(HEADLINE)}.")
    return {name: jsonable(row.get(name)) for name in HEADLINE}


LEFT = "The training ended without a message."
"""Message of a run whose writer disappeared without an explanation."""

End = Callable[[str, str | None], None]
"""Function that ends a run with a status and a message, as `RunWriter.finish` does."""


def ended_by(error: BaseException | None) -> tuple[str, str | None]:
    """Return status and message of a run that an error ended; None stands for an unknown cause."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", None
    return "failed", str(error) or type(error).__name__ if error is not None else LEFT


def end_if_left(owner: object, writer: RunWriter, end: End) -> Callable[[], None]:
    """End a run that its owner leaves open.

    Args:
        owner: object that writes the run; when nothing refers to it any more, or when the process ends, the run ends.
        writer: writer of the run; it must not refer to the owner.
        end: method of the owner that ends the run; it is called when the notebook cell ends, if there is one.

    Returns:
        A function that undoes this; call it when the run ends.
    """
    detach = end_with_owner(owner, writer)
    forget = _at_the_end_of_the_cell(weakref.WeakMethod(end))

    def undo() -> None:
        detach()
        forget()

    return undo


def end_with_owner(owner: object, writer: RunWriter) -> Callable[[], object]:
    """End a run when nothing refers to its owner any more, or with the process; return a function that undoes this."""
    return weakref.finalize(owner, _leave, writer, os.getpid()).detach


def _leave(writer: RunWriter, process: int) -> None:
    """End a run whose owner is gone, or whose process ends; a forked process does not end its parent's run."""
    if os.getpid() == process:
        status, message = ended_by(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None))
        try:
            writer.finish(status, message=message)
        except RunError as error:  # no caller is left to receive the error
            warnings.warn(str(error), RunWarning, stacklevel=2)


def _at_the_end_of_the_cell(end: "weakref.WeakMethod[End]") -> Callable[[], None]:
    """End the run when the notebook cell ends, in a notebook; return a function that undoes this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or threading.current_thread() is not threading.main_thread():  # a thread outlives its cell
        return lambda: None

    def ended(result: Any = None) -> None:
        method = end()
        if method is None:
            shell.events.unregister("post_run_cell", ended)
        elif threading.current_thread() is threading.main_thread():
            method(*ended_by(getattr(result, "error_in_exec", None)))

    shell.events.register("post_run_cell", ended)
    return lambda: shell.events.unregister("post_run_cell", ended)
