"""The engine without Ray: one task after the other on this machine."""

from typing import Protocol

from probe.sweep.attempt import Attempt, Ended, Order
from probe.sweep.spec import Task


class Engine(Protocol):
    """Interface of what runs attempts at tasks: `serial.Serial` or `ray_engine.OnRay`."""

    def has_room(self) -> bool:
        """Return whether the engine can take another attempt now."""

    def check(self, task: Task) -> None:
        """Check that a task can run here at all.

        Raises:
            ConfigError: no machine has the CPUs or GPUs that it needs.
        """

    def start(self, order: Order) -> None:
        """Accept an attempt, which begins as soon as there is room for it."""

    def begun(self) -> dict[str, str]:
        """Return the attempts that have begun since the last call: task -> machine."""

    def steps(self) -> dict[str, int]:
        """Return the steps of each task whose run is on another machine."""

    def poll(self) -> list[Ended]:
        """Return the attempts that have ended since the last call."""

    def stop(self) -> None:
        """Ask all attempts to end, as `Attempt.stop` does."""

    def close(self) -> None:
        """End all attempts, and everything that the engine has started."""


class Serial:
    """Engine that runs one attempt at a time."""

    def __init__(self) -> None:
        self._attempt: Attempt | None = None
        self._begun: dict[str, str] = {}

    def has_room(self) -> bool:
        """Return whether no attempt is running."""
        return self._attempt is None

    def check(self, task: Task) -> None:
        """Accept every task: it can use the whole machine."""

    def start(self, order: Order) -> None:
        """Start an attempt."""
        self._attempt = Attempt(order)
        self._begun[order.task.name] = self._attempt.node

    def begun(self) -> dict[str, str]:
        """See `Engine`."""
        begun, self._begun = self._begun, {}
        return begun

    def steps(self) -> dict[str, int]:
        """Return an empty dictionary: all runs are on this machine."""
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
