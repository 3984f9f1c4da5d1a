"""The metrics of a run as columns: read by offset from metrics.jsonl, and kept beside it in an Arrow file.

The Arrow file holds what was read of the text up to an offset. It counts only where this user's Probe has written it
(it begins with a hash made with a key of the user's) and the text up to the offset is still the same (the file
untouched since, or its hash); else the text is read again. So it is never believed more than the text, and nothing that
came with another person's run is parsed as Arrow. Logs below `SMALL` bytes, folders that may not be written to, the
sample runs and runs of a store have no such file.
"""

import hashlib
import hmac
import json
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd

from probe.errors import RunError
from probe.runs.addresses import cache_root
from probe.runs.captures import CELLS, Row, is_sound, metrics_frame, newest, warn_of_odd
from probe.runs.directories import is_shipped
from probe.runs.schema import METRICS, RunWarning
from probe.runs.storage import Block, Position, parse_block, read_blocks
from probe.untrusted import DOCUMENT, FIELDS, LOG, MB, open_file, parse_json, read_file, readable

FILE = ".metrics.arrow"
"""Name of the file with the columns, in the run's folder."""
SMALL = MB // 4
"""Bytes of text below which nothing is faster than reading it again."""
GROWTH = 1.25
"""Factor by which the text of a run in progress grows before its columns are written again."""
RECENT_NS = 2_000_000_000
"""Age of a file in nanoseconds below which its times may not show a change."""
KEY, KEY_BYTES = "columns.key", 32
"""Name of the file with the user's key, in the user's cache, and its length in bytes."""
NAMES = 256
"""Most columns of lines that Arrow parses."""
SAMPLED = 32
"""Number of lines of a block that show which columns hold whole numbers."""
VERSION = 1
"""Version of what the file of columns holds."""
FIRST = ("step", "time")
"""Columns of every table of metrics."""


@dataclass
class _Table:
    """Rows of the lines read so far, merged by step."""

    parts: list[pd.DataFrame] = field(default_factory=list)
    """Tables whose steps rise, within each and from one to the next."""
    lowest: dict[str, int] = field(default_factory=dict)
    """Lowest step at which each metric was logged; a resume from an earlier step takes the metric away."""
    cut: bool = False
    """Whether columns were left out because there are too many."""

    @property
    def last(self) -> int:
        """The highest step; -1 without rows."""
        return int(self.parts[-1]["step"].iloc[-1]) if self.parts else -1

    def add(self, rows: pd.DataFrame, lowest: Mapping[str, int], logged: Mapping[int, Row] | None = None) -> None:
        """Add later rows, which are sorted by step.

        Args:
            rows: table of the rows.
            lowest: lowest step at which each of their metrics was logged.
            logged: what was logged at each step, if earlier rows may have the same step.
        """
        if not len(rows):
            return
        for name, step in lowest.items():
            self.lowest[name] = min(step, self.lowest.get(name, step))
        if int(rows["step"].iloc[0]) <= self.last:
            before = self.frame()
            again = before["step"].isin(rows["step"])
            if logged is not None and again.any():
                rows = metrics_frame({**logged, **_merged(before[again], logged)})
            self.parts = [before[~again], rows]
            self.parts = [self.frame().sort_values("step", ignore_index=True)]
        else:
            self.parts.append(rows)
        if sum(part.size for part in self.parts) > CELLS:
            self.frame()

    def resume(self, step: int) -> None:
        """Take back everything above a step."""
        if step >= self.last:
            return
        whole = self.frame()
        self.lowest = {name: lowest for name, lowest in self.lowest.items() if lowest <= step}
        kept = whole.loc[whole["step"] <= step, [name for name in whole if name in FIRST or name in self.lowest]]
        self.parts = [kept] if len(kept) else []

    def frame(self) -> pd.DataFrame:
        """Return all rows as one table: `step`, `time`, then the metrics in the order of their lowest steps."""
        if not self.parts:
            return metrics_frame({})
        if len(self.parts) > 1:
            found = dict.fromkeys(str(name) for part in self.parts for name in part)
            names = sorted(found, key=lambda name: -1 if name in FIRST else self.lowest.get(name, 0))
            most = min(FIELDS, max(CELLS // sum(map(len, self.parts)), 16))
            if len(names) > most and not self.cut:
                text = f"The rows have {len(names):,} columns, and the first {most:,} are read."
                warnings.warn(text, RunWarning, stacklevel=5)
                self.cut = True
            self.parts = [pd.DataFrame({name: _joined(self.parts, name) for name in names[:most]})]
        return self.parts[0]


def _merged(before: pd.DataFrame, logged: Mapping[int, Row]) -> dict[int, Row]:
    """Return the rows of a table with what was logged at their steps later."""
    rows = {int(row["step"]): row for row in before.to_dict("records")}
    return {
        step: {str(name): value for name, value in row.items() if value == value}
        | {readable(name): value for name, value in logged[step].items()}
        for step, row in rows.items()
    }


def _joined(parts: Sequence[pd.DataFrame], name: str) -> np.ndarray:
    """Return a column of tables that follow each other: numbers where some lack it or hold another kind."""
    kinds = {part[name].dtype if name in part else None for part in parts}
    if len(kinds) == 1:
        return np.concatenate([part[name].to_numpy() for part in parts])
    return np.concatenate(
        [part[name].to_numpy(dtype=float) if name in part else np.full(len(part), np.nan) for part in parts]
    )


class MetricLog:
    """The metrics of a run directory; each call reads what was appended since, also from several threads."""

    def __init__(self, run: Path) -> None:
        self.text, self.file = run / METRICS, run / FILE
        self._lock = Lock()
        self._start()

    def _start(self) -> None:
        self._table, self._position = _Table(), Position()
        self._digest: Any = _new_digest()
        """Hash of the text up to the position; None while only its digits are known."""
        self._digits = ""
        self._kept: tuple[int, list[int] | None] = (0, None)
        """Offset of the file of columns, and the identity of the text when it was written."""
        self._plain = True
        """Whether each line was read: the file of columns tells nothing of others."""

    def read(self, *, live: bool, most: int = LOG) -> pd.DataFrame:
        """Return the metrics: one row per step with `step`, `time` (seconds of training) and the metrics.

        The table is shared and must not be changed. Lines that cannot be read are left out with a `RunWarning`.

        Args:
            live: whether a process may be writing the run.
            most: maximum number of bytes to read from the start of the file.
        """
        with self._lock:
            status = _status(self.text)
            if status and not self._position.offset and SMALL <= status.st_size <= most:
                self._load(status)
            elif status and self._digest is None and status.st_size != self._position.offset:
                self._digest = _text_digest(self.text, self._position.offset)
                if self._digest is None or self._digest.hexdigest() != self._digits:
                    self._start()
            odd = 0
            try:
                for block in read_blocks(self.text, self._position, live=live, most=most, digest=self._digest):
                    if not block.after.continues(self._position):
                        self._start()
                    odd += self._take(block)
                    self._position, self._digest = block.after, block.digest
            except RunError as error:
                warnings.warn(str(error), RunWarning, stacklevel=3)
                self._start()
            warn_of_odd(odd, self.text)
            frame = self._table.frame()
            if status and self._plain and not self._table.cut and status.st_size <= most:
                with suppress(OSError):
                    self._keep(status, frame, live)
            return frame

    def _take(self, block: Block) -> int:
        """Add the lines of a block, and return how many have no step."""
        quick = parse_numbers(block.lines)
        if quick is not None and (first := int(quick["step"].iloc[0])) > self._table.last:
            self._table.add(quick, dict.fromkeys(map(str, quick), first))
            return 0
        rows = parse_block(block, self.text)
        sound = [row for row in rows if is_sound(row)]
        odd = len(rows) - len(sound)
        self._plain = self._plain and not odd and len(rows) == sum(1 for line in block.lines if line.strip())
        if resumed := [row["step"] for row in sound if row.get("event") == "resume"]:
            self._table.resume(min(resumed))
        by_step, lowest = newest({}, sound, self.text), dict[str, int]()
        for step in sorted(by_step):
            for name in by_step[step].keys() - lowest.keys():
                lowest[readable(name)] = step
        self._table.add(metrics_frame(by_step), lowest, by_step)
        return odd

    def _load(self, status: os.stat_result) -> None:
        """Take the columns from their file if it is the user's own, and of this text."""
        import pyarrow as pa

        key = user_key()
        try:
            data = read_file(self.file, _largest(status), follow=False) if key else b""
        except OSError:
            return
        if not key or not hmac.compare_digest(data[:KEY_BYTES], _signature(data[KEY_BYTES:], key)):
            return
        with pa.ipc.open_file(pa.py_buffer(data[KEY_BYTES:])) as reader:
            table = reader.read_all()
        about = parse_json(table.schema.metadata[b"probe"])
        if about["version"] != VERSION:
            return
        offset = about["offset"]
        if about["identity"] == _identity(status):
            digest = None
        else:
            digest = _text_digest(self.text, offset)
            if digest is None or digest.hexdigest() != about["digits"]:
                return
        self._digest, self._digits = digest, about["digits"]
        self._position = Position(offset, about["line"], status.st_ino)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        self._table = _Table([pd.DataFrame(columns)] if table.num_rows else [], about["lowest"])
        self._kept = offset, about["identity"]

    def _keep(self, status: os.stat_result, frame: pd.DataFrame, live: bool) -> None:
        """Write the columns beside the text, if their file does not hold them and may be written."""
        import pyarrow as pa

        offset, line = self._position.offset, self._position.line
        identity = _identity(status)
        if self._digest is None or self._kept == (offset, identity) or status.st_ino != self._position.inode:
            return
        folder, key = self.text.parent, user_key()
        grown = offset >= max(SMALL, GROWTH * self._kept[0] if live else 0)
        if not key or not grown or is_shipped(folder) or not os.access(folder, os.W_OK):
            return
        known = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > RECENT_NS
        about = {"version": VERSION, "offset": offset, "line": line, "digits": self._digest.hexdigest()}
        about |= {"identity": identity if known else None, "lowest": self._table.lowest}
        table = pa.table({str(name): frame[name].to_numpy() for name in frame})
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(sink, table.schema.with_metadata({"probe": json.dumps(about)}), options=options) as writer:
            writer.write_table(table)
        data = sink.getvalue().to_pybytes()
        if len(data) > _largest(status) - KEY_BYTES:
            return
        handle, name = tempfile.mkstemp(f".{os.getpid()}.tmp", f"{FILE}.", folder)
        try:
            with open(handle, "wb") as file:
                file.write(_signature(data, key) + data)
            os.chmod(name, status.st_mode & 0o666)
            os.replace(name, self.file)
        finally:
            Path(name).unlink(missing_ok=True)
        self._kept = offset, identity


def parse_numbers(lines: Sequence[bytes]) -> pd.DataFrame | None:
    """Return lines of plain numbers as columns, parsed by Arrow; None for others, which `parse_block` reads.

    Others are those where a line has a name that the first lacks, a step is not above the one before, a value is no
    number, or anything is not as a writer writes it.
    """
    lines = [line for line in lines if line.strip()]
    if sum(map(len, lines)) < SMALL or not all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        return None
    import pyarrow as pa
    import pyarrow.json

    text = b"\n".join(lines)
    try:
        sample = [parse_json(lines[at]) for at in np.linspace(0, len(lines) - 1, SAMPLED).astype(int)]
    except ValueError:
        return None
    names = list(sample[0])
    kinds = {name: {type(row.get(name)) for row in sample} - {type(None)} for name in names}
    plain = all(each <= {int, float} for each in kinds.values()) and kinds.get("step") == {int}
    if not plain or len(names) > NAMES or "event" in names or readable(names) != names:
        return None
    if b"NaN" in text or b"Inf" in text:
        return None
    schema = pa.schema([(name, pa.int64() if kinds[name] == {int} else pa.float64()) for name in names])
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        table = pyarrow.json.read_json(pa.BufferReader(text), parse_options=options)
    except pa.ArrowException:
        return None
    steps = table["step"]
    if table.num_rows != len(lines) or steps.null_count:
        return None
    step = steps.to_numpy()
    if step[0] < 0 or not (np.diff(step) > 0).all():
        return None
    columns = {name: table[name].to_numpy() for name in names}
    order = {"step": step, "time": columns.get("time", np.full(len(step), np.nan))}
    return pd.DataFrame(order | {name: _finite(values) for name, values in columns.items() if name != "step"})


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(values), np.nan, values) if values.dtype.kind == "f" else values


def user_key() -> bytes | None:
    """Return the key of the user's files of columns, made at the first call; None where none can be kept."""
    path = cache_root() / KEY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(path, "xb", opener=_private) as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        key = read_file(path, KEY_BYTES, follow=False)
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _new_digest() -> Any:
    return hashlib.blake2b(digest_size=KEY_BYTES)


def _signature(data: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_BYTES, key=key).digest()


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _largest(status: os.stat_result) -> int:
    """Return the largest size in bytes of a file of columns that is read or written."""
    return min(DOCUMENT, MB // 4 + 2 * status.st_size)


def _identity(status: os.stat_result) -> list[int]:
    """Return numbers that differ after any change of a file that is older than `RECENT_NS`."""
    return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _text_digest(path: Path, size: int) -> Any:
    """Return the hash of the first bytes of a file; None if it has fewer or cannot be read."""
    digest, left = _new_digest(), size
    with suppress(OSError), open_file(path) as file:
        while left and (data := file.read(min(left, MB))):
            digest.update(data)
            left -= len(data)
    return None if left else digest
