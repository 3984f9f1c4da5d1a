"""Does the residual stream say what a model knows? A direction of known people, P(IK) heads, and snowballs as items.

Linear probes read the residual after each block at the question's last token. Folds split what is independent, so that
every question is scored by a probe that was fitted without it; AUROC is that a positive question scores above a
negative one, and 0.5 says nothing. The null shuffles the labels and does all of it again. As the best of several layers
is better than 0.5 by chance, the p-value without a layer is that of the best one. Snowballs (METRICS) follow one wrong
token (`probe.autoregression.snowballs`) and become rows of the experiment `hallucination`.

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
"""A direction this much shorter than the residuals themselves is rounding, not a direction."""


@dataclass(frozen=True)
class LinearProbe:
    """How well linear probes tell questions of two kinds apart that they were not fitted on, by layer."""

    scores: Floats
    """[N L] score of each question by a probe of the other folds."""
    labels: NDArray[np.bool_]
    """[N] of which kind the question is."""
    units: NDArray[Any]
    """[N] the independent units: the person, or the question itself."""
    null: Floats
    """[S L] AUROC with shuffled labels."""

    @property
    def auroc(self) -> Floats:
        """[L] cross-validated AUROC."""
        return _aurocs(self.scores, self.labels)

    @property
    def middle(self) -> int:
        """The layer after the first half of the blocks, chosen before looking."""
        return self.scores.shape[1] // 2

    def p_value(self, layer: int | None = None) -> float:
        """Share of shuffles that are at least as good at a layer, or at their best one; the observed one counted in."""
        at = slice(None) if layer is None else slice(layer, layer + 1)
        count = int((self.null[:, at].max(axis=1) >= self.auroc[at].max()).sum())
        return (1 + count) / (1 + len(self.null))

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """One row a layer: layer, value, ci_low, ci_high, null_low, null_high, n (units).

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
) -> LinearProbe:
    """Fit the contrastive direction between known people and unseen entities by layer; test it on other people.

    The direction is the mean over questions about known people minus the mean over questions about unseen entities (the
    contrast of `probe.interventions.steering.contrast`). It is fitted on some people and scores the questions about the
    others: folds split people, never the questions about one person, as else the direction would only know names by
    heart. A fold's scores are in units of the spread within both groups, from the middle between their means. The
    null shuffles who is known, person by person.

    Args:
        residuals: [N L d], see `last_residuals`.
        known: [N] whether the question is about a known person; equal for all questions about one.
        people: [N] the person of each question.
        folds: into how many parts the people are split, each kind evenly.
        shuffles: S.
        seed: seed of folds and shuffles.

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
    """[M L] scores of M other questions by the direction of all N questions of `train`; arguments as above.

    For people who belong to neither group, such as rare ones.
    """
    return _project(train, np.asarray(known, dtype=bool), test)


def _held_out(
    fit: Callable[[Floats, NDArray[Any], Floats], Floats], x: Floats, y: NDArray[Any], fold: NDArray[np.intp]
) -> Floats:
    """[N ...] cross-validated predictions: those of a fit on the other folds.

    Args:
        fit: questions [n L d] with their labels [n ...], and m others -> [m ...].
        x: [N L d].
        y: [N ...] labels or chances.
        fold: [N].
    """
    parts = {each: fit(x[fold != each], y[fold != each], x[fold == each]) for each in np.unique(fold)}
    predictions = np.empty((len(x), *next(iter(parts.values())).shape[1:]))
    for each, part in parts.items():
        predictions[fold == each] = part
    return predictions


def _aurocs(scores: Floats, labels: NDArray[np.bool_]) -> Floats:
    """[L] AUROC of scores [N L]."""
    return np.array([auroc(column, labels) for column in scores.T])


def _project(train: Floats, labels: NDArray[np.bool_], test: Floats) -> Floats:
    """[M L] scores of test questions; 0 at layers where the two means are equal up to rounding."""
    one, other = train[labels].mean(axis=0), train[~labels].mean(axis=0)
    vector, middle = one - other, (one + other) / 2
    size = np.linalg.norm(train, axis=-1).mean(axis=0)
    vector[np.linalg.norm(vector, axis=-1) <= FLAT * size] = 0
    projections = np.einsum("nld,ld->nl", train, vector)
    spread = np.sqrt((projections[labels].var(axis=0) + projections[~labels].var(axis=0)) / 2)
    raw = np.einsum("nld,ld->nl", test - middle, vector)
    return np.divide(raw, spread, out=np.zeros_like(raw), where=spread > 0)


PRIOR = 2.0
"""s: how far the logits of questions are apart before any answer is seen."""
MOST_STEPS = 500
"""Most steps of the fit."""
ENOUGH = 1e-6
"""Change of the probabilities of the questions fitted on, below which the fit ends."""
RARE = 1e-3
"""Least chance of being right that the constant starts from, and of being wrong."""


@dataclass(frozen=True)
class KnowingHead(LinearProbe):
    """Heads: the scores are P(IK), the labels whether the model knows the answer."""

    right: Floats
    """[N] chance that the model's answer is right."""
    constant: Floats
    """[N] mean chance over the questions of the other folds."""

    def table(self, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
        """With brier and brier_constant before n, which counts questions."""
        table = super().table(resamples, seed)
        table.insert(6, "brier", [brier(p, self.right).mean() for p in self.scores.T])
        table.insert(7, "brier_constant", brier(self.constant, self.right).mean())
        return table


def knows(right: ArrayLike) -> NDArray[np.bool_]:
    """[N] whether a chance of being right is 1/2 or more."""
    return np.asarray(right, dtype=float) >= 0.5


def brier(p: ArrayLike, right: ArrayLike) -> Floats:
    """[N] expected (p - right)^2 of an answer that is right with the chance `right`."""
    forecast, chance = np.asarray(p, dtype=float), np.asarray(right, dtype=float)
    return chance * (1 - forecast) ** 2 + (1 - chance) * forecast**2


def too_few(right: ArrayLike, prompts: Sequence[str], folds: int = FOLDS) -> str:
    """Why no head can be fitted and tested; empty if one can."""
    kinds = pd.Series(knows(right)).groupby(list(prompts)).first()
    knowns, unknowns = int(kinds.sum()), int((~kinds).sum())
    if min(knowns, unknowns) >= folds >= 2:
        return ""
    return f"{knowns} questions are known and {unknowns} are not: a head needs {folds} of each"


def knowing_head(
    residuals: Floats,
    right: ArrayLike,
    prompts: Sequence[str],
    folds: int = FOLDS,
    shuffles: int = 100,
    seed: int = 0,
) -> KnowingHead:
    """P(IK): does the residual stream predict, before an answer begins, whether the answer will be right?

    Kadavath et al. 2207.05221, section 5, train a head on a question alone to tell the share of answers, sampled at
    temperature 1, that are right. Here the model stays as it is, and the head is a logistic regression on the residual
    stream at the question's last token:

        P(IK)(x) = sigma(w . z(x) + b),   minimising  sum_i CE(q_i, P(IK)(x_i)) + d / (2 s^2) ||w||^2,

    where z is the residual, each of its d features with mean 0 and variance 1 over the questions that the head is
    fitted on, and q_i is the chance that the model answers question i right. So w ~ N(0, s^2/d) beforehand: the logits
    of questions differ by about s = 2 (why 2: docs/log.md). Every question is asked of a head that was fitted on the
    other folds; one text is in one fold.

    The model *knows* a question that it answers right more often than not (q >= 1/2). AUROC is that one it knows has
    the larger P(IK); 0.5 says nothing. The Brier score is the expected (P(IK) - right)^2 of a sampled answer; beside it
    stands that of the constant that is fitted without reading the question. The null shuffles q over the questions of
    each fold.

    Args:
        residuals: [N L d], see `last_residuals`.
        right: [N] chance that the model answers right; equal for equal prompts.
        prompts: [N] the questions as they are asked.
        folds: into how many parts the questions are split, known and unknown ones evenly.
        shuffles: S.
        seed: seed of folds and shuffles.

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
    p = _held_out(_fit_layers, x, q[:, None], fold)[codes, :, 0]
    constant = _held_out(lambda _, targets, new: np.full(len(new), targets.mean()), x, q, fold)[codes]
    null = np.zeros((0, x.shape[1]))
    if shuffles:
        null_chances = np.stack([_within(q, fold, rng) for _ in range(shuffles)], axis=1)
        null_p = _held_out(_fit_layers, x, null_chances, fold)
        null = np.array([_aurocs(null_p[..., s], knows(null_chances[:, s])) for s in range(shuffles)])
    return KnowingHead(p, knows(chances), np.arange(len(p)), null, chances, constant)


def _folds(right: Floats, folds: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """[N] the fold of each question: neighbours in the order of their chances are in different ones."""
    order = np.lexsort((rng.random(len(right)), right))
    fold = np.empty(len(right), dtype=np.intp)
    for start in range(0, len(right), folds):
        part = order[start : start + folds]
        fold[part] = rng.permutation(folds)[: len(part)]
    return fold


def _within(right: Floats, fold: NDArray[np.intp], rng: np.random.Generator) -> Floats:
    """[N] the chances shuffled within each fold, so that the folds stay as alike as they are."""
    chances = right.copy()
    for each in np.unique(fold):
        chances[fold == each] = rng.permutation(right[fold == each])
    return chances


def _fit_layers(train: Floats, right: Floats, test: Floats) -> Floats:
    """[M L S] `fit_heads` at every layer."""
    return np.stack([fit_heads(train[:, layer], right, test[:, layer]) for layer in range(train.shape[1])], axis=1)


def fit_heads(train: Floats, right: Floats, test: Floats) -> Floats:
    """[M S] probabilities of M other questions by heads fitted on N: the minimum of `knowing_head`.

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
"""The kind of these items."""
SUMS = 100
"""Sums with steps in which a step is forced, at most."""
QUESTIONS, STEPS = 32, 8
"""Prompts whose first token is exchanged, at most, and how many tokens after it are followed."""


def some(found: Snowball, index: NDArray[np.intp]) -> Snowball:
    """Return the snowball of some of its prompts."""
    parts: dict[str, Any] = {}
    for each in fields(found):
        values = getattr(found, each.name)
        parts[each.name] = values[index] if isinstance(values, np.ndarray) else [values[i] for i in index]
    return replace(found, **parts)


def snowballs(lm: "LM", world: "World", n: int, seed: int, tick: Tick = ignore) -> tuple[pd.DataFrame, Snowball] | None:
    """Answer sums with written steps whose first result is forced: true in one branch, wrong in the other.

    The final answer of each branch is judged: hallucination after one wrong token.

    Returns:
        Items with the columns snowball_clean and snowball_wrong (whether the final answer of that branch is wrong) and
        snowball_kl (mean KL in nats of the forced branches' later tokens); None where the world has no such sums.
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
    """Measure the snowball without a truth: the second likeliest first token replaces the likeliest.

    The true answer is not known, so only the divergence of the two texts is measured.
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
