"""Runs of a sweep in a store: taken over by each attempt, sent while they are trained, brought where they are read.

An attempt takes a number of the store (`probe.runs.store.remote.claim`), which fences all earlier ones off, and goes on
from what they have sent. A note beside the runs, in `.sweep/copies/NAME`, has the number that the copy here was taken
over with: with another one the copy in the store is newer and takes its place.
"""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from probe.errors import RunError
from probe.runs.addresses import is_run
from probe.runs.directories import SWEEP
from probe.runs.reader import Run
from probe.runs.storage import disk, hold_lock, replace_folder, unlock, write_atomic
from probe.runs.store.objects import Folder
from probe.runs.store.remote import Fenced, claim, download, newest_attempt
from probe.runs.store.uploads import Uploads
from probe.untrusted import read_file

COPIES = "copies"
NUMBER = "number"
WAIT_S = 600.0
"""How long a task waits for another one on its machine that fetches the same run."""


class Copies(Uploads):
    """The uploads of an attempt."""

    def taken_over(self) -> bool:
        """Return whether a newer attempt has taken the run over."""
        return isinstance(self.problem, Fenced)


@dataclass(frozen=True)
class InStore:
    """The store of a sweep; see `probe.sweep.attempt.Store`."""

    url: str
    """The address of the folder of its runs, such as `s3://bucket/runs/betas`."""

    def address(self, run: Path) -> str:
        """Return the address of a run in the store."""
        return f"{self.url.rstrip('/')}/{run.name}"

    def newest(self, run: Path) -> int:
        """Return the highest number that was taken for a run, or 0 where it is not in the store.

        Raises:
            ProbeError: the store cannot be reached, or its package is not installed.
        """
        return newest_attempt(Folder(self.address(run)))

    def bring(self, run: Path) -> None:
        """Bring a run of an earlier task to this machine.

        Raises:
            ProbeError: it is not in the store, or cannot be fetched.
        """
        with _alone(run):
            if not (is_run(run) and Run(run).status == "finished"):
                self._fetch(run, self.newest(run))

    def watch(self, run: Path, number: int) -> Copies:
        """Take over a run, and bring it unless the copy here is as new.

        Raises:
            ProbeError: it cannot be fetched, or the number is taken.
        """
        with _alone(run):
            before = self.newest(run)
            is_there = claim(self.address(run), number)
            if is_there and not (is_run(run) and _number(run) == before):
                self._fetch(run, number)
            _note(run, number)
        return Copies(run, self.address(run), number)

    def _fetch(self, run: Path, number: int) -> None:
        """Put the copy of the store in the place of the one here, if there is one."""
        new = run.with_name(f".{run.name}.{os.getpid()}.new")
        download(self.address(run), new)
        with disk(run):
            replace_folder(new, run)
        _note(run, number)


def _folder(run: Path) -> Path:
    return run.parent / SWEEP / COPIES / run.name


def _number(run: Path) -> int | None:
    """Return the number with which the copy here was taken over, or None where nothing is known."""
    try:
        return int(read_file(_folder(run) / NUMBER))
    except (OSError, ValueError):
        return None


def _note(run: Path, number: int) -> None:
    with disk(_folder(run)):
        write_atomic(_folder(run) / NUMBER, str(number).encode())


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Lock a run against other tasks on this machine that fetch it.

    Raises:
        RunError: another one holds it too long.
    """
    folder, end = _folder(run), time.monotonic() + WAIT_S
    with disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as stack:
            try:
                handle = stack.enter_context(hold_lock(folder))
            except RunError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
                continue
            yield
            unlock(handle)
            return
