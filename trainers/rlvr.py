"""Reinforcement learning from verifiable rewards: group-relative policy optimisation, GRPO (E15).

For each prompt x a group of G completions is sampled from the policy and scored by a verifier. With the ratio
w_t = pi(y_t | x, y_<t) / pi_old(y_t | x, y_<t) and the advantage A of a completion within its group, each token gives

    l_t = s(w_t, A) + beta k(log pi/pi_ref)
    s(w, A) = - min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A)

and `--normalisation` sets A, the ratio, s and the divisor of the sum of the l_t (`NORMALISATIONS`):

    grpo      A = (r - mean) / (std + 1e-4)    mean over a completion's tokens, then over completions
    dr_grpo   A = r - mean                     sum over tokens, divided by completions x max_new_tokens
    dapo      A as grpo                        mean over all tokens of the update
    gspo      A as grpo                        as grpo, with the completion's ratio w = exp(mean_t log w_t) in s
    cispo     A as grpo                        as dapo, with s = - sg(min(w_t, 1 + epsilon_high)) A log pi

where sg stops the gradient. In gspo it flows through w to every token of the completion, and the clip removes whole
completions; in cispo every token keeps its gradient, and only its weight is bounded. An entropy bonus
(`--entropy-coef`) adds - alpha H(pi(. | x, y_<t)) to l_t; with `--entropy-target` alpha is adapted (`EntropyControl`).

GRPO: Shao et al. 2024 (arXiv 2402.03300); Dr. GRPO: Liu et al. 2025 (arXiv 2503.20783); DAPO, with a wider clipping
range above 1 (`--epsilon-high`), truncated completions left out (`--mask-truncated`) and groups with equal rewards
drawn anew (`--dynamic-sampling`): Yu et al. 2025 (arXiv 2503.14476); GSPO, with `--epsilon 3e-4 --epsilon-high 4e-4`:
Zheng et al. 2025 (arXiv 2507.18071); CISPO: MiniMax 2025 (arXiv 2506.13585). Departures from the papers: the KL
estimator is k3w, GRPO's k3 times the token's ratio, which has the gradient of KL(pi || pi_ref) where k3 alone has that
of KL(pi_ref || pi) (`ESTIMATORS`); a group's prompt is computed once for all of its completions; groups with equal
rewards are drawn anew a limited number of times, and those that are left stay in the batch, without a policy gradient.
Departures from TRL: the bound of cispo is 1 + epsilon_high as in the paper, where TRL has epsilon_high (its 5 is 4
here); in gspo the ratio of k3w is the token's, where TRL's is the completion's, which does not have the gradient of the
KL; the entropy bonus is averaged as the other terms of l_t are (as in verl), where TRL's is the mean over tokens, as
here with dapo and cispo, and it is adapted once a step, where TRL does so after each update.

    probe train rlvr --out runs/rlvr --base base
    probe train rlvr --out runs/rlvr --base Qwen/Qwen2.5-0.5B-Instruct --data problems.jsonl --reward judge.py:correct
    accelerate launch --num_processes 4 -m trainers.rlvr --out runs/rlvr --base base

A step samples once and then makes `updates` x `minibatches` optimiser updates. With a single update the policy is the
one that sampled, so the ratio is 1 and only its gradient matters; with more updates, pi_old are the log-probabilities
that the sampler recorded. Logged: see docs/metrics.md; `kl` is a mean over tokens.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probe import Run
from probe.cli import main
from probe.world import World
from trainers.config import RLVRConfig
from trainers.entropy_control import EntropyControl, mean_entropy
from trainers.loop import Loss, Method, fit
from trainers.prompts import prompt_rows
from trainers.sampling import (
    Completion,
    CompletionGroup,
    Sampler,
    group_logprobs,
    load_sampler,
    minibatches,
    pad_rows,
    rollout_metrics,
    rollout_rows,
)
from trainers.sampling_gap import SamplingGap
from trainers.session import Session
from trainers.starting import load_trainee
from trainers.trainee import Trainee


def centre(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """Subtract the mean of the group from its rewards: A = r - mean.

    A completion without a reward (NaN) is left out of the mean and gets 0; equal rewards give exactly 0.
    """
    has_reward = ~rewards.isnan()
    spread = rewards.where(has_reward, -math.inf).amax(1) > rewards.where(has_reward, math.inf).amin(1)
    return (rewards - rewards.nanmean(1, keepdim=True)).where(has_reward & spread[:, None], 0.0)


def standardise(rewards: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """Standardise the rewards within the group: A = (r - mean) / (std + 1e-4), with n - 1 in the std.

    NaN and equal rewards are treated as in `centre`.
    """
    differences, n = centre(rewards), (~rewards.isnan()).sum(1, keepdim=True)
    return differences / ((differences.square().sum(1, keepdim=True) / (n - 1).clamp(min=1)).sqrt() + 1e-4)


def per_sequence(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """Return token weights and divisor of the mean over the tokens of each sequence, then over the sequences.

    A sequence without tokens counts as 0.
    """
    return mask / mask.sum(1, keepdim=True).clamp(min=1), len(mask)


def per_constant(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """Return token weights and divisor of a sum over all tokens that is divided by sequences x `longest`.

    The divisor does not depend on the lengths of the sequences.
    """
    return mask.float(), len(mask) * longest


def per_token(mask: Bool[Tensor, "N L"], longest: int) -> tuple[Float[Tensor, "N L"], int]:
    """Return token weights and divisor of the mean over all tokens."""
    return mask.float(), int(mask.sum())


def kl_k1(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x = log pi/pi_ref.

    Its mean over samples of pi is KL(pi || pi_ref); the mean of its gradient is 0.
    """
    return x


def kl_k2(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return x^2 / 2.

    Its mean is biased; the mean of its gradient over samples of pi is that of KL(pi || pi_ref).
    """
    return x.square() / 2


def kl_k3(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return e^-x - 1 + x >= 0.

    Its mean is KL(pi || pi_ref) with less variance; its gradient is that of KL(pi_ref || pi).
    """
    return torch.expm1(-x) + x


class Estimator(NamedTuple):
    """An estimator of KL(pi || pi_ref) at a token, from x = log pi - log pi_ref and the ratio w = pi / pi_old."""

    value: Callable[[Float[Tensor, "..."]], Float[Tensor, "..."]]
    """Function from x to the estimate."""
    weighted: bool
    """Whether the estimate is multiplied by w, with gradient through w."""
    slope: Callable[[Float[Tensor, "..."], Float[Tensor, "..."]], Float[Tensor, "..."]]
    """Function from x and w to the derivative by log pi, in closed form."""

    def term(
        self, logprobs: Float[Tensor, "N L"], drift: Float[Tensor, "N L"], ratio: Float[Tensor, "N L"]
    ) -> Float[Tensor, "N L"]:
        """Return the estimate as a term of the loss, with its gradient in closed form.

        Autograd sums the parts of the derivative, which cancel: in single precision k3w's w (e^-x - 1 + x) + w (1 -
        e^-x) = w x is lost to rounding if e^-x is large.

        Args:
            logprobs: log pi; the gradient flows only through it.
            drift: x.
            ratio: w.
        """
        x, w = drift.detach(), ratio.detach()
        value = self.value(x) * w if self.weighted else self.value(x)
        return value + self.slope(x, w) * (logprobs - logprobs.detach())


ESTIMATORS = {
    "k1": Estimator(kl_k1, False, lambda x, w: torch.ones_like(x)),
    "k2": Estimator(kl_k2, False, lambda x, w: x),
    "k3": Estimator(kl_k3, False, lambda x, w: -torch.expm1(-x)),
    "k3w": Estimator(kl_k3, True, lambda x, w: w * x),
}
"""Estimators of KL(pi || pi_ref) at tokens sampled from pi_old (k1 to k3: Schulman 2020; k3w: importance weighting).

As a term of the loss: k3w has the gradient w x grad log pi of KL(pi || pi_ref) for any sampling policy; k2 has it if pi
is the policy that sampled, where the two are equal; k3 has that of KL(pi_ref || pi); k1 has a gradient of mean 0
(trl#4967). This holds token by token: the effect of a token on the KL of later tokens is left out, as in GRPO.
"""


class Surrogate(NamedTuple):
    """The clipped objective of each token, or of each completion [N 1], with negative sign."""

    losses: Float[Tensor, "N _"]
    """Losses without the KL."""
    low: Bool[Tensor, "N _"]
    """Mask of ratios below the lower bound at a negative advantage: their gradient is removed."""
    high: Bool[Tensor, "N _"]
    """Mask of ratios above the upper bound at a positive advantage: their gradient is removed, or in `bounded` weighted
    by the bound."""


def surrogate(
    logprobs: Float[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    advantages: Float[Tensor, "N _"],
    epsilon: float,
    epsilon_high: float,
) -> Surrogate:
    """Return - min(w A, clip(w, 1 - epsilon, 1 + epsilon_high) A) with w = pi / pi_old (Schulman et al. 2017).

    Args:
        logprobs: log pi of each token, or of each completion [N 1]; the gradient flows through it.
        old: log pi_old of the policy that sampled.
        advantages: one for each completion [N 1], or for each token [N L].
        epsilon: clipping range of the ratio below 1.
        epsilon_high: clipping range above 1.
    """
    ratio = (logprobs - old).exp()
    losses = -torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon_high) * advantages)
    low, high = (ratio < 1 - epsilon) & (advantages < 0), (ratio > 1 + epsilon_high) & (advantages > 0)
    return Surrogate(losses, low, high)


def bounded(
    logprobs: Float[Tensor, "N L"],
    old: Float[Tensor, "N L"],
    advantages: Float[Tensor, "N _"],
    epsilon: float,
    epsilon_high: float,
) -> Surrogate:
    """Return - sg(min(w, 1 + epsilon_high)) A log pi with w = pi / pi_old, where sg stops the gradient (CISPO).

    The arguments are those of `surrogate`; there is no lower bound, and `epsilon` is not used.
    """
    ratio = (logprobs - old).detach().exp()
    losses = -ratio.clamp(max=1 + epsilon_high) * advantages * logprobs
    high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return Surrogate(losses, torch.zeros_like(high), high)


class Unit(NamedTuple):
    """A unit that has one ratio pi / pi_old and is clipped as one: a token, or a completion."""

    logprobs: Callable[[Float[Tensor, "N L"], Bool[Tensor, "N L"]], Float[Tensor, "N _"]]
    """Function from log-probabilities of tokens and their mask to those of the units."""
    shares: Callable[[Bool[Tensor, "N L"], int], tuple[Float[Tensor, "N L"], int]]
    """Weights and divisor, as in `Normalisation.weights`, of a mean over the units."""


def mean_of_tokens(values: Float[Tensor, "N L"], mask: Bool[Tensor, "N L"]) -> Float[Tensor, "N 1"]:
    """Return the mean over the tokens of each completion, 0 if it has none.

    Of log-probabilities it is the logarithm of the completion's probability, normalised by its length.
    """
    return values.where(mask, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


TOKEN = Unit(lambda values, mask: values, per_token)
COMPLETION = Unit(mean_of_tokens, per_sequence)


class Normalisation(NamedTuple):
    """A normalisation: the advantages, the ratio, the surrogate, and the reduction of the losses to one number."""

    advantages: Callable[[Float[Tensor, "P G"]], Float[Tensor, "P G"]]
    unit: Unit
    """Unit of the ratio."""
    surrogate: Callable[[Float[Tensor, "N _"], Float[Tensor, "N _"], Float[Tensor, "N 1"], float, float], Surrogate]
    """Function of the units' log-probabilities, with the arguments of `surrogate`."""
    weights: Callable[[Bool[Tensor, "N L"], int], tuple[Float[Tensor, "N L"], int]]
    """Function (mask, longest completion allowed) -> weights of the tokens, 0 where masked, and divisor of the weighted
    sum; sums and divisors of the parts of a batch add up to those of the whole."""


NORMALISATIONS = {
    "grpo": Normalisation(standardise, TOKEN, surrogate, per_sequence),
    "dr_grpo": Normalisation(centre, TOKEN, surrogate, per_constant),
    "dapo": Normalisation(standardise, TOKEN, surrogate, per_token),
    "gspo": Normalisation(standardise, COMPLETION, surrogate, per_sequence),
    "cispo": Normalisation(standardise, TOKEN, bounded, per_token),
}
"""Normalisations by name: Shao et al. 2024 (arXiv 2402.03300); Liu et al. 2025 (2503.20783); Yu et al. 2025
(2503.14476); Zheng et al. 2025 (2507.18071); MiniMax 2025 (2506.13585)."""


class WeightedGroup(NamedTuple):
    """A group with the advantage of each completion."""

    group: CompletionGroup
    advantages: list[float]


def with_advantages(groups: Sequence[CompletionGroup], normalisation: str) -> list[WeightedGroup]:
    """Add advantages to the groups, computed in double precision."""
    rewards = torch.tensor([[c.reward for c in group.completions] for group in groups], dtype=torch.float64)
    advantages = NORMALISATIONS[normalisation].advantages(rewards).tolist()
    return [WeightedGroup(group, row) for group, row in zip(groups, advantages, strict=True)]


class RLVR(Method):
    """RLVR as a method of the loop."""

    name = "rlvr"

    def __init__(self, config: RLVRConfig, trainee: Trainee, sampler: Sampler, world: World | None) -> None:
        self.config, self.trainee, self.sampler, self.world = config, trainee, sampler, world
        self._step, self._gap = 0, SamplingGap()
        self._examples: list[WeightedGroup] = []
        self._entropy = EntropyControl(config.entropy_coef, config.entropy_target, config.entropy_coef_delta)
        self._bonus = config.entropy_coef

    def batches(self, step: int) -> Iterator[Sequence[WeightedGroup]]:
        """Sample and score, and yield the minibatches of each pass."""
        config = self.config
        with_reference = config.beta > 0 or config.logs(step) or config.records(step)
        groups = self.sampler.sample(step, with_reference, config.dynamic_sampling)
        self._step, self._examples = step, with_advantages(groups, config.normalisation)
        if self._entropy.active:
            self._bonus = self._entropy.next(
                mean_entropy(c.entropy for group in groups for c in group.completions if self._counts(c))
            )
        yield from self._gap.first(minibatches(config, step, self._examples))

    def _counts(self, completion: Completion) -> bool:
        """Return whether a completion is in the loss."""
        return completion.finished or not self.config.mask_truncated

    def loss(self, model: nn.Module, examples: Sequence[WeightedGroup], detail: bool) -> Loss:
        """Return the weighted loss summed over the tokens of the groups; the count is the normalisation's divisor."""
        config = self.config
        completions = [completion for example in examples for completion in example.group.completions]
        groups = [example.group for example in examples]
        outputs = group_logprobs(model, groups, config.temperature, entropy_gradient=self._bonus > 0)
        logprobs, device = outputs.values, outputs.values.device
        keep = torch.tensor([self._counts(c) for c in completions], device=device)
        mask = outputs.mask & keep[:, None]
        old = logprobs.detach() if config.on_policy else pad_rows([c.logprobs for c in completions], device)
        advantages = torch.tensor([a for example in examples for a in example.advantages], device=device)
        variant = NORMALISATIONS[config.normalisation]
        now, before = variant.unit.logprobs(logprobs, mask), variant.unit.logprobs(old, mask)
        policy = variant.surrogate(now, before, advantages[:, None], config.epsilon, config.epsilon_high)
        losses, drift, ratio = policy.losses, None, (logprobs - old).exp()
        if completions[0].ref_logprobs is not None:
            drift = logprobs - pad_rows([c.ref_logprobs or [] for c in completions], device)
        if config.beta and drift is not None:
            estimator = ESTIMATORS[config.kl_estimator]
            losses = losses + config.beta * estimator.term(logprobs, drift, ratio)
        if self._bonus:
            losses = losses - self._bonus * outputs.entropy
        weights, count = variant.weights(mask, config.max_new_tokens)
        metrics: dict[str, tuple[Tensor | float, int]] = {}
        if detail:
            self._gap.add(logprobs, outputs.mask, [c.logprobs for c in completions])
            n, (shares, units) = int(mask.sum()), variant.unit.shares(mask, config.max_new_tokens)
            metrics = {
                "entropy": ((outputs.entropy.detach() * mask).sum(), n),
                "clip_ratio/low_mean": ((policy.low * shares).sum(), units),
                "clip_ratio/high_mean": ((policy.high * shares).sum(), units),
            }
            if drift is not None:
                metrics["kl"] = ((ratio * kl_k3(drift)).detach()[mask].sum(), n)
        tokens = sum(example.group.tokens for example in examples)
        return Loss((losses * weights)[mask].sum(), count, tokens, metrics)

    def metrics(self) -> dict[str, float]:
        """Return rewards, lengths and gold metrics of the step's samples, and the gap between sampler and trainer."""
        groups = [example.group for example in self._examples]
        metrics = rollout_metrics(groups, self.world)
        if self.config.dynamic_sampling:
            draws = sum(group.draws for group in groups)
            metrics["sampling/discarded_groups"] = (draws - len(groups)) / draws
        if self._entropy.active:
            metrics["entropy_coef"] = self._bonus
        return metrics | self._gap.metrics(self.sampler.session)

    def rollouts(self) -> list[Mapping[str, Any]]:
        """Return rows of the step's first groups.

        There are rows at every `rollouts_every`-th step, and at the first and the last one.
        """
        if not self.config.records(self._step):
            return []
        groups, advantages = [e.group for e in self._examples], [e.advantages for e in self._examples]
        tokenizer = self.trainee.lm.tokenizer
        return list(rollout_rows(self._step, groups, advantages, tokenizer, self.config.rollouts_kept))

    def state(self) -> dict[str, Tensor]:
        """Return the coefficient of the entropy bonus if it is adapted."""
        if not self.config.entropy_target:
            return {}
        return {"entropy_coef": torch.tensor(self._entropy.coefficient, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the coefficient of the entropy bonus."""
        if "entropy_coef" in state:
            self._entropy.coefficient = float(state["entropy_coef"])


def train(config: RLVRConfig) -> Run:
    """Train with GRPO and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = prompt_rows(config)
    trainee = load_trainee(session, config, config.base)
    sampler, origin = load_sampler(session, config, trainee, rows, config.price)
    return fit(session, RLVR(config, trainee, sampler, origin.world), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "rlvr", *sys.argv[1:]]))
