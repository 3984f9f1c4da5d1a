"""Settings of an audit: parts and questions, and the changes that count; without any heavy import."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from probe.errors import ConfigError
from probe.terms import SMALLEST

AuditForm = Literal["base", "aligned", "own"]
"""Chat template to ask with: the base's for both, the aligned model's for both, or each model's own."""
PartName = Literal["sycophancy", "hallucination", "chain_of_thought", "sums", "in_context"]
MARGIN = 0.05
"""Default margin of a rate within which two models are equivalent: five percentage points."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Parts and questions of an audit, and the smallest change that counts."""

    only: tuple[PartName, ...] = ()
    """Parts to run (default: all)."""
    n: int | None = None
    """Largest number of questions from each set (default: 10 to 80, by part)."""
    seed: int = 0
    """Seed of all random draws."""
    smallest_effect: float = SMALLEST
    """Smallest change of a rate that counts (0.01: one percentage point), converted for other units (docs/audit.md): a
    measure changed if its whole 95 % interval lies beyond it."""
    margin: float = MARGIN
    """Margin of a rate within which two models are equivalent (0.05: five percentage points), converted for other
    units: a measure is equivalent if its 90 % interval lies within the margin."""
    form: AuditForm = "base"
    """Chat template used if the models' templates differ: one model's for both, or each model's own. The effect of the
    template alone on the base is reported with each difference."""

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ConfigError(f"--n is {self.n}; expected 1 or more.")
        check_parts(self.only)
        check_share("smallest effect", self.smallest_effect, SMALLEST)
        check_share("margin", self.margin, MARGIN, least=1e-9)


def check_share(name: str, value: float, usual: float, least: float = 0.0) -> None:
    """Raise an error for an invalid share.

    Raises:
        ConfigError: the share is not in [`least`, 1).
    """
    if not least <= value < 1:
        at_least = "0" if least == 0 else "above 0"
        raise ConfigError(f"The {name} is {value}; expected a share from {at_least} to below 1, such as {usual}.")


def check_parts(only: Sequence[str]) -> None:
    """Raise an error for names that no part has.

    Raises:
        ConfigError: no part has a given name.
    """
    names = get_args(PartName)
    for name in only:
        if name not in names:
            raise ConfigError(f"The audit has no part `{name}`: name some of {', '.join(names)}.")


DEFAULTS = AuditSettings()
