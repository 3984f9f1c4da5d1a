"""The plan of the claims: what each is held to, in one file that is hashed, and the verdicts that follow from it."""

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
"""Half of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Terms:
    """What one claim is held to."""

    population: str
    """The models or facts that it speaks of."""
    comparison: str
    """What is set against what."""
    refuted_by: str
    """What would refute it."""
    null: str
    """Where there is nothing to find, and the claim must not hold."""
    threshold: float
    """What the effect must lie beyond, in its own unit."""
    direction: Literal["above", "below"]
    """The predicted side of the threshold."""
    n: int
    """Questions, texts or facts of a training."""

    def beyond(self, found: Interval) -> bool:
        """Return whether the whole interval lies beyond the threshold on the predicted side."""
        return found.low > self.threshold if self.direction == "above" else found.high < self.threshold

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits, the same for equal terms."""
        return _hash(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Plan:
    """The terms of all claims, and what they share."""

    level: float
    """Of Holm's correction, two-sided."""
    null_rate: float
    """A null that holds more often than this leaves a claim undecided."""
    tuned: tuple[int, ...]
    """Seeds on which recipes were chosen."""
    seeds: tuple[int, ...]
    """Seeds that the sample runs have."""
    claims: Mapping[str, Terms]
    """By the name of the claim."""
    text: str
    """The file."""

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the file's SHA-256."""
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
    """Test by Student's t whether a mean over k trainings equals the threshold: two-sided p, NaN where nothing varies.

    Args:
        values: [k] one number an independent training.
        threshold: in the same unit.
    """
    found = np.asarray(values, dtype=float)
    if len(found) < 2 or not np.ptp(found) > 1e-12 * max(1.0, float(np.abs(found).max())):
        return math.nan
    t = (found.mean() - threshold) / (found.std(ddof=1) / math.sqrt(len(found)))
    return float(2 * stdtr(len(found) - 1, -abs(t)))


def p_of_interval(found: Interval, threshold: float) -> float:
    """Test whether a training's effect is the threshold: two-sided p from its 95 % interval over answers (normal)."""
    error = (found.high - found.low) / (2 * Z)
    return float(2 * ndtr(-abs(found.value - threshold) / error)) if error > 0 else math.nan


def holm(p: Mapping[str, float], count: int) -> dict[str, float]:
    """Return p-values after Holm's correction (Holm 1979).

    Args:
        p: by name; NaN counts as 1.
        count: hypotheses in all, those without a p among them: they count as 1 too.
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
        terms: of the claim.
        effect: over the trainings that decide.
        p: after the correction.
        null: how often the null holds, in how many repetitions. Without any a claim cannot hold.
        plan: level and largest rate of the null.
        held_out: whether a training is among them on which no recipe was chosen. Without one a claim cannot hold.
    """
    if math.isnan(effect) or not p <= plan.level:
        return "undecided"
    if (effect > terms.threshold) != (terms.direction == "above"):
        return "fails"
    held, repetitions = null
    return "holds" if held_out and repetitions and wilson(held, repetitions).low <= plan.null_rate else "undecided"
