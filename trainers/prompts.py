"""Prompts that online methods answer: questions of the world, or JSON lines with a prompt and any other columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.text import context_length, encode
from probe.rows import Columns, Row, Rows, is_answer, is_text, is_text_or_messages, read_columns
from probe.world import World
from trainers.data import capture_prompts, file_hash

RESERVED = ("prompts", "completions", "prompt_ids", "completion_ids")
"""What reward functions get beside the columns of the data."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with what else is known of it."""

    text: str
    ids: list[int]
    columns: dict[str, Any]
    """The other columns of its row; a reward function gets each as a list."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of a run; all have the same columns."""

    items: list[Prompt]
    data: dict[str, Any]
    """What run.json says of them."""
    capture: Sequence[Any]
    """Prompts to capture on."""


def world_prompts(lm: LM, world: World, kinds: Sequence[str], n: int, seed: int) -> Prompts:
    """`n` questions of the world, as many of each kind, with the columns kind, answers and claim.

    Raises:
        DataError: the world has no questions of such a kind.
    """
    items = []
    for number, kind in enumerate(kinds):
        share = n // len(kinds) + (number < n % len(kinds))
        for item in world.questions(kind, share, seed) if share else []:
            columns = {"kind": item.kind, "answers": list(item.answers), "claim": item.claim}
            items.append(Prompt(item.prompt, encode(lm.tokenizer, item.prompt), columns))
    data = {"source": "world", "hash": world.hash, "rows": len(items), "kinds": list(kinds)}
    return Prompts(items, data, world.probe_prompts())


def read_prompts(path: Path, strict: bool = False, answers: bool = False) -> Rows[Row]:
    """The rows of a file of prompts, read before a model is loaded; a `question` stands for a `prompt` (GSM8K).

    Args:
        path: the file.
        strict: refuse it where a row cannot be used, which is left out otherwise.
        answers: whether each row needs an `answer`.

    Raises:
        DataError: the file cannot be used (see `probe.rows`), or a column has a reserved name.
    """
    needed: Columns = {"answer": is_answer} if answers else {}
    forms = {"prompt": is_text_or_messages, **needed}, {"question": is_text, **needed}
    rows = read_columns(path, *forms, strict=strict)
    taken = next((name for row in rows for name in row.values if name in RESERVED), None)
    if taken:
        raise DataError(f"`{path}` has a column `{taken}`, which reward functions get from the run: rename it.")
    return rows


def file_prompts(lm: LM, rows: Rows[Row], max_new_tokens: int, report: Callable[[str], None]) -> Prompts:
    """The prompts of a file; one without room for `max_new_tokens` in the context is left out and counted.

    Args:
        lm: the model to train.
        rows: as `read_prompts` gives them.
        max_new_tokens: of an answer.
        report: is told what is left out.

    Raises:
        DataError: no prompt is left.
    """
    limit, path = context_length(lm.model), rows.path
    names = list(dict.fromkeys(name for row in rows for name in row.values if name != "prompt"))
    items = rows.each(lambda row: _prompt(lm, row, names))
    for note in items.notes():
        report(note)
    kept = [item for item in items if item.ids and (limit is None or len(item.ids) + max_new_tokens <= limit)]
    left = len(items) - len(kept)
    if not kept:
        raise DataError(
            f"No prompt in `{path}` leaves room for {max_new_tokens} tokens in the model's {limit}: shorten them, or"
            " give a smaller --max-new-tokens."
        )
    if left:
        report(f"{left} of {len(items)} prompts in `{path}` leave no room for {max_new_tokens} tokens: left out.")
    data = {"source": str(path), "hash": file_hash(path), "rows": len(kept), "overlong": left}
    texts = [item.text for item in items]
    return Prompts(kept, data | {"left_out": len(items.left_out)}, capture_prompts(lm.tokenizer, texts))


def _prompt(lm: LM, row: Row, names: Sequence[str]) -> Prompt:
    """The prompt of a row, with the other columns of the file.

    Raises:
        DataError: its messages cannot be written, or it has unknown words; the message names the line.
    """
    try:
        text = lm.prompt_text(row.values["prompt"] if "prompt" in row.values else row.values["question"])
        ids = encode(lm.tokenizer, text)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    return Prompt(text, ids, {name: row.values.get(name) for name in names})


def need_world(world: World | None, base: str) -> World:
    """The world whose questions are asked.

    Raises:
        ConfigError: the base belongs to none.
    """
    if world is None:
        raise ConfigError(
            f"--base {base} belongs to no world, so there are no questions to ask it: give --data FILE.jsonl with the"
            " column `prompt`, or a base that was pretrained on the world."
        )
    return world
