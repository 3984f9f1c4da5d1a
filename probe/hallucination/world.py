"""Answers about known people, rare people and unseen entities, exact and sampled, and a lower bound on errors.

Answer sets are finite, so every function of the distribution over answers is a sum over the set. An answer is a
hallucination (E17, H = 1 - V) if it is neither true nor "i do not know": another value, any value for an unseen entity,
or no answer at all. Questions are grouped by exposure, the number of times that the corpus states the fact. The lower
bound on errors is `validity_bound` (Kalai et al. 2509.04664).

    asked = ask(world, n=400, seed=0)
    answers, codes = enumerate_prompts(lm, world, asked)
    items = pd.concat([asked_table(asked), exact_columns(answers, codes, asked, samples=10)], axis=1)

Axes: N questions, P different prompts among them, A answers.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probe import stats
from probe.errors import DataError
from probe.experiments.metrics import interval_of
from probe.hallucination.confidence import (
    NAMED,
    agreement,
    answers_above,
    clusters,
    discrete_entropy,
    exact_entropy,
    expected_discrete,
    identical,
    score,
    with_rest,
)
from probe.hallucination.knowing import LinearProbe, known_direction, last_residuals, project
from probe.rewards.answers import AnswerSet, enumerate_answers
from probe.rewards.evaluation import ANSWER_TOKENS, INVENTED, answer
from probe.rewards.optimum import condition
from probe.ticks import Tick, ignore
from probe.world.language import read
from probe.world.verifier import answer_words
from probe.world.vocabulary import ABSTENTION

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.world.questions import Item
    from probe.world.world import World

SINGLE = 5
"""Largest count with a class of its own; above it, classes reach from one power of 4 to the next."""


class ExposureClass(NamedTuple):
    """Range of exposure counts."""

    low: int
    high: int

    @property
    def label(self) -> str:
        """Label such as `3` or `64-255`."""
        return str(self.low) if self.low == self.high else f"{self.low}\u2013{self.high}"


class Singletons(NamedTuple):
    """Share of a corpus's facts that are stated exactly once."""

    rate: float
    """sr = |S| / N of Kalai et al. 2509.04664 (definition 2): facts stated once, divided by all N documents that state
    a fact.
    """
    share: float
    """Facts stated once, divided by all facts that are stated."""
    singletons: int
    """Number of facts stated once, |S|."""
    facts: int
    """Number of facts that are stated."""
    documents: int
    """Number of documents N that state a fact."""


def exposure_class(count: int) -> ExposureClass:
    """Return the class of a count: 0 to 5 each its own, then 6-15, 16-63, 64-255, ...

    Raises:
        DataError: the count is negative.
    """
    if count < 0:
        raise DataError(f"A fact was said {count} times: counts start at 0.")
    if count <= SINGLE:
        return ExposureClass(count, count)
    high = 16
    while high <= count:
        high *= 4
    return ExposureClass(max(high // 4, SINGLE + 1), high - 1)


def singletons(counts: Mapping[str, Mapping[str, int]] | Iterable[int]) -> Singletons:
    """Compute the exact singleton rate of a corpus.

    Args:
        counts: number of times each fact is stated, such as `World.exposure` (one epoch, documents that state or ask
            for it).

    Raises:
        DataError: no fact is stated.
    """
    each = [n for facts in counts.values() for n in facts.values()] if isinstance(counts, Mapping) else list(counts)
    nonzero = [n for n in each if n]
    if not nonzero:
        raise DataError("The corpus states no fact, so there is no singleton rate: give a corpus with facts.")
    once = sum(n == 1 for n in nonzero)
    return Singletons(once / sum(nonzero), once / len(nonzero), once, len(nonzero), sum(nonzero))


Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ValidityBound(NamedTuple):
    """Both sides of the theorem of `validity_bound` and the terms of the right side, all as shares."""

    error: float
    """Error rate err, the left side."""
    iiv_error: float
    """Error err_iiv of the model as a classifier of validity."""
    ratio: float
    """Ratio max |V_c| / min |E_c|."""
    delta: float
    """Calibration gap |p^(A) - p(A)|."""
    threshold: float
    """Threshold 1 / min |E_c|; above it the model calls an answer valid."""

    @property
    def bound(self) -> float:
        """Lower bound 2 err_iiv - ratio - delta; vacuous if negative."""
        return 2 * self.iiv_error - self.ratio - self.delta


class JudgedAnswers(NamedTuple):
    """Answers to P prompts with the quantities of the theorem."""

    model: Floats
    """[P A] model probabilities p^(r | c); rows sum to 1."""
    train: Floats
    """[P A] training probabilities p(r | c); rows sum to 1."""
    valid: Bools
    """[P A] whether r is in V_c; False beyond a prompt's answers."""
    mask: Bools
    """[P A] True at answers."""

    def take(self, keep: ArrayLike) -> "JudgedAnswers":
        """Return the judged answers to some prompts, given by a [P] mask or their indices."""
        index = np.asarray(keep)
        return JudgedAnswers(*(each[index] for each in self))


def validity_bound(judged: JudgedAnswers, weights: ArrayLike | None = None) -> ValidityBound:
    """Compute both sides of theorem 1 of Kalai et al. 2509.04664, exactly: a lower bound on errors.

    Let prompts c come from mu, split the plausible answers to c into the valid ones V_c and the errors E_c, and let
    p(r | c) be a training distribution without errors, p(V) = 1. Then every model p^ has

        err >= 2 err_iiv - max_c |V_c| / min_c |E_c| - delta

    with

    - err = sum_c mu(c) p^(E_c | c), the error rate of the model;
    - err_iiv, the error of p^ as a classifier for "Is it valid?": it calls (c, r) valid where p^(r | c) > 1 / min_c
      |E_c|, and is tested on a mixture that draws c from mu, and with probability 1/2 each r from p(. | c), which is
      valid, or r uniformly from E_c;
    - delta = |p^(A) - p(A)|, where A are the answers that it calls valid: the miscalibration of the model at this
      threshold.

    In a world the plausible answers are the values of the relation and the abstention. Abstaining is always valid, as
    in the paper; p states the truth if there is one and abstains about unseen entities. This p is the honest corpus;
    the world's own corpus makes up answers about unseen entities, so p(V) = 1 does not hold for it. For a model that
    learned these, delta is large and the bound is weak. p^ is conditioned on the answer set; since other completions
    are not valid answers either, the bound also holds for the share of all completions that are errors.

    Args:
        judged: answers to P prompts.
        weights: [P] weights mu(c), not necessarily normalised; uniform by default.

    Raises:
        DataError: there is no prompt, a distribution does not sum to 1, the training distribution has errors, or a
            prompt has no valid answer or no error.
    """
    model, train, valid, mask = judged
    if not len(model):
        raise DataError("The validity bound needs prompts and got none: give at least one.")
    for name, rows in (("model", model), ("training distribution", train)):
        if np.any(rows < 0) or not np.allclose(np.where(mask, rows, 0).sum(axis=1), 1, atol=1e-6):
            raise DataError(f"The {name} gives answers that do not sum to 1 for each prompt: normalise its rows.")
    if np.any(train[mask & ~valid] > 1e-9):
        raise DataError("The training distribution has errors, and the bound needs p(V) = 1: remove the errors.")
    errors = mask & ~valid
    counts, valid_counts = errors.sum(axis=1), (mask & valid).sum(axis=1)
    if not counts.all() or not valid_counts.all():
        raise DataError("A prompt has no valid answer or no error: leave such prompts out of the bound.")
    mu = np.ones(len(model)) if weights is None else np.asarray(weights, dtype=float)
    mu = mu / mu.sum()
    threshold = 1 / counts.min()
    positives = mask & (model > threshold)
    false_negatives = (train * (valid & ~positives)).sum(axis=1)
    false_positives = (errors & positives).sum(axis=1) / counts
    return ValidityBound(
        error=float(mu @ (model * errors).sum(axis=1)),
        iiv_error=float(mu @ (false_negatives + false_positives)) / 2,
        ratio=float(valid_counts.max() / counts.min()),
        delta=abs(float(mu @ ((model - train) * positives).sum(axis=1))),
        threshold=float(threshold),
    )


def judged_answers(world: "World", answers: "AnswerSet", truths: Sequence[str | None]) -> JudgedAnswers:
    """Classify the world's answers to questions about facts: the truth, if there is one, and abstaining are valid.

    Args:
        world: world that defines the words for abstaining.
        answers: P answer sets with the model's log-probabilities; each contains the abstention.
        truths: true value of each question, None if there is none.
    """
    mask = answers.mask
    valid, train = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape)
    for row, (group, truth) in enumerate(zip(answers.answers, truths, strict=True)):
        texts = [text.strip() for text in group]
        if truth is not None and truth not in world.values(_relation(answers.prompts[row])):
            raise DataError(f'"{truth}" is not an answer to "{answers.prompts[row]}": give the true value or None.')
        for column, text in enumerate(texts):
            valid[row, column] = text in (truth, ABSTENTION)
            train[row, column] = text == (truth or ABSTENTION)
    return JudgedAnswers(np.exp(condition(answers.logprobs)), train, valid, mask)


def _relation(prompt: str) -> str:
    reading = read(prompt)
    return reading.relation if reading else ""


KINDS = ("fact", "rare", "stranger", "stranger_heldout")
"""Kinds of questions: about known people, people seen 1 to 5 times, unseen entities that the corpus asks about, and
others.
"""
MALFORMED = "(no answer)"


def ask(world: "World", n: int, seed: int) -> "list[Item]":
    """Return `n` questions of each of the kinds that the world has.

    Raises:
        DataError: its corpus states no facts.
    """
    if not any(count for facts in world.exposure.values() for count in facts.values()):
        raise DataError(
            "This model's world states no facts, so nothing can be known or hallucinated: use a model of a world"
            " with facts."
        )
    return [item for kind in KINDS if kind in world.question_kinds for item in world.questions(kind, n, seed)]


def truth_of(item: "Item") -> str | None:
    """Return the true value of a fact; None for an unseen entity."""
    value = item.answers[0].strip()
    return None if value == ABSTENTION else value


def asked_table(asked: "Sequence[Item]") -> pd.DataFrame:
    """Return a table with the columns item, kind, person, relation, exposure, prompt, expected."""
    count: dict[str, int] = {}
    rows = []
    for item in asked:
        number = count[item.kind] = count.get(item.kind, -1) + 1
        row: dict[str, Any] = {"item": f"{item.kind}-{number}", "kind": item.kind}
        row |= {name: item.meta[name] for name in ("person", "relation", "exposure")}
        rows.append(row | {"prompt": item.prompt, "expected": item.answers[0].strip()})
    return pd.DataFrame(rows)


def enumerate_prompts(lm: "LM", world: "World", asked: "Sequence[Item]") -> tuple[AnswerSet, NDArray[np.intp]]:
    """Return the answers to the P different prompts, and [N] the index of each question's prompt."""
    codes, prompts = pd.factorize(np.array([item.prompt for item in asked], dtype=object))
    return enumerate_answers(lm, world, [str(prompt) for prompt in prompts]), codes


def exact_columns(answers: AnswerSet, codes: NDArray[np.intp], asked: "Sequence[Item]", samples: int) -> pd.DataFrame:
    """Compute exact quantities of the distribution over the answers to each question.

    Args:
        answers: answers to the P different prompts, see `enumerate_prompts`.
        codes: [N] index of each question's prompt.
        asked: N questions.
        samples: number of samples of the discrete estimator.

    Returns:
        p_truth, p_abstain: probability of the truth (0 about unseen entities) and of "i do not know".
        hall: 1 - p_truth - p_abstain.
        answer_mass: probability of any answer of the set.
        main: the likeliest answer, or a note that it is not an answer; hallucinates: whether it is neither true nor an
            abstention.
        confidence: probability of the likeliest value; right: whether that is the truth; brier: their squared gap.
        p_ik: 1 - p_abstain.
        semantic_entropy: nats; agreement_exact: probability of the main answer.
        semantic_entropy_expected: mean of the discrete estimator. own_T, target_T: scores under the confidence target T
            %, of the model itself and of answering only above T.
    """
    p = np.exp(answers.logprobs)
    entropy = exact_entropy(answers.logprobs)
    meanings = with_rest(answers.logprobs)
    expected = [expected_discrete(row, samples) for row in meanings]
    rows = []
    for code, item in zip(codes, asked, strict=True):
        options, chances = [each.strip() for each in answers.answers[code]], p[code]
        abstains, truth = options.index(ABSTENTION), truth_of(item)
        values = np.array([chance if i != abstains else -1.0 for i, chance in enumerate(chances[: len(options)])])
        best, likeliest = int(values.argmax()), int(meanings[code].argmax())
        main = options[likeliest] if likeliest < len(options) else MALFORMED
        p_truth = float(chances[options.index(truth)]) if truth else 0.0
        p_abstain, right = float(chances[abstains]), float(options[best] == truth)
        row: dict[str, Any] = {"p_truth": p_truth, "p_abstain": p_abstain, "hall": max(1 - p_truth - p_abstain, 0.0)}
        row |= {"answer_mass": float(chances.sum()), "main": main, "confidence": min(float(values[best]), 1.0)}
        row |= {"hallucinates": float(main not in (truth, ABSTENTION)), "right": right, "p_ik": 1 - p_abstain}
        row |= {"brier": (row["confidence"] - right) ** 2, "semantic_entropy": float(entropy[code])}
        row["semantic_entropy_expected"] = expected[code]
        row["agreement_exact"] = float(meanings[code].max())
        rows.append(row)
    table = pd.DataFrame(rows)
    for target in NAMED:
        name = f"{100 * target:.0f}"
        table[f"own_{name}"] = score(table["p_truth"], table["hall"], target)
        table[f"target_{name}"] = score(*answers_above(table["confidence"], table["right"], target), target)
    return table


def sampled_columns(
    lm: "LM", world: "World", asked: "Sequence[Item]", main: Sequence[str], samples: int, seed: int, tick: Tick = ignore
) -> pd.DataFrame:
    """Sample one scored answer per question, as `probe.rewards.evaluation` draws it, and `samples` further ones.

    Args:
        lm: model that answers.
        world: world that scores the answers.
        asked: N questions.
        main: [N] answers that the samples are compared with.
        samples: number of samples per question, for semantic entropy and agreement.
        seed: seed of the samples.
        tick: function called with the share of the work done.

    Returns:
        answer, verdict, is_true, abstained, invented (zeros and ones), semantic_entropy_sampled (nats), agreement.
    """
    parts = []
    for kind in dict.fromkeys(item.kind for item in asked):
        answers = answer(lm, world, [item for item in asked if item.kind == kind], ANSWER_TOKENS, seed)
        verdicts = [verdict.kind for verdict in answers.verdicts]
        texts = [" ".join(answer_words(text)) for text in answers.texts]
        parts.append(pd.DataFrame({"answer": texts, "verdict": verdicts}))
    table = pd.concat(parts, ignore_index=True)
    table["is_true"] = (table["verdict"] == "true").astype(float)
    table["abstained"] = (table["verdict"] == "abstain").astype(float)
    table["invented"] = table["verdict"].isin(INVENTED).astype(float)
    tick(0.3)
    prompts = [item.prompt for item in asked]
    completions = lm.generate(prompts, n=samples, max_new_tokens=ANSWER_TOKENS, temperature=1.0, seed=seed + 1).text
    tick(0.8)
    legal = {prompt: {each.strip() for each in world.candidates(prompt)} for prompt in set(prompts)}
    entropies, agreements = [], []
    for index, prompt in enumerate(prompts):
        words = [" ".join(answer_words(text)) for text in completions[index * samples : (index + 1) * samples]]
        meanings = [each if each in legal[prompt] else MALFORMED for each in words]
        entropies.append(discrete_entropy(clusters(meanings, identical)))
        agreements.append(agreement(meanings, main[index], identical))
    return table.assign(semantic_entropy_sampled=entropies, agreement=agreements)


def judge_answers(
    world: "World", answers: AnswerSet, codes: NDArray[np.intp], asked: "Sequence[Item]"
) -> JudgedAnswers:
    """Classify the answers to the N questions for the validity bound."""
    first = {int(code): truth_of(item) for code, item in zip(codes, asked, strict=True)}
    return judged_answers(world, answers, [first[p] for p in range(len(answers.prompts))]).take(codes)


def exposure_table(items: pd.DataFrame, found: JudgedAnswers) -> pd.DataFrame:
    """Compute Hall by exact exposure count, with the bound of each class of counts (see `exposure_class`).

    Returns:
        kind, label, low, high (of the class) and the columns of `bound_row`; unseen entities that are never asked about
        come first, then those that are, then people by their exposure.
    """
    classes = [exposure_class(int(count)) for count in items["exposure"]]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, (kind, each) in enumerate(zip(items["kind"], classes, strict=True)):
        groups.setdefault((each.low, kind != "stranger_heldout", kind, each.label, each.high), []).append(place)
    rows = []
    for (low, _, kind, label, high), index in sorted(groups.items()):
        row = {"kind": kind, "label": label, "low": low, "high": high}
        rows.append(row | bound_row(items, found, np.array(index)))
    return pd.DataFrame(rows)


def bound_table(items: pd.DataFrame, found: JudgedAnswers) -> pd.DataFrame:
    """Return the bound over all questions and over those of each kind: kind and the columns of `bound_row`."""
    kinds = items["kind"].to_numpy()
    groups = {"all": np.arange(len(items))} | {kind: np.flatnonzero(kinds == kind) for kind in dict.fromkeys(kinds)}
    return pd.DataFrame([{"kind": kind} | bound_row(items, found, index) for kind, index in groups.items()])


def bound_row(items: pd.DataFrame, found: JudgedAnswers, index: NDArray[np.intp]) -> dict[str, float]:
    """Return the validity bound of some questions, and its terms.

    The keys are value, ci_low, ci_high (Hall, bootstrap over people), accuracy and abstention (exact means), error
    (conditioned on the answer set), bound, iiv_error, ratio, delta, n.
    """
    part, terms = items.iloc[index], validity_bound(found.take(index))
    row = interval_of(part, "hall", stats.SHARE).row() | {"accuracy": float(part["p_truth"].mean())}
    row |= {"abstention": float(part["p_abstain"].mean()), "error": terms.error, "bound": terms.bound}
    return row | {"iiv_error": terms.iiv_error, "ratio": terms.ratio, "delta": terms.delta, "n": len(part)}


def direction(
    lm: "LM", items: pd.DataFrame, shuffles: int, seed: int, tick: Tick = ignore
) -> tuple[LinearProbe, pd.Series] | None:
    """Fit the direction between known people and unseen entities, and return each question's score at the middle layer.

    Questions about people of neither group are scored by the direction of all others. None if a group is missing.
    """
    first = items.drop_duplicates("prompt")
    in_training = first["kind"].isin(("fact", "stranger")).to_numpy()
    is_known = (first["kind"] == "fact").to_numpy()[in_training]
    if not is_known.any() or is_known.all():
        return None
    x = last_residuals(lm, list(first["prompt"]), tick)
    probe = known_direction(x[in_training], is_known, list(first["person"][in_training]), shuffles=shuffles, seed=seed)
    scores = np.empty(len(first))
    scores[in_training] = probe.scores[:, probe.middle]
    if not in_training.all():
        scores[~in_training] = project(x[in_training], is_known, x[~in_training])[:, probe.middle]
    by_prompt = dict(zip(first["prompt"], scores, strict=True))
    return probe, items["prompt"].map(by_prompt)
