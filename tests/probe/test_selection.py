"""Which rows of a file are used: those of the draw are checked, and no others."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet as pq

from probe.errors import DataError
from probe.experiments.registry import find_experiment
from probe.experiments.run import prepare
from probe.rows import EVERY, Row, Rows, Selection, field, read_rows, sift
from tests.places import DATA

PATH = Path("rows.jsonl")
COUNTS = st.integers(0, 30)
SELECTIONS = st.builds(
    Selection,
    st.none() | st.integers(1, 40),
    st.integers(0, 2**40),
    st.none() | st.integers(1, 40),
)


def first_rows(count: int, selection: Selection) -> list[int]:
    """The rows that are drawn from a file without an unusable one, as numpy permutes them."""
    count = min(count, selection.limit or count)
    if selection.n is None or count <= selection.n:
        return list(range(count))
    return sorted(int(i) for i in np.random.default_rng(selection.seed).permutation(count)[: selection.n])


def try_rows(
    count: int,
    broken: set[int],
    selection: Selection,
    strict: bool = False,
    key: Callable[[int], Any] | None = None,
) -> tuple[Rows[int], list[int]]:
    """What is read of a file with broken rows, and the rows that were tried."""
    tried: list[int] = []

    def make(number: int) -> int:
        tried.append(number)
        if number in broken:
            raise DataError(f"Row {number} is broken.")
        return number

    return sift(PATH, (partial(make, number) for number in range(count)), strict, selection, key), tried


@given(count=COUNTS, selection=SELECTIONS)
def test_rows_of_a_sound_file_are_those_of_the_permutation(count: int, selection: Selection) -> None:
    rows, tried = try_rows(count, set(), selection)
    assert list(rows) == sorted(tried) == first_rows(count, selection)
    assert (rows.read_count, rows.notes()) == (len(tried), [])
    shuffled = Selection(selection.n, selection.seed, selection.limit, shuffle=True)
    few = min(count, selection.limit or count)
    order = np.random.default_rng(selection.seed).permutation(few)[: selection.n]
    assert list(try_rows(count, set(), shuffled)[0]) == order.tolist()


@given(count=COUNTS, selection=SELECTIONS, broken=st.sets(COUNTS))
def test_an_unusable_row_is_replaced_where_it_is_drawn_and_unseen_elsewhere(
    count: int, selection: Selection, broken: set[int]
) -> None:
    drawn = first_rows(count, selection)
    if broken.isdisjoint(drawn):
        for strict in (False, True):
            rows, tried = try_rows(count, broken, selection, strict)
            assert list(rows) == sorted(tried) == drawn
            assert not rows.notes()
        return
    with pytest.raises(DataError, match=r"Row \d+ is broken"):
        try_rows(count, broken, selection, strict=True)
    few = min(count, selection.limit or count)
    usable = [number for number in range(few) if number not in broken]
    if not usable:
        with pytest.raises(DataError, match="is broken"):
            try_rows(count, broken, selection)
        return
    rows, tried = try_rows(count, broken, selection)
    assert len(rows) == min(len(usable), selection.n or few)
    assert set(drawn) - broken <= set(rows) <= set(usable)
    left_out = sorted(set(tried) & broken)
    assert rows.left_out == tuple(f"Row {number} is broken." for number in left_out)
    assert (rows.read_count, len(tried)) == (len(tried), len(set(tried)))
    assert rows.notes()[0].startswith(f"{len(left_out)} of {len(tried)} rows read from `{PATH}` cannot be used")


@given(count=COUNTS, selection=SELECTIONS, kinds=st.integers(1, 6))
def test_a_repeat_is_passed_over_for_the_next_of_the_draw(count: int, selection: Selection, kinds: int) -> None:
    rows, tried = try_rows(count, set(), selection, strict=True, key=lambda number: number % kinds)
    few = min(count, selection.limit or count)
    assert len(rows) == len({number % kinds for number in rows}) == min(few, kinds, selection.n or few)
    assert (rows.read_count, rows.repeats) == (len(tried), len(tried) - len(rows))
    if selection.n is None or few <= selection.n:
        assert list(rows) == list(range(min(few, kinds)))  # the first of each in the file's order


def save_lines(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "a.jsonl"


def save_list(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "a.json").write_text(json.dumps(rows))
    return folder / "a.json"


def save_cells(folder: Path, rows: list[dict[str, str]]) -> Path:
    (folder / "a.csv").write_text("\n".join(["text,id", *(",".join(row.values()) for row in rows)]))
    return folder / "a.csv"


def save_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=3)
    return folder / "a.parquet"


@pytest.mark.parametrize("save", [save_lines, save_list, save_cells, save_table])
def test_every_format_is_drawn_from_alike(tmp_path: Path, save: Callable[[Path, list[dict[str, str]]], Path]) -> None:
    """Row 4 has no letters: whether that matters depends on whether it is drawn."""
    path = save(tmp_path, [{"text": "" if at == 3 else f"text {at}", "id": str(at)} for at in range(10)])

    def numbers(selection: Selection, strict: bool = False) -> list[int]:
        return list(read_rows(path, make, strict, selection=selection))

    def make(row: Row) -> int:
        field(row, "text")
        return row.number

    assert numbers(EVERY) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert numbers(Selection(limit=3), strict=True) == [1, 2, 3]
    with pytest.raises(DataError, match="needs a text"):
        numbers(Selection(limit=4), strict=True)
    seeds = {3 in first_rows(10, Selection(4, seed)): seed for seed in range(20)}
    outside, inside = Selection(4, seeds[False]), Selection(4, seeds[True])
    assert numbers(outside, strict=True) == [at + 1 for at in first_rows(10, outside)]
    order = np.random.default_rng(inside.seed).permutation(10)[:5] + 1
    assert numbers(inside) == sorted(set(order.tolist()) - {4})
    with pytest.raises(DataError, match="needs a text"):
        numbers(inside, strict=True)


def test_rows_beyond_the_limit_are_not_even_parsed(tmp_path: Path) -> None:
    lines, cells = tmp_path / "a.jsonl", tmp_path / "a.csv"
    lines.write_text('{"a": 1}\n\n{"a": 2}\n{oops\n[]')
    cells.write_text('a\n1\n2\n"open')
    for path in (lines, cells):
        rows = read_rows(path, lambda row: int(row.values["a"]), strict=True, selection=Selection(limit=2))
        assert (list(rows), rows.notes(), rows.read_count) == ([1, 2], [], 2)
    assert len(read_rows(lines, lambda row: row).left_out) == 2
    (tmp_path / "b.jsonl").write_text('{oops\n[]\n{"a": 3}')
    with pytest.raises(DataError, match="None of the 2 rows read from"):
        read_rows(tmp_path / "b.jsonl", lambda row: row, selection=Selection(limit=2))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hallucination", "hallucination_questions.csv"),
        ("sycophancy", "sycophancy_choices.jsonl"),
        ("sycophancy", "sycophancy_questions.jsonl"),
        ("sycophancy", "sycophancy_texts.jsonl"),
        ("chain_of_thought", "chain_problems.jsonl"),
        ("in_context", "in_context_reviews.jsonl"),
        ("retrieval", "retrieval"),
    ],
)
def test_an_experiment_refuses_no_file_for_rows_that_it_does_not_use(name: str, file: str, tmp_path: Path) -> None:
    data, odd = DATA / file, "oops\n"
    if data.is_dir():
        for each in data.iterdir():
            (tmp_path / each.name).write_bytes(each.read_bytes())
        target, data = tmp_path / "questions.jsonl", tmp_path
    else:
        target = data = tmp_path / file
        target.write_bytes((DATA / file).read_bytes())
    sound = len(prepare(find_experiment(name), data=data).read[-1])
    target.write_text(f"{target.read_text().rstrip()}\n{odd * 20}")
    first = prepare(find_experiment(name), data=data, limit=3, strict=True)
    assert (first.options["n"], len(first.read[-1]), first.left_out, first.notes) == (3, 3, 0, [])
    whole = prepare(find_experiment(name), data=data)
    assert (whole.options["n"], len(whole.read[-1]), whole.left_out) == (sound + 20, sound, 20)
    with pytest.raises(DataError):
        prepare(find_experiment(name), data=data, strict=True)
    few = prepare(find_experiment(name), data=data, n=2)
    if name == "in_context":  # it uses all rows: they give the labels, and examples to each query
        assert (len(few.read[-1]), few.left_out) == (sound, 20)
    else:
        assert len(few.read[-1]) == 2
        assert few.left_out == few.read[-1].read_count - 2 < 20
