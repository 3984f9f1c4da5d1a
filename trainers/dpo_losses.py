"""The losses of pairs: DPO (E13), its conservative form for noisy labels, and IPO. All are means over pairs.

With the log-ratios h = log pi/pi_ref of a completion, summed over its tokens, and h' the same divided by their number:

    sigmoid         - log sigma(beta [h(y+) - h(y-)])                                       Rafailov et al. 2305.18290
    conservative    - (1 - eps) log sigma(beta [h(y+) - h(y-)]) - eps log sigma(beta [h(y-) - h(y+)])
                                                                            Mitchell 2023, "A note on DPO with noisy
                                                                            preferences" (cDPO)
    ipo             (h'(y+) - h'(y-) - 1 / (2 beta))^2                                      Azar et al. 2310.12036

IPO averages per token, as its authors did for the results of their paper, so that the margin that it pulls towards
does not depend on the length; its beta is the paper's tau. A new loss is a function of `Scores` in `LOSSES`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


class Scores(NamedTuple):
    """What policy and reference give the completions of N pairs; log-probabilities are sums over tokens, in nats."""

    logp_chosen: Float[Tensor, " N"]
    """log pi(y+ | x); the gradient flows through it."""
    logp_rejected: Float[Tensor, " N"]
    """log pi(y- | x)."""
    ref_chosen: Float[Tensor, " N"]
    """log pi_ref(y+ | x)."""
    ref_rejected: Float[Tensor, " N"]
    """log pi_ref(y- | x)."""
    tokens_chosen: Int[Tensor, " N"]
    """Tokens of y+."""
    tokens_rejected: Int[Tensor, " N"]
    """Tokens of y-."""


class DPOLoss(NamedTuple):
    """The loss of N pairs and what it makes of them."""

    losses: Float[Tensor, " N"]
    """One a pair; the training loss is their mean over the pairs of the batch."""
    chosen_rewards: Float[Tensor, " N"]
    """beta log pi/pi_ref of the chosen completions, detached."""
    rejected_rewards: Float[Tensor, " N"]
    """The same of the rejected ones."""


def dpo_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    beta: float,
) -> DPOLoss:
    """- log sigma(beta [log pi/pi_ref (y+) - log pi/pi_ref (y-)]) of N pairs, in nats (E13).

    Args:
        logp_chosen: log pi(y+ | x) summed over the tokens of y+; the gradient flows through it.
        logp_rejected: the same for y-.
        ref_chosen: log pi_ref(y+ | x).
        ref_rejected: log pi_ref(y- | x).
        beta: strength of the pull towards the reference.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    losses = -logsigmoid(beta * (chosen - rejected))
    return DPOLoss(losses, beta * chosen.detach(), beta * rejected.detach())


def conservative_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    beta: float,
    label_smoothing: float,
) -> DPOLoss:
    """DPO's loss where a share of the labels is taken to be flipped, in nats; with a share of 0 it is `dpo_loss`.

    It is least where the margin of the log-ratios is log((1 - eps) / eps) / beta, so that no pair pulls for ever;
    `label_smoothing` is the share eps, from 0 to below 1/2, the rest is as in `dpo_loss`.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    margins = beta * (chosen - rejected)
    losses = -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)
    return DPOLoss(losses, beta * chosen.detach(), beta * rejected.detach())


def ipo_loss(
    logp_chosen: Float[Tensor, " N"],
    logp_rejected: Float[Tensor, " N"],
    ref_chosen: Float[Tensor, " N"],
    ref_rejected: Float[Tensor, " N"],
    tokens_chosen: Int[Tensor, " N"],
    tokens_rejected: Int[Tensor, " N"],
    beta: float,
) -> DPOLoss:
    """(mean log pi/pi_ref of the tokens of y+ - the same of y- - 1 / (2 beta))^2 of N pairs.

    The sums of `dpo_loss` are divided by the numbers of tokens; an empty completion counts as one token. `beta` is the
    paper's tau.
    """
    chosen, rejected = logp_chosen - ref_chosen, logp_rejected - ref_rejected
    margins = chosen / tokens_chosen.clamp(min=1) - rejected / tokens_rejected.clamp(min=1)
    return DPOLoss((margins - 1 / (2 * beta)).square(), beta * chosen.detach(), beta * rejected.detach())


LOSSES: Mapping[str, Callable[[Scores, float, float], DPOLoss]] = MappingProxyType(
    {
        "sigmoid": lambda scores, beta, _: dpo_loss(*scores[:4], beta),
        "conservative": lambda scores, beta, smoothing: conservative_loss(*scores[:4], beta, smoothing),
        "ipo": lambda scores, beta, _: ipo_loss(*scores, beta),
    }
)
"""Name to loss; it takes the scores, beta and the label smoothing."""
