"""What a claim is and what became of it: the number, its interval, and whether it holds on these runs.

A claim is somebody's published sentence. Its effect is one number whose sign the sentence predicts; the claim holds
here if the whole 95 % interval lies on that side of zero, and whatever else the sentence asserts is so too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from probe.findings.bench import Bench
from probe.stats import Interval


@dataclass(frozen=True)
class Measured:
    """What a claim's function gives."""

    effect: Interval
    """The number of the claim with its 95 % interval."""
    n: int
    """Items behind it."""
    holds: bool
    """Whether the claim holds here."""
    said: str
    """The numbers in one sentence, those included that speak against the claim."""


@dataclass(frozen=True)
class Claim:
    """A published claim and how it is measured."""

    name: str
    """Short and stable, as in `probe findings --only`."""
    sentence: str
    """The claim."""
    source: str
    """Who published it, with the number of the preprint."""
    effect: str
    """What the number is, with its unit."""
    runs: tuple[str, ...]
    """Names of the runs that it needs, the model first."""
    page: str
    """The page of the dashboard that shows it, such as `sycophancy` or `rewards`."""
    measure: Callable[[Bench], Measured]
    choices: Mapping[str, str] = field(default_factory=dict)
    """What else a link to that page chooses, such as a prompt."""
    version: int = 1
    """Raised when equal runs would give another finding."""


@dataclass(frozen=True)
class Finding:
    """A claim with what was found; without numbers where it could not be measured."""

    name: str
    sentence: str
    source: str
    effect: str
    page: str
    runs: tuple[str, ...]
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    holds: bool | None = None
    """None where it could not be measured."""
    said: str = ""
    """The numbers in words, or why there are none."""
    choices: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, claim: Claim, found: Measured | str) -> "Finding":
        """What was found, or why nothing was."""
        shared: dict[str, Any] = {
            name: getattr(claim, name) for name in ("name", "sentence", "source", "effect", "page", "runs", "choices")
        }
        if isinstance(found, str):
            return cls(**shared, said=found)
        value, low, high = found.effect
        return cls(**shared, value=value, ci_low=low, ci_high=high, n=found.n, holds=found.holds, said=found.said)

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured`."""
        return "not measured" if self.holds is None else "holds" if self.holds else "does not hold"


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row a claim: name, sentence, source, effect, value, ci_low, ci_high, n, holds, said, page, runs."""
    rows = [asdict(finding) | {"runs": " ".join(finding.runs)} for finding in findings]
    order = ["name", "sentence", "source", "effect", "value", "ci_low", "ci_high", "n", "holds", "said", "page", "runs"]
    return pd.DataFrame(rows, columns=order)
