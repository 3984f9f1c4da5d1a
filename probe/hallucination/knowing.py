"""Probes of the residual stream for what a model knows: known-people direction, P(IK) heads; and snowballs as items.

Linear probes read the residual after each block at the question's last token. Folds split independent units, so that
every question is scored by a probe that was fitted without it. AUROC is the probability that a positive question scores
above a negative one; 0.5 is chance. The null repeats everything with shuffled labels. Since the best of several layers
exceeds 0.5 by chance, the p-value without a layer is that of the best one. Snowballs (METRICS) measure the effects of
one wrong token (`probe.autoregression.snowballs`) and are rows of the experiment `hallucination`.

Axes: N questions, L = D + 1 layers (0 is the embedding, l is after block l - 1), d width, S shuffles.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from probe import stats
from probe.autoregression.snowballs import Snowball, snowball
from probe.errors import DataError
from probe.hallucination.confidence import auroc
from probe.interventions.sites import Site
from probe.model.lm import LM
from probe.model.text import encode
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.world.world import World

Floats = NDArray[np.float64]
FOLDS = 5
BATCH = 64
FLAT = 1e-6
"""Ratio of norms below which a direction is rounding error, relative to the residuals."""


@dataclass(frozen=True)
class LinearProbe:
    """Accuracy by layer of linear probes that separate two kinds of questions, cross-validated."""

    scores: Floats
    """[N L] score of each question by a probe fitted on the other folds."""
    labels: NDArray[np.bool_]
    """[N] label of the question: True for the positive kind."""
    units: NDArray[Any]
    """[N] independent units: the person, or the question itself."""
    null: Floats
    """[S L] AUROC with shuffled labels."""

    @property
    def auroc(self) -> Floats:
        """[L] cross-validated AUROC."""
        return _aurocs(self.scores, self.labels)

    @property
    def middle(self) -> int:
        """Layer after the first half of the blocks, chosen in advance."""
        return self.scores.shape[1] // 2

    def p_value(self, layer: int | None = None) -> float:
        """Return the share of shuffles, counting the observed one, at least as good at a layer or at their best one."""
        at = slice(None) if layer is None else slice(layer, layer + 1)
        count = int((self.null[:, at].max(axis=1) >= self.auroc[at].max()).sum())
        return (1 + count) / (1 + len(self.null))

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """Return a table with one row per layer: layer, value, ci_low, ci_high, null_low, null_high, n (units).

        Intervals are bootstraps over units, given the folds; the null's are 95 % of its shuffles.
        """
        units = stats.group(pd.Series(self.units))
        fewer = min(pd.Series(self.units)[self.labels == each].nunique() for each in (False, True))

        def aurocs(draws: NDArray[np.int64]) -> list[Floats]:
            picks = (np.concatenate([units[unit] for unit in each]) for each in draws)
            return [_aurocs(self.scores[index], self.labels[index]) for index in picks]

        samples = stats.resample(aurocs, len(units), resamples, seed)
        rows = []
        for layer, value in enumerate(self.auroc):
            interval = stats.percentile(value, samples[:, layer], fewer, stats.SHARE)
            null = np.quantile(self.null[:, layer], stats.TAILS) if len(self.null) else (np.nan, np.nan)
            rows.append({"layer": layer, **interval.row(), "null_low": null[0], "null_high": null[1], "n": len(units)})
        return pd.DataFrame(rows)


@torch.no_grad()
def last_residuals(lm: LM, prompts: Sequence[str], tick: Tick = ignore, batch: int = BATCH) -> Floats:
    """Return [N L d] residuals at the last token of each prompt: the embedding, then after every block.

    Raises:
        ModelError: the architecture cannot be hooked.
        DataError: the residuals of `batch` prompts do not fit into the free memory.
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
) -> LinearProbe:
    """Fit the contrastive direction between known people and unseen entities by layer, and test it on other people.

    The direction is the mean over questions about known people minus the mean over questions about unseen entities (the
    contrast of `probe.interventions.steering.contrast`). It is fitted on some people and scores the questions about the
    others: folds split people, never the questions about one person, since otherwise the direction could memorise
    names. A fold's scores are measured from the midpoint of the group means, in units of the spread within the groups.
    The null shuffles the labels of people.

    Args:
        residuals: [N L d] residuals, see `last_residuals`.
        known: [N] whether the question is about a known person; equal for all questions about a person.
        people: [N] the person of each question.
        folds: number of parts that the people are split into, each kind evenly.
        shuffles: number of label shuffles S.
        seed: seed of folds and shuffles.

    Raises:
        DataError: there are fewer people of a kind than folds.
    """
    codes, names = pd.factorize(np.asarray(people))
    labels = np.zeros(len(names), dtype=bool)
    labels[codes] = np.asarray(known, dtype=bool)
    fewest = int(min(labels.sum(), (~labels).sum()))
    if folds < 2 or fewest < folds:
        raise DataError(
            f"folds is {folds} and the smaller group has {fewest} people; expected 2 folds or more, and at least"
            " as many people in each group."
        )
    rng = np.random.default_rng(seed)

    def cross(labels: NDArray[np.bool_]) -> Floats:
        fold = np.empty(len(labels), dtype=int)
        for kind in (True, False):
            index = rng.permutation(np.flatnonzero(labels == kind))
            fold[index] = np.arange(len(index)) % folds
        return _held_out(_project, residuals, labels[codes], fold[codes])

    scores, null = cross(labels), []
    for _ in range(shuffles):
        null_labels = rng.permutation(labels)
        null.append(_aurocs(cross(null_labels), null_labels[codes]))
    return LinearProbe(scores, labels[codes], names[codes], np.array(null).reshape(shuffles, residuals.shape[1]))


def project(train: Floats, known: ArrayLike, test: Floats) -> Floats:
    """Compute [M L] scores of M other questions by the direction of all N questions of `train`.

    It is used for people who belong to neither group, such as rare ones; arguments as in `known_direction`.
    """
    return _project(train, np.asarray(known, dtype=bool), test)


def _held_out(
    fit: Callable[[Floats, NDArray[Any], Floats], Floats], x: Floats, y: NDArray[Any], fold: NDArray[np.intp]
) -> Floats:
    """Compute [N ...] cross-validated predictions, each by a fit on the other folds.

    Args:
        fit: function (questions [n L d], labels [n ...], m other questions) -> [m ...].
        x: [N L d] residuals.
        y: [N ...] labels or probabilities.
        fold: [N] index of each question's fold.
    """
    parts = {each: fit(x[fold != each], y[fold != each], x[fold == each]) for each in np.unique(fold)}
    predictions = np.empty((len(x), *next(iter(parts.values())).shape[1:]))
    for each, part in parts.items():
        predictions[fold == each] = part
    return predictions


def _aurocs(scores: Floats, labels: NDArray[np.bool_]) -> Floats:
    """Compute [L] AUROC of scores [N L]."""
    return np.array([auroc(column, labels) for column in scores.T])


def _project(train: Floats, labels: NDArray[np.bool_], test: Floats) -> Floats:
    """Compute [M L] scores of test questions; 0 at layers where the two means are equal up to rounding."""
    one, other = train[labels].mean(axis=0), train[~labels].mean(axis=0)
    vector, middle = one - other, (one + other) / 2
    size = np.linalg.norm(train, axis=-1).mean(axis=0)
    vector[np.linalg.norm(vector, axis=-1) <= FLAT * size] = 0
    projections = np.einsum("nld,ld->nl", train, vector)
    spread = np.sqrt((projections[labels].var(axis=0) + projections[~labels].var(axis=0)) / 2)
    raw = np.einsum("nld,ld->nl", test - middle, vector)
    return np.divide(raw, spread, out=np.zeros_like(raw), where=spread > 0)


PRIOR = 2.0
"""Prior standard deviation s of the logits of questions."""
MOST_STEPS = 500
"""Largest number of steps of the fit."""
ENOUGH = 1e-6
"""Largest change of a fitted probability at which the fit ends."""
RARE = 1e-3
"""Smallest probability of being right, and of being wrong, in the initial constant."""


@dataclass(frozen=True)
class KnowingHead(LinearProbe):
    """Cross-validated P(IK) heads by layer: scores are P(IK), labels whether the model knows the answer."""

    right: Floats
    """[N] probability that the model's answer is right."""
    constant: Floats
    """[N] mean probability over the questions of the other folds."""

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """Return the table by layer with brier and brier_constant before n, which counts questions."""
        table = super().table(resamples, seed)
        table.insert(6, "brier", [brier(p, self.right).mean() for p in self.scores.T])
        table.insert(7, "brier_constant", brier(self.constant, self.right).mean())
        return table


def knows(right: ArrayLike) -> NDArray[np.bool_]:
    """Return [N] whether a probability of being right is at least 1/2."""
    return np.asarray(right, dtype=float) >= 0.5


def brier(p: ArrayLike, right: ArrayLike) -> Floats:
    """Compute [N] the expected (p - right)^2 of an answer that is right with the probability `right`."""
    forecast, chance = np.asarray(p, dtype=float), np.asarray(right, dtype=float)
    return chance * (1 - forecast) ** 2 + (1 - chance) * forecast**2


def too_few(right: ArrayLike, prompts: Sequence[str], folds: int = FOLDS) -> str:
    """Return the reason why no head can be fitted and tested; empty if one can."""
    kinds = pd.Series(knows(right)).groupby(list(prompts)).first()
    knowns, unknowns = int(kinds.sum()), int((~kinds).sum())
    if min(knowns, unknowns) >= folds >= 2:
        return ""
    return f"{knowns} questions are known and {unknowns} are not: a logistic head needs {folds} of each"


def knowing_head(
    residuals: Floats,
    right: ArrayLike,
    prompts: Sequence[str],
    folds: int = FOLDS,
    shuffles: int = 100,
    seed: int = 0,
) -> KnowingHead:
    """Fit heads that predict from the residual stream, before an answer begins, whether it will be right: P(IK).

    Kadavath et al. 2207.05221, section 5, train a head that predicts from a question alone the share of right answers
    sampled at temperature 1. Here the model is not changed, and the head is a logistic regression on the residual
    stream at the question's last token:

        P(IK)(x) = sigma(w . z(x) + b),   minimising  sum_i CE(q_i, P(IK)(x_i)) + d / (2 s^2) ||w||^2,

    where z is the residual, each of its d features with mean 0 and variance 1 over the questions that the head is
    fitted on, and q_i is the probability that the model answers question i right. The prior is w ~ N(0, s^2/d), so the
    logits of questions differ by about s = 2 (why 2: docs/log.md). Every question is scored by a head that was fitted
    on the other folds; equal texts are in the same fold. The model *knows* a question if q >= 1/2. AUROC is the
    probability that a known question has a larger P(IK) than an unknown one; 0.5 is chance. The Brier score is the
    expected (P(IK) - right)^2 of a sampled answer; it is reported with that of a constant fitted without the question.
    The null shuffles q over the questions of each fold.

    Args:
        residuals: [N L d] residuals, see `last_residuals`.
        right: [N] probability that the model answers right; equal for equal prompts.
        prompts: [N] prompts of the questions.
        folds: number of parts that the questions are split into, known and unknown ones evenly.
        shuffles: number of label shuffles S.
        seed: seed of folds and shuffles.

    Raises:
        DataError: there are fewer questions of a kind than folds, or a probability is not valid.
    """
    chances = np.asarray(right, dtype=float)
    if not ((chances >= 0) & (chances <= 1)).all():
        raise DataError("A chance of being right is not between 0 and 1: give the share of right answers.")
    reason = too_few(chances, prompts, folds)
    if reason:
        raise DataError(f"P(IK) cannot be tested in {folds} folds, as {reason}.")
    _, first, codes = np.unique(list(prompts), return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    x, q = residuals[first], chances[first]
    fold = _folds(q, folds, rng)
    p = _held_out(_fit_layers, x, q[:, None], fold)[codes, :, 0]
    constant = _held_out(lambda _, targets, new: np.full(len(new), targets.mean()), x, q, fold)[codes]
    null = np.zeros((0, x.shape[1]))
    if shuffles:
        null_chances = np.stack([_within(q, fold, rng) for _ in range(shuffles)], axis=1)
        null_p = _held_out(_fit_layers, x, null_chances, fold)
        null = np.array([_aurocs(null_p[..., s], knows(null_chances[:, s])) for s in range(shuffles)])
    return KnowingHead(p, knows(chances), np.arange(len(p)), null, chances, constant)


def _folds(right: Floats, folds: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return [N] folds: questions that are neighbours in the order of their probabilities are in different folds."""
    order = np.lexsort((rng.random(len(right)), right))
    fold = np.empty(len(right), dtype=np.intp)
    for start in range(0, len(right), folds):
        part = order[start : start + folds]
        fold[part] = rng.permutation(folds)[: len(part)]
    return fold


def _within(right: Floats, fold: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """Shuffle the [N] probabilities within each fold, so that the folds stay as similar as they are."""
    chances = right.copy()
    for each in np.unique(fold):
        chances[fold == each] = rng.permutation(right[fold == each])
    return chances


def _fit_layers(train: Floats, right: Floats, test: Floats) -> Floats:
    """Compute [M L S] predictions of `fit_heads` at every layer."""
    return np.stack([fit_heads(train[:, layer], right, test[:, layer]) for layer in range(train.shape[1])], axis=1)


def fit_heads(train: Floats, right: Floats, test: Floats) -> Floats:
    """Compute [M S] probabilities of M other questions by heads fitted on N: the minimum of `knowing_head`.

    In the space that the N questions span, where their features are orthogonal, the Hessian is at most diagonal (p (1 -
    p) <= 1/4; Boehning and Lindsay 1988), so every step decreases the loss and no matrix is inverted.

    Args:
        train: [N d] residuals at one layer.
        right: [N S] probabilities; each column has its own head.
        test: [M d] residuals.
    """
    middle, spread = train.mean(axis=0), train.std(axis=0)
    flat = spread <= FLAT * np.sqrt((train**2).mean())
    scale = np.where(flat, 0.0, 1 / np.where(flat, 1.0, spread))
    train_features, test_features = (train - middle) * scale, (test - middle) * scale
    values, vectors = np.linalg.eigh(train_features @ train_features.T)
    keep = values > 1e-10 * max(float(values[-1]), 1e-300)
    root, vectors = np.sqrt(values[keep]), vectors[:, keep]
    features, others = vectors * root, test_features @ train_features.T @ vectors / root
    penalty = train.shape[1] / PRIOR**2
    curvature = (root**2 / 4 + penalty)[:, None]
    bias = logit(right.mean(axis=0).clip(RARE, 1 - RARE))
    weights = np.zeros((features.shape[1], right.shape[1]))
    predictions = expit(features @ weights + bias)
    for _ in range(MOST_STEPS):
        gap = predictions - right
        weights -= (features.T @ gap + penalty * weights) / curvature
        bias -= 4 * gap.mean(axis=0)
        before, predictions = predictions, expit(features @ weights + bias)
        if np.abs(predictions - before).max() < ENOUGH:
            break
    return expit(others @ weights + bias)


SNOWBALL = "snowball"
"""Kind of these items."""
SUMS = 100
"""Largest number of sums with written steps in which a step is forced."""
QUESTIONS, STEPS = 32, 8
"""Largest number of prompts whose first token is exchanged, and number of tokens compared after it."""


def some(found: Snowball, index: NDArray[np.intp]) -> Snowball:
    """Return the snowball of a subset of its prompts."""
    parts: dict[str, Any] = {}
    for each in fields(found):
        values = getattr(found, each.name)
        parts[each.name] = values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]
    return replace(found, **parts)


def snowballs(lm: "LM", world: "World", n: int, seed: int, tick: Tick = ignore) -> tuple[pd.DataFrame, Snowball] | None:
    """Answer sums with written steps whose first result is forced: true in one branch, wrong in the other.

    The final answer of each branch is scored: hallucination after one wrong token.

    Returns:
        Items with the columns snowball_clean and snowball_wrong (whether the final answer of that branch is wrong) and
        snowball_kl (mean KL in nats of the forced branches' later tokens); None if the world has no such sums.
    """
    if "sum_steps" not in world.config.mixture:
        return None
    questions = world.questions("sum_steps", min(n, SUMS), seed)
    prompts = [item.prompt for item in questions]
    result = snowball(lm, prompts, world=world, steps=6 * world.config.max_terms, seed=seed, tick=tick)
    rows = []
    for index, item in enumerate(questions):
        wrong = {}
        for branch in ("clean", "wrong"):
            text = " ".join(getattr(result, branch)[index])
            wrong[f"snowball_{branch}"] = float(world.verify(item.prompt, text).kind != "true")
        row: dict[str, Any] = {
            "item": f"{SNOWBALL}-{index}",
            "kind": SNOWBALL,
            "prompt": item.prompt,
            "expected": item.answers[0].strip(),
        }
        kl = result.forced_kl[index][~np.isnan(result.forced_kl[index])]
        row |= {"answer": " ".join(result.wrong[index]), "snowball_kl": float(kl.mean()) if len(kl) else np.nan}
        rows.append(row | wrong)
    return pd.DataFrame(rows), result


def divergence(lm: "LM", prompts: Sequence[str], seed: int, tick: Tick = ignore) -> tuple[pd.DataFrame, Snowball]:
    """Measure the snowball without a truth: the second most likely first token replaces the most likely one.

    The true answer is unknown, so only the divergence of the two texts is measured.
    """
    prompts = list(prompts[:QUESTIONS])
    result = snowball(lm, prompts, steps=STEPS, seed=seed, tick=tick)
    rows = []
    for index, prompt in enumerate(prompts):
        kl = result.forced_kl[index][~np.isnan(result.forced_kl[index])]
        row: dict[str, Any] = {"item": f"snowball-{index}", "kind": "snowball", "prompt": prompt}
        row |= {"answer": " ".join(result.wrong[index]), "snowball_kl": float(kl.mean()) if len(kl) else np.nan}
        rows.append(row)
    return pd.DataFrame(rows), result
