"""The process of a job: it waits for a core, reports its progress, and records how it ended."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from probe import ticks
from probe.jobs.job import END, PROGRESS, STOP, STOPPED, jobs_in, write
from probe.runs.addresses import cache_root
from probe.runs.storage import hold_lock, unlock

POLL_S = 0.3
"""Seconds between two looks for a free core."""
REPORT_S = 0.5
"""Seconds between two reports of the share done; a change of what is being done is reported at once."""


class Reporter:
    """Writer of a job's progress."""

    def __init__(self, folder: Path) -> None:
        self._file, self._last, self._doing, self.begun = folder / PROGRESS, 0.0, "", False

    def report(self, doing: str, share: float | None = None, left: float | None = None) -> None:
        """Write what the job is doing, the share done and the remaining seconds; a full disk stops no job."""
        now = time.time()
        if doing == self._doing and now - self._last < REPORT_S:
            return
        self._last, self._doing = now, doing
        about = {"doing": doing, "share": share, "left": left, "pid": os.getpid(), "begun": self.begun, "time": now}
        with suppress(OSError):
            write(self._file, about)


def carry_out(folder: Path, command: Callable[[], int]) -> int:
    """Run the command of a job in its turn, and return its exit status.

    Args:
        folder: folder of the job, whose lock this process has inherited.
        command: the command; it prints its own errors.
    """
    reporter = Reporter(folder)
    status = 1
    try:
        if (folder / STOP).exists():  # the signal came before this process could hear it
            raise KeyboardInterrupt
        with _turn(folder, reporter):
            reporter.begun = True
            reporter.report("starting")
            ticks.LISTENERS.append(reporter.report)
            status = command()
    except KeyboardInterrupt:
        status = STOPPED
    finally:
        with suppress(OSError):
            write(folder / END, {"exit": status, "time": time.time()})
    return status


@contextmanager
def _turn(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Wait until the job is the next and a core is free, and keep that core until the context ends."""
    while True:
        core = _take_core() if _is_next(folder) else None
        if core is not None:
            break
        reporter.report("waiting for a core")
        time.sleep(POLL_S)
    try:
        yield
    finally:
        unlock(core if core >= 0 else None)


def _is_next(folder: Path) -> bool:
    """Return whether no other job beside the same runs waits before this one."""
    waiting = [job for job in jobs_in(folder.parent.parent) if job.status == "waiting"]
    first = min(waiting, key=lambda job: (job.order, job.name), default=None)
    return first is None or first.name == folder.name


def _take_core() -> int | None:
    """Take one of this machine's cores among the user's jobs; None if all are taken.

    The handle is negative where the system has no locks, and nobody waits.
    """
    from probe.errors import RunError

    for number in range(cores()):
        place = cache_root() / "cores" / str(number)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with hold_lock(place) as handle:
                return -1 if handle is None else handle
        except RunError:
            continue
        except OSError:
            return -1
    return None


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
