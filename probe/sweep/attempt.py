"""One attempt at a task: its command runs in a separate process that ends with the process that started it.

An attempt starts only when no other process writes the run. A lost attempt (its process was killed, its machine is
gone) may run on for a moment: its process notices that its parent is gone (`probe.cli`), and until it has ended the run
is locked or its heartbeat is recent. The next attempt waits for that and resumes the run from its last checkpoint.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from probe.errors import ProbeError, RunError
from probe.runs.addresses import is_run
from probe.runs.reader import STALE_S, Run
from probe.sweep.journal import LOGS, answer_file, log_file
from probe.sweep.spec import Task
from probe.untrusted import open_file, read_file

PATIENCE_S = 2 * STALE_S
"""Seconds that an attempt waits for another process that writes the run."""
STOP_S = 60.0
"""Seconds that an attempt has to end by itself when the sweep is interrupted."""
INTERRUPTED = 130


class Watch(Protocol):
    """Context manager around a training that uploads the run while it is trained and once more on exit.

    On exit it raises a `ProbeError` if the run could not be uploaded; the task then fails.
    """

    def __enter__(self) -> object:
        """Start watching the run for new checkpoints."""

    def __exit__(self, *error: Any) -> object:
        """Upload the run in its final state."""

    def taken_over(self) -> bool:
        """Return whether a newer attempt has taken over the run: this one must then end and uploads nothing more."""


class Store(Protocol):
    """Storage for runs that other machines can reach; tasks use it, so it must be picklable."""

    def newest(self, run: Path) -> int:
        """Return the highest number with which a run was taken over, or 0 if it was never uploaded.

        Raises:
            ProbeError: the store cannot be reached.
        """

    def bring(self, run: Path) -> None:
        """Download a run of an earlier task to this machine.

        Raises:
            ProbeError: it cannot be downloaded; the task then fails.
        """

    def watch(self, run: Path, number: int) -> Watch:
        """Take over the run of a task, and download its last uploaded state, if any.

        Args:
            run: directory of the run.
            number: higher than all numbers before it; attempts with lower numbers can upload nothing more.

        Raises:
            ProbeError: it cannot be downloaded, or the number is taken.
        """


@dataclass(frozen=True)
class Order:
    """Description of an attempt that an engine can run on any machine."""

    task: Task
    attempt: int
    """Number of the attempt, from 1, counted over all restarts of the sweep."""
    folder: Path
    """Folder of the sweep's logs."""
    directory: Path
    """Working directory; relative paths of the spec start here."""
    environment: Mapping[str, str]
    """Environment variables of the task on every machine."""
    store: Store | None = None
    number: int = 0
    """Fencing number with which the task takes over its run in the store."""


@dataclass(frozen=True)
class Ended:
    """Outcome of an attempt."""

    task: str
    state: str
    """State at the end: `finished`, `failed`, `interrupted` or `lost`."""
    message: str = ""
    node: str = ""
    answer: str = ""
    """Result of an experiment, as JSON."""


class Attempt:
    """An attempt at a task on this machine; `poll` advances it without blocking."""

    def __init__(self, order: Order) -> None:
        self.order, self.task = order, order.task
        self.node = socket.gethostname()
        self._process: subprocess.Popen[bytes] | None = None
        self._since = time.monotonic()
        self._stopped = self._brought = False
        self._watch: Watch | None = None
        self._start_of_log = 0

    @property
    def _run(self) -> Path:
        """Directory of the run on this machine."""
        return self.order.directory / self.task.run

    def poll(self) -> Ended | None:
        """Start the process when it may start, upload new files, and return the outcome once it has ended."""
        try:
            if self._process is None:
                return self._begin()
            status = self._process.poll()
            if self._watch is not None and self._watch.taken_over():
                self.kill()
                return self._ended("lost", "A newer attempt has taken its run over.")
            if status is None:
                return None
            self._leave()
            return self._outcome(status)
        except (ProbeError, OSError) as error:
            self.kill()
            return self._ended("failed", str(error))

    def stop(self) -> None:
        """Ask the process to end after its step and a checkpoint; asked twice, it ends at once."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and all processes that it has started."""
        if self._process is not None and self._process.poll() is None:
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
            self._process.wait()
        with suppress(ProbeError):
            self._leave()

    def close(self) -> None:
        """Ask the process to end, and kill it after `STOP_S` seconds."""
        if self._process is not None:
            self.stop()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
            self.kill()

    def _begin(self) -> Ended | None:
        store = self.order.store
        if self._stopped:
            return self._ended("interrupted")
        if not self.order.directory.is_dir():
            raise RunError(f"{self.node} has no folder `{self.order.directory}`, where the sweep works: share it.")
        if self._is_written():
            if time.monotonic() - self._since > PATIENCE_S:
                raise RunError(f"`{self.task.run}` is being written by another process: end it and start again.")
            return None
        if store is not None and not self._brought:
            for run in self.task.reads:
                if run != self.task.run:
                    store.bring(self.order.directory / run)
            watch = store.watch(self._run, self.order.number)
            watch.__enter__()
            self._watch, self._brought = watch, True
        words = list(self.task.words)
        if self.task.kind == "train" and is_run(self._run):
            if Run(self._run).status == "finished":
                self._leave()
                return self._ended("finished")
            words.append("--resume")
        self._start(words)
        return None

    def _is_written(self) -> bool:
        """Return whether another process, perhaps that of a lost attempt, writes the run."""
        return self.task.kind == "train" and is_run(self._run) and Run(self._run).status == "running"

    def _start(self, words: list[str]) -> None:
        folder = self.order.directory / self.order.folder
        (folder / LOGS).mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ) | dict(self.order.environment)
        environment |= {"PROBE_PARENT": str(os.getpid()), "PROBE_ATTEMPT": str(self.order.attempt)}
        with _opened(log_file(folder, self.task.name), "ab") as log:
            log.write(f"# attempt {self.order.attempt} on {self.node}: {shlex.join(['probe', *words])}\n".encode())
            log.flush()
            self._start_of_log = log.tell()
            answer = log if self.task.kind == "train" else _opened(answer_file(folder, self.task.name), "wb")
            with answer:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "probe.cli", *words],
                    cwd=self.order.directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=answer,
                    stderr=log,
                    start_new_session=True,
                )

    def _leave(self) -> None:
        """Upload the run for the last time."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.__exit__(None, None, None)

    def _outcome(self, status: int) -> Ended:
        if status == 0 and (self.task.kind == "experiment" or Run(self._run).status == "finished"):
            return self._ended("finished")
        if status == INTERRUPTED or self._stopped:
            return self._ended("interrupted")
        if status < 0:
            why = ", often because memory ran out" if status == -signal.SIGKILL else ""
            return self._ended("lost", f"Its process on {self.node} was ended by signal {-status}{why}.")
        return self._ended("failed", self._reason())

    def _ended(self, state: str, message: str = "") -> Ended:
        answer = ""
        if self.task.kind == "experiment" and state == "finished":
            file = answer_file(self.order.directory / self.order.folder, self.task.name)
            answer = read_file(file).decode()
        return Ended(self.task.name, state, message, self.node, answer)

    def _reason(self) -> str:
        """Return the last line of this attempt's log."""
        with open_file(log_file(self.order.directory / self.order.folder, self.task.name)) as log:
            log.seek(self._start_of_log)
            lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("probe: error: ").strip() if lines else "Its process ended without a message."


def _opened(path: Path, mode: str) -> IO[bytes]:
    """Open a file for the output of a process; refuse to write to a link or a pipe."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise RunError(f"`{path}` is a link or no regular file, and nothing is written to it: delete it.")
    return open(path, mode)


def shared_environment() -> dict[str, str]:
    """Return the environment variables of this process that tasks need on other machines."""
    names = ("OMP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH", "TOKENIZERS_PARALLELISM")
    return {name: value for name, value in os.environ.items() if name in names or name.startswith("PROBE_")}


def with_threads(environment: Mapping[str, str], task: Task) -> dict[str, str]:
    """Return the environment with one thread per CPU of the task, unless the user has set the number of threads."""
    return {"OMP_NUM_THREADS": str(max(1, int(task.cpus)))} | dict(environment)
