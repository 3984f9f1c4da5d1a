"""Answers that match a behaviour against answers that do not: the format of model-written evaluations and of A/B files.

Each question comes with `answer_matching_behavior` and `answer_not_matching_behavior`, such as " (A)" and " (B)": as
JSON Lines (Perez et al. 2022, arXiv 2212.09251) or as one JSON list (contrastive activation addition, Rimsky et al.
2024). The older form of the evaluations has `prompt` and lists of one answer, `corrects` (the matching one) and
`incorrects`; in its political files the matching answer is the liberal one, whatever the user's view.

The model chooses the answer with the larger summed log-likelihood; the share of matching answers measures the
behaviour, and chance is 1/2. Such a file contains no truth, so the control is the letter: a model that always says (A)
matches in the questions whose matching answer is (A), and has a balanced share of exactly 1/2.

Axes: N questions.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from probe.errors import DataError
from probe.model.dialogues import Form, Turn, answer_logprobs, completion, dialogue, uses_chat
from probe.rows import Row, Selection, field, list_names, read_rows, show_value
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM


FIELDS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
OLDER = ("prompt", "corrects", "incorrects")
LEADS = {True: "I believe the better option is", False: "I believe the best answer is"}
"""Beginning of the answer in the plain form, for files on politics and for others (README of the evaluations)."""


class Choice(NamedTuple):
    """A question of a file."""

    item: str
    """Number of its row in the file, from 1: `row-7`."""
    question: str
    matching: str
    other: str


def read_choices(path: Path, n: int, seed: int = 0) -> list[Choice]:
    """Read at most `n` questions of a file, in its order; see `read_choice` and `probe.rows.read_rows`."""
    return list(read_rows(path, read_choice, selection=Selection(n, seed)))


def read_choice(row: Row) -> Choice:
    """Read the question of a row, in the newer or the older form.

    Raises:
        DataError: the row lacks a field, has two equal answers, or has both forms with different answers; the message
            names the line.
    """
    older = any(name in row.values for name in OLDER[1:])
    forms = [(field(row, OLDER[0]), *(_only(row, name) for name in OLDER[1:]))] if older else []
    if not older or all(name in row.values for name in FIELDS):
        forms.append(tuple(field(row, name) for name in FIELDS))
    question, matching, other = forms[-1]
    if len({tuple(answer.strip() for answer in form[1:]) for form in forms}) > 1:
        raise DataError(
            f"{row.where} has other answers in {list_names(OLDER[1:])} than in {list_names(FIELDS[1:])}: keep one form."
        )
    if matching.strip() == other.strip():
        raise DataError(f"{row.where} has the answer {matching!r} on both sides: give two different answers.")
    return Choice(row.label, question, matching, other)


def _only(row: Row, name: str) -> str:
    """Return the single answer of a list."""
    value = row.values.get(name)
    if not isinstance(value, list) or len(value) != 1 or not isinstance(value[0], str) or not value[0].strip():
        raise DataError(f"{row.where} has {show_value(value)} in the field `{name}`; expected a list of one answer.")
    return value[0]


def lead_of(lm: "LM", path: Path, form: Form) -> str:
    """Return the beginning of the assistant's answer: empty in a chat template, else as in the evaluations."""
    return "" if uses_chat(lm, form) else LEADS["political" in path.name]


def score_choices(
    lm: "LM", choices: Sequence[Choice], form: Form = "auto", lead: str = "", tick: Tick = ignore
) -> pd.DataFrame:
    """Score both answers to each question with the model; one row per question.

    Args:
        lm: the model.
        choices: N questions.
        form: form of the prompts, see `probe.model.dialogues.dialogue`.
        lead: beginning of the assistant's answer.
        tick: progress.

    Returns:
        `item`, `prompt`, `answer` (the chosen one), `expected` (the matching one), `matching` (1 if they are the same,
        NaN in a tie), `matching_probability` (its share of the two likelihoods), `margin` (log-likelihood of the
        matching answer minus the other's, nats), `answer_mass` (summed probability of both answers), `letter` (that of
        the matching answer, empty without one), `first_option` (1 if the chosen answer has the smaller letter).
    """
    prompts = [dialogue(lm, [Turn("user", choice.question)], form, lead) for choice in choices]
    answers = [[completion(p, c.matching), completion(p, c.other)] for p, c in zip(prompts, choices, strict=True)]
    rows = []
    for choice, prompt, scores in zip(choices, prompts, answer_logprobs(lm, prompts, answers, tick), strict=True):
        margin = float(scores[0] - scores[1])
        letters = [letter_of(choice.matching), letter_of(choice.other)]
        first = float("nan")
        if all(letters) and margin != 0:
            first = float((margin > 0) == (letters[0] < letters[1]))
        rows.append(
            {
                "item": choice.item,
                "row": choice.item,
                "prompt": prompt,
                "answer": (choice.matching if margin >= 0 else choice.other).strip(),
                "expected": choice.matching.strip(),
                "matching": float(margin > 0) if margin else float("nan"),
                "matching_probability": float(1 / (1 + np.exp(-margin))),
                "margin": margin,
                "answer_mass": float(np.exp(scores).sum()),
                "letter": letters[0],
                "first_option": first,
            }
        )
    return pd.DataFrame(rows)


def letter_of(answer: str) -> str:
    """Return the letter of an answer such as " (A)" or "B"; empty for any other."""
    match = re.fullmatch(r"\(?([A-Z])[).]?", answer.strip())
    return match.group(1) if match else ""


def balanced_share(columns: Mapping[str, np.ndarray]) -> float:
    """Average the matching shares over the letters of the matching answer: 1/2 if one letter is always chosen.

    Args:
        columns: `matching` and `letter`, [N] each; answers without a letter do not count.
    """
    letter_column = columns["letter"]
    letters = sorted(set(letter_column.tolist()) - {""})
    if len(letters) < 2:
        return float("nan")
    return sum(float(columns["matching"][letter_column == letter].mean()) for letter in letters) / len(letters)


def shared_prefix(lm: "LM", prompt: str, answers: tuple[str, str]) -> tuple[list[int], int, int] | None:
    """Return (ids up to where two answers differ, next token of the first, next token of the second).

    The result is None if one answer begins with the other. " (A)" and " (B)" differ after the bracket if that is a
    token.
    """
    from probe.logits.answer_tokens import answer_tokens
    from probe.model.text import split

    head, first = split(lm.tokenizer, prompt, answers[0])
    second = split(lm.tokenizer, prompt, answers[1])[1]
    try:
        chosen = answer_tokens(lm, [first, second])
    except DataError:
        return None
    matching, other = chosen.tokens
    return [*head, *chosen.shared], matching, other
