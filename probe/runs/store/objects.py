"""Objects of a store: any place that fsspec can access (`s3://...`, `gs://...`, `file:///...`, `memory://...`).

Every failure is one sentence with its remedy. fsspec is imported when the first store is opened.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probe.errors import ConfigError, MissingToolError, ProbeError, RunError, brief
from probe.runs.storage import create_atomic, write_atomic
from probe.untrusted import WEIGHTS, regular, short

TIMES = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2}}
"""Timeouts (in seconds) and retries of the S3 client."""
CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`"


class Folder:
    """Folder of a store; names of objects in it are parts separated by `/`."""

    def __init__(self, url: str) -> None:
        """Connect to `url` without reading anything.

        Raises:
            MissingToolError: the package for this kind of store is not installed.
            ConfigError: no such kind of store is known.
        """
        from fsspec.core import url_to_fs

        self.url = url.rstrip("/")
        options: dict[str, Any] = {"use_listings_cache": False}
        kind = self.url.partition("://")[0].lower()
        if kind in ("s3", "s3a"):
            options["config_kwargs"] = TIMES
        elif kind in ("file", "local"):
            options["auto_mkdir"] = True
        try:
            self._fs, self._path = url_to_fs(self.url, **options)
        except ImportError as error:
            package = "`pip install 'probe-lm[store]'`" if kind in ("s3", "s3a") else "install it"
            raise MissingToolError(f"`{brief(url)}` needs a package ({short(error)}): {package}.") from None
        except ValueError as error:
            raise ConfigError(
                f"`{brief(url)}` is not the address of a store ({short(error)}): give one such as"
                " s3://bucket/runs/NAME."
            ) from None
        self._path = self._path.rstrip("/")

    def key(self, name: str = "") -> str:
        """Return the full name of an object in the file system of the store."""
        return f"{self._path}/{name}" if name else self._path

    def names(self, name: str = "") -> list[str]:
        """Return the names directly in a folder, in alphabetical order; none without such a folder.

        Raises:
            RunError: the store cannot be read.
        """
        with self.contact():
            try:
                paths = self._fs.ls(self.key(name), detail=False)
            except (FileNotFoundError, NotADirectoryError) as error:
                _check_bucket(error)
                return []
        return sorted({path.rstrip("/").rpartition("/")[2] for path in paths} - {""})

    def size(self, name: str) -> int | None:
        """Return the number of bytes of an object; None if there is none."""
        with self.contact():
            try:
                return int(self._fs.info(self.key(name))["size"])
            except FileNotFoundError:
                return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` of an object; fewer if it is shorter.

        Raises:
            FileNotFoundError: there is no such object.
            RunError: the store cannot be read.
        """
        with self.contact():
            try:
                if "file" in self._fs.protocol:
                    regular(self.key(name), WEIGHTS)
                return self._fs.cat_file(self.key(name), start=start, end=end)
            except OSError as error:
                if "InvalidRange" in repr(error.__cause__):  # the object ends before `start`
                    return b""
                raise

    def write(self, name: str, data: bytes) -> None:
        """Write an object atomically.

        Raises:
            RunError: the store cannot be written to.
        """
        with self.contact():
            if "file" in self._fs.protocol:
                write_atomic(Path(self.key(name)), data)
            else:
                self._fs.pipe_file(self.key(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; return False if its name exists.

        Raises:
            RunError: the store cannot be written to.
        """
        with self.contact():
            if "file" in self._fs.protocol:
                return create_atomic(Path(self.key(name)), data)
            try:
                self._fs.pipe_file(self.key(name), data, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if "PreconditionFailed" not in repr(error.__cause__):
                    raise
                return False
        return True

    def send(self, name: str, file: Path) -> None:
        """Send a file as an object, in pieces if it is large.

        Raises:
            FileNotFoundError: the file is gone.
            RunError: the store cannot be written to.
        """
        with self.contact():
            regular(file, WEIGHTS)  # the file exists, so a missing object below means the bucket
            self._fs.put_file(str(file), self.key(name))

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; missing ones count as deleted."""
        with self.contact():
            for name in names:
                try:
                    self._fs.rm_file(self.key(name))
                except FileNotFoundError:
                    continue

    @contextmanager
    def contact(self) -> Iterator[None]:
        """Turn errors of the store into one sentence, inside the context.

        Raises:
            FileNotFoundError: an object is missing.
            RunError: anything else went wrong.
        """
        try:
            yield
        except ProbeError:
            raise
        except FileNotFoundError as error:
            if _is_bucket(error):
                problem = "names a bucket that does not exist: make it, or check its name"
                raise RunError(f"`{brief(self.url)}` {problem}.") from error
            raise
        except PermissionError as error:
            raise RunError(
                f"`{brief(self.url)}` refuses access ({short(error)}): check the credentials and what they may do."
            ) from error
        except Exception as error:  # each kind of store has its own errors
            if "Credential" in type(error).__name__:
                raise RunError(f"`{brief(self.url)}` asks for credentials ({short(error)}): {CREDENTIALS}.") from error
            reason = re.sub(r'\?[^\s"]*', "", short(error))  # the query of an address
            remedy = "check the address and the network, and try again"
            raise RunError(f"`{brief(self.url)}` cannot be reached ({reason}): {remedy}.") from error


def _is_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in repr(error.__cause__) or "bucket does not exist" in str(error)


def _check_bucket(error: OSError) -> None:
    """Raise an error if a bucket, rather than an object, is missing."""
    if _is_bucket(error):
        raise error
