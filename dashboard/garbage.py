"""Garbage collection at times when no reader waits for a page.

A full collection visits all loaded objects of libraries and models and takes 40 to 250 ms, in some responses twice if
it runs automatically.
"""

import gc
from threading import Lock, Timer

SELDOM = 1000
"""Number of young-generation collections between two automatic full ones; Python's default is 10."""
QUIET_S = 2.0
"""Seconds without a new page before garbage is collected."""

_lock = Lock()
_next: Timer | None = None


def settle() -> None:
    """Exclude all objects loaded so far from later collections, and make automatic full collections rare (`SELDOM`)."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], SELDOM)


def collect_later(seconds: float = QUIET_S) -> Timer:
    """Collect garbage after some seconds without a request for a page."""
    global _next
    with _lock:
        if _next is not None:
            _next.cancel()
        _next = Timer(seconds, gc.collect)
        _next.name, _next.daemon = "probe-garbage", True
        _next.start()
        return _next
