"""Data files: what is read, and what a user is told about a broken one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probe import LM
from probe.errors import DataError
from trainers.corpus import read_documents
from trainers.data import capture_prompts, is_completion, is_text, read_jsonl, read_text
from trainers.preferences import file_preferences

PAIR = {"prompt": "mira", "chosen": " oslo", "rejected": " rome"}
COLUMNS = {"prompt": is_text, "chosen": is_completion}


def said(path: Path, columns: Any = None) -> str:
    with pytest.raises(DataError) as caught:
        list(read_jsonl(path, columns or COLUMNS))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_rows_come_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(
        '\ufeff{"prompt": "a", "chosen": "", "extra": 1}\n\n{"prompt": "ü", "chosen": "c"}', encoding="utf-8"
    )
    rows = list(read_jsonl(path, COLUMNS))
    assert [(row.line, row.values["prompt"]) for row in rows] == [(1, "a"), (3, "ü")]
    assert rows[0].values["extra"] == 1


def test_reading_streams(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b"}\n{broken', encoding="utf-8")
    rows = read_jsonl(path, COLUMNS)
    assert next(rows).line == 1
    with pytest.raises(DataError, match="Line 2"):
        next(rows)


def test_wrong_column_names_what_is_there_and_what_was_expected(write_jsonl: Callable[..., Path]) -> None:
    path = write_jsonl([{"prompt": "a", "chosen": "b"}, {"question": "a", "chosen": "b"}])
    message = said(path)
    assert message.startswith(f"Line 2 of `{path}` has the columns `question`, `chosen` and lacks `prompt`")
    assert "expected `prompt`, `chosen`" in message


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": 3, "chosen": "b"}, "has 3 in the column `prompt`; expected a string that is not empty"),
        ({"prompt": "", "chosen": "b"}, 'has "" in the column `prompt`'),
        ({"prompt": "a", "chosen": None}, "has null in the column `chosen`; expected a string, or a list of messages"),
        ({"prompt": "a", "chosen": [{"role": "user"}]}, 'has [{"role": "user"}] in the column `chosen`'),
        ({"prompt": "a", "chosen": []}, "has [] in the column `chosen`"),
        (["a", "b"], "is a list: write a JSON object"),
        ({}, "has the columns of an empty object and lacks `prompt`, `chosen`"),
    ],
)
def test_wrong_values_are_shown(row: Any, part: str, write_jsonl: Callable[..., Path]) -> None:
    message = said(write_jsonl([row]))
    assert message.startswith("Line 1 of ")
    assert part in message


def test_long_values_are_cut(write_jsonl: Callable[..., Path]) -> None:
    assert len(said(write_jsonl([{"prompt": ["x" * 1000], "chosen": "b"}]))) < 400


def test_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b"}\n{"prompt": "a", "cho\n', encoding="utf-8")
    assert said(path).startswith(f"Line 2 of `{path}` is not JSON")


def test_other_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"prompt": "a", "chosen": "b"}\n' + '{"prompt": "ü", "chosen": "b"}'.encode("latin-1"))
    assert said(path).startswith(f"Line 2 of `{path}` is not UTF-8")
    text = tmp_path / "text.txt"
    text.write_bytes("first\nsecond ü".encode("latin-1"))
    with pytest.raises(DataError, match=r"Line 2 of .* is not UTF-8"):
        read_text(text)


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


def test_documents_need_a_text(write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="has the columns `body` and lacks `text`"):
        read_documents(write_jsonl([{"body": "a"}]))


@pytest.fixture(scope="module")
def lm(model_dir: Path) -> LM:
    return LM.load(model_dir)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        (PAIR | {"rejected": " oslo"}, "has equal chosen and rejected"),
        (PAIR | {"prompt": [{"role": "user", "content": "mira"}]}, "mixes strings and messages"),
        ({"prompt": "mira", "completion": " oslo"}, "lacks `chosen`, `rejected`"),
    ],
)
def test_wrong_pairs(row: Any, part: str, lm: LM, write_jsonl: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=f"^Line 2 of .*{part}"):
        file_preferences(lm, write_jsonl([PAIR, row]), print)


def test_messages_need_a_chat_template(write_jsonl: Callable[..., Path]) -> None:
    from tests.models import random_lm

    row = {
        "prompt": [{"role": "user", "content": "mira"}],
        "chosen": [{"role": "assistant", "content": "oslo"}],
        "rejected": [{"role": "assistant", "content": "rome"}],
    }
    with pytest.raises(DataError, match=r"^Line 1 of .*has no chat template"):
        file_preferences(random_lm(), write_jsonl([row]), print)


def test_overlong_pairs_are_counted_and_not_cut(lm: LM, write_jsonl: Callable[..., Path]) -> None:
    fits = PAIR | {"prompt": "mira " * 61}  # <bos>, 61 words, the answer and <end> fill the context of 64
    reports: list[str] = []
    preferences = file_preferences(lm, write_jsonl([PAIR, fits, PAIR | {"prompt": "mira " * 62}]), reports.append)
    assert [pair.longest for pair in preferences.pairs] == [4, 64]
    assert len(reports) == 1
    assert reports[0].startswith("1 of 3 pairs")
    with pytest.raises(DataError, match=r"All 1 pairs .* are longer than the model's 64 tokens"):
        file_preferences(lm, write_jsonl([PAIR | {"prompt": "mira " * 62}]), reports.append)


def test_short_prompts_are_captured_and_long_ones_cut(lm: LM) -> None:
    short, long = "where does mira live ?", "oslo " * 100
    assert capture_prompts(lm.tokenizer, [long, short]) == [short]
    (cut,) = capture_prompts(lm.tokenizer, [long, long])
    assert cut.split() == ["oslo"] * 63
    assert capture_prompts(lm.tokenizer, [f"{i}" for i in range(9)]) == ["0", "1", "2", "3"]


def test_thousands_of_lines_are_read(tmp_path: Path, lm: LM) -> None:
    path = tmp_path / "data.jsonl"
    line = json.dumps(PAIR | {"prompt": "<user> where does mira live ? <bot>"}) + "\n"
    path.write_text(line * 5000)
    assert len(file_preferences(lm, path, print).pairs) == 5000
