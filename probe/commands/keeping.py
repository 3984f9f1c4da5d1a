"""`probe runs mark`, `rename`, `delete`, `restore` and `trash`: how readers keep their runs in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from probe.commands.tables import grid, remark, safe, show
from probe.errors import ConfigError
from probe.options import parse
from probe.texts import say

SUMMARIES = {
    "mark": "pin, tag or archive runs, or note something: `probe runs mark REF --tag paper`",
    "rename": "give a run another name: `probe runs rename REF NAME`",
    "delete": "move runs to the trash: `probe runs delete REF`",
    "restore": "bring runs back from the trash: `probe runs restore NAME`",
    "trash": "list the trash, or empty it: `probe runs trash --empty`",
}
"""Commands, with what each does."""


def keep(command: str, argv: Sequence[str]) -> None:
    """Run one of the commands of `SUMMARIES`.

    Raises:
        ConfigError: the options are invalid, a run is being trained, or a name is taken.
        RunError: there is no such run, or it cannot be written or moved.
    """
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Mark:
        """Pin, tag or archive runs, or note something about them; the marks are kept in each run's folder."""

        refs: tyro.conf.Positional[list[str]]
        """Names of runs, or paths of their directories."""
        pin: tyro.conf.FlagCreatePairsOff[bool] = False
        """List the runs first."""
        unpin: tyro.conf.FlagCreatePairsOff[bool] = False
        """List them in their order again."""
        archive: tyro.conf.FlagCreatePairsOff[bool] = False
        """Leave the runs out of lists and pages; `probe runs list --archived` shows them."""
        unarchive: tyro.conf.FlagCreatePairsOff[bool] = False
        """List them again."""
        tag: list[str] = field(default_factory=list)
        """Tags to add."""
        untag: list[str] = field(default_factory=list)
        """Tags to remove."""
        note: str | None = None
        """Note in place of the present one; an empty one removes it."""

    @dataclass(frozen=True, kw_only=True)
    class Rename:
        """Give a run another name; runs that others were made from keep theirs."""

        ref: tyro.conf.Positional[str]
        """Name of a run, or path of its directory."""
        name: tyro.conf.Positional[str]
        """New name."""

    @dataclass(frozen=True, kw_only=True)
    class Delete:
        """Move runs to the trash beside them (`.trash`), from which `probe runs restore` brings them back."""

        refs: tyro.conf.Positional[list[str]]
        """Names of runs, or paths of their directories."""

    @dataclass(frozen=True, kw_only=True)
    class Restore:
        """Bring runs back from the trash; of several with one name the one that was deleted last."""

        names: tyro.conf.Positional[list[str]]
        """Names of the runs."""

    @dataclass(frozen=True, kw_only=True)
    class Trash:
        """List the runs in the trash of all run directories, or delete them for good."""

        empty: tyro.conf.FlagCreatePairsOff[bool] = False
        """Delete the runs in the trash for good."""
        older_than: float = 0.0
        """Only those that were deleted at least so many days ago."""

    where = f"probe runs {command}"
    if command == "mark":
        mark = parse(Mark, argv, where)
        given = (mark.pin, mark.unpin, mark.archive, mark.unarchive, mark.tag, mark.untag, mark.note is not None)
        if not any(given) or (mark.pin and mark.unpin) or (mark.archive and mark.unarchive):
            raise ConfigError(
                "`probe runs mark` needs to know what to change: give --pin or --unpin, --archive or --unarchive,"
                " --tag, --untag or --note."
            )
        _mark(mark.refs, mark.pin - mark.unpin, mark.archive - mark.unarchive, mark.tag, mark.untag, mark.note)
    elif command == "rename":
        rename = parse(Rename, argv, where)
        _rename(rename.ref, rename.name)
    elif command == "delete":
        _delete(parse(Delete, argv, where).refs)
    elif command == "restore":
        _restore(parse(Restore, argv, where).names)
    else:
        trash = parse(Trash, argv, where)
        _trash(trash.empty, trash.older_than)


def _found(refs: Sequence[str]) -> list[Path]:
    """Return the directories of the runs on a command line; nothing is done to any if one is missing.

    Raises:
        ConfigError: no run was named.
        RunError: a reference is not a run.
    """
    from probe.runs.directories import find

    if not refs:
        raise ConfigError("No run was named: give names as in `probe runs list`, or paths.")
    return list(dict.fromkeys(map(find, refs)))


def _mark(
    refs: Sequence[str], pin: int, archive: int, tags: Sequence[str], untag: Sequence[str], note: str | None
) -> None:
    from probe.runs.run_marks import read_marks, write_marks

    for path in _found(refs):
        marks = read_marks(path).with_tags(tags, untag)
        marks = replace(marks, pinned=pin > 0) if pin else marks
        marks = replace(marks, archived=archive > 0) if archive else marks
        marks = marks if note is None else replace(marks, note=note.strip())
        write_marks(path, marks)
        words = ["pinned"] * marks.pinned + ["archived"] * marks.archived
        words += [f"tagged {', '.join(marks.tags)}"] if marks.tags else []
        words += [f"noted: {marks.note.rstrip('.')}"] if marks.note else []
        say(f"`{path.name}` is {', '.join(words) or 'without marks'}.")


def _rename(ref: str, name: str) -> None:
    from probe.runs.directories import find, typed
    from probe.runs.trash import rename_run

    path = find(ref)
    say(f"`{path.name}` is now `{typed(rename_run(path, name))}`.")


def _delete(refs: Sequence[str]) -> None:
    from probe.runs.trash import dependents, trash_run

    paths = _found(refs)
    users = dependents(*paths)
    for path in paths:
        trash_run(path)
        say(f"`{path.name}` is in the trash: `probe runs restore` brings it back.")
    if users:
        remark(f"Runs that were made with {'it' if len(paths) == 1 else 'them'}: {', '.join(users)}.")


def _restore(names: Sequence[str]) -> None:
    from probe.runs.directories import typed
    from probe.runs.trash import find_trashed, restore_run

    for run in [find_trashed(name) for name in names]:
        say(f"`{run.name}` is back: `{typed(restore_run(run))}`.")


def _trash(empty: bool, older: float) -> None:
    from probe.runs.directories import typed
    from probe.runs.trash import empty_trash, trashed_runs

    before = datetime.now(UTC) - timedelta(days=min(max(older, 0.0), 36_500.0))
    runs = [run for run in trashed_runs() if run.deleted <= before]
    if empty:
        freed = empty_trash(runs)
        say(f"Deleted {len(runs)} runs for good; {freed / 1e6:,.1f} MB are free again.")
    elif runs:
        table = grid()
        for name in ("name", "deleted (UTC)", "path"):
            table.add_column(name)
        rows = [{"name": run.name, "deleted": f"{run.deleted:%Y-%m-%d %H:%M}", "path": typed(run.path)} for run in runs]
        for row in rows:
            table.add_row(*map(safe, row.values()))
        show(table, rows, optional=("path",))
    else:
        remark("The trash is empty.")
