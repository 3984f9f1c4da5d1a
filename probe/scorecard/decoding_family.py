"""Decoding: what a probe reads from the state at the last token, on people it was not fitted on.

A method is fitted at every block on one part of the training people and tested on the rest of them; at the best block
it is fitted on all training people and scored on the held-out ones. Beside the score stands its selectivity against a
control task (Hewitt and Liang 2019, arXiv 1909.03368; see `probe.probes.decoding`).

Axes: N texts, d width, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.probes.decoding import Prepared, control_labels, halves, prepare, texts_of
from probe.probes.linear_probes import Score, answers, fit, score, score_name, train_simple
from probe.probes.text_labels import WORDS, Question
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.method_record import method
from probe.scorecard.real_texts import labelled
from probe.ticks import Tick

FEW = 8
"""Number of coordinates that a k-sparse probe reads."""
INNER = 1 / 3
"""Share of the training groups on which the block is chosen."""
SCORES = {
    "value": "accuracy",
    "phrase": "accuracy",
    "exposure": "rank correlation",
    "posterior": "rank correlation",
}
"""Scores of questions with several classes or with numbers; a rank correlation is 0 for a guess, which R2 is not."""
QUESTIONS: tuple[Question, ...] = ("claim", "value", "known", "phrase", "exposure", "posterior")


@dataclass(frozen=True)
class Labels:
    """Labelled states, and how they are split."""

    ready: Prepared
    """States [N places d], and the training and held-out texts."""
    codes: np.ndarray
    """[N] labels as methods get them: 0 or 1, numbers of classes, or numbers."""
    name: Score
    """Kind of the labels, by the score of `probe.probes`."""
    words: tuple[list[int], ...]
    """Token ids of each text, for the naive baseline."""
    inner: tuple[np.ndarray, np.ndarray]
    """Training texts on which the block is chosen: those to fit on, and those to test on."""
    seed: int


class Decodes(NamedTuple):
    """Answer of a method."""

    said: np.ndarray
    """[M] values or classes of the held-out texts."""
    block: int
    """Block after which it was read; -1 for a reference."""
    selectivity: float
    """Score on other texts of the training people minus that of the control task."""


def labels_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Labels:
    """Read the states of the texts of a question: of the model's world, or those of `probe.scorecard.real_texts`."""
    question: Any = task
    is_real = probe.world.of(lm) is None
    texts = labelled(lm.tokenizer, question, n, seed) if is_real else texts_of(lm, question, None, n, seed)
    ready = prepare(lm, texts, "last", seed, tick)
    labels = texts.labels
    codes = labels if texts.numeric else np.unique(labels, return_inverse=True)[1]
    names = np.unique(texts.groups[ready.fit])
    held = np.random.default_rng([seed, 4]).permutation(names)[: round(INNER * len(names))]
    outside = np.isin(texts.groups[ready.fit], held)
    ids = tuple(encode(lm.tokenizer, each.prompt) for each in texts.items)
    inner = ready.fit[~outside], ready.fit[outside]
    return Labels(ready, codes, score_name(labels, texts.numeric), ids, inner, seed)


def ask(problem: Labels, function: Callable[..., Any]) -> Decodes | None:
    """Fit a method at every block, and read the held-out texts at the best one."""

    def said(place: int, inside: np.ndarray, outside: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        states, groups = problem.ready.states[:, place].astype(float), problem.ready.texts.groups
        read = function(states[inside], labels[inside], groups[inside])
        if read is None:
            return None
        if not callable(read):
            raise DataError(f"It returned {type(read).__name__}; expected a function from states [N d] to [N] numbers.")
        return checked(read(states[outside]), (len(outside),), "one number for each state")

    places, inner = range(1, problem.ready.states.shape[1]), []
    for place in places:
        found = said(place, *problem.inner, problem.codes)
        if found is None:
            return None
        inner.append(mark(found, problem.codes[problem.inner[1]], problem.name))
    best = places[int(np.nanargmax(np.nan_to_num(inner, nan=-1.0)))]
    outer = said(best, problem.ready.fit, problem.ready.test, problem.codes)
    assert outer is not None
    return Decodes(outer, best - 1, _selectivity(problem, partial(said, best)))


def _selectivity(problem: Labels, said: Callable[..., np.ndarray | None]) -> float:
    """Return the score on other texts of the training people minus that of the control task; NaN with too few texts."""
    groups, codes = problem.ready.texts.groups, problem.codes
    first, second = halves(groups, problem.ready.fit, problem.seed)
    given = control_labels(codes, groups, problem.seed)
    scores = []
    for truth in (codes, given):
        if not len(first) or min(len(np.unique(truth[part])) for part in (first, second)) < 2:
            return float("nan")
        found = said(first, second, truth)
        scores.append(float("nan") if found is None else mark(found, truth[second], problem.name))
    return scores[0] - scores[1]


def mark(said: np.ndarray, labels: np.ndarray, name: Score) -> float:
    """Return the score of an answer: AUROC, accuracy, or rank correlation with numbers."""
    if name == "R2":
        constant = np.ptp(said) < 1e-12 or np.ptp(labels) < 1e-12
        return 0.0 if constant else float(stats.spearmanr(said, labels)[0])
    return score(said, labels, name)


def grade(problem: Labels, truth: str, answer: Decodes) -> Grade:
    """Score the answer on held-out people."""
    found = mark(answer.said, problem.codes[problem.ready.test], problem.name)
    also = {"block": float(answer.block)} if answer.block >= 0 else {}
    return Grade(found, also | ({} if np.isnan(answer.selectivity) else {"selectivity": answer.selectivity}))


def chance(problem: Labels, truth: str) -> float:
    """Return the expected score of a random answer."""
    return {"AUROC": 0.5, "accuracy": 1 / len(np.unique(problem.codes)), "R2": 0.0}[problem.name]


def _reference(said: np.ndarray) -> Decodes:
    return Decodes(said, -1, float("nan"))


def random(problem: Labels, truth: str, rng: np.random.Generator) -> Decodes:
    """Answer at random."""
    size = len(problem.ready.test)
    if problem.name == "accuracy":
        return _reference(rng.choice(np.unique(problem.codes), size))
    return _reference(rng.normal(size=size))


def oracle(problem: Labels, truth: str, rng: np.random.Generator) -> Decodes:
    """Answer with the labels."""
    return _reference(problem.codes[problem.ready.test].astype(float))


def words(problem: Labels, truth: str, rng: np.random.Generator) -> Decodes:
    """Fit a probe on how often each token stands in the text, without the model."""
    tokens = sorted({token for ids in problem.words for token in ids})
    rows = np.zeros((len(problem.words), len(tokens)))
    for at, ids in enumerate(problem.words):
        np.add.at(rows[at], np.searchsorted(tokens, ids), 1)
    inside, test = problem.ready.fit, problem.ready.test
    return _reference(
        logistic_or_ridge(rows[inside], problem.codes[inside], problem.ready.texts.groups[inside])(rows[test])
    )


def kind_of(labels: np.ndarray) -> Score:
    """Return the kind of labels as `probe.probes` scores it: AUROC for two classes, accuracy for several, else R2."""
    return score_name(labels, np.issubdtype(labels.dtype, np.floating))


def logistic_or_ridge(states: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a logistic regression to classes, a ridge regression to numbers, with a penalty chosen among the groups."""
    name = kind_of(labels)
    probe = fit(states, labels, groups, name, seed=0)
    return lambda others: answers(probe.model, others, name)


@method("decoding", title="Logistic probe")
def logistic(states: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Fit a logistic regression; it does not apply to numbers."""
    return None if kind_of(labels) == "R2" else logistic_or_ridge(states, labels, groups)


@method("decoding", title="Ridge probe")
def ridge(states: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a ridge regression to numbers, or to indicators of classes."""
    name = kind_of(labels)
    if name == "R2":
        return logistic_or_ridge(states, labels, groups)
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 4, 9))).fit(states, labels)
    return lambda others: answers(model, others, name)


@method("decoding", title="Difference of means")
def difference_of_means(
    states: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """Read classes by the difference of their means (several: the nearest), numbers by the direction of covariance."""
    name = kind_of(labels)
    model = train_simple(states, labels, name == "R2")
    return lambda others: answers(model, others, name)


@method("decoding", title=f"{FEW}-sparse probe")
def k_sparse(states: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a probe on the coordinates that differ most between classes (Gurnee et al. 2023, arXiv 2305.01610)."""
    scaled = (states - states.mean(0)) / np.maximum(states.std(0), 1e-9)
    if kind_of(labels) == "R2":
        apart = np.abs((labels - labels.mean()) @ scaled)
    else:
        means = np.stack([scaled[labels == each].mean(0) for each in np.unique(labels)])
        apart = means.max(0) - means.min(0)
    chosen = np.argsort(-apart)[:FEW]
    read = logistic_or_ridge(states[:, chosen], labels, groups)
    return lambda others: read(others[:, chosen])


FAMILY = Family(
    name="decoding",
    title="Decoding",
    about="A probe reads a variable from the state at the last token, on people it was not fitted on.",
    receives="states [N d], labels [N] (0 or 1, numbers of classes, or floats) and groups [N] (names of people)",
    returns="a function from other states [M d] to [M] numbers: for two classes larger for label 1, for several the"
    " number of the class; None if the method does not apply to such labels",
    truths=tuple(Truth(name, WORDS[name], SCORES.get(name, "AUROC"), name) for name in QUESTIONS),
    n=600,
    baseline="words",
    prepare=labels_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle, "words": words},
    titles={"words": "Bag of words"},
)
