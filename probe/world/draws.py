"""Fast scalar draws from a numpy Generator, and one independent Generator for each purpose."""

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np

T = TypeVar("T")

PURPOSES = ("people", "facts", "pool", "documents", "phase", "questions", "preferences", "prompts", "demonstrations")


def generator(purpose: str, *seeds: int) -> np.random.Generator:
    """Return the Generator of one purpose: equal arguments give equal draws, different purposes independent ones."""
    key = (PURPOSES.index(purpose), *(int(seed) & 0xFFFFFFFF for seed in seeds))
    return np.random.default_rng(np.random.SeedSequence(0, spawn_key=key))


class Draws:
    """Scalar draws for loops over documents; uniform numbers are generated in blocks, in 0.1 microseconds each."""

    def __init__(self, source: np.random.Generator, block: int = 4096) -> None:
        self.generator = source
        self._block = block
        self._buffer: list[float] = []

    def uniform(self) -> float:
        """Draw a number in [0, 1)."""
        if not self._buffer:
            self._buffer = self.generator.random(self._block).tolist()
        return self._buffer.pop()

    def below(self, n: int) -> int:
        """Draw an integer from 0 to n - 1."""
        return int(self.uniform() * n)

    def chance(self, probability: float) -> bool:
        """Draw True with this probability, else False."""
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Draw one of the items."""
        return items[int(self.uniform() * len(items))]

    def other(self, items: Sequence[T], excluded: T) -> T:
        """Draw one of the items other than the excluded one, which must be among them."""
        index = int(self.uniform() * (len(items) - 1))
        return items[index if index < items.index(excluded) else index + 1]

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """Draw `k` different items in random order."""
        pool = list(items)
        for i in range(k):
            j = i + int(self.uniform() * (len(pool) - i))
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]

    def sample_few(self, items: Sequence[T], k: int) -> list[T]:
        """Draw `k` different items by redrawing repeats; `k` should be much smaller than their number."""
        picks: dict[T, None] = {}
        while len(picks) < k:
            picks[self.pick(items)] = None
        return list(picks)

    def pick_weighted(self, items: Sequence[T], weights: Sequence[float], k: int) -> list[T]:
        """Draw `k` items with repeats, each with its weight."""
        cumulative = list(accumulate(weights))
        return [items[min(bisect(cumulative, self.uniform() * cumulative[-1]), len(items) - 1)] for _ in range(k)]
