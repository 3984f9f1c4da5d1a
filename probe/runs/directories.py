"""Folders of runs, here or in a store, and the lookup of a run's name in them."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import AmbiguousNameError, RunError, brief, suggest
from probe.runs.addresses import RUN_FILE, is_cached, is_run, is_url
from probe.runs.store.mirror import address_of, fill, find_run, mirror

SWEEP = ".sweep"
"""Folder next to the runs of a sweep that holds its journal."""
PLACES = [folder / "sample_runs" for folder in Path(__file__).resolve().parents[1:3]]
SHIPPED = next(filter(Path.is_dir, PLACES), PLACES[-1])
"""Sample runs that come with Probe: two in the package of a wheel, all next to the package in a checkout."""
NAME = re.compile(r"[\w+=,@ -][\w.+=,@ -]*")
"""Names that a run or a job can have."""
ENTRIES = 50_000
"""Maximum number of files and folders of a run that are searched for links."""


def is_host(name: str, value: object) -> bool:
    """Return whether an option's value makes training contact a host: an address, or a tracker that sends to one."""
    return is_url(value) or (name, value) == ("track", "wandb")


def host_options(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the options of a stored run that contact a host, such as a base `s3://bucket/base`, with all their values.

    A run is data and may come from anybody: nothing is requested from or sent to a host that only the run names.
    """
    options = {}
    for name, value in config.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        if str(name).isidentifier() and any(is_host(name, each) for each in values):
            options[str(name)] = [str(each) for each in values]
    return options


def roots() -> list[Path]:
    """Return the folders that hold runs, in order of priority.

    They are the entries of the environment variable PROBE_RUNS (separated as in PATH), or else the existing ones of
    `./runs`, `./sample_runs` and `SHIPPED`. An entry may be a folder of a store (`s3://bucket/runs`), which stands for
    its cache on this machine (`probe.runs.store`). Each is followed by its subfolders that a sweep has filled
    (`probe.sweep`).
    """
    entries = settings()
    if entries:
        places = [local_folder(entry) for entry in entries]
    else:
        here = Path.cwd()
        places = [path for path in (here / "runs", here / "sample_runs", SHIPPED) if path.is_dir()]
    return _distinct([path for place in places for path in (place, *_swept(place))])


def _swept(root: Path) -> list[Path]:
    """Return the direct subfolders of a folder of runs that hold the runs of a sweep; links are not followed."""
    try:
        folders = [each for each in os.scandir(root) if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(Path(each) for each in folders if os.path.isdir(os.path.join(each, SWEEP)))


def settings() -> list[str]:
    """Return the entries of the environment variable PROBE_RUNS."""
    parts = re.split(f"{re.escape(os.pathsep)}(?!//)", os.environ.get("PROBE_RUNS", ""))
    return [part for part in parts if part]


def local_folder(entry: str | Path) -> Path:
    """Return the local path of a folder of runs; a folder of a store is listed again if its listing is old."""
    if is_url(entry):
        return mirror(str(entry).rstrip("/")).refresh()
    return Path(os.path.expanduser(entry))


def store_problems(entries: Sequence[str | Path] | None = None) -> dict[str, str]:
    """Return the problems of reading folders of runs in a store (default: those of `roots()`), by address.

    Each is a sentence that says why a folder, or a run in it, could not be read, and what is shown instead.
    """
    problems: dict[str, str] = {}
    for entry in settings() if entries is None else entries:
        if is_url(entry):
            place = mirror(str(entry).rstrip("/"))
            problems |= {place.url: place.problem} if place.problem else {}
            problems |= {f"{place.url}/{name}": problem for name, problem in place.problems.items()}
    return problems


def shown_name(path: Path) -> str:
    """Return the name of a folder of runs, or of a run, for people: its path, or its address in a store."""
    if not is_cached(path):
        return str(path)
    return address_of(path) or str(path)


def present(path: Path) -> Path:
    """Return `path`; fetch it first if it is a checkpoint or capture in the cache of a store.

    Raises:
        RunError: it cannot be fetched.
    """
    if is_cached(path):
        fill(path)
    return path


def is_shipped(path: Path) -> bool:
    """Return whether `path` lies in the sample runs that come with Probe, or in the cache of a store.

    Nothing is written there unless the user requests it.
    """
    return is_sample(path) or is_cached(path)


def is_sample(path: Path) -> bool:
    """Return whether `path` lies in the sample runs that come with Probe."""
    return path.resolve().is_relative_to(SHIPPED.resolve())


WORK = Path("results")
"""Folder below the working directory for results of models that are not the user's runs."""


def run_homes(run: Path) -> list[Path]:
    """Return the folders that can hold results of a run; new ones go to the first.

    A run may be untrusted, so nothing is written if its `results` is a link.
    """
    theirs = run / WORK.name
    is_theirs = not is_shipped(run) and not theirs.is_symlink() and os.access(run, os.W_OK)
    return [theirs] if is_theirs else [WORK / run.resolve().name, theirs]


def may_make(path: Path) -> bool:
    """Return whether a file or folder can be created, judged by its nearest existing parent."""
    return os.access(next(place for place in path.absolute().parents if place.exists()), os.W_OK)


def run_directories(root: Path) -> list[Path]:
    """Return the directories of the runs directly in `root`, sorted by name; `root` itself if it is a run.

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
    """Return whether `path` lies in one of the folders of runs (default: `roots()`), following links on both sides."""
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):  # a name that no file can have
        return False
    return any(Path(real).is_relative_to(os.path.realpath(root)) for root in (roots() if among is None else among))


def stray_link(path: Path, among: Sequence[Path] | None = None) -> Path | None:
    """Return the first of `path` and the links in it that leads outside the folders of runs, or None.

    The default folders are `roots()`.

    Raises:
        RunError: it holds too many files and folders for this check.
    """
    places = list(roots() if among is None else among)
    if not within(path, places):
        return path
    seen = 0
    for folder, folders, files in os.walk(path):
        seen += len(folders) + len(files)
        if seen > ENTRIES:
            raise RunError(f"`{path}` holds more than {ENTRIES:,} files and folders, so it is not read: thin it.")
        for name in sorted([*folders, *files]):
            entry = Path(folder, name)
            if entry.is_symlink() and not within(entry, places):
                return entry
    return None


def is_path(ref: str | Path) -> bool:
    """Return whether a reference is a path: it has a separator, or is `.`, `..` or begins with `~`."""
    text = str(ref)
    return text in ("", ".", "..") or text.startswith("~") or any(sign in text for sign in {"/", os.sep})


def candidates(name: str, among: Sequence[Path] | None = None) -> list[Path]:
    """Return the runs that a bare name can mean: one in the working directory, and the first in the folders of runs.

    Args:
        name: name that is not a path (`is_path`).
        among: folders of runs (default: `roots()`).
    """
    here = [Path(name)] if is_run(Path(name)) else []
    folders = roots() if among is None else among
    named = (path for root in folders for path in ([root] if root.name == name else []) + [root / name])
    first = next(filter(is_run, named), None)
    return _distinct([*here, *([first] if first else [])])


def ambiguous(name: str, *places: Path) -> str:
    """Return the sentence that refuses an ambiguous bare name; each folder is spelled so that it can be typed."""
    ways = " or ".join(f"`{typed(place)}`" for place in places)
    return f"`{brief(name)}` can mean several folders here: give {ways}."


def typed(place: Path) -> str:
    """Return a folder's path as typed in the working directory, unambiguously."""
    if is_cached(place):
        return shown_name(place)
    path = Path(os.path.abspath(place))
    return f"./{path.relative_to(Path.cwd())}" if path.is_relative_to(Path.cwd()) else str(path)


def find(ref: str | Path, among: Sequence[Path] | None = None) -> Path:
    """Return the directory of the run that `ref` names: a path, or a name in the folders of runs.

    Args:
        ref: path of a run directory (a reference with a separator is a path), bare name of a run, or address of one in
            a store (`s3://bucket/runs/base`), which is fetched into the cache.
        among: folders of runs to search (default: `roots()`).

    Raises:
        RunError: there is no such run, and the message lists similar names and the searched folders; or a bare name
            means one run in the working directory and another one in the folders of runs.
    """
    if is_url(ref):
        return find_run(str(ref))
    path = Path(os.path.expanduser(ref))
    folders = list(roots() if among is None else among)
    found = candidates(str(ref), folders) if not is_path(ref) else [path] if is_run(path) else []
    if len(found) > 1:
        raise AmbiguousNameError(ambiguous(str(ref), *found))
    if found:
        return found[0]
    if os.path.isdir(path):
        raise RunError(
            f"`{brief(str(ref))}` is a folder without {RUN_FILE}, so it is not a run: give a folder that a run was"
            " written to."
        )
    if os.path.isfile(path):
        raise RunError(f"`{ref}` is a file: give the directory of a run, or its name.")
    raise RunError(_missing(str(ref), folders))


def _missing(ref: str, folders: list[Path]) -> str:
    names = sorted({path.name for root in folders if root.is_dir() for path in run_directories(root)})
    place = "any run directory"
    if folders:
        place = "the run directories " + ", ".join(f"`{shown_name(root)}`" for root in folders)
    if names:
        remedy = f"the runs there are {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}."
    else:
        remedy = "give the path of a run directory, or set PROBE_RUNS to the folder that holds your runs."
    return f"There is no run `{brief(ref)}`, neither as a path nor in {place}: {suggest(ref, names, remedy, most=3)}"


def _distinct(paths: list[Path]) -> list[Path]:
    by_target: dict[Path, Path] = {}
    for path in paths:
        by_target.setdefault(path.resolve(), path)
    return list(by_target.values())
