"""Prompts of a training that samples: the world's questions, or rows of a file, some of them held out.

Each prompt has the other columns of its row, which rewards get.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import probe.world
from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.text import context_length, encode
from probe.rows import Columns, Row, Rows, is_answer, is_text, is_text_or_messages, read_columns
from probe.world import World
from trainers.config import FINAL_ANSWER, OnlineConfig
from trainers.record import file_hash, held_out_data
from trainers.reward_functions import check_files
from trainers.session import Session, derive_seed

ASKING = 3
"""Purpose of derived seeds (see `trainers.sampling`)."""
RESERVED = ("prompts", "completions", "prompt_ids", "completion_ids")
"""Names of the arguments of reward functions in addition to the columns of the data."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with the other columns of its row."""

    text: str
    ids: list[int]
    columns: dict[str, Any]
    """Other columns of its row; a reward function gets each as a list."""


def columns_of(prompts: Sequence[Prompt], ids: Sequence[Sequence[int]]) -> dict[str, list[Any]]:
    """Return what rewards get beside the texts: each column of the prompts as a list, and token ids.

    Args:
        prompts: prompt of each completion.
        ids: tokens of each completion.
    """
    columns = {name: [prompt.columns[name] for prompt in prompts] for name in prompts[0].columns}
    return columns | {"prompt_ids": [prompt.ids for prompt in prompts], "completion_ids": list(ids)}


@dataclass(frozen=True)
class Prompts:
    """Prompts of a run; all have the same columns."""

    items: list[Prompt]
    data: dict[str, Any]
    """Description of the prompts for run.json."""
    capture: Sequence[Any]
    """Prompts to capture on; empty if `best_and_worst` chooses them."""
    held_out: Sequence[Prompt] = ()
    """Prompts of the file that are not trained on."""


def hold_out(prompts: Sequence[Prompt], n: int, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Split prompts into those to train on and `n` held-out ones, each different from all others.

    Raises:
        ConfigError: nothing would be left to train on.
    """
    texts = list(dict.fromkeys(each.text for each in prompts))
    if n >= len(texts):
        raise ConfigError(f"--held-out {n} leaves none of {len(texts)} prompts to train on: hold out fewer.")
    picks = {texts[i] for i in np.random.default_rng([seed, len(texts)]).permutation(len(texts))[:n]}
    held = {each.text: each for each in prompts if each.text in picks}
    return [each for each in prompts if each.text not in picks], list(held.values())


def world_prompts(lm: LM, world: World, kinds: Sequence[str], n: int, seed: int) -> Prompts:
    """Draw `n` questions of the world in equal numbers of each kind, with the columns kind, answers and claim.

    Raises:
        DataError: the world has no questions of a kind.
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
    """Read a file of prompts before a model is loaded; a column `question` serves as `prompt` (GSM8K).

    Args:
        path: file of prompts.
        strict: refuse a file with unusable rows, which are skipped otherwise.
        answers: whether each row must have an `answer`.

    Raises:
        DataError: the file cannot be used (see `probe.rows`), or a column has a reserved name.
    """
    extra: Columns = {"answer": is_answer} if answers else {}
    forms = {"prompt": is_text_or_messages, **extra}, {"question": is_text, **extra}
    rows = read_columns(path, *forms, strict=strict)
    clash = next((name for row in rows for name in row.values if name in RESERVED), None)
    if clash:
        raise DataError(f"`{path}` has a column `{clash}`, which reward functions get from the run: rename it.")
    return rows


def file_prompts(lm: LM, rows: Rows[Row], max_new_tokens: int, report: Callable[[str], None]) -> Prompts:
    """Encode the prompts of a file; one without room for `max_new_tokens` in the context is left out and counted.

    Args:
        lm: the model to train.
        rows: rows of `read_prompts`.
        max_new_tokens: largest number of tokens of an answer.
        report: function called with a message about prompts left out.

    Raises:
        DataError: no prompt is left.
    """
    limit, path = context_length(lm.model), rows.path
    names = list(dict.fromkeys(name for row in rows for name in row.values if name != "prompt"))
    items = rows.each(lambda row: _prompt(lm, row, names))
    for note in items.notes():
        report(note)
    prompts = [item for item in items if item.ids and (limit is None or len(item.ids) + max_new_tokens <= limit)]
    overlong = len(items) - len(prompts)
    if not prompts:
        raise DataError(
            f"No prompt in `{path}` leaves room for {max_new_tokens} tokens in the model's {limit}: shorten them, or"
            " give a smaller --max-new-tokens."
        )
    if overlong:
        report(f"{overlong} of {len(items)} prompts in `{path}` leave no room for {max_new_tokens} tokens: left out.")
    data = {"source": str(path), "hash": file_hash(path), "rows": len(prompts), "overlong": overlong}
    return Prompts(prompts, data | {"left_out": len(items.left_out)}, ())


def _prompt(lm: LM, row: Row, names: Sequence[str]) -> Prompt:
    """Encode the prompt of a row, with the other columns of the file.

    Raises:
        DataError: its messages cannot be formatted, or it has unknown words; the message names the line.
    """
    try:
        text = lm.prompt_text(row.values["prompt"] if "prompt" in row.values else row.values["question"])
        ids = encode(lm.tokenizer, text)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    return Prompt(text, ids, {name: row.values.get(name) for name in names})


def need_world(world: World | None, base: str) -> World:
    """Return the world whose questions are used; refuse a base without a world.

    Raises:
        ConfigError: the base belongs to no world.
    """
    if world is None:
        raise ConfigError(
            f"--base {base} belongs to no world, so there are no questions to ask it: give --data FILE.jsonl with the"
            " column `prompt`, or a base that was pretrained on the world."
        )
    return world


def prompt_rows(config: OnlineConfig) -> Rows[Row] | None:
    """Read the file of prompts before a model is loaded; return None for the world's questions.

    Raises:
        ConfigError: the file of a reward function is missing.
        DataError: see `trainers.prompts.read_prompts`.
    """
    check_files(config.reward)
    if config.data == "world":
        return None
    return read_prompts(Path(config.data), config.strict, FINAL_ANSWER in config.reward)


def load_prompts(
    session: Session, config: OnlineConfig, lm: LM, rows: Rows[Row] | None
) -> tuple[World | None, Prompts]:
    """Load the world of the base, if it has one, and the prompts that the options ask for.

    Raises:
        ConfigError: the data are the world's, and the base has no world; or all prompts are held out.
        DataError: see `trainers.sampling`.
    """
    world = probe.world.of(lm)
    if rows is not None:
        prompts = file_prompts(lm, rows, config.max_new_tokens, session.say)
        if not config.held_out:
            return world, prompts
        items, held = hold_out(prompts.items, config.held_out, config.seed)
        counts = held_out_data(lm, (each.ids for each in items), [each.ids for each in held])
        return world, replace(prompts, items=items, data=prompts.data | {"rows": len(items)} | counts, held_out=held)
    seed = derive_seed(config.seed, ASKING)
    return world, world_prompts(lm, need_world(world, config.base), config.tasks, config.prompts, seed)
