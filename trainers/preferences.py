"""Preference pairs as token ids: from the world's annotators, or from JSON lines with prompt, chosen and rejected."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import probe.world
from probe import LM
from probe.errors import ConfigError, DataError
from probe.extensions import annotator_fingerprint, annotators, find_annotator
from probe.forward import context_length
from probe.tokens import split
from probe.world import AGREEABLE, HONEST, Annotator, World
from trainers.config import TrainConfig
from trainers.data import Row, capture_prompts, file_hash, is_completion, is_text_or_messages, read_jsonl
from trainers.session import Session

ANNOTATORS = {"agreeable": AGREEABLE, "honest": HONEST}
COLUMNS = {"prompt": is_text_or_messages, "chosen": is_completion, "rejected": is_completion}
SAMPLE_TOKENS = 8
"""Longest answer that the base is asked for: "i do not know" and its end."""
PROMPTS_SEEN = 50


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TrainConfig):
    """What the methods share that learn from preference pairs."""

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a .jsonl file with the columns `prompt`, `chosen`, `rejected` (strings, or lists of messages)."""
    annotator: str = field(default="agreeable", metadata={"choices": annotators})
    """Who labels the world's pairs: agreeable, honest, or one that you added (`probe.annotator`, --plugin)."""
    pairs: int = 3000
    """Number of the world's pairs."""
    pairs_from: Literal["candidates", "samples"] = "samples"
    """Completions of the world's pairs: samples of the base, or the candidate answers (docs/log.md compares them)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        find_annotator(self.annotator)
        self.require(self.pairs >= 1, "pairs", "at least 1")
        self.require(self.data == "world" or self.data.endswith(".jsonl"), "data", "`world` or a .jsonl file")


@dataclass(frozen=True)
class Pair:
    """A prompt with the completion that was preferred and the one that was not."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    ref_chosen: float = 0.0
    """log pi_ref of the chosen completion in nats, summed over its tokens."""
    ref_rejected: float = 0.0
    """The same for the rejected one."""
    margin: float | None = None
    """By how much the chosen completion is better, where the data say so (the column `margin`)."""
    texts: tuple[str, str, str] | None = field(default=None, compare=False)
    """Prompt, chosen and rejected completion as text, without the end token."""

    @property
    def tokens(self) -> int:
        """Real tokens: the prompt once, and both completions."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longer completion."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Preferences:
    """Pairs that fit into the model, and what became of the others."""

    pairs: list[Pair]
    data: dict[str, Any]
    """What run.json says of the data."""
    prompts: Sequence[Any]
    """Prompts to capture on."""


def load_preferences(session: Session, config: PreferenceConfig, lm: LM) -> tuple[World | None, Preferences]:
    """The pairs that the options ask for, and the world of the base if it has one.

    Raises:
        ConfigError: the world's pairs were asked for and the base has no world.
        DataError: a file of pairs that cannot be used.
    """
    world = probe.world.of(lm)
    if config.data != "world":
        return world, file_preferences(lm, Path(config.data), session.say)
    if world is None:
        raise ConfigError(
            f"--base {config.base} belongs to no world, so the world's annotators cannot judge it: give --data"
            " FILE.jsonl with prompt, chosen and rejected, or a base that was pretrained on the world."
        )
    annotator = find_annotator(config.annotator)
    sampled = config.pairs_from == "samples"
    preferences = world_preferences(lm, world, annotator, config.pairs, config.seed, sampled)
    own = annotator_fingerprint(config.annotator)
    return world, replace(preferences, data=preferences.data | {"annotator": own}) if own else preferences


def world_preferences(lm: LM, world: World, annotator: Annotator, n: int, seed: int, sampled: bool) -> Preferences:
    """`n` pairs that the annotator labels: of the model's own samples, or of the world's candidate answers."""

    def sample(prompts: list[str], k: int) -> list[list[str]]:
        texts: list[str] = []
        for start in range(0, len(prompts), 256):
            part = prompts[start : start + 256]
            texts += lm.generate(part, n=k, max_new_tokens=SAMPLE_TOKENS, seed=seed + start).text
        return [[f" {text.strip()}" for text in texts[i : i + k]] for i in range(0, len(texts), k)]

    rows = world.preferences(annotator, n, seed, sample if sampled else None)
    pairs = [encode_pair(lm, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    return Preferences(pairs, {"source": "world", "hash": world.hash, "rows": n}, world.probe_prompts())


def file_preferences(lm: LM, path: Path, report: Callable[[str], None]) -> Preferences:
    """The pairs of a JSONL file. A pair that is longer than the model's context is left out and counted, never cut.

    Raises:
        DataError: a line is wrong (the message names it), or no pair is left.
    """
    limit = context_length(lm.model)
    pairs: list[Pair] = []
    texts: list[str] = []
    overlong = 0
    for row in read_jsonl(path, COLUMNS):
        pair = _row_pair(lm, path, row)
        if limit is not None and pair.longest > limit:
            overlong += 1
            continue
        pairs.append(pair)
        if len(texts) < PROMPTS_SEEN:
            texts.append(lm.prompt_text(row.values["prompt"]))
    if overlong:
        report(
            f"{overlong} of {overlong + len(pairs)} pairs in `{path}` are longer than {limit} tokens and are left out."
        )
    if not pairs:
        raise DataError(f"All {overlong} pairs in `{path}` are longer than the model's {limit} tokens: shorten them.")
    data = {"source": str(path), "hash": file_hash(path), "rows": len(pairs), "overlong": overlong}
    return Preferences(pairs, data, capture_prompts(lm.tokenizer, texts))


def encode_pair(lm: LM, prompt: Any, chosen: Any, rejected: Any) -> Pair:
    """The ids of a pair; text completions get the end token, conversations end as the chat template ends them."""
    text = lm.prompt_text(prompt)
    end = [] if lm.tokenizer.eos_token_id is None or not isinstance(chosen, str) else [lm.tokenizer.eos_token_id]
    texts = text, completion_text(lm, prompt, chosen), completion_text(lm, prompt, rejected)
    head, first = split(lm.tokenizer, text, texts[1])
    _, second = split(lm.tokenizer, text, texts[2])
    return Pair(head, first + end, second + end, texts=texts)


def completion_text(lm: LM, prompt: Any, completion: Any) -> str:
    """A completion as text: itself, or what the chat template adds for its messages after the prompt.

    Raises:
        DataError: the template writes the prompt differently when an answer follows.
    """
    if isinstance(completion, str):
        return completion
    head = lm.prompt_text(prompt)
    whole = lm.tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    if not whole.startswith(head):
        raise DataError(
            "The chat template of this model writes a prompt differently once an answer follows, so the boundary"
            " between them cannot be found: give prompt and completions as text."
        )
    return whole[len(head) :]


def _row_pair(lm: LM, path: Path, row: Row) -> Pair:
    prompt, chosen, rejected = (row.values[name] for name in COLUMNS)
    if len({type(prompt), type(chosen), type(rejected)}) > 1:
        raise DataError(
            f"Line {row.line} of `{path}` mixes strings and messages: give prompt, chosen and rejected in one form."
        )
    if chosen == rejected:
        raise DataError(f"Line {row.line} of `{path}` has equal chosen and rejected: take it out, it teaches nothing.")
    margin = row.values.get("margin")
    if margin is not None and not (isinstance(margin, int | float) and math.isfinite(margin)):
        raise DataError(
            f"Line {row.line} of `{path}` has the margin {margin!r}: give a finite number, or leave the column out."
        )
    try:
        pair = encode_pair(lm, prompt, chosen, rejected)
    except DataError as error:
        raise DataError(f"Line {row.line} of `{path}`: {error}") from error
    return pair if margin is None else replace(pair, margin=float(margin))
