"""Features against known variables: how well the best feature of each tells where the variable holds.

A feature is chosen by its F1 on half of the tokens and scored on the other half, so that the best of many is not
better by chance alone.

Axes: N tokens, F features.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from probe.errors import DataError
from probe.features.streamed_states import Piece, passes, states_of
from probe.model.text import encode
from probe.world.language import read

if TYPE_CHECKING:
    from probe.features.autoencoder import Autoencoder
    from probe.model.lm import LM
    from probe.world import World

FEWEST = 8
"""Smallest number of tokens at which a variable must hold, and at which it must not."""


def match_variables(active: np.ndarray, variables: Mapping[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Return for each variable the feature that tells best where it holds, and its F1 on tokens it was not chosen by.

    Args:
        active: [N F] whether each feature is active.
        variables: [N] truth of each variable, by name.
        seed: seed of the halves.

    Returns:
        One row per variable: `variable`, `feature`, `f1`, `precision`, `recall`, `share` (of tokens at which it holds),
        `constant` (F1 of a feature that is always active).

    Raises:
        DataError: a variable holds at fewer than eight tokens, or at all but fewer.
    """
    order = np.random.default_rng(seed).permutation(len(active))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    rows = []
    for name, truth in variables.items():
        if min(truth.sum(), (~truth).sum()) < FEWEST:
            raise DataError(
                f"{name} holds at {int(truth.sum())} of {len(truth)} tokens: give {FEWEST} of each or more."
            )
        best = int(np.argmax(_scores(active[halves[0]], truth[halves[0]])[0]))
        score, precision, recall = (float(each[0]) for each in _scores(active[halves[1]][:, [best]], truth[halves[1]]))
        share = float(truth[halves[1]].mean())
        rows.append(
            {
                "variable": name,
                "feature": best,
                "f1": score,
                "precision": precision,
                "recall": recall,
                "share": share,
                "constant": 2 * share / (1 + share),
            }
        )
    return pd.DataFrame(rows)


def _scores(active: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return F1, precision and recall [F]; 0 where a feature is never active."""
    both = truth.astype(float) @ active
    fired = active.sum(0)
    precision = np.divide(both, fired, out=np.zeros(len(both)), where=fired > 0)
    recall = both / max(int(truth.sum()), 1)
    total = fired + truth.sum()
    return np.divide(2 * both, total, out=np.zeros(len(both)), where=total > 0), precision, recall


def world_variables(world: "World", n: int = 600, seed: int = 11) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return prompts of a world that ask for facts, and what holds of each: unseen person, relation, value."""
    items = [*world.questions("fact", n, seed), *world.questions("stranger", n // 2, seed)]
    readings = [read(item.prompt) for item in items]
    relations = np.array(["" if reading is None else reading.relation for reading in readings])
    answers = np.array([item.answers[0].strip() for item in items])
    known = np.array([item.kind == "fact" for item in items])
    found = {"unseen person": ~known}
    found |= {f"relation: {name}": relations == name for name in sorted(set(relations))}
    found |= {f"value: {name}": answers == name for name in sorted(set(answers[known]))}
    return [item.prompt for item in items], {
        name: each for name, each in found.items() if min(each.sum(), (~each).sum()) >= 2 * FEWEST
    }


@torch.no_grad()
def last_activations(lms: "Sequence[LM]", model: "Autoencoder", prompts: Sequence[str], block: int) -> np.ndarray:
    """Return [N F] activations at the last token of each prompt."""
    pieces = [Piece(encode(lms[-1].tokenizer, prompt), str(at)) for at, prompt in enumerate(prompts)]
    found = np.zeros((len(pieces), model.shape[2]), dtype=np.float32)
    for group in passes(pieces):
        states = torch.stack([each[-1] for each in states_of(lms, [piece.ids for piece in group], block)])
        found[[int(piece.row) for piece in group]] = model.encode(states).numpy()
    return found
