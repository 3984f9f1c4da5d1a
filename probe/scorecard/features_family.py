"""Features: whether single directions of a dictionary stand for what the world's texts are about.

A method learns a dictionary from states of the corpus and never sees a label. For each class of a variable (a person, a
relation, a value, an unseen person, a phrase) the best feature and its threshold are chosen on one half of the
questions and scored on the other (`probe.scorecard.feature_questions`).

Axes: N states of the corpus, T questions, M held-out questions (of states: models), F features, d width, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from probe.errors import DataError
from probe.features.autoencoder import Autoencoder
from probe.features.fitting import FitSettings, find_threshold, fit
from probe.model.lm import LM
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.feature_matches import best_matches, covering_matches, expected_f1, f1, recall, said
from probe.scorecard.feature_questions import Questions, questions_of, top_tokens
from probe.scorecard.method_record import method
from probe.ticks import Tick

FEATURES = 512
"""Largest number of features of a dictionary: that of the fit that comes with Probe."""
ACTIVE, STEPS, BATCH = 16, 2000, 512
"""Mean number of active features at a token, steps, and tokens of a step of an autoencoder: defaults of a fit."""
FITTED = 20_000
"""Largest number of states from which independent components are computed."""
GUESSES = 20
"""Number of random answers from which the expected score of a guess is computed."""
COVERED = ("person", "relation", "value", "known")
"""Variables of the truth `coverage`, in equal parts."""
ABLATED = ("relation", "value", "known")
"""Variables of the truth `causal`, in equal parts."""
COVERAGE, CAUSAL = "coverage", "causal"


class Said(NamedTuple):
    """Statements of features about the held-out questions of a variable."""

    one: np.ndarray
    """[M C] whether each is said to be of each class, or its answer changed."""
    several: np.ndarray | None = None
    """[M C] the same for several features together."""


Answer = Mapping[str, Mapping[str, Said]]
"""Statements about each variable of a truth."""


def variables_of(truth: str) -> tuple[str, ...]:
    """Return the variables of a truth."""
    return {COVERAGE: COVERED, CAUSAL: ABLATED}.get(truth, (truth,))


def prepare(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Questions:
    """Draw questions and read their states, and compute what a guess scores."""
    problem, rng = questions_of(lm, n, seed, tick), np.random.default_rng([seed, 7])
    return replace(problem, chances={each.name: guessed(problem, each.name, rng) for each in TRUTHS})


def ask(problem: Questions, function: Callable[..., Any]) -> Answer:
    """Learn a dictionary, and match its features to the classes of every variable."""
    answer = function(problem.corpus.copy(), FEATURES)
    if not isinstance(answer, tuple) or len(answer) != 2 or not callable(answer[0]):
        raise DataError(
            f"It returned {type(answer).__name__}; expected a pair: a function from states [M d], and [F d]."
        )
    encoded = answer[0](problem.states.copy())
    size = np.shape(encoded)[-1] if np.ndim(encoded) == 2 else FEATURES
    if size > FEATURES:
        raise DataError(f"It returned {size} features; at most {FEATURES} were wanted.")
    values = checked(encoded, (len(problem.states), size), "activations of at most as many features as were wanted")
    directions = None
    if answer[1] is not None:
        directions = checked(answer[1], (size, problem.states.shape[1]), "one direction for each feature")
    return {each.name: answer_with(problem, each.name, values, directions) for each in TRUTHS}


def answer_with(
    problem: Questions, truth: str, values: np.ndarray, directions: np.ndarray | None = None
) -> dict[str, Said]:
    """Return what the best features say of each variable of a truth.

    Args:
        problem: the questions.
        truth: name of the truth.
        values: [T F] activations.
        directions: [F d] what each feature adds to a state when its activation is 1; None if nothing is ablated.
    """
    found = {}
    for name in variables_of(truth):
        own = problem.variables[name]
        labels, held = own.truth[own.fit], values[own.test]
        if truth == COVERAGE:
            groups = covering_matches(values[own.fit], labels)
            found[name] = Said(said(held, [group[:1] for group in groups]), said(held, groups))
            continue
        matches = best_matches(values[own.fit], labels)
        if truth == CAUSAL:
            columns = [each.feature for each in matches]
            found[name] = Said(changed_answers(problem, own.test, held[:, columns], directions, columns))
        else:
            found[name] = Said(said(held, [[each] for each in matches]))
    return found


def changed_answers(
    problem: Questions, test: np.ndarray, values: np.ndarray, directions: np.ndarray | None, columns: list[int]
) -> np.ndarray:
    """Return whether the most probable token changes [M C] when activation x direction is subtracted from the state.

    The rest of the state stays, with what the dictionary does not explain.
    """
    changed = np.zeros(values.shape, dtype=bool)
    if directions is None:
        return changed
    for at, column in enumerate(columns):
        active = np.flatnonzero(values[:, at])
        rows = test[active]
        without = problem.states[rows] - values[active, at, None] * directions[column]
        put = torch.from_numpy(without).float()
        found = top_tokens(problem.lm, [problem.ids[row] for row in rows], problem.block, put)
        changed[active, at] = found != problem.top[rows]
    return changed


def mean_over_classes(
    problem: Questions, answer: Mapping[str, Said], score: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> float:
    """Return the mean of a score over classes, then over variables."""
    truths = {name: problem.variables[name].truth[problem.variables[name].test] for name in answer}
    return float(np.mean([score(each.one, truths[name]).mean() for name, each in answer.items()]))


def grade(problem: Questions, truth: str, answer: Answer) -> Grade:
    """Score what was said of the held-out questions."""
    own = answer[truth]
    classes = sum(problem.variables[name].truth.shape[1] for name in own)
    also: dict[str, float] = {"classes": classes}
    if truth == COVERAGE:
        several = {name: Said(each.several) for name, each in own.items() if each.several is not None}
        also |= {"several features": mean_over_classes(problem, several, recall)} if several else {}
        return Grade(mean_over_classes(problem, own, recall), also)
    if truth == CAUSAL:
        also["changed"] = mean_over_classes(problem, own, recall)
        also["changed elsewhere"] = mean_over_classes(problem, own, lambda said, true: recall(said, ~true))
    return Grade(mean_over_classes(problem, own, f1), also)


def guessed(problem: Questions, truth: str, rng: np.random.Generator) -> float:
    """Return the expected score of a random answer: exact, given how many questions it says are of a class."""

    def expected(active: np.ndarray, true: np.ndarray) -> np.ndarray:
        return active.mean(0) if truth == COVERAGE else expected_f1(active, true)

    answers = [random(problem, truth, rng)[truth] for _ in range(GUESSES)]
    return float(np.mean([mean_over_classes(problem, each, expected) for each in answers]))


def chance(problem: Questions, truth: str) -> float:
    """Return the expected score of a random answer."""
    return problem.chances[truth]


def random(problem: Questions, truth: str, rng: np.random.Generator) -> Answer:
    """Match features whose activations are random, or change as many answers as there are, at random."""
    if truth == CAUSAL:
        own = {name: problem.variables[name] for name in ABLATED}
        return {truth: {name: Said(rng.permuted(each.truth[each.test], axis=0)) for name, each in own.items()}}
    return {truth: answer_with(problem, truth, rng.normal(size=(len(problem.ids), FEATURES)))}


def oracle(problem: Questions, truth: str, rng: np.random.Generator) -> Answer:
    """Match features that are the classes, or change the answers of each class."""
    if truth == CAUSAL:
        own = {name: problem.variables[name] for name in ABLATED}
        return {truth: {name: Said(each.truth[each.test]) for name, each in own.items()}}
    values = np.hstack([problem.variables[name].truth for name in variables_of(truth)])
    return {truth: answer_with(problem, truth, values.astype(float))}


def words(problem: Questions, truth: str, rng: np.random.Generator) -> Answer:
    """Match counts of tokens in the text, without the model; they have no direction."""
    counts = np.zeros((len(problem.ids), 1 + max(map(max, problem.ids))))
    for at, ids in enumerate(problem.ids):
        np.add.at(counts[at], ids, 1)
    return {truth: answer_with(problem, truth, counts)}


Encode = Callable[[np.ndarray], np.ndarray]


def both_ways(encode: Encode, directions: np.ndarray) -> tuple[Encode, np.ndarray]:
    """Return a dictionary in which each signed component is two features, one each way."""
    return lambda states: np.hstack([(found := encode(states)), -found]), np.vstack([directions, -directions])


def batches(states: np.ndarray) -> Iterator[torch.Tensor]:
    """Yield batches [B M d] of states [N M d], mixed anew after each pass, for ever."""
    rng, given = np.random.default_rng(0), torch.from_numpy(states)
    while True:
        order = torch.from_numpy(rng.permutation(len(given)))
        for start in range(0, max(1, len(order) - BATCH + 1), BATCH):
            yield given[order[start : start + BATCH]]


def dictionary_of(model: Autoencoder) -> tuple[Encode, np.ndarray]:
    """Return encoder and decoder of an autoencoder of one model."""

    @torch.no_grad()
    def encode(states: np.ndarray) -> np.ndarray:
        return model.encode(torch.from_numpy(states).float()[:, None]).numpy()

    return encode, model.W_dec[:, 0].detach().numpy()


@method("features", title="Sparse autoencoder (BatchTopK)")
def sparse_autoencoder(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Fit a BatchTopK autoencoder (Bussmann, Leask and Nanda 2024, arXiv 2412.06410)."""
    settings = FitSettings(features, min(ACTIVE, features), STEPS, BATCH)
    return dictionary_of(fit(batches(states[:, None]), settings).model)


@method("features", title="Untrained autoencoder")
@torch.no_grad()
def untrained_autoencoder(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Draw directions at random, and let as many be active as in a fit; nothing but the mean is learned."""
    model = Autoencoder.random(1, states.shape[1], features, seed=1)
    model.b_dec.copy_(torch.from_numpy(states.mean(0))[None])
    model.threshold.fill_(find_threshold(model, batches(states[:, None]), min(ACTIVE, features)))
    return dictionary_of(model)


@method("features", title="Principal components")
def principal_components(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Take the directions of largest variance, each way."""
    from sklearn.decomposition import PCA

    model = PCA(min(features // 2, *states.shape), random_state=0).fit(states)
    return both_ways(model.transform, model.components_)


@method("features", title="Independent components")
def independent_components(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Take the directions whose projections are least normal (FastICA, Hyvarinen 1999), each way."""
    import warnings

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    few = states[np.random.default_rng(0).permutation(len(states))[:FITTED]]
    model = FastICA(min(features // 2, *few.shape), whiten="unit-variance", random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(few)
    return both_ways(model.transform, model.mixing_.T)


@method("features", title="k-means")
def k_means(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Take the nearest of as many centres as the only active feature."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(min(features, len(states)), batch_size=4096, n_init=3, random_state=0).fit(states)
    rows = np.eye(len(model.cluster_centers_))
    return lambda others: rows[model.predict(others)], model.cluster_centers_ - states.mean(0)


@method("features", title="Coordinates")
def coordinates(states: np.ndarray, features: int) -> tuple[Encode, np.ndarray]:
    """Take the coordinates of the residual stream, about their means, each way; nothing is learned."""
    mean, kept = states.mean(0), min(features // 2, states.shape[1])
    return both_ways(lambda others: (others - mean)[:, :kept], np.eye(states.shape[1])[:kept])


TRUTHS = (
    Truth("person", "which person a question is about", "F1"),
    Truth("relation", "which relation a question is about", "F1"),
    Truth("value", "which value is the answer", "F1"),
    Truth("known", "whether a person is unseen", "F1"),
    Truth("phrase", "the phrase of a claim", "F1"),
    Truth(COVERAGE, "a class by one feature of precision 0.9", "share of texts"),
    Truth(CAUSAL, "the questions of a class, by ablation of the feature", "F1"),
)
FAMILY = Family(
    name="features",
    title="Features",
    about="A dictionary learned without labels has single directions that stand for persons, relations or values.",
    receives="states [N d] of tokens of the corpus, and the largest number of features F",
    returns="a pair: a function from states [M d] to activations [M F], and the direction [F d] that each feature adds"
    " to a state; None in place of directions if there are none",
    truths=TRUTHS,
    n=1200,
    baseline="words",
    prepare=prepare,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle, "words": words},
    titles={"words": "Bag of words"},
)
