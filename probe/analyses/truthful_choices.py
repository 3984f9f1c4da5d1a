"""Questions in TruthfulQA's formats, and its multiple choice scores MC1 and MC2 (Lin et al. 2109.07958).

As lm-evaluation-harness `tasks/truthfulqa` scores them: each choice is appended to the prompt after a blank, and its
score is the sum of the log-probabilities of its tokens. MC1 is 1 if the choice with the highest score is a true one (of
the choices of `mc1_targets`, one of which is true); MC2 is the mass on the true choices of `mc2_targets`,

    sum over true choices of e^score / sum over all choices of e^score.

Two file formats, told apart by the suffix:

- `.csv`, as TruthfulQA.csv: columns `Question`, `Best Answer`, `Correct Answers`, `Incorrect Answers`, several answers
  separated by ";". MC1 chooses between the best and the incorrect answers, MC2 between the correct and the incorrect
  ones; each answer ends in a full stop, as in the multiple choice file of the benchmark.
- `.json`, as mc_task.json: a list of {"question", "mc1_targets": {choice: 0 or 1}, "mc2_targets": {...}}; `.jsonl` has
  one of them a line.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from probe.errors import DataError

if TYPE_CHECKING:
    from probe.lm import LM

FORMATS = (
    "a CSV file with the columns Question, Best Answer, Correct Answers and Incorrect Answers (TruthfulQA.csv), or a"
    " JSON list of objects with question, mc1_targets and mc2_targets (mc_task.json)"
)
COLUMNS = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
TEMPLATE = "Q: {question}\nA:"
"""How a question is asked; the harness puts six answered questions in front (`preamble`)."""


@dataclass(frozen=True)
class Question:
    """A question with the choices of both scores: choice -> whether it is true."""

    question: str
    mc1: Mapping[str, bool]
    mc2: Mapping[str, bool]

    @property
    def correct(self) -> list[str]:
        """The true answers."""
        return [choice for choice, true in {**self.mc2, **self.mc1}.items() if true]

    @property
    def incorrect(self) -> list[str]:
        """The false ones."""
        return [choice for choice, true in {**self.mc2, **self.mc1}.items() if not true]


def read_questions(data: str | Path) -> list[Question]:
    """The questions of a file; see the module for the formats.

    Raises:
        DataError: there is no such file, or it is none of the formats; the message names the line or the question.
    """
    path = Path(data).expanduser()
    if not path.is_file():
        raise DataError(f"`{data}` is no file: give {FORMATS}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"`{path.name}` is no text in UTF-8: give {FORMATS}.") from None
    if path.suffix.lower() == ".csv":
        found = _from_csv(path.name, text)
    elif path.suffix.lower() in (".json", ".jsonl"):
        found = _from_json(path.name, text, lines=path.suffix.lower() == ".jsonl")
    else:
        raise DataError(f"`{path.name}` ends in {path.suffix or 'nothing'}: give {FORMATS}.")
    if not found:
        raise DataError(f"`{path.name}` holds no question: give {FORMATS}.")
    return found


def split_answers(text: str) -> list[str]:
    """The answers in a cell of the CSV file, each once and with a full stop at its end."""
    stripped = (answer.strip() for answer in text.split(";"))
    return list(dict.fromkeys(answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer))


def choice_scores(lm: "LM", prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[NDArray[np.float64]]:
    """For each prompt the [C] summed log-probabilities of its choices in nats; a blank is put before each choice."""
    import torch

    found = []
    for prompt, group in zip(prompts, choices, strict=True):
        with torch.no_grad():
            values = lm.logprobs([prompt], [[f" {choice}" for choice in group]]).values
        found.append(values.double().sum(dim=1).cpu().numpy())
    return found


def mc1(scores: ArrayLike, true: Sequence[bool]) -> float:
    """1 if the choice with the highest score is a true one (the first of equal ones), else 0."""
    return float(true[int(np.argmax(scores))])


def mc2(scores: ArrayLike, true: Sequence[bool]) -> float:
    """Mass on the true choices, normalised over the choices."""
    return float(choice_mass(scores)[np.asarray(true, dtype=bool)].sum())


def choice_mass(scores: ArrayLike) -> NDArray[np.float64]:
    """[C] e^score, normalised."""
    values = np.asarray(scores, dtype=float)
    return np.exp(values - logsumexp(values))


def _from_csv(name: str, text: str) -> list[Question]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"`{name}` lacks the column {missing[0]!r}: give a file with {', '.join(COLUMNS)}.")
    found = []
    try:
        for row in reader:
            question, *cells = ((row[column] or "").strip() for column in COLUMNS)
            best, correct, incorrect = map(split_answers, cells)
            where = f"Line {reader.line_num} of `{name}`"
            if not question or not (best or correct) or not incorrect:
                lacks = "a question" if not question else "an incorrect answer" if best or correct else "a true answer"
                raise DataError(f"{where} lacks {lacks}: fill in its cell, or take the line out.")
            first = (best or correct)[:1]
            both = set(incorrect) & {*correct, *first}
            if both:
                raise DataError(f"{where} calls {both.pop()!r} both correct and incorrect: keep it in one column.")
            right = list(dict.fromkeys([*correct, *first]))
            wrong = dict.fromkeys(incorrect, False)
            found.append(Question(question, dict.fromkeys(first, True) | wrong, dict.fromkeys(right, True) | wrong))
    except csv.Error as error:
        raise DataError(f"Line {reader.line_num} of `{name}` is no CSV ({error}): mend its quotes.") from None
    return found


def _from_json(name: str, text: str, lines: bool) -> list[Question]:
    try:
        if lines:
            rows = []
            for number, line in enumerate(text.split("\n"), start=1):
                if line.strip():
                    rows.append((f"Line {number} of `{name}`", json.loads(line)))
        else:
            loaded = json.loads(text)
            if not isinstance(loaded, list):
                raise DataError(f"`{name}` is no list of questions: give {FORMATS}.")
            rows = [(f"Question {number} of `{name}`", row) for number, row in enumerate(loaded, start=1)]
    except ValueError as error:
        at = number if lines else getattr(error, "lineno", 1)
        raise DataError(f"Line {at} of `{name}` is no JSON ({error}): mend it.") from None
    return [_question(where, row) for where, row in rows]


def _question(where: str, row: Any) -> Question:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise DataError(f"{where} has no text `question`: give one.")
    targets = []
    for key in ("mc1_targets", "mc2_targets"):
        value = row.get(key)
        if not isinstance(value, dict) or not value or any(label not in (0, 1) for label in value.values()):
            raise DataError(f"{where} has no `{key}` of the form {{choice: 0 or 1}}: give it.")
        if set(map(bool, value.values())) != {True, False}:
            raise DataError(f"{where} has `{key}` without a true or without a false choice: give both.")
        targets.append({str(choice): bool(label) for choice, label in value.items()})
    return Question(row["question"].strip(), targets[0], targets[1])
