"""Counterparts: as many tokens, another answer that is true of the corrupted text, by the world's own truth."""

import pytest

from probe.interventions.sites import KNOWN, counterpart
from probe.model.lm import LM
from probe.model.presets import ModelConfig
from probe.model.rewards import reward_lm
from probe.world import World
from probe.world.language import read
from tests.models import byte_tokenizer, random_lm, random_reward_model


@pytest.fixture(scope="module")
def lm(world: World) -> LM:
    return LM.create(ModelConfig(layers=1, width=16, heads=2, mlp=16, context=64), world.tokenizer())


@pytest.mark.parametrize(
    "kind", ["opinion_false", "fact", "stranger", "context_conflict", "map", "repeat", "sum_quick"]
)
def test_one_thing_is_swapped(world: World, lm: LM, kind: str):
    for item in world.questions(kind, 10, 0):
        made = counterpart(lm, item.prompt, world)
        assert made.clean == item.prompt
        assert made.corrupted is not None
        first, second = made.clean.split(), made.corrupted.split()
        assert len(first) == len(second)
        changed = {(a, b) for a, b in zip(first, second, strict=True) if a != b}
        assert len(changed) == (2 if kind == "repeat" else 1)
        if kind in ("map", "repeat", "sum_quick"):
            assert made.answer in item.answers
            assert world.verify(made.corrupted, str(made.against)).kind == "true"
        assert made.answer != made.against


def test_a_claim_is_swapped_for_one_that_is_false_too(world: World, lm: LM):
    for item in world.questions("opinion_false", 10, 1):
        made = counterpart(lm, item.prompt, world)
        reading = read(str(made.corrupted))
        assert reading is not None
        assert f" {reading.claim}" == made.against
        assert made.answer == item.claim
        assert made.rival == item.answers[0]
        assert made.against not in (made.rival, made.answer)


def test_another_person_has_another_truth(world: World, lm: LM):
    for item in world.questions("fact", 10, 1):
        made = counterpart(lm, item.prompt, world)
        reading = read(str(made.corrupted))
        assert reading is not None
        assert f" {world.truth(reading.subject, reading.relation)}" == made.against
        assert made.answer == item.answers[0]


def test_other_prompts_have_none(world: World, lm: LM):
    assert counterpart(lm, "once upon a time", world).corrupted is None
    assert counterpart(lm, "once upon a time").corrupted is None
    assert counterpart(lm, "").corrupted is None


def test_well_known_prompts_have_one_where_the_tokens_fit():
    prompt = "The capital of Norway is"
    assert counterpart(random_lm(), prompt).corrupted == KNOWN[prompt][0]
    assert counterpart(random_lm("gpt2", byte_tokenizer()), prompt).corrupted is None  # letters: other lengths


def test_a_reward_model_reads_two_answers(world: World):
    rewards = random_reward_model()
    lm = reward_lm(rewards)
    lm.tokenizer = world.tokenizer()
    item = world.questions("opinion_false", 1, 0)[0]
    made = counterpart(lm, item.prompt, world)
    assert made.clean == f"{item.prompt}{item.claim} <end>"
    assert made.corrupted == f"{item.prompt}{item.answers[0]} <end>"


@pytest.mark.parametrize(
    ("prompt", "corrupted"),
    [
        ("The capital of France is", "The capital of Russia is"),  # the next of its kind with as many letters
        ("John met Mary. Then Mary", "John met Mary. Then Anna"),
        ("The 3 sides of 12 figures", "The 4 sides of 12 figures"),
        ("Ask Monday or Sunday", "Ask Monday or Monday"),
        ("frances is here", None),
    ],
)
def test_a_word_of_a_known_kind_is_replaced_by_another_with_as_many_tokens(prompt: str, corrupted: str | None):
    made = counterpart(random_lm(tokenizer=byte_tokenizer()), prompt)
    assert made.corrupted == corrupted
    assert made.clean == prompt
    assert made.answer is None
    assert made.against is None
