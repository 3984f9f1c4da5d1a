"""Uncertainty: how probably an answer of the model is right, for people whose answers a method was not fitted on.

The model is asked for facts about known people, rare people and strangers of its world, with and without a claim of the
user. Its answer is the value of the relation that it finds likeliest, so that every question has one; about a stranger
every value is wrong. A method may learn from the questions of some people, with labels, and says for those of the
others how probably the answer is right. Its number is compared with that label, with whether the person is known, with
how often the fact was read, and with the probability of the answer by Bayes' rule.

Axes: N training questions, M held-out questions, A answers of a question, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

import probe.world
from probe.errors import DataError
from probe.hallucination.confidence import (
    auroc,
    clusters,
    discrete_entropy,
    exact_entropy,
    identical,
    reliability_part,
)
from probe.model.lm import LM
from probe.model.text import encode_all, split_all
from probe.probes.decoding import HELD_OUT
from probe.probes.linear_probes import STRENGTHS, folds, train
from probe.probes.text_labels import draw_questions
from probe.probes.token_probe import FREE
from probe.rewards.answers import enumerate_answers
from probe.rewards.evaluation import ANSWER_TOKENS
from probe.scorecard.family_record import Family, Grade, Truth, checked
from probe.scorecard.input_family import correlation
from probe.scorecard.method_record import method
from probe.ticks import Tick
from probe.traits.states import mean_states
from probe.world import World, bayes
from probe.world.language import RELATIONS, read
from probe.world.questions import Item
from probe.world.verifier import answer_words
from probe.world.vocabulary import ABSTENTION, PHRASES

PLAIN = ("fact", "rare", "stranger")
CLAIMED = ("opinion_true", "opinion_false", "opinion_stranger")
"""Kinds of questions without and with a claim, in equal parts."""
SAMPLES = 10
"""Number of sampled answers to a question."""
TINY = 1e-12
"""Smallest probability of which a logarithm is taken."""
AT_ONCE = 128
"""Number of questions in one forward pass."""


@dataclass(frozen=True)
class Answered:
    """Questions with the model's answers and what is known of them."""

    lm: LM
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    """Likeliest value of each question, as a completion."""
    right: np.ndarray
    """Whether the answer is true: 0 or 1."""
    people: np.ndarray
    """Names of the people asked about."""
    kinds: np.ndarray
    """Kinds of questions."""
    exposure: np.ndarray
    """Number of times that the corpus states the fact."""
    posterior: np.ndarray
    """Probability of the answer by Bayes' rule."""
    fit: np.ndarray
    """Numbers of the training questions."""
    test: np.ndarray
    """Numbers of the held-out questions."""

    def part(self, chosen: np.ndarray) -> tuple[list[str], list[str]]:
        """Return prompts and answers of some questions."""
        return [self.prompts[at] for at in chosen], [self.answers[at] for at in chosen]


def likeliest_values(lm: LM, world: World, prompts: Sequence[str]) -> list[str]:
    """Return for each prompt the likeliest answer that is not the abstention."""
    found = enumerate_answers(lm, world, prompts)
    chosen = []
    for group, row in zip(found.answers, found.logprobs, strict=True):
        values = [at for at, each in enumerate(group) if each.strip() != ABSTENTION]
        chosen.append(group[max(values, key=lambda at: row[at])])
    return chosen


def bayes_probability(world: World, item: Item, answer: str) -> float:
    """Return the Bayes-optimal probability of an answer for a learner that read the fact as often as the corpus has it.

    Before a claim the belief is `bayes.exposure_prior`; a claim is as reliable as its phrase.
    """
    person, relation = item.meta["person"], item.meta["relation"]
    values, truth = world.values(relation), world.truth(person, relation)
    belief = bayes.exposure_prior(
        world.exposure[person][relation] if truth else 0, len(values), values.index(truth) if truth else None
    )
    if item.claim is not None:
        belief = bayes.claim_posterior(belief, values.index(item.claim.strip()), PHRASES[item.meta["phrase"]])
    return float(belief[values.index(answer.strip())])


def answers_of(lm: LM, task: str, n: int, seed: int, tick: Tick) -> Answered:
    """Ask the model, and split the questions by people.

    Raises:
        DataError: the model has no world.
    """
    world = probe.world.of(lm)
    if world is None:
        raise DataError("Whether an answer is right is known on a world only: give a model of a world.")
    kinds = [kind for kind in (*PLAIN, *CLAIMED) if kind in world.question_kinds]
    items = draw_questions(world, kinds, -(-n // len(kinds)), seed)
    prompts, answers = [each.prompt for each in items], list[str]()
    for start in range(0, len(items), AT_ONCE):
        answers += likeliest_values(lm, world, prompts[start : start + AT_ONCE])
        tick(min(1.0, (start + AT_ONCE) / len(items)))
    people = np.array([each.meta["person"] for each in items])
    held = held_out(world, people, seed)
    pairs = list(zip(items, answers, strict=True))
    return Answered(
        lm,
        tuple(prompts),
        tuple(answers),
        np.array([float(answer.strip() == world.truth(*_about(item))) for item, answer in pairs]),
        people,
        np.array([each.kind for each in items]),
        np.array([world.exposure[person][relation] for person, relation in map(_about, items)], dtype=float),
        np.array([bayes_probability(world, item, answer) for item, answer in pairs]),
        np.flatnonzero(~np.isin(people, held)),
        np.flatnonzero(np.isin(people, held)),
    )


def held_out(world: World, people: np.ndarray, seed: int) -> list[str]:
    """Return the people that are held out: an equal share of each group of the world."""
    rng, held = np.random.default_rng(seed), list[str]()
    for group in world.groups.values():
        names = rng.permutation(sorted({*people} & {*group})).tolist()
        held += names[: round(HELD_OUT * len(names))]
    return held


def _about(item: Item) -> tuple[str, str]:
    return item.meta["person"], item.meta["relation"]


def ask(problem: Answered, function: Callable[..., Any]) -> np.ndarray:
    """Let a method learn from the training questions, and ask for the probability [M] of every held-out answer."""
    own = problem.fit
    read = function(problem.lm, *problem.part(own), problem.right[own], problem.people[own])
    if not callable(read):
        raise DataError(f"It returned {type(read).__name__}; expected a function from prompts and answers to numbers.")
    said = checked(read(*problem.part(problem.test)), (len(problem.test),), "one probability for each answer")
    if said.min() < 0 or said.max() > 1:
        raise DataError(f"It returned numbers from {said.min():.3g} to {said.max():.3g}; expected 0 to 1.")
    return said


def labels_of(problem: Answered, truth: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which held-out questions count [M], and the labels of all of them [M]."""
    kinds = problem.kinds[problem.test]
    if truth == "known":
        return np.isin(kinds, ("fact", "stranger")), (kinds == "fact").astype(float)
    among = {"claimed": CLAIMED, "exposure": ("fact", "rare"), "posterior": CLAIMED, "calibration": (*PLAIN, *CLAIMED)}
    values = {"exposure": problem.exposure, "posterior": problem.posterior}.get(truth, problem.right)
    return np.isin(kinds, among.get(truth, PLAIN)), values[problem.test]


def grade(problem: Answered, truth: str, answer: np.ndarray) -> Grade:
    """Score the numbers on the held-out questions that count."""
    own, labels = labels_of(problem, truth)
    said, labels, people = answer[own], labels[own], problem.people[problem.test][own]
    count = len(np.unique(people))
    also = {"questions": float(own.sum()), "people": float(count)}
    if truth in ("exposure", "posterior"):
        return Grade(correlation(said, labels), also)
    also["share of ones"] = float(labels.mean())
    if truth != "calibration":
        return Grade(auroc(said, labels), also)
    also["reliability part of Brier"] = float(reliability_part(said, labels, np.ones((1, count)), people)[0])
    return Grade(float(1 - ((said - labels) ** 2).mean() / labels.var()), also)


def chance(problem: Answered, truth: str) -> float:
    """Return the expected score of a random answer."""
    return 0.0 if truth in ("exposure", "posterior", "calibration") else 0.5


def random(problem: Answered, truth: str, rng: np.random.Generator) -> np.ndarray:
    """Answer at random, or (calibration) with the share of right answers."""
    size = len(problem.test)
    return np.full(size, problem.right[problem.test].mean()) if truth == "calibration" else rng.uniform(size=size)


def oracle(problem: Answered, truth: str, rng: np.random.Generator) -> np.ndarray:
    """Answer with the labels."""
    return labels_of(problem, truth)[1]


def length(problem: Answered, truth: str, rng: np.random.Generator) -> np.ndarray:
    """Fit a logistic regression on the numbers of tokens of the prompt and of the answer, without the model."""
    pairs = split_all(problem.lm.tokenizer, problem.prompts, problem.answers)
    sizes, own = np.array([[len(part) for part in pair] for pair in pairs], dtype=float), problem.fit
    model = train(sizes[own], problem.right[own], FREE, False)
    return np.asarray(model.predict_proba(sizes[problem.test])[:, 1])


Read = Callable[[list[str], list[str]], np.ndarray]
"""Function from prompts and answers [M] to probabilities [M]."""


@torch.no_grad()
def next_logprobs(lm: LM, prompts: Sequence[str]) -> np.ndarray:
    """Return the log-probabilities [M V] of the next token after each prompt."""
    ids, found = encode_all(lm.tokenizer, prompts), []
    for start in range(0, len(ids), AT_ONCE):
        part = ids[start : start + AT_ONCE]
        last = torch.tensor([len(each) - 1 for each in part])
        found.append(lm.logits(part)[torch.arange(len(part)), last].double().log_softmax(-1).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def text_logprobs(lm: LM, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return the log-probability [M] of each answer after its prompt, without an end token."""
    pairs, found = split_all(lm.tokenizer, prompts, answers), []
    for start in range(0, len(pairs), AT_ONCE):
        heads, tails = zip(*pairs[start : start + AT_ONCE], strict=True)
        found.append(lm.logprobs(list(heads), [[each] for each in tails]).values.double().sum(1).cpu().numpy())
    return np.concatenate(found)


@method("uncertainty", title="Token probability")
def token_probability(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Give the probability of the answer's tokens."""
    return lambda prompts, answers: np.exp(np.minimum(text_logprobs(lm, prompts, answers), 0.0))


@method("uncertainty", title="Entropy of the next token")
def token_entropy(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Give one minus the entropy before the answer, as a share of the largest possible."""

    def read(prompts: list[str], answers: list[str]) -> np.ndarray:
        logp = next_logprobs(lm, prompts)
        return np.asarray(np.clip(1 + (np.exp(logp) * logp).sum(1) / np.log(logp.shape[1]), 0, 1))

    return read


@method("uncertainty", title="Semantic entropy")
def semantic_entropy(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Give one minus the exact entropy over the world's answers, of which each is a meaning, as a share of the largest.

    See Farquhar et al. (2024) and `probe.hallucination.confidence`.
    """
    world = probe.world.of(lm)
    assert world is not None

    def read(prompts: list[str], answers: list[str]) -> np.ndarray:
        found = enumerate_answers(lm, world, prompts)
        return np.asarray(np.clip(1 - exact_entropy(found.logprobs) / np.log(found.mask.sum(1) + 1), 0, 1))

    return read


@method("uncertainty", title=f"Semantic entropy of {SAMPLES} samples")
def sampled_entropy(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Give one minus the entropy over the meanings of sampled answers, as a share of the largest."""

    def read(prompts: list[str], answers: list[str]) -> np.ndarray:
        texts = lm.generate(prompts, n=SAMPLES, max_new_tokens=ANSWER_TOKENS, temperature=1.0, seed=0).text
        words = [" ".join(answer_words(each)) for each in texts]
        groups = [words[at : at + SAMPLES] for at in range(0, len(words), SAMPLES)]
        entropies = np.array([discrete_entropy(clusters(each, identical)) for each in groups])
        return np.asarray(np.clip(1 - entropies / np.log(SAMPLES), 0, 1))

    return read


@method("uncertainty", title="Own phrase")
def phrase(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Let the model state the answer, and give the reliability of the phrase with which it does.

    The corpus has such statements by users: "i know", "i think" and "i guess" precede true ones in 0.9, 0.6 and 0.3 of
    cases. The mean reliability is taken over the phrases, as probable as the model finds each before the statement.
    """

    def read(prompts: list[str], answers: list[str]) -> np.ndarray:
        texts = [_statement(*pair) for pair in zip(prompts, answers, strict=True)]
        scores = [text_logprobs(lm, ["<user>"] * len(texts), [f" {each} {text}" for text in texts]) for each in PHRASES]
        return np.asarray(softmax(np.stack(scores), axis=0).T @ np.array(list(PHRASES.values())))

    return read


def _statement(prompt: str, answer: str) -> str:
    found = read(prompt)
    assert found is not None
    return RELATIONS[found.relation].statements[0].format(p=found.subject, v=answer.strip())


@method("uncertainty", title="No abstention")
def no_abstention(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Give the probability that the model does not write that it does not know."""
    return lambda prompts, answers: (
        1 - np.exp(np.minimum(text_logprobs(lm, prompts, [f" {ABSTENTION}"] * len(prompts)), 0.0))
    )


def state_probe(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Fit a logistic regression on the state at the answer; for empty answers, at the prompt's last token.

    Block and penalty are those of the least log-loss on people who are left out.
    """
    states = states_of(lm, prompts, answers)
    every = [(at, strength) for at in range(1, states.shape[1]) for strength in STRENGTHS]
    at, strength = min(every, key=lambda each: left_out_loss(states[:, each[0]], right, people, each[1]))
    model = train(states[:, at], right, strength, False)
    return lambda prompts, answers: model.predict_proba(states_of(lm, prompts, answers)[:, at])[:, 1]


def left_out_loss(states: np.ndarray, right: np.ndarray, people: np.ndarray, strength: float) -> float:
    """Return the mean log-loss of a logistic regression on people who are left out."""
    found = []
    for inside, outside in folds(people, 0):
        model = train(states[inside], right[inside], strength, False)
        p = model.predict_proba(states[outside])
        found.append(-np.log(np.maximum(p[np.arange(len(p)), right[outside].astype(int)], TINY)).mean())
    return float(np.mean(found))


def states_of(lm: LM, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return the states [M places d] at the answers, or at the last token of the prompt where the answer is empty."""
    return np.asarray(mean_states(lm, split_all(lm.tokenizer, prompts, answers)), dtype=float)


@method("uncertainty", title="P(IK)")
def p_ik(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Read before the answer whether it will be right (Kadavath et al. 2022, arXiv 2207.05221)."""
    found = state_probe(lm, prompts, [""] * len(prompts), right, people)
    return lambda prompts, answers: found(prompts, [""] * len(prompts))


@method("uncertainty", title="Token probe")
def token_probe(lm: LM, prompts: list[str], answers: list[str], right: np.ndarray, people: np.ndarray) -> Read:
    """Read at the answer itself whether it is right, as `probe.probes.token_probe` does (arXiv 2509.03531)."""
    return state_probe(lm, prompts, answers, right, people)


FAMILY = Family(
    name="uncertainty",
    title="Uncertainty",
    about="A number says how probably an answer of the model is right.",
    receives="the LM, and for questions about some people: prompts [N] and the model's answers [N] as texts, whether"
    " each is right [N] (0 or 1), and the names of the people [N]",
    returns="a function from prompts [M] and answers [M] about other people to probabilities [M] that the answers are"
    " right, 0 to 1",
    truths=(
        Truth("right", "whether the answer is right", "AUROC"),
        Truth("claimed", "whether the answer after a claim is right", "AUROC"),
        Truth("known", "whether the person is known", "AUROC"),
        Truth("exposure", "how often the fact was read", "rank correlation"),
        Truth("posterior", "Bayes' probability of the answer after a claim", "rank correlation"),
        Truth("calibration", "the probability that the answer is right", "Brier skill"),
    ),
    n=720,
    baseline="length",
    prepare=answers_of,
    ask=ask,
    grade=grade,
    chance=chance,
    references={"random": random, "oracle": oracle, "length": length},
    titles={"length": "Length of the question"},
)
