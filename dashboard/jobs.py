"""Trainings as processes of their own: started, watched and stopped, found again by files beside their runs.

A training outlives the page and the server. What is known of it besides its run lies in `ROOT/.training/`: NAME.json
says how it was started, NAME.log is what it printed.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from probe.errors import ConfigError, RunError
from probe.runs.reader import Run
from probe.runs.roots import is_run, run_directories

FOLDER = ".training"
NAME = re.compile(r"[\w+=,@ -][\w.+=,@ -]*")
TAIL = 8192
_CHILDREN: dict[int, subprocess.Popen] = {}
"""Processes that this server has started, to learn how they ended."""
_STARTING = Lock()


@dataclass(frozen=True)
class Job:
    """One training on this machine."""

    out: Path
    """The directory of its run, which appears when the first step is taken."""
    method: str
    pid: int
    started: float
    """Seconds since 1970."""

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.out.parent / FOLDER / f"{self.out.name}.log"

    @property
    def run(self) -> Run | None:
        """Its run, once there is one that can be read."""
        try:
            return Run(self.out) if is_run(self.out) else None
        except RunError:
            return None

    @property
    def status(self) -> str:
        """`starting`, `refused` (it ended before it took a step), or the status of its run."""
        alive, run = self._alive(), self.run
        status = run.status if run else None
        ours = run is not None and float(run.meta.get("heartbeat") or 0) >= self.started
        if status == "running" or (ours and status is not None and not self.error):
            return status
        if alive:
            return "starting"
        return "refused" if status is None or self.error else status

    def _alive(self) -> bool:
        """Whether the process is there; one of an earlier server counts for as long as its number is in use."""
        child = _CHILDREN.get(self.pid)
        if child is not None:
            return child.poll() is None
        if self.run is not None:
            return False  # the lock of its run tells
        try:
            os.kill(self.pid, 0)
        except OSError:
            return False
        return time.time() - self.started < 600

    @property
    def lines(self) -> list[str]:
        """The last lines of what it has printed, without what colours a terminal."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
        return [line.rstrip() for line in plain.splitlines() if line.strip()]

    @property
    def error(self) -> str | None:
        """The sentence with which it refused to go on, if it did."""
        last = next(reversed(self.lines), "")
        return last.removeprefix("probe: error: ") if last.startswith("probe: error: ") else None


def describe() -> list[dict[str, Any]]:
    """All methods with their options, as `probe train --describe` gives them; it takes some seconds.

    Raises:
        RunError: the trainers cannot be started.
    """
    done = subprocess.run([*command(), "--describe"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = next(reversed(done.stderr.strip().splitlines()), "no reason given")
        raise RunError(f"The training methods cannot be listed ({last}): try `probe train --help` in a terminal.")
    return json.loads(done.stdout.splitlines()[-1])


def command() -> list[str]:
    """`probe train` with this Python."""
    return [sys.executable, "-m", "probe.cli", "train"]


def check_name(root: Path, name: str) -> Path:
    """The directory of a new run.

    Raises:
        ConfigError: the name cannot be one, or is taken.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a run: use letters, digits and any of . _ - + = , @ and blanks.")
    out = root / name
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`{name}` exists already in `{root}`: choose another name, or continue that run.")
    return out


def start(method: str, out: Path, words: Sequence[str]) -> Job:
    """Start `probe train METHOD --out OUT WORDS` in a process group of its own.

    Raises:
        ConfigError: the training is under way already.
        RunError: the files beside the run cannot be written, or the process cannot be started.
    """
    with _STARTING:
        known = find(out)
        if known and known.status in ("starting", "running"):
            raise ConfigError(f"`{out.name}` is being trained already: stop it first, or choose another name.")
        argv = [*command(), method, "--out", str(out), *words]
        folder = out.parent / FOLDER
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{out.name}.log").open("wb") as log:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            _CHILDREN[child.pid] = child
            now = time.time()
            about = {"method": method, "pid": child.pid, "started": now, "command": argv[3:]}
            part = folder / f"{out.name}.part"
            part.write_text(json.dumps(about), encoding="utf-8")
            part.replace(folder / f"{out.name}.json")
        except OSError as error:
            raise RunError(f"The training cannot be started in `{out.parent}` ({error.strerror}).") from error
    return Job(out, method, child.pid, now)


def find(out: Path) -> Job | None:
    """The training that was last started for a directory."""
    file = out.parent / FOLDER / f"{out.name}.json"
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return Job(out, str(about["method"]), int(about["pid"]), float(about["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def listed(roots: Sequence[Path]) -> list[Job]:
    """The trainings that were started from here, and all runs that are being trained; the newest first."""
    found: dict[Path, Job] = {}
    for root in roots:
        for file in sorted((root / FOLDER).glob("*.json")):
            job = find(root / file.stem)
            if job and (job.run or job.log.exists()):
                found[job.out] = job
        for path in run_directories(root) if root.is_dir() else []:
            run = Job(path, "", 0, 0.0).run
            if path not in found and run and run.status == "running" and run.method != "watch":
                found[path] = Job(path, run.method, int(run.meta.get("pid") or 0), time.time())
    return sorted(found.values(), key=lambda job: -job.started)


def stop(job: Job) -> None:
    """Ask a training to end after its step with a checkpoint (SIGINT); once more ends it at once.

    Raises:
        RunError: its process cannot be told for certain, or is on another machine.
    """
    child, run = _CHILDREN.get(job.pid), job.run
    if child is not None and child.poll() is None:
        child.send_signal(signal.SIGINT)
        return
    pid = run.meta.get("pid") if run and run.status == "running" else None
    if not pid or run is None or run.meta.get("host") != socket.gethostname():
        raise RunError(f"`{job.out.name}` cannot be stopped from here: press Ctrl-C where it was started.")
    try:
        os.kill(int(pid), signal.SIGINT)
    except OSError as error:
        raise RunError(f"`{job.out.name}` cannot be stopped ({error.strerror}).") from error
