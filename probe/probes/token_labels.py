"""Answers whose tokens have labels: right or wrong. Of a world, of TruthfulQA, or of a file of one's own.

On a world the model writes the answers, and the world's facts label them exactly. Without one, the labels are those of
TruthfulQA's reference answers; an answer that the model writes itself has the label of the reference that it shares
most words with (ROUGE-1, the automatic metric of Lin et al. 2022, arXiv 2109.07958). That rule takes no notice of
meaning: "not" is one word of many.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import probe.world
from probe.errors import DataError
from probe.model.dialogues import Turn, dialogue
from probe.model.text import encode, pieces, split
from probe.probes.text_labels import draw_questions
from probe.questions.sets import set_rows
from probe.rows import Columns, Row, Selection, check_columns, is_answer, is_completion, is_text_or_messages, read_rows
from probe.ticks import Tick, between, ignore
from probe.world.language import TAUGHT

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World

KINDS = {
    "fact": "a known person",
    "rare": "a rare person",
    "stranger": "a stranger",
    "opinion_true": "a known person after a true claim",
    "opinion_false": "a known person after a false claim",
    "opinion_stranger": "a stranger after a claim",
}
"""Kinds of questions about people, in words."""
WRITTEN = 8, 40
"""Largest number of tokens of an answer that a model writes on a world, and on TruthfulQA."""
PEOPLE, REFERENCES = "people", "reference answers"
"""Names of the units that are held out on a world, and of the answers that TruthfulQA gives."""
AT_ONCE = 64
"""Number of answers that are written at once."""
FORM: Columns = {"prompt": is_text_or_messages, "completion": is_completion, "label": is_answer}
"""Columns of a row of one's own; `span` and `group` may be added."""
RIGHT, WRONG = ("true", "right", "correct", "1"), ("false", "wrong", "incorrect", "0")
"""Labels of a row of one's own."""


@dataclass(frozen=True)
class LabelledAnswer:
    """Answer whose tokens have one label, or none."""

    prompt: list[int]
    """Token ids of the prompt."""
    answer: list[int]
    """Token ids of the answer."""
    labelled: list[int]
    """Indices in the answer of the tokens that have the label."""
    wrong: bool
    """Label: whether what these tokens say is wrong."""
    group: str
    """Person, question or group, which is never in both parts of a split."""
    kind: str
    """Kind of question."""


@dataclass(frozen=True)
class AnswerSet:
    """Labelled answers to fit and test a probe on."""

    answers: tuple[LabelledAnswer, ...]
    """Answers to fit and test on."""
    others: tuple[LabelledAnswer, ...]
    """Answers to test on alone; may be empty."""
    tests: tuple[str, str]
    """Names of the two kinds of answers."""
    units: str
    """Name of the units that are held out: people, questions or groups."""


def answers_of_world(lm: "LM", world: "World", n: int, seed: int, tick: Tick = ignore) -> AnswerSet:
    """Let a model answer about `n` questions on people of its world, sampled and greedily; the world judges.

    The tokens of a value have a label; an answer without one, such as "i do not know", has none.
    """
    kinds = [kind for kind in KINDS if kind in world.question_kinds]
    items = draw_questions(world, kinds, -(-n // len(kinds)), seed)
    prompts = [encode(lm.tokenizer, item.prompt) for item in items]
    found = list[tuple[LabelledAnswer, ...]]()
    for number, temperature in enumerate((1.0, 0.0)):
        written = write(lm, prompts, WRITTEN[0], temperature, seed, between(tick, number / 2, (number + 1) / 2))
        own = list[LabelledAnswer]()
        for item, prompt, ids in zip(items, prompts, written, strict=True):
            verdict = world.verify(item.prompt, str(lm.tokenizer.decode(ids))).kind
            if verdict in ("true", "wrong", "deferred"):
                person, labelled = str(item.meta["person"]), stating(lm, ids)
                own.append(LabelledAnswer(prompt, ids, labelled, verdict != "true", person, KINDS[item.kind]))
        found.append(tuple(own))
    return AnswerSet(found[0], found[1], ("sampled answers", "greedy answers"), PEOPLE)


def answers_of_truthfulqa(lm: "LM", n: int, seed: int, tick: Tick = ignore) -> AnswerSet:
    """Return about `n` reference answers of TruthfulQA, and a model's own answers to other questions of it."""
    rows, given = set_rows("truthfulqa-training"), list[LabelledAnswer]()
    for at in np.random.default_rng(seed).permutation(len(rows))[: -(-n // 2)].tolist():
        for name, wrong in (("correct_answer", False), ("incorrect_answer", True)):
            prompt = dialogue(lm, [Turn("user", rows[at]["question"])])
            said = rows[at][name] if prompt[-1:].isspace() else f" {rows[at][name]}"
            ids, answer = split(lm.tokenizer, prompt, said)
            kind = str(rows[at]["category"])
            given.append(LabelledAnswer(ids, answer, stating(lm, answer), wrong, f"question {at + 1}", kind))
    asked, own = set_rows("truthfulqa"), list[LabelledAnswer]()
    prompts = [encode(lm.tokenizer, dialogue(lm, [Turn("user", row["question"])])) for row in asked]
    for at, ids in enumerate(write(lm, prompts, WRITTEN[1], 0.0, seed, tick)):
        text = str(lm.tokenizer.decode(ids, skip_special_tokens=True))
        lead = nearness(text, asked[at]["correct_answers"]) - nearness(text, asked[at]["incorrect_answers"])
        if lead:
            labelled, kind = stating(lm, ids), str(asked[at]["category"])
            own.append(LabelledAnswer(prompts[at], ids, labelled, lead < 0, f"other question {at + 1}", kind))
    return AnswerSet(tuple(given), tuple(own), (REFERENCES, "own answers"), "questions")


def read_answers(lm: "LM", path: Path, n: int, seed: int) -> AnswerSet:
    """Read answers of one's own: `prompt`, `completion`, `label`, and optionally `span` and `group`.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """

    def answer(row: Row) -> LabelledAnswer:
        values = check_columns(row, FORM).values
        label = str(values["label"]).strip().lower()
        if label not in RIGHT + WRONG:
            raise DataError(
                f"{row.where} has the label {label[:40]!r}: give true for a right answer, false for a wrong one."
            )
        said = values["completion"]
        text = said if isinstance(said, str) else str(said[-1]["content"])
        prompt = lm.prompt_text(values["prompt"])
        ids, own = split(lm.tokenizer, prompt, text)
        inside, span = range(len(own)), values.get("span")
        if span is not None:
            start = text.find(span) if isinstance(span, str) and span.strip() else -1
            if start < 0:
                raise DataError(f"{row.where} has a `span` that is no part of its completion: copy it from there.")
            first, end = (len(split(lm.tokenizer, prompt, text[:at])[1]) for at in (start, start + len(span)))
            inside = range(first, max(end, first + 1))
        labelled = [at for at in stating(lm, own) if at in inside]
        if not labelled:
            raise DataError(f"{row.where} has no word to label: give a completion with words.")
        return LabelledAnswer(ids, own, labelled, label in WRONG, str(values.get("group", row.label)), "")

    form = "one JSON object a line with `prompt`, `completion` and `label` (true or false)"
    found = tuple(read_rows(path, answer, False, form, Selection(n, seed)))
    return AnswerSet(found, (), ("given answers", ""), "groups")


def labelled_answers(
    lm: "LM", labels: "Path | Sequence[LabelledAnswer] | None", n: int, seed: int, tick: Tick = ignore
) -> AnswerSet:
    """Return the labelled answers of a file; without one, of the model's world or of TruthfulQA.

    Raises:
        DataError: the file cannot be read; the model does not know the words of TruthfulQA.
    """
    if isinstance(labels, Path):
        return read_answers(lm, labels, n, seed)
    if labels is not None:
        return AnswerSet(tuple(labels), (), ("given answers", ""), "groups")
    world = probe.world.of(lm)
    return answers_of_truthfulqa(lm, n, seed, tick) if world is None else answers_of_world(lm, world, n, seed, tick)


def write(
    lm: "LM", prompts: Sequence[list[int]], longest: int, temperature: float, seed: int, tick: Tick = ignore
) -> list[list[int]]:
    """Return the ids of the answers that a model writes to prompts."""
    found = list[list[int]]()
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        found += lm.generate(part, max_new_tokens=longest, temperature=temperature, seed=seed).ids
        tick(min(1.0, (start + AT_ONCE) / len(prompts)))
    return found


def stating(lm: "LM", ids: Sequence[int]) -> list[int]:
    """Return the indices of the tokens that can have a label: the values of a world, otherwise words and numbers."""
    world, special = probe.world.of(lm), set(lm.tokenizer.all_special_ids)
    values = None if world is None else {value for relation in TAUGHT for value in world.values(relation)}
    return [
        at
        for at, (token, piece) in enumerate(zip(ids, pieces(lm.tokenizer, ids), strict=True))
        if token not in special and (any(map(str.isalnum, piece)) if values is None else piece.strip() in values)
    ]


def nearness(text: str, references: Sequence[str]) -> float:
    """Return the largest ROUGE-1 of a text and its references: F1 of their words, counted as often as they occur."""
    words = _words(text)
    return max((_overlap(words, _words(each)) for each in references), default=0.0)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z0-9]+", text.lower()))


def _overlap(one: Counter[str], two: Counter[str]) -> float:
    return 2 * (one & two).total() / max(1, one.total() + two.total())
