"""Plan of the claims (the criterion of each, in one hashed file), and the verdicts that follow from it."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, stdtr

from probe.stats import Interval, wilson
from probe.untrusted import parse_toml, read_file

FILE = Path(__file__).with_name("plan.toml")
Verdict = Literal["holds", "fails", "undecided", "not measured"]
Z = 1.959964
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Terms:
    """Criterion of one claim."""

    population: str
    """Models or facts that the claim is about."""
    comparison: str
    """Conditions that are compared."""
    refuted_by: str
    """Result that would refute the claim."""
    null: str
    """Setting without the effect, in which the claim must not hold."""
    threshold: float
    """Threshold that the effect must exceed, in its own unit."""
    direction: Literal["above", "below"]
    """Predicted side of the threshold."""
    n: int
    """Number of questions, texts or facts of a training."""

    def beyond(self, found: Interval) -> bool:
        """Return whether the whole interval lies beyond the threshold on the predicted side."""
        return found.low > self.threshold if self.direction == "above" else found.high < self.threshold

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that are equal for equal terms."""
        return _hash(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Plan:
    """Terms of all claims, and the settings that they share."""

    level: float
    """Two-sided level of Holm's correction."""
    null_rate: float
    """Largest rate at which the null may hold; above it, a claim is undecided."""
    tuned: tuple[int, ...]
    """Seeds on which recipes were chosen."""
    seeds: tuple[int, ...]
    """Seeds of the sample runs."""
    claims: Mapping[str, Terms]
    """Terms by the name of the claim."""
    text: str
    """Text of the plan's file."""

    @property
    def hash(self) -> str:
        """First sixteen hexadecimal digits of the file's SHA-256."""
        return _hash(self.text.encode())

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data, with its hash."""
        shared = {"hash": self.hash, "level": self.level, "null_rate": self.null_rate}
        shared |= {"tuned": list(self.tuned), "seeds": list(self.seeds)}
        return shared | {"claims": {name: asdict(terms) for name, terms in self.claims.items()}}


@cache
def read_plan() -> Plan:
    """Read the plan that comes with Probe."""
    text = read_file(FILE).decode()
    content = parse_toml(text)
    claims = {name: Terms(**terms) for name, terms in content.items() if isinstance(terms, dict)}
    shared = {name: tuple(content[name]) for name in ("tuned", "seeds")}
    return Plan(content["level"], content["null_rate"], **shared, claims=claims, text=text)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def p_over_trainings(values: Sequence[float], threshold: float) -> float:
    """Test by Student's t whether a mean over k trainings equals the threshold: two-sided p, NaN without variance.

    Args:
        values: [k] one effect per independent training.
        threshold: threshold in the same unit.
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2 or not np.ptp(found) > 1e-12 * max(1.0, float(np.abs(found).max())):
        return math.nan
    t = (found.mean() - threshold) / (found.std(ddof=1) / math.sqrt(len(found)))
    return float(2 * stdtr(len(found) - 1, -abs(t)))


def p_of_interval(found: Interval, threshold: float) -> float:
    """Test whether an effect equals the threshold: two-sided p from its 95 % interval over answers (normal)."""
    error = (found.high - found.low) / (2 * Z)
    return float(2 * ndtr(-abs(found.value - threshold) / error)) if error > 0 else math.nan


def holm(p: Mapping[str, float], count: int) -> dict[str, float]:
    """Return p-values after Holm's correction (Holm 1979).

    Args:
        p: p-values by name; NaN counts as 1.
        count: number of all hypotheses, including those without a p-value, which count as 1.
    """
    known = {name: 1.0 if math.isnan(value) else value for name, value in p.items()}
    adjusted, worst = {}, 0.0
    for rank, name in enumerate(sorted(known, key=lambda each: known[each])):
        worst = max(worst, min(1.0, (count - rank) * known[name]))
        adjusted[name] = worst
    return adjusted


def verdict(
    terms: Terms, effect: float, p: float, null: tuple[int, int], plan: Plan, *, held_out: bool = True
) -> Verdict:
    """Return the verdict on a claim: `holds`, `fails` or `undecided`.

    Args:
        terms: terms of the claim.
        effect: effect over the trainings that decide.
        p: p-value after the correction.
        null: number of repetitions in which the null holds, and number of all repetitions. Without repetitions a claim
            cannot hold.
        plan: plan with the level and the largest rate of the null.
        held_out: whether some training was not used to choose recipes. Without one a claim cannot hold.
    """
    if math.isnan(effect) or not p <= plan.level:
        return "undecided"
    if (effect > terms.threshold) != (terms.direction == "above"):
        return "fails"
    held, repetitions = null
    return "holds" if held_out and repetitions and wilson(held, repetitions).low <= plan.null_rate else "undecided"
