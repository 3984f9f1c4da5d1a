"""Progress of a long computation: analyses call `tick(share)` between their parts, and the caller decides what it does.

A tick may raise to stop the work; an analysis lets that through and leaves nothing behind.
"""

import time
from collections import deque
from collections.abc import Callable

Tick = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def ignore(share: float) -> None:
    """Ignore the share that is done, where nobody follows the progress."""


def part(tick: "Tick | None", index: int, count: int) -> Tick:
    """Return the tick of one of several equal parts of a computation.

    Args:
        tick: of the whole, if anybody waits.
        index: which part, from 0.
        count: how many parts.
    """

    def moved(share: float) -> None:
        if tick is not None:
            tick((index + min(max(share, 0.0), 1.0)) / count)

    return moved


def between(tick: Tick, start: float, end: float) -> Tick:
    """Return the tick of the work between two shares of a computation."""
    return lambda share: tick(start + (end - start) * min(max(share, 0.0), 1.0))


RECENT_S = 60.0
"""Seconds over which a pace is measured: work that goes on where it stopped has its first part at once."""


class Pace:
    """How long the rest of a computation will take."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._ticks: deque[tuple[float, float]] = deque([(self.started, 0.0)])

    def left(self, share: float) -> float | None:
        """Return the seconds that are left once a share from 0 to 1 is done; None where nothing tells."""
        now = time.monotonic()
        self._ticks.append((now, share))
        while len(self._ticks) > 2 and now - self._ticks[1][0] > RECENT_S:
            self._ticks.popleft()
        before, done = self._ticks[0]
        if not 0 < share < 1 or share <= done or now <= before:
            return None
        return (1 - share) * (now - before) / (share - done)
