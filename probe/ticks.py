"""Progress of a long computation: analyses call `tick(share)` between their parts, whoever waits decides what it does.

A tick may raise to stop the work; an analysis lets that through and leaves nothing behind.
"""

from collections.abc import Callable

Tick = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


def ignore(share: float) -> None:
    """A tick for nobody."""
