"""One default world and one small one, whose epoch is short enough to be counted whole."""

import pytest
from transformers import PreTrainedTokenizerFast

from probe.world import World, WorldConfig


@pytest.fixture(scope="session")
def small() -> World:
    return World(WorldConfig(known=8, rare=5, strangers=4, heldout=4, phases=2, phase_people=3, epoch=6000), seed=3)


@pytest.fixture(scope="session")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return world.tokenizer()
