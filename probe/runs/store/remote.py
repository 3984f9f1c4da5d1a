"""Runs in a store: uploaded in complete versions, downloaded elsewhere, and fenced by the attempt's number.

Below the address of a run are

    attempts/00000002.json             manifest: name, size and SHA-256 of every file of one complete version
    files/NAME/00000002-SHA256         the contents of a file; such an object never changes

The manifest of the highest attempt is the run. An attempt writes only its own manifest and objects of its own number,
so no order of writes by two attempts can damage what a reader sees, and no locks are needed. The store has to be
consistent: a read or list that begins after a write has ended sees it (S3 does, since 2020).

- A version is published by one write of the manifest, after all of its objects: a reader has the old one or the new.
- Once `claim(url, n)` has returned, no change by a lower attempt is visible. Uploads of lower attempts raise `Fenced`,
  even those that began before. Attempt n continues from what they had published by then.
- An attempt deletes objects that its new version no longer needs, after checking that there is no higher attempt. After
  writing its manifest, a claim reads the version that it takes over again, until both are equal: so its manifest names
  no deleted object.

Not guaranteed: uploads of two processes under one number (give each process its own), and that a killed upload leaves
nothing behind (it may leave objects that no manifest names, which are harmless).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

from probe.errors import RunError, brief
from probe.runs.addresses import RUN_FILE
from probe.runs.schema import CAPTURES, CHECKPOINTS, ENDINGS, INDEX, dumps, parse_step, read_meta
from probe.runs.storage import disk, sync_tree, write_atomic
from probe.runs.store.objects import Folder
from probe.untrusted import LOG, open_file, parse_json, read_file, refuse_newer

ATTEMPTS, FILES = "attempts", "files"
SCHEMA = 1
"""Version of the layout in a store; a reader refuses a higher one."""
MOST_FILES, MANIFEST_BYTES = 100_000, 32 * 2**20
MOST_BYTES = 2**50
CHUNK = 16 * 2**20
"""Number of bytes that are fetched at once."""
ROOM = 2**30
"""Number of bytes that a download leaves free on the disk."""
WORKERS = 8
"""Number of files that are sent or fetched at once."""
TRIES = 5
"""Maximum number of attempts to read a version that changes while it is read."""
FIRST = (RUN_FILE, f"{CAPTURES}/{INDEX}")
"""Files that are read before the others, because they refer to existing files."""
HASH = re.compile(r"[0-9a-f]{64}")


T = TypeVar("T")
R = TypeVar("R")


class Fenced(RunError):
    """Error: a newer attempt has claimed the run in the store, so this one may no longer write to it."""


@dataclass(frozen=True)
class Entry:
    """File of a version."""

    name: str
    """Path of the file in the run, with `/` between the parts."""
    bytes: int
    sha256: str
    attempt: int
    """Number of the attempt that wrote its object."""

    @property
    def key(self) -> str:
        """Name of the object that holds it."""
        return f"{FILES}/{self.name}/{self.attempt:08d}-{self.sha256}"


@dataclass(frozen=True)
class Version:
    """A complete version of a run in a store."""

    attempt: int
    files: dict[str, Entry] = field(default_factory=dict)
    created: str | None = None
    """Time when the run was started, which identifies it; None until the attempt has uploaded something."""

    @property
    def bytes(self) -> int:
        """Size of all files in bytes."""
        return sum(entry.bytes for entry in self.files.values())


@dataclass(frozen=True)
class Sent:
    """Result of an upload."""

    files: int
    """Number of files that were sent, without unchanged ones."""
    bytes: int
    """Size of these files in bytes."""
    version: Version


def claim(url: str, attempt: int) -> bool:
    """Claim a run in a store: from now on no lower attempt can change what is read there.

    Args:
        url: address of the run, such as `s3://bucket/runs/base`; it need not exist yet.
        attempt: number of the attempt, from 1; each process takes a higher one than earlier processes.

    Returns:
        Whether there is a version to `download` and continue from.

    Raises:
        Fenced: this number, or a higher one, is taken.
        RunError: the store cannot be reached, or the address holds something else.
    """
    _check_number(attempt, url)
    folder = Folder(url)
    newest = newest_attempt(folder)
    if newest >= attempt:
        raise _fenced(folder, attempt, newest)
    if not newest:
        _check_free(folder)
    taken = _last_upload(folder, attempt)
    if not folder.create(_manifest(attempt), dump_version(replace(taken, attempt=attempt, created=None))):
        raise _fenced(folder, attempt, attempt)
    while (version := _last_upload(folder, attempt)) != taken:
        folder.write(_manifest(attempt), dump_version(replace(version, attempt=attempt, created=None)))
        taken = version
    _check_newest(folder, attempt)
    return bool(taken.files)


def _last_upload(folder: Folder, attempt: int) -> Version:
    """Return the version that the newest of the lower attempts uploaded.

    Attempts that only claimed the run are skipped; they hold a copy of that version. Without an upload the version is
    empty.
    """
    for lower in sorted(_attempts(folder), reverse=True):
        if lower < attempt and (version := read_version(folder, lower)).created is not None:
            return version
    return Version(0)


def upload(run: str | Path, url: str, attempt: int | None = None) -> Sent:
    """Send a run directory to a store; unchanged files are not sent again.

    A run that is being written is sent as a consistent snapshot: checkpoints and captures whole or not at all, the logs
    at least up to them. Names that start with a dot are being written and are left out, as are files that a resume
    discarded.

    Args:
        run: run directory.
        url: address of the run in the store, such as `s3://bucket/runs/base`.
        attempt: number of the attempt; None continues the newest one, or starts the first.

    Raises:
        Fenced: a newer attempt has claimed the run, before or while it was sent; the upload has no effect.
        RunError: it is not a run, the address holds another run, or the store cannot be reached.
    """
    path, folder = Path(os.path.expanduser(run)), Folder(url)
    created = read_meta(path).get("created") or ""
    if attempt is not None:
        _check_number(attempt, url)
    newest = newest_attempt(folder)
    attempt = attempt or newest or 1
    if attempt > newest:
        claim(url, attempt)
    _check_newest(folder, attempt)
    before = read_version(folder, attempt)
    if before.created not in (None, created):
        raise RunError(
            f"`{brief(url)}` holds another run, started {before.created}, than `{path}`: give another address, or"
            " delete what is there."
        )
    sent, version = _send_all(path, folder, replace(before, created=created))
    folder.write(_manifest(attempt), dump_version(version))
    _check_newest(folder, attempt)
    folder.remove(entry.key for entry in before.files.values() if version.files.get(entry.name) != entry)
    return Sent(len(sent), sum(entry.bytes for entry in sent), version)


def download(url: str, directory: str | Path) -> Path:
    """Fetch a run from a store, checked by size and hash; it appears whole or not at all.

    It can be resumed at once: the copy does not mention the process that wrote it, which may still be running.

    Args:
        url: address of the run, such as `s3://bucket/runs/base`.
        directory: target directory; it must be new or empty.

    Raises:
        RunError: there is no run, it is damaged, the directory is not empty, or there is too little space.
    """
    path, folder = Path(os.path.expanduser(directory)), Folder(url)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"`{path}` holds something already: choose another folder for `{brief(url)}`.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    try:
        fetch_all(folder, temporary)
        meta = read_meta(temporary)
        if meta.get("status") not in ENDINGS:
            meta = {name: value for name, value in meta.items() if name not in ("pid", "host", "heartbeat")}
            write_atomic(temporary / RUN_FILE, dumps(meta, indent=1).encode())
        with disk(path):
            sync_tree(temporary)
            if path.exists():
                path.rmdir()
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def newest_attempt(folder: Folder) -> int:
    """Return the number of the current attempt, which is the highest; 0 without a run."""
    return max(_attempts(folder), default=0)


def read_version(folder: Folder, attempt: int) -> Version:
    """Return the version that an attempt published.

    Raises:
        RunError: its manifest is missing, damaged, or of a newer version of Probe.
    """
    name = _manifest(attempt)
    try:
        data = folder.read(name, 0, MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise RunError(f"`{brief(folder.url)}` holds no run: give the address that one was uploaded to.") from None
    return parse_version(data, f"{folder.url}/{name}", attempt)


def parse_version(data: bytes, what: str, attempt: int | None = None) -> Version:
    """Parse the version that a manifest describes; every name in it must stay inside the run's directory.

    Args:
        data: bytes of the manifest.
        what: address of the manifest, for errors.
        attempt: expected number of the attempt.

    Raises:
        RunError: it is damaged, or of a newer version of Probe.
    """
    if len(data) > MANIFEST_BYTES:
        raise RunError(
            f"The manifest `{brief(what)}` is larger than {MANIFEST_BYTES >> 20} MiB, so it is not one: upload the"
            " run again."
        )
    try:
        content = parse_json(data)
        if type(content["schema"]) is int:
            refuse_newer(f"`{brief(what)}`", "schema", content["schema"], SCHEMA, RunError)
        number, created, rows = content["attempt"], content["created"], content["files"]
        if not isinstance(created, str | None) or type(number) is not int or number != (attempt or number):
            raise ValueError("an entry is not valid")
        if len(rows) > MOST_FILES:
            raise ValueError(f"it names {len(rows)} files, more than {MOST_FILES}")
        entries = [_entry(row) for row in rows]
        files = {entry.name: entry for entry in entries}
        if len(files) != len(entries) or set(files) & {parent for name in files for parent in _parents(name)}:
            raise ValueError("it names a file twice")
    except (ValueError, TypeError, KeyError) as error:
        raise RunError(f"The manifest `{brief(what)}` is damaged ({error}): upload the run again.") from None
    return Version(number, files, created)


def fetch_all(folder: Folder, target: Path) -> Version:
    """Fetch the newest version of a run into a directory.

    Raises:
        RunError: there is none, it is damaged, or there is too little space.
    """
    done: dict[str, Entry] = {}
    for _ in range(TRIES):
        version = read_version(folder, newest_attempt(folder))
        if RUN_FILE not in version.files:
            raise RunError(f"`{brief(folder.url)}` is claimed and holds no run yet: wait for its first upload.")
        check_room(folder, version.bytes, target)
        for name in set(done) - set(version.files):
            (target / done.pop(name).name).unlink()
        entries = [entry for entry in version.files.values() if done.get(entry.name) != entry]
        try:
            for entry in spread(lambda entry: fetch(folder, entry, target / entry.name), entries):
                done[entry.name] = entry
        except FileNotFoundError:  # a newer version has taken its place
            continue
        return version
    raise _lacking(folder)


def fetch(folder: Folder, entry: Entry, target: Path) -> Entry:
    """Fetch a file, checked by size and hash.

    Raises:
        FileNotFoundError: its object is gone.
        RunError: it is damaged, or the disk is full.
    """
    digest, size = hashlib.sha256(), 0
    with disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        file = open(target, "wb")  # noqa: SIM115  (what is read in the block below is not the disk's)
    with file:
        for start in range(0, entry.bytes, CHUNK):
            data = folder.read(entry.key, start, min(start + CHUNK, entry.bytes))
            digest.update(data)
            size += len(data)
            with disk(target):
                file.write(data)
    if size != entry.bytes or digest.hexdigest() != entry.sha256:
        raise RunError(
            f"`{entry.name}` of `{brief(folder.url)}` is damaged (its size or hash differs from the manifest):"
            " upload the run again."
        )
    return entry


def check_room(folder: Folder, size: int, target: Path) -> None:
    """Raise an error if a download does not fit on the disk.

    Raises:
        RunError: there are fewer than `size` bytes and 1 GiB free.
    """
    free = shutil.disk_usage(next(place for place in (target, *target.parents) if place.exists())).free
    if size > free - ROOM:
        raise RunError(
            f"`{brief(folder.url)}` has {size / 2**30:.2f} GiB to fetch, and of the {free / 2**30:.2f} GiB free at"
            f" `{target.parent}` 1 GiB stays free: make room, or choose another disk."
        )


def spread(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield what `work` returns for each item, with several calls at once; the first error ends it."""
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            yield from pool.map(work, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def check_name(name: object) -> str:
    """Return a file's name in a run after checking that it stays inside the run's directory.

    Raises:
        ValueError: it leads outside, is hidden, or is not a valid name on every system.
    """
    if not isinstance(name, str) or len(name) > 800 or not name.isprintable() or set(name) & set('\\:*?"<>|'):
        raise ValueError("a file name is not valid")
    if any(not part or part.startswith(".") or len(part) > 200 for part in name.split("/")):
        raise ValueError(f"the name {brief(name)!r} leads out of the run")
    return name


def is_bulky(name: str) -> bool:
    """Return whether a file belongs to a checkpoint or a capture: large, and never changed."""
    return name.startswith(f"{CHECKPOINTS}/") or (name.startswith(f"{CAPTURES}/") and name.endswith(".safetensors"))


def _send_all(path: Path, folder: Folder, before: Version) -> tuple[list[Entry], Version]:
    """Send all files that are not in the store yet; return the new ones and the complete version."""
    for _ in range(TRIES):
        early = {name: read_file(path / name, LOG) for name in FIRST if (path / name).is_file()}
        names = list(_files(path))
        bulky = {name: _stamp(path / name) for name in names if is_bulky(name)}
        try:
            entries = list(spread(partial(_send, path, folder, before, early), dict.fromkeys([*early, *names])))
        except FileNotFoundError:  # a checkpoint was replaced
            continue
        except OSError as error:
            raise RunError(
                f"`{error.filename or path}` cannot be read ({error.strerror}), so the run is not sent: allow"
                " reading it, or remove it."
            ) from error
        units = {_unit(name) for name in bulky}
        if {name: _stamp(path / name) for name in _files(path) if is_bulky(name) and _unit(name) in units} == bulky:
            fresh = [entry for entry in entries if before.files.get(entry.name) != entry]
            return fresh, replace(before, files={entry.name: entry for entry in entries})
    raise RunError(f"`{path}` changed {TRIES} times while it was sent: try again, or wait until the run has ended.")


def _send(path: Path, folder: Folder, before: Version, early: dict[str, bytes], name: str) -> Entry:
    """Send a file unless it is in the store; read a file that may still grow only once."""
    file, known = path / name, before.files.get(name)
    if is_bulky(name):
        stamp = _stamp(file)
        data, size, sha256 = None, stamp[0], _file_hash(str(file), stamp)
    else:
        data = early[name] if name in early else read_file(file, LOG)
        size, sha256 = len(data), hashlib.sha256(data).hexdigest()
    if known and (known.bytes, known.sha256) == (size, sha256):
        return known
    entry = Entry(name, size, sha256, before.attempt)
    if data is not None:
        folder.write(entry.key, data)
    elif folder.size(entry.key) != size:
        folder.send(entry.key, file)
    return entry


def _files(path: Path) -> Iterator[str]:
    """Yield the names of a run's files, except for files that are being written and those that a resume discarded.

    Raises:
        RunError: one is a link, or its name is not valid on other systems.
    """
    for place, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".dropped"))
        for name in [*files, *folders]:
            if os.path.islink(os.path.join(place, name)):
                link = os.path.join(place, name)
                raise RunError(f"`{link}` is a link, which a store cannot hold: replace it by its target.")
        for name in sorted(name for name in files if not name.startswith(".")):
            relative = Path(place, name).relative_to(path).as_posix()
            try:
                yield check_name(relative)
            except ValueError as error:
                raise RunError(f"`{path}` cannot be uploaded ({error}): rename the file.") from None


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return size, time of the last change and identity of a file; (-1, 0, 0) if it is gone."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return -1, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


@lru_cache(maxsize=100_000)
def _file_hash(file: str, stamp: tuple[int, int, int]) -> str:
    with open_file(file) as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _unit(name: str) -> str:
    """Return the unit of a file that appears whole: its checkpoint, or a capture."""
    parts = name.split("/")
    return "/".join(parts[:2]) if parts[0] == CHECKPOINTS else name


def _entry(row: Any) -> Entry:
    """Parse a row of a manifest.

    Raises:
        ValueError, TypeError: it is not a row of a manifest.
    """
    entry = Entry(**row)
    check_name(entry.name)
    numbers = (entry.bytes, entry.attempt)
    if not all(type(number) is int and 0 <= number < MOST_BYTES for number in numbers):
        raise ValueError(f"the size of {brief(entry.name)!r} is not valid")
    if not isinstance(entry.sha256, str) or not HASH.fullmatch(entry.sha256):
        raise ValueError(f"the hash of {brief(entry.name)!r} is not valid")
    return entry


def _parents(name: str) -> Iterator[str]:
    parts = name.split("/")
    yield from ("/".join(parts[:end]) for end in range(1, len(parts)))


def _attempts(folder: Folder) -> list[int]:
    steps = (parse_step(name.removesuffix(".json")) for name in folder.names(ATTEMPTS) if name.endswith(".json"))
    return [step for step in steps if step]


def _check_number(attempt: int, url: str) -> None:
    if attempt < 1:
        raise RunError(f"Attempt {attempt} was to write to `{brief(url)}`: attempts are numbered from 1.")


def _manifest(attempt: int) -> str:
    return f"{ATTEMPTS}/{attempt:08d}.json"


def dump_version(version: Version) -> bytes:
    """Return the manifest of a version."""
    content = {"schema": SCHEMA, "attempt": version.attempt, "created": version.created}
    return json.dumps(content | {"files": [asdict(entry) for entry in version.files.values()]}, indent=0).encode()


def _check_free(folder: Folder) -> None:
    """Raise an error for the address of a folder of runs, an easy mistake."""
    others = [name for name in folder.names() if name not in (ATTEMPTS, FILES)]
    if others:
        raise RunError(
            f"`{brief(folder.url)}` holds something else (`{brief(others[0], 40)}`): give the address of the run"
            f" itself, such as `{brief(folder.url)}/NAME`."
        )


def _check_newest(folder: Folder, attempt: int) -> None:
    newest = newest_attempt(folder)
    if newest > attempt:
        raise _fenced(folder, attempt, newest)


def _fenced(folder: Folder, attempt: int, newest: int) -> Fenced:
    return Fenced(
        f"Attempt {attempt} may not write to `{brief(folder.url)}`, which attempt {newest} has claimed: stop this one,"
        f" or claim attempt {newest + 1}."
    )


def _lacking(folder: Folder) -> RunError:
    return RunError(
        f"`{brief(folder.url)}` lacks files that its manifest names, or changed {TRIES} times while it was fetched: try"
        " again, or upload the run again."
    )
