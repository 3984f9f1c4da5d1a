"""Tables and figures of results as JSON that pandas reads alone, and back with the types that they had."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import DataError
from probe.plotting.export import file_name
from probe.runs.schema import dumps
from probe.runs.table import numbers
from probe.untrusted import parse_json, readable

if TYPE_CHECKING:
    import plotly.graph_objects as go

LEAST, RATIO = 2**26, 40
"""Bytes that a packed file may unpack to, whatever its own size, and times its size: items shrink to a tenth."""

NAME = 100
"""Letters that a name in a figure may have."""


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values; a number that is not finite becomes null, a date its text."""
    rows = table.astype(object).to_dict("records")
    return [{str(key): _plain(value) for key, value in row.items()} for row in rows]


def stems(names: Iterable[str]) -> dict[str, str]:
    """A file name for each of some names, told apart where they would be equal on some system."""
    found: dict[str, str] = {}
    for name in names:
        stem = file_name(str(name))
        ways = (stem, *(f"{stem}-{count}" for count in range(2, len(found) + 3)))
        taken = {each.lower() for each in found.values()}
        found[name] = next(way for way in ways if way.lower() not in taken)
    return found


def _plain(value: Any) -> Any:
    if value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, pd.Timestamp | pd.Timedelta | date):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def column_names(table: pd.DataFrame) -> list[str]:
    """The names of a table's columns.

    Raises:
        DataError: two are equal.
    """
    names = [str(column) for column in table.columns]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"A table has two columns `{twice}`: give each a name of its own.")
    return names


def write_lines(path: Path, table: pd.DataFrame) -> None:
    """Write a table as JSON Lines."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(dumps(row) + "\n" for row in records(table)), encoding="utf-8")


def read_lines(path: Path, columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Read what `write_lines` wrote, also where it was packed afterwards; see `to_table`.

    Raises:
        OSError: the file is missing or packed wrongly.
        ValueError: it is cut short.
    """
    return to_table([parse_json(line) for line in _text(path).split("\n") if line], columns, kinds)


def write_columns(path: Path, table: pd.DataFrame) -> None:
    """Write a table as one JSON object, packed: a line with name and values a column, whose likeness saves a third.

    A table without columns is written as one without rows.
    """
    held = table.astype(object)
    names = [json.dumps(str(name)) for name in held.columns]
    values = [dumps([_plain(value) for value in held.iloc[:, index]]) for index in range(len(names))]
    lines = ",\n".join(f"{name}: {each}" for name, each in zip(names, values, strict=True))
    path.write_bytes(gzip.compress(f"{{{lines}}}\n".encode(), mtime=0))


def read_columns(path: Path, columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Read what `write_columns` wrote, with the types that it had, as far as JSON holds them.

    Raises:
        OSError: the file is missing or packed wrongly.
        ValueError: it is cut short, or columns are missing or of different lengths.
    """
    held = parse_json(_text(path))
    if not isinstance(held, dict) or set(held) != set(columns) or len({len(each) for each in held.values()}) > 1:
        raise ValueError(f"{path.name} does not hold the columns {', '.join(columns)}, each as long as the others")
    kinds = kinds or [""] * len(columns)
    return pd.DataFrame({name: to_column(held[name], kind) for name, kind in zip(columns, kinds, strict=True)})


def _text(path: Path) -> str:
    if path.suffix != ".gz":
        return path.read_bytes().decode()
    most = max(LEAST, RATIO * path.stat().st_size)
    try:
        with gzip.open(path) as file:
            held = file.read(most + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path.name}: {error}") from None
    if len(held) > most:
        raise ValueError(f"{path.name} unpacks to more than {most / 1e6:,.0f} MB")
    return held.decode()


def to_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kinds: Sequence[str] | None) -> pd.DataFrame:
    """Rows as a table whose columns have the types that they were written with, as far as JSON holds them."""
    held = [dict(row) for row in rows]
    kinds = kinds or [""] * len(columns)
    series = {name: to_column([row.get(name) for row in held], kind) for name, kind in zip(columns, kinds, strict=True)}
    return pd.DataFrame(series, columns=list(columns), index=range(len(held)))


def to_column(values: list[Any], kind: str | None) -> pd.Series:
    """Values as a column of a type, as far as it is given by name and can hold them."""
    if kind and kind.lower().startswith("float"):
        return numbers(values).astype(float)
    if kind in ("object", "boolean", "Int64", "bool", "int64"):
        try:
            return pd.Series(values, dtype=kind)
        except OverflowError:  # a number beyond all of its kind
            return numbers(values).astype(float)
    try:
        return pd.Series(values, dtype=None if values else "str" if kind == "str" else object)
    except UnicodeEncodeError:  # half a surrogate pair, which Arrow's texts cannot hold
        return pd.Series(values, dtype=object)


def figure_text(chart: "go.Figure") -> str:
    """A figure as JSON; by Python's own encoder, for orjson refuses half a surrogate pair."""
    import plotly.io

    return plotly.io.to_json(chart, engine="json", validate=False)


def _longest_name(value: Any) -> int:
    """Letters of the longest name in a JSON value: plotly compares unknown names, slowly where they are long."""
    if isinstance(value, dict):
        return max((max(len(name), _longest_name(item)) for name, item in value.items()), default=0)
    return max(map(_longest_name, value), default=0) if isinstance(value, list) else 0


def read_figure(path: Path) -> "go.Figure":
    """Read a figure that was written as `figure_text`; nothing in it reaches for the network
    (`probe.plotting.offline`).

    Raises:
        OSError: the file is missing.
        ValueError: it holds no figure.
    """
    import plotly.graph_objects as go

    from probe.plotting.offline import offline

    held = readable(parse_json(path.read_bytes()))
    if not isinstance(held, dict) or _longest_name(held) > NAME:
        raise ValueError(f"{path.name} is no figure")
    return go.Figure(offline(held), skip_invalid=True)
