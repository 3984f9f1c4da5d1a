"""Adaptive coefficient of an entropy bonus (He et al. 2025, Skywork-OR1, arXiv 2505.22312; also in TRL).

A step measures the entropy H of the policy on its samples before the first update. The bonus is on, with the present
coefficient, if H is at most the target; afterwards the coefficient grows by `delta` in this case and falls by it
otherwise, between 0 and `LARGEST`.
"""

from collections.abc import Iterable, Sequence
from math import fsum

LARGEST = 1.0
"""Largest adapted coefficient."""


def mean_entropy(entropies: Iterable[Sequence[float]]) -> float:
    """Return the mean entropy over the tokens of completions in nats; 0 without tokens."""
    rows = list(entropies)
    return sum(map(fsum, rows)) / max(sum(map(len, rows)), 1)


class EntropyControl:
    """Coefficient of the entropy bonus over a training."""

    def __init__(self, coefficient: float, target: float, delta: float) -> None:
        """Set the start.

        Args:
            coefficient: first coefficient.
            target: target of the mean entropy in nats; 0 keeps the coefficient fixed.
            delta: change of the coefficient in a step.
        """
        self.coefficient, self._target, self._delta = coefficient, target, delta

    @property
    def active(self) -> bool:
        """Whether there is, or may be, a bonus."""
        return self.coefficient > 0 or self._target > 0

    def next(self, entropy: float) -> float:
        """Return the coefficient for a step with this entropy, and adapt it for the next step."""
        if not self._target:
            return self.coefficient
        low = entropy <= self._target
        used = self.coefficient if low else 0.0
        change = self._delta if low else -self._delta
        self.coefficient = min(max(self.coefficient + change, 0.0), LARGEST)
        return used
