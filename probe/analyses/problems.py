"""Problems with one final answer from a file, and how an answer is read out of a text.

The file has one JSON object a line with `question` and `answer`. The answer is what stands behind the last "####" of
it (GSM8K), or all of it. Both the file's answer and a model's text are reduced to the same form: numbers lose signs of
money, thousands and a closing full stop and are compared by value, other answers without case and outer marks.
"""

import json
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from probe.errors import ConfigError, DataError

NUMBER = r"-?[$\u20ac\u00a3]?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_STEP = re.compile(r"\s*\n\s*|(?<=[.!?;])\s+")


class Problem(NamedTuple):
    """One line of a file."""

    question: str
    answer: str
    """The final answer in its plain form."""


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of a JSON Lines file.

    Raises:
        DataError: there is no such file, it holds no problem, or a line is none; the message names the line.
    """
    file = Path(path).expanduser()
    expected = 'one JSON object a line, {"question": "...", "answer": "... #### 42"}'
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The problems `{path}` cannot be read ({error}): give a file with {expected}.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        values = [row.get(name) if isinstance(row, dict) else None for name in ("question", "answer")]
        if any(isinstance(value, bool) or not isinstance(value, str | int | float) for value in values):
            raise DataError(f"Line {number} of `{path}` is no problem: expected {expected}.")
        question, answer = (str(value).strip() for value in values)
        final = plain(answer.rpartition("####")[2])
        if not question or not final:
            raise DataError(f"Line {number} of `{path}` has an empty question or answer: expected {expected}.")
        found.append(Problem(question, final))
    if not found:
        raise DataError(f"The file `{path}` holds no problems: give {expected}.")
    return found


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
