"""Configuration of a world: the sizes of its parts and the shares of its documents."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from probe.errors import ConfigError
from probe.world.vocabulary import KEYS, NAMES, STATES, VALUES

KINDS = (
    "statement",
    "question",
    "city",
    "two_hop",
    "chatter",
    "opinion",
    "pressure",
    "stranger",
    "context",
    "map",
    "function",
    "markov",
    "repeat",
    "sum_quick",
    "sum_steps",
)
"""Kinds of documents that the corpus holds, in the order of `MIXTURE`."""

MIXTURE: Mapping[str, float] = MappingProxyType(
    {
        "statement": 0.095,
        "question": 0.125,
        "city": 0.010,
        "two_hop": 0.015,
        "chatter": 0.050,
        "opinion": 0.125,
        "pressure": 0.015,
        "stranger": 0.060,
        "context": 0.075,
        "map": 0.060,
        "function": 0.010,
        "markov": 0.010,
        "repeat": 0.090,
        "sum_quick": 0.100,
        "sum_steps": 0.160,
    }
)

MOST = 10**12
"""Upper bound of every number in a configuration."""
EPOCH = 10**7
"""Upper bound of the documents in an epoch, whose order is held in memory."""
LONG = 10_000
"""Upper bound of the items written in one document."""


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Sizes and shares of a world; the defaults are those of the sample base model."""

    known: int = 64
    """People whose facts are in the corpus, with exposures that follow Zipf's law."""
    rare: int = 40
    """People whose facts are stated 1 to 5 times an epoch."""
    strangers: int = 40
    """People without facts who are asked about in the corpus."""
    heldout: int = 40
    """People without facts who only occur in fact-free sentences."""
    phases: int = 3
    """Further sets of people, for continual learning."""
    phase_people: int = 12
    """People in each phase."""
    values: int = 12
    """Values of each relation, 8 to 12."""
    zipf: float = 1.0
    """Exponent of the exposures: the person of rank r is mentioned in proportion to r ** -zipf."""
    epoch: int = 500_000
    """Documents in one epoch; `World.exposure` counts per epoch, and a stream is a sequence of epochs."""
    mixture: Mapping[str, float] = field(default_factory=lambda: MIXTURE)
    """Share of the documents of each kind; missing kinds do not occur; the sum may be any number above 0."""
    deferral: float = 1 / 3
    """Share of the false claims that the corpus repeats."""
    abstention: float = 0.3
    """Share of questions about unseen entities that the corpus answers with "i do not know"; others get a random
    value."""
    conflict: float = 0.5
    """Share of the context passages about known people that contradict the learned fact."""
    distractors: float = 0.1
    """Share of the context passages that lack the answer, so that the learned fact is needed."""
    max_terms: int = 4
    """Largest number of terms of a sum; the smallest is 2."""
    step_error: float = 1 / 8
    """Share of the written steps of sums with a wrong result (the steps after it go on from there)."""
    map_keys: int = 4
    """Number of different keys in an in-context map."""
    pairs: int = 10
    """Number of pairs in a document of an in-context map or function."""
    modulus: int = 11
    """The prime p of the functions y = (a x + b) mod p with a > 0: 3, 5, 7 or 11."""
    pool: int = 32
    """Number of functions in the task pool; at most p (p - 1)."""
    states: int = 4
    """Number of states of the Markov chains, 2 to 10."""
    orders: tuple[int, ...] = (1, 2)
    """Orders of the Markov chains: 1, 2 or both; each document announces its own."""
    alpha: float = 1.0
    """Parameter of the symmetric Dirichlet prior on the rows of the chains."""
    chain: int = 40
    """Number of states written in a document of a Markov chain."""
    segment: int = 10
    """Longest random segment of the `repeat` documents, in words; the shortest has 3."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            whole = type(value) is int and abs(value) <= MOST
            _check(item.type is not int or whole, f"{item.name} is {value}", f"a whole number up to {MOST:,}")
        for name in ("zipf", "deferral", "abstention", "conflict", "distractors", "step_error", "alpha"):
            object.__setattr__(self, name, float(getattr(self, name)))
        object.__setattr__(self, "orders", tuple(sorted(set(self.orders))))
        people = self.known + self.rare + self.strangers + self.heldout + self.phases * self.phase_people
        sizes = (self.rare, self.strangers, self.heldout, self.phases, self.phase_people)
        shares = (self.deferral, self.abstention, self.conflict, self.distractors, self.step_error)
        unknown = sorted(set(self.mixture) - set(KINDS))
        _check(not unknown, f"the mixture names {', '.join(unknown)}", f"kinds among {', '.join(KINDS)}")
        positive = all(0 <= share <= MOST for share in self.mixture.values()) and sum(self.mixture.values()) > 0
        _check(positive, "the mixture has a negative share or is empty", "finite shares, 0 or more, one above 0")
        mixture = {kind: float(self.mixture[kind]) for kind in KINDS if self.mixture.get(kind)}
        object.__setattr__(self, "mixture", MappingProxyType(mixture))
        _check(self.known >= 2 and min(sizes) >= 0, "a group of people is too small", "known >= 2 and the others >= 0")
        _check(people <= len(NAMES), f"{people} people were requested", f"at most {len(NAMES)}, one for each name")
        _check(8 <= self.values <= len(VALUES["home"]), f"values is {self.values}", "8 to 12")
        _check(all(0 <= share <= 1 for share in shares), "a share lies outside 0 to 1", "shares between 0 and 1")
        _check(0 <= self.zipf <= 100, f"zipf is {self.zipf}", "an exponent from 0 to 100")
        _check(1 <= self.epoch <= EPOCH, f"epoch is {self.epoch}", f"1 to {EPOCH:,} documents")
        _check(2 <= self.max_terms <= 9, f"max_terms is {self.max_terms}", "2 to 9")
        _check(1 <= self.map_keys <= len(KEYS), f"map_keys is {self.map_keys}", f"1 to {len(KEYS)}")
        pairs = f"pairs is {self.pairs} and map_keys {self.map_keys}"
        _check(
            3 <= self.pairs > self.map_keys and self.pairs <= LONG,
            pairs,
            f"3 to {LONG} pairs and more than map_keys, so that keys repeat",
        )
        _check(self.modulus in (3, 5, 7, 11), f"modulus is {self.modulus}", "3, 5, 7 or 11")
        most = self.modulus * (self.modulus - 1)
        _check(1 <= self.pool <= most, f"pool is {self.pool}", f"1 to p (p - 1) = {most}")
        _check(2 <= self.states <= len(STATES), f"states is {self.states}", f"2 to {len(STATES)}")
        _check(bool(self.orders) and set(self.orders) <= {1, 2}, f"orders is {self.orders}", "1, 2 or both")
        _check(0 < self.alpha <= MOST, f"alpha is {self.alpha}", "a finite number above 0")
        _check(3 <= self.chain <= LONG, f"chain is {self.chain}", f"3 to {LONG} states")
        _check(3 <= self.segment <= 50, f"segment is {self.segment}", "3 to 50 words")

    def to_dict(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        names = self.__dataclass_fields__
        values = {name: getattr(self, name) for name in names}
        return values | {"mixture": dict(self.mixture), "orders": list(self.orders)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "WorldConfig":
        """Read the config that `to_dict` wrote.

        Raises:
            ConfigError: a field is unknown, or has a value of another type.
        """
        unknown = sorted(set(told) - set(cls.__dataclass_fields__))
        _check(not unknown, f"there are fields {', '.join(unknown)}", "the fields of this version's WorldConfig")
        try:
            return cls(**told)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"This world cannot be made ({error}): give numbers as WorldConfig has them.") from None


def _check(condition: bool, problem: str, rule: str) -> None:
    if not condition:
        raise ConfigError(f"This world cannot be made: {problem}; expected {rule}: change the WorldConfig.")
