"""Recorded completions (`Run.rollouts`) as a table of one line each, and one of them token by token."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from probe.runs.table import numbers as as_numbers
from probe.untrusted import readable

MEASURES = {
    "advantage": "",
    "KL": "nats",
    "reward": "",
    "entropy": "nats",
    "value": "",
}
"""What may be known of each token, and its unit: the advantage that entered the loss, log pi - log pi_ref of the
token, the reward given at it, the entropy of the distribution it was drawn from, the value of the text before it."""

SIGNED = ("advantage", "KL", "reward", "value")
"""Measures that lie on both sides of zero."""

Row = Mapping[Hashable, Any]


def token_measures(row: Row) -> dict[str, np.ndarray]:
    """What is known of the tokens of one completion: measure (`MEASURES`) to values [L], unknown ones NaN.

    An advantage that is one number holds for every token. Rewards per token are those that the method recorded
    (`token_rewards`); lists whose length is not that of the completion are left out.
    """
    size = length(row)
    logprobs, reference = numbers(row.get("logprobs")), numbers(row.get("ref_logprobs"))
    known = {
        "advantage": _spread(row.get("advantage"), size),
        "KL": logprobs - reference if len(logprobs) == len(reference) else numbers(None),
        "reward": numbers(row.get("token_rewards")),
        "entropy": numbers(row.get("entropy")),
        "value": numbers(row.get("values")),
    }
    return {name: values for name, values in known.items() if len(values) == size and np.isfinite(values).any()}


def length(row: Row) -> int:
    """Number of tokens of a completion."""
    return len(tokens(row))


def tokens(row: Row) -> list[str]:
    """Readable pieces of a completion; its words where no tokens were recorded."""
    found = row.get("tokens")
    return [str(token) for token in found] if isinstance(found, list) else str(row.get("completion", "")).split()


def numbers(value: Any) -> np.ndarray:
    """A list of numbers as an array; empty for anything else."""
    if not isinstance(value, list):
        return np.empty(0)
    return np.array([_number(item) for item in value], dtype=float)


def rollout_table(frame: pd.DataFrame) -> pd.DataFrame:
    """One line a completion, by its number in the file.

    Columns: step, completion, prompt, and those that are known of: reward, `reward: NAME` for each of several parts,
    advantage (mean over tokens), KL (sum of log pi - log pi_ref over the tokens, nats), entropy (mean, nats), tokens,
    finished.
    """
    rows = []
    for row in frame.to_dict("records"):
        known = token_measures(row)
        parts = row["rewards"] if isinstance(row.get("rewards"), dict) else {}
        rows.append(
            {
                "step": row.get("step"),
                "completion": readable(str(row.get("completion", ""))),
                "prompt": readable(str(row.get("prompt", ""))),
                "reward": row.get("reward"),
                **{readable(f"reward: {name}"): value for name, value in parts.items()},
                "advantage": float(np.nanmean(known["advantage"])) if "advantage" in known else None,
                "KL": float(np.nansum(known["KL"])) if "KL" in known else None,
                "entropy": float(np.nanmean(known["entropy"])) if "entropy" in known else None,
                "tokens": length(row),
                "finished": row["finished"] if isinstance(row.get("finished"), bool) else None,
            }
        )
    table = pd.DataFrame(rows, index=frame.index)
    for column in table.columns.difference(["prompt", "completion", "finished"]):
        table[column] = as_numbers(list(table[column])).set_axis(table.index)
    parts = [name for name in table.columns if name.startswith("reward: ")]
    return table.drop(columns=parts if len(parts) == 1 else []).dropna(axis="columns", how="all")


def matching(
    table: pd.DataFrame, *, steps: tuple[float, float], rewards: tuple[float, float] | None, text: str = ""
) -> pd.DataFrame:
    """The lines of `rollout_table` within a range of steps and one of rewards (both ends count) that contain a text.

    The text is looked for in prompt and completion, whatever its case. Completions without a reward stay.
    """
    held = table["step"].between(*steps)
    if rewards is not None and "reward" in table:
        held &= table["reward"].between(*rewards) | table["reward"].isna()
    if text.strip():
        words = table["prompt"] + " " + table["completion"]
        held &= words.str.contains(text.strip(), case=False, regex=False)
    return table[held]


def _spread(value: Any, size: int) -> np.ndarray:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return numbers(value)
    return np.full(size, _number(value))


def _number(value: Any) -> float:
    """A number that can be drawn; NaN for anything else."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
    except OverflowError:  # a whole number beyond all floats
        return math.nan
