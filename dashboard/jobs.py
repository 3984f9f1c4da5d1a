"""Trainings as separate processes: started, watched and stopped, and found again from files next to their runs.

A training outlives the page and the server. Two files in `ROOT/.training/` describe it: NAME.json records how it was
started, NAME.log its output. Both are untrusted: their content is shown, but never used to run, signal or write
anything elsewhere.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any, TypeGuard, cast

from probe.errors import ConfigError, RunError
from probe.options import option
from probe.plugins import OPTION, code_options
from probe.runs.addresses import is_run
from probe.runs.directories import find as locate
from probe.runs.directories import host_options, run_directories
from probe.runs.reader import Run
from probe.runs.storage import holds, is_pid, last_lines
from probe.untrusted import parse_json, read_file, readable
from probe.world.extensions import annotator_name, annotators, verifiers

FOLDER = ".training"
NAME = re.compile(r"[\w+=,@ -][\w.+=,@ -]*")
_CHILDREN: dict[int, tuple[Path, subprocess.Popen]] = {}
"""Processes started by this server, each with the directory of its run."""
_ASKED = set[int]()
"""Processes among them that were asked to stop."""
_STARTING = Lock()


@dataclass(frozen=True)
class Job:
    """A training on this machine."""

    out: Path
    """Directory of its run, which is created with the first step."""
    method: str
    pid: int
    started: float
    """Start time, in seconds since 1970."""

    @property
    def log(self) -> Path:
        """The log file of the training."""
        return self.out.parent / FOLDER / f"{self.out.name}.log"

    @property
    def run(self) -> Run | None:
        """The run of the training, if there is one that can be read."""
        try:
            return Run(self.out) if is_run(self.out) else None
        except RunError:
            return None

    @property
    def status(self) -> str:
        """`starting`, `stopped` or `refused` (both before the first step), or the status of its run."""
        alive, run = self._alive(), self.run
        status = run.status if run else None
        beat = run.meta.get("heartbeat") if run else None
        ours = is_time(beat) and beat >= self.started
        if status == "running" or (ours and status is not None and not self.error):
            return status
        if alive:
            return "starting"
        if status is None and self._was_interrupted():
            return "stopped"
        return "refused" if status is None or self.error else status

    @property
    def child(self) -> subprocess.Popen | None:
        """The process of the training, if this server started it for this run."""
        out, child = _CHILDREN.get(self.pid, (None, None))
        return child if out == self.out.resolve() else None

    def _alive(self) -> bool:
        """Return whether the process is alive; for a process of an earlier server, whether its id is in use."""
        child = self.child
        if child is not None:
            return child.poll() is None
        if self.run is not None:
            return False  # the lock of its run decides
        try:
            os.kill(self.pid, 0)  # checks, and sends no signal
        except OSError:
            return False
        return 0 <= time.time() - self.started < 600

    def _was_interrupted(self) -> bool:
        """Return whether the process was asked to stop: by this server, or as its log says."""
        is_asked = self.child is not None and self.pid in _ASKED
        return is_asked or next(reversed(self.lines), "") == "probe: interrupted"

    @property
    def lines(self) -> list[str]:
        """The last lines of the training's output, without the terminal's colour codes."""
        return last_lines(self.log)

    @property
    def error(self) -> str | None:
        """The error message with which the training refused to continue, if it did."""
        last = next(reversed(self.lines), "")
        return last.removeprefix("probe: error: ") if last.startswith("probe: error: ") else None


def describe() -> list[dict[str, Any]]:
    """Return all methods with their options, from `probe train --describe`; this takes some seconds.

    Raises:
        RunError: the trainers cannot be started.
    """
    process = subprocess.run([*command(), "--describe"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if process.returncode:
        last = next(reversed(process.stderr.strip().splitlines()), "no reason given")
        raise RunError(f"The training methods cannot be listed ({last}): try `probe train --help` in a terminal.")
    return json.loads(process.stdout.splitlines()[-1])


def command() -> list[str]:
    """Return the words of the command `probe train` for this Python.

    It imports nothing from the working directory, which may contain copied runs.
    """
    return [sys.executable, "-P", "-m", "probe.cli", "train"]


def check_name(root: Path, name: str) -> Path:
    """Check the name of a new run, and return its directory.

    Raises:
        ConfigError: the name is invalid or taken.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a run: use letters, digits and any of . _ - + = , @ and blanks.")
    out = root / name
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`{name}` exists already in `{root}`: choose another name, or continue that run.")
    return out


def start(method: str, out: Path, words: Sequence[str], methods: Collection[str]) -> Job:
    """Start `probe train METHOD --out OUT WORDS` in a new process group.

    Args:
        method: training method.
        out: directory of the run.
        words: further options.
        methods: known methods.

    Raises:
        ConfigError: the method is unknown, or the training is already running.
        RunError: the files next to the run cannot be written, or the process cannot be started.
    """
    if method not in methods:
        raise ConfigError(f"There is no method `{method}` to train `{out.name}` with, only {', '.join(methods)}.")
    with _STARTING:
        job = find(out)
        if job and job.status in ("starting", "running"):
            raise ConfigError(f"`{out.name}` is being trained already: stop it first, or choose another name.")
        first = command()
        argv = [*first, method, "--out", str(out), *words]
        folder = out.parent / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if folder.is_symlink():
                raise RunError(f"`{folder}` is a link to another folder, which is not written to: delete the link.")
            with _anew(folder / f"{out.name}.log") as log:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            _CHILDREN[child.pid] = out.resolve(), child
            _ASKED.discard(child.pid)  # an earlier process may have had the number
            now = time.time()
            about = {"method": method, "pid": child.pid, "started": now, "command": argv[len(first) - 1 :]}
            part = folder / f"{out.name}.part"
            with _anew(part) as file:
                file.write(json.dumps(about).encode())
            part.replace(folder / f"{out.name}.json")
        except OSError as error:
            raise RunError(f"The training cannot be started in `{out.parent}` ({error.strerror}).") from error
    return Job(out, method, child.pid, now)


def to_type(run: Run) -> str:
    """Return the command that continues a run that names code or an address, since only a person can allow their use.

    The result is empty for a run that names none: a button can continue it.
    """
    named = code_options(run.config) | host_options(run.config)
    words = [word for name, values in named.items() for word in (option(name), *values)]
    if _lacks_extension(run):
        words += [OPTION, "FILE.py"]
    line = ["probe", "train", run.method, "--out", os.path.relpath(run.path), "--resume", *words]
    return shlex.join(line) if words else ""


def _lacks_extension(run: Run) -> bool:
    """Return whether a run uses an annotator or reward of a plugin that this server has not loaded."""
    registry = {*annotators(), *verifiers()}
    annotator, data = run.config.get("annotator"), run.meta.get("data")
    rewards = data.get("rewards") if isinstance(data, dict) else None
    names = [name for name, own in rewards.items() if own] if isinstance(rewards, dict) else []
    judges = [name for name in names if name.replace("-", "_").isidentifier() and not _is_model(name)]
    if isinstance(annotator, str):
        judges.append(annotator_name(annotator))
    return bool({*judges} - registry) if isinstance(annotator, str | None) else False


def _is_model(name: str) -> bool:
    """Return whether a reward is a model on this machine."""
    try:
        return Path(name).expanduser().exists() or bool(locate(name))
    except RunError:
        return False


def find(out: Path) -> Job | None:
    """Return the last training started for a directory, or None."""
    folder = out.parent / FOLDER
    try:
        if folder.is_symlink():
            return None
        about = readable(parse_json(read_file(folder / f"{out.name}.json", follow=False)))
        method, pid, since = about["method"], about["pid"], about["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(method, str) or not is_pid(pid) or not is_time(since):
        return None
    return Job(out, method, pid, since)


def list_trainings(roots: Sequence[Path]) -> list[Job]:
    """List the trainings started from the dashboard and all running trainings, the newest first."""
    jobs: dict[Path, Job] = {}
    for root in roots:
        for file in sorted((root / FOLDER).glob("*.json")):
            job = find(root / file.stem)
            if job and (job.run or job.log.exists()):
                jobs[job.out] = job
        for path in run_directories(root) if root.is_dir() else []:
            run = Job(path, "", 0, 0.0).run
            if path not in jobs and run and run.status == "running" and run.method != "watch":
                pid = run.meta.get("pid")
                jobs[path] = Job(path, run.method, pid if is_pid(pid) else 0, time.time())
    return sorted(jobs.values(), key=lambda job: -job.started)


def stop(job: Job) -> None:
    """Ask a training to end after its step with a checkpoint (SIGINT); asked twice, it ends at once.

    Raises:
        RunError: its process cannot be identified with certainty, or is on another machine.
    """
    child, run = job.child, job.run
    if child is not None and child.poll() is None:
        _ASKED.add(child.pid)
        child.send_signal(signal.SIGINT)
        return
    pid = run.meta.get("pid") if run and run.status == "running" else None
    if run is None or run.meta.get("host") != socket.gethostname() or not holds(pid, run.path):
        raise RunError(f"`{job.out.name}` cannot be stopped from here: press Ctrl-C where it was started.")
    try:
        os.kill(cast(int, pid), signal.SIGINT)
    except OSError as error:
        raise RunError(f"`{job.out.name}` cannot be stopped ({error.strerror}).") from error


def is_time(value: object) -> TypeGuard[float]:
    """Return whether a value from a file is a time in seconds since 1970."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


def _anew(path: Path) -> IO[bytes]:
    """Create a new file in place of any existing one; the target of a link is not changed."""
    path.unlink(missing_ok=True)
    return path.open("xb")
