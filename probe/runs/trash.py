"""Runs that are renamed, thrown away and restored.

A deleted run moves to `.trash` beside the other runs and stays there until the trash is emptied. A run that is being
written stays where it is.
"""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from probe.errors import ConfigError, RunError, suggest
from probe.runs.addresses import is_cached, is_run
from probe.runs.ancestry import RELATIONS, RunIndex, readable_runs
from probe.runs.directories import NAME, roots
from probe.runs.reader import Run
from probe.runs.storage import delete, disk, hold_lock, sync_folder, unlock

TRASH = ".trash"
"""Folder beside the runs for those that were thrown away."""
STAMP = "%Y%m%dT%H%M%S"
ENTRY = re.compile(r"(\d{8}T\d{6})(?:\.\d+)?-(.+)", re.DOTALL)
"""Name of a run in the trash: the time (UTC) and, for several of one second, a number, then its own name."""


@dataclass(frozen=True)
class TrashedRun:
    """A run in the trash."""

    path: Path
    name: str
    """Its name before."""
    deleted: datetime
    """Time of its deletion, UTC."""

    @property
    def home(self) -> Path:
        """The directory from which it came."""
        return self.path.parent.parent / self.name


def dependents(*paths: Path) -> list[str]:
    """Return the names of other runs beside some runs whose records name one as parent, reference or reward model."""
    runs = list(readable_runs(dict.fromkeys(path.absolute().parent for path in paths)))
    index, own = RunIndex(runs), {os.path.realpath(path) for path in paths}
    named = []
    for run in runs:
        refs = [run.meta.get(relation) for relation in RELATIONS]
        found = [index.find(ref, run) for ref in refs if isinstance(ref, str) and ref]
        sources = {os.path.realpath(source.path) for source in found if source is not None}
        if sources & own and os.path.realpath(run.path) not in own:
            named.append(run.name)
    return named


def rename_run(path: Path, name: str) -> Path:
    """Give a run another name, in the same folder, and return its new directory.

    Raises:
        ConfigError: the name is invalid or taken, other runs name this one in their records, or it is being trained.
        RunError: it is a copy from a store, or cannot be moved.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"`{name}` cannot name a run: use letters, digits and any of . _ - + = , @ and blanks.")
    target = path.absolute().parent / name
    if os.path.lexists(target):
        raise ConfigError(f"`{name}` exists already in `{target.parent}`: choose another name.")
    if users := dependents(path):
        some = ", ".join(users[:3]) + f" and {len(users) - 3} more" * (len(users) > 3)
        raise ConfigError(
            f"`{path.name}` keeps its name, since the records of {some} say that they were made with it: give it a tag"
            " or a note."
        )
    return _move(path, target)


def trash_run(path: Path) -> TrashedRun:
    """Move a run to the trash beside it.

    Raises:
        ConfigError: it is being trained.
        RunError: it is a copy from a store, or cannot be moved.
    """
    trash = path.absolute().parent / TRASH
    if trash.is_symlink():
        raise RunError(f"`{trash}` is a link to another folder, which is not written to: delete the link.")
    now = datetime.now(UTC).replace(microsecond=0)
    names = [f"{now:{STAMP}}{f'.{count}' * bool(count)}-{path.name}" for count in range(100)]
    with disk(trash):
        trash.mkdir(exist_ok=True)
    target = next(each for each in (trash / name for name in names) if not os.path.lexists(each))
    return TrashedRun(_move(path, target), path.name, now)


def trashed_runs(among: Iterable[Path] | None = None) -> list[TrashedRun]:
    """Return the runs in the trash of some folders (default: `roots()`), the newest first."""
    found = []
    for root in roots() if among is None else among:
        trash = root / TRASH
        if trash.is_symlink() or not trash.is_dir():
            continue
        for path in trash.iterdir():
            parts = ENTRY.fullmatch(path.name)
            if parts is None or path.is_symlink() or not is_run(path):
                continue
            try:
                deleted = datetime.strptime(parts[1], STAMP).replace(tzinfo=UTC)
            except ValueError:
                continue
            found.append(TrashedRun(path, parts[2], deleted))
    return sorted(found, key=lambda each: (each.deleted, each.path.name), reverse=True)


def find_trashed(name: str, among: Sequence[TrashedRun] | None = None) -> TrashedRun:
    """Return the run of a name that was thrown away last.

    Raises:
        RunError: there is none.
    """
    known = trashed_runs() if among is None else among
    found = next((each for each in known if each.name == name), None)
    if found is None:
        names = [each.name for each in known]
        remedy = suggest(name, names, f"it holds {', '.join(names[:8]) or 'no run'}.")
        raise RunError(f"There is no run `{name}` in the trash: {remedy}")
    return found


def restore_run(run: TrashedRun) -> Path:
    """Move a run back from the trash, and return its directory.

    Raises:
        ConfigError: its name is taken meanwhile.
        RunError: it cannot be moved.
    """
    if os.path.lexists(run.home):
        raise ConfigError(f"`{run.name}` exists again in `{run.home.parent}`: rename that run first.")
    return _move(run.path, run.home)


def empty_trash(runs: Iterable[TrashedRun]) -> int:
    """Delete runs in the trash for good, and return the number of bytes that this freed.

    Raises:
        RunError: one cannot be deleted.
    """
    freed = 0
    for run in runs:
        with disk(run.path):
            freed += sum(Path(folder, name).lstat().st_size for folder, _, files in os.walk(run.path) for name in files)
            delete(run.path)
    return freed


def _move(path: Path, target: Path) -> Path:
    """Move a run's directory while no other process may begin to write it.

    Raises:
        ConfigError: it is being trained.
        RunError: it is a copy from a store, or cannot be moved.
    """
    if is_cached(path):
        raise RunError(f"`{path.name}` is the copy of a run in a store: delete or rename it there.")
    with suppress(RunError):  # a damaged run can be moved
        if Run(path).status == "running":
            raise ConfigError(f"`{path.name}` is being trained: stop it first.")
    with disk(target), hold_lock(path) as handle:
        os.rename(path, target)
        unlock(handle)
    sync_folder(target.parent)
    return target
