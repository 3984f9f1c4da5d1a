"""Rewards a token, generalised advantages and their whitening: the arithmetic of PPO between sampling and loss (E11).

Axes: N completions, L tokens of the longest. `mask` is true at real tokens; a masked position is passed over as if it
were not there, so the side and the amount of padding change nothing.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

FLOOR = 1e-8
"""Added to a variance before its root is divided by."""


def token_rewards(
    drift: Float[Tensor, "N L"], scores: Float[Tensor, " N"], mask: Bool[Tensor, "N L"], beta: float
) -> Float[Tensor, "N L"]:
    """r_t = - beta (log pi - log pi_ref) of each token, and the score of the completion on its last one.

    The sum over a completion is score - beta log pi/pi_ref (y), whose expectation E10 maximises.

    Args:
        drift: log pi(y_t) - log pi_ref(y_t) under the policy that sampled, nats.
        scores: one a completion; that of a completion without tokens has no place and is lost.
        mask: real tokens.
        beta: coefficient of the KL.
    """
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return (scores[:, None] * last - beta * drift).where(mask, 0)


class Advantages(NamedTuple):
    """What a token was worth; both are 0 where masked."""

    advantages: Float[Tensor, "N L"]
    """A_t, not whitened."""
    returns: Float[Tensor, "N L"]
    """A_t + V_t: what the value of the state before the token is to become."""


def gae(
    rewards: Float[Tensor, "N L"],
    values: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    gamma: float,
    lam: float,
) -> Advantages:
    """A_t = delta_t + gamma lambda A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016).

    After the last real token both V and A are 0: a completion is an episode, also one that was cut at the length limit.

    Args:
        rewards: r_t.
        values: V_t, the value of the state before token t; no gradient is taken through it.
        mask: real tokens.
        gamma: discount of a token.
        lam: 1 gives returns minus values, 0 the error of a single step.
    """
    values = values.detach()
    advantage = value = values.new_zeros(len(values))
    columns = torch.zeros_like(values)
    for t in reversed(range(values.shape[1])):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * value - values[:, t]
        advantage = (delta + gamma * lam * advantage).where(real, advantage)
        value = values[:, t].where(real, value)
        columns[:, t] = advantage.where(real, 0)
    return Advantages(columns, (columns + values).where(mask, 0))


def whiten(x: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """(x - mean) / sqrt(variance + 1e-8) over the real tokens, n - 1 in the variance; 0 where masked.

    A single real token, and none at all, give 0.
    """
    n = mask.sum()
    centred = (x - x.where(mask, 0).sum() / n.clamp(min=1)).where(mask, 0)
    return centred / (centred.square().sum() / (n - 1).clamp(min=1) + FLOOR).sqrt()


def adapted(beta: float, kl: float, target: float, gain: float) -> float:
    """The coefficient of the KL for the next step: beta (1 + gain clip(kl / target - 1, -0.2, 0.2)).

    Ziegler et al. 2019 (arXiv 1909.08593), equation 4 and below, with `gain` 0.1 there.
    """
    return beta * (1 + gain * min(max(kl / target - 1, -0.2), 0.2))
