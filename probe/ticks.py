"""Progress of a long computation: analyses call `tick(share)` between their parts, and the caller chooses the tick.

A tick may raise to stop the work; an analysis does not catch this and leaves no state behind.
"""

import time
from collections import deque
from collections.abc import Callable

Tick = Callable[[float], None]
"""Progress callback, called with the share that is done, 0 to 1."""
JOB = "PROBE_JOB"
"""Environment variable with the folder of the job that a process carries out (`probe.jobs`)."""
LISTENERS = list[Callable[[str, float | None, float | None], None]]()
"""Functions that hear what this process is doing (`announce`); a job's process has one."""


def announce(doing: str, share: float | None = None, left: float | None = None) -> None:
    """Tell all listeners what this process is doing.

    Args:
        doing: a few words, such as "loading base".
        share: share of it that is done, 0 to 1; None if unknown.
        left: remaining seconds; None if unknown.
    """
    for listener in LISTENERS:
        listener(doing, share, left)


def ignore(share: float) -> None:
    """Ignore the progress."""


def part(tick: "Tick | None", index: int, count: int) -> Tick:
    """Return the tick of one of several equal parts of a computation.

    Args:
        tick: tick of the whole computation, if any.
        index: number of the part, from 0.
        count: number of parts.
    """

    def moved(share: float) -> None:
        if tick is not None:
            tick((index + min(max(share, 0.0), 1.0)) / count)

    return moved


def between(tick: Tick, start: float, end: float) -> Tick:
    """Return the tick of the part between two shares of a computation."""
    return lambda share: tick(start + (end - start) * min(max(share, 0.0), 1.0))


RECENT_S = 60.0
"""Seconds over which a pace is measured, because the first part of resumed work is done immediately."""


class Pace:
    """Estimator of the remaining time of a computation."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._ticks: deque[tuple[float, float]] = deque([(self.started, 0.0)])

    def left(self, share: float) -> float | None:
        """Return the remaining seconds when a share from 0 to 1 is done; None if they cannot be estimated."""
        now = time.monotonic()
        self._ticks.append((now, share))
        while len(self._ticks) > 2 and now - self._ticks[1][0] > RECENT_S:
            self._ticks.popleft()
        before, done = self._ticks[0]
        if not 0 < share < 1 or share <= done or now <= before:
            return None
        return (1 - share) * (now - before) / (share - done)
