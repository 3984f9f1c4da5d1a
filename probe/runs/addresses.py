"""Recognition of runs, store addresses and the cache of fetched runs, from paths or names alone."""

import os
import re
from pathlib import Path

RUN_FILE = "run.json"
"""Name of the file that makes a folder a run."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
"""Beginning of a store's address; a drive of Windows has one letter."""


def is_url(ref: object) -> bool:
    """Return whether a reference is the address of a store, such as `s3://bucket/runs`."""
    return isinstance(ref, str) and ADDRESS.match(ref) is not None


def is_run(path: Path) -> bool:
    """Return whether `path` is a directory that holds a run (readable or not)."""
    return os.path.lexists(path / RUN_FILE)  # reading reports an entry that is not a file


def cache_root() -> Path:
    """Return the folder of fetched runs: $PROBE_CACHE, else `probe` in the user's cache directory."""
    given = os.environ.get("PROBE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.realpath(os.path.expanduser(given or os.path.join(home, "probe"))))


def is_cached(path: str | Path) -> bool:
    """Return whether a path lies in the cache of a store."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(cache_root())
    except (OSError, ValueError):  # a name that no file can have
        return False
