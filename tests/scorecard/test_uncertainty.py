"""The family of uncertainty: answers, probabilities and truths against the plain model, loops and scikit-learn."""

from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard import uncertainty_family as family
from probe.scorecard.uncertainty_family import Answered, answers_of, ask, bayes_probability, grade
from probe.ticks import ignore
from probe.world import World
from probe.world.language import RELATIONS, read
from probe.world.vocabulary import PHRASES


@pytest.fixture(scope="module")
def problem(base: LM) -> Answered:
    """Few questions."""
    return answers_of(base, "", 72, 0, ignore)


@torch.no_grad()
def logprob(base: LM, text: str, start: str) -> float:
    """The log-probability of what follows a beginning, token by token on the plain model."""
    ids, first = encode(base.tokenizer, text), len(encode(base.tokenizer, start))
    rows = base.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(rows[at - 1, ids[at]]) for at in range(first, len(ids)))


def test_answers_and_probabilities_are_those_of_the_plain_model(base: LM, problem: Answered):
    world = probe.world.of(base)
    assert world is not None
    some = np.arange(0, len(problem.prompts), 9)
    prompts, answers = problem.part(some)
    nothing = np.zeros(0)
    said = family.token_probability(base, [], [], nothing, nothing)(prompts, answers)
    refuses = family.no_abstention(base, [], [], nothing, nothing)(prompts, answers)
    for prompt, answer, p, speaks in zip(prompts, answers, said, refuses, strict=True):
        dialogue = read(prompt)
        assert dialogue is not None
        ends = {f" {each}": logprob(base, f"{prompt} {each} <end>", prompt) for each in world.values(dialogue.relation)}
        assert answer == max(ends, key=lambda each: ends[each])
        assert p == pytest.approx(np.exp(logprob(base, prompt + answer, prompt)), rel=1e-4)
        assert speaks == pytest.approx(1 - np.exp(logprob(base, f"{prompt} i do not know", prompt)), abs=1e-5)


def test_the_phrase_is_the_one_the_plain_model_expects_before_the_statement(base: LM, problem: Answered):
    prompts, answers = problem.part(np.arange(0, len(problem.prompts), 17))
    said = family.phrase(base, [], [], np.zeros(0), np.zeros(0))(prompts, answers)
    for prompt, answer, found in zip(prompts, answers, said, strict=True):
        dialogue = read(prompt)
        assert dialogue is not None
        statement = RELATIONS[dialogue.relation].statements[0].format(p=dialogue.subject, v=answer.strip())
        weights = {each: np.exp(logprob(base, f"<user> {each} {statement}", "<user>")) for each in PHRASES}
        expected = sum(weights[each] * PHRASES[each] for each in PHRASES) / sum(weights.values())
        assert found == pytest.approx(expected, rel=1e-3)


def test_the_posterior_follows_from_counts_and_reliability(world: World):
    for kind in ("fact", "opinion_true", "opinion_false", "opinion_stranger"):
        for item in world.questions(kind, 5, 3):
            person, relation = item.meta["person"], item.meta["relation"]
            values, truth = world.values(relation), world.truth(person, relation)
            read_times = world.exposure[person][relation] if truth else 0
            weights = {each: (each == truth) * read_times + 1 / len(values) for each in values}
            if item.claim is not None:
                right = PHRASES[item.meta["phrase"]]
                for each in values:
                    weights[each] *= right if f" {each}" == item.claim else (1 - right) / (len(values) - 1)
                assert bayes_probability(world, item, item.claim) == pytest.approx(world.bayes_claim(item.prompt))
            for each in values:
                expected = weights[each] / sum(weights.values())
                assert bayes_probability(world, item, f" {each}") == pytest.approx(expected)


def test_no_person_is_on_both_sides_and_groups_have_equal_shares(base: LM, problem: Answered):
    world = probe.world.of(base)
    assert world is not None
    inside, outside = set(problem.people[problem.fit]), set(problem.people[problem.test])
    assert not inside & outside
    group = {name: label for label, names in world.groups.items() for name in names}
    held, every = (Counter(group[name] for name in part) for part in (outside, inside | outside))
    assert all(held[label] == round(0.4 * count) for label, count in every.items())


def test_scores_are_those_of_scikit_learn(problem: Answered):
    said = np.random.default_rng(0).uniform(size=len(problem.test))
    labels, kinds = problem.right[problem.test], problem.kinds[problem.test]
    claimed = np.isin(kinds, family.CLAIMED)
    assert grade(problem, "claimed", said).score == pytest.approx(roc_auc_score(labels[claimed], said[claimed]))
    constant = brier_score_loss(labels, np.full(len(labels), labels.mean()))
    skill = 1 - brier_score_loss(labels, said) / constant
    assert grade(problem, "calibration", said).score == pytest.approx(skill)


def test_numbers_that_are_no_probabilities_are_one_sentence(problem: Answered):
    with pytest.raises(DataError, match="numbers from -2 to -2; expected 0 to 1"):
        ask(problem, lambda *_: lambda prompts, answers: np.full(len(prompts), -2.0))
    with pytest.raises(DataError, match="returned float; expected a function"):
        ask(problem, lambda *_: 0.5)
