"""Induction heads over training from captures, and the phase change: when they form and the in-context loss drops.

Captures hold the attention of every head at every captured step, on prompts that stay the same. A head's induction
score on a text is the weight from a token that came before on the tokens that followed its earlier occurrences, mean
over such tokens (prefix matching; Olsson et al. 2022). Where few different tokens repeat, as in a Markov chain, a head
that looks everywhere alike scores high already: `chance` is its score, and `scaled` = (score - chance) / (1 - chance)
is 0 for it and 1 for a head that looks nowhere else.

Axes: D blocks, H heads, T tokens, S captured steps.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from probe.attention.scores import followers
from probe.errors import DataError
from probe.model.heads import head_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from probe.runs.reader import Run

QUERIES = 3
"""Tokens that came before which a prompt needs, to say something of induction."""
LEAST = 10
"""Captured steps from which a phase change is told."""
WINDOW = 3
"""Captures over which an increment is taken."""


class PhaseChange(NamedTuple):
    """When induction rises steepest, when the in-context loss falls steepest, and whether they move together."""

    induction_step: float
    """Middle of the window in which the induction score rises steepest."""
    loss_step: float
    """Middle of the window in which the loss falls steepest."""
    width: float
    """Steps that the wider of both windows takes: how exactly the steps are known."""
    rise: float
    """Rise of the induction score from the first capture to the last."""
    drop: float
    """Fall of the loss from the first capture to the last."""
    correlation: float
    """Pearson correlation of the increments over windows: rise of induction and fall of loss in the same window."""
    low: float
    """Lower end of its 95 % interval: Fisher's z, for as many windows as overlap leaves."""
    high: float
    """Upper end."""
    n: int
    """Windows; they overlap."""


def induction_score(
    pattern: Float[np.ndarray, "... T T"], ids: Int[np.ndarray, " T"], start: int = 0
) -> tuple[Float[np.ndarray, "..."], float, int]:
    """(score, chance, tokens counted) of attention patterns on one text; NaN where no token came before.

    Args:
        pattern: weights, rows are queries.
        ids: the text.
        start: first token that counts as a query and as a key; what opens a text is no part of what repeats.
    """
    target = followers(ids)
    target[:, : start + 1] = False
    asked = np.arange(len(ids)) >= start
    asked &= target.any(-1)
    count = int(asked.sum())
    if not count:
        return np.full(pattern.shape[:-2], np.nan), float("nan"), 0
    rows, wanted = pattern[..., asked, :], target[asked]
    even = wanted.sum(-1) / (np.flatnonzero(asked) + 1)
    return (rows * wanted).sum(-1).mean(-1), float(even.mean()), count


def induction_over_training(run: "Run") -> pd.DataFrame:
    """The induction score of every head at every captured step of a run, on each captured prompt that repeats tokens.

    Args:
        run: a run with captures.

    Returns:
        One row a step, prompt and head: step, prompt, kind, name, layer, head, score, chance, scaled, previous_token
        (weight on the token before, mean over tokens), queries. Without a prompt of `QUERIES` repeats, an empty table.

    Raises:
        RunError: a capture is damaged.
    """
    captures = run.captures()
    prompts = captures.prompts
    frames = []
    for step in captures.steps:
        attention = captures.load(step).get("attention")
        for index, prompt in enumerate(prompts if attention is not None else ()):
            assert attention is not None
            pattern = attention[index, :, :, : prompt.length, : prompt.length].astype(np.float64)
            start = _opening(prompt.text, prompt.length)
            score, chance, queries = induction_score(pattern, np.asarray(prompt.token_ids), start)
            if queries < QUERIES:
                continue
            layer, head = (axis.ravel() for axis in np.indices(score.shape))
            previous = np.diagonal(pattern, -1, -2, -1).mean(-1)
            row = {"step": step, "prompt": index, "kind": prompt.kind or "text", "name": head_names(*score.shape)}
            row |= {"layer": layer, "head": head, "score": score.ravel(), "chance": chance}
            row |= {"scaled": (score.ravel() - chance) / (1 - chance), "previous_token": previous.ravel()}
            frames.append(pd.DataFrame(row | {"queries": queries}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def strongest(table: pd.DataFrame, kind: str) -> tuple[str, pd.Series]:
    """The head with the highest scaled score at the last step on prompts of a kind, and that score by step.

    Args:
        table: of `induction_over_training`.
        kind: of the prompts; their scores are averaged.

    Raises:
        DataError: there is no such prompt.
    """
    rows = table[table["kind"] == kind] if len(table) else table
    if not len(rows):
        raise DataError(f"No captured prompt of kind {kind!r} repeats tokens: capture one that does.")
    means = rows.groupby(["step", "name"])["scaled"].mean().unstack()
    name = str(means.iloc[-1].idxmax())
    return name, means[name]


def phase_change(
    steps: "Sequence[float] | np.ndarray",
    induction: "Sequence[float] | np.ndarray",
    loss: "Sequence[float] | np.ndarray",
    window: int = WINDOW,
) -> PhaseChange:
    """Where two curves over training turn, and whether their increments go together.

    Args:
        steps: [S] captured steps in order; leave out those where the model still learns which tokens there are.
        induction: [S] the induction score.
        loss: [S] the in-context loss or score; falling is learning.
        window: captures from the beginning of an increment to its end; single steps are noisier than what is sought.

    Raises:
        DataError: fewer than `window` + 2 steps, or curves of other lengths.
    """
    at, up, down = (np.asarray(values, dtype=float) for values in (steps, induction, loss))
    if not len(at) == len(up) == len(down) or len(at) < window + 2:
        raise DataError(
            f"A phase change was asked for in curves of {len(at)}, {len(up)} and {len(down)} captured steps: give"
            f" {window + 2} or more in all of them."
        )
    rises, falls, widths = up[window:] - up[:-window], down[:-window] - down[window:], at[window:] - at[:-window]
    first, second = int((rises / widths).argmax()), int((falls / widths).argmax())
    correlation = _correlation(rises, falls)
    low, high = _fisher(correlation, len(rises), window)
    middle = (at[window:] + at[:-window]) / 2
    return PhaseChange(
        induction_step=float(middle[first]),
        loss_step=float(middle[second]),
        width=float(max(widths[first], widths[second])),
        rise=float(up[-1] - up[0]),
        drop=float(down[0] - down[-1]),
        correlation=correlation,
        low=low,
        high=high,
        n=len(rises),
    )


def _fisher(r: float, n: int, window: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a correlation of `n` overlapping increments (Fisher's z).

    Increments over w steps that overlap share what lies between: n of them tell as much as n 3 w / (2 w^2 + 1) that do
    not, if both curves wander independently (Bartlett 1935).
    """
    size = n * 3 * window / (2 * window**2 + 1)
    if not np.isfinite(r) or size <= 3.5:
        return float("nan"), float("nan")
    z, half = np.arctanh(np.clip(r, -0.9999, 0.9999)), 1.959964 / np.sqrt(size - 3)
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; NaN where one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def _opening(text: str, length: int) -> int:
    """Tokens before what repeats: of the world's chains and repeats the beginning token and the heading."""
    words = text.split()
    heading = 3 if words[:1] == ["chain"] else 1 if words[:1] == ["repeat"] else 0
    return max(0, length - len(words) + heading)
