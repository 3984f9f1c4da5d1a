"""Progress of a long computation: analyses call `tick(share)` between their parts, and the caller decides what it does.

A tick may raise to stop the work; an analysis lets that through and leaves nothing behind.
"""

from collections.abc import Callable

Tick = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def ignore(share: float) -> None:
    """A tick for nobody."""


def part(tick: "Tick | None", index: int, count: int) -> Tick:
    """The tick of one of several equal parts of a computation.

    Args:
        tick: of the whole, if anybody waits.
        index: which part, from 0.
        count: how many parts.
    """

    def moved(share: float) -> None:
        if tick is not None:
            tick((index + min(max(share, 0.0), 1.0)) / count)

    return moved
