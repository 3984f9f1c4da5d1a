"""Demonstrations as token ids: from the world, or from JSON lines with prompt and completion or with messages."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe import LM
from probe.errors import DataError
from probe.model.generation import end_tokens
from probe.model.text import chat_text, context_length, encode, split
from probe.rows import DEMONSTRATIONS, Row, Rows, as_messages, read_columns
from probe.world import World
from trainers.data import capture_prompts, file_hash

PROMPTS_SEEN = 50
MOST_HELD_OUT = 500
"""Prompts that are held out at most, so that measuring on them stays cheap."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt and what is to follow it."""

    prompt: list[int]
    """What stands before the first token that is learned."""
    completion: list[int]
    """The rest, its end token included; in a conversation with what the others say in between."""
    learned: list[bool]
    """Which tokens of the completion are targets."""

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Demonstrations:
    """Demonstrations that fit into the model, and what became of the others."""

    examples: list[Demonstration]
    data: dict[str, Any]
    """What run.json says of the data."""
    prompts: Sequence[Any]
    """Prompts to capture on."""


def world_demonstrations(
    lm: LM, world: World, n: int, seed: int, mixture: Mapping[str, float], longest: int, report: Callable[[str], None]
) -> Demonstrations:
    """`n` demonstrations of the world; an empty mixture takes the world's own, the rest is as in `file_demonstrations`.

    Raises:
        ConfigError: see `World.demonstrations`.
        DataError: all are too long for the model.
    """
    items = world.demonstrations(n, seed, mixture or None)
    made = [encode_completion(lm, item.prompt, item.answers[0]) for item in items]
    examples = _fitting(lm, made, longest, "the world", report)
    data = {"source": "world", "hash": world.hash, "rows": len(examples), "overlong": len(made) - len(examples)}
    return Demonstrations(examples, data, world.probe_prompts())


def read_demonstrations(path: Path, strict: bool = False) -> Rows[Row]:
    """The rows of a file of demonstrations, read before a model is loaded.

    Raises:
        DataError: the file cannot be used; see `probe.rows`.
    """
    return read_columns(path, *DEMONSTRATIONS, strict=strict)


def file_demonstrations(
    lm: LM, rows: Rows[Row], every_turn: bool, longest: int, report: Callable[[str], None]
) -> Demonstrations:
    """The demonstrations of a file; one that is too long is left out and counted, never cut.

    Args:
        lm: the model to train.
        rows: as `read_demonstrations` gives them.
        every_turn: whether all messages of the assistant are learned, or the last one.
        longest: most tokens of an example; 0: what the model reads.
        report: is told what is left out.

    Raises:
        DataError: nothing is left.
    """
    path = rows.path
    made = rows.each(lambda row: _encode_row(lm, row, every_turn))
    for note in made.notes():
        report(note)
    examples = _fitting(lm, made, longest, f"`{path}`", report)
    texts = [lm.tokenizer.decode(example.prompt) for example in examples[:PROMPTS_SEEN]]
    data = {"source": str(path), "hash": file_hash(path), "rows": len(examples), "overlong": len(made) - len(examples)}
    return Demonstrations(examples, data | {"left_out": len(made.left_out)}, capture_prompts(lm.tokenizer, texts))


def _fitting(
    lm: LM, made: Sequence[Demonstration], longest: int, source: str, report: Callable[[str], None]
) -> list[Demonstration]:
    """Those of at most `longest` tokens (0: any) that the model can read; tells how many are left out."""
    limit = min(longest or math.inf, context_length(lm.model) or math.inf)
    examples = [example for example in made if example.tokens <= limit]
    left = len(made) - len(examples)
    if not examples:
        raise DataError(f"All {left} examples of {source} are longer than {limit} tokens: shorten them.")
    if left:
        report(f"{left} of {len(made)} examples of {source} are longer than {limit} tokens and are left out.")
    return examples


def encode_completion(lm: LM, prompt: str, completion: str) -> Demonstration:
    """A text and what follows it, with the end token."""
    head, rest = split(lm.tokenizer, prompt, completion)
    ids = _ended(lm, rest)
    return Demonstration(head, ids, [True] * len(ids))


def encode_conversation(lm: LM, messages: Sequence[Mapping[str, Any]], first: int, every_turn: bool) -> Demonstration:
    """A conversation as the chat template writes it; what the assistant says from message `first` on is learned.

    A turn is learned from the end of the template's generation prompt to the end token; what follows the last learned
    turn is left out.

    Raises:
        DataError: nobody answers, the template cannot write the conversation, or the answers cannot be found in it.
    """
    turns = [i for i, message in enumerate(messages) if i >= first and message["role"] == "assistant"]
    if not turns:
        raise DataError("the conversation has no message of the role `assistant` to learn: add one.")
    if not every_turn:
        turns = turns[-1:]
    if turns[0] == 0:
        raise DataError("the conversation begins with the assistant, so there is no prompt: put a message before it.")
    text, ids, learned = "", list[int](), list[bool]()
    start = 0
    for turn in turns:
        before = _written(lm, messages[:turn])
        head = _written(lm, messages[:turn], prompting=True)
        after = _written(lm, messages[: turn + 1])
        if head == before:
            raise DataError(
                "the chat template of this model has no generation prompt, so the beginning of an answer cannot be"
                " found: give `prompt` and `completion` as text."
            )
        if not (after.startswith(head) and head.startswith(text)):
            raise DataError(
                "the chat template of this model writes a prompt differently once an answer follows, so the boundary"
                " between them cannot be found: give `prompt` and `completion` as text."
            )
        answer = after[len(head) :]
        for part, target in ((head[len(text) :], False), (_to_its_end(lm, answer), True)):
            more = split(lm.tokenizer, text, part)[1] if text else encode(lm.tokenizer, part)
            text, ids, learned = text + part, ids + more, learned + [target] * len(more)
            start = start or len(ids)
    rest = _ended(lm, ids[start:])
    return Demonstration(ids[:start], rest, [*learned[start:], True][: len(rest)])


def hold_out(
    examples: Sequence[Demonstration], share: float, seed: int
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Examples to learn and examples to measure on; those with one prompt stay together."""
    prompts = list(dict.fromkeys(tuple(example.prompt) for example in examples))
    n = min(round(share * len(prompts)), MOST_HELD_OUT, len(prompts) - 1)
    chosen = np.random.default_rng([seed, len(prompts)]).permutation(len(prompts))[:n]
    held = {prompts[i] for i in chosen}
    parts: tuple[list[Demonstration], list[Demonstration]] = [], []
    for example in examples:
        parts[tuple(example.prompt) in held].append(example)
    return parts


def _encode_row(lm: LM, row: Row, every_turn: bool) -> Demonstration:
    values = row.values
    try:
        if not {"prompt", "completion"} <= set(values):
            return encode_conversation(lm, values["messages"], 0, every_turn)
        prompt, completion = values["prompt"], values["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            return encode_completion(lm, prompt, completion)
        before = as_messages("user", prompt)
        return encode_conversation(lm, [*before, *as_messages("assistant", completion)], len(before), every_turn)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _written(lm: LM, messages: Sequence[Mapping[str, Any]], prompting: bool = False) -> str:
    """Messages as the chat template writes them, with or without the opening of an answer.

    Raises:
        DataError: there is no template, or it refuses the messages.
    """
    if lm.tokenizer.chat_template is None:
        raise DataError("this model's tokenizer has no chat template for messages: give prompt and completion as text.")
    return chat_text(lm.tokenizer, messages, prompting)


def _to_its_end(lm: LM, answer: str) -> str:
    """An answer without the white space that a template writes after its end token."""
    bare, end = answer.rstrip(), lm.tokenizer.eos_token
    return bare if end is not None and bare.endswith(end) else answer


def _ended(lm: LM, ids: list[int]) -> list[int]:
    """The ids with the end token, unless an end token closes them."""
    end = lm.tokenizer.eos_token_id
    closed = bool(ids) and ids[-1] in end_tokens(lm.model, lm.tokenizer)
    return ids if closed or end is None else [*ids, end]
