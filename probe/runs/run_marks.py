"""Marks that readers give to runs: pinned, archived, tags, a note.

They lie in the run's own folder, in `marks.json`, so they go where the run goes.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from probe.errors import ConfigError, RunError
from probe.runs.addresses import is_cached
from probe.runs.storage import disk, write_atomic
from probe.texts import visible
from probe.untrusted import parse_json, read_file, readable

MARKS = "marks.json"
TAG, TAGS, NOTE = 40, 20, 2000
"""Most characters of a tag, most tags of a run, and most characters of a note."""
SIZE = 2**16
"""Most bytes of the file."""


@dataclass(frozen=True)
class Marks:
    """Remarks of readers about a run."""

    pinned: bool = False
    """Whether it is listed first."""
    archived: bool = False
    """Whether lists leave it out; it can still be opened by its name."""
    tags: tuple[str, ...] = ()
    note: str = ""

    def with_tags(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> "Marks":
        """Return the marks with some tags added and some removed, in the order in which they were given."""
        plain = [" ".join(each.split()) for each in (*self.tags, *add)]
        gone = {" ".join(each.split()) for each in remove}
        return replace(self, tags=tuple(each for each in dict.fromkeys(plain) if each and each not in gone))


def read_marks(run: Path) -> Marks:
    """Return the marks of the run in a directory; what is damaged or missing has its default."""
    try:
        found = readable(parse_json(read_file(run / MARKS, SIZE, follow=False)))
    except (OSError, ValueError):
        return Marks()
    if not isinstance(found, dict):
        return Marks()
    tags, note = found.get("tags"), found.get("note")
    known = [each for each in tags if isinstance(each, str)] if isinstance(tags, list) else []
    return Marks(
        pinned=found.get("pinned") is True,
        archived=found.get("archived") is True,
        tags=tuple(visible(each)[:TAG] for each in known[:TAGS]),
        note=visible(note, lines=True)[:NOTE] if isinstance(note, str) else "",
    )


def write_marks(run: Path, marks: Marks) -> None:
    """Store the marks of the run in a directory.

    Raises:
        ConfigError: a tag or the note is too long, or there are too many tags.
        RunError: the run lies in the cache of a store, or its folder may not be written to.
    """
    if is_cached(run):
        raise RunError(f"`{run.name}` is the copy of a run in a store, which is not marked: download it first.")
    if long := next((each for each in marks.tags if len(each) > TAG), None):
        raise ConfigError(f"The tag `{long[:TAG]}...` has {len(long)} characters: give at most {TAG}.")
    if len(marks.tags) > TAGS:
        raise ConfigError(f"`{run.name}` would have {len(marks.tags)} tags: keep at most {TAGS}.")
    if len(marks.note) > NOTE:
        raise ConfigError(f"The note has {len(marks.note):,} characters: shorten it to {NOTE:,}.")
    with disk(run / MARKS):
        if marks == Marks():
            (run / MARKS).unlink(missing_ok=True)
        else:
            write_atomic(run / MARKS, json.dumps(asdict(marks), indent=2).encode())
