"""The end of a run whose loop breaks off without a word: with the notebook's cell, its owner, or the process.

A loop that is left by an exception tells nobody who is not a context around it. What can be known without one: the cell
that it began in has ended, nothing holds its owner any more, or the process ends.
"""

import os
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

from probe.errors import RunError
from probe.runs.schema import RunWarning
from probe.runs.writer import RunWriter

LEFT = "The training broke off, and nothing told how."
"""Message of a run that was left in a way that nobody saw."""

End = Callable[[str, str | None], None]
"""Ends a run with a status and a message, as `RunWriter.finish` takes them."""


def ended_by(error: BaseException | None) -> tuple[str, str | None]:
    """Status and message of a run that an error broke off; None stands for one that nobody knows."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", None
    return "failed", str(error) or type(error).__name__ if error is not None else LEFT


def end_if_left(owner: object, writer: RunWriter, end: End) -> Callable[[], None]:
    """Let a run end that its owner leaves open.

    Args:
        owner: what writes the run; when nothing holds it any more, or when the process ends, the run ends.
        writer: of the run; it must not refer to the owner.
        end: a method of the owner that ends the run; called when the notebook's cell ends, if there is one.

    Returns:
        What undoes this; to be called when the run ends.
    """
    detach = end_with_owner(owner, writer)
    forget = _at_the_end_of_the_cell(weakref.WeakMethod(end))

    def undo() -> None:
        detach()
        forget()

    return undo


def end_with_owner(owner: object, writer: RunWriter) -> Callable[[], object]:
    """Let a run end when nothing holds its owner any more, or with the process; gives what undoes this."""
    return weakref.finalize(owner, _leave, writer, os.getpid()).detach


def _leave(writer: RunWriter, process: int) -> None:
    """End a run whose owner is gone, or whose process ends; a forked process leaves its parent's run alone."""
    if os.getpid() == process:
        status, message = ended_by(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None))
        try:
            writer.finish(status, message=message)
        except RunError as error:  # nobody is left whom it could be raised to
            warnings.warn(str(error), RunWarning, stacklevel=2)


def _at_the_end_of_the_cell(end: "weakref.WeakMethod[End]") -> Callable[[], None]:
    """In a notebook, end the run when the cell ends; gives what undoes this."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None or threading.current_thread() is not threading.main_thread():  # a thread goes on behind its cell
        return lambda: None

    def ended(result: Any = None) -> None:
        method = end()
        if method is None:
            shell.events.unregister("post_run_cell", ended)
        elif threading.current_thread() is threading.main_thread():
            method(*ended_by(getattr(result, "error_in_exec", None)))

    shell.events.register("post_run_cell", ended)
    return lambda: shell.events.unregister("post_run_cell", ended)
