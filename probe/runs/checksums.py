"""Checksums of a checkpoint's files, in the form of `sha256sum`, to detect damage before training continues from it."""

import hashlib
import re
from pathlib import Path

from probe.errors import RunError
from probe.runs.schema import CHECKSUMS
from probe.untrusted import WEIGHTS, open_file, read_file

LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\0\n]+)")
MOST = 2**20
"""Maximum bytes of a list of checksums."""


def write_checksums(directory: Path) -> None:
    """Write the SHA-256 of every file in a directory into `SHA256SUMS` there; `sha256sum -c SHA256SUMS` checks them."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{file_hash(directory / name)}  {name}\n" for name in names]
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def find_damage(directory: Path) -> Path | None:
    """Return the first damaged file of a checkpoint; None if all are intact, or there are no checksums.

    Checkpoints of older versions of Probe have no checksums.
    """
    sums = directory / CHECKSUMS
    if not sums.is_file():
        return None
    try:
        lines = read_file(sums, MOST).decode("utf-8").removesuffix("\n").split("\n")
        for match in map(LINE.fullmatch, lines):
            if match is None:
                return sums
            path = directory / match[2]
            if not path.is_file() or file_hash(path) != match[1]:
                return path
    except (OSError, ValueError):
        return sums
    return None


def check_intact(directory: Path) -> None:
    """Raise an error if a file of a checkpoint is damaged.

    Raises:
        RunError: a file is damaged; the message names it.
    """
    damaged = find_damage(directory)
    if damaged is not None:
        raise RunError(
            f"`{damaged}` is damaged (it does not match {CHECKSUMS} next to it): copy the checkpoint again from where"
            " it was made, or use another one."
        )


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open_file(path, most=WEIGHTS) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
