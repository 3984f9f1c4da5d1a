"""Rows of data files: what is read, what is left out and named, and what a user is told about a broken file."""

import csv
import json
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as pq

from probe import rows as rows_of
from probe.errors import ConfigError, DataError
from probe.rows import (
    DOCUMENT,
    Row,
    Rows,
    Selection,
    field,
    is_completion,
    is_text,
    lacks_header,
    read_columns,
    read_documents,
    read_rows,
    read_text,
    split_names,
)

COLUMNS = {"prompt": is_text, "chosen": is_completion}
GOOD = {"prompt": "a", "chosen": "b"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def said(path: Path, columns: Any = None, strict: bool = True) -> str:
    with pytest.raises(DataError) as caught:
        read_columns(path, columns or COLUMNS, strict=strict)
    message = str(caught.value)
    assert "\n" not in message
    return message


def values(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows]


def test_rows_come_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '\ufeff{"prompt": "a", "chosen": "", "extra": 1}\n\n{"prompt": "ü\u2028", "chosen": "c"}', encoding="utf-8"
    )
    rows = read_columns(path, COLUMNS)
    found = [(row.number, row.where, row.values["prompt"]) for row in rows]
    assert found == [(1, f"Line 1 of `{path}`", "a"), (2, f"Line 3 of `{path}`", "ü\u2028")]
    assert rows[0].values["extra"] == 1
    assert rows.notes() == []


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": 3, "chosen": "b"}, "has 3 in the column `prompt`; expected a string that is not empty"),
        ({"prompt": "", "chosen": "b"}, 'has "" in the column `prompt`'),
        ({"prompt": "a", "chosen": None}, "has null in the column `chosen`; expected a string, or a list of messages"),
        ({"prompt": "a", "chosen": [{"role": "user"}]}, 'has [{"role": "user"}] in the column `chosen`'),
        ({"prompt": "a", "chosen": []}, "has [] in the column `chosen`"),
        (
            {"question": "a", "chosen": "b"},
            "has the columns `question`, `chosen` and lacks `prompt`; expected `prompt`,",
        ),
        ("3", "is 3: write a JSON object"),
        ({}, "has the columns of an empty object and lacks `prompt`, `chosen`: rename or add the column."),
        ('{"prompt": "a", "cho', "is not JSON"),
        ('{"prompt": "\\ud83d", "chosen": ""}', "holds half a surrogate pair"),
        ("[" * 100_000, "is not JSON"),
        ({"prompt": ["x" * 1000], "chosen": "b"}, "..."),
    ],
)
def test_an_odd_row_is_left_out_counted_and_named(tmp_path: Path, row: Any, part: str) -> None:
    path = write(tmp_path / "data.jsonl", GOOD, row, "", GOOD | {"prompt": "c"})
    assert said(path).startswith(f"Line 2 of `{path}` ")
    assert part in said(path)
    assert len(said(path)) < 500
    rows = read_columns(path, COLUMNS)
    assert values(rows) == [GOOD, GOOD | {"prompt": "c"}]
    assert [row.number for row in rows] == [1, 3]
    (note,) = rows.notes()
    head = f"1 of 3 rows read from `{path}` cannot be used and is left out (--strict refuses the file): "
    assert note.startswith(f"{head}Line 2 of `{path}` ")
    assert part in note


def test_half_a_surrogate_pair_in_a_list_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, GOOD | {"prompt": "\ud800"}]))
    assert said(path).startswith(f"Entry 2 of `{path}` holds half a surrogate pair")
    assert values(read_columns(path, COLUMNS)) == [GOOD]


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "a", "chosen": "b"}\n' + '{"prompt": "ü", "chosen": "b"}'.encode("latin-1"))
    assert said(path).startswith(f"Line 2 of `{path}` is not UTF-8")
    assert len(read_columns(path, COLUMNS)) == 1
    text = tmp_path / "text.txt"
    text.write_bytes("first\nsecond ü".encode("latin-1"))
    with pytest.raises(DataError, match=r"Line 2 of .* is not UTF-8"):
        read_text(text)


def test_a_few_odd_rows_are_named_and_the_others_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", GOOD, *[{"prompt": ""}] * 5)
    (note,) = read_columns(path, COLUMNS).notes()
    assert note.startswith(f"5 of 6 rows read from `{path}` cannot be used and are left out")
    assert [f"Line {n} of" in note for n in range(1, 7)] == [False, True, True, True, False, False]
    assert note.endswith("And 2 more.")


def test_a_file_of_odd_rows_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"body": "a"}, {"body": "b"})
    message = said(path, strict=False)
    assert message.startswith(
        f"None of the 2 rows read from `{path}` can be used; the first: Line 1 of `{path}` has the columns"
    )
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe{\x00}\x00")
    assert "is not UTF-8" in said(tmp_path / "bad.jsonl", strict=False)


def test_each_further_step_leaves_out_too(tmp_path: Path) -> None:
    def upper(row: Row) -> str:
        if row.values["prompt"] == "no":
            raise DataError(f"{row.where} says no.")
        return str(row.values["prompt"]).upper()

    path = write(tmp_path / "data.jsonl", GOOD, {"prompt": "no", "chosen": ""}, {"prompt": ""})
    rows = read_columns(path, COLUMNS).each(upper)
    assert list(rows) == ["A"]
    assert [each.partition(" of")[0] for each in rows.left_out] == ["Line 3", "Line 2"]
    with pytest.raises(DataError, match="says no"):
        Rows(path, list(read_columns(path, COLUMNS)), strict=True).each(upper)


def test_empty_and_missing_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n \n")
    assert "is empty: write one JSON object a line with the columns `prompt`, `chosen`" in said(empty)
    assert "cannot be read (No such file or directory): check the path" in said(tmp_path / "none.jsonl")
    for path, part in ((tmp_path / "none.txt", "cannot be read"), (empty, "is empty: give a text to train on")):
        with pytest.raises(DataError, match=part):
            read_text(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)


def test_a_list_is_read_entry_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([GOOD, 3, GOOD], indent=1))
    rows = read_columns(path, COLUMNS)
    assert [row.where for row in rows] == [f"Entry {n} of `{path}`" for n in (1, 3)]
    assert rows.left_out == (f"Entry 2 of `{path}` is 3: write a JSON object.",)
    path.write_text('[\n{"prompt": "a",\n')
    assert said(path, strict=False).startswith(f"Line 3 of `{path}` is not JSON")


def test_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        '\ufefftext, label\r\n"a, ""b""\r\nc",1\r\n\r\nd,2\r\n', encoding="utf-8", newline=""
    )
    rows = read_rows(tmp_path / "a.csv", lambda row: row)
    assert values(rows) == [{"text": 'a, "b"\r\nc', "label": "1"}, {"text": "d", "label": "2"}]
    assert [row.where.partition(" of")[0] for row in rows] == ["Line 2", "Line 5"]
    (tmp_path / "a.tsv").write_text('text\tlabel\n"never\t1\n5" more\t2\n')
    assert values(read_rows(tmp_path / "a.tsv", lambda row: row))[1] == {"text": '5" more', "label": "2"}
    (tmp_path / "b.csv").write_text("text,label\na,1,2\nb,2\n")
    found = read_rows(tmp_path / "b.csv", lambda row: row)
    assert values(found) == [{"text": "b", "label": "2"}]
    assert found.left_out == (
        f"Line 2 of `{tmp_path / 'b.csv'}` has 3 cells and the header has 2: fix its commas and quotes.",
    )


CELLS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=8))
def test_a_file_without_a_header_is_read_like_the_same_file_with_one(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]]
) -> None:
    """Any cells, quoted, and the first of which is no name of a column."""
    table = [(f"x{first}", *rest) for first, *rest in table]
    folder = tmp_path_factory.mktemp("cells")
    files = folder / "bare.csv", folder / "named.csv"
    for file, rows in zip(files, (table, [("a", "b", "c"), *table]), strict=True):
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, quoting=csv.QUOTE_ALL).writerows(rows)
    bare = read_rows(files[0], lambda row: row, selection=Selection(columns="a,b,c"))
    named = read_rows(files[1], lambda row: row)
    assert values(bare) == values(named) == [dict(zip("abc", row, strict=True)) for row in table]
    assert [row.number for row in bare] == [row.number for row in named]
    skipped = read_rows(files[0], lambda row: row, selection=Selection(columns="_,b,_"))
    assert values(skipped) == [{"b": row[1]} for row in table]


@pytest.mark.parametrize(
    ("name", "text", "columns", "part"),
    [
        ("a.csv", "label,text\n1,a\n", "Label, text", "begins with a header (`label`, `text`), and columns is"),
        ("a.csv", "Class Index,Title\n3,a\n4,b\n", "label,text", "leave columns out, or remove the first row."),
        ("a.tsv", "sentence\tlabel\ngood\t1\nbad\t0\n", "text,label", "begins with a header"),
        ("a.csv", "1,a,b\n2,c,d\n", "label,text", "Line 1 of"),
        ("a.csv", "1,a,b\n2,c,d\n", "label,text", "has 3 cells and columns names 2: name each column."),
        ("a.jsonl", '{"text": "a"}\n', "label,text", "names its columns itself, and columns is label,text"),
    ],
)
def test_names_of_columns_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, text: str, columns: str, part: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as told:
        read_rows(tmp_path / name, lambda row: row, selection=Selection(columns=columns))
    assert part in str(told.value)


@pytest.mark.parametrize("columns", ["a,,b", "a,a", ",", "_,_"])
def test_names_of_columns_differ(columns: str) -> None:
    with pytest.raises(ConfigError, match="expected a different name for each column"):
        split_names(columns)


@pytest.mark.parametrize(
    ("text", "lacks"),
    [('"3","a","b"\n', True), ("text,label\n", False), (f"{'long ' * 20},x\n", True), ("", False), ('"open', False)],
)
def test_a_first_row_with_a_number_or_a_long_text_is_no_header(tmp_path: Path, text: str, lacks: bool) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert lacks_header(tmp_path / "a.csv") == lacks
    assert not lacks_header(tmp_path / "a.jsonl")


@pytest.mark.parametrize("row", ['"open,1', '"closed"early,1', '"' + "x" * 200_000 + ",1"])
def test_a_broken_quote_names_the_line_where_its_row_begins(tmp_path: Path, row: str) -> None:
    path = write(tmp_path / "a.csv", "text,label", "good,1", row, *["more,2"] * 30)
    for strict in (True, False):
        with pytest.raises(
            DataError, match=r"^The row that begins in line 3 of .*a\.csv` is not valid CSV \(.*fix its quotes"
        ):
            read_rows(path, lambda row: row, strict)


def test_documents_need_a_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": "a"}, {"text": "b"})
    assert list(read_documents(path)) == ["b"]
    with pytest.raises(DataError, match="has the columns `body` and lacks `text`"):
        read_documents(path, strict=True)
    assert said(path, DOCUMENT).startswith("Line 1")
    (tmp_path / "a.txt").write_text("whole\r\ntext")
    assert list(read_documents(tmp_path / "a.txt")) == ["whole\ntext"]


def test_a_field_is_a_text_with_letters() -> None:
    row = Row(1, "Line 1 of `a`", {"a": "x", "b": " ", "c": 3})
    assert field(row, "a") == "x"
    for name, part in (("b", 'has " "'), ("c", "has 3"), ("d", "lacks it")):
        with pytest.raises(DataError, match=rf"^Line 1 of `a` needs a text in the field `{name}` and {part}: add it"):
            field(row, name)


NESTED = [
    {"question": "a", "targets": {"choices": ["x", "y"], "labels": [1, 0]}, "n": 1},
    {"question": "\u00fc", "targets": {"choices": ["z"], "labels": [1]}, "n": 2},
    {"question": "", "targets": {"choices": [], "labels": []}, "n": 3},
]


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(path, num_shards=2)
    return path


@pytest.mark.parametrize("write_rows", [parquet, saved])
def test_parquet_and_folders_of_datasets_are_read_as_json_lines(tmp_path: Path, write_rows: Any) -> None:
    lines = write(tmp_path / "rows.jsonl", *NESTED)
    path = write_rows(tmp_path / "rows.parquet", NESTED)
    columns = {"question": is_text}
    expected, found = (read_columns(each, columns) for each in (lines, path))
    assert values(found) == values(expected) == NESTED[:2]
    assert [row.where for row in found] == [f"Row 1 of `{path}`", f"Row 2 of `{path}`"]
    assert found.left_out == (
        f'Row 3 of `{path}` has "" in the column `question`; expected a string that is not empty.',
    )
    assert read_documents(write_rows(tmp_path / "text.parquet", [{"text": "one"}, {"text": "two"}]))[:] == [
        "one",
        "two",
    ]


def test_values_that_json_has_not_are_text(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", [{"text": "a", "day": date(2026, 1, 2), "share": Decimal("0.5")}])
    assert values(read_columns(path, DOCUMENT)) == [{"text": "a", "day": "2026-01-02", "share": "0.5"}]


def test_a_folder_with_splits_names_them(tmp_path: Path) -> None:
    part = datasets.Dataset.from_list([{"text": "a"}])
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(tmp_path / "both")
    assert said(tmp_path / "both", DOCUMENT) == (
        f"`{tmp_path / 'both'}` holds the splits test, train: give one of them, such as `{tmp_path / 'both' / 'test'}`."
    )
    assert len(read_documents(tmp_path / "both" / "train")) == 1


def test_broken_tables_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    assert "cannot be read as a Parquet file" in said(tmp_path / "x.parquet")
    assert "cannot be read (No such file or directory)" in said(tmp_path / "missing.parquet")
    assert "is a folder without a data set" in said(tmp_path)
    folder = saved(tmp_path / "set", NESTED)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../x.parquet"}]}))
    assert "names files outside of itself" in said(folder)
    (folder / "state.json").write_text("[]")
    assert "cannot be read as a folder that `datasets` wrote" in said(folder)
    monkeypatch.setattr(rows_of, "LARGEST", 10)
    assert "unpacked it has more than" in said(parquet(tmp_path / "large.parquet", NESTED))
