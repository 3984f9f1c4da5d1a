"""Log of an evaluation: the items that one model answered, each with its scores, as any harness wrote them."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from probe.errors import DataError, brief
from probe.model.messages import Message

LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
"""Values of Inspect's letters: correct, partly correct, incorrect, no answer."""
WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Values of words, in any case, as Inspect's `value_to_float` converts them."""
MOST_SCORES = 100
"""Largest number of scores of an item."""
LONGEST = 100
"""Largest number of characters of a score's name."""
TEXT = 200_000
"""Largest number of characters of a prompt, an answer or an expected answer that are kept."""


@dataclass(frozen=True)
class LogItem:
    """An item of a log: one answer of the model to one question."""

    id: str
    """Identifier of the question; equal identifiers in two logs of one task are the same question."""
    scores: Mapping[str, float]
    """Finite scores by name."""
    epoch: int = 1
    """Number of the repetition of the question, from 1."""
    question: str = ""
    """Hash of the question and of its right answer, independent of system messages and templates; empty if unknown."""
    prompt: str | None = None
    """Text that the model read, as a dialogue; None if it was not logged."""
    answer: str | None = None
    """Text that the model wrote; None if it was not logged."""
    expected: str | None = None
    """Right answer; None if it is not known."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Metadata by name."""


@dataclass(frozen=True)
class Log:
    """Items that one model answered in one evaluation."""

    path: Path
    """File or folder that was read."""
    items: Sequence[LogItem]
    """Items in the order of the log, each with at least one score; no two have equal `id` and `epoch`."""
    model: str = ""
    """Name of the model; empty if the log does not say it."""
    task: str = ""
    """Name of the task; empty if the log does not say it."""
    notes: tuple[str, ...] = ()
    """One sentence on each thing that is left out."""

    @property
    def scores(self) -> list[str]:
        """Names of the scores, in their order in the log."""
        return list(dict.fromkeys(name for item in self.items for name in item.scores))

    @property
    def fields(self) -> list[str]:
        """Names of the metadata, in their order in the log."""
        return list(dict.fromkeys(str(name) for item in self.items for name in item.fields))


def score_value(value: Any) -> float | None:
    """Convert a logged score to a number; None for one that is no finite number, letter or word.

    Numbers, booleans, Inspect's letters C, P, I and N, the words yes, no, true and false, and numbers as text are
    converted as by Inspect's `value_to_float`. Texts without a number are None and not 0: such an item was not scored.
    """
    if isinstance(value, str):
        value = LETTERS.get(value, WORDS.get(value.strip().lower(), value))
    try:
        number = float(value) if isinstance(value, bool | int | float | str) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def flat_scores(named: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Return the scores with a finite value by name; each value of an object becomes a score `NAME/KEY`."""
    found: dict[str, float] = {}
    for name, value in named:
        parts = [(f"{name}/{key}", each) for key, each in value.items()] if isinstance(value, dict) else [(name, value)]
        for key, each in parts:
            number = score_value(each)
            if number is not None and len(found) < MOST_SCORES:
                found[brief(str(key), LONGEST)] = number
    return found


def question_hash(*parts: Any) -> str:
    """Return a hash of the parts of a question, which are JSON values; empty if all are empty."""
    if not any(parts):
        return ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def dialogue_text(messages: Sequence[Message]) -> str:
    """Return messages as one text with the markers of ChatML; a single message of a user is its bare text."""
    if [each.role for each in messages] in ([], ["user"]):
        return "".join(each.text for each in messages)[:TEXT]
    return "\n".join(f"<|im_start|>{each.role}\n{each.text}<|im_end|>" for each in messages)[:TEXT]


def make_log(path: Path, items: Iterable[LogItem], model: str = "", task: str = "", notes: Sequence[str] = ()) -> Log:
    """Return the log of some items, without those that have no score; later items replace equal earlier ones.

    Raises:
        DataError: no item has a score.
    """
    every = {(item.id, item.epoch): item for item in items}
    scored = [item for item in every.values() if item.scores]
    if not scored:
        raise DataError(f"No item of `{path}` has a score that is a number: give a log of a task that was scored.")
    missing = len(every) - len(scored)
    more = [f"{missing:,} of {len(every):,} items of `{path}` have no score and are left out."] if missing else []
    return Log(path, scored, model, task, (*notes, *more))
