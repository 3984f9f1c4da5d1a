"""Files of examples: JSON lines with named columns or a text, read in one pass, with errors that name the line."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from probe.errors import DataError
from probe.tokens import encode

CAPTURE_TOKENS = 64
"""Longest prompt that data files give to the recorder: its cost grows with the square."""


class Row(NamedTuple):
    """One example of a file."""

    line: int
    """Its line, counted from 1."""
    values: dict[str, Any]
    """All its columns."""


def is_text(value: Any) -> bool:
    """A string that is not empty."""
    return isinstance(value, str) and value != ""


def is_messages(value: Any) -> bool:
    """A conversation: `[{"role": ..., "content": ...}, ...]`, not empty."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
        and all(isinstance(m.get("content"), str) for m in value)
    )


def is_text_or_messages(value: Any) -> bool:
    """Either of the two."""
    return is_text(value) or is_messages(value)


def is_completion(value: Any) -> bool:
    """A string, which may be empty, or a conversation."""
    return isinstance(value, str) or is_messages(value)


Columns = Mapping[str, Callable[[Any], bool]]
"""The columns that a file must have, with the test that each value must pass."""

_WANTED: dict[Callable[[Any], bool], str] = {
    is_text: "a string that is not empty",
    is_messages: "a list of messages with role and content",
    is_text_or_messages: "a string that is not empty, or a list of messages with role and content",
    is_completion: "a string, or a list of messages with role and content",
}


def read_jsonl(path: Path, *forms: Columns) -> Iterator[Row]:
    """The examples of a JSONL file, one at a time; blank lines are passed over.

    Args:
        path: the file.
        forms: the columns that a row must have, in one form or in one of several.

    Raises:
        DataError: the file is missing or holds no example, or a line is no UTF-8, no JSON object, lacks a column or
            has a wrong value in one; the message names the line.
    """
    empty = True
    try:
        with open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    empty = False
                    yield Row(number, _parse(path, number, raw, forms))
    except OSError as error:
        raise _unreadable(path, error) from error
    if empty:
        raise DataError(f"`{path}` is empty: write one JSON object a line with the columns {_either(forms)}.")


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        DataError: it is missing, empty, or not UTF-8 (the message names the line).
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"Line {line} of `{path}` is not UTF-8 ({error.reason}): save the file as UTF-8 text."
        ) from error
    if not text.strip():
        raise DataError(f"`{path}` is empty: give a text to train on.")
    return text.replace("\r\n", "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, by which a resumed run knows its data."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def draw(n: int, batch_size: int, step: int, seed: int) -> list[int]:
    """Which of `n` examples make up step 1, 2, ...: pass after pass over all of them, each in an order of its own."""
    first = (step - 1) * batch_size
    return [int(_order(n, seed, at // n)[at % n]) for at in range(first, first + batch_size)]


def capture_prompts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], count: int = 4) -> list[str]:
    """The first texts that are short enough to capture on; if all are long, the first of them cut to that length."""
    fitting: list[str] = []
    long: list[str] = []
    for text in texts:
        ids = encode(tokenizer, text)
        if len(ids) <= CAPTURE_TOKENS:
            fitting.append(text)
        elif not long:
            long.append(tokenizer.decode(ids[:CAPTURE_TOKENS], skip_special_tokens=True))
        if len(fitting) == count:
            break
    return fitting or long


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


def _parse(path: Path, number: int, raw: bytes, forms: Sequence[Columns]) -> dict[str, Any]:
    where = f"Line {number} of `{path}`"
    try:
        values = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason}): save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}): write one JSON object a line.") from error
    if not isinstance(values, dict):
        raise DataError(f"{where} is a {type(values).__name__}: write a JSON object with {_either(forms)}.")
    columns = next((form for form in forms if all(name in values for name in form)), None)
    if columns is None:
        lacking = " or ".join(_names([name for name in form if name not in values]) for form in forms)
        raise DataError(
            f"{where} has the columns {_names(values) or 'of an empty object'} and lacks {lacking};"
            f" expected {_either(forms)}: rename or add the column."
        )
    for name, passes in columns.items():
        if not passes(values[name]):
            raise DataError(f"{where} has {_shown(values[name])} in the column `{name}`; expected {_WANTED[passes]}.")
    return values


def _names(names: Sequence[str] | Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _either(forms: Sequence[Columns]) -> str:
    return " or ".join(map(_names, forms))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"The data file `{path}` cannot be read ({error.strerror or error}): check the path.")
