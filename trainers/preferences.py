r"""Preference pairs as token ids: from the world's annotators, or from a file with prompt, chosen and rejected.

A missing prompt is the common beginning of chosen and rejected: for strings up to the last
"\n\nAssistant:" (hh-rlhf), for messages up to the first that differs. Strings and messages may be mixed, as in TRL's
conversational formats: a prompt that is a string is then a message of the user, and a completion one of the assistant.
If completions repeat the messages of the prompt, these are removed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import probe.world
from probe import LM
from probe.errors import ConfigError, DataError
from probe.model.text import chat_text, context_length, split
from probe.rows import (
    Row,
    Rows,
    as_messages,
    check_columns,
    is_completion,
    is_text_or_messages,
    list_forms,
    read_rows,
)
from probe.runs import ProbePrompt
from probe.world import Annotator, World
from probe.world.extensions import annotator_fingerprint, find_annotator
from trainers.config import PreferenceConfig
from trainers.record import AnsweredPrompt, answered_prompts, file_hash
from trainers.session import Session

COMPLETIONS = {"chosen": is_completion, "rejected": is_completion}
COLUMNS = {"prompt": is_text_or_messages, **COMPLETIONS}
TURN = "\n\nAssistant:"
"""Marker before an answer in hh-rlhf."""
SAMPLE_TOKENS = 8
"""Largest number of tokens of a sampled answer: "i do not know" and its end token."""
PROMPTS_SEEN = 50


@dataclass(frozen=True)
class Preference:
    """A prompt with the chosen and the rejected completion."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    ref_chosen: float = 0.0
    """log pi_ref of the chosen completion in nats, summed over its tokens."""
    ref_rejected: float = 0.0
    """log pi_ref of the rejected completion in nats, summed over its tokens."""
    margin: float | None = None
    """Margin between the completions, if the data have a column `margin`."""
    texts: tuple[str, str, str] | None = field(default=None, compare=False)
    """Prompt, chosen and rejected completion as text, without the end token."""

    @property
    def tokens(self) -> int:
        """Number of real tokens: the prompt once, and both completions."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Number of tokens of the prompt with the longer completion."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Preferences:
    """Pairs that fit into the model's context, with a description of the data."""

    pairs: list[Preference]
    data: dict[str, Any]
    """Description of the data for run.json."""
    prompts: Sequence[Any]
    """Prompts to capture on."""
    longest: int = SAMPLE_TOKENS
    """Number of tokens of the longest completion."""


def read_preferences(config: PreferenceConfig) -> Rows[Row] | None:
    """Read the file of pairs before a model is loaded; return None for the world's pairs.

    Raises:
        DataError: the file cannot be used; see `probe.rows`.
    """
    if config.data == "world":
        return None
    form = f"one JSON object a line with the columns {list_forms((COLUMNS, COMPLETIONS))}"
    return read_rows(Path(config.data), _check_pair, config.strict, form).each(with_prompt)


def _check_pair(row: Row) -> Row:
    """Return the row if it has the columns of a pair; for a row in KTO's format, the error gives the remedy."""
    if {"completion", "label"} <= set(row.values) and not COMPLETIONS.keys() & row.values.keys():
        raise DataError(
            f"{row.where} has a completion with a label (KTO's form), which is no pair: pair each completion"
            " labelled true with one labelled false of the same prompt, as `chosen` and `rejected`"
            " (docs/methods/dpo.md has the lines)."
        )
    return check_columns(row, COLUMNS, COMPLETIONS)


def load_preferences(
    session: Session, config: PreferenceConfig, lm: LM, rows: Rows[Row] | None
) -> tuple[World | None, Preferences]:
    """Load the world of the base, if it has one, and the pairs that the options ask for.

    Raises:
        ConfigError: the data are the world's, and the base has no world.
        DataError: no pair of the file can be used.
    """
    world = probe.world.of(lm)
    if rows is not None:
        return world, file_preferences(lm, rows, session.say)
    if world is None:
        raise ConfigError(
            f"--base {config.base} belongs to no world, so the world's annotators cannot judge it: give --data"
            " FILE.jsonl with prompt, chosen and rejected, or a base that was pretrained on the world."
        )
    annotator = find_annotator(config.annotator)
    from_samples = config.pairs_from == "samples"
    preferences = world_preferences(lm, world, annotator, config.pairs, config.seed, from_samples)
    own = annotator_fingerprint(config.annotator)
    return world, replace(preferences, data=preferences.data | {"annotator": own}) if own else preferences


def world_preferences(lm: LM, world: World, annotator: Annotator, n: int, seed: int, sampled: bool) -> Preferences:
    """Make `n` pairs labelled by the annotator: of samples of the model, or of the world's candidate answers."""

    def sample(prompts: list[str], k: int) -> list[list[str]]:
        texts: list[str] = []
        for start in range(0, len(prompts), 256):
            part = prompts[start : start + 256]
            texts += lm.generate(part, n=k, max_new_tokens=SAMPLE_TOKENS, seed=seed + start).text
        return [[f" {text.strip()}" for text in texts[i : i + k]] for i in range(0, len(texts), k)]

    rows = world.preferences(annotator, n, seed, sample if sampled else None)
    pairs = [encode_pair(lm, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    return Preferences(pairs, {"source": "world", "hash": world.hash, "rows": n}, world.probe_prompts())


def file_preferences(lm: LM, rows: Rows[Row], report: Callable[[str], None]) -> Preferences:
    """Encode the pairs of a file; pairs that are longer than the model's context are left out and counted, never cut.

    Args:
        lm: the model to train.
        rows: rows of `read_preferences`.
        report: function called with a message about pairs left out.

    Raises:
        DataError: no pair is left.
    """
    limit, path = context_length(lm.model), rows.path
    all_pairs = rows.each(lambda row: _row_pair(lm, row))
    for note in all_pairs.notes():
        report(note)
    pairs = [pair for pair in all_pairs if limit is None or pair.longest <= limit]
    overlong = len(all_pairs) - len(pairs)
    if not pairs:
        raise DataError(f"All {overlong} pairs in `{path}` are longer than the model's {limit} tokens: shorten them.")
    if overlong:
        report(f"{overlong} of {len(all_pairs)} pairs in `{path}` are longer than {limit} tokens and are left out.")
    data = {"source": str(path), "hash": file_hash(path), "rows": len(pairs), "overlong": overlong}
    longest = max(len(side) for pair in pairs for side in (pair.chosen, pair.rejected))
    return Preferences(pairs, data | {"left_out": len(all_pairs.left_out)}, pair_prompts(lm, pairs), longest)


def pair_prompts(lm: LM, pairs: Sequence[Preference]) -> list[ProbePrompt]:
    """Make prompts to capture on from the first pairs; the chosen and the rejected completion are the answers."""
    origin = "The answers are the chosen and the rejected completion of this prompt in the data."
    return answered_prompts(
        lm,
        (
            AnsweredPrompt(pair.prompt, {"chosen": pair.chosen, "rejected": pair.rejected}, origin)
            for pair in pairs[:PROMPTS_SEEN]
        ),
    )


def encode_pair(lm: LM, prompt: Any, chosen: Any, rejected: Any) -> Preference:
    """Encode a pair; text completions get the end token, conversations the chat template's ending."""
    text = lm.prompt_text(prompt)
    end = [] if lm.tokenizer.eos_token_id is None or not isinstance(chosen, str) else [lm.tokenizer.eos_token_id]
    texts = text, completion_text(lm, prompt, chosen), completion_text(lm, prompt, rejected)
    head, first = split(lm.tokenizer, text, texts[1])
    _, second = split(lm.tokenizer, text, texts[2])
    return Preference(head, first + end, second + end, texts=texts)


def completion_text(lm: LM, prompt: Any, completion: Any) -> str:
    """Return a completion as text; messages are formatted by the chat template as a continuation of the prompt.

    Raises:
        DataError: the template refuses the messages, or writes the prompt differently when an answer follows.
    """
    if isinstance(completion, str):
        return completion
    head = lm.prompt_text(prompt)
    whole = chat_text(lm.tokenizer, [*prompt, *completion])
    if not whole.startswith(head):
        raise DataError(
            "The chat template of this model writes a prompt differently once an answer follows, so the boundary"
            " between them cannot be found: give prompt and completions as text."
        )
    return whole[len(head) :]


def with_prompt(row: Row) -> Row:
    """Convert prompt, chosen and rejected of a row to one form: all strings, or all messages.

    Raises:
        DataError: there is no prompt, the completions are equal, or the margin is not a number.
    """
    chosen, rejected = row.values["chosen"], row.values["rejected"]
    prompt = row.values.get("prompt")
    if isinstance(prompt, list) or isinstance(chosen, list) or isinstance(rejected, list):
        prompt, chosen, rejected = _messages(prompt, chosen, rejected)
    elif prompt is None:
        prompt = common_prompt(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if not prompt:
        raise DataError(
            f"{row.where} has no `prompt`, and chosen and rejected do not begin alike up to an answer of the assistant:"
            " add the column `prompt`."
        )
    if chosen == rejected:
        raise DataError(f"{row.where} has equal chosen and rejected: remove it, since it teaches nothing.")
    values = {**row.values, "prompt": prompt, "chosen": chosen, "rejected": rejected}
    return row._replace(values=values | ({"margin": _margin(row)} if "margin" in values else {}))


def _margin(row: Row) -> float | None:
    """Return the number in the column `margin`, which is text in a CSV file; None if the cell is empty."""
    value = row.values["margin"]
    if value is None or value == "":
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{row.where} has the margin {value!r}: give a finite number, or leave the column out.")
    return number


def common_prompt(chosen: str, rejected: str) -> str:
    r"""Return the common beginning of two texts up to the last "\n\nAssistant:" in it; empty if there is none."""
    common = chosen[: _alike(chosen, rejected)]
    return common[: common.rfind(TURN) + len(TURN)] if TURN in common else ""


def _messages(prompt: Any, chosen: Any, rejected: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return prompt, chosen and rejected as messages; the prompt is empty if none is given and none is common."""
    turns = as_messages("user", prompt) if prompt else []
    sides = [as_messages("assistant", side) for side in (chosen, rejected)]
    common = sides[0][: min(_alike(*sides), *(len(side) - 1 for side in sides))]  # a completion is not empty
    if common and (prompt is None or common[-len(turns) :] == turns):  # also after a system message
        turns = common
    start = len(turns) if common == turns else 0
    return turns, sides[0][start:], sides[1][start:]


def _alike(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Count the characters or messages that two sequences share at the beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _row_pair(lm: LM, row: Row) -> Preference:
    margin = row.values.get("margin")
    try:
        pair = encode_pair(lm, *(row.values[name] for name in COLUMNS))
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    return pair if margin is None else replace(pair, margin=margin)
