"""A job's folder beside the runs: how it was started, how far it is, what it printed and how it ended.

`ROOT/.jobs/NAME/` has `job.json` (how it was started), `log.txt` (its output), `progress.json`, `queue.json` (its
position among waiting jobs), `stop.json` (it was asked to stop) and `end.json`. A job's process holds the lock of the
folder while it lives. All files are untrusted: their content is shown, but nothing in them is run or signalled, unless
the lock names the process, or a signature shows that this user wrote the command.
"""

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

from probe.errors import ProbeError
from probe.runs.addresses import cache_root
from probe.runs.storage import is_locked, last_lines
from probe.untrusted import parse_json, read_file, readable

FOLDER = ".jobs"
"""Folder of the jobs, next to the runs."""
RECORD, LOG, PROGRESS, QUEUE, STOP, END = (
    "job.json",
    "log.txt",
    "progress.json",
    "queue.json",
    "stop.json",
    "end.json",
)
LIVE = ("waiting", "running")
"""States of a job whose process is alive: waiting for a core, and running."""
STOPPED = 130
"""Exit status of a command that was interrupted."""
FRESH_S = 30.0
"""Seconds for which a report of progress shows that a process is alive, where the system has no locks."""
LOST = "Its process ended without a message: it was killed, or the machine was switched off."


@dataclass(frozen=True)
class JobProgress:
    """How far a job is, as its process last reported."""

    doing: str = "starting"
    """Present work in a few words."""
    share: float | None = None
    """Share of the work done, 0 to 1; None while it is unknown."""
    left: float | None = None
    """Remaining seconds; None while they cannot be estimated."""
    pid: int = 0
    begun: bool = False
    """Whether the command has begun; before that, the job waits for a core."""
    time: float = 0.0
    """Time of the report, in seconds since 1970."""


@dataclass(frozen=True)
class Job:
    """A command of Probe that runs, or ran, as a process of its own."""

    folder: Path
    title: str
    """Description for people."""
    words: tuple[str, ...]
    """Words of the command after `probe`."""
    started: float
    """Start time, in seconds since 1970."""
    directory: str = ""
    """Working directory of the command."""
    link: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Page that shows the result (`page`), and the choices on it."""
    signature: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Name of the job; of a training, the name of its run."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """Command of the job: `train`, `audit`, ..."""
        return self.words[0] if self.words else ""

    @property
    def is_ours(self) -> bool:
        """Return whether this user started the job in this folder; False for a folder copied from elsewhere."""
        return hmac.compare_digest(self.signature, sign(self.folder, self.directory, self.words))

    @property
    def status(self) -> str:
        """`waiting` for a core, `running`, `finished`, `stopped` or `failed`."""
        end = _read(self.folder / END)
        if end is None and self._is_alive():
            return "running" if self.progress.begun else "waiting"
        code = None if end is None else end.get("exit")
        if type(code) is int and code == 0:
            return "finished"
        # Python may answer the signal with any error while it loads.
        is_stopped = (type(code) is int and code == STOPPED) or (self.folder / STOP).exists()
        return "stopped" if is_stopped else "failed"

    @property
    def progress(self) -> JobProgress:
        """The last report of progress."""
        found = _read(self.folder / PROGRESS) or {}
        share, left, doing = found.get("share"), found.get("left"), found.get("doing")
        at, pid = found.get("time"), found.get("pid")
        return JobProgress(
            doing=doing if isinstance(doing, str) else JobProgress.doing,
            share=min(float(share), 1.0) if is_time(share) else None,
            left=float(left) if is_time(left) else None,
            pid=pid if type(pid) is int else 0,
            begun=found.get("begun") is True,
            time=float(at) if is_time(at) else 0.0,
        )

    @property
    def order(self) -> float:
        """Position among the waiting jobs: the lowest is next."""
        order = (_read(self.folder / QUEUE) or {}).get("order")
        return float(order) if is_time(order) else self.started

    @property
    def ended(self) -> float | None:
        """Time of the end, in seconds since 1970, if the process wrote it."""
        at = (_read(self.folder / END) or {}).get("time")
        return float(at) if is_time(at) else None

    @property
    def lines(self) -> list[str]:
        """The last lines of the output, without the terminal's colour codes."""
        return last_lines(self.folder / LOG)

    @property
    def error(self) -> str:
        """Why the job failed, in one sentence; empty if it did not."""
        if self.status != "failed":
            return ""
        last = next(reversed(self.lines), "")
        if last.startswith("probe: error: "):
            return last.removeprefix("probe: error: ")
        return last if (self.folder / END).exists() and last else LOST

    def _is_alive(self) -> bool:
        locked = is_locked(self.folder) if self.folder.is_dir() else False
        return time.time() - max(self.progress.time, self.started) < FRESH_S if locked is None else locked

    @cached_property
    def root(self) -> Path:
        """Folder of runs that the job belongs to."""
        return self.folder.parent.parent


def read_job(folder: Path) -> Job | None:
    """Return the job of a folder, or None if there is none that can be read."""
    if folder.is_symlink() or folder.parent.is_symlink():
        return None
    found = _read(folder / RECORD)
    if found is None:
        return None
    words, started, link = found.get("words"), found.get("started"), found.get("link")
    title, directory, signature = (found.get(name) for name in ("title", "directory", "signature"))
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words) and is_time(started)):
        return None
    return Job(
        folder,
        title if isinstance(title, str) else folder.name,
        tuple(words),
        float(started),
        directory if isinstance(directory, str) else "",
        {name: each for name, each in link.items() if isinstance(each, str)} if isinstance(link, dict) else {},
        signature if isinstance(signature, str) and signature.isascii() else "",
    )


def jobs_in(root: Path) -> Iterator[Job]:
    """Yield the jobs beside the runs of a folder."""
    with suppress(OSError):
        for entry in sorted((root / FOLDER).iterdir()):
            job = read_job(entry)
            if job is not None:
                yield job


def sign(folder: Path, directory: str, words: Sequence[str]) -> str:
    """Return the signature of a command in a folder, which only this user can make."""
    return sign_text(json.dumps([os.path.realpath(folder), directory, list(words)]))


def sign_text(text: str) -> str:
    """Return the signature of a text, which only this user can make on this machine."""
    return hmac.new(_key(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Return the user's key for signatures, which is created at the first use; a new one if it cannot be stored."""
    file = cache_root() / "jobs.key"
    try:
        return read_file(file)
    except OSError:
        key = secrets.token_bytes(32)
        with suppress(OSError, ProbeError):
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as target:
                target.write(key)
            return key
        with suppress(OSError):
            return read_file(file)  # another process was first
        return key


def write(file: Path, entries: Mapping[str, Any]) -> None:
    """Write a file of a job in one step; a power cut may lose it.

    Raises:
        OSError: it cannot be written.
    """
    part = file.with_suffix(".part")
    part.unlink(missing_ok=True)
    with part.open("xb") as target:
        target.write(json.dumps(entries).encode())
    part.replace(file)


def is_time(value: object) -> TypeGuard[float]:
    """Return whether a value from a file is a time in seconds, or a share."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


def _read(file: Path) -> dict[str, Any] | None:
    """Return the entries of a JSON file of a job; None if there are none."""
    try:
        found = readable(parse_json(read_file(file, follow=False)))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
