"""A queue that runs one computation at a time, in the order of requests; waiting readers see what is computed."""

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition


@dataclass(eq=False)
class Work:
    """A computation requested by a session."""

    key: Hashable
    """Key of its result in the cache."""
    label: str
    """Description of the computation and its models, as Markdown."""
    begun: float | None = None
    """Time at which it started (`time.monotonic`); None while it waits."""
    left: BaseException | None = None
    """Exception that ends the script run of a reader who has left, while another session waits for the same result."""

    @property
    def seconds(self) -> float:
        """Duration of the computation so far in seconds; 0 while it waits."""
        return 0.0 if self.begun is None else time.monotonic() - self.begun


class Turns:
    """A queue of computations: the first runs, the others wait."""

    def __init__(self) -> None:
        self._line: list[Work] = []
        self._change = Condition()

    @contextmanager
    def stand(self, work: Work) -> Iterator[None]:
        """Keep a place in the queue until the block ends."""
        with self._change:
            self._line.append(work)
        try:
            yield
        finally:
            with self._change:
                self._line.remove(work)
                self._change.notify_all()

    def first(self) -> Work | None:
        """Return the running computation."""
        with self._change:
            return self._line[0] if self._line else None

    def wait(self, first: Work, seconds: float) -> None:
        """Wait until another computation is the first, or until the time is over."""
        with self._change:
            self._change.wait_for(lambda: first not in self._line, seconds)

    def wanted(self, work: Work) -> bool:
        """Return whether another session waits for the same result."""
        with self._change:
            return any(other.key == work.key for other in self._line if other is not work)
