"""Values that are read again if room is needed: the ones used last, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Held(Generic[T]):
    """Values by key; all sessions share them, so they must not be changed."""

    def __init__(self, most: int) -> None:
        """Hold values of at most `most` bytes together; the last one stays whatever its size."""
        self._most, self._size = most, 0
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> T | None:
        """Return the value of a key, which counts as its use; None if it is not held."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: T, size: int) -> None:
        """Hold a value of `size` bytes; those used longest ago make room for it."""
        with self._lock:
            self._size += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            while self._size > self._most and len(self._values) > 1:
                self._size -= self._values.popitem(last=False)[1][1]

    def get_or(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Return the value of a key, made if it is not held."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found, size(found))
        return found
