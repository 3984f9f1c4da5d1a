"""Faults at random moments of a process: it is killed, its disk is full, its folder read-only or gone, its clock jumps.

Between two operations on the files of a run nothing of it changes, so a moment is the number of an operation (an event
of the interpreter's audit, a write, a wait for the disk); or a time, or a number of bytes in the midst of a write.
The kernel itself ends the process (SIGKILL, SIGALRM, SIGXFSZ) or refuses the operation.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from probe.errors import ProbeError
from tests.trainers.children import CONTEXT

KINDS = {
    "killed": "SIGKILL before an operation on its files",
    "killed at a time": "a timer of the kernel ends it, wherever it is",
    "killed in a write": "the kernel ends it in the midst of a write",
    "killed twice": "SIGKILL, and again while it is resumed",
    "disk full": "a tmpfs with room for a part of its files; without the right to mount, no file grows any more",
    "read-only": "no write permission on its folders, without root's right to ignore that",
    "folder gone": "its folder is moved away, and put back afterwards",
    "clock backwards": "the clock is an hour ahead, falls back by two hours, and the process is killed",
    "second writer": "the process is stopped while a second one resumes the same run",
    "store gone": "the connection to the store breaks after a number of bytes, and comes back afterwards",
}
"""Kind of fault to what is done."""
EVENTS = {"open", "os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "fcntl.flock"}
"""Events of the interpreter (`sys.audit`) that are operations on files."""
CALLS = ("write", "fsync", "ftruncate")
"""Functions of `os` on files that are open, which the interpreter does not audit."""


@dataclass(frozen=True)
class Fault:
    """A fault at a moment of a process."""

    kind: str
    at: int
    """Number of the operation before which it happens, from 1."""
    then: int = 0
    """Number of the operation at which a second fault follows."""
    seconds: float = 0.0
    """Time after which a timer ends the process."""
    size: int = 0
    """Bytes: up to which a file may grow, or the size of the disk."""
    mounted: bool = False
    """Whether a disk of that size is mounted; otherwise the kernel lets no file grow beyond a part of it."""


@dataclass(frozen=True)
class Length:
    """Length of an undisturbed process, from which moments are drawn."""

    operations: int
    seconds: float
    size: int
    """Bytes of all files that it leaves."""


def draw(kind: str, length: Length, random: Random, empty: bool) -> Fault:
    """Draw the moment of a fault; a small disk is mounted if the work begins in an empty folder."""
    at, then = random.randint(1, length.operations), random.randint(1, length.operations)
    seconds = random.uniform(0.001, length.seconds)
    if kind == "disk full":
        size = random.randint(4096, max(8192, int(0.9 * length.size)))
        return Fault(kind, at, size=size, mounted=empty and can_mount())
    if kind == "store gone":
        return Fault(kind, at, size=random.randint(0, length.size))
    return Fault(kind, at, then, seconds, size=int(2 ** random.uniform(4, 17)))


@dataclass(frozen=True)
class Outcome:
    """How a disturbed process ended."""

    status: int | None
    """Exit status; minus the signal that ended it."""
    said: str
    """Sentence of its error, if it gave one."""
    failed: str
    """Any other error, which should not be."""
    operations: int
    """Operations that it has made; 0 if it was killed."""
    seconds: float


class Disturbed:
    """A process that calls a function and meets a fault while it works on files below a folder."""

    def __init__(self, fault: Fault | None, folder: Path, call: Callable[..., object], *arguments: Any) -> None:
        self.fault = fault
        self._receiver, sender = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_run, args=(fault, str(folder), sender, call, arguments))
        self.process.start()
        sender.close()

    def is_stopped(self) -> bool:
        """Wait until the process has stopped itself or has ended; return which."""
        stat = Path(f"/proc/{self.process.pid}/stat")
        while self.process.is_alive():
            try:
                if stat.read_text().rpartition(")")[2].split()[0] == "T":
                    return True
            except OSError:
                break
            time.sleep(0.005)
        return False

    def go_on(self) -> None:
        """Let a stopped process go on."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self, patience: float = 900) -> Outcome:
        """Wait for its end."""
        said = ("", "", 0, 0.0)
        if self._receiver.poll(patience):
            with suppress(EOFError):  # it was killed
                said = self._receiver.recv()
        self.process.join(20)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"a process with the fault {self.fault} did not end within {patience} s")
        return Outcome(self.process.exitcode, *said)


def _run(
    fault: Fault | None, folder: str, sender: Connection, call: Callable[..., object], arguments: tuple[Any, ...]
) -> None:
    """What the process does; it exits with 1 after an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    counter = _Counter(fault, folder)
    start = time.monotonic()
    counter.listen()
    said = failed = ""
    try:
        call(*arguments)
    except ProbeError as error:
        said = str(error)
    except KeyboardInterrupt:
        said = "interrupted"
    except BaseException as error:
        failed = f"{type(error).__name__}: {error}"
    sender.send((said, failed, counter.number, time.monotonic() - start))
    sender.close()
    os._exit(1 if said or failed else 0)


class _Counter:
    """Counts the operations on files below a folder, and lets the fault happen."""

    def __init__(self, fault: Fault | None, folder: str) -> None:
        self.fault, self.folder, self.number, self.shift = fault, folder, 0, 0.0
        self._busy = False

    def listen(self) -> None:
        fault = self.fault
        for name in CALLS:
            setattr(os, name, self._counted(getattr(os, name)))
        sys.addaudithook(self._hear)
        if fault is None:
            return
        if fault.kind == "clock backwards":
            true, self.shift = time.time, 3600.0
            time.time = lambda: true() + self.shift
        if fault.kind == "killed at a time":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, fault.seconds)
        if fault.kind == "killed in a write":  # here, since the write may be that of another thread
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(handle: int, *rest: Any) -> Any:
            if handle > 2:
                self._count()
            return call(handle, *rest)

        return counted

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS:
            place = arguments[0]
            if isinstance(place, int) or os.fsdecode(place).startswith(self.folder):
                self._count()

    def _count(self) -> None:
        if self._busy:
            return
        self.number += 1
        fault = self.fault
        if fault is None or self.number not in (fault.at, fault.then):
            return
        self._busy = True
        try:
            self._happen(fault, first=self.number == fault.at)
        finally:
            self._busy = False

    def _happen(self, fault: Fault, first: bool) -> None:
        match fault.kind:
            case "killed" | "killed twice" if first:
                os.kill(os.getpid(), signal.SIGKILL)
            case "killed in a write" if first:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size, fault.size))
            case "disk full" if first and not fault.mounted:
                resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size % 20_000, fault.size % 20_000))
            case "read-only" if first:
                set_mode(Path(self.folder), write=False)
                obey_permissions()
            case "folder gone" if first and os.path.exists(self.folder):
                os.rename(self.folder, aside(Path(self.folder)))
            case "clock backwards" if first:
                self.shift = -3600.0
            case "clock backwards":
                os.kill(os.getpid(), signal.SIGKILL)
            case "second writer" if first:
                os.kill(os.getpid(), signal.SIGSTOP)


def aside(folder: Path) -> Path:
    """Where a folder is moved to."""
    return folder.with_name(folder.name + "-aside")


def set_mode(folder: Path, *, write: bool) -> None:
    """Give or take the permission to write on a folder and all folders below it."""
    if folder.is_dir():
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())):
            place.chmod(0o755 if write else 0o555)


DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 1, 2, 3
"""Capabilities by which root ignores permissions (linux/capability.h)."""


def obey_permissions() -> None:
    """Give up root's right to ignore permissions, in this thread, for good."""
    if os.geteuid() != 0:
        return
    system = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if system.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for index in (0, 1):  # effective, permitted
        data[index] &= ~(1 << DAC_OVERRIDE | 1 << DAC_READ_SEARCH | 1 << FOWNER)
    if system.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


@cache
def can_mount() -> bool:
    """Return whether a small disk can be mounted here."""
    with TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder), 2**20):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[], None]]:
    """Mount a disk of `size` bytes on a folder; gives a function that makes it large.

    Raises:
        OSError, subprocess.CalledProcessError: there is no right to mount, or no program for it.
    """
    _system("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield lambda: _system("mount", "-o", "remount,size=256m", str(place))
    finally:
        _system("umount", "-l", str(place))


def _system(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
