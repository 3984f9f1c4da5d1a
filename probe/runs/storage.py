"""Files of a run directory: atomic writes, one writer, JSON lines, and disk failures as one sentence.

A lock ends with its holder, and copies of the directory do not have it. JSON lines are appended whole and read from
where the last reading ended; incomplete and broken lines are reported.
"""

import errno
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, TypeGuard

from probe.errors import DiskError, RunError
from probe.runs.schema import RunWarning
from probe.untrusted import LOG, MB, NEVER_WAIT, NO_LINK, check_regular, open_file, parse_json

# Windows has no fcntl, so there are no locks; only the heartbeat tells whether a run is being written.
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None


RUST_FAILURE = re.compile(r"\(os error (\d{1,4})\)")


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn a failure of the disk into an error with one sentence.

    Libraries in Rust (safetensors, tokenizers) report it as an error of another type, with its number in the text.

    Raises:
        DiskError: an OSError happened inside.
    """
    try:
        yield
    except Exception as raised:
        told = RUST_FAILURE.search(str(raised))
        error = OSError(int(told[1]), os.strerror(int(told[1]))) if told else raised
        if not isinstance(error, OSError):
            raise
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            remedy = "a file stands where a folder is needed, so move it or choose another folder"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "choose a folder that you may write to"
        elif error.errno in (errno.EINVAL, errno.ENXIO, errno.EFBIG):
            remedy = "remove it, or choose another folder"
        else:
            remedy = "free some space there, or choose a folder that you may write to"
        raise DiskError(f"`{path}` could not be written ({error.strerror or error}): {remedy}.") from raised


def check_folder(path: Path) -> None:
    """Raise an error for a folder that cannot be made or written to, before any work is done for it.

    Raises:
        RunError: a file is in its way, or it may not be written to.
    """
    existing = next((place for place in (path, *path.parents) if place.exists()), Path())
    if not existing.is_dir():
        raise RunError(f"`{path}` cannot be a folder, since `{existing}` is a file: choose another folder.")
    if not os.access(existing, os.W_OK):
        raise RunError(f"`{existing}` may not be written to: choose another folder.")


def write_atomic(path: Path, data: bytes | Callable[[Path], None], *, parents: bool = True) -> None:
    """Write a file atomically: it exists in full or not at all, even after a power cut.

    Args:
        path: file to write.
        data: its bytes, or a function that writes it to another path, in a folder of its own: safetensors writes to
            a third path beside that, which stays if the process is killed.
        parents: whether folders that are missing are made.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    written = temporary / path.name if callable(data) else temporary
    try:
        if callable(data):
            temporary.mkdir(exist_ok=True)
        with open(written, "wb") as file:
            if not callable(data):
                file.write(data)
            mode = os.fstat(file.fileno()).st_mode
        if callable(data):
            data(written)
            os.chmod(written, mode)  # of a file as this process makes it, whatever the function has made
        with open(written, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(written, path)
        sync_folder(path.parent)
    finally:
        delete(temporary)


def create_atomic(path: Path, data: bytes) -> bool:
    """Write a new file atomically; return False if its name exists.

    Where the file system has no hard links, a process that is killed may leave a part of the file.
    """
    if path.exists():
        return False
    whole = path.with_name(f".{path.name}.{os.getpid()}.new")
    write_atomic(whole, data)
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    except OSError:
        with suppress(FileExistsError), open(path, "xb") as file:
            file.write(data)
            return True
        return False
    finally:
        whole.unlink(missing_ok=True)
    sync_folder(path.parent)
    return True


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically (`write_atomic`).

    Raises:
        RunError: the disk is full, or the file cannot be written.
    """
    with disk(path):
        write_atomic(path, data)


def write_inside(root: Path, name: str, data: bytes | Callable[[Path], None]) -> Path:
    """Write a file below a folder atomically; the folder itself is not made anew if it is gone.

    Returns:
        The path of the file.

    Raises:
        RunError: the folder is gone, the disk is full, or the file cannot be written.
    """
    path = root / name
    with disk(path):
        for folder in reversed(Path(name).parents[:-1]):
            (root / folder).mkdir(exist_ok=True)
        write_atomic(path, data, parents=False)
    return path


def sort_metadata(data: bytes) -> bytes:
    """Return the bytes of a safetensors file with its metadata sorted by name; the library's order is random."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = parse_json(data[8:start])
    metadata = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))}
    text = json.dumps(metadata | header, ensure_ascii=False, separators=(",", ":")).encode()
    return data[:8] + text.ljust(start - 8) + data[start:] if len(text) <= start - 8 else data


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, if the system can open folders."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_folder(source: Path, target: Path) -> None:
    """Move a directory to a name that an older one may have."""
    previous = target.with_name(f".{target.name}.old")
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        os.replace(target, previous)
    os.replace(source, target)
    sync_folder(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


LEFTOVER = re.compile(r"\..+\.\d+\.tmp(?:\.[0-9a-f]{8})?|\.\d{8,}(?:\.dropped)?\.old")
"""Names of temporary files that `write_atomic`, `replace_folder` and checkpoints leave if their process is killed."""


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished work of killed writers of a folder, and restore what they had moved aside.

    No other process may write there at the same time; links are removed and not followed.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else ():
        if not LEFTOVER.fullmatch(path.name):
            continue
        place = path.with_name(path.name[1:-4])
        if path.suffix == ".old" and not os.path.lexists(place):
            os.replace(path, place)
        else:
            delete(path)


def delete(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but leftovers of killed writers."""
    return folder.is_dir() and all(LEFTOVER.fullmatch(path.name) for path in folder.iterdir())


def sync_tree(root: Path) -> None:
    """Wait until all files in a folder are on the disk."""
    for path in root.rglob("*"):
        if path.is_file():
            with open_file(path) as file:
                os.fsync(file.fileno())


IN_USE = "`{}` is being written by another process: wait until it has ended, or choose another folder."


@contextmanager
def hold_lock(path: Path) -> Iterator[int | None]:
    """Take the lock of a directory; keep it if the context ends without an error, and release it after an error.

    Raises:
        RunError: another process holds it.
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
    """Lock a directory for writing; the lock ends with the handle, or when the process ends in any way.

    Returns:
        The handle to pass to `unlock`, or None if the file system does not support locks.

    Raises:
        BlockingIOError: another process holds the lock.
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
    """Release a lock, also for processes forked since."""
    if handle is not None and fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def is_pid(value: object) -> TypeGuard[int]:
    """Return whether a value from a file can be the id of a process other than the system's."""
    return type(value) is int and 1 < value < 2**31


def holds(pid: object, directory: Path) -> bool:
    """Return whether a process holds the lock of a directory; False if the system cannot tell (only Linux can).

    Args:
        pid: id of the process; a number from a file may be anything.
        directory: directory of a run.
    """
    if not is_pid(pid):
        return False
    process = Path(f"/proc/{pid}")
    try:
        status = os.stat(directory)
        for handle in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.path.samestat(os.stat(handle), status) and "FLOCK" in (
                    process / "fdinfo" / handle.name
                ).read_text(encoding="utf-8"):
                    return True
    except OSError:
        return False
    return False


def is_locked(directory: Path) -> bool | None:
    """Return whether any process holds the lock of a directory, or None if that is unknown."""
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


TAIL = 8192
"""Number of bytes at the end of a log that are read."""
CHUNK = 8 * MB
"""Number of bytes of a file of lines that are parsed at once."""
LINE = 16 * MB
"""Maximum bytes of a line; a longer one counts as broken."""
UNFINISHED = "The last line"
"""Beginning of the warning about an unfinished last line."""
LINES = 2_000_000
"""Maximum number of lines that are read from a file."""


def last_lines(path: Path) -> list[str]:
    """Return the last lines that a process printed into a file, without terminal control sequences.

    Links are not read. The list is empty if there is no such file.
    """
    try:
        with open_file(path, follow=False) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read(TAIL).decode("utf-8", "replace")
    except OSError:
        return []
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


def refuse_link(path: Path) -> None:
    """Raise an error for a symbolic link in place of a file of lines.

    Raises:
        RunError: the file is a symbolic link, which in a copied run could point to any file of its user.
    """
    if path.is_symlink():
        raise RunError(
            f"`{path}` is a link to another file, and nothing is written through it: put the file itself in its place."
        )


class LineFile:
    """A file to which whole lines are appended, each in one write; a failed write leaves no partial line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        refuse_link(path)
        with disk(path):
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_LINK | NEVER_WAIT
            self._handle = os.open(path, flags, 0o666)
            try:
                check_regular(self._handle, path)
            except OSError:
                self.close()
                raise

    def append(self, lines: list[str]) -> None:
        """Append lines, given without line ends."""
        data = "".join(line + "\n" for line in lines).encode()
        with disk(self.path):
            status = os.fstat(self._handle)
            if not status.st_nlink:
                raise FileNotFoundError(errno.ENOENT, "it was deleted while it was being written")
            before = status.st_size
            try:
                offset = 0
                while offset < len(data):
                    offset += os.write(self._handle, data[offset:])
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
    """Remove an unfinished last line of a file, or complete its line end, before more lines follow."""
    refuse_link(path)
    if not path.exists():
        return
    with disk(path), open_file(path, write=True) as file:
        end = file.seek(0, os.SEEK_END)
        start = _start_of_last_line(file, end)
        file.seek(start)
        if start == end:
            return
        if end - start > LINE or _parse(file.read(end - start)) is None:
            file.truncate(start)
        else:
            file.write(b"\n")


def _start_of_last_line(file: IO[bytes], end: int) -> int:
    """Return the offset after the last line end.

    Raises:
        OSError: the last line is longer than any that is read from such a file.
    """
    last = end
    while end:
        if last - end > LOG:
            raise OSError(errno.EFBIG, f"its last {LOG // MB:,} MB hold no end of a line")
        start = max(0, end - CHUNK)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


@dataclass(frozen=True)
class Position:
    """Position up to which a file of lines has been read."""

    offset: int = 0
    line: int = 0
    inode: int = 0

    def continues(self, earlier: "Position") -> bool:
        """Return whether the lines read up to `earlier` are still valid (the file was not replaced or cut since)."""
        return self.inode == earlier.inode and self.offset >= earlier.offset


@dataclass(frozen=True)
class Block:
    """Whole lines that follow each other in a file."""

    lines: list[bytes]
    before: int
    """Number of lines before them."""
    after: Position
    """Position after them."""
    digest: Any = None
    """Hash of all bytes of the file up to there (`hashlib`), if it was asked for."""


def read_blocks(path: Path, position: Position, *, live: bool, most: int = LOG, digest: Any = None) -> Iterator[Block]:
    """Yield the lines after `position` in blocks of about `CHUNK` bytes; the last block may be empty.

    An incomplete last line is left for the next call, with a warning unless the run is `live`, because its writer may
    be writing it. A missing file has no lines. If the file was replaced or cut, reading starts at its beginning again.

    Args:
        path: path of the file.
        position: position up to which it has been read.
        live: whether a process may be writing it.
        most: maximum number of bytes to read from the start of the file; the rest, and all after `LINES` lines, is left
            out with a `RunWarning`.
        digest: hash of the bytes before `position`, which is continued.

    Raises:
        RunError: it is not a regular file, or may not be read.
    """
    try:
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            if status.st_ino != position.inode or status.st_size < position.offset:
                position = Position(inode=status.st_ino)
                digest = None if digest is None else type(digest)(digest_size=digest.digest_size)
            end = min(status.st_size, most)
            offset, line, tail, whole = position.offset, position.line, b"", True
            running = None if digest is None else digest.copy()
            file.seek(offset)
            while line < LINES and (data := file.read(max(0, min(CHUNK, end - file.tell())))):
                head, found, rest = data.rpartition(b"\n")
                if running is not None:
                    running.update(memoryview(data)[: len(data) - len(rest)] if found else data)
                if not found:  # the text of an overlong line is dropped; only its end is searched
                    whole = whole and len(tail) + len(rest) <= LINE
                    tail = tail + rest if whole else b""
                    continue
                if running is not None:
                    digest = running.copy()
                    running.update(rest)
                raw = (tail + head if whole else b"\0" + head).split(b"\n")
                offset, before, line, tail, whole = file.tell() - len(rest), line, line + len(raw), rest, True
                yield Block(raw, before, Position(offset, line, position.inode), digest)
    except FileNotFoundError:
        yield Block([], 0, Position())
        return
    except OSError as error:
        raise RunError(
            f"`{path}` cannot be read ({error.strerror}): copy it again from where the run was made, or remove it."
        ) from error
    last = []
    if end < status.st_size or (line >= LINES and offset < end):
        _warn_of_rest(path, end, status.st_size, line)
    elif tail and _parse(tail) is not None:
        last = [tail]
        offset += len(tail)  # the line is counted when its end arrives
        digest = running
    elif (tail.strip() or not whole) and not live:
        warnings.warn(
            f"{UNFINISHED} ({line + 1}) of `{path}` was not finished and is left out: the run ended while writing it.",
            RunWarning,
            stacklevel=4,
        )
    yield Block(last, line, Position(offset, line, position.inode), digest)


def read_lines(path: Path, position: Position, *, live: bool, most: int = LOG) -> tuple[list[dict[str, Any]], Position]:
    """Return the objects on the lines after `position`, and the position after them, as `read_blocks` reads them.

    A broken line (one that is not an object, is longer than `LINE`, or has too many names) is left out with a
    `RunWarning` that names it.

    Args:
        path: path of the file.
        position: position up to which it has been read.
        live: whether a process may be writing it.
        most: maximum number of bytes to read from the start of the file.

    Raises:
        RunError: it is not a regular file, or may not be read.
    """
    rows: list[dict[str, Any]] = []
    for block in read_blocks(path, position, live=live, most=most):
        rows += parse_block(block, path)
        position = block.after
    return rows, position


def read_log(path: Path, position: Position, *, live: bool, most: int = LOG) -> tuple[list[dict[str, Any]], Position]:
    """Read lines as `read_lines` does, but return none, with a `RunWarning`, if the file cannot be read."""
    try:
        return read_lines(path, position, live=live, most=most)
    except RunError as error:
        warnings.warn(str(error), RunWarning, stacklevel=3)
        return [], Position()


def _warn_of_rest(path: Path, end: int, size: int, line: int) -> None:
    part = f"{LINES:,} lines" if line >= LINES else f"{end / MB:,.0f} MB of {size / MB:,.0f} MB"
    warnings.warn(f"Of `{path}` only the first {part} are read.", RunWarning, stacklevel=4)


def parse_block(block: Block, path: Path) -> list[dict[str, Any]]:
    """Return the objects on the lines of a block; broken lines are left out with a `RunWarning` each."""
    lines = [line for line in block.lines if line.strip()]
    with suppress(ValueError):  # all lines at once: faster than one by one
        rows = parse_json(b"[" + b",".join(lines) + b"]")
        if len(rows) == len(lines) and all(type(row) is dict for row in rows):
            return rows
    rows = []
    for index, line in enumerate(block.lines, start=block.before + 1):
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
