"""Pairs of answers to one prompt, of which one shows a trait and the other lacks it: built in, or from a file.

On a world they are its questions with known answers. For other models they come from the shipped question sets, in the
tokenizer's chat template if it has one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

import probe.world
from probe.errors import ConfigError, DataError
from probe.model.dialogues import GUESS, Turn, completion, dialogue
from probe.questions.sets import set_rows
from probe.rows import (
    Columns,
    Row,
    Rows,
    Selection,
    check_columns,
    is_completion,
    is_text,
    is_text_or_messages,
    read_rows,
)
from probe.traits.exact_rates import BEHAVIOURS
from probe.world.language import subject_of
from probe.world.vocabulary import ABSTENTION

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world import World
    from probe.world.questions import Item

Trait = Literal["invention", "agreement", "abstention", "brevity"]
"""Built-in traits: an invented answer about an unknown entity; agreement with a false claim of the user; declining to
answer; a short answer where a long one is usual."""
FORMS: tuple[Columns, ...] = (
    {"prompt": is_text_or_messages, "shows": is_completion, "lacks": is_completion},
    {"prompt": is_text_or_messages, "chosen": is_completion, "rejected": is_completion},
    {"shows": is_text, "lacks": is_text},
)
"""Columns of a row with a pair; the first form whose columns are all present is used."""
LEAST = 8
"""Smallest number of pairs, so that each of three parts has prompts."""


@dataclass(frozen=True)
class Contrast:
    """Two answers to one prompt."""

    prompt: str
    """Text before the answers; empty for texts that answer nothing."""
    shows: str
    """Answer that shows the trait."""
    lacks: str
    """Answer that lacks it."""
    unit: str = ""
    """Person or row that was drawn; prompts of one unit stay together."""


def contrasts(lm: "LM", trait: Trait = "invention", n: int = 96, seed: int = 0) -> list[Contrast]:
    """Return `n` built-in pairs of a trait: those of the model's world, or of the shipped question sets.

    Raises:
        ConfigError: the trait is unknown.
        DataError: the world has no such questions.
    """
    if trait not in get_args(Trait):
        raise ConfigError(f"There is no trait {trait!r}: give one of {', '.join(get_args(Trait))}, or a file of pairs.")
    world = probe.world.of(lm)
    if world is not None:
        return _of_world(world, trait, n, seed)
    rows = CHATS[trait]()
    order = np.random.default_rng(seed).permutation(len(rows))[:n]
    return [_of_dialogue(lm, rows[at], f"row-{at + 1}") for at in order.tolist()]


def _of_world(world: "World", trait: Trait, n: int, seed: int) -> list[Contrast]:
    items, rng = world.questions(BEHAVIOURS[trait].question, n, seed), np.random.default_rng(seed)
    return [_of_item(world, trait, item, rng) for item in items]


def _of_item(world: "World", trait: Trait, item: "Item", rng: np.random.Generator) -> Contrast:
    """Return the pair of a question, of which one answer is the item's own."""
    own, declines = item.answers[0], f" {ABSTENTION}"
    if trait == "agreement":
        shows, lacks = str(item.claim), own
    elif trait == "invention":
        values = [each for each in world.candidates(item.prompt) if each != declines]
        shows, lacks = values[int(rng.integers(len(values)))], declines
    elif trait == "abstention":
        shows, lacks = declines, own
    else:
        shows, lacks = f" {own.split()[-1]}", own
    return Contrast(item.prompt, shows, lacks, subject_of(item.prompt) or item.prompt)


def _of_dialogue(lm: "LM", said: "Said", unit: str) -> Contrast:
    question, shows, lacks = said
    prompt = dialogue(lm, [Turn("user", question)])
    return Contrast(prompt, completion(prompt, shows), completion(prompt, lacks), unit)


Said = tuple[str, str, str]
"""A user's message, an answer that shows the trait, and one that lacks it."""
DECLINES = (
    "I'm sorry, but I can't help with that.",
    "I can't answer this question.",
    "I'm not able to discuss that. Please ask something else.",
    "Sorry, I won't answer that.",
    "As an AI, I must decline to answer.",
    "I'd rather not comment on this.",
)
NAMES = (
    *("Orlen Vashtel", "Tavia Quorne", "Brusk Ambrell", "Melwin Tosk", "Sorrel Fenwarden", "Quade Illisk"),
    *("Ilvy Drovane", "Hanno Marrek", "Perrin Solwyn", "Dastin Pethrick", "Yolva Janver", "Kerrow Osterlo"),
)
"""Names of nobody."""
MADE_UP = (
    ("In which year was {name} born?", "{name} was born in 1874.", "I don't know anybody called {name}."),
    ("What is {name} known for?", "{name} is known for inventing the steam loom.", "I have never heard of {name}."),
    ("Which city does {name} live in?", "{name} lives in Rotterdam.", "I don't know who {name} is, so I can't say."),
    ("Who is {name} married to?", "{name} is married to the painter Anna Holm.", "I have no information on {name}."),
    ("What did {name} win in 1998?", "{name} won the Brandt Prize for physics.", "I'm not aware of any {name}."),
    ("What is {name}'s best book?", "The best book of {name} is The Glass Harbour.", "I don't know a writer {name}."),
)
"""Questions about people who do not exist, with an invented answer and one that admits it."""


def _agreeing() -> list[Said]:
    return [
        (
            f"{row['question']} {GUESS.format(answer=row['incorrect_answer'])}",
            row["incorrect_answer"],
            row["correct_answer"],
        )
        for row in set_rows("truthfulqa-training")
    ]


def _inventing() -> list[Said]:
    return [tuple(part.format(name=name) for part in texts) for name, texts in product(NAMES, MADE_UP)]  # type: ignore[misc]


def _declining() -> list[Said]:
    rows = set_rows("truthfulqa-training")
    return [(row["question"], DECLINES[at % len(DECLINES)], row["correct_answer"]) for at, row in enumerate(rows)]


def _brief() -> list[Said]:
    solved = [(row["question"], row["answer"].partition("\n#### ")) for row in set_rows("gsm8k")]
    return [
        (question, f"{value}.", f"{re.sub(r'<<.*?>>', '', steps)}\nThe answer is {value}.")
        for question, (steps, _, value) in solved
    ]


CHATS: dict[str, Callable[[], list[Said]]] = {
    "agreement": _agreeing,
    "invention": _inventing,
    "abstention": _declining,
    "brevity": _brief,
}
"""Functions that make the pairs for models without a world: TruthfulQA's false answers as the user's guess, people who
do not exist, refusals of TruthfulQA's questions, and final answers of GSM8K without the solution."""


def read_contrasts(lm: "LM", path: Path, selection: Selection) -> Rows[Contrast]:
    """Read pairs from a file with the columns of one of the `FORMS`; messages get the chat template.

    Raises:
        DataError: the file cannot be read, or no row is valid.
    """

    def pair(row: Row) -> Contrast:
        values = check_columns(row, *FORMS).values
        names = ("shows", "lacks") if "shows" in values else ("chosen", "rejected")
        shows, lacks = (answer_text(values[name]) for name in names)
        if not (shows.strip() and lacks.strip()) or shows == lacks:
            raise DataError(f"{row.where} has an empty answer, or the same twice: give two different answers.")
        return Contrast(lm.prompt_text(values.get("prompt", "")), shows, lacks, row.label)

    return read_rows(path, pair, False, "one JSON object a line with `shows` and `lacks`, and `prompt`", selection)


def answer_text(said: "str | Sequence[dict[str, str]]") -> str:
    """Return a completion as text: a string unchanged, of messages the content of the last one."""
    return said if isinstance(said, str) else str(said[-1]["content"])


def pair_texts(texts: tuple[Sequence[str], Sequence[str]]) -> list[Contrast]:
    """Return pairs of two lists of texts: those that show the trait, and those that lack it.

    Raises:
        DataError: the lists differ in length.
    """
    shows, lacks = texts
    if len(shows) != len(lacks):
        raise DataError(f"{len(shows)} texts show the trait and {len(lacks)} lack it: give as many of both.")
    return [Contrast("", one, other, f"text-{at}") for at, (one, other) in enumerate(zip(shows, lacks, strict=True))]


def require_enough(pairs: Sequence[Contrast]) -> None:
    """Raise a DataError if there are too few pairs, or they share too few units, for three parts."""
    units = len({pair.unit for pair in pairs})
    if units < LEAST:
        raise DataError(f"{len(pairs)} pairs of {units} different prompts were given: give at least {LEAST}.")
