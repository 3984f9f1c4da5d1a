"""JSON lines: appended whole, read on from where the last reading ended, torn and broken ones named."""

import errno
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.errors import RunError
from probe.runs.schema import RunWarning
from probe.runs.storage import disk
from probe.untrusted import parse_json

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Opens no symbolic link, where the system can say so."""


def refuse_link(path: Path) -> None:
    """Refuse to write lines through a symbolic link: a copied run could lead them into any file of its user.

    Raises:
        RunError: the file is one.
    """
    if path.is_symlink():
        raise RunError(
            f"`{path}` is a link to another file, and nothing is written through it: put the file itself in its place."
        )


class LineFile:
    """A file to which whole lines are appended, each in one write; a write that fails leaves no part of its line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_link(path)
        with disk(path):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK, 0o666)

    def append(self, lines: list[str]) -> None:
        """Append lines (without their ends)."""
        data = "".join(line + "\n" for line in lines).encode()
        with disk(self.path):
            status = os.fstat(self._handle)
            if not status.st_nlink:
                raise FileNotFoundError(errno.ENOENT, "it was deleted while it was being written")
            before = status.st_size
            try:
                done = 0
                while done < len(data):
                    done += os.write(self._handle, data[done:])
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._handle, before)
                raise

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        with disk(self.path):
            os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines to a file that is not kept open."""
    file = LineFile(path)
    try:
        file.append(lines)
    finally:
        file.close()


def cut_torn_line(path: Path) -> None:
    """Take a last line that was never finished off a file, and end a whole one, before more lines follow."""
    refuse_link(path)
    if not path.exists():
        return
    with disk(path), open(path, "rb+") as file:
        data = file.read()
        start = data.rfind(b"\n") + 1
        if start == len(data):
            return
        if _parse(data[start:]) is None:
            file.truncate(start)
        else:
            file.write(b"\n")


@dataclass(frozen=True)
class Position:
    """How far a file of lines has been read."""

    offset: int = 0
    line: int = 0
    inode: int = 0

    def continues(self, earlier: "Position") -> bool:
        """Whether what was read up to `earlier` still counts (the file was not replaced or cut meanwhile)."""
        return self.inode == earlier.inode and self.offset >= earlier.offset


def read_lines(path: Path, position: Position, *, live: bool) -> tuple[list[dict[str, Any]], Position]:
    """The objects on the lines after `position`, and the position after them.

    A broken line is left out with a `RunWarning` that names it. A last line without an end that is no object yet is
    left for the next call; unless the run is `live` (its writer may be in the middle of it) that is warned of too.
    A missing file has no lines. The position goes back to the start when the file was replaced or cut.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != position.inode or status.st_size < position.offset:
                position = Position(inode=status.st_ino)
            file.seek(position.offset)
            data = file.read()
    except FileNotFoundError:
        return [], Position()
    whole, tail = data[: data.rfind(b"\n") + 1], data[data.rfind(b"\n") + 1 :]
    raw = whole.split(b"\n")[:-1]
    rows = _parse_all(raw, path, position.line)
    offset, line = position.offset + len(whole), position.line + len(raw)
    if tail and (row := _parse(tail)) is not None:
        rows.append(row)
        offset, line = offset + len(tail), line  # the line's end, once it comes, counts the line
    elif tail.strip() and not live:
        warnings.warn(
            f"The last line ({line + 1}) of `{path}` was not finished and is left out: the run ended while writing it.",
            RunWarning,
            stacklevel=3,
        )
    return rows, Position(offset, line, position.inode)


def _parse_all(raw: list[bytes], path: Path, before: int) -> list[dict[str, Any]]:
    filled = [line for line in raw if line.strip()]
    with suppress(ValueError):  # all lines at once: faster than one by one
        rows = parse_json(b"[" + b",".join(filled) + b"]")
        if len(rows) == len(filled) and all(type(row) is dict for row in rows):
            return rows
    rows = []
    for index, line in enumerate(raw, start=before + 1):
        if not line.strip():
            continue
        row = _parse(line)
        if row is None:
            warnings.warn(f"Line {index} of `{path}` is broken and is left out.", RunWarning, stacklevel=4)
        else:
            rows.append(row)
    return rows


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
