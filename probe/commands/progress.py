"""How far a command is: a bar on a terminal, now and then a plain line where standard error goes elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from probe.commands.terminal import safe
from probe.texts import console, say

LINE_EVERY_S = 10.0
"""Seconds between lines where no bar can be drawn, as trainings write them."""


class Progress:
    """Progress on standard error, for work that ticks with the share that is done."""

    def __init__(self, title: str) -> None:
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._title, self._note, self._visible = title, "", sys.stderr.isatty()
        self._started = self._last = time.monotonic()
        columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
        self._bar = Bar(*columns, console=console(error=True), transient=True, disable=not self._visible)
        self._task = self._bar.add_task(safe(title), total=1.0)

    def at(self, what: str, number: int, count: int) -> None:
        """Say what is worked on: the `number`th of `count` things, from 1."""
        self._note = f"{what}, {number} of {count}" if count > 1 else what
        self._bar.update(self._task, description=safe(f"{self._title}: {self._note}"))

    def tick(self, share: float) -> None:
        """Say that a share from 0 to 1 of all is done."""
        self._bar.update(self._task, completed=share)
        now = time.monotonic()
        if not self._visible and now - self._last >= LINE_EVERY_S:
            self._last, spent = now, now - self._started
            left = f", about {_clock(spent / share * (1 - share))} left" if 0 < share < 1 else ""
            parts = [self._title, *([self._note] if self._note else [])]
            say(f"{': '.join(parts)}: {share:.0%} after {_clock(spent)}{left}", error=True)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
