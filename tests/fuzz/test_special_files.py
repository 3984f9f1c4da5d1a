"""What stands in the place of a file and is none: no reader waits for it, takes all memory, or hides others."""

import os
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz.formats import FORMATS, Format, target
from tests.fuzz.test_readers import fault

ROOM = 3 * 2**30
"""Bytes that a reader may take more than there were; a tensor library maps some of them for nothing."""


def bind(path: Path) -> None:
    """Make a socket in the place of a file; its address may not be as long as a path."""
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def sparse(path: Path) -> None:
    """A file of four terabytes that takes no room."""
    with open(path, "wb") as file:
        file.truncate(2**42)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bind,
    "zeros": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "huge": sparse,
    "folder": lambda path: path.mkdir(),
    "circle": lambda path: path.symlink_to(path.name),
    "nowhere": lambda path: path.symlink_to("nowhere"),
    "kernel": lambda path: path.symlink_to("/proc/kmsg"),
}


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Raise a MemoryError in place of a machine that stands still."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fmt", FORMATS, ids=[fmt.name for fmt in FORMATS])
def test_what_is_no_file_is_refused_in_one_sentence(fmt: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    made = fmt.make(tmp_path)
    file = target(made, fmt)
    assert fault(fmt, made) is None, "the sound file"
    faults = {}
    for name, put in KINDS.items():
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
        put(file)
        with bounded_memory():
            if found := fault(fmt, made):
                faults[name] = found
    assert not faults
