"""Runs of a sweep in a store: taken over by each attempt, uploaded during training, downloaded where they are read.

An attempt claims a number in the store (`probe.runs.store.remote.claim`), which fences off all earlier attempts, and
continues from what they have uploaded. A file next to the runs, `.sweep/copies/NAME`, holds the number with which the
local copy was taken over; if the store has another number, its copy is newer and replaces the local one.
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
from probe.runs.store.remote import claim, download, newest_attempt
from probe.runs.store.uploads import Uploads
from probe.untrusted import read_file

COPIES = "copies"
NUMBER = "number"
WAIT_S = 600.0
"""Seconds that a task waits for another task on its machine that fetches the same run."""


@dataclass(frozen=True)
class InStore:
    """The store of a sweep; see `probe.sweep.attempt.Store`."""

    url: str
    """Address of the folder of its runs, such as `s3://bucket/runs/betas`."""

    def address(self, run: Path) -> str:
        """Return the address of a run in the store."""
        return f"{self.url.rstrip('/')}/{run.name}"

    def newest(self, run: Path) -> int:
        """Return the highest number claimed for a run, or 0 if the run is not in the store.

        Raises:
            ProbeError: the store cannot be reached, or its package is not installed.
        """
        return newest_attempt(Folder(self.address(run)))

    def bring(self, run: Path) -> None:
        """Download a run of an earlier task to this machine.

        Raises:
            ProbeError: it is not in the store, or cannot be fetched.
        """
        with _alone(run):
            if not (is_run(run) and Run(run).status == "finished"):
                self._fetch(run, self.newest(run))

    def watch(self, run: Path, number: int) -> Uploads:
        """Take over a run, and download it unless the local copy is as new.

        Raises:
            ProbeError: it cannot be fetched, or the number is taken.
        """
        with _alone(run):
            before = self.newest(run)
            is_there = claim(self.address(run), number)
            if is_there and not (is_run(run) and _number(run) == before):
                self._fetch(run, number)
            _note(run, number)
        return Uploads(run, self.address(run), number)

    def _fetch(self, run: Path, number: int) -> None:
        """Replace the local copy with the one in the store, if there is one."""
        new = run.with_name(f".{run.name}.{os.getpid()}.new")
        download(self.address(run), new)
        with disk(run):
            replace_folder(new, run)
        _note(run, number)


def _folder(run: Path) -> Path:
    return run.parent / SWEEP / COPIES / run.name


def _number(run: Path) -> int | None:
    """Return the number with which the local copy was taken over, or None if unknown."""
    try:
        return int(read_file(_folder(run) / NUMBER))
    except (OSError, ValueError):
        return None


def _note(run: Path, number: int) -> None:
    with disk(_folder(run)):
        write_atomic(_folder(run) / NUMBER, str(number).encode())


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """Hold a lock on a run against other tasks on this machine that fetch it.

    Raises:
        RunError: another task holds the lock too long.
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
