"""First-order estimates of interventions: gradient of the target times the change of an activation.

One backward pass tells the effect of every site at once, exactly only for infinitesimal changes (Nanda 2023; Syed et
al. 2023). `agreement` says how far to trust it where exact effects are known.

Axes: T tokens, H heads, d width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from probe.analyses.sites import Activations, Kind, hooks_of, require_token
from probe.analyses.targets import Target, value
from probe.model.lm import LM


class Agreement(NamedTuple):
    """How well the estimates rank and predict the exact effects; NaN where either has no spread."""

    pearson: float
    spearman: float
    n: int
    """Number of sites."""


def estimates(
    lm: LM,
    ids: Sequence[int],
    sources: Sequence[Activations],
    target: Target,
    kinds: Sequence[Kind],
    position: int | None = None,
) -> tuple[float, dict[Kind, np.ndarray]]:
    """The target, and the estimated effect of putting a source's activation at each site of several kinds.

    Args:
        lm: the model.
        ids: [T] the text that is run.
        sources: activations [T ...] of the hook points of these kinds; several are averaged.
        target: what is measured.
        kinds: of the sites.
        position: the token of heads; None sums over all.

    Returns:
        (target in nats, effects [rows columns] by kind, laid out as in `probe.analyses.sites.grid`).

    Raises:
        ConfigError: an unknown kind.
        DataError: a token outside of the text.
    """
    require_token(position, len(ids))
    here, own, slopes = gradients(lm, ids, hooks_of(lm, kinds), target)
    found: dict[Kind, np.ndarray] = {}
    for kind in kinds:
        rows = []
        for name in hooks_of(lm, [kind]):
            other = torch.stack([source[name].double() for source in sources]).mean(0)
            effect = (slopes[name].double() * (other - own[name].double())).sum(-1)  # [T], or [T H] for heads
            rows.append(effect if kind != "head" else effect.sum(0) if position is None else effect[position])
        found[kind] = torch.stack(rows).cpu().numpy()
    return here, found


def gradients(
    lm: LM, ids: Sequence[int], names: Sequence[str], target: Target
) -> tuple[float, Mapping[str, Float[Tensor, "T ..."]], Mapping[str, Float[Tensor, "T ..."]]]:
    """(target, activations [T ...], gradient of the target by each activation [T ...]) at hook points of one text."""
    kept: dict[str, Tensor] = {}
    start = "blocks.0.hook_resid_pre"

    def keeper(name: str) -> Any:
        def keep(tensor: Tensor, hook: Any) -> Tensor:
            # What a hook sees may be a view beside the path: what it returns is on it.
            kept[name] = tensor.detach().clone().requires_grad_() if name == start else tensor.clone()
            return kept[name]

        return keep

    with torch.enable_grad(), lm.hooks([(name, keeper(name)) for name in dict.fromkeys([start, *names])]):
        reached = value(lm.logits([list(ids)]), target)[0]
        slopes = torch.autograd.grad(reached, [kept[name] for name in names])
    return (
        float(reached.detach()),
        {name: kept[name][0].detach() for name in names},
        {name: slope[0] for name, slope in zip(names, slopes, strict=True)},
    )


def agreement(exact: ArrayLike, estimate: ArrayLike) -> Agreement:
    """Pearson and Spearman correlation of exact and estimated effects over sites."""
    from scipy import stats

    a, b = np.ravel(exact), np.ravel(estimate)
    if a.size < 2 or np.ptp(a) < 1e-9 or np.ptp(b) < 1e-9:
        return Agreement(float("nan"), float("nan"), a.size)
    return Agreement(float(stats.pearsonr(a, b)[0]), float(stats.spearmanr(a, b)[0]), a.size)
