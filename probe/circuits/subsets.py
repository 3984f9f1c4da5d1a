"""Subsets of a model's parts: the target when all parts outside a subset are ablated, and what makes a good circuit.

The target of a subset S is m(S): parts in S compute as usual, all other heads and MLPs get their activations from a
source (another text, or means), at every token. M is the set of all parts, C a circuit. Definitions of Wang et al. 2022
(arXiv 2211.00593), here as shares of m(M) - m(empty set):

    faithfulness    m(C), on a scale from the empty set (0) to all parts (1)
    incompleteness  the largest |m(C without K) - m(M without K)| over subsets K of C: 0 if what is left of the model
                    without K behaves like what is left of the circuit
    minimality      of a part v of C: the largest |m(C without K and v) - m(C without K)| over K; of a circuit, that of
                    its least needed part: 0 if a part could be left out

A subset is a bit mask over the parts.

Axes: P parts, R subsets, H heads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from probe.interventions.sites import Activations, Site, layers_of, run_rows
from probe.logits.targets import Target
from probe.model.lm import LM
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    from probe.model.hooks import Hook


def parts_of(lm: LM) -> list[Site]:
    """Return all heads and MLPs at every token, block by block."""
    heads = range(lm.bridge.cfg.n_heads)
    return [
        site
        for layer in layers_of(lm, "head")
        for site in [*(Site("head", layer, head) for head in heads), Site("mlp", layer)]
    ]


class Subsets:
    """Targets of subsets of parts; each subset is run once.

    Args:
        lm: the model.
        ids: token ids of the text.
        source: activations of all heads and MLPs that replace those of ablated parts.
        target: quantity to measure.
    """

    def __init__(self, lm: LM, ids: Sequence[int], source: Activations, target: Target) -> None:
        self.lm, self.ids, self.source, self.target = lm, ids, source, target
        self.parts = parts_of(lm)
        self.known: dict[int, float] = {}
        """Target in nats of each subset that was run."""

    @property
    def every(self) -> int:
        """Mask of all parts."""
        return 2 ** len(self.parts) - 1

    @property
    def gap(self) -> float:
        """Target with all parts minus that without any, in nats."""
        values = self.values([self.every, 0])
        return float(values[0] - values[1])

    def values(self, subsets: Sequence[int], tick: Tick = ignore) -> np.ndarray:
        """Return the target of each subset in nats; those that are not known are run."""
        missing = [each for each in dict.fromkeys(subsets) if each not in self.known]
        if missing:
            kept = torch.tensor([[bool(each >> at & 1) for at in range(len(self.parts))] for each in missing])
            found = run_rows(
                self.lm, self.ids, len(missing), lambda part: self._ablations(kept[part]), self.target, tick=tick
            )
            self.known |= zip(missing, found.values.double().tolist(), strict=True)
        return np.array([self.known[each] for each in subsets])

    def _ablations(self, kept: Bool[Tensor, "R P"]) -> "list[Hook]":
        """Return hooks that give each row's ablated parts their activations in the source."""
        columns: dict[str, list[int]] = {}
        for at, site in enumerate(self.parts):
            columns.setdefault(site.hook, []).append(at)

        def ablation(name: str, own: Tensor) -> "Hook":
            inside = own[:, None, :, None] if name.endswith("hook_z") else own[:, :, None]  # [R 1 H 1], or [R 1 1]

            def fill(tensor: Tensor, hook: Any) -> Tensor:
                return torch.where(inside.to(tensor.device), tensor, self.source[name].to(tensor))

            return name, fill

        return [ablation(name, kept[:, own]) for name, own in columns.items()]

    def shares(self, subsets: Sequence[int], tick: Tick = ignore) -> np.ndarray:
        """Return the faithfulness of each subset: 0 for the empty set, 1 for all parts."""
        return (self.values(subsets, tick) - self.values([0])) / self.gap


def mask_of(parts: Iterable[int]) -> int:
    """Return the mask of a subset of parts."""
    return sum(1 << at for at in set(parts))


def members(mask: int) -> list[int]:
    """Return the parts of a subset, in ascending order."""
    return [at for at in range(mask.bit_length()) if mask >> at & 1]


class Best(NamedTuple):
    """Most faithful subset of a size, and the faithfulness of all subsets of that size."""

    mask: int
    share: float
    """Its faithfulness."""
    every: np.ndarray
    """Faithfulness of all subsets of the size, in ascending order."""


def exhaustive(subsets: Subsets, size: int, tick: Tick = ignore) -> Best:
    """Run every subset of a size, and return the one whose faithfulness is nearest to 1."""
    masks = [mask_of(chosen) for chosen in combinations(range(len(subsets.parts)), size)]
    shares = subsets.shares(masks, tick)
    at = int(np.abs(1 - shares).argmin())
    return Best(masks[at], float(shares[at]), np.sort(shares))


def greedy(subsets: Subsets, tick: Tick = ignore) -> list[int]:
    """Return all parts in the order in which adding one brings faithfulness nearest to 1."""
    order: list[int] = []
    count = len(subsets.parts)
    for step in range(count):
        rest = [at for at in range(count) if at not in order]
        shares = subsets.shares([mask_of([*order, at]) for at in rest])
        order.append(rest[int(np.abs(1 - shares).argmin())])
        tick((step + 1) / count)
    return order


@dataclass(frozen=True)
class CircuitCheck:
    """Faithfulness, completeness and minimality of a circuit, as shares of m(M) - m(empty set)."""

    mask: int
    """Parts of the circuit."""
    faithfulness: float
    """Target of the circuit alone, from 0 (no part) to 1 (all parts)."""
    incompleteness: float
    """Largest difference of what is left of the circuit and of the model without a subset K of the circuit."""
    minimality: float
    """Largest change by the least needed part over subsets K that are taken out before; NaN for an empty circuit."""
    subsets: int
    """Number of subsets K that were tried."""
    sampled: bool
    """Whether these are a random sample instead of all."""


def check(
    subsets: Subsets, circuit: int, most: int = 64, rng: np.random.Generator | None = None, tick: Tick = ignore
) -> CircuitCheck:
    """Measure the faithfulness, completeness and minimality of a circuit.

    Args:
        subsets: targets of subsets.
        circuit: mask of the circuit.
        most: number of subsets K of the circuit; a larger circuit has a random sample of them, with the empty one.
        rng: source of the sample.
        tick: progress.
    """
    own = members(circuit)
    sampled = 2 ** len(own) > most
    if sampled:
        draws = (rng or np.random.default_rng(0)).random((most - 1, len(own))) < 0.5
        taken = [0, *(mask_of(at for at, is_in in zip(own, row, strict=True) if is_in) for row in draws)]
    else:
        taken = [mask_of(chosen) for size in range(len(own) + 1) for chosen in combinations(own, size)]
    left = subsets.shares([circuit & ~each for each in taken], part(tick, 0, 3))
    whole = subsets.shares([subsets.every & ~each for each in taken], part(tick, 1, 3))
    changes = []
    for number, at in enumerate(own):
        before = [each for each in taken if not each >> at & 1]
        without = subsets.shares([circuit & ~each & ~(1 << at) for each in before], part(tick, 2, 3))
        changes.append(float(np.abs(without - subsets.shares([circuit & ~each for each in before])).max()))
        tick((2 + (number + 1) / len(own)) / 3)
    return CircuitCheck(
        mask=circuit,
        faithfulness=float(left[taken.index(0)]),
        incompleteness=float(np.abs(left - whole).max()),
        minimality=min(changes, default=float("nan")),
        subsets=len(taken),
        sampled=sampled,
    )
