"""Rows of the card as tab-separated text: those that come with Probe, and those of a run of one's own."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

from probe.errors import DataError
from probe.runs.storage import append_lines, cut_torn_line, disk
from probe.scorecard.method_scoring import Row
from probe.untrusted import MB, parse_json, read_file

SHIPPED, SMOLLM2 = (Path(__file__).with_name(name) for name in ("results.tsv", "smollm2.tsv"))
COLUMNS = tuple(each.name for each in fields(Row))
LARGEST = 8 * MB
"""Largest size in bytes of a file of rows."""
LONGEST = 400
"""Largest number of characters of a value."""


@cache
def shipped_rows(file: Path = SHIPPED) -> tuple[Row, ...]:
    """Return the rows that come with Probe: of the bases, or of SmolLM2."""
    return read_rows(file)


def read_rows(file: Path) -> tuple[Row, ...]:
    """Read rows; a later row replaces an earlier one of the same method, truth and seed. None if there is no file.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    if not file.is_file():
        return ()
    try:
        content = read_file(file, LARGEST).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"The rows in `{file}` cannot be read: {error}") from error
    content = content[: content.rfind("\n") + 1]  # a run was stopped while it wrote the last line
    found = {}
    for number, values in enumerate(csv.DictReader(io.StringIO(content), delimiter="\t"), start=2):
        row = _row(values)
        if row is None:
            raise DataError(f"Line {number} of `{file}` is no row of a scorecard: expected {', '.join(COLUMNS)}.")
        found[row.family, row.method, row.truth, row.seed] = row
    return tuple(found.values())


def _row(values: dict[Any, Any]) -> Row | None:
    """Return the row of a line; None if it is none."""
    try:
        kept: dict[str, Any] = {name: str(values[name])[:LONGEST] for name in COLUMNS}
        kept |= {name: int(kept[name]) for name in ("seed", "n")}
        kept |= {name: float(kept[name]) for name in ("score", "chance", "seconds")}
        also = parse_json(kept["also"])
        numbers = isinstance(also, dict) and all(type(each) in (int, float) for each in also.values())
        fits = numbers and None not in values and all(map(math.isfinite, (kept["chance"], kept["seconds"])))
        return Row(**kept) if fits and 0 <= kept["seed"] < 2**31 else None
    except (KeyError, ValueError):
        return None


def text_of(rows: Sequence[Row], head: bool = True) -> str:
    """Return rows as tab-separated text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, delimiter="\t", lineterminator="\n")
    if head:
        writer.writeheader()
    writer.writerows(asdict(each) for each in rows)
    return out.getvalue()


def append(file: Path, row: Row) -> None:
    """Write a row at the end of a file, with the names of the columns if the file is new; a torn last line is cut off.

    Raises:
        RunError: the file cannot be written.
    """
    with disk(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            cut_torn_line(file)
        new = not file.is_file() or not file.stat().st_size
        append_lines(file, text_of([row], head=new).splitlines())
