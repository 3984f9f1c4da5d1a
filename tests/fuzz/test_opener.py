"""The opener and the parsers of untrusted files, and files of lines that are too long, too wide or taken back often."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest

from probe.errors import RunError
from probe.runs import RunWarning, storage
from probe.runs.captures import all_rows, metrics_frame, newest
from probe.runs.storage import Position, cut_torn_line, read_lines
from probe.untrusted import DEPTH, FIELDS, open_file, parse_json, parse_toml, read_file, readable, sendable

LISTS = ("[", "]")
OBJECTS = ('{"a":', "}")


@pytest.mark.parametrize(("opened", "closed"), [LISTS, OBJECTS])
def test_values_are_nested_up_to_a_depth(opened: str, closed: str):
    value = parse_json(opened * DEPTH + "1" + closed * DEPTH)
    assert sendable(readable(value)) == value
    for depth in (DEPTH + 1, 500, 990, 1010, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {DEPTH} deep"):
            parse_json(opened * depth + "1" + closed * depth)


def test_what_is_nested_is_found_beside_much_that_is_not():
    flat = ", ".join('{"step": 1, "loss": [0.5, "]]]"]}' for _ in range(1000))
    assert len(parse_json(f"[{flat}]")) == 1000
    with pytest.raises(ValueError, match="nested"):
        parse_json(f"[{flat}, {'[' * 200}{']' * 200}]")


def test_an_object_has_names_up_to_a_number():
    assert len(parse_json(json.dumps({str(i): i for i in range(FIELDS)}))) == FIELDS
    with pytest.raises(ValueError, match=r"has 20,001 names, and at most 20,000 are read"):
        parse_json(json.dumps([{str(i): i for i in range(FIELDS + 1)}]))


@pytest.mark.parametrize("text", ["a = " + "[" * 2000 + "]" * 2000, "a = " + "{b = " * 500 + "1" + "}" * 500])
def test_toml_is_nested_up_to_a_depth(text: str):
    with pytest.raises(ValueError, match="nested"):
        parse_toml(text)
    with pytest.raises(ValueError, match="nested"):
        parse_toml(".".join("a" * 200) + " = 1")
    assert parse_toml(b"a = [[1]]") == {"a": [[1]]}


def test_a_file_that_grows_is_read_as_it_was(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"x" * 10)
    with open_file(file, most=10) as opened:
        file.write_bytes(b"x" * 11)
        assert opened.read(10) == b"x" * 10
    with pytest.raises(OSError, match=r"it has 1 MB, and at most 1 MB are read|it has 1 MB"):
        read_file(file, most=10)


def test_no_handle_stays_open_after_a_refusal(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(20):
        with pytest.raises(OSError, match="a named pipe, not a regular file"):
            read_file(tmp_path / "pipe")
    assert not before or len(os.listdir("/proc/self/fd")) <= before


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "CHUNK", 64)
    monkeypatch.setattr(storage, "LINE", 200)
    file = tmp_path / "lines.jsonl"
    rows = [{"step": 0}, {"step": 1, "text": "x" * 1000}, {"step": 2}, {"step": 3, "text": "y" * 100}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(RunWarning, match="Line 2 of .* is broken"):
        found, position = read_lines(file, Position(), live=False)
    assert [row["step"] for row in found] == [0, 2, 3]
    assert (position.offset, position.line) == (file.stat().st_size, 4)
    with open(file, "a") as more:
        more.write('{"step": 4}\n{"step": 5, "te')
    found, after = read_lines(file, position, live=True)
    assert [row["step"] for row in found] == [4]
    assert after.line == 5
    cut_torn_line(file)
    assert file.read_text().endswith('{"step": 4}\n')


def test_a_file_without_any_line_is_not_searched_for_ever(tmp_path: Path):
    file = tmp_path / "lines.jsonl"
    with open(file, "wb") as made:
        made.truncate(2**42)
    with pytest.raises(RunError, match="its last 512 MB hold no end of a line"):
        cut_torn_line(file)
    assert file.stat().st_size == 2**42


@pytest.mark.parametrize("chunk", [1, 7, 16, 1 << 20])
def test_lines_are_the_same_however_they_are_read(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b'{"a": 1}\n\nbroken\n{"a": 2}\r\n{"a": "\xc3\xa4"}\n{"a": 4}')
    monkeypatch.setattr(storage, "CHUNK", chunk)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows, position = read_lines(file, Position(), live=False)
    assert [row["a"] for row in rows] == [1, 2, "\u00e4", 4]
    assert [str(each.message) for each in caught] == [f"Line 3 of `{file}` is broken and is left out."]
    assert (position.offset, position.line) == (file.stat().st_size, 5)


def test_lines_are_read_up_to_a_size_and_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(f'{{"step": {step}}}\n' for step in range(10)))
    with pytest.warns(RunWarning, match="only the first"):
        rows, _ = read_lines(file, Position(), live=False, most=27)
    assert len(rows) == 2
    monkeypatch.setattr(storage, "LINES", 4)
    monkeypatch.setattr(storage, "CHUNK", 12)
    with pytest.warns(RunWarning, match="only the first 4 lines are read"):
        rows, _ = read_lines(file, Position(), live=False)
    assert len(rows) == 4
    os.unlink(file)
    os.mkfifo(file)
    with pytest.raises(RunError, match=r"cannot be read \(it is a named pipe"):
        read_lines(file, Position(), live=False)


def test_many_resumes_take_back_what_one_does():
    rows: list[dict] = []
    for step in range(20_000):
        rows += [{"step": step}, {"step": step + 1}, {"step": step, "event": "resume"}]
    assert list(newest({}, rows, Path("x"))) == list(range(20_000))
    assert [row["step"] for row in all_rows([], rows, Path("x"))] == list(range(20_000))
    rows = [{"step": 5}, {"step": 1}, {"step": 9}, {"step": 3, "event": "resume"}, {"step": 4}]
    assert sorted(newest({2: {"step": 2}, 7: {"step": 7}}, rows, Path("x"))) == [1, 2, 4]
    assert [row["step"] for row in all_rows([{"step": 2}, {"step": 7}], rows, Path("x"))] == [2, 1, 4]


def test_rows_of_many_names_become_a_table_that_fits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("probe.runs.captures.CELLS", 200)
    rows = {step: {"step": step, "time": 1.0, f"name{step}": 1.0} for step in range(10)}
    with pytest.warns(RunWarning, match="have 12 columns, and the first 16|the first"):
        frame = metrics_frame({step: row | {f"m{step}-{i}": 0.0 for i in range(5)} for step, row in rows.items()})
    assert len(frame.columns) == 20
    assert list(frame)[:2] == ["step", "time"]
