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
                "constant": _constant(truth[halves[1]]),
            }
        )
    return pd.DataFrame(rows)


def best_variables(values: np.ndarray, variables: Mapping[str, np.ndarray], seed: int = 0) -> pd.DataFrame:
    """Return for each unit the variable that it tells best, and the F1 on tokens that neither it nor its threshold saw.

    Variable and threshold are chosen on half of the tokens, by how much F1 exceeds that of a unit that is always
    active.

    Args:
        values: [N U] activations of each unit.
        variables: [N] truth of each variable, by name.
        seed: seed of the halves.

    Returns:
        One row per unit: `variable`, `f1`, `constant` (F1 of a unit that is always active).
    """
    order = np.random.default_rng(seed).permutation(len(values))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    names = list(variables)
    ranks = np.argsort(-values[first], axis=0, kind="stable")
    sorted_values = np.take_along_axis(values[first], ranks, axis=0)
    last_of_equals = np.vstack([sorted_values[1:] < sorted_values[:-1], np.ones((1, values.shape[1]), dtype=bool)])
    count = np.arange(1, len(first) + 1)[:, None]
    gains, thresholds = [], []
    for truth in variables.values():
        hits = truth[first][ranks].cumsum(axis=0)
        f1 = np.where(last_of_equals, 2 * hits / (count + truth[first].sum()), -1.0)
        best = f1.argmax(axis=0)[None]
        thresholds.append(np.take_along_axis(sorted_values, best, axis=0)[0])
        gains.append(np.take_along_axis(f1, best, axis=0)[0] - _constant(truth[first]))
    chosen = np.argmax(gains, axis=0)
    rows = []
    for unit, at in enumerate(chosen):
        truth = variables[names[at]][second]
        active = values[second, unit] >= thresholds[at][unit]
        f1 = 2 * (truth & active).sum() / max(truth.sum() + active.sum(), 1)
        rows.append({"variable": names[at], "f1": float(f1), "constant": _constant(truth)})
    return pd.DataFrame(rows, columns=["variable", "f1", "constant"])


def _constant(truth: np.ndarray) -> float:
    """Return the F1 of a unit that is always active."""
    share = float(truth.mean())
    return 2 * share / (1 + share)


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
