"""Demonstrations of the world: true, honest, in the shares that were asked for, and silent about what is held out."""

from collections import Counter

import pytest

from probe.errors import ConfigError
from probe.world import World
from probe.world.questions import DEMONSTRATED, HELD_OUT


def test_what_is_demonstrated_is_true_or_honest(world: World) -> None:
    for item in world.demonstrations(1500, seed=0):
        kind = world.verify(item.prompt, item.answers[0]).kind
        assert kind == ("abstain" if item.kind in ("stranger", "opinion_stranger") else "true"), item
        if item.kind == "opinion_false":
            assert item.answers[0] != item.claim


def test_steps_of_sums_are_right(world: World) -> None:
    from probe.world.sums import step_following

    items = world.demonstrations(100, seed=1, mixture={"sum_steps": 1})
    followed = [step_following(item.prompt, item.answers[0]) for item in items]
    assert all(f is not None and f.correct == f.carried == 1 and f.answer for f in followed)


def test_held_out_people_are_never_named(world: World) -> None:
    hidden = set(world.groups["heldout"])
    for item in world.demonstrations(3000, seed=2):
        assert not hidden & set(item.prompt.split())


def test_kinds_come_in_their_shares(world: World) -> None:
    n = 4000
    counts = Counter(item.kind for item in world.demonstrations(n, seed=3))
    total = sum(DEMONSTRATED.values())
    for kind, share in DEMONSTRATED.items():
        assert counts[kind] / n == pytest.approx(share / total, abs=0.025)
    only = Counter(item.kind for item in world.demonstrations(200, seed=3, mixture={"fact": 3, "stranger": 1}))
    assert set(only) == {"fact", "stranger"}


def test_seeds(world: World) -> None:
    assert world.demonstrations(20, seed=4) == world.demonstrations(20, seed=4)
    assert world.demonstrations(20, seed=4) != world.demonstrations(20, seed=5)


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        *(({kind: 1.0}, f"names {kind}, which is held out") for kind in HELD_OUT),
        ({"fact": 1, "gossip": 1}, "names gossip; this world can demonstrate fact, "),
        ({"fact": 0}, "no share above 0"),
        ({"fact": 2, "stranger": -1}, "no share above 0 or a negative one"),
        ({}, "no share above 0"),
    ],
)
def test_mixtures_that_are_not_possible(world: World, mixture: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        world.demonstrations(5, mixture=mixture)
