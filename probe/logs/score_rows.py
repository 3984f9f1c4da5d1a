"""Scores of any harness as rows: an identifier of the item and a score, with the transcript and metadata if known.

    {"id": "q7", "score": 1, "prompt": "...", "answer": "...", "topic": "geography"}

The file is JSON Lines, one JSON list, CSV, TSV or Parquet (`probe.rows`), or a folder of such files. The column `score`
is the score; without one, each column of numbers is a score.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probe.errors import DataError
from probe.logs.log import TEXT, Log, LogItem, flat_scores, make_log, question_hash
from probe.rows import SUFFIXES, Row, list_names, read_rows

ID = ("id", "item", "item_id", "sample_id", "doc_id", "row")
"""Columns with the identifier, of which the first that is there is read."""
PROMPT, ANSWER = ("prompt", "input", "question"), ("answer", "output", "completion", "response", "transcript")
EXPECTED = ("expected", "target", "reference")
"""Columns with texts, of which the first that is there is read."""
SCORE, EPOCH, MODEL, TASK = "score", "epoch", "model", "task"
"""Columns with a meaning of their own."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""Pattern of a number in a text."""
MOST_FILES = 10_000
"""Largest number of files of a folder."""


def read_scores(path: Path) -> Log:
    """Read rows with an identifier and a score.

    Raises:
        DataError: the file cannot be read, has no identifier, or no row has a score.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)[:MOST_FILES]
    if not files:
        raise DataError(f"`{path}` holds no file with rows ({', '.join(SUFFIXES)}): give one.")
    items, notes, said = [], list[str](), dict[str, str]()
    for file in files:
        rows = read_rows(file, _check, form="one JSON object a line, with id and score")
        notes += rows.notes()
        for row in rows:
            items.append(_item(row.values))
            said |= {name: str(row.values[name]) for name in (MODEL, TASK) if row.values.get(name) and name not in said}
    named = path.name if path.is_dir() else path.stem
    return make_log(path, items, said.get(MODEL, named), said.get(TASK, ""), notes)


def _check(row: Row) -> Row:
    if not any(_given(row.values, name) for name in ID):
        raise DataError(
            f"{row.where} has no identifier of the item, only {list_names(map(str, row.values))}: name it in a column"
            f" `{ID[0]}`."
        )
    return row


def _given(values: Mapping[str, Any], name: str) -> bool:
    return isinstance(values.get(name), str | int) and str(values[name]).strip() != ""


def _item(values: Mapping[str, Any]) -> LogItem:
    name = next(name for name in ID if _given(values, name))
    texts = {column: _first(values, column) for column in (PROMPT, ANSWER, EXPECTED)}
    used = {name, EPOCH, MODEL, TASK, *(each for names in (PROMPT, ANSWER, EXPECTED) for each in names)}
    others = {column: value for column, value in values.items() if column not in used}
    scores = {SCORE: others[SCORE]} if SCORE in others else {c: v for c, v in others.items() if _is_number(v)}
    epoch = str(values.get(EPOCH) or "1")
    return LogItem(
        id=str(values[name]),
        scores=flat_scores(scores.items()),
        epoch=int(epoch) if epoch.isdecimal() and len(epoch) < 10 else 1,
        question=question_hash(texts[PROMPT], texts[EXPECTED]),
        prompt=texts[PROMPT],
        answer=texts[ANSWER],
        expected=texts[EXPECTED],
        fields={column: value for column, value in others.items() if column not in scores},
    )


def _first(values: Mapping[str, Any], names: Sequence[str]) -> str | None:
    value = next((values[name] for name in names if values.get(name) not in (None, "")), None)
    return None if value is None else str(value)[:TEXT]


def _is_number(value: Any) -> bool:
    """Return whether a value is a number; those of CSV are texts."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and bool(NUMBER.fullmatch(value.strip())))
