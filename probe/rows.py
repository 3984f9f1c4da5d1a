"""Rows of data files: JSON Lines, one JSON list, CSV, TSV, Parquet, or a folder saved by the library `datasets`.

Only rows that are used are checked (`Selection`). Unusable rows are left out, counted and named. A single unusable row
is no reason to refuse a file, unless the reader is `strict`; a file without a usable row is refused. Files that cannot
be split into rows (a damaged JSON list, CSV or Parquet file) are refused as a whole, with the line of the error if
there is one.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, overload

from probe.errors import ConfigError, DataError, brief
from probe.untrusted import DATA, foreign, parse_json, read_file, read_json, regular, short

T = TypeVar("T")
U = TypeVar("U")
NAMED = 3
"""Number of left-out rows that are listed; the others are only counted."""
AT_ONCE = 64
"""Number of rows of a Parquet file in memory at once: few, because a small file may contain large rows."""
LARGEST = 4 * 2**30
"""Largest number of bytes of an unpacked Parquet file."""
PARQUET = ".parquet"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Suffixes of files of cells, with what separates the cells."""
SUFFIXES = (".jsonl", ".json", *DELIMITERS, PARQUET)
"""Suffixes of files with rows."""
UNUSED = "_"
"""Name of a column that is not used."""
COMPARED = 20
"""Number of rows by which a header is told from a row."""
LONGEST = 60
"""Largest number of characters of a column's name in a header."""
FOLDER = "a folder that `datasets` wrote with save_to_disk"
ROW_FILES = f"a file of rows ({', '.join(SUFFIXES)}), or {FOLDER}"


def may_hold_rows(data: str) -> bool:
    """Return whether a name can be that of a file with rows, or of a folder."""
    return Path(data).suffix.lower() in SUFFIXES or Path(data).is_dir()


class Row(NamedTuple):
    """A row of a file."""

    number: int
    """Number of the row, from 1; blank lines do not count."""
    where: str
    """Line or entry and file, for messages."""
    values: Mapping[str, Any]
    """Columns of the row."""

    @property
    def label(self) -> str:
        """The name of the row in items: `row-7`."""
        return f"row-{self.number}"


@dataclass(frozen=True)
class Selection:
    """Selection of the rows of a file; by default all."""

    n: int | None = None
    """Number of rows drawn without repeats, or all if there are fewer. An unusable or repeated row is replaced by the
    next one of the draw."""
    seed: int = 0
    """Seed of the draw, modulo 2**64."""
    limit: int | None = None
    """Number of rows at the start of the file to which the draw is limited."""
    shuffle: bool = False
    """Whether rows stay in the order of the draw rather than in the file's."""
    columns: str = ""
    """Names of the columns of a CSV or TSV file without a header, separated by commas (`split_names`)."""

    def order(self, rows: Iterable[T]) -> Iterable[tuple[int, T]]:
        """Return rows in the order in which they are tried until there are `n`, each with its index in the file."""
        places = islice(enumerate(rows), self.limit)
        if self.n is None and not self.shuffle:
            return places
        import numpy as np

        every = list(places)
        if self.n is not None and len(every) <= self.n and not self.shuffle:
            return every
        return [every[i] for i in np.random.default_rng(self.seed % 2**64).permutation(len(every))]


EVERY = Selection()
"""Selection of all rows of a file, in its order."""


@dataclass(frozen=True)
class Rows(Sequence[T], Generic[T]):
    """Items made from the rows of a file."""

    path: Path
    """Path of the file or folder."""
    items: Sequence[T]
    """Items, one for each usable row."""
    left_out: tuple[str, ...] = ()
    """One sentence on each row that is left out: where it is, and why."""
    strict: bool = False
    """Whether an unusable row makes the reader refuse the file."""
    repeats: int = 0
    """Number of rows that equal an earlier one and are skipped."""
    remarks: tuple[str, ...] = ()
    """Further remarks on the file, one sentence each."""
    reading: int = 0
    """Version of the reader, raised when the same file gives other items than before; part of the key of stored
    results."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def read_count(self) -> int:
        """The number of rows read: items, left-out rows, and repeats."""
        return len(self.items) + len(self.left_out) + self.repeats

    def each(self, make: "Callable[[T], U]") -> "Rows[U]":
        """Apply a function to each item; items refused with a `DataError` are left out as well.

        Raises:
            DataError: no item is left, or the file is read strictly and one is refused.
        """
        rows = sift(self.path, (partial(make, item) for item in self.items), self.strict)
        left_out = *self.left_out, *rows.left_out
        return replace(rows, left_out=left_out, repeats=self.repeats, remarks=self.remarks, reading=self.reading)

    def notes(self) -> list[str]:
        """Return notes for the user: the remarks, and the number of left-out rows, the first of them listed."""
        n = len(self.left_out)
        if not n:
            return list(self.remarks)
        names = " ".join(self.left_out[:NAMED]) + (f" And {n - NAMED} more." if n > NAMED else "")
        count = f"{n} of {self.read_count} rows read from `{self.path}`"
        summary = (
            f"{count} cannot be used and {'is' if n == 1 else 'are'} left out (--strict refuses the file): {names}"
        )
        return [*self.remarks, summary]


def sift(
    path: Path,
    makers: Iterable[Callable[[], T]],
    strict: bool = False,
    selection: Selection = EVERY,
    key: Callable[[T], Hashable] | None = None,
) -> Rows[T]:
    """Collect the results of the selected makers, and the reasons of those that raise a `DataError`.

    Args:
        path: file, for messages.
        makers: one function per row; those that are not needed are not called.
        strict: refuse the file if one raises a `DataError`.
        selection: selection of the makers.
        key: function whose equal values identify equal items, of which the first counts; by default none are equal.

    Raises:
        DataError: all makers raise one, or one does and `strict` is set.
    """
    items, reasons, keys, repeats = dict[int, T](), dict[int, str](), set[Hashable](), 0
    for place, make in selection.order(makers):
        if len(items) == selection.n:
            break
        try:
            item = make()
        except DataError as error:
            if strict:
                raise
            reasons[place] = str(error)
            continue
        name = place if key is None else key(item)
        if name in keys:
            repeats += 1
        else:
            keys.add(name)
            items[place] = item
    left_out = tuple(reasons[place] for place in sorted(reasons))
    if left_out and not items:
        every = f"None of the {len(left_out)} rows read from `{path}` can be used; the first: "
        raise DataError(f"{every if len(left_out) > 1 else ''}{left_out[0]}")
    places = items if selection.shuffle else sorted(items)
    return Rows(path, [items[place] for place in places], left_out, strict, repeats)


def read_rows(
    path: Path,
    make: Callable[[Row], T],
    strict: bool = False,
    form: str = "one JSON object a line",
    selection: Selection = EVERY,
    key: Callable[[T], Hashable] | None = None,
) -> Rows[T]:
    """Apply a function to rows of a file, whose format follows from its suffix and its first character.

    Args:
        path: file; `.csv` and `.tsv` have a header unless the selection names their columns, and in a TSV file quotes
            are ordinary characters. `.parquet` and folders of the library `datasets` are read by pyarrow. Any other
            file is JSON Lines, or one JSON list if it begins with "[".
        make: function of a row; for an unusable row it raises a `DataError` that begins with `Row.where`.
        strict: refuse the file if a row is unusable.
        form: expected content of the file, for messages.
        selection: selection of rows; other rows are located, but neither parsed nor passed to `make`.
        key: see `sift`.

    Raises:
        ConfigError: the selection's names of columns cannot be used.
        DataError: the file cannot be read, is empty, has no usable row (with `strict`: an unusable row), or names its
            columns itself although the selection does.
    """
    sources = _sources(path, split_names(selection.columns))
    rows = ((number, where, parse) for number, (where, parse) in enumerate(sources, start=1))
    result = sift(path, (partial(_make_row, make, *row) for row in rows), strict, selection, key)
    if not result:
        raise DataError(f"`{path}` is empty: write {form}.")
    return result


def read_bytes(path: Path) -> bytes:
    """Read the bytes of a data file, without an initial UTF-8 byte order mark.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return read_file(path, DATA).removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"The data file `{path}` cannot be read ({error.strerror or error}): check the path.") from None


def _make_row(make: Callable[[Row], T], number: int, where: str, parse: Callable[[], Any]) -> T:
    values = parse()
    if not isinstance(values, dict):
        raise DataError(f"{where} is {show_value(values)}: write a JSON object.")
    return make(Row(number, where, values))


def _sources(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the location of each row, and a function that parses it.

    Raises:
        DataError: the file cannot be split into rows, or names of columns are given and it has them itself.
    """
    if columns and path.suffix.lower() not in DELIMITERS:
        raise DataError(f"`{path}` names its columns itself, and columns is {','.join(columns)}: leave columns out.")
    if path.is_dir() or (path.suffix.lower() == PARQUET and path.is_file()):
        rows = _folder_rows(path) if path.is_dir() else _parquet_rows(path)
        for number, values in enumerate(rows, start=1):
            yield f"Row {number} of `{path}`", partial(_as_json, f"Row {number} of `{path}`", values)
        return
    raw = read_bytes(path)
    if path.suffix.lower() in DELIMITERS:
        yield from _split_cells(path, _decode(f"`{path}`", raw), columns)
    elif raw.lstrip().startswith(b"["):
        yield from _split_list(path, _decode(f"`{path}`", raw))
    else:
        for number, line in enumerate(raw.split(b"\n"), start=1):
            if line.strip():
                yield f"Line {number} of `{path}`", partial(_parse_line, f"Line {number} of `{path}`", line)


def _parquet_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a Parquet file.

    Raises:
        DataError: it is not a Parquet file, or too large when unpacked.
    """
    from pyarrow import parquet

    def refuse(reason: str) -> DataError:
        return DataError(f"`{path}` cannot be read as a Parquet file ({reason}): write it again, or as JSON Lines.")

    with foreign(refuse), parquet.ParquetFile(regular(path)) as file:
        groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > LARGEST:
            raise refuse(f"unpacked it has more than {LARGEST // 2**30} GiB")
        for batch in file.iter_batches(batch_size=AT_ONCE):
            yield from batch.to_pylist()


def _folder_rows(folder: Path) -> Iterator[Any]:
    """Yield the rows of a folder saved by the library `datasets`, in the order of its Arrow files.

    Raises:
        DataError: it is not such a folder, contains several splits, or one of its files cannot be read.
    """
    import pyarrow as pa

    def refuse(reason: str) -> DataError:
        return DataError(f"`{folder}` cannot be read as {FOLDER} ({reason}): save it again, or give a file.")

    if not (folder / "state.json").is_file():
        splits = sorted(each.name for each in folder.iterdir() if (each / "state.json").is_file())
        if splits:
            raise DataError(
                f"`{folder}` holds the splits {', '.join(splits)}: give one of them, such as `{folder / splits[0]}`."
            )
        raise DataError(f"`{folder}` is a folder without a data set: give a file, or {FOLDER}.")
    with foreign(refuse):
        names = [entry["filename"] for entry in read_json(folder / "state.json")["_data_files"]]
        if any(Path(name).name != name for name in names):
            raise refuse("it names files outside of itself")
        for name in names:
            with pa.OSFile(str(regular(folder / name))) as file:
                for batch in pa.ipc.open_stream(file):
                    batch.validate(full=True)  # else a damaged file would be read beyond its end
                    yield from batch.to_pylist()


def _as_json(where: str, values: Any) -> Any:
    """Convert a row of an Arrow table to JSON values; others, such as dates, become text."""
    try:
        return _check_texts(where, parse_json(json.dumps(values, ensure_ascii=False, default=str)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} cannot be used ({short(error)}): write plain values.") from None


def _parse_line(where: str, line: bytes) -> Any:
    """Parse a line of JSON.

    Raises:
        DataError: it is not JSON, or contains characters that no text can hold.
    """
    text = _decode(where, line)
    try:
        values = parse_json(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}): write one JSON object a line.") from None
    return _check_texts(where, values)


def _check_texts(where: str, values: T) -> T:
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half a surrogate pair, which is not text: write the whole letter.") from None
    return values


def _decode(where: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason}): save the file as UTF-8.") from None


def _split_list(path: Path, text: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the location of each entry of a JSON list, and a function that returns it."""
    try:
        entries = parse_json(text)
    except ValueError as error:
        at = getattr(error, "lineno", 1)
        raise DataError(
            f"Line {at} of `{path}` is not JSON ({error}): fix the list, or write one object a line."
        ) from None
    for number, entry in enumerate(entries, start=1):
        where = f"Entry {number} of `{path}`"
        yield where, partial(_check_texts, where, entry)


def _cells(path: Path, text: str) -> Any:
    """Return a reader of the rows of a CSV or TSV file as lists of cells."""
    delimiter = DELIMITERS[path.suffix.lower()]
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {}
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **options)


def _split_cells(path: Path, text: str, columns: Sequence[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the first line of each row of a CSV or TSV file, and a function that returns the row.

    Args:
        path: the file, for messages.
        text: its text.
        columns: names of its columns; if there are none, its first row is its header.

    Raises:
        DataError: a quote is not closed, or closed in the middle of a cell; or names of columns are given and the first
            row is a header.
    """
    reader, line = _cells(path, text), 1
    try:
        if columns:
            _check_first_row(path, columns, list(islice(_cells(path, text), COMPARED)))
        header = columns or [name.strip() for name in next(reader, [])]
        source = "columns names" if columns else "the header has"
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                where = f"Line {line} of `{path}`"
                yield where, partial(_name_cells, where, header, cells, source)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"The row that begins in line {line} of `{path}` is not valid CSV ({error}): fix its quotes."
        ) from None


def _name_cells(where: str, header: Sequence[str], cells: Sequence[str], source: str) -> dict[str, str]:
    if len(cells) != len(header):
        remedy = "name each column" if source == "columns names" else "fix its commas and quotes"
        raise DataError(f"{where} has {len(cells)} cells and {source} {len(header)}: {remedy}.")
    return {name: cell for name, cell in zip(header, cells, strict=True) if name != UNUSED}


def split_names(columns: str) -> list[str]:
    """Split names of columns at commas; `UNUSED` stands for a column that is not used.

    Raises:
        ConfigError: a name is empty or repeated.
    """
    names = [name.strip() for name in columns.split(",")] if columns.strip() else []
    used = [name for name in names if name != UNUSED]
    if not all(names) or len(set(used)) < len(used) or (names and not used):
        raise ConfigError(
            f"columns is {brief(columns)!r}; expected a different name for each column, such as label,title,text, and"
            f" {UNUSED} for a column that is not used."
        )
    return names


def _check_first_row(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Refuse a header where the columns are named by the reader.

    A first row is a header if it has the given names, or if one of its cells is no number and all others of the column
    are.

    Raises:
        DataError: the first row is a header.
    """
    first, *others = rows or [[]]
    same = [name.strip().casefold() for name in first] == [name.casefold() for name in columns]
    others = [row for row in others if len(row) == len(first)]
    numbers = len(others) > 1 and any(
        not is_number(cell) and all(is_number(row[at]) for row in others) for at, cell in enumerate(first)
    )
    if same or numbers:
        raise DataError(
            f"`{path}` begins with a header ({list_names(map(brief, first))}), and columns is {','.join(columns)}:"
            " leave columns out, or remove the first row."
        )


def lacks_header(path: Path) -> bool:
    """Return whether the first row of a CSV or TSV file holds a number or a long text, which no header does."""
    if path.suffix.lower() not in DELIMITERS:
        return False
    try:
        first: list[str] = next(_cells(path, read_bytes(path).decode(errors="replace")), [])
    except (DataError, csv.Error):
        return False
    return any(is_number(cell) or len(cell) > LONGEST for cell in first)


def is_number(cell: str) -> bool:
    """Return whether a cell is a number."""
    return re.fullmatch(r"\s*[+-]?\d+(\.\d+)?\s*", cell) is not None


def is_text(value: Any) -> bool:
    """Return whether a value is a string that is not empty."""
    return isinstance(value, str) and value != ""


def is_messages(value: Any) -> bool:
    """Return whether a value is a conversation: `[{"role": ..., "content": ...}, ...]`, not empty."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
        and all(isinstance(m.get("content"), str) for m in value)
    )


def is_text_or_messages(value: Any) -> bool:
    """Return whether a value is a string that is not empty, or a conversation."""
    return is_text(value) or is_messages(value)


def is_completion(value: Any) -> bool:
    """Return whether a value is a string, which may be empty, or a conversation."""
    return isinstance(value, str) or is_messages(value)


def is_answer(value: Any) -> bool:
    """Return whether a value is a string that is not blank, or a number."""
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, int | float) and value == value


def as_messages(role: str, said: str | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return messages unchanged, and a string as one message of the role."""
    return [{"role": role, "content": said}] if isinstance(said, str) else list(said)


Columns = Mapping[str, Callable[[Any], bool]]
"""Required columns of a row, with the test that each value must pass."""

_WANTED: dict[Callable[[Any], bool], str] = {
    is_text: "a string that is not empty",
    is_messages: "a list of messages with role and content",
    is_text_or_messages: "a string that is not empty, or a list of messages with role and content",
    is_answer: "a text or a number",
    is_completion: "a string, or a list of messages with role and content",
}


def check_columns(row: Row, *forms: Columns) -> Row:
    """Return the row if it has the columns of one of the forms, of which the first match counts.

    Raises:
        DataError: the row lacks a column, or has an invalid value.
    """
    columns = next((form for form in forms if all(name in row.values for name in form)), None)
    if columns is None:
        missing = [list_names([name for name in form if name not in row.values]) for form in forms]
        lacking, expected = " or ".join(dict.fromkeys(missing)), list_forms(forms)
        found = f"{row.where} has the columns {list_names(row.values) or 'of an empty object'}"
        wanted = f"lacks {lacking}; expected {expected}" if lacking != expected else f"lacks {lacking}"
        raise DataError(f"{found} and {wanted}: rename or add the column.")
    for name, passes in columns.items():
        if not passes(row.values[name]):
            raise DataError(
                f"{row.where} has {show_value(row.values[name])} in the column `{name}`; expected {_WANTED[passes]}."
            )
    return row


def read_columns(path: Path, *forms: Columns, strict: bool = False) -> Rows[Row]:
    """Read the rows of a file that have the columns of one of the forms; see `read_rows` and `check_columns`."""
    form = f"one JSON object a line with the columns {list_forms(forms)}"
    return read_rows(path, lambda row: check_columns(row, *forms), strict, form)


DOCUMENT: Columns = {"text": is_text}
"""Columns of a document to train on."""
DEMONSTRATIONS: tuple[Columns, ...] = (
    {"prompt": is_text_or_messages, "completion": is_completion},
    {"messages": is_messages},
)
"""Forms of the columns of a demonstration to train on."""


def read_documents(path: Path, strict: bool = False) -> Rows[str]:
    """Read a file's documents: the column `text` of JSON Lines, Parquet or a folder, or a text file as one document.

    Raises:
        DataError: the file cannot be read or is empty; see `read_rows` and `read_text`.
    """
    if path.is_dir() or path.suffix.lower() in (".jsonl", PARQUET):
        return read_columns(path, DOCUMENT, strict=strict).each(lambda row: row.values["text"])
    return Rows(path, [read_text(path)])


def read_demonstrations(path: Path, strict: bool = False) -> Rows[Row]:
    """Read the demonstrations of a file, in one of the forms of `DEMONSTRATIONS`.

    A completion labelled false, as in KTO's format, is left out, since it should not be learned.

    Raises:
        DataError: the file cannot be used; see `read_rows`.
    """
    return read_columns(path, *DEMONSTRATIONS, strict=strict).each(_check_label)


def _check_label(row: Row) -> Row:
    if str(row.values.get("label")).lower() == "false":
        raise DataError(f"{row.where} is labelled false (KTO's form), which nothing should learn: remove it.")
    return row


def read_text(path: Path) -> str:
    """Read a UTF-8 text file.

    Raises:
        DataError: it is missing, empty, or not UTF-8 (the message names the line).
    """
    raw = read_bytes(path)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"Line {line} of `{path}` is not UTF-8 ({error.reason}): save the file as UTF-8 text."
        ) from error
    if not text.strip():
        raise DataError(f"`{path}` is empty: give a text to train on.")
    return text.replace("\r\n", "\n")


def field(row: Row, name: str) -> str:
    """Return the text of a column, which must not be blank.

    Raises:
        DataError: the column is missing or not a text; the message names the line.
    """
    value = row.values.get(name)
    if not isinstance(value, str) or not value.strip():
        problem = "lacks it" if name not in row.values else f"has {show_value(value)}"
        raise DataError(f"{row.where} needs a text in the field `{name}` and {problem}: add it.")
    return value


def json_cell(row: Row, name: str) -> Any:
    """Return the value of a column; a text, as in a CSV file, is parsed as JSON if possible.

    Raises:
        DataError: the value contains characters that no text can hold.
    """
    value = row.values.get(name)
    if not isinstance(value, str):
        return value
    try:
        return _check_texts(row.where, parse_json(value))
    except ValueError:
        return value


def list_names(columns: Iterable[str]) -> str:
    """Join names of columns for a sentence."""
    return ", ".join(f"`{name}`" for name in columns)


def list_few(names: Sequence[str]) -> str:
    """Join the first names, and state the number of others."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def list_forms(forms: Sequence[Columns]) -> str:
    """Join the columns of several forms for a sentence."""
    return " or ".join(map(list_names, forms))


def show_value(value: Any) -> str:
    """Return a value as JSON, shortened if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
