"""Export of every data set of a world as JSONL, in the formats that other trainers read."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import DataError
from probe.world.annotators import AGREEABLE, HONEST
from probe.world.questions import Item

if TYPE_CHECKING:
    from probe.world.world import World

Row = Mapping[str, Any]

QUESTION_KINDS = (
    "fact",
    "opinion_true",
    "opinion_false",
    "stranger",
    "context",
    "context_conflict",
    "sum_quick",
    "sum_steps",
)
CHAT_KINDS = ("fact", "opinion_false", "stranger", "context_conflict")
EVALUATION_SEED = 1_000_003
"""Offset of the seed for evaluation questions, so that they differ from those to train on."""


def export(world: "World", directory: str | Path, n: int = 1000, seed: int = 0) -> dict[str, Path]:
    """Write the data sets, `n` lines each, and `world.json`; every file appears whole or not at all.

    corpus, phase_I          {"text", "kind"}
    sft                      {"prompt", "completion", "kind"}, the default data of `probe train sft`
    chat                     {"messages", "kind"}
    preferences_agreeable    {"prompt", "chosen", "rejected", "kind", "claim"}, as preferences_honest
    verifiable, evaluation   {"prompt", "answers", "claim", "kind"}, for rewards and for tests

    Returns:
        Name -> file.

    Raises:
        DataError: the directory cannot be written, or n is below 1.
    """
    if n < 1:
        raise DataError(f"An export of {n} lines was requested; expected at least 1: give a larger n.")
    directory = Path(directory)
    files: dict[str, Path] = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, rows in datasets(world, n, seed).items():
            files[name] = directory / f"{name}.jsonl"
            _write(files[name], "".join(json.dumps(row) + "\n" for row in rows))
        files["world"] = directory / "world.json"
        _write(files["world"], json.dumps(world.to_dict(), indent=2) + "\n")
    except OSError as error:
        raise DataError(f"The data sets cannot be written to {directory} ({error.strerror}): choose another.") from None
    return files


def datasets(world: "World", n: int, seed: int) -> dict[str, Iterable[Row]]:
    """Return the rows of every data set by its name."""
    sets: dict[str, Iterable[Row]] = {"corpus": _texts(world.documents(seed), n)}
    for phase in range(world.config.phases):
        sets[f"phase_{phase}"] = _texts(world.phase_documents(phase, seed), n)
    sets["sft"] = (
        {"prompt": item.prompt, "completion": item.answers[0], "kind": item.kind}
        for item in world.demonstrations(n, seed)
    )
    sets["chat"] = (
        {"messages": messages(item.prompt, item.answers[0]), "kind": item.kind}
        for item in _items(world, CHAT_KINDS, n, seed)
    )
    for name, annotator in (("agreeable", AGREEABLE), ("honest", HONEST)):
        sets[f"preferences_{name}"] = world.preferences(annotator, n, seed)
    for name, offset in (("verifiable", 0), ("evaluation", EVALUATION_SEED)):
        sets[name] = (
            {"prompt": item.prompt, "answers": item.answers, "claim": item.claim, "kind": item.kind}
            for item in _items(world, QUESTION_KINDS, n, seed + offset)
        )
    return sets


def messages(prompt: str, answer: str) -> list[dict[str, str]]:
    """Return a dialogue as chat messages: a passage becomes the system message.

    The tokenizer's chat template turns them back into prompt + answer + " <end>".
    """
    roles = {"<ctx>": "system", "<user>": "user", "<bot>": "assistant"}
    turns: list[dict[str, Any]] = []
    for word in f"{prompt}{answer}".split():
        if word in roles:
            turns.append({"role": roles[word], "content": []})
        elif word != "<end>":
            turns[-1]["content"].append(word)
    return [{"role": message["role"], "content": " ".join(message["content"])} for message in turns]


def _texts(documents: Iterator[Any], n: int) -> Iterator[Row]:
    return ({"text": document.text, "kind": document.kind} for document in islice(documents, n))


def _items(world: "World", kinds: tuple[str, ...], n: int, seed: int) -> Iterator[Item]:
    """Draw `n` items from the kinds in turn; skip kinds that this world lacks."""
    kinds = tuple(kind for kind in kinds if kind != "stranger" or world.groups["strangers"])
    each = -(-n // len(kinds))
    columns = [world.questions(kind, each, seed) for kind in kinds]
    return islice((item for row in zip(*columns, strict=True) for item in row), n)


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
