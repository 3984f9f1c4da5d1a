"""The snowball as items: sums whose first step is forced, and free text whose first token is exchanged (METRICS).

In the world the forced token is a wrong result, and the final answer of each branch is judged: Hall after one wrong
token. Without a world nothing is known of the truth, and only how far the two texts part is measured.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.autoregression.snowball import Snowball, snowball
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.world import World

SNOWBALL = "snowball"
"""The kind of these items."""
SUMS = 100
"""Sums with steps in which a step is forced, at most."""
QUESTIONS, STEPS = 32, 8
"""Prompts whose first token is exchanged, at most, and how many tokens after it are followed."""


def some(found: Snowball, index: NDArray[np.intp]) -> Snowball:
    """The same of some prompts."""
    parts: dict[str, Any] = {}
    for each in fields(found):
        values = getattr(found, each.name)
        parts[each.name] = values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]
    return replace(found, **parts)


def snowballs(lm: "LM", world: "World", n: int, seed: int, tick: Tick = ignore) -> tuple[pd.DataFrame, Snowball] | None:
    """Sums with written steps whose first result is forced: the true one in one branch, a wrong one in the other.

    Returns:
        Items with the columns snowball_clean and snowball_wrong (whether the final answer of that branch is wrong) and
        snowball_kl (mean KL in nats of the forced branches' later tokens); None where the world has no such sums.
    """
    if "sum_steps" not in world.config.mixture:
        return None
    asked = world.questions("sum_steps", min(n, SUMS), seed)
    prompts = [item.prompt for item in asked]
    found = snowball(lm, prompts, world=world, steps=6 * world.config.max_terms, seed=seed, tick=tick)
    rows = []
    for index, item in enumerate(asked):
        wrong = {}
        for branch in ("clean", "wrong"):
            text = " ".join(getattr(found, branch)[index])
            wrong[f"snowball_{branch}"] = float(world.verify(item.prompt, text).kind != "true")
        row: dict[str, Any] = {
            "item": f"{SNOWBALL}-{index}",
            "kind": SNOWBALL,
            "prompt": item.prompt,
            "expected": item.answers[0].strip(),
        }
        known = found.forced_kl[index][~np.isnan(found.forced_kl[index])]
        row |= {"answer": " ".join(found.wrong[index]), "snowball_kl": float(known.mean()) if len(known) else np.nan}
        rows.append(row | wrong)
    return pd.DataFrame(rows), found


def divergence(lm: "LM", prompts: Sequence[str], seed: int, tick: Tick = ignore) -> tuple[pd.DataFrame, Snowball]:
    """The snowball without a truth: the second likeliest first token in place of the likeliest, and where it leads."""
    prompts = list(prompts[:QUESTIONS])
    found = snowball(lm, prompts, steps=STEPS, seed=seed, tick=tick)
    rows = []
    for index, prompt in enumerate(prompts):
        known = found.forced_kl[index][~np.isnan(found.forced_kl[index])]
        row: dict[str, Any] = {"item": f"snowball-{index}", "kind": "snowball", "prompt": prompt}
        row |= {"answer": " ".join(found.wrong[index]), "snowball_kl": float(known.mean()) if len(known) else np.nan}
        rows.append(row)
    return pd.DataFrame(rows), found
