"""Record of a family: methods that are given the same and asked the same, with the truths by which they are scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from probe.errors import DataError
from probe.model.lm import LM
from probe.ticks import Tick

MODULES = {
    "decoding": "probe.scorecard.decoding_family",
    "used": "probe.scorecard.used_family",
    "input": "probe.scorecard.input_family",
    "early": "probe.scorecard.early_family",
    "circuits": "probe.scorecard.circuit_family",
    "features": "probe.scorecard.features_family",
    "changes": "probe.scorecard.changes_family",
    "uncertainty": "probe.scorecard.uncertainty_family",
    "steering": "probe.scorecard.steering_family",
    "detectors": "probe.scorecard.detector_family",
    "hacking": "probe.scorecard.hacking_family",
}
"""Module of each family, which has the family as `FAMILY` and its methods."""
RANDOM, ORACLE = "random", "oracle"
"""Checks of the card: an answer without information, and the truth itself."""


@dataclass(frozen=True)
class Truth:
    """Something that is known exactly, and the score of an answer about it."""

    name: str
    words: str
    """Description, as the object of "find"."""
    score: str
    """Name of the score."""
    task: str = ""
    """Name of the problem; truths of one problem grade the same answer."""


class Grade(NamedTuple):
    """Score of an answer."""

    score: float
    """Score; NaN if the problem cannot tell answers apart."""
    also: Mapping[str, float] = {}
    """Further numbers, shown as evidence."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of methods."""

    name: str
    title: str
    about: str
    """One sentence on what its methods claim to find."""
    receives: str
    """Arguments of a method's function."""
    returns: str
    """Result that a method's function must return."""
    truths: tuple[Truth, ...]
    n: int
    """Number of texts for each problem."""
    baseline: str
    """Name of the method or reference that is naive: it looks at nothing inside."""
    prepare: Callable[[LM, str, int, int, Tick], Any]
    """Function of (model, task, number of texts, seed, progress) that makes a problem."""
    ask: Callable[[Any, Callable[..., Any]], Any]
    """Function of (problem, method's function) that returns the checked answer; None if the method does not
    apply."""
    grade: Callable[[Any, str, Any], Grade]
    """Function of (problem, name of the truth, answer)."""
    chance: Callable[[Any, str], float]
    """Function of (problem, name of the truth) that returns the expected score of a random answer."""
    references: Mapping[str, Callable[[Any, str, np.random.Generator], Any]]
    """Answers made with knowledge of the problem: `random`, `oracle`, and the baseline if it is no method. Functions of
    (problem, name of the truth, generator)."""
    titles: Mapping[str, str] = field(default_factory=dict)
    """Titles of references."""
    draws: int = 20
    """Number of random answers whose mean is the score of `random`, so that chance does not move the floor."""

    def truth(self, name: str) -> Truth:
        """Return a truth by name."""
        return next(each for each in self.truths if each.name == name)


def checked(answer: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Return an answer of a method as numbers.

    Args:
        answer: what the method returned.
        shape: expected shape.
        what: description of the answer for errors.

    Raises:
        DataError: it has another shape, or numbers that are not finite.
    """
    try:
        found = np.asarray(answer.detach().cpu() if hasattr(answer, "detach") else answer, dtype=float)
    except (TypeError, ValueError) as error:
        raise DataError(f"It returned {type(answer).__name__}; expected {what}, an array of shape {shape}.") from error
    if found.shape != shape:
        raise DataError(f"It returned an array of shape {found.shape}; expected {what}, of shape {shape}.")
    if not np.isfinite(found).all():
        raise DataError(f"It returned {int((~np.isfinite(found)).sum())} numbers that are not finite; expected {what}.")
    return found
