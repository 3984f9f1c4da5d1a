"""The people of the world, their facts, and how often the corpus states each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.world.config import WorldConfig
from probe.world.draws import Draws, generator
from probe.world.language import TAUGHT
from probe.world.vocabulary import NAMES, VALUES


@dataclass(frozen=True)
class Person:
    """A person: name, group and facts (relation -> value; empty for unseen entities)."""

    name: str
    group: str
    facts: Mapping[str, str]


def allocate(total: int, weights: Sequence[float]) -> list[int]:
    """Return whole numbers that sum to `total` in proportion to the weights (largest remainders first)."""
    shares = np.asarray(weights, dtype=float)
    exact = total * shares / shares.sum()
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts.tolist()


def group_names(config: WorldConfig, seed: int) -> dict[str, tuple[str, ...]]:
    """Draw the names of each group: known, rare, strangers, heldout, phase_0, phase_1, ..."""
    names = Draws(generator("people", seed)).sample(NAMES, len(NAMES))
    sizes = {"known": config.known, "rare": config.rare, "strangers": config.strangers, "heldout": config.heldout}
    sizes |= {f"phase_{i}": config.phase_people for i in range(config.phases)}
    groups, start = {}, 0
    for group, size in sizes.items():
        groups[group] = tuple(names[start : start + size])
        start += size
    return groups


def populate(config: WorldConfig, seed: int, groups: Mapping[str, Sequence[str]]) -> dict[str, Person]:
    """Give every person a value of each taught relation, drawn uniformly; unseen entities get none."""
    draws = Draws(generator("facts", seed))
    people = {}
    for group, names in groups.items():
        for name in names:
            facts = {}
            if group not in ("strangers", "heldout"):
                facts = {relation: draws.pick(VALUES[relation][: config.values]) for relation in TAUGHT}
            people[name] = Person(name, group, facts)
    return people


def kind_counts(config: WorldConfig) -> dict[str, int]:
    """Return the number of documents of each kind in one epoch."""
    return dict(zip(config.mixture, allocate(config.epoch, list(config.mixture.values())), strict=True))


def exposures(config: WorldConfig, groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return the number of documents per epoch that state or ask for each fact (kinds `statement` and `question`).

    All facts of a rare person have the same exposure, 1 to 5; the known people share the rest by Zipf's law. People
    without facts, and those of the phases, have exposure 0.
    """
    counts = kind_counts(config)
    total = counts.get("statement", 0) + counts.get("question", 0)
    result = {name: dict.fromkeys(TAUGHT, 0) for names in groups.values() for name in names}
    for i, name in enumerate(groups["rare"]):
        times = min(1 + i % 5, total // len(TAUGHT))
        result[name] = dict.fromkeys(TAUGHT, times)
        total -= times * len(TAUGHT)
    weights = [weight for weight in zipf(config) for _ in TAUGHT]
    shares = iter(allocate(total, weights))
    for name in groups["known"]:
        result[name] = {relation: next(shares) for relation in TAUGHT}
    return result


def zipf(config: WorldConfig) -> list[float]:
    """Return the probability of mentioning each known person, by rank."""
    weights = np.arange(1, config.known + 1, dtype=float) ** -config.zipf
    return (weights / weights.sum()).tolist()
