"""Memory that a process holds, by the settings of glibc's allocator; other C libraries are left as they are."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt`."""
LARGEST_KEPT = 2**25
"""Bytes of the largest piece of memory that is kept; glibc allows no more."""
ARENAS = 2
"""Number of heaps that the threads of a server share."""


def keep_memory() -> None:
    """Let this process keep the memory that a step of a training frees for the next one.

    Otherwise each step returns much of it to the system and is given it again page by page, which took a fourth of the
    steps of a small GPT-2 (docs/log.md). The process never holds more than its peak.
    """
    _set(M_MMAP_THRESHOLD, LARGEST_KEPT)
    _set(M_TRIM_THRESHOLD, 2**31 - 1)


def share_heaps() -> None:
    """Let all threads of this process share a few heaps.

    Otherwise glibc gives each of many threads a heap of its own, with free memory that no other thread uses.
    """
    _set(M_ARENA_MAX, ARENAS)


def _set(parameter: int, value: int) -> None:
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(parameter, value)
