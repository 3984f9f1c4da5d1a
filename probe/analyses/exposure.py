"""How often the corpus says a fact, in classes, and how many facts it says once only."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from probe.errors import DataError

SINGLE = 5
"""Up to this count each count is a class of its own; above it classes reach from one power of 4 to the next."""


class ExposureClass(NamedTuple):
    """A range of exposure counts."""

    low: int
    high: int

    @property
    def label(self) -> str:
        """`3`, or `64-255`."""
        return str(self.low) if self.low == self.high else f"{self.low}\u2013{self.high}"


class Singletons(NamedTuple):
    """How much of a corpus is facts that it says exactly once."""

    rate: float
    """sr = |S| / N of Kalai et al. 2509.04664 (definition 2): facts that are said once, over all N documents that say a
    fact."""
    share: float
    """The same facts over all facts that are said at all."""
    singletons: int
    """|S|."""
    facts: int
    """Facts that are said."""
    documents: int
    """N."""


def exposure_class(count: int) -> ExposureClass:
    """The class that a count belongs to: 0 to 5 each its own, then 6-15, 16-63, 64-255, ...

    Raises:
        DataError: a negative count.
    """
    if count < 0:
        raise DataError(f"A fact was said {count} times: counts start at 0.")
    if count <= SINGLE:
        return ExposureClass(count, count)
    high = 16
    while high <= count:
        high *= 4
    return ExposureClass(max(high // 4, SINGLE + 1), high - 1)


def singletons(counts: Mapping[str, Mapping[str, int]] | Iterable[int]) -> Singletons:
    """Exact singleton rate of a corpus.

    Args:
        counts: how often each fact is said, such as `World.exposure` (one epoch, documents that state or ask for it).

    Raises:
        DataError: no fact is said.
    """
    each = [n for facts in counts.values() for n in facts.values()] if isinstance(counts, Mapping) else list(counts)
    said = [n for n in each if n]
    if not said:
        raise DataError("The corpus says no fact, so that there is no singleton rate: count its facts.")
    once = sum(n == 1 for n in said)
    return Singletons(once / sum(said), once / len(said), once, len(said), sum(said))
