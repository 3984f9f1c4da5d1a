"""What a reward model gave its fixed pairs of texts while it was trained, read from its captures (docs/runs.md)."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from probe.runs.captured import texts

if TYPE_CHECKING:
    from probe.runs.reader import Run


def pair_rewards(run: "Run") -> pd.DataFrame | None:
    """Return the rewards of the pairs at every captured step; None where none were captured.

    Returns:
        One row a step and pair: step, pair (its number), prompt, first, second (texts, end token shown), reward_first,
        reward_second (read at their last tokens) and margin, the first minus the second, in nats.
    """
    captures, tables = run.captures(), []
    names: dict[str, list[str]] = {}
    for step in captures.steps:
        tensors = captures.load(step)
        if "reward_tokens" not in tensors:
            continue
        ids, sizes = tensors["reward_ids"], tensors["reward_prompt"]
        lengths = (ids >= 0).sum(-1)
        rewards = np.take_along_axis(tensors["reward_tokens"], lengths[..., None] - 1, axis=-1)[..., 0].astype(float)
        if not names:
            rows = [(row, int(size), length) for row, size, length in zip(ids, sizes, lengths, strict=True)]
            names = {
                "prompt": texts(run, [row[0, :size] for row, size, _ in rows]),
                "first": texts(run, [row[0, size : length[0]] for row, size, length in rows]),
                "second": texts(run, [row[1, size : length[1]] for row, size, length in rows]),
            }
        first, second = rewards.T
        values = {"reward_first": first, "reward_second": second, "margin": first - second}
        tables.append(pd.DataFrame({"step": step, "pair": range(len(ids)), **names, **values}))
    return pd.concat(tables, ignore_index=True) if tables else None
