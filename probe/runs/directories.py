"""Where runs are looked for: the folders of runs, and the lookup of a run's name in them."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from probe.errors import RunError, brief

RUN_FILE = "run.json"
SWEEP = ".sweep"
"""The folder beside the runs of a sweep that has its journal."""
SHIPPED = Path(__file__).resolve().parents[2] / "sample_runs"
"""The sample runs that come with Probe: next to the package, in a checkout."""


def roots() -> list[Path]:
    """The folders that hold runs, the first one first.

    They are the entries of the environment variable PROBE_RUNS (separated like PATH), or else those of `./runs`,
    `./sample_runs` and the `sample_runs` beside the installed package (in a checkout) that exist. Behind each come the
    folders in it that a sweep has filled (`probe.sweep`).
    """
    setting = os.environ.get("PROBE_RUNS", "")
    if setting:
        places = [Path(os.path.expanduser(part)) for part in setting.split(os.pathsep) if part]
    else:
        here = Path.cwd()
        places = [path for path in (here / "runs", here / "sample_runs", SHIPPED) if path.is_dir()]
    return _distinct([path for place in places for path in (place, *_swept(place))])


def _swept(root: Path) -> list[Path]:
    """The folders directly in a folder of runs that hold the runs of a sweep; links are not followed."""
    try:
        folders = [each for each in os.scandir(root) if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(Path(each) for each in folders if os.path.isdir(os.path.join(each, SWEEP)))


def is_shipped(path: Path) -> bool:
    """Whether `path` lies in the sample runs that come with Probe, which nothing is written to unasked."""
    return path.resolve().is_relative_to(SHIPPED.resolve())


def is_run(path: Path) -> bool:
    """Whether `path` is a directory that holds a run (readable or not)."""
    return os.path.isfile(path / RUN_FILE)


def run_directories(root: Path) -> list[Path]:
    """The runs directly in `root` in the order of their names; `root` itself if it is a run.

    Raises:
        RunError: the folder may not be read.
    """
    if is_run(root):
        return [root]
    try:
        return sorted(path for path in root.iterdir() if not path.name.startswith(".") and is_run(path))
    except OSError as error:
        raise RunError(f"The folder `{root}` cannot be read ({error.strerror}): name another one.") from error


def within(path: str | Path, among: Sequence[Path] | None = None) -> bool:
    """Whether `path` lies in one of the folders of runs (default: `roots()`), links followed on both sides."""
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):  # a name that no file can have
        return False
    return any(Path(real).is_relative_to(os.path.realpath(root)) for root in (roots() if among is None else among))


def stray_link(path: Path, among: Sequence[Path] | None = None) -> Path | None:
    """The first of `path` and the links in it that leads outside the folders of runs (default: `roots()`), or None."""
    places = list(roots() if among is None else among)
    if not within(path, places):
        return path
    for folder, folders, files in os.walk(path):
        for name in sorted([*folders, *files]):
            entry = Path(folder, name)
            if entry.is_symlink() and not within(entry, places):
                return entry
    return None


def find(ref: str | Path, among: Sequence[Path] | None = None) -> Path:
    """The directory of the run that `ref` names: a path, or a run's name looked up in the folders of runs.

    Args:
        ref: the path of a run directory, or the name of a run.
        among: the roots to search (default: `roots()`).

    Raises:
        RunError: there is no such run; the message lists near names and the roots that were searched.
    """
    path = Path(os.path.expanduser(ref))
    if is_run(path):
        return path
    folders = list(roots() if among is None else among)
    if not path.is_absolute() and ".." not in path.parts and path.parts:
        for root in folders:
            if root.name == str(ref) and is_run(root):
                return root
            if is_run(root / path):
                return root / path
    if os.path.isdir(path):
        raise RunError(
            f"`{brief(str(ref))}` is a folder without {RUN_FILE}, so it is no run: give a folder that a run was"
            " written to."
        )
    if os.path.isfile(path):
        raise RunError(f"`{ref}` is a file: give the directory of a run, or its name.")
    raise RunError(_missing(str(ref), folders))


def _missing(ref: str, folders: list[Path]) -> str:
    names = sorted({path.name for root in folders if root.is_dir() for path in run_directories(root)})
    matches = difflib.get_close_matches(ref, names, n=3, cutoff=0.5)
    place = "the folders of runs " + ", ".join(f"`{root}`" for root in folders) if folders else "any folder of runs"
    if matches:
        remedy = "did you mean " + " or ".join(f"`{name}`" for name in matches) + "?"
    elif names:
        remedy = f"the runs there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}."
    else:
        remedy = "give the path of a run directory, or set PROBE_RUNS to the folder that holds your runs."
    return f"There is no run `{brief(ref)}`, neither as a path nor in {place}: {remedy}"


def _distinct(paths: list[Path]) -> list[Path]:
    by_target: dict[Path, Path] = {}
    for path in paths:
        by_target.setdefault(path.resolve(), path)
    return list(by_target.values())
