"""Uploads of a run during training: at each checkpoint, about every minute, and at the end."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

from probe.errors import ProbeError
from probe.runs.addresses import is_run
from probe.runs.schema import CHECKPOINTS, parse_step
from probe.runs.store.objects import Folder
from probe.runs.store.remote import Fenced, upload
from probe.texts import say

LOOK_S = 1.0
"""Seconds between two checks for a new checkpoint."""
LONGEST_S = 300.0
"""Maximum seconds between two attempts while a store cannot be reached."""


class Uploads:
    """Context in which a run that another process (or this one) writes is uploaded, without disturbing it.

    If a store cannot be reached, a message says so, and uploads are tried again at growing intervals. When the context
    ends, the run is uploaded once more in its final state.

        with Uploads("runs/base", "s3://bucket/runs/base", attempt=2) as uploads:
            process.wait()

    Attributes:
        problem: why the last upload failed; None if it succeeded. `Fenced` means that a newer attempt has claimed the
            run: nothing more is uploaded, and training should be stopped.
    """

    problem: ProbeError | None

    def __init__(
        self,
        run: str | Path,
        url: str,
        attempt: int | None = None,
        *,
        every: float = 60.0,
        patience: float = 120.0,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        """Set what to upload; nothing is read before the context is entered.

        Args:
            run: run directory; it may appear later.
            url: address of the run in the store.
            attempt: number of the attempt, see `probe.runs.store.remote.upload`.
            every: seconds after which a run is uploaded even without a new checkpoint, so that its curves can be read.
            patience: seconds for which the last upload is retried.
            tell: function that receives one sentence when an upload fails, and when one succeeds again; by default it
                is printed.
        """
        self.path = Path(os.path.expanduser(run))
        self.url, self.attempt = url, attempt
        self.problem = None
        self._every, self._patience = every, patience
        self._tell = tell or (lambda text: say(f"probe: note: {text}", error=True))
        self._end = Event()
        self._thread = Thread(target=self._watch, name="probe-uploads", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch the run.

        Raises:
            MissingToolError, ConfigError: the address is invalid, or its package is not installed.
        """
        Folder(self.url)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Upload the run in its final state.

        Raises:
            Fenced: a newer attempt has claimed the run.
            ProbeError: the last upload failed for `patience` seconds. An error inside the context takes precedence over
                both.
        """
        self._end.set()
        self._thread.join()
        if is_run(self.path) and not self.taken_over():
            pause, until = 1.0, time.monotonic() + self._patience
            while not self._try() and not self.taken_over() and time.monotonic() + pause < until:
                time.sleep(pause)
                pause *= 2
        if self.problem is not None and kind is None:
            raise self.problem

    def taken_over(self) -> bool:
        """Return whether a newer attempt has claimed the run."""
        return isinstance(self.problem, Fenced)

    def _watch(self) -> None:
        seen, due, pause = set[str](), time.monotonic() + self._every, LOOK_S
        while not self._end.wait(LOOK_S):
            steps, now = self._steps(), time.monotonic()
            if not is_run(self.path) or (now < due and (self.problem is not None or steps <= seen)):
                continue
            if self._try():
                seen, pause = steps, LOOK_S
            elif self.taken_over():
                return
            else:
                pause = min(2 * pause, LONGEST_S)
            due = time.monotonic() + (self._every if self.problem is None else pause)

    def _steps(self) -> set[str]:
        folder = self.path / CHECKPOINTS
        return {name for name in (os.listdir(folder) if folder.is_dir() else ()) if parse_step(name) is not None}

    def _try(self) -> bool:
        """Upload once; return whether it succeeded."""
        before = self.problem
        try:
            upload(self.path, self.url, self.attempt)
        except ProbeError as error:
            self.problem = error
            if str(error) != str(before):
                self._tell(str(error))
            return False
        self.problem = None
        if before is not None:
            self._tell(f"`{self.path}` is uploaded to `{self.url}` again.")
        return True
