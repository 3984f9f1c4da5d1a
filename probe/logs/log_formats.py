"""Formats of logs: which reader a file or a folder needs."""

import re
from pathlib import Path

from probe.errors import DataError
from probe.logs.harness_samples import is_sample, read_harness
from probe.logs.inspect_log import read_inspect
from probe.logs.log import Log
from probe.logs.score_rows import read_scores
from probe.rows import Selection, read_rows
from probe.untrusted import open_file

INSPECT = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"(?:version|status)"\s*:')
"""Beginning of an Inspect log in JSON."""
FORMATS = (
    "an Inspect log (.eval or .json), a samples_*.jsonl of lm-evaluation-harness, or rows with `id` and `score`"
    " (.jsonl, .json, .csv, .tsv, .parquet, or a folder of them)"
)
"""Formats, for messages."""


def read_log(path: str | Path) -> Log:
    """Read a log in any format; a folder may hold one log of a harness, or files of rows.

    Raises:
        DataError: there is no such file, it has no format that is read, or no item has a score.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"`{path}` is not a file or folder: give {FORMATS}.")
    logs = _logs_in(place) if place.is_dir() else []
    if len(logs) > 1:
        raise DataError(f"`{path}` holds {len(logs)} logs, such as `{logs[0].name}` and `{logs[1].name}`: name one.")
    file = logs[0] if logs else place
    if file.is_dir():
        return read_scores(file)
    if _is_inspect(file):
        return read_inspect(file)
    first = read_rows(file, lambda row: is_sample(row.values), form=FORMATS, selection=Selection(limit=1))
    return read_harness(file) if first[0] else read_scores(file)


def _logs_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [file for file in files if _is_inspect(file) or file.match("samples_*.jsonl")]


def _is_inspect(file: Path) -> bool:
    """Return whether a file is a log of Inspect, by its name and first bytes."""
    if file.suffix != ".json":
        return file.suffix == ".eval"
    try:
        with open_file(file) as opened:
            return bool(INSPECT.match(opened.read(200)))
    except OSError as error:
        raise DataError(f"`{file}` cannot be read ({error.strerror}): give {FORMATS}.") from None
