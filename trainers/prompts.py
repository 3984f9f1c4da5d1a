"""Prompts that online methods answer: questions of the world, or JSON lines with a prompt and any other columns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe import LM
from probe.errors import ConfigError, DataError
from probe.forward import context_length
from probe.tokens import encode
from probe.world import World
from trainers.data import capture_prompts, file_hash, is_text_or_messages, read_jsonl

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


def file_prompts(lm: LM, path: Path, max_new_tokens: int, report: Callable[[str], None]) -> Prompts:
    """The prompts of a JSONL file; one without room for `max_new_tokens` in the context is left out and counted.

    Raises:
        DataError: a line is wrong (the message names it), a column has a reserved name, or no prompt is left.
    """
    limit = context_length(lm.model)
    rows = list(read_jsonl(path, {"prompt": is_text_or_messages}))
    names = list(dict.fromkeys(name for row in rows for name in row.values if name != "prompt"))
    taken = [name for name in names if name in RESERVED]
    if taken:
        raise DataError(f"`{path}` has a column `{taken[0]}`, which reward functions get from the run: rename it.")
    texts = [lm.prompt_text(row.values["prompt"]) for row in rows]
    items = [
        Prompt(text, encode(lm.tokenizer, text), {name: row.values.get(name) for name in names})
        for row, text in zip(rows, texts, strict=True)
    ]
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
    return Prompts(kept, data, capture_prompts(lm.tokenizer, texts))


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
