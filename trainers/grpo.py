"""The maths of GRPO as small pure functions: advantages, denominators, KL estimators, the clipped surrogate (E15).

Axes: P prompts, G completions of each, N = P G completions, L tokens of the longest.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def centred(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = r - mean within the group.

    A completion without a reward (NaN) is left out of the mean and gets 0; equal rewards give exactly 0.
    """
    known = ~rewards.isnan()
    spread = rewards.where(known, -math.inf).amax(1) > rewards.where(known, math.inf).amin(1)
    return (rewards - rewards.nanmean(1, keepdim=True)).where(known & spread[:, None], 0.0)


def standardised(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """A = (r - mean) / (std + 1e-4) within the group, with n - 1 in the std; NaN and equal rewards as in `centred`."""
    differences, n = centred(rewards), (~rewards.isnan()).sum(1, keepdim=True)
    return differences / ((differences.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt() + 1e-4)


def per_sequence(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """The mean over the tokens of each sequence, then over the sequences; one without a token counts as 0."""
    return mask / mask.sum(1, keepdim=True).clamp(min=1), len(mask)


def per_constant(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """The sum over all tokens divided by sequences x `longest`, however long they are."""
    return mask.float(), len(mask) * longest


def per_token(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """The mean over all tokens."""
    return mask.float(), int(mask.sum())


class Normalisation(NamedTuple):
    """What the advantages are, and how the losses of the tokens become one number."""

    advantages: Callable[[Float[Tensor, "P G"]], Float[Tensor, "P G"]]
    weights: Callable[[Bool[Tensor, "N L"], int], tuple[Float[Tensor, "N L"], int]]
    """(mask, longest completion allowed) to each token's weight, 0 where masked, and what the weighted sum is divided
    by. Sums and counts of the parts of a batch add up to those of the whole."""


NORMALISATIONS = {
    "grpo": Normalisation(standardised, per_sequence),
    "dr_grpo": Normalisation(centred, per_constant),
    "dapo": Normalisation(standardised, per_token),
}
"""Shao et al. 2024 (arXiv 2402.03300); Liu et al. 2025 (2503.20783); Yu et al. 2025 (2503.14476)."""


def kl_k1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x = log pi/pi_ref. Its mean over samples of pi is KL(pi || pi_ref); the mean of its gradient is 0."""
    return x


def kl_k2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x^2 / 2. Its mean is biased; the mean of its gradient over samples of pi is that of KL(pi || pi_ref)."""
    return x.square() / 2


def kl_k3(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """e^-x - 1 + x >= 0. Its mean is KL(pi || pi_ref) with less spread; its gradient is that of KL(pi_ref || pi)."""
    return torch.expm1(-x) + x


class Estimator(NamedTuple):
    """What is taken for KL(pi || pi_ref) at a token."""

    value: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
    """From x = log pi - log pi_ref."""
    weighted: bool
    """Whether it is multiplied by the ratio w = pi / pi_old, through which gradient flows too."""


ESTIMATORS = {
    "k1": Estimator(kl_k1, False),
    "k2": Estimator(kl_k2, False),
    "k3": Estimator(kl_k3, False),
    "k3w": Estimator(kl_k3, True),
}
"""Of KL(pi || pi_ref) at tokens that pi_old has drawn (k1 to k3: Schulman 2020; k3w: importance weighting).

As a term of the loss: k3w has the gradient w x grad log pi of KL(pi || pi_ref), whichever policy has sampled; k2 has it
where pi is the policy that sampled, and there the two are equal; k3 has that of KL(pi_ref || pi); k1 none (trl#4967).
This is so token by token: what a token does to the KL of those after it is left out, as in GRPO.
"""


class Surrogate(NamedTuple):
    """The clipped objective, token by token."""

    losses: Float[Tensor, "N L"]
    """- min(w A, clip(w) A)."""
    low: Bool[Tensor, "N L"]
    """Where the lower bound of the clip takes the gradient away."""
    high: Bool[Tensor, "N L"]
    """Where the upper one does."""
    ratio: Float[Tensor, "N L"]
    """w = pi / pi_old."""


def surrogate(
    logprobs: Float[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    advantages: Float[Tensor, "N _"],
    epsilon: float,
    epsilon_high: float,
) -> Surrogate:
    """- min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) with the ratio w = pi / pi_old (Schulman et al. 2017).

    Args:
        logprobs: log pi of each token; the gradient flows through it.
        old: log pi_old, of the policy that sampled.
        advantages: one for each completion [N 1], or for each token [N L].
        epsilon: how far below 1 the ratio counts.
        epsilon_high: how far above 1.
    """
    ratio = (logprobs - old).exp()
    losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)
    low, high = (ratio < 1 - epsilon) & (advantages < 0), (ratio > 1 + epsilon_high) & (advantages > 0)
    return Surrogate(losses, low, high, ratio)
