"""A run's captures for drawing: attention, lens and answers of a prompt, and recorded completions as tables.

It works without torch and without the model; only the tokenizer file of a checkpoint is read to name tokens.
"""

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from probe.errors import DataError, RunError
from probe.runs.attention_tail import TAIL, tail_pattern, whole_pattern
from probe.runs.captures import PLAIN, Captures, Tensors
from probe.runs.captures import numbers as as_numbers
from probe.runs.reader import Run
from probe.runs.schema import ProbePrompt, RunWarning
from probe.tokenizer_parts import odd_part
from probe.untrusted import foreign, readable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Favourites = tuple[Sequence[Sequence[Sequence[str]]], np.ndarray]
"""[D+1][T][k] most probable tokens of a lens, best first, and [D+1 T k] their natural log-probabilities."""


def token_names(run: "Run", ids: np.ndarray) -> list[str]:
    """Return a readable piece for each id (any shape, flattened).

    It is `#id` if the run has no checkpoint to name tokens.
    """
    tokenizer = _run_tokenizer(run)
    flat = [int(value) for value in ids.ravel()]
    if tokenizer is None:
        return [f"#{value}" for value in flat]
    names = {value: _piece(tokenizer, value) for value in set(flat)}
    return [names[value] for value in flat]


def texts(run: "Run", rows: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
    """Return rows of ids as texts with special tokens; ids become `#id` if no checkpoint can name tokens."""
    tokenizer = _run_tokenizer(run)
    if tokenizer is None:
        return [" ".join(f"#{int(value)}" for value in row) for row in rows]
    return [tokenizer.decode([int(value) for value in row], skip_special_tokens=False) for row in rows]


def has_attention(tensors: Tensors) -> bool:
    """Return whether a capture holds attention."""
    return PLAIN in tensors or TAIL in tensors


def has_lens(tensors: Tensors) -> bool:
    """Return whether a capture holds the logit lens."""
    return "lens_top_ids" in tensors and "lens_answer_logprobs" in tensors


def attention(tensors: Tensors, index: int, prompt: ProbePrompt) -> np.ndarray:
    """Return attention [D H R T] of prompt number `index`: its last R rows, which are all of them in most captures.

    Heads that were not captured are NaN.

    Raises:
        RunError: the capture holds no attention.
    """
    if TAIL in tensors:
        return tail_pattern(tensors, tensors.lengths, index)
    return tensors[PLAIN][index, :, :, : prompt.length, : prompt.length]


def whole_head(tensors: Tensors, index: int, head: tuple[int, int]) -> np.ndarray | None:
    """Return all rows [T T] of a head that a capture keeps whole; None if it keeps only its last rows, or all heads."""
    return whole_pattern(tensors, tensors.lengths, index, head)


def favourites(run: "Run", tensors: dict[str, np.ndarray], index: int, prompt: ProbePrompt) -> Favourites:
    """Return the lens predictions for prompt number `index`: [D+1][T][k] tokens and [D+1 T k] log-probabilities.

    Padding is removed.
    """
    ids = tensors["lens_top_ids"][index, :, : prompt.length]
    names = np.array(token_names(run, ids.clip(0)), dtype=object).reshape(ids.shape)
    names[ids < 0] = ""  # not captured
    return names.tolist(), tensors["lens_top_logprobs"][index, :, : prompt.length].astype(np.float32)


def most_moved(first: Tensors, last: Tensors, prompts: Sequence[ProbePrompt]) -> int:
    """Return the prompt whose answers' probabilities changed most between two captures, by number; 0 without answers.

    The largest change of any answer counts. Without a lens it is the first prompt.
    """
    if not all("lens_answer_logprobs" in tensors for tensors in (first, last)):
        return 0

    def probabilities(tensors: dict[str, np.ndarray], index: int, prompt: ProbePrompt) -> np.ndarray:
        answers = tensors["lens_answer_logprobs"][index, -1, prompt.length - 1, : len(prompt.answers)]
        return np.exp(np.minimum(answers.astype(np.float32), 0))

    changes = [
        float(np.abs(probabilities(last, i, prompt) - probabilities(first, i, prompt)).max(initial=0.0))
        for i, prompt in enumerate(prompts)
    ]
    return int(np.argmax(changes))


def head_movement(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each head moved on one prompt, [D H], and the part among tokens other than the first.

    A row with one key cannot move and is left out. With change d of a row's weights, the first is half the sum of |d|
    (total variation); the second is that minus |d| of the first token, an attention sink on which idle heads rest: the
    weight that other tokens gained from one another.

    Args:
        before: [D H R T] attention of the prompt's last R queries at one step.
        after: the same at another step.
    """
    change = after.astype(np.float32, copy=False) - before.astype(np.float32, copy=False)
    rows, keys = change.shape[-2:]
    change = change[:, :, 1 if rows == keys > 1 else 0 :]
    moved = np.abs(change).sum(-1) / 2
    return moved.mean(-1), np.maximum(moved - np.abs(change[..., 0]), 0).mean(-1)


def heads_moved(first: Tensors, last: Tensors, prompts: Sequence[ProbePrompt]) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each head moved between two captures with attention, mean over the prompts (`head_movement`).

    Heads that were not captured are NaN.
    """
    found = [
        head_movement(*(attention(tensors, index, prompt) for tensors in (first, last)))
        for index, prompt in enumerate(prompts)
    ]
    moved, others = (np.mean(each, axis=0) for each in zip(*found, strict=True))
    return moved, others


def captures_of(run: Path) -> Captures:
    """Return the captures of a run.

    Raises:
        DataError: it has none.
    """
    captures = Run(run).captures()
    if not len(captures) or not captures.prompts:
        raise DataError(f"The run `{run.name}` has no captures: train with --capture-every, or choose another run.")
    return captures


def captured_prompts(*, run: Path) -> list[str]:
    """Return the texts of the prompts that a run captured."""
    return list(numbers_of(captures_of(run)))


def numbers_of(captures: Captures) -> dict[str, int]:
    """Return the number of each captured prompt by its text."""
    return {prompt.text: index for index, prompt in enumerate(captures.prompts)}


def usual_prompt(*, run: Path, prompt: str) -> str:
    """Return the prompt itself if it was captured, else the captured one whose answers changed most."""
    captures = captures_of(run)
    if prompt in numbers_of(captures):
        return prompt
    ends = captures.load(captures.steps[0]), captures.load(captures.steps[-1])
    return captures.prompts[most_moved(*ends, captures.prompts)].text


def why_without_answers(run: "Run", prompt: "ProbePrompt") -> str:
    """Explain why a captured prompt has no answers to follow, and how a run gets some."""
    if prompt.note:
        return f"{prompt.note} There is no logit to follow or to split into heads and MLPs."
    known = {"dpo": "chosen and rejected completion", "reward-model": "chosen and rejected completion"}.get(
        run.method, "answers"
    )
    return (
        "This prompt was captured without answers, so there is no logit to follow or to split into heads and MLPs. To "
        f"follow the {known} of its data, train again without --probe-prompts, or give --probe-prompts a .jsonl file"
        " with `text` and `answers`."
    )


def attention_table(weights: np.ndarray, tokens: Sequence[str], layers: Sequence[int] | None = None) -> pd.DataFrame:
    """Return one row per causal attention weight: layer, head, query, query_token, key, key_token, weight.

    Args:
        weights: [D H R T] last R rows of the attention of one prompt; heads that are NaN are left out.
        tokens: [T] tokens of the prompt.
        layers: numbers of the D layers, if they are not 0 to D - 1.
    """
    layer, head, query, key = (axis.ravel() for axis in np.indices(weights.shape))
    query = query + weights.shape[3] - weights.shape[2]
    numbers = np.arange(weights.shape[0]) if layers is None else np.asarray(layers)
    names = np.array(tokens, dtype=object)
    table = pd.DataFrame(
        {
            "layer": numbers[layer],
            "head": head,
            "query": query,
            "query_token": names[query],
            "key": key,
            "key_token": names[key],
            "weight": weights.ravel().astype(np.float32),
        }
    )
    return table[(table["key"] <= table["query"]) & table["weight"].notna()].reset_index(drop=True)


def lens_table(lens: "Favourites", tokens: Sequence[str]) -> pd.DataFrame:
    """Return one row for each layer, position and rank: layer, position, token, rank, predicted, logprob."""
    names, logprobs = lens
    layer, position, rank = (axis.ravel() for axis in np.indices(logprobs.shape))
    return pd.DataFrame(
        {
            "layer": layer,
            "position": position,
            "token": np.array(tokens, dtype=object)[position],
            "rank": rank,
            "predicted": np.array(names, dtype=object).ravel(),
            "logprob": logprobs.ravel(),
        }
    )


def answers_table(steps: Sequence[int], logprobs: np.ndarray, answers: Sequence[str]) -> pd.DataFrame:
    """Return one row for each step and answer: step, answer, logprob (nats)."""
    return pd.DataFrame(
        {
            "step": np.repeat(np.asarray(steps, dtype=int), len(answers)),
            "answer": list(answers) * len(steps),
            "logprob": logprobs.ravel(),
        }
    )


def _run_tokenizer(run: "Run") -> "Tokenizer | None":
    """Return the tokenizer of the newest checkpoint; None if there is none, or it cannot be read."""
    checkpoints = run.checkpoints()
    file = checkpoints[-1].path / "tokenizer.json" if checkpoints else None
    if file is None or not file.is_file():
        return None
    try:
        return _tokenizer(str(file), file.stat().st_mtime_ns)
    except RunError as error:
        warnings.warn(str(error), RunWarning, stacklevel=3)
        return None


@lru_cache(maxsize=16)
def _tokenizer(file: str, mtime: int) -> "Tokenizer":
    from tokenizers import Tokenizer

    with foreign(lambda reason: RunError(f"`{file}` cannot be read ({reason}), so tokens are shown by their ids.")):
        tokenizer = Tokenizer.from_file(str(Path(file)))
        odd = odd_part(tokenizer, ("decoder",))
    if odd is not None:
        raise RunError(f"`{file}` has {odd}, which may have no end, so tokens are shown by their ids.")
    return tokenizer


def _piece(tokenizer: "Tokenizer", token: int) -> str:
    raw = tokenizer.id_to_token(token)
    if raw is None:
        return f"#{token}"
    text = tokenizer.decode([token], skip_special_tokens=False)
    text = raw if "\ufffd" in text or not text else text
    text = " " + text if raw.startswith("\u2581") and not text.startswith(" ") else text
    return text.replace("\n", "\u21b5").replace("\t", "\u21e5").replace(" ", "\u00b7")


MEASURES = {
    "advantage": "",
    "KL": "nats",
    "reward": "",
    "entropy": "nats",
    "value": "",
    "score": "",
}
"""Measure of a token to its unit: the advantage in the loss, log pi - log pi_ref of the token, the reward given at it,
the entropy of its distribution, the value of the text before it, and the reward model's output at it."""

SIGNED = ("advantage", "KL", "reward", "value", "score")
"""Measures with positive and negative values."""

Row = Mapping[Hashable, Any]


def token_measures(row: Row) -> dict[str, np.ndarray]:
    """Return each measure (`MEASURES`) of the tokens of one completion as values [L]; unknown values are NaN.

    A scalar advantage applies to every token. Rewards per token are those recorded by the method (`token_rewards`);
    lists with another length than the completion are ignored.
    """
    size = length(row)
    logprobs, reference = numbers(row.get("logprobs")), numbers(row.get("ref_logprobs"))
    measures = {
        "advantage": _spread(row.get("advantage"), size),
        "KL": logprobs - reference if len(logprobs) == len(reference) else numbers(None),
        "reward": numbers(row.get("token_rewards")),
        "entropy": numbers(row.get("entropy")),
        "value": numbers(row.get("values")),
        "score": numbers(row.get("token_scores")),
    }
    return {name: values for name, values in measures.items() if len(values) == size and np.isfinite(values).any()}


def length(row: Row) -> int:
    """Return the number of tokens of a completion."""
    return len(tokens(row))


def tokens(row: Row) -> list[str]:
    """Return readable tokens of a completion; its words if no tokens were recorded."""
    pieces = row.get("tokens")
    return [str(token) for token in pieces] if isinstance(pieces, list) else str(row.get("completion", "")).split()


def numbers(value: Any) -> np.ndarray:
    """Return a list of numbers as an array; return an empty array for anything else."""
    if not isinstance(value, list):
        return np.empty(0)
    return np.array([_number(item) for item in value], dtype=float)


def rollout_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per completion, by its number in the file.

    Columns: step, completion, prompt, and as far as known: reward, `reward: NAME` for each of several parts,
    advantage (mean over tokens), KL (sum of log pi - log pi_ref over the tokens, nats), entropy (mean, nats), tokens,
    finished.
    """
    rows = []
    for row in frame.to_dict("records"):
        measures = token_measures(row)
        parts = row["rewards"] if isinstance(row.get("rewards"), dict) else {}
        rows.append(
            {
                "step": readable(row.get("step")),
                "completion": readable(str(row.get("completion", ""))),
                "prompt": readable(str(row.get("prompt", ""))),
                "reward": readable(row.get("reward")),
                **{readable(f"reward: {name}"): readable(value) for name, value in parts.items()},
                "advantage": float(np.nanmean(measures["advantage"])) if "advantage" in measures else None,
                "KL": float(np.nansum(measures["KL"])) if "KL" in measures else None,
                "entropy": float(np.nanmean(measures["entropy"])) if "entropy" in measures else None,
                "tokens": length(row),
                "finished": row["finished"] if isinstance(row.get("finished"), bool) else None,
            }
        )
    table = pd.DataFrame(rows, index=frame.index)
    for column in table.columns.difference(["prompt", "completion", "finished"]):
        table[column] = as_numbers(list(table[column])).set_axis(table.index)
    parts = [name for name in table.columns if name.startswith("reward: ")]
    return table.drop(columns=parts if len(parts) == 1 else []).dropna(axis="columns", how="all")


class RolloutText(NamedTuple):
    """Prompt and completion of a rollout up to one of its tokens."""

    text: str
    """Text that ends with the token."""
    position: int | None
    """Position of the token in the text, special tokens of the tokenizer counted; None without a tokenizer."""


def rollout_text(run: "Run", row: Row, token: int) -> RolloutText | None:
    """Return the prompt and the completion of a rollout up to and including a token, as a text.

    Args:
        run: run that recorded the rollout; the tokenizer of its newest checkpoint, if there is one, reads the tokens.
        row: rollout as recorded.
        token: number of the token in the completion, from 0.

    Returns:
        None if the rollout has no such token, or the text is not known to give the same tokens again: it splits into
        others, or, without a tokenizer, the recorded pieces do not make up the completion.
    """
    prompt, tokenizer, ids = str(row.get("prompt", "")), _run_tokenizer(run), row.get("token_ids")
    if tokenizer is None:
        parts = tokens(row)[: token + 1]
        text = "".join(parts).replace("\u00b7", " ").replace("\u21b5", "\n").replace("\u21e5", "\t")
        whole = str(row.get("completion", "")).lstrip()
        known = 0 <= token < len(parts) and isinstance(row.get("tokens"), list) and whole.startswith(text.lstrip())
        return RolloutText(prompt + text, None) if known else None
    if not isinstance(ids, list) or not 0 <= token < len(ids):
        return None
    own = ids[: token + 1]
    if not all(type(each) is int and 0 <= each < 2**31 for each in own):
        return None
    completion = tokenizer.decode(own, skip_special_tokens=False)
    for text in (f"{prompt}{completion}", f"{prompt} {completion}"):
        if tokenizer.encode(text, add_special_tokens=False).ids[-len(own) :] == own:
            return RolloutText(text, len(tokenizer.encode(text).ids) - 1)
    return None


def matching(
    table: pd.DataFrame, *, steps: tuple[float, float], rewards: tuple[float, float] | None, text: str = ""
) -> pd.DataFrame:
    """Return the rows of `rollout_table` that contain a text and lie within ranges of steps and rewards.

    Ranges include both ends. The text is searched in prompt and completion, ignoring case. Completions without a reward
    are kept.
    """
    selection = table["step"].between(*steps)
    if rewards is not None and "reward" in table:
        selection &= table["reward"].between(*rewards) | table["reward"].isna()
    if text.strip():
        words = table["prompt"] + " " + table["completion"]
        selection &= words.str.contains(text.strip(), case=False, regex=False)
    return table[selection]


def _spread(value: Any, size: int) -> np.ndarray:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return numbers(value)
    return np.full(size, _number(value))


def _number(value: Any) -> float:
    """Return `value` as a float if it can be drawn; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
    except OverflowError:  # a whole number beyond all floats
        return math.nan
