"""One moment: a fault meets a process, what it leaves is looked at, the work is done again and compared bit by bit."""

import io
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Protocol

from probe.errors import ProbeError
from tests.faults.moments import Disturbed, Fault, Length, Outcome, aside, draw, set_mode, small_disk
from tests.faults.wire import Wire


class Subject(Protocol):
    """Work on files that may meet a fault at any moment."""

    name: str
    kinds: tuple[str, ...]
    """Kinds of fault, as often as they are drawn."""
    empty: bool
    """Whether the work begins in an empty folder."""
    wire: Wire | None
    """Connection to the store, if the work needs one."""

    def place(self, folder: Path) -> Path:
        """Return the folder whose files are watched, for work in `folder`."""

    def job(self, place: Path) -> tuple[Callable[..., object], tuple[Any, ...]]:
        """Return the function that works, or goes on working, and its arguments."""

    def look(self, place: Path) -> None:
        """Check that readers find nothing half-written there, and that it hides nothing else."""

    def compare(self, place: Path, whole: Path) -> None:
        """Check that the finished work is that of an undisturbed process, bit by bit."""


@dataclass
class Tally:
    """What a number of faults of one kind came to."""

    moments: int = 0
    killed: int = 0
    sentences: int = 0
    unaffected: int = 0
    """Processes that ended well: the fault came too late, or did not matter."""
    problems: list[str] = field(default_factory=list)

    @property
    def same(self) -> int:
        """Number of moments after which everything was as without the fault."""
        return self.moments - len(self.problems)

    def __add__(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


class Whole:
    """The undisturbed work, and what faults do to it."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject, self.folder = subject, folder
        self.path = subject.place(folder / "whole")
        call, arguments = subject.job(self.path)
        if subject.wire is not None:
            subject.wire.cut(inf)
        outcome = Disturbed(None, self.path, call, *arguments).end()
        assert (outcome.said, outcome.failed) == ("", ""), outcome
        size = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        size = size if subject.wire is None else subject.wire.bytes
        self.length = Length(outcome.operations, outcome.seconds, size)

    def harm(self, seed: int, tallies: dict[str, Tally]) -> None:
        """Let the fault of a seed happen; what went wrong is added to the tally of its kind."""
        kind = self.subject.kinds[seed % len(self.subject.kinds)]
        fault = draw(kind, self.length, Random(f"{self.subject.name} {seed}"), self.subject.empty)
        tally = tallies.setdefault(kind, Tally())
        tally.moments += 1
        folder = self.folder / f"moment-{seed}"
        try:
            outcome = self._meet(fault, folder)
            if (outcome.status or 0) < 0:
                tally.killed += 1
            elif outcome.said:
                tally.sentences += 1
            else:
                tally.unaffected += 1
        except Exception as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            said = f"{type(error).__name__}: {error} ({line})"
            tally.problems.append(f"{self.subject.name}, seed {seed}, {fault}: {said}")
        else:
            shutil.rmtree(folder)

    def _meet(self, fault: Fault, folder: Path) -> Outcome:
        with _disk_of(fault, folder) as make_room:
            place = self.subject.place(folder)
            call, arguments = self.subject.job(place)
            if fault.kind == "store gone" and self.subject.wire is not None:
                self.subject.wire.cut(fault.size)
            process = Disturbed(fault, place, call, *arguments)
            refused = fault.kind == "second writer" and process.is_stopped() and self._refuses(place)
            if fault.kind == "second writer" and process.process.is_alive():
                process.go_on()
            outcome = process.end()
            assert not outcome.failed, outcome.failed
            assert "\n" not in outcome.said, outcome.said
            if fault.kind == "second writer":
                assert refused or outcome.said or outcome.operations < fault.at, "two processes wrote the run"
            if aside(place).exists():
                assert not place.exists(), "a folder was made anew where one had been moved away"
                aside(place).rename(place)
            set_mode(place, write=True)
            if self.subject.wire is not None:
                self.subject.wire.cut(inf)
            self.subject.look(place)
            make_room()
            if fault.kind == "killed twice":
                call, arguments = self.subject.job(place)
                again = Disturbed(Fault("killed", fault.then), place, call, *arguments).end()
                assert not again.failed, again.failed
                self.subject.look(place)
            self._finish(place)
            self.subject.compare(place, self.path)
            return outcome

    def _refuses(self, place: Path) -> bool:
        """Whether the work refuses a second process, or has nothing left for it to do."""
        try:
            return self._finish(place) is False
        except ProbeError:
            return True

    def _finish(self, place: Path) -> object:
        call, arguments = self.subject.job(place)
        with silence():
            return call(*arguments)


@contextmanager
def _disk_of(fault: Fault, folder: Path) -> Iterator[Callable[[], None]]:
    """The folder of a moment, on a small disk where the fault wants one."""
    folder.mkdir(parents=True)
    if fault.kind == "disk full" and fault.mounted:
        with small_disk(folder, fault.size) as make_room:
            yield make_room
    else:
        yield lambda: None


@contextmanager
def silence() -> Iterator[io.StringIO]:
    """Hold back what is printed inside."""
    with io.StringIO() as text, redirect_stdout(text), redirect_stderr(text):
        yield text
