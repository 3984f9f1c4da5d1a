"""The world itself: reproducible, serialisable, and refused with a remedy where it makes no sense."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import probe.world
from probe.errors import ConfigError, DataError, RunError
from probe.world import World, WorldConfig
from probe.world.language import TAUGHT
from probe.world.people import allocate, zipf
from probe.world.vocabulary import VALUES, words


def test_equal_seeds_give_equal_worlds_and_others_differ():
    assert World(seed=5).people == World(seed=5).people
    assert World(seed=5).people != World(seed=6).people
    assert World(seed=5).hash == World(seed=5).hash
    hashes = {World(seed=5).hash, World(seed=6).hash, World(WorldConfig(known=10), seed=5).hash}
    assert len(hashes) == 3


def test_round_trip_through_json(small):
    again = World.from_dict(json.loads(json.dumps(small.to_dict())))
    assert again.config == small.config
    assert again.hash == small.hash
    assert again.people == small.people
    assert again.exposure == small.exposure
    assert list(islice(again.documents(1), 50)) == list(islice(small.documents(1), 50))


def test_the_hash_does_not_depend_on_the_order_of_the_mixture():
    forwards = WorldConfig(mixture={"map": 1.0, "city": 2.0})
    backwards = WorldConfig(mixture={"city": 2.0, "map": 1.0})
    first, second = World(forwards), World(backwards)
    assert first.hash == second.hash
    assert list(islice(first.documents(0), 200)) == list(islice(second.documents(0), 200))


def test_people_have_the_groups_and_facts_that_the_config_asks_for(world):
    assert {group: len(names) for group, names in world.groups.items()} == {
        "known": 64, "rare": 40, "strangers": 40, "heldout": 40, "phase_0": 12, "phase_1": 12, "phase_2": 12,
    }  # fmt: skip
    names = [name for group in world.groups.values() for name in group]
    assert len(names) == len(set(names)) == len(world.people)
    for person in world.people.values():
        if person.group in ("strangers", "heldout"):
            assert not person.facts
        else:
            assert tuple(person.facts) == TAUGHT
            assert all(value in VALUES[relation] for relation, value in person.facts.items())


def test_truth_composes_home_and_country(world):
    name = world.groups["known"][0]
    assert world.truth(name, "country") == world.truth(world.truth(name, "home"), "city")
    assert world.truth(world.groups["strangers"][0], "country") is None
    assert world.truth("nobody", "home") is None


def test_about_450_readable_words():
    assert 400 <= len(words()) <= 450
    assert len(set(words())) == len(words())
    assert all(word == word.lower() and not any(letter.isspace() for letter in word) for word in words())


def test_exposures_follow_zipf_and_rare_people_have_one_to_five(world):
    assert {world.exposure[name][r] for name in world.groups["rare"] for r in TAUGHT} == {1, 2, 3, 4, 5}
    nobody = (*world.groups["strangers"], *world.groups["heldout"], *world.groups["phase_0"])
    assert all(set(world.exposure[name].values()) == {0} for name in nobody)
    known = [sum(world.exposure[name].values()) for name in world.groups["known"]]
    assert known == sorted(known, reverse=True)
    assert known[0] / known[9] == pytest.approx(10, rel=0.01)
    assert sum(zipf(world.config)) == pytest.approx(1)


def test_an_epoch_states_each_fact_as_often_as_recorded(small):
    epoch = list(islice(small.documents(0), small.config.epoch))
    stated = [document for document in epoch if document.kind in ("statement", "question")]
    counts = Counter((document.meta["person"], document.meta["relation"]) for document in stated)
    for name, relations in small.exposure.items():
        for relation, exposure in relations.items():
            assert counts[name, relation] == exposure
    kinds = Counter(document.kind for document in epoch)
    total = sum(small.config.mixture.values())
    for kind, share in small.config.mixture.items():
        assert abs(kinds[kind] - share / total * small.config.epoch) <= 1


def test_the_second_epoch_repeats_the_counts_in_another_order():
    world = World(WorldConfig(known=4, rare=2, phases=0, epoch=400, mixture={"statement": 1.0}))
    stream = [document.text for document in islice(world.documents(0), 800)]
    people = [[text.split() for text in half] for half in (stream[:400], stream[400:])]
    named = [Counter(next(word for word in text if word in world.people) for text in half) for half in people]
    assert named[0] == named[1]
    assert stream[:400] != stream[400:]


@given(total=st.integers(0, 10_000), weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=20))
def test_allocation_is_exact_and_off_by_less_than_one(total, weights):
    counts = allocate(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-9


@pytest.mark.parametrize(
    "fields",
    [
        {"known": 1},
        {"known": 300},
        {"rare": -1},
        {"values": 7},
        {"values": 13},
        {"mixture": {"poems": 1.0}},
        {"mixture": {"map": 0.0}},
        {"mixture": {"map": -1.0, "city": 2.0}},
        {"deferral": 1.5},
        {"orders": (3,)},
        {"orders": ()},
        {"modulus": 9},
        {"pool": 111},
        {"pairs": 4},
        {"segment": 300},
        {"alpha": 0.0},
    ],
)
def test_a_senseless_config_is_refused_with_a_remedy(fields):
    with pytest.raises(ConfigError, match="change the WorldConfig"):
        WorldConfig(**fields)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 99}, DataError),
        ({"config": None}, DataError),
        ({"seed": "zero"}, DataError),
        ({"seed": 4}, DataError),
        ({"config": {"colour": "blue"}}, ConfigError),
        ({"config": {"known": "many"}}, ConfigError),
        ({"config": {"epoch": 2**31}}, ConfigError),
    ],
)
def test_a_foreign_world_is_refused(small, change, error):
    with pytest.raises(error):
        World.from_dict(small.to_dict() | change)


def test_of_finds_the_world_of_a_run_and_of_a_model(tmp_path: Path, small):
    (tmp_path / "run.json").write_text(json.dumps({"world": small.to_dict()}))
    assert probe.world.of(SimpleNamespace(run_dir=tmp_path)).hash == small.hash
    assert probe.world.of(SimpleNamespace(world=small.to_dict())).hash == small.hash
    assert probe.world.of(small) is small
    assert probe.world.of(SimpleNamespace(run_dir=None)) is None
    (tmp_path / "run.json").write_text(json.dumps({"world": None}))
    assert probe.world.of(SimpleNamespace(run_dir=tmp_path)) is None


def test_of_a_broken_run_says_so(tmp_path: Path):
    with pytest.raises(RunError, match="has no readable"):
        probe.world.of(SimpleNamespace(run_dir=tmp_path))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(RunError, match="has no readable"):
        probe.world.of(SimpleNamespace(run_dir=tmp_path))


def test_unknown_phase_and_kind_are_refused(small):
    with pytest.raises(DataError, match="phases 0 to 1"):
        small.phase_documents(2)
    with pytest.raises(DataError, match="no questions of kind 'riddle'"):
        small.questions("riddle", 1)


def test_phases_teach_only_their_people(small):
    for phase in range(2):
        for document in islice(small.phase_documents(phase, 0), 100):
            assert document.meta["person"] in small.groups[f"phase_{phase}"]
            assert document.meta["value"] == small.truth(document.meta["person"], document.meta["relation"])


def test_repr_names_the_groups(small):
    assert "8 known" in repr(small)
    assert small.hash[:12] in repr(small)
