"""One writer a directory: a lock that dies with its holder, and that no copy of the directory has."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeGuard

from probe.errors import RunError
from probe.runs.storage import disk

# Windows has no fcntl: no lock there, the heartbeat alone tells.
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None

IN_USE = "`{}` is being written by another process: wait until it has ended, or choose another folder."


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The lock of a directory; it is kept when the context ends well and given back after an error.

    Raises:
        RunError: somebody else holds it.
    """
    try:
        with disk(path):
            handle = _take(path)
    except RunError as error:
        raise (RunError(IN_USE.format(path)) if isinstance(error.__cause__, BlockingIOError) else error) from None
    try:
        yield handle
    except BaseException:
        unlock(handle)
        raise


def _take(directory: Path) -> int | None:
    """Lock a directory for writing; the lock ends with the handle, or with the process however that ends.

    Returns:
        The handle to pass to `unlock`, or None where the file system knows no locks.

    Raises:
        BlockingIOError: somebody else holds the lock.
    """
    if fcntl is None:
        return None
    handle = os.open(directory, os.O_RDONLY)
    patience = 5
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if not patience:
                os.close(handle)
                raise
            patience -= 1  # it may be a reader in the instant of `is_locked`
            time.sleep(0.02)
        except OSError:
            os.close(handle)
            return None


def unlock(handle: int | None) -> None:
    """Give a lock back, also for processes forked meanwhile."""
    if handle is not None and fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def is_pid(value: object) -> TypeGuard[int]:
    """Whether a value from a file can be a process that is not the system's own."""
    return type(value) is int and 1 < value < 2**31


def holds(pid: object, directory: Path) -> bool:
    """Whether a process holds the lock of a directory; False also where the system does not tell (only Linux does).

    Args:
        pid: of the process; a number that was read from a file may be anything.
        directory: of a run.
    """
    if not is_pid(pid):
        return False
    process = Path(f"/proc/{pid}")
    try:
        wanted = os.stat(directory)
        for handle in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(os.stat(handle), wanted) and "FLOCK" in (
                    process / "fdinfo" / handle.name
                ).read_text(encoding="utf-8"):
                    return True
    except OSError:
        return False
    return False


def is_locked(directory: Path) -> bool | None:
    """Whether a process holds the lock of a directory, or None where that cannot be known."""
    if fcntl is None:
        return None
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(handle)
