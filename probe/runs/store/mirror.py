"""Runs of a store on this machine: a cache that is read like any folder of runs.

`mirror(url)` lists a folder of a store from its manifests and fetches small files (run.json, logs, results). Files of
checkpoints and captures are empty until `fill` fetches them when they are opened. All files are below `$PROBE_CACHE`,
or else `probe` in the user's cache directory; nothing else is written there, and names in a manifest cannot lead
outside it (`probe.runs.store.remote.check_name`).
"""

import hashlib
import os
import re
import shutil
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock, RLock, Thread, get_ident
from typing import Any

from probe.errors import ProbeError, RunError, brief
from probe.runs.addresses import RUN_FILE, cache_root, is_run
from probe.runs.schema import ENDINGS, RunWarning, read_meta
from probe.runs.storage import disk, write_atomic
from probe.runs.store.objects import Folder
from probe.runs.store.remote import (
    MANIFEST_BYTES,
    TRIES,
    Entry,
    Version,
    check_name,
    check_room,
    dump_version,
    fetch,
    is_bulky,
    newest_attempt,
    parse_version,
    read_version,
    spread,
)
from probe.untrusted import read_file

MANIFEST = ".manifest.json"
"""File in each run with its version on this machine."""
ADDRESS_FILE = ".address"
"""File in each folder with its address; its time is that of the last listing."""
FRESH_S = 30.0
"""Seconds for which a list of runs counts as current."""
ENDED_S = 600.0
"""Seconds for which an ended run counts as current."""
PATIENCE_S = 5.0
"""Seconds that a reader waits for a store if older content can be shown."""


def cached_folder(url: str) -> Path:
    """Return the path on this machine of a folder of a store; nothing is fetched."""
    url = url.rstrip("/")
    words = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:60].strip("-.")
    return cache_root() / f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def cached_run(url: str) -> Path:
    """Return the path on this machine of a run of a store; nothing is fetched.

    Raises:
        RunError: the address cannot be that of a run.
    """
    parent, _, name = url.rstrip("/").rpartition("/")
    try:
        return cached_folder(parent) / check_name(name)
    except ValueError:
        raise RunError(f"`{brief(url)}` is not the address of a run: give one such as s3://bucket/runs/NAME.") from None


def address_of(path: Path) -> str | None:
    """Return the address from which a folder of the cache, or a run in it, was fetched; None for any other path."""
    root, real = cache_root(), Path(os.path.realpath(path))
    if not real.is_relative_to(root) or real == root:
        return None
    first, *rest = real.relative_to(root).parts
    try:
        url = read_file(root / first / ADDRESS_FILE).decode()
    except (OSError, ValueError):
        return None
    return "/".join([url, *rest])


def find_run(url: str) -> Path:
    """Return the local directory of a run of a store, updated except for its checkpoints and captures.

    If the store cannot be reached, the run is returned as fetched before, with a `RunWarning`.

    Raises:
        RunError: there is no such run.
    """
    path = cached_run(url)
    place = mirror(url.rstrip("/").rpartition("/")[0])
    place.refresh_run(path.name)
    if place.problem:
        warnings.warn(place.problem, RunWarning, stacklevel=3)
    return path


@cache
def mirror(url: str) -> "Mirror":
    """Return the mirror of a folder of a store, one for each address in a process."""
    return Mirror(url.rstrip("/"))


class Mirror:
    """A folder of runs of a store, with its files on this machine."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.path = cached_folder(url)
        self.problem: str | None = None
        """Why the last listing of the store failed, and what is shown instead; None if it succeeded."""
        self.problems: dict[str, str] = {}
        """Name of each run that could not be fetched to the reason."""
        self.locks: defaultdict[str, Any] = defaultdict(RLock)
        """Lock of each run, so that files of different versions do not mix."""
        self._lock = Lock()
        self._thread: Thread | None = None
        self._listed, self._looked = -FRESH_S, dict[str, float]()

    def refresh(self) -> Path:
        """Return the folder with the runs of the store, listed again if the last listing is old.

        If runs are already here, the store has `PATIENCE_S` seconds to answer; after that the listing continues in the
        background.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return self.path
            if time.monotonic() - self._listed < FRESH_S:
                return self.path
            self._listed = time.monotonic()
            thread = self._thread = Thread(target=self._list, name="probe-mirror", daemon=True)
            thread.start()
        thread.join(PATIENCE_S if self.path.is_dir() else None)
        if thread.is_alive():
            self.problem = self._instead(f"`{brief(self.url)}` has not answered within {PATIENCE_S:.0f} seconds.")
        return self.path

    def refresh_run(self, name: str) -> Path:
        """Update one run and return its directory.

        For an ended run, the store is contacted only if the last time is long ago.

        Raises:
            RunError: there is no such run, here or in the store.
        """
        try:
            self._fetch_run(name)
        except ProbeError as error:
            if not is_run(self.path / name):
                raise RunError(error) from None
            self.problem = self._instead(str(error))
        else:
            self._note()
        if not is_run(self.path / name):
            raise RunError(
                f"`{brief(self.url)}/{name}` holds no run: give the address that one was uploaded to; `probe runs list"
                f" --root {brief(self.url)}` lists those there."
            )
        return self.path / name

    def _list(self) -> None:
        try:
            names = [name for name in Folder(self.url).names() if _is_name(name)]
            problems: dict[str, str] = {}

            def look(name: str) -> bool:
                try:
                    return self._fetch_run(name)
                except RunError as error:
                    problems[name] = str(error)
                    return True

            runs = {name for name, there in zip(names, spread(look, names), strict=True) if there}
            self._note()
            with disk(self.path):
                for path in self.path.iterdir():
                    if path.name not in runs and path.is_dir():
                        shutil.rmtree(path)
        except ProbeError as error:
            self.problem = self._instead(str(error)) if self.path.is_dir() else str(error)
        else:
            self.problem, self.problems = None, problems

    def _note(self) -> None:
        """Record when the store was last read, and its address."""
        with disk(self.path):
            write_atomic(self.path / ADDRESS_FILE, self.url.encode())

    def _instead(self, reason: str) -> str:
        """Return a sentence that says why the store could not be read, and what is shown instead."""
        reason = reason[0].lower() + reason[1:]
        try:
            hours = (time.time() - (self.path / ADDRESS_FILE).stat().st_mtime) / 3600
        except OSError:
            return f"What was fetched before is shown, since {reason}"
        ago = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
        return f"What was fetched {ago} ago is shown, since {reason}"

    def _fetch_run(self, name: str) -> bool:
        """Update a run except for its large files; return whether the store has it."""
        path, now = self.path / name, time.monotonic()
        if now - self._looked.get(name, -ENDED_S) < (ENDED_S if _has_ended(path) else 0.0):
            return True
        folder = Folder(f"{self.url}/{name}")
        for _ in range(TRIES):
            attempt = newest_attempt(folder)
            if not attempt:
                return False
            version = read_version(folder, attempt)
            if RUN_FILE not in version.files:
                return is_run(path)  # claimed, without an upload yet
            try:
                with self.locks[name]:
                    _update(folder, path, version)
            except FileNotFoundError:  # a newer version has taken its place
                continue
            self._looked[name] = now
            return True
        raise RunError(f"`{brief(folder.url)}` lacks files that its manifest names: upload the run again.")


def missing_bytes(path: Path) -> int:
    """Return the number of bytes that `fill` would fetch."""
    place, name = _split(path)
    return sum(entry.bytes for entry in _parts(place, name) if _size(place / entry.name) != entry.bytes)


def fill(path: Path) -> None:
    """Fetch a checkpoint or capture of the cache that is not here yet; do nothing for other paths.

    Raises:
        RunError: it cannot be fetched.
    """
    place, name = _split(path)
    url = address_of(place)
    if url is None or not name:
        return
    owner = mirror(url.rpartition("/")[0])
    for again in (False, True):
        with owner.locks[place.name]:
            parts = _parts(place, name)
            lacking = [entry for entry in parts if _size(place / entry.name) != entry.bytes]
            if again and not parts:
                break
            if not lacking:
                return
            folder = Folder(url)
            check_room(folder, sum(entry.bytes for entry in lacking), place)
            try:
                return _fetch_into(folder, place, lacking)
            except FileNotFoundError:  # the run has a newer version than the one here
                owner.refresh_run(place.name)
    raise RunError(f"`{brief(url)}` has no `{name}` any more: read the page again.")


def _split(path: Path) -> tuple[Path, str]:
    """Return the cached run of a path, and the path's name in that run; an empty name for other paths."""
    root, real = cache_root(), Path(os.path.realpath(path))
    if not real.is_relative_to(root) or len(real.relative_to(root).parts) < 3:
        return real, ""
    first, run, *rest = real.relative_to(root).parts
    return root / first / run, "/".join(rest)


def _parts(place: Path, name: str) -> list[Entry]:
    """Return the files of a cached run with a given name, or in the folder of that name."""
    files = _version(place).files.values() if name else ()
    return [entry for entry in files if f"{entry.name}/".startswith(f"{name}/")]


def _update(folder: Folder, path: Path, version: Version) -> None:
    """Make the directory hold a version: small files complete, large ones empty.

    Raises:
        FileNotFoundError: the version is no longer the newest.
    """
    before = _version(path)
    if before == version and is_run(path):
        return
    changed = [entry for entry in version.files.values() if before.files.get(entry.name) != entry]
    small = [entry for entry in changed if not is_bulky(entry.name) and entry.name != RUN_FILE]
    check_room(folder, sum(entry.bytes for entry in small), path)
    with disk(path):
        for name in set(before.files) - set(version.files):
            _remove(path, name)
        for entry in changed:
            if is_bulky(entry.name):
                write_atomic(path / entry.name, b"")
    _fetch_into(folder, path, small)
    _fetch_into(folder, path, [version.files[RUN_FILE]])
    with disk(path):
        write_atomic(path / MANIFEST, dump_version(version))


def _fetch_into(folder: Folder, path: Path, entries: Iterable[Entry]) -> None:
    """Fetch files to their places in a run's directory; each one appears whole."""

    def one(entry: Entry) -> None:
        target = path / entry.name
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{get_ident()}.tmp")
        try:
            fetch(folder, entry, temporary)
            with disk(target):
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    for _ in spread(one, entries):
        pass


def _version(path: Path) -> Version:
    """Return the version of a run on this machine; an empty version if none is known."""
    try:
        return parse_version(read_file(path / MANIFEST, MANIFEST_BYTES), str(path / MANIFEST))
    except (OSError, RunError):
        return Version(0)


def _remove(path: Path, name: str) -> None:
    """Delete a file and the folders that become empty."""
    target = path / name
    target.unlink(missing_ok=True)
    for parent in list(target.parents)[: len(name.split("/")) - 1]:
        with suppress(OSError):
            parent.rmdir()


def _has_ended(path: Path) -> bool:
    try:
        return read_meta(path).get("status") in ENDINGS
    except RunError:
        return False


def _is_name(name: str) -> bool:
    try:
        return "/" not in check_name(name)
    except ValueError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
