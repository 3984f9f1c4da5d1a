"""Progress of a command (a bar on a terminal, occasional lines elsewhere), and a clean stop."""

import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from probe import texts
from probe.commands.tables import safe
from probe.texts import console
from probe.ticks import Pace, announce

FIRST_LINE_S, LINE_EVERY_S = 5.0, 10.0
"""Seconds to the first line, which estimates the total time, and between lines if no bar can be drawn."""


class Progress:
    """Progress on standard error, for work that reports the share done."""

    def __init__(self, title: str) -> None:
        self._title, self._note, self._visible = title, "", sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        self._pace = Pace()
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self._bar = RichProgress(*columns, console=console(error=True), transient=True, disable=not self._visible)
        self._task = self._bar.add_task(safe(title), total=1.0)

    def at(self, what: str, number: int, count: int) -> None:
        """Report the current work: item `number` of `count`, from 1."""
        self._note = f"{what}, {number} of {count}" if count > 1 else what
        announce(self._note)
        self._bar.update(self._task, description=safe(self._words))

    def tick(self, share: float) -> None:
        """Report the share of all work that is done, from 0 to 1."""
        self._bar.update(self._task, completed=share)
        now = time.monotonic()
        left = self._pace.left(share)
        announce(self._note or self._title, share, left)
        wait = LINE_EVERY_S if self._last > self._started else min(FIRST_LINE_S, LINE_EVERY_S)
        if not self._visible and now - self._last >= wait:
            self._last, duration = now, now - self._started
            estimate = "" if left is None else f", about {clock(left)} left"
            say(f"{self._words}: {share:.0%} after {clock(duration)}{estimate}")

    @property
    def _words(self) -> str:
        return f"{self._title}: {self._note}" if self._note else self._title

    def __enter__(self) -> Self:
        announce(self._title)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def clock(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Bar:
    """Progress on standard error: a live bar on a terminal, otherwise at most a line every `LINE_EVERY_S` seconds."""

    def __init__(self, title: str, steps: int, done: int = 0, visible: bool = True) -> None:
        self._title, self._steps, self._done = title, steps, done
        self._visible, self._started, self._last = visible, time.monotonic(), time.monotonic()
        self._first = done
        screen = console(error=True)
        self._bar: RichProgress | None = None
        if visible and screen.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=screen,
            )
            self._task = self._bar.add_task(safe(title), total=steps, completed=done, note="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, step: int, note: str | None = None) -> None:
        """Report that `step` steps are done; `note` describes the last one."""
        self._done = step
        if self._visible:
            announce(self._title, step / max(self._steps, 1), self._seconds_left())
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
            if note is not None:
                self._bar.update(self._task, note=safe(note))
        elif self._visible and note is not None and time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            left = clock(self._seconds_left())
            say(f"{self._title}: {step:,} of {self._steps:,}, {left} left" + (f", {note}" if note else ""))

    def _seconds_left(self) -> float:
        duration, count = time.monotonic() - self._started, self._done - self._first
        return duration / max(count, 1) * (self._steps - self._done)


class StopRequest:
    """Request to stop after the current step, set by Ctrl-C or SIGTERM; a second Ctrl-C stops at once.

    Outside the main thread, where Python delivers no signals, it has no effect.
    """

    def __init__(
        self, text: str = "stopping after this step with a checkpoint; press Ctrl-C again to stop at once"
    ) -> None:
        self.asked, self._text = False, text
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        say(self._text)


def say(text: str) -> None:
    """Print one line to standard error."""
    texts.say(text, error=True)
