"""Files and folders that appear whole or not at all, and disk failures as one sentence."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from probe.errors import RunError

# Windows has no fcntl: no lock there, the heartbeat alone tells.
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn a failure of the disk into one sentence.

    Raises:
        RunError: an OSError happened inside.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file stands where a folder is needed, so move it or choose another folder"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "choose a folder that you may write to"
        else:
            remedy = "free some space there, or choose a folder that you may write to"
        raise RunError(f"`{path}` could not be written ({error.strerror or error}): {remedy}.") from error


def check_folder(path: Path) -> None:
    """Refuse a folder that cannot be made or written to, before any work is done for it.

    Raises:
        RunError: a file stands in its way, or it may not be written to.
    """
    standing = next((place for place in (path, *path.parents) if place.exists()), Path())
    if not standing.is_dir():
        raise RunError(f"`{path}` cannot be a folder, since `{standing}` is a file: choose another folder.")
    if not os.access(standing, os.W_OK):
        raise RunError(f"`{standing}` may not be written to: choose another folder.")


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either there in full or not at all, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable (where the system lets a folder be opened)."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_folder(source: Path, target: Path) -> None:
    """Move a directory to a name that may be taken by an older one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_tree(root: Path) -> None:
    """Wait until all files in a folder are on the disk."""
    for path in root.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
