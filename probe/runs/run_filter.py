"""Search of runs: by name, text, method, status and tags."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from probe.runs.reader import Run

REFERENCES = frozenset({"base", "reward", "reference", "data", "out"})
"""Settings that name other runs and files, which a search does not look through."""


@dataclass(frozen=True)
class RunFilter:
    """Criteria that choose runs; a run has to meet all."""

    name: str = ""
    """Part of the name, or a shell pattern for the whole name (`dpo-*`)."""
    text: str = ""
    """Words that the name, the method, a tag, the note, the message or a setting (as `lr=0.001`) contain, each of them
    in one of these."""
    method: str | None = None
    status: str | None = None
    tags: Sequence[str] = ()
    """Tags that the run has to have, all of them."""

    def keeps(self, name: str, method: str | None, status: str, run: Run | None = None) -> bool:
        """Return whether a run meets the criteria.

        Args:
            name: name of the run.
            method: method, if it is known.
            status: status.
            run: the run; None for one that cannot be read, which has neither tags nor text.
        """
        part, plain = self.name.casefold(), name.casefold()
        fits = fnmatchcase(plain, part) if any(sign in part for sign in "*?[") else part in plain
        if not fits or self.method not in (None, method) or self.status not in (None, status):
            return False
        if self.tags and not {*self.tags} <= {*(run.marks.tags if run else ())}:
            return False
        words = self.text.casefold().split()
        if not words:
            return True
        heap = "\n".join((name, *(searched(run) if run else ()))).casefold()
        return all(word in heap for word in words)


def searched(run: Run) -> list[str]:
    """Return the texts of a run that a search looks through."""
    marks = run.marks
    settings = [f"{key}={_short(value)}" for key, value in run.config.items() if key not in REFERENCES]
    return [run.name, run.method, *marks.tags, marks.note, run.message or "", *settings]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:200]
