"""One computation at a time, in the order in which they were asked for; whoever waits knows what is computed."""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition


@dataclass(eq=False)
class Work:
    """A computation that a session asked for."""

    key: Hashable
    """What it gives is kept under this."""
    label: str
    """What is computed, and for which models; Markdown."""
    begun: float | None = None
    """When its turn came (`time.monotonic`); None while it waits."""
    left: BaseException | None = None
    """What ends the run of a reader who has left, while another session waits for the same."""

    @property
    def seconds(self) -> float:
        """Seconds that the computation has taken so far; 0 while it waits."""
        return 0.0 if self.begun is None else time.monotonic() - self.begun


class Turns:
    """A line of computations: the first is computed, the others wait."""

    def __init__(self) -> None:
        self._line: list[Work] = []
        self._change = Condition()

    @contextmanager
    def stand(self, work: Work) -> Iterator[None]:
        """Stand in the line until the block ends."""
        with self._change:
            self._line.append(work)
        try:
            yield
        finally:
            with self._change:
                self._line.remove(work)
                self._change.notify_all()

    def first(self) -> Work | None:
        """Return what is computed now."""
        with self._change:
            return self._line[0] if self._line else None

    def wait(self, first: Work, seconds: float) -> None:
        """Wait until another computation is the first, or the seconds are over."""
        with self._change:
            self._change.wait_for(lambda: first not in self._line, seconds)

    def wanted(self, work: Work) -> bool:
        """Return whether another session waits for the same result."""
        with self._change:
            return any(other.key == work.key for other in self._line if other is not work)
