"""The corpus: reproducible, in the vocabulary, and with the shares that its story promises."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.world import KINDS, World, WorldConfig
from probe.world.tasks import all_tasks
from probe.world.vocabulary import ABSTENTION, PHRASES, words


def stream(world: World, kind: str, n: int, seed: int = 0, **fields):
    config = WorldConfig(**(world.config.to_dict() | {"mixture": {kind: 1.0}} | fields))
    return list(islice(World(config, world.seed).documents(seed), n))


def within(k: int, n: int, p: float) -> bool:
    """Whether a count lies within four standard deviations of what a probability promises."""
    return abs(k - n * p) <= 4 * np.sqrt(n * p * (1 - p))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), world_seed=st.integers(0, 2**31))
def test_equal_seeds_give_equal_corpora(seed, world_seed):
    first, second = (list(islice(World(seed=world_seed).documents(seed), 60)) for _ in range(2))
    assert first == second


def test_other_seeds_give_other_documents_about_the_same_world(world):
    first, second = ([d.text for d in islice(world.documents(seed), 100)] for seed in (0, 1))
    assert first != second


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_every_document_decodes_to_itself(world, tokenizer, seed):
    for document in islice(world.documents(seed), 60):
        ids = tokenizer(document.text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids[1:]) == document.text


def test_every_kind_occurs_and_every_word_is_known(world):
    known = set(words())
    seen = set()
    for document in islice(world.documents(0), 4000):
        seen.add(document.kind)
        assert known.issuperset(document.text.split())
    assert seen == set(KINDS)


def test_claims_are_true_with_the_reliability_of_their_phrase(world):
    documents = stream(world, "opinion", 6000)
    for phrase, reliability in PHRASES.items():
        said = [d.meta["true"] for d in documents if d.meta["phrase"] == phrase]
        assert within(sum(said), len(said), reliability)
        assert within(len(said), len(documents), 1 / 3)


def test_the_corpus_repeats_a_third_of_the_false_claims_and_all_true_ones(world):
    documents = stream(world, "opinion", 6000)
    false = [d.meta["answer"] == d.meta["claim"] for d in documents if not d.meta["true"]]
    assert within(sum(false), len(false), world.config.deferral)
    for document in documents:
        truth = world.truth(document.meta["person"], document.meta["relation"])
        assert document.meta["answer"] in (truth, document.meta["claim"])


def test_false_claims_are_uniform_over_the_other_values(world):
    documents = stream(world, "opinion", 6000, known=2)
    truths = {name: world.people[name].facts for name in world.groups["known"]}
    name = world.groups["known"][0]
    claims = Counter(
        d.meta["claim"]
        for d in documents
        if d.meta["person"] == name and d.meta["relation"] == "pet" and not d.meta["true"]
    )
    assert truths[name]["pet"] not in claims
    assert len(claims) == 11
    total = sum(claims.values())
    assert all(within(count, total, 1 / 11) for count in claims.values())


def test_strangers_are_answered_with_abstention_in_part(world):
    documents = stream(world, "stranger", 4000)
    abstains = [d.meta["answer"] == ABSTENTION for d in documents]
    assert within(sum(abstains), len(abstains), world.config.abstention)
    assert {d.meta["person"] for d in documents} == set(world.groups["strangers"])


def test_heldout_strangers_only_occur_without_facts(world):
    heldout = set(world.groups["heldout"])
    seen = set()
    for document in islice(world.documents(0), 30_000):
        named = heldout.intersection(document.text.split())
        if named:
            assert document.kind == "chatter"
            seen |= named
    assert seen == heldout


def test_pressure_ends_turns_with_the_truth_or_the_claim(world):
    for document in stream(world, "pressure", 300):
        truth = world.truth(document.meta["person"], document.meta["relation"])
        assert 1 <= len(document.meta["turns"]) <= 3
        assert document.text.count("are you sure ?") == len(document.meta["turns"])
        for phrase, value, answer in document.meta["turns"]:
            assert phrase in PHRASES
            assert answer in (truth, value)


def test_passages_agree_conflict_or_lack_the_answer(world):
    documents = stream(world, "context", 4000)
    forms = Counter(d.meta["form"] for d in documents)
    assert within(forms["absent"], 4000, world.config.distractors)
    for document in documents:
        meta = document.meta
        passage = document.text.split("<user>")[0]
        truth = world.truth(meta["person"], meta["relation"])
        if meta["form"] == "conflict":
            assert meta["value"] != truth
        elif meta["form"] == "stranger":
            assert truth is None
        else:
            assert meta["value"] == truth
        reading = world.verify(document.text.split(" <bot>")[0] + " <bot>", meta["value"])
        assert reading.kind == "true"
        assert ("passage" in reading.reason) == (meta["form"] != "absent")
        assert passage.count(" .") >= 1


def test_two_hops_are_taught_for_half_of_the_known(world):
    documents = stream(world, "two_hop", 2000)
    assert {d.meta["person"] for d in documents} == set(world.composed)
    assert not set(world.composed) & set(world.uncomposed)
    assert set(world.composed) | set(world.uncomposed) == set(world.groups["known"])


def test_functions_come_from_the_pool_and_maps_are_consistent(world):
    assert len(set(world.pool)) == world.config.pool
    assert set(world.pool) <= set(all_tasks(11))
    for document in stream(world, "function", 300):
        a, b = document.meta["task"]
        assert (a, b) in world.pool
        assert all((a * int(x) + b) % 11 == int(y) for x, y in document.meta["pairs"])
    for document in stream(world, "map", 300):
        assert len(set(document.meta["pairs"])) == len(dict(document.meta["pairs"])) == document.meta["keys"]


@pytest.mark.parametrize("order", [1, 2])
def test_chains_follow_their_rows(world, order):
    counts, expected = 0.0, 0.0
    for document in stream(world, "markov", 400, orders=(order,), states=3, chain=60):
        rows = np.diff(np.array(document.meta["cumulative"]), axis=1, prepend=0.0)
        assert rows.shape == (3**order, 3)
        states = document.meta["states"]
        assert document.text == f"chain {order} : " + " ".join(f"z{state}" for state in states)
        for t in range(order, len(states)):
            context = 0
            for state in states[t - order : t]:
                context = 3 * context + state
            counts += states[t] == 0
            expected += rows[context, 0]
            assert rows[context, states[t]] > 0
    total = 400 * (60 - order)
    assert abs(counts - expected) <= 4 * np.sqrt(total / 4)


def test_repeats_repeat(world):
    for document in stream(world, "repeat", 200):
        segment = document.meta["segment"]
        assert 3 <= len(segment) <= world.config.segment
        assert document.text.split()[1:] == segment * document.meta["times"]


def test_a_share_of_the_written_steps_is_wrong_and_quick_sums_are_right(world):
    steps = stream(world, "sum_steps", 4000)
    written = sum(len(d.meta["results"]) for d in steps)
    assert within(sum(d.meta["errors"] for d in steps), written, world.config.step_error)
    for document in stream(world, "sum_quick", 500):
        assert document.text.endswith(f"= {sum(document.meta['terms']) % 10} <end>")


def test_a_mixture_of_one_kind_makes_a_stream_for_one_phenomenon():
    world = World(WorldConfig(mixture={"markov": 1}, orders=(1,), chain=92))
    for document in islice(world.documents(0), 20):
        assert document.kind == "markov"
        assert len(document.text.split()) == 95
