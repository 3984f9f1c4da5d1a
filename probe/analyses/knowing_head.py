"""P(IK): does the residual stream say, before an answer begins, whether the answer will be right?

Kadavath et al. 2207.05221, section 5, train a head on a question alone to tell the share of answers, sampled at
temperature 1, that are right. Here the model stays as it is, and the head is a logistic regression on the residual
stream at the question's last token:

    P(IK)(x) = sigma(w . z(x) + b),   minimising  sum_i CE(q_i, P(IK)(x_i)) + d / (2 s^2) ||w||^2,

where z is the residual, each of its d features with mean 0 and variance 1 over the questions that the head is fitted
on, and q_i is the chance that the model answers question i right. So w ~ N(0, s^2/d) beforehand: the logits of
questions differ by about s = 2 (why 2: docs/log.md). Every question is asked of a head that was fitted on the other
folds; one text is in one fold.

The model *knows* a question that it answers right more often than not (q >= 1/2). AUROC is that one it knows has the
larger P(IK); 0.5 says nothing. The Brier score is the expected (P(IK) - right)^2 of a sampled answer; beside it stands
that of the constant that is fitted without reading the question. The null shuffles q over the questions of each fold.

Axes: N questions, L layers (`known_direction.last_residuals`), d width, S shuffles.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from probe.analyses.selective import auroc
from probe.errors import DataError
from probe.stats import SHARE, Interval, unvaried

Floats = NDArray[np.float64]
FOLDS = 5
PRIOR = 2.0
"""s: how far the logits of questions are apart before any answer is seen."""
STEPS = 500
"""Most steps of the fit."""
ENOUGH = 1e-6
"""Change of the probabilities of the questions fitted on, below which the fit ends."""
FLAT = 1e-6
"""A feature that varies this much less than the residual is long is rounding."""
RARE = 1e-3
"""Least chance of being right that the constant starts from, and of being wrong."""


@dataclass(frozen=True)
class KnowingHead:
    """What heads say of questions that they were not fitted on."""

    p: Floats
    """[N L] P(IK) by layer."""
    right: Floats
    """[N] chance that the model's answer is right."""
    constant: Floats
    """[N] mean chance over the questions of the other folds."""
    null: Floats
    """[S L] AUROC with shuffled chances."""

    @property
    def knows(self) -> NDArray[np.bool_]:
        """[N] whether it is right more often than not."""
        return knows(self.right)

    @property
    def auroc(self) -> Floats:
        """[L] P(a question that it knows has the larger P(IK))."""
        return np.array([auroc(column, self.knows) for column in self.p.T])

    @property
    def middle(self) -> int:
        """The layer after the first half of the blocks, chosen before looking."""
        return self.p.shape[1] // 2

    def p_value(self, layer: int) -> float:
        """Share of shuffles with at least this AUROC at a layer, the observed one counted in."""
        return (1 + int((self.null[:, layer] >= self.auroc[layer]).sum())) / (1 + len(self.null))

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """One row a layer: layer, value, ci_low, ci_high, null_low, null_high, brier, brier_constant, n.

        Intervals of the AUROC are bootstraps over questions, given the folds; the null's are 95 % of its shuffles.
        """
        picks = np.random.default_rng(seed).integers(0, len(self.right), (resamples, len(self.right)))
        fewer = min(self.knows.sum(), (~self.knows).sum())
        rows = []
        for layer, value in enumerate(self.auroc):
            drawn = [auroc(self.p[pick, layer], self.knows[pick]) for pick in picks]
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            _, low, high = unvaried(Interval(value, low, high), fewer, SHARE)
            null = np.quantile(self.null[:, layer], [0.025, 0.975]) if len(self.null) else (np.nan, np.nan)
            row = {"layer": layer, "value": value, "ci_low": low, "ci_high": high}
            row |= {"null_low": null[0], "null_high": null[1], "brier": brier(self.p[:, layer], self.right).mean()}
            rows.append(row | {"brier_constant": brier(self.constant, self.right).mean(), "n": len(self.right)})
        return pd.DataFrame(rows)


def knows(right: ArrayLike) -> NDArray[np.bool_]:
    """[N] whether a chance of being right is 1/2 or more."""
    return np.asarray(right, dtype=float) >= 0.5


def brier(p: ArrayLike, right: ArrayLike) -> Floats:
    """[N] expected (p - right)^2 of an answer that is right with the chance `right`."""
    said, chance = np.asarray(p, dtype=float), np.asarray(right, dtype=float)
    return chance * (1 - said) ** 2 + (1 - chance) * said**2


def too_few(right: ArrayLike, prompts: Sequence[str], folds: int = FOLDS) -> str:
    """Why no head can be fitted and tested; empty if one can."""
    kinds = pd.Series(knows(right)).groupby(list(prompts)).first()
    known, unknown = int(kinds.sum()), int((~kinds).sum())
    if min(known, unknown) >= folds >= 2:
        return ""
    return f"{known} questions are known and {unknown} are not: a head needs {folds} of each"


def knowing_head(
    residuals: Floats,
    right: ArrayLike,
    prompts: Sequence[str],
    folds: int = FOLDS,
    shuffles: int = 100,
    seed: int = 0,
) -> KnowingHead:
    """Fit and test heads at every layer, and do the same with shuffled chances.

    Args:
        residuals: [N L d], see `known_direction.last_residuals`.
        right: [N] chance that the model answers right; equal for equal prompts.
        prompts: [N] the questions as they are asked.
        folds: into how many parts the questions are split, known and unknown ones evenly.
        shuffles: S.
        seed: of folds and shuffles.

    Raises:
        DataError: fewer questions of a kind than folds, or a chance that is none.
    """
    chances = np.asarray(right, dtype=float)
    if not ((chances >= 0) & (chances <= 1)).all():
        raise DataError("A chance of being right is no number from 0 to 1: give the share of right answers.")
    reason = too_few(chances, prompts, folds)
    if reason:
        raise DataError(f"P(IK) cannot be tested in {folds} folds, as {reason}.")
    _, first, codes = np.unique(list(prompts), return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    x, q = residuals[first], chances[first]
    fold = _folds(q, folds, rng)
    p, constant = _cross(x, q[:, None], fold)
    null = np.zeros((0, x.shape[1]))
    if shuffles:
        mixed = np.stack([_within(q, fold, rng) for _ in range(shuffles)], axis=1)
        drawn, _ = _cross(x, mixed, fold)
        null = np.array(
            [[auroc(drawn[:, layer, s], knows(mixed[:, s])) for layer in range(x.shape[1])] for s in range(shuffles)]
        )
    return KnowingHead(p[codes, :, 0], chances, constant[codes, 0], null)


def _folds(right: Floats, folds: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """[N] the fold of each question: neighbours in the order of their chances are in different ones."""
    order = np.lexsort((rng.random(len(right)), right))
    found = np.empty(len(right), dtype=np.intp)
    for start in range(0, len(right), folds):
        part = order[start : start + folds]
        found[part] = rng.permutation(folds)[: len(part)]
    return found


def _within(right: Floats, fold: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """[N] the chances shuffled within each fold, so that the folds stay as alike as they are."""
    found = right.copy()
    for each in np.unique(fold):
        found[fold == each] = rng.permutation(right[fold == each])
    return found


def _cross(x: Floats, right: Floats, fold: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """[N L S] what heads of the other folds say, and [N S] the mean of the other folds' chances.

    Args:
        x: [N L d].
        right: [N S] S assignments of chances, each with heads of its own.
        fold: [N].
    """
    p = np.empty((*x.shape[:2], right.shape[1]))
    constant = np.empty(right.shape)
    for each in np.unique(fold):
        out = fold == each
        constant[out] = right[~out].mean(axis=0)
        for layer in range(x.shape[1]):
            p[out, layer] = fitted(x[~out, layer], right[~out], x[out, layer])
    return p, constant


def fitted(train: Floats, right: Floats, test: Floats) -> Floats:
    """[M S] probabilities of M other questions by heads fitted on N: the module's minimum.

    In the space that the N questions span, where their features are orthogonal, the Hessian is at most diagonal
    (p (1 - p) <= 1/4; Boehning and Lindsay 1988), so every step goes down and none needs a matrix.

    Args:
        train: [N d] residuals at one layer.
        right: [N S] chances, each column with a head of its own.
        test: [M d] residuals.
    """
    middle, spread = train.mean(axis=0), train.std(axis=0)
    flat = spread <= FLAT * np.sqrt((train**2).mean())
    scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, spread))
    known, new = (train - middle) * scale, (test - middle) * scale
    values, vectors = np.linalg.eigh(known @ known.T)
    keep = values > 1e-10 * max(float(values[-1]), 1e-300)
    root, vectors = np.sqrt(values[keep]), vectors[:, keep]
    features, others = vectors * root, new @ known.T @ vectors / root
    penalty = train.shape[1] / PRIOR**2
    curvature = (root**2 / 4 + penalty)[:, None]
    bias = logit(right.mean(axis=0).clip(RARE, 1 - RARE))
    weights = np.zeros((features.shape[1], right.shape[1]))
    said = expit(features @ weights + bias)
    for _ in range(STEPS):
        gap = said - right
        weights -= (features.T @ gap + penalty * weights) / curvature
        bias -= 4 * gap.mean(axis=0)
        before, said = said, expit(features @ weights + bias)
        if np.abs(said - before).max() < ENOUGH:
            break
    return expit(others @ weights + bias)
