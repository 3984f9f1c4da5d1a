"""Cache of results, bounded in number and in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import Any

RESULTS = 256
"""Largest number of results kept for all sessions."""

ROOM = 2**29
"""Largest total of bytes of their arrays; the latest result is kept regardless of its size."""


class Results:
    """Results of all sessions in order of last use; the least recently used are dropped if there are too many."""

    def __init__(self, most: int = RESULTS, room: int = ROOM) -> None:
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock, self._most, self._room = Lock(), most, room

    def get(self, key: Hashable) -> Any:
        """Return a cached result, or None."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any) -> None:
        """Cache a result."""
        with self._lock:
            self._kept[key] = value, nbytes(value)
            self._kept.move_to_end(key)
            total = sum(size for _, size in self._kept.values())
            while len(self._kept) > self._most or (total > self._room and len(self._kept) > 1):
                total -= self._kept.popitem(last=False)[1][1]


def nbytes(value: Any) -> int:
    """Count the bytes of arrays, tensors and tables in a result, including nested dataclasses, tuples and dicts."""
    if hasattr(value, "memory_usage"):
        usage = value.memory_usage(index=True)
        return int(usage if isinstance(usage, int) else usage.sum())
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    if is_dataclass(value):
        return sum(nbytes(getattr(value, part.name)) for part in fields(value))
    if isinstance(value, dict):
        return sum(nbytes(part) for part in value.values())
    return sum(nbytes(part) for part in value) if isinstance(value, list | tuple) else 0
