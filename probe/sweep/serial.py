"""The engine without Ray: one task after the other on this machine."""

from typing import Protocol

from probe.sweep.attempt import Attempt, Ended, Order
from probe.sweep.spec import Task


class Engine(Protocol):
    """Makes attempts at tasks; `serial.Serial`, or `ray_engine.OnRay`."""

    def has_room(self) -> bool:
        """Return whether it takes a further attempt now."""

    def check(self, task: Task) -> None:
        """Look whether a task can ever run here.

        Raises:
            ConfigError: no machine has what it takes up.
        """

    def start(self, order: Order) -> None:
        """Take an attempt, which begins as soon as there is a place for it."""

    def begun(self) -> dict[str, str]:
        """Return the attempts that have begun since the last call: the machine, by task."""

    def steps(self) -> dict[str, int]:
        """Return the steps that each task has made, where its run lies on another machine."""

    def poll(self) -> list[Ended]:
        """Return the attempts that have ended since the last call."""

    def stop(self) -> None:
        """Ask all attempts to end, as `Attempt.stop` does."""

    def close(self) -> None:
        """End all attempts, and what the engine has started itself."""


class Serial:
    """One attempt at a time."""

    def __init__(self) -> None:
        self._attempt: Attempt | None = None
        self._begun: dict[str, str] = {}

    def has_room(self) -> bool:
        """Return whether nothing runs."""
        return self._attempt is None

    def check(self, task: Task) -> None:
        """Check nothing: a task has all of this machine."""

    def start(self, order: Order) -> None:
        """Make an attempt."""
        self._attempt = Attempt(order)
        self._begun[order.task.name] = self._attempt.node

    def begun(self) -> dict[str, str]:
        """See `Engine`."""
        begun, self._begun = self._begun, {}
        return begun

    def steps(self) -> dict[str, int]:
        """Return nothing: all runs lie here."""
        return {}

    def poll(self) -> list[Ended]:
        """See `Engine`."""
        ended = self._attempt.poll() if self._attempt is not None else None
        if ended is None:
            return []
        self._attempt = None
        return [ended]

    def stop(self) -> None:
        """See `Engine`."""
        if self._attempt is not None:
            self._attempt.stop()

    def close(self) -> None:
        """See `Engine`."""
        if self._attempt is not None:
            self._attempt.close()
