"""The model and the inputs of every benchmark: the tiny preset on the world, 0.85 M parameters."""

from functools import cache

import torch

import probe
from probe.world import World

PROMPTS, COMPLETIONS, NEW_TOKENS = 24, 8, 8


@cache
def world() -> World:
    """Return the default world."""
    return World()


@cache
def tiny() -> probe.LM:
    """Return the tiny preset with random weights."""
    return probe.LM.create("tiny", world().tokenizer(), seed=0)


@cache
def prompts() -> list[list[int]]:
    """Return 24 prompts of 18 tokens."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(5, len(tiny().tokenizer), (PROMPTS, 18), generator=generator).tolist()


def completions(size: int) -> list[list[list[int]]]:
    """Return a group of `size` completions of 8 tokens for each prompt."""
    generator = torch.Generator().manual_seed(1)
    shape = (PROMPTS, size, NEW_TOKENS)
    return torch.randint(5, len(tiny().tokenizer), shape, generator=generator).tolist()
