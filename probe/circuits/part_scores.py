"""Scores of every head and MLP for an answer, by methods that look at one part at a time.

    removed       loss of the target when the part alone is ablated (activation patching, noising)
    restored      gain of the target when the part alone is kept and all others are ablated
    attribution   gradient of the target times (activation - source) (Nanda 2023; Syed et al. 2023)
    integrated    the same with the gradient averaged over texts between the source and this one: the embeddings are
                  interpolated (Hanna et al. 2024, arXiv 2403.17806)
    direct        direct logit attribution, without what later parts make of it

Axes: P parts, T tokens.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.circuits.subsets import Subsets
from probe.errors import ModelError
from probe.interventions.patching import estimates, gradients
from probe.interventions.sites import Activations, Kind, Site, hooks_of
from probe.logits.attribution import attribute
from probe.logits.targets import Target
from probe.model.lm import LM
from probe.ticks import Tick, ignore

KINDS: tuple[Kind, ...] = ("head", "mlp")
"""Kinds of the parts."""
START = "blocks.0.hook_resid_pre"
"""Hook point of the embedding."""
INTEGRAL = 8
"""Number of texts between the source and the text."""
METHODS = ("removed", "restored", "attribution", "integrated", "direct")


def part_scores(subsets: Subsets, start: Activations, tick: Tick = ignore) -> dict[str, np.ndarray]:
    """Return the scores [P] of every part in nats by method; `direct` is missing where logits have no such sum.

    Args:
        subsets: targets of subsets of the parts.
        start: activations of the source at the embedding.
        tick: progress.
    """
    lm, ids, target, parts = subsets.lm, subsets.ids, subsets.target, subsets.parts
    found = {"removed": removed(subsets, tick), "restored": restored(subsets), "attribution": attribution(subsets)}
    found["integrated"] = integrated(lm, ids, {**subsets.source, **start}, target, parts)
    with suppress(ModelError):
        found["direct"] = direct(subsets)
    return found


def removed(subsets: Subsets, tick: Tick = ignore) -> np.ndarray:
    """Return what the target loses [P] when each part alone is ablated."""
    every = subsets.every
    alone = subsets.values([every & ~(1 << at) for at in range(len(subsets.parts))], tick)
    return np.asarray(subsets.values([every]) - alone)


def restored(subsets: Subsets) -> np.ndarray:
    """Return what the target gains [P] when each part alone is kept."""
    return np.asarray(subsets.values([1 << at for at in range(len(subsets.parts))]) - subsets.values([0]))


def attribution(subsets: Subsets) -> np.ndarray:
    """Return the first-order estimate [P] of `removed`: gradient of the target times (activation - source)."""
    _, effects = estimates(subsets.lm, subsets.ids, [subsets.source], subsets.target, KINDS)
    return -_by_part(effects["head"], effects["mlp"].sum(-1), subsets.parts)


def direct(subsets: Subsets) -> np.ndarray:
    """Return what each part writes into the target [P].

    Raises:
        ModelError: the logits of the model are no such sum.
    """
    found = attribute(subsets.lm, subsets.ids, subsets.target)
    return _by_part(found.heads, found.mlps, subsets.parts)


def _by_part(heads: np.ndarray, mlps: np.ndarray, parts: Sequence[Site]) -> np.ndarray:
    return np.array([heads[site.layer, site.head] if site.kind == "head" else mlps[site.layer] for site in parts])


def integrated(
    lm: LM, ids: Sequence[int], source: Activations, target: Target, parts: Sequence[Site], steps: int = INTEGRAL
) -> np.ndarray:
    """Return the integrated gradients [P]: mean gradient on interpolated embeddings times (activation - source).

    Args:
        lm: the model.
        ids: token ids of the text.
        source: activations of the embedding and of all parts.
        target: quantity to measure.
        parts: heads and MLPs.
        steps: number of texts, at the middles of equal intervals.
    """
    names = hooks_of(lm, KINDS)
    _, own, _ = gradients(lm, ids, names, target)
    slopes: dict[str, Tensor] = {}
    for step in range(steps):
        for name, slope in slopes_between(lm, ids, source[START], target, names, (step + 0.5) / steps).items():
            slopes[name] = slopes.get(name, torch.zeros_like(slope)) + slope / steps
    values = {name: (slopes[name] * (own[name] - source[name]).double()).sum(-1) for name in names}
    return np.array([float(values[site.hook][site.index].sum()) for site in parts])


def slopes_between(
    lm: LM, ids: Sequence[int], start: Tensor, target: Target, names: Sequence[str], share: float
) -> dict[str, Tensor]:
    """Return the target's gradients where the embedding lies between another one (share 0) and that of the text (1)."""

    def mix(tensor: Tensor, hook: Any) -> Tensor:
        return start.to(tensor) + share * (tensor - start.to(tensor))

    with lm.hooks([(START, mix)]):
        _, _, slopes = gradients(lm, ids, names, target)
    return {name: slope.double() for name, slope in slopes.items()}
