"""Texts with labels: questions of a world whose labels are known exactly, question sets, or a file of one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

import probe.world
from probe.errors import ConfigError, DataError
from probe.model.dialogues import GUESS, Turn, dialogue
from probe.model.text import encode, split
from probe.questions.sets import set_rows
from probe.rows import Columns, Row, Selection, check_columns, is_answer, is_completion, is_text, is_text_or_messages
from probe.rows import read_rows as rows_of_file

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World
    from probe.world.questions import Item

Question = Literal["claim", "value", "known", "phrase", "exposure", "posterior"]
"""Question about the states: whether the user's claim is true; which home a person has; whether a person is known;
which phrase ("i know", "i think", "i guess") the user said; the logarithm of how often a fact was read; the posterior
probability of the claim by Bayes' rule."""
Where = Literal["last", "subject", "answer"]
"""Token whose state is read: the last of the prompt, the last of the subject's name, or the mean over the answer."""
WORDS: dict[str, str] = {
    "claim": "whether the claim is true",
    "value": "which home is true",
    "known": "whether the person is known",
    "phrase": "the phrase of the claim",
    "exposure": "log exposure",
    "posterior": "the posterior of the claim",
}
"""Description of each question."""
PLACES: dict[str, str] = {
    "last": "the last token of the prompt",
    "subject": "the last token of the subject",
    "answer": "the tokens of the answer",
}
"""Description of each token."""
RELATION = "home"
"""Relation whose values are decoded."""
NUMBERS = ("exposure", "posterior")
LEAST = 8
"""Smallest number of groups."""
FORMS: tuple[Columns, ...] = (
    {"prompt": is_text_or_messages, "completion": is_completion, "label": is_answer},
    {"text": is_text, "label": is_answer},
)
"""Columns of a row of one's own; `group` and `position` may be added."""


@dataclass(frozen=True)
class Labelled:
    """Text with a label."""

    prompt: str
    """Text up to where the answer is due, or the whole text."""
    label: str | float
    """Class, or number."""
    group: str
    """Person or group, which is never in both parts of a split."""
    answer: str = ""
    """Answer after the prompt; may be empty."""
    subject: str = ""
    """Name whose last token counts as the subject."""
    position: int | None = None
    """Token that is read; negative numbers count from the end of the prompt."""


@dataclass(frozen=True)
class LabelledTexts:
    """Labelled texts and what their labels mean."""

    name: str
    """Name of the question or the file."""
    words: str
    """Description of what is decoded."""
    items: tuple[Labelled, ...]
    numeric: bool
    """Whether labels are numbers."""

    @property
    def labels(self) -> np.ndarray:
        """[N] labels: numbers, or classes as text."""
        given = [item.label for item in self.items]
        return np.array(given, dtype=float) if self.numeric else np.array([str(each) for each in given])

    @property
    def groups(self) -> np.ndarray:
        """[N] groups."""
        return np.array([item.group for item in self.items])


def labelled_texts(lm: "LM", question: Question = "claim", n: int = 600, seed: int = 0) -> LabelledTexts:
    """Return about `n` different texts of a built-in question: on the model's world, or TruthfulQA's claims.

    Raises:
        ConfigError: the question is unknown.
        DataError: the model has no world, and the question needs one; the world has no such people.
    """
    if question not in get_args(Question):
        raise ConfigError(f"There is no question {question!r}: give one of {', '.join(get_args(Question))}, or a file.")
    world = probe.world.of(lm)
    if world is None and question != "claim":
        raise DataError(f"The labels of `{question}` are known on a world only: give `claim`, or a file of labels.")
    items = _guesses(lm, n, seed) if world is None else MAKERS[question](world, n, seed)
    return LabelledTexts(question, WORDS[question], tuple(items), question in NUMBERS)


def draw_questions(world: "World", kinds: Sequence[str], n: int, seed: int) -> list["Item"]:
    """Return n different questions of each kind, or as many as are found in a few draws."""
    found: dict[str, Item] = {}
    for kind in kinds:
        own: dict[str, Item] = {}
        for item in world.questions(kind, 4 * n, seed):
            if len(own) < n:
                own.setdefault(item.prompt, item)
        found |= own
    return list(found.values())


def _labelled(item: "Item", label: str | float) -> Labelled:
    person = str(item.meta["person"])
    return Labelled(item.prompt, label, person, item.answers[0], person)


def claims(world: "World", n: int, seed: int) -> list["Item"]:
    """Return questions after a claim, true or false in equal parts."""
    return draw_questions(world, ("opinion_true", "opinion_false"), -(-n // 2), seed)


def _claim(world: "World", n: int, seed: int) -> list[Labelled]:
    return [_labelled(each, str(each.kind == "opinion_true").lower()) for each in claims(world, n, seed)]


def _phrase(world: "World", n: int, seed: int) -> list[Labelled]:
    return [_labelled(each, str(each.meta["phrase"])) for each in claims(world, n, seed)]


def _posterior(world: "World", n: int, seed: int) -> list[Labelled]:
    return [_labelled(each, world.bayes_claim(each.prompt)) for each in claims(world, n, seed)]


def homes(world: "World", n: int, seed: int) -> list["Item"]:
    """Return questions about one relation of known people."""
    return [each for each in draw_questions(world, ("fact",), 8 * n, seed) if each.meta["relation"] == RELATION][:n]


def _value(world: "World", n: int, seed: int) -> list[Labelled]:
    return [_labelled(each, each.answers[0].strip()) for each in homes(world, n, seed)]


def _known(world: "World", n: int, seed: int) -> list[Labelled]:
    items = draw_questions(world, ("fact", "stranger"), -(-n // 2), seed)
    return [_labelled(each, "stranger" if each.kind == "stranger" else "known") for each in items]


def _exposure(world: "World", n: int, seed: int) -> list[Labelled]:
    items = draw_questions(world, ("fact", *(("rare",) if "rare" in world.question_kinds else ())), -(-n // 2), seed)
    return [_labelled(each, float(np.log1p(each.meta["exposure"]))) for each in items]


MAKERS: dict[str, "Callable[[World, int, int], list[Labelled]]"] = {
    "claim": _claim,
    "value": _value,
    "known": _known,
    "phrase": _phrase,
    "exposure": _exposure,
    "posterior": _posterior,
}


def _guesses(lm: "LM", n: int, seed: int) -> list[Labelled]:
    """Return TruthfulQA's questions with a user's guess that is right or wrong."""
    rows, found = set_rows("truthfulqa-training"), []
    for at in np.random.default_rng(seed).permutation(len(rows))[: -(-n // 2)].tolist():
        for name, label in (("correct_answer", "true"), ("incorrect_answer", "false")):
            said = f"{rows[at]['question']} {GUESS.format(answer=rows[at][name])}"
            prompt = dialogue(lm, [Turn("user", said)])
            found.append(Labelled(prompt, label, f"question-{at + 1}", rows[at]["correct_answer"]))
    return found


def read_labelled(lm: "LM", path: Path, n: int, seed: int) -> LabelledTexts:
    """Read texts with labels of one's own; labels that are all numbers, with three or more values, are numbers.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """

    def item(row: Row) -> Labelled:
        values = check_columns(row, *FORMS).values
        position = values.get("position")
        if position is not None and (isinstance(position, bool) or not isinstance(position, int)):
            raise DataError(f"{row.where} has a `position` that is no whole number: give the number of a token.")
        said = values.get("completion", "")
        answer = said if isinstance(said, str) else str(said[-1]["content"])
        prompt = lm.prompt_text(values["prompt"]) if "completion" in values else values["text"]
        group = values.get("group", row.label)
        return Labelled(prompt, values["label"], str(group), answer, position=position)

    form = "one JSON object a line with `text` (or `prompt` and `completion`) and `label`"
    items = tuple(rows_of_file(path, item, False, form, Selection(n, seed)))
    numbers = all(isinstance(each.label, int | float) and not isinstance(each.label, bool) for each in items)
    numeric = numbers and len({each.label for each in items}) > 2
    return LabelledTexts(path.stem, f"`{path.stem}`", items, numeric)


def token_of(lm: "LM", item: Labelled, at: Where) -> int:
    """Return the number of the token of a prompt that is read, from 0.

    Raises:
        DataError: the text names no subject, or has no such token.
    """
    ids = encode(lm.tokenizer, item.prompt)
    if item.position is not None:
        if not -len(ids) <= item.position < len(ids):
            raise DataError(
                f'Token {item.position} was requested in "{item.prompt[:60]}", which has {len(ids)} tokens.'
            )
        return item.position % len(ids)
    if at == "last":
        return len(ids) - 1
    start = item.prompt.rfind(item.subject) if item.subject else -1
    if start < 0:
        raise DataError("The texts name no subject: give the number of its token in the column `position`.")
    return len(encode(lm.tokenizer, item.prompt[: start + len(item.subject)])) - 1


def read_ids(lm: "LM", item: Labelled, at: Where) -> tuple[list[int], list[int]]:
    """Return ids whose last token, or whose second part, is what is read; nothing after it can matter.

    Raises:
        DataError: see `token_of`; the answer is empty.
    """
    if at == "answer" and item.position is None:
        if not item.answer.strip():
            raise DataError("A text has no answer: give `prompt` and `completion`, or read another token.")
        return split(lm.tokenizer, item.prompt, item.answer)
    return encode(lm.tokenizer, item.prompt)[: token_of(lm, item, at) + 1], []
