"""Does the residual stream say whether a person is known? A contrastive direction by layer, tested on other people.

After each block the residual at the question's last token is read. The direction is the mean over questions about known
people minus the mean over questions about strangers (the contrast of `steering.contrast`). It is fitted on some people
and scores the questions about the others: folds split people, never the questions about one person, as else the
direction would only know names by heart. A fold's scores are in units of the spread within both groups, from the middle
between their means. AUROC is that a known person scores above a stranger; 0.5 says nothing.

The null shuffles who is known, person by person, and does all of it again. As the best of several layers is better than
0.5 by chance, the null is also given for the best layer.

Axes: N questions, L = D + 1 layers (0 is the embedding, l is after block l - 1), d width, S shuffles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from probe.analyses.selective import auroc
from probe.analyses.sites import Site
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.stats import SHARE, Interval, unvaried
from probe.ticks import Tick, ignore

Floats = NDArray[np.float64]
FOLDS = 5
BATCH = 64
FLAT = 1e-6
"""A direction this much shorter than the residuals themselves is rounding, not a direction."""


@dataclass(frozen=True)
class KnownDirection:
    """How well a direction tells known people from strangers, by layer."""

    scores: Floats
    """[N L] score of each question by directions that were fitted without its person."""
    known: NDArray[np.bool_]
    """[N] whether the person is known."""
    people: NDArray[Any]
    """[N] the person of each question."""
    null: Floats
    """[S L] AUROC with shuffled labels."""

    @property
    def auroc(self) -> Floats:
        """[L] cross-validated AUROC."""
        return np.array([auroc(column, self.known) for column in self.scores.T])

    @property
    def best(self) -> int:
        """The layer with the largest AUROC; the first of equal ones."""
        return int(np.argmax(self.auroc))

    def p_value(self) -> float:
        """Share of shuffles whose best layer is at least as good, the observed one counted in."""
        reached = int((self.null.max(axis=1) >= self.auroc.max()).sum())
        return (1 + reached) / (1 + len(self.null))

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """One row a layer: layer, value, ci_low, ci_high, null_low, null_high, n (people).

        Intervals are bootstraps over people, given the folds; the null's are 95 % of its shuffles.
        """
        rng = np.random.default_rng(seed)
        codes, names = pd.factorize(self.people)
        groups = [np.flatnonzero(codes == code) for code in range(len(names))]
        picks = [rng.integers(0, len(groups), len(groups)) for _ in range(resamples)]
        index = [np.concatenate([groups[g] for g in pick]) for pick in picks]
        fewer = min(len(np.unique(codes[self.known == each])) for each in (False, True))
        rows = []
        for layer, value in enumerate(self.auroc):
            drawn = [auroc(self.scores[i, layer], self.known[i]) for i in index]
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            _, low, high = unvaried(Interval(value, low, high), fewer, SHARE)
            null_low, null_high = (np.nan, np.nan)
            if len(self.null):
                null_low, null_high = np.quantile(self.null[:, layer], [0.025, 0.975])
            row = {"layer": layer, "value": value, "ci_low": low, "ci_high": high}
            rows.append(row | {"null_low": null_low, "null_high": null_high, "n": len(groups)})
        return pd.DataFrame(rows)


@torch.no_grad()
def last_residuals(lm: LM, prompts: Sequence[str], tick: Tick = ignore, batch: int = BATCH) -> Floats:
    """[N L d] residuals at the last token of each prompt: the embedding, then after every block.

    Raises:
        ModelError: the architecture cannot be hooked.
        DataError: what `batch` prompts keep does not fit into the free memory.
    """
    names = [Site("resid", layer).hook for layer in range(-1, lm.bridge.cfg.n_layers)]
    parts = []
    for start in range(0, len(prompts), batch):
        texts = list(prompts[start : start + batch])
        last = torch.tensor([len(encode(lm.tokenizer, text)) - 1 for text in texts])
        _, cache = lm.run_with_cache(texts, names)
        read = [cache[name].cpu()[torch.arange(len(texts)), last] for name in names]
        parts.append(torch.stack(read, dim=1).double().numpy())
        tick(min(1.0, (start + batch) / len(prompts)))
    return np.concatenate(parts)


def known_direction(
    residuals: Floats,
    known: ArrayLike,
    people: Sequence[str],
    folds: int = FOLDS,
    shuffles: int = 100,
    seed: int = 0,
) -> KnownDirection:
    """Fit and test the direction, and do the same with shuffled labels.

    Args:
        residuals: [N L d], see `last_residuals`.
        known: [N] whether the question is about a known person; equal for all questions about one.
        people: [N] the person of each question.
        folds: into how many parts the people are split, each kind evenly.
        shuffles: S.
        seed: of folds and shuffles.

    Raises:
        DataError: fewer people of a kind than folds.
    """
    codes, names = pd.factorize(np.asarray(people))
    labels = np.zeros(len(names), dtype=bool)
    labels[codes] = np.asarray(known, dtype=bool)
    fewest = int(min(labels.sum(), (~labels).sum()))
    if folds < 2 or fewest < folds:
        raise DataError(
            f"A direction was to be tested in {folds} folds with {fewest} people of the smaller kind: give at least 2"
            " folds, and as many people of each kind."
        )
    rng = np.random.default_rng(seed)
    scores = _cross(residuals, labels, codes, folds, rng)
    null = []
    for _ in range(shuffles):
        mixed = rng.permutation(labels)
        drawn = _cross(residuals, mixed, codes, folds, rng)
        null.append([auroc(column, mixed[codes]) for column in drawn.T])
    return KnownDirection(scores, labels[codes], names[codes], np.array(null).reshape(shuffles, residuals.shape[1]))


def project(train: Floats, known: ArrayLike, test: Floats) -> Floats:
    """[M L] scores of M other questions by the direction of all N questions of `train`; arguments as above.

    For people who belong to neither group, such as rare ones.
    """
    return _project(train, np.asarray(known, dtype=bool), test)


def _cross(x: Floats, labels: NDArray[np.bool_], codes: NDArray[Any], folds: int, rng: np.random.Generator) -> Floats:
    """[N L] scores of each question by the direction of the other folds' people."""
    fold = np.empty(len(labels), dtype=int)
    for kind in (True, False):
        index = rng.permutation(np.flatnonzero(labels == kind))
        fold[index] = np.arange(len(index)) % folds
    scores = np.empty(x.shape[:2])
    for each in range(folds):
        out = fold[codes] == each
        scores[out] = _project(x[~out], labels[codes][~out], x[out])
    return scores


def _project(train: Floats, known: NDArray[np.bool_], test: Floats) -> Floats:
    """[M L] scores of test questions; 0 at layers where the two means are equal up to rounding."""
    one, other = train[known].mean(axis=0), train[~known].mean(axis=0)
    vector, middle = one - other, (one + other) / 2
    size = np.linalg.norm(train, axis=-1).mean(axis=0)
    vector[np.linalg.norm(vector, axis=-1) <= FLAT * size] = 0
    along = np.einsum("nld,ld->nl", train, vector)
    spread = np.sqrt((along[known].var(axis=0) + along[~known].var(axis=0)) / 2)
    raw = np.einsum("nld,ld->nl", test - middle, vector)
    return np.divide(raw, spread, out=np.zeros_like(raw), where=spread > 0)
