"""Access to untrusted files: opened without blocking, read up to a size, parsed up to a depth, with unified errors.

All code that reads a file of unknown origin uses this module (checked by tests/test_policy.py): a name can stand for a
pipe without a writer, an endless device, or a file larger than memory. Only the call that reads the file is inside
`foreign`; errors of the project's own code are not converted.
"""

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from probe.errors import ProbeError, is_failure

_BEYOND = re.compile(r"\\ud|\d{19}", re.IGNORECASE)
"""Pattern of possible halves of surrogate pairs, or integers beyond 64 bits."""
MB = 2**20
RECORD = 16 * MB
"""Largest size in bytes of a small document: run.json, a configuration, an index, an audit, findings, a spec. Parsed it
can take thirty times as much memory."""
DOCUMENT = 256 * MB
"""Largest size in bytes of a large document: a table or a figure of a result, the tensors of a capture, a tokenizer."""
LOG = 512 * MB
"""Largest number of bytes that are read from the start of a log file of a run."""
DATA = 4 * 2**30
"""Largest size in bytes of a data file that the user names."""
WEIGHTS = 2**40
"""Largest size in bytes of a file of weights, which is mapped rather than read."""
DEPTH = 100
"""Largest depth of nested lists and objects."""
FIELDS = 20_000
"""Largest number of names in one object, and of columns of a table."""
NEVER_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""Flags that open a file without waiting for another process, if the system supports them."""
KERNEL = ("/proc/", "/sys/")
"""Folders of files that the system generates when they are read."""
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""Flag that refuses symbolic links, if the system supports it."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular(path: str | Path, most: int = DATA) -> Path:
    """Return the path if it is a regular file of at most `most` bytes, for a library that opens files itself.

    Raises:
        OSError: the file is missing, not regular, or larger; `strerror` describes the reason.
    """
    _check(_stat(path), path, most)
    return Path(path)


def open_file(path: str | Path, *, most: int | None = None, follow: bool = True, write: bool = False) -> BufferedReader:
    """Open a regular file without ever waiting for another process.

    Args:
        path: path of the file.
        most: largest size in bytes; None for a file that is read only in part.
        follow: follow symbolic links.
        write: open the file for writing as well.

    Raises:
        OSError: as `regular`.
    """
    _check(_stat(path, follow), path, most)  # checked first: opening a device can already have effects
    more = NEVER_WAIT | (0 if follow else NO_LINK)
    mode = "rb+" if write else "rb"
    file = cast(BufferedReader, open(path, mode, opener=lambda name, flags: os.open(name, flags | more)))  # noqa: SIM115
    try:
        check_regular(file.fileno(), path, most)
    except OSError:
        file.close()
        raise
    return file


def read_file(path: str | Path, most: int = RECORD, *, follow: bool = True) -> bytes:
    """Read the bytes of a regular file, up to its size at the time of opening.

    Raises:
        OSError: as `regular`.
    """
    with open_file(path, most=most, follow=follow) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def check_regular(handle: int, path: str | Path, most: int | None = None) -> None:
    """Refuse an open file that is not regular.

    Raises:
        OSError: as `regular`.
    """
    _check(os.fstat(handle), path, most)


def _stat(path: str | Path, follow: bool = True) -> os.stat_result:
    try:
        return os.stat(path, follow_symlinks=follow)
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None


def _check(status: os.stat_result, path: str | Path, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "no file")
        number = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file", str(path))
    if not status.st_size and os.path.realpath(path).startswith(KERNEL):  # it may still return much data, or block
        raise OSError(errno.EINVAL, "it is a file of the system, not a regular file", str(path))
    if most is not None and status.st_size > most:
        raise OSError(errno.EFBIG, f"it has {_size(status.st_size)}, and at most {_size(most)} are read", str(path))


def _size(count: int) -> str:
    return f"{-(-count // MB):,} MB" if count < 2**40 else f"{-(-count // 2**30):,} GB"


def parse_json(text: str | bytes, fields: int = FIELDS) -> Any:
    """Return the value of a JSON text.

    Args:
        text: JSON text; bytes are decoded as UTF-8.
        fields: largest number of names of an object.

    Raises:
        ValueError: it is not JSON or not UTF-8, lists and objects are nested deeper than `DEPTH`, or an object has more
            names.
    """
    try:
        return _bounded(json.loads(text), fields)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def read_json(path: str | Path, most: int = RECORD, fields: int = FIELDS) -> Any:
    """Read the value of a JSON file.

    Raises:
        OSError: as `read_file`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_file(path, most), fields)


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """Parse a TOML text to a table with JSON values and dates.

    Raises:
        ValueError: it is not TOML or not UTF-8, tables and lists are nested deeper than `DEPTH`, or a table has more
            than `FIELDS` names.
    """
    text = text.decode() if isinstance(text, bytes) else text
    try:
        return _bounded(tomllib.loads(text), FIELDS)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


_TOO_DEEP = f"its values are nested more than {DEPTH} deep"
_HOLDS_MORE = frozenset((dict, list))


def _bounded(value: Any, fields: int) -> Any:
    """Check that a parsed value is not nested deeper than `DEPTH`, and return it.

    The value is checked level by level, since later code may recurse once per level.

    Raises:
        ValueError: it is nested deeper, or an object has more names than `fields`.
    """
    level = [value] if type(value) in _HOLDS_MORE else []
    for _ in range(DEPTH):
        if not level:
            return value
        below: list[Any] = []
        for held in level:
            if type(held) is dict and len(held) > fields:
                raise ValueError(f"an object in it has {len(held):,} names, and at most {fields:,} are read")
            items = held.values() if type(held) is dict else held
            if not _HOLDS_MORE.isdisjoint(map(type, items)):
                below += [item for item in items if type(item) in _HOLDS_MORE]
        level = below
    if level:
        raise ValueError(_TOO_DEEP)
    return value


_SCALARS = frozenset((int, float, bool, type(None)))
"""Types of values without text."""


def readable(value: Any) -> Any:
    """Replace halves of surrogate pairs in a JSON value by U+FFFD, since no table, page or file can hold them."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {readable(key): readable(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    return value[:] if _SCALARS.issuperset(map(type, value)) else [readable(item) for item in value]


def sendable(value: Any) -> Any:
    """Convert a JSON value for sending to a page: `readable`, and without integers beyond 64 bits.

    Such an integer becomes a float, or None if it is beyond the range of floats.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else None
    if isinstance(value, dict):
        return {readable(key): sendable(item) for key, item in value.items()}
    return [sendable(item) for item in value] if isinstance(value, list) else readable(value)


def parse_figure(text: str | bytes) -> Any:
    """Parse a JSON text to a value for a figure (`sendable`).

    Raises:
        ValueError: as `parse_json`, or the text is not UTF-8.
    """
    text = text.decode() if isinstance(text, bytes) else text
    value = parse_json(text)
    return sendable(value) if _BEYOND.search(text) else value


@contextmanager
def foreign(refuse: Callable[[str], ProbeError]) -> Iterator[None]:
    """Convert errors that another library raises while it reads a file to the error of `refuse`.

    Args:
        refuse: function from a short reason to the error.
    """
    try:
        yield
    except ProbeError:
        raise
    except BaseException as error:
        if not is_failure(error):
            raise
        raise refuse(short(error)) from None


def refuse_newer(what: str, word: str, number: int, newest: int, refuse: Callable[[str], ProbeError]) -> None:
    """Raise the error that `refuse` makes if a file has a newer format than this version reads.

    Args:
        what: name of the file, as the sentence begins.
        word: `format` or `schema`.
        number: format of the file.
        newest: newest format that this version reads.
        refuse: function from the sentence to the error.
    """
    if number > newest:
        raise refuse(
            f"{what} has {word} {number} and this version of Probe reads up to {newest}: read it with the version that"
            " wrote it or a newer one."
        )


def short(error: object) -> str:
    """Return the first sentence of a message on one line, for a system error without its number and path."""
    error = error.strerror if isinstance(error, OSError) and error.strerror else error
    return " ".join(str(error).split()).partition(". ")[0][:240] or type(error).__name__
