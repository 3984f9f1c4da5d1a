"""Does the residual stream say what a model knows? A direction of known people, P(IK) heads, and snowballs as items.

The residual is read after each block, at the question's last token. Directions and heads are fitted on some questions
and score others, and every result comes with the null of shuffled labels. Snowballs (METRICS) follow one wrong token
(`probe.autoregression.snowballs`) and become rows of the experiment `hallucination`.

Axes: N questions, L = D + 1 layers (0 is the embedding, l is after block l - 1), d width, S shuffles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from probe.autoregression.snowballs import Snowball, snowball
from probe.errors import DataError
from probe.hallucination.confidence import auroc
from probe.interventions.sites import Site
from probe.model.lm import LM
from probe.model.text import encode
from probe.stats import SHARE, Interval, unvaried
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.world.world import World

Floats = NDArray[np.float64]
FOLDS = 5
BATCH = 64
FLAT = 1e-6
"""A direction this much shorter than the residuals themselves is rounding, not a direction."""


@dataclass(frozen=True)
class KnownDirection:
    """How well a direction tells known people from unseen entities, by layer."""

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
            found = unvaried(Interval(value, low, high), fewer, SHARE)
            null_low, null_high = (np.nan, np.nan)
            if len(self.null):
                null_low, null_high = np.quantile(self.null[:, layer], [0.025, 0.975])
            row = {"layer": layer, **found.row()}
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
    """The contrastive direction between known people and unseen entities by layer, tested on other people.

    The direction is the mean over questions about known people minus the mean over questions about unseen entities (the
    contrast of `probe.interventions.steering.contrast`). It is fitted on some people and scores the questions about the
    others: folds split people, never the questions about one person, as else the direction would only know names by
    heart. A fold's scores are in units of the spread within both groups, from the middle between their means. AUROC is
    that a known person scores above an unseen entity; 0.5 says nothing.

    The null shuffles who is known, person by person, and does all of it again. As the best of several layers is better
    than 0.5 by chance, the null is also given for the best layer.

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


PRIOR = 2.0
"""s: how far the logits of questions are apart before any answer is seen."""
MOST_STEPS = 500
"""Most steps of the fit."""
ENOUGH = 1e-6
"""Change of the probabilities of the questions fitted on, below which the fit ends."""
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
            found = unvaried(Interval(value, low, high), fewer, SHARE)
            null = np.quantile(self.null[:, layer], [0.025, 0.975]) if len(self.null) else (np.nan, np.nan)
            row = {"layer": layer, **found.row()}
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
    """P(IK): does the residual stream say, before an answer begins, whether the answer will be right?

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
    p, constant = _fitted_across_folds(x, q[:, None], fold)
    null = np.zeros((0, x.shape[1]))
    if shuffles:
        mixed = np.stack([_within(q, fold, rng) for _ in range(shuffles)], axis=1)
        drawn, _ = _fitted_across_folds(x, mixed, fold)
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


def _fitted_across_folds(x: Floats, right: Floats, fold: NDArray[np.intp]) -> tuple[Floats, Floats]:
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
            p[out, layer] = fit_heads(x[~out, layer], right[~out], x[out, layer])
    return p, constant


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
    for _ in range(MOST_STEPS):
        gap = said - right
        weights -= (features.T @ gap + penalty * weights) / curvature
        bias -= 4 * gap.mean(axis=0)
        before, said = said, expit(features @ weights + bias)
        if np.abs(said - before).max() < ENOUGH:
            break
    return expit(others @ weights + bias)


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

    The final answer of each branch is judged: hallucination after one wrong token.

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
    """The snowball without a truth: the second likeliest first token in place of the likeliest, and where it leads.

    Nothing is known of what is true, so only how far the two texts diverge is measured.
    """
    prompts = list(prompts[:QUESTIONS])
    found = snowball(lm, prompts, steps=STEPS, seed=seed, tick=tick)
    rows = []
    for index, prompt in enumerate(prompts):
        known = found.forced_kl[index][~np.isnan(found.forced_kl[index])]
        row: dict[str, Any] = {"item": f"snowball-{index}", "kind": "snowball", "prompt": prompt}
        row |= {"answer": " ".join(found.wrong[index]), "snowball_kl": float(known.mean()) if len(known) else np.nan}
        rows.append(row)
    return pd.DataFrame(rows), found
