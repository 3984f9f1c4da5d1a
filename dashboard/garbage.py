"""Python's search for garbage, at times when nobody waits for an answer.

It goes through all that is loaded, libraries and models: 40 to 250 ms, in some answers twice if it comes by itself.
"""

import gc
from threading import Lock, Timer

SELDOM = 1000
"""Searches for young garbage in between two for old one that come by themselves; Python's own choice is 10."""
QUIET_S = 2.0
"""Seconds without another page after which it is searched for."""

_lock = Lock()
_next: Timer | None = None


def settle() -> None:
    """Keep what is loaded now until the server ends, and exclude it from all later collections.

    Full collections that come by themselves become rare (`SELDOM`).
    """
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], SELDOM)


def collect_later(seconds: float = QUIET_S) -> Timer:
    """Collect garbage once no page was asked for during some seconds."""
    global _next
    with _lock:
        if _next is not None:
            _next.cancel()
        _next = Timer(seconds, gc.collect)
        _next.name, _next.daemon = "probe-garbage", True
        _next.start()
        return _next
