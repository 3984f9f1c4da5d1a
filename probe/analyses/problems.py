"""Problems with one final answer from a file, and how an answer is read out of a text.

The file has one JSON object a line with `question` and `answer`. The answer is what stands behind the last "####" of
it (GSM8K), or all of it. Both the file's answer and a model's text are reduced to the same form: numbers lose signs of
money, thousands and a closing full stop and are compared by value, other answers without case and outer marks.
"""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from probe.errors import ConfigError, DataError
from probe.rows import Row, Rows, read_rows

NUMBER = r"-?[$\u20ac\u00a3]?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
FORM = 'one JSON object a line, {"question": "...", "answer": "... #### 42"}'
_STEP = re.compile(r"\s*\n\s*|(?<=[.!?;])\s+")


class Problem(NamedTuple):
    """One line of a file."""

    question: str
    answer: str
    """The final answer in its plain form."""


def read_problems(path: str | Path, strict: bool = False) -> Rows[Problem]:
    """The problems of a JSON Lines file.

    Args:
        path: the file.
        strict: refuse it where a line is no problem, which is left out otherwise.

    Raises:
        DataError: there is no such file, or it holds no problem; see `probe.rows.read_rows`.
    """
    return read_rows(Path(path).expanduser(), _problem, strict, FORM)


def _problem(row: Row) -> Problem:
    values = [row.values.get(name) for name in ("question", "answer")]
    if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in values):
        raise DataError(f"{row.where} is no problem: write {FORM}.")
    question, answer = (str(value).strip() for value in values)
    final = reference(answer)
    if not question or not final:
        raise DataError(f"{row.where} has an empty question or answer: write {FORM}.")
    return Problem(question, final)


def reference(answer: str) -> str:
    """The final answer of a file in its plain form: what stands behind the last "####", or all of it."""
    return plain(answer.rpartition("####")[2])


def compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern of a final answer, None for the default one.

    Raises:
        ConfigError: it is no regular expression.
    """
    try:
        return re.compile(pattern, re.IGNORECASE) if pattern else None
    except re.error as error:
        raise ConfigError(
            rf"The pattern {pattern!r} is no regular expression ({error}): give one such as 'answer is (\S+)'."
        ) from None


def final_answer(text: str, pattern: re.Pattern[str] | None, numeric: bool, first: bool = False) -> str:
    """The answer that a text gives, in its plain form; empty if it gives none.

    Args:
        text: what a model wrote.
        pattern: its group (or the whole match) is the answer; without one a number, or the first line.
        numeric: whether the answer sought is a number.
        first: take the first match and not the last: for texts that continue an opening such as "the answer is".
    """
    if pattern is None and not numeric:
        lines = [line for line in text.splitlines() if line.strip()]
        return plain(lines[0 if first else -1]) if lines else ""
    matches = list((pattern or re.compile(NUMBER)).finditer(text))
    if not matches:
        return ""
    match = matches[0 if first else -1]
    return plain(next((group for group in match.groups() if group is not None), match[0]))


def plain(answer: str) -> str:
    """An answer without what does not change it; numbers in one form."""
    text = answer.strip().strip(".,:;!?*\"'` ()").lower()
    bare = re.sub(r"[$\u20ac\u00a3,\s]", "", text)
    try:
        number = Decimal(bare)
    except InvalidOperation:
        return " ".join(text.split())
    if not number.is_finite():
        return text
    return f"{number.normalize():f}" if number else "0"


def is_number(answer: str) -> bool:
    """Whether a plain answer is a number."""
    return re.fullmatch(r"-?\d+(\.\d+)?", answer) is not None


def other_answer(answer: str, others: Sequence[str], shift: int) -> str:
    """A wrong answer: a number moved by `shift`, or the answer of another problem; empty if there is none."""
    if is_number(answer):
        return plain(str(Decimal(answer) + shift))
    different = [other for other in dict.fromkeys(others) if other != answer]
    return different[shift % len(different)] if different else ""


def steps_of(text: str) -> list[str]:
    """The steps of a reasoning: its lines and sentences with what separates them, so that joined they are the text."""
    cuts = [0, *(match.end() for match in _STEP.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if text[a:b].strip()]


def mistaken(step: str, shift: int) -> str | None:
    """The step with its last number moved by `shift`; None if it has no number."""
    matches = list(re.finditer(r"\d+(?:,\d{3})*(?:\.\d+)?", step))
    if not matches:
        return None
    match = matches[-1]
    moved = Decimal(match[0].replace(",", "")) + shift
    return f"{step[: match.start()]}{moved:f}{step[match.end() :]}"
