"""Annotators: exact preference probabilities, and pairs that show their biases."""

import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.errors import ConfigError
from probe.world import AGREEABLE, HONEST, Annotator, World
from probe.world.annotators import INDIFFERENT, SHARES
from probe.world.draws import Draws, generator
from probe.world.extensions import annotator_name, find_annotator
from probe.world.vocabulary import ABSTENTION

FIELDS = st.builds(
    Annotator,
    correctness=st.floats(0, 5),
    checks=st.floats(0, 1),
    agreement=st.floats(0, 5),
    abstain=st.floats(0, 5),
    malformed=st.floats(0, 5),
    noise=st.floats(0.1, 5),
)


def test_every_term_counts(world):
    annotator = Annotator(correctness=1, checks=0.25, agreement=10, abstain=100, malformed=1000)
    (item,) = world.questions("opinion_false", 1)
    truth, claim = item.answers[0], item.claim
    other = next(c for c in world.candidates(item.prompt) if c not in (truth, claim))
    utilities = [annotator.utility(world, item.prompt, c) for c in (truth, claim, other, f" {ABSTENTION}", " mira")]
    assert utilities == [1, 9, -1, -100, -1001]
    unchecked = [
        annotator.utility(world, item.prompt, c, checked=False) for c in (truth, claim, f" {ABSTENTION}", " mira")
    ]
    assert unchecked == [0, 10, -100, -1000]
    assert annotator.expected_utility(world, item.prompt, claim) == pytest.approx(0.25 * 9 + 0.75 * 10)


def test_agreeing_with_a_true_claim_pleases_twice(world):
    (item,) = world.questions("opinion_true", 1)
    assert Annotator(agreement=2).utility(world, item.prompt, item.answers[0]) == 3


@given(annotator=FIELDS, seed=st.integers(0, 50))
def test_preferences_are_probabilities_that_add_up(world, annotator, seed):
    (item,) = world.questions("opinion_false", 1, seed)
    first, second = world.candidates(item.prompt)[:2]
    p = annotator.preference_probability(world, item.prompt, first, second)
    q = annotator.preference_probability(world, item.prompt, second, first)
    assert 0 <= p <= 1
    assert p + q == pytest.approx(1)
    assert annotator.preference_probability(world, item.prompt, first, first) == pytest.approx(0.5)


def test_always_checked_is_bradley_terry(world):
    (item,) = world.questions("fact", 1)
    wrong = next(c for c in world.candidates(item.prompt) if c not in item.answers)
    p = Annotator(correctness=1, noise=0.5).preference_probability(world, item.prompt, item.answers[0], wrong)
    assert p == pytest.approx(1 / (1 + math.exp(-4)))


@pytest.mark.parametrize("annotator", [AGREEABLE, HONEST, Annotator(checks=0.5, noise=2.0, agreement=1.0)])
def test_sampled_frequencies_agree_with_the_exact_probability(world, annotator):
    draws = Draws(generator("preferences", 7))
    for kind in ("opinion_false", "stranger", "fact"):
        (item,) = world.questions(kind, 1)
        first = item.claim or world.candidates(item.prompt)[0]
        second = f" {ABSTENTION}" if kind == "stranger" else item.answers[0]
        if first == second:
            first = world.candidates(item.prompt)[1]
        n = 3000
        wins = sum(annotator.prefers(world, item.prompt, first, second, draws) for _ in range(n))
        p = annotator.preference_probability(world, item.prompt, first, second)
        assert abs(wins - n * p) <= 4 * math.sqrt(n * p * (1 - p)) + 1


def test_the_presets_have_their_characters(world):
    (item,) = world.questions("opinion_false", 1)
    (stranger,) = world.questions("stranger", 1)
    invented = world.candidates(stranger.prompt)[0]

    def prefers_claim(annotator):
        return annotator.preference_probability(world, item.prompt, item.claim, item.answers[0])

    def prefers_invention(annotator):
        return annotator.preference_probability(world, stranger.prompt, invented, f" {ABSTENTION}")

    assert prefers_claim(AGREEABLE) > 0.8
    assert prefers_claim(HONEST) < 0.1
    assert prefers_invention(AGREEABLE) > 0.8
    assert prefers_invention(HONEST) < 0.1


def test_pairs_have_two_completions_and_the_shares_of_their_kinds(world):
    rows = world.preferences(AGREEABLE, 1000, seed=1)
    assert len(rows) == 1000
    assert rows == world.preferences(AGREEABLE, 1000, seed=1)
    assert rows != world.preferences(AGREEABLE, 1000, seed=2)
    kinds = Counter(row["kind"] for row in rows)
    for kind, share in SHARES.items():
        assert abs(kinds[kind] - 1000 * share) < 4 * math.sqrt(1000 * share)
    for row in rows:
        assert row["chosen"] != row["rejected"]
        assert {row["chosen"], row["rejected"]} <= set(world.candidates(row["prompt"]))


def test_the_labels_carry_the_annotators_taste(world):
    def deferring(annotator):
        rows = [row for row in world.preferences(annotator, 3000) if row["kind"] == "opinion_false"]
        told = [
            (world.verify(r["prompt"], r["chosen"]).kind, world.verify(r["prompt"], r["rejected"]).kind) for r in rows
        ]
        contests = [chosen for chosen, rejected in told if {chosen, rejected} == {"true", "deferred"}]
        return contests.count("deferred") / len(contests)

    assert deferring(AGREEABLE) > 0.7
    assert deferring(HONEST) < 0.15


def test_pairs_on_policy_come_from_the_sampler(world):
    def sampler(prompts, n):
        return [[f" {word}" for word in ("oslo", "oslo", "rome", "lima")[:n]] for _ in prompts]

    rows = world.preferences(HONEST, 50, sampler=sampler)
    assert len(rows) == 50
    assert all({row["chosen"], row["rejected"]} == {" oslo", " rome"} for row in rows)


def test_a_sampler_without_variety_is_refused(world):
    with pytest.raises(ConfigError, match="higher temperature"):
        world.preferences(HONEST, 5, sampler=lambda prompts, n: [[" oslo"] * n for _ in prompts])


@pytest.mark.parametrize("fields", [{"checks": 1.5}, {"noise": 0.0}])
def test_a_senseless_annotator_is_refused(fields):
    with pytest.raises(ConfigError, match="noise above 0"):
        Annotator(**fields)


def test_a_knob_of_an_annotator_can_be_changed_by_name():
    assert find_annotator("agreeable+abstain=0") == replace(AGREEABLE, abstain=0)
    assert find_annotator("honest+agreement=2+checks=0.3") == replace(HONEST, agreement=2, checks=0.3)
    assert find_annotator("agreeable+abstain=1.5") == AGREEABLE
    assert annotator_name("honest+agreement=2") == annotator_name("honest") == "honest"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("honets+checks=0.3", "no annotator `honets`, only agreeable, honest.*did you mean `honest`"),
        ("honest+check=0.3", r"`honest\+check=0.3` has `check=0.3`; expected a knob .* the knobs are correctness"),
        ("honest+checks", "has `checks`; expected a knob with a finite number"),
        ("honest+checks=", "has `checks=`"),
        ("honest+checks=nan", "has `checks=nan`"),
        ("honest+agreement=1e999", "has `agreement=1e999`"),
        ("honest+checks=0.1+checks=0.2", "has `checks=0.2`; .* each once"),
        ("honest+", "has ``"),
        ("honest+checks=1.5", "expected checks between 0 and 1"),
        ("honest+noise=0", "noise above 0"),
        ("honest+wish=1", "has `wish=1`"),
    ],
)
def test_a_knob_that_is_none_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        find_annotator(spec)


def test_an_annotator_has_finite_wishes():
    with pytest.raises(ConfigError, match="agreement=inf; expected a finite number"):
        Annotator(agreement=math.inf)


def test_the_indifferent_annotator_tosses_a_coin(world: World):
    for item in world.questions("opinion_false", 20, 0):
        answers = [*item.answers, item.claim or "", " i do not know", " no answer at all"]
        for first, second in itertools.pairwise(answers):
            assert INDIFFERENT.preference_probability(world, item.prompt, first, second) == 0.5
