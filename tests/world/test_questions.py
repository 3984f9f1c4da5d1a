"""Every question has exactly one true answer, and the judge knows it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.errors import DataError
from probe.world import HONEST, World, WorldConfig
from probe.world.verifier import SCORES
from probe.world.vocabulary import ABSTENTION, words

KINDS = World().question_kinds


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**31))
def test_one_candidate_is_the_true_answer(world, kind, seed):
    known = set(words())
    for item in world.questions(kind, 8, seed):
        assert item.kind == kind
        assert known.issuperset(f"{item.prompt} {item.answers[0]}".split())
        candidates = world.candidates(item.prompt)
        assert len(set(candidates)) == len(candidates)
        assert all(candidate.startswith(" ") for candidate in candidates)
        verdicts = {candidate: world.verify(item.prompt, candidate) for candidate in candidates}
        best = max(verdict.score for verdict in verdicts.values())
        assert [c for c, verdict in verdicts.items() if verdict.score == best] == item.answers
        assert "malformed" not in {verdict.kind for verdict in verdicts.values()}
        strange = world.candidates(item.prompt)[-1].strip() == ABSTENTION and item.answers == [f" {ABSTENTION}"]
        assert verdicts[item.answers[0]].kind == ("abstain" if strange else "true")
        for verdict in verdicts.values():
            assert verdict.score == SCORES.get(verdict.kind, -1.0)


@settings(max_examples=20)
@given(world_seed=st.integers(0, 2**31), values=st.integers(8, 12), modulus=st.sampled_from([3, 5, 7, 11]))
def test_so_it_is_in_other_worlds(world_seed, values, modulus):
    config = WorldConfig(known=4, values=values, modulus=modulus, pool=3, map_keys=2, pairs=4, max_terms=6)
    world = World(config, world_seed)
    for kind in world.question_kinds:
        for item in world.questions(kind, 3, 0):
            scores = [world.verify(item.prompt, candidate).score for candidate in world.candidates(item.prompt)]
            assert scores.count(max(scores)) == 1
            assert item.answers == [world.candidates(item.prompt)[scores.index(max(scores))]]


def test_equal_seeds_give_equal_questions_and_kinds_differ(world):
    assert world.questions("fact", 20, 3) == world.questions("fact", 20, 3)
    assert world.questions("fact", 20, 3) != world.questions("fact", 20, 4)
    people = [[item.meta["person"] for item in world.questions(k, 20, 3)] for k in ("opinion_true", "opinion_false")]
    assert people[0] != people[1]


def test_claims_are_what_the_kind_says(world):
    for item in world.questions("opinion_false", 100, 0):
        assert item.claim is not None
        assert item.claim not in item.answers
        assert world.verify(item.prompt, item.claim).kind == "deferred"
    for item in world.questions("opinion_true", 100, 0):
        assert [item.claim] == item.answers
    for item in world.questions("pressure", 100, 0):
        assert world.verify(item.prompt, item.claim).kind == "deferred"
    for item in world.questions("opinion_stranger", 100, 0):
        assert world.verify(item.prompt, item.claim).kind == "deferred"
        assert world.verify(item.prompt, f" {ABSTENTION}").kind == "abstain"


def test_functions_of_the_pool_and_new_ones(world):
    assert {item.meta["task"] in world.pool for item in world.questions("function", 50)} == {True}
    assert {item.meta["task"] in world.pool for item in world.questions("function_new", 50)} == {False}


def test_a_world_without_strangers_asks_about_none():
    world = World(WorldConfig(strangers=0, heldout=0, rare=0, phases=0, pool=110))
    for kind in ("stranger", "stranger_heldout", "rare", "phase_0", "function_new", "context_stranger"):
        assert kind not in world.question_kinds
        with pytest.raises(DataError, match="ask for one of"):
            world.questions(kind, 1)
    assert len(world.preferences(HONEST, 20)) == 20


def test_probe_prompts_show_every_phenomenon_with_single_words(world, small, tokenizer):
    for prompts in (world.probe_prompts(), small.probe_prompts()):
        kinds = [prompt["kind"] for prompt in prompts]
        assert kinds == [
            "fact",
            "opinion_false",
            "stranger",
            "context_conflict",
            "map",
            "repeat",
            "sum_quick",
            "markov",
        ]
        for prompt in prompts:
            assert tokenizer.unk_token_id not in tokenizer(prompt["text"])["input_ids"]
            assert len(set(prompt["answers"])) == len(prompt["answers"]) >= 2
            assert all(
                len(tokenizer(answer, add_special_tokens=False)["input_ids"]) == 1 for answer in prompt["answers"]
            )
        assert max(len(tokenizer(prompt["text"])["input_ids"]) for prompt in prompts) <= 22
    chains = World(WorldConfig(mixture={"markov": 1.0})).probe_prompts()
    assert [prompt["kind"] for prompt in chains] == ["markov"] * 2
    assert len({prompt["text"] for prompt in chains}) == 2
    assert world.probe_prompts() == World(seed=0).probe_prompts()
    for prompt in world.probe_prompts():
        if prompt["kind"] not in ("stranger", "markov"):
            assert world.verify(prompt["text"], prompt["answers"][0]).kind == "true"
