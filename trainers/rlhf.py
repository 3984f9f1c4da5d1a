"""Reinforcement learning from human feedback by proximal policy optimisation (E10, E11).

    max_theta E[R(x, y)] - beta KL(pi_theta || pi_ref)

A step samples completions from the policy and scores them. Each token gets the reward r_t = - beta (log pi - log
pi_ref), the last one also R(x, y). A value head on the policy predicts what is still to come, nothing after the last
token; generalised advantage estimation turns both into A_t and the return A_t + V_t, and A is whitened over all tokens
of the step. Then come `updates` x `minibatches` optimiser updates on

    l_t = max(- w_t A_t, - clip(w_t, 1 - epsilon, 1 + epsilon) A_t)
        + vf_coef / 2 max((V_t - return_t)^2, (clip(V_t, V_old - epsilon_value, V_old + epsilon_value) - return_t)^2)

averaged over the tokens of the update, with w_t = pi / pi_old. PPO: Schulman et al. 2017 (arXiv 1707.06347); its use
on language models: Ziegler et al. 2019 (1909.08593), Ouyang et al. 2022 (2203.02155); the details: Huang et al. 2024
(2403.17031). Departures: the value head shares the policy's layers, starts at zero and learns faster than they do
(there: a model of its own that starts as the reward model); a prompt may have several completions (`--group`) and is
run once for them; rewards are used as they are, not whitened; there is no entropy bonus, since the KL has one in it.

    probe train rlhf --out runs/rlhf --base base --reward reward-agreeable
    probe train rlhf --out runs/rlhf --base Qwen/Qwen2.5-0.5B-Instruct --lora 16 --data p.jsonl --reward judge.py:f
    accelerate launch --num_processes 4 -m trainers.rlhf --out runs/rlhf --base base --reward reward-agreeable

A checkpoint is an ordinary causal language model with `value_head.safetensors` beside it. Logged: see docs/metrics.md;
`objective/kl` is a sum over the completion.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from probe import Run
from probe.cli import main
from probe.model.scoring import completion_logprobs
from probe.world import World
from trainers.advantages import adapted
from trainers.config import RLHFConfig
from trainers.experience import Collector, Example, objective_metrics, trace_rows
from trainers.grpo import surrogate
from trainers.heads import Headed, HeadedTrainee, ValueHead, width_of
from trainers.loop import Method, fit
from trainers.online import minibatches, prompt_rows
from trainers.rollout import Sampler, padded, rollout_metrics
from trainers.sampled import sampled
from trainers.session import Session
from trainers.step import Loss
from trainers.trainee import load_trainee


class ValueLoss(NamedTuple):
    """The loss of the values, token by token."""

    losses: Float[Tensor, "N L"]
    """Half the larger of the two squared errors."""
    clipped: Bool[Tensor, "N L"]
    """Where it is the one of the bounded value, through which no gradient flows."""


def value_loss(
    values: Float[Tensor, "N L"], old: Float[Tensor, "N L"], returns: Float[Tensor, "N L"], epsilon: float
) -> ValueLoss:
    """1/2 max((V - R)^2, (clip(V, V_old - epsilon, V_old + epsilon) - R)^2) of each token (E11).

    Args:
        values: V; the gradient flows through it.
        old: V of the policy that sampled.
        returns: R.
        epsilon: how far from the old value a new one counts; 0 for any distance.
    """
    errors = (values - returns).square()
    if not epsilon:
        return ValueLoss(errors / 2, torch.zeros_like(errors, dtype=torch.bool))
    bounded = (values.clamp(old - epsilon, old + epsilon) - returns).square()
    return ValueLoss(torch.maximum(errors, bounded) / 2, bounded > errors)


class RLHF(Method):
    """The method as the loop sees it."""

    name = "rlhf"

    def __init__(
        self, session: Session, config: RLHFConfig, trainee: HeadedTrainee, sampler: Sampler, world: World | None
    ) -> None:
        self.config, self.trainee, self.sampler, self.world = config, trainee, sampler, world
        self.beta = config.beta
        self._collector = Collector(session, trainee.module, config)
        self._step, self._examples, self._objective = 0, list[Example](), dict[str, float]()

    def batches(self, step: int) -> Iterator[Sequence[Example]]:
        """Sample and score, then the minibatches of each pass; at the end beta is adapted to the KL that was found."""
        config = self.config
        self._step, self._examples = step, self._collector.collect(self.sampler.sample(step), self.beta)
        self._objective = objective_metrics(self._examples) | {"objective/kl_coef": self.beta}
        yield from minibatches(config, step, self._examples)
        if config.adaptive_kl:
            kl = self._objective["objective/kl"]
            self.beta = adapted(self.beta, kl, config.adaptive_kl, config.adaptive_gain)

    def loss(self, model: nn.Module, examples: Sequence[Example], detail: bool) -> Loss:
        """Sum over the tokens of the completions that have a reward."""
        assert isinstance(model, Headed)
        config = self.config
        scored = completion_logprobs(
            model.model,
            [example.group.prompt_ids for example in examples],
            [[completion.ids for completion in example.group.completions] for example in examples],
            temperature=config.temperature,
            readout=model.head,
        )
        assert scored.readout is not None
        device, traces = scored.values.device, [trace for example in examples for trace in example.traces]
        old, old_values, advantages, returns = (
            padded([getattr(trace, name) for trace in traces], device)
            for name in ("logprobs", "values", "advantages", "returns")
        )
        mask = scored.mask & torch.tensor([trace.counts for trace in traces], device=device)[:, None]
        policy = surrogate(scored.values, old, advantages, config.epsilon, config.epsilon)
        value = value_loss(scored.readout, old_values, returns, config.epsilon_value)
        n, metrics = int(mask.sum()), dict[str, tuple[Tensor | float, int]]()
        if detail:
            drift = (scored.values.detach() - old)[mask]
            found = {
                "entropy": scored.entropy[mask],
                "mean_token_accuracy": scored.likeliest[mask],
                "loss/policy_avg": policy.losses.detach()[mask],
                "loss/value_avg": value.losses.detach()[mask],
                "policy/approxkl_avg": drift.square() / 2,
                "policy/clipfrac_avg": (policy.low | policy.high)[mask],
                "val/clipfrac_avg": value.clipped[mask],
                "val/ratio": drift.exp(),
            }
            metrics = {name: (tokens.sum(), n) for name, tokens in found.items()}
        losses = policy.losses + config.vf_coef * value.losses
        return Loss(losses[mask].sum(), n, sum(example.group.tokens for example in examples), metrics)

    def metrics(self) -> dict[str, float]:
        """The objective, rewards, lengths and gold figures of what the step sampled."""
        return rollout_metrics([example.group for example in self._examples], self.world) | self._objective

    def rollouts(self) -> list[Mapping[str, Any]]:
        """The first groups of every `rollouts_every`-th step."""
        if not self.config.records(self._step):
            return []
        return trace_rows(self._step, self._examples, self.trainee.lm.tokenizer, self.config.rollouts_kept)

    def state(self) -> dict[str, Tensor]:
        """The coefficient of the KL, which adapts."""
        return {"beta": torch.tensor(self.beta, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        if "beta" in state:
            self.beta = float(state["beta"])


def train(config: RLHFConfig) -> Run:
    """Train by PPO and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: something was given that cannot be used; the message says what.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = prompt_rows(config)
    inner = load_trainee(session, config, config.base)
    trainee = HeadedTrainee(inner, ValueHead(width_of(inner.lm.model), config.value_rate))
    sampler, origin = sampled(session, config, trainee, rows, config.fixed_beta)
    return fit(session, RLHF(session, config, trainee, sampler, origin.world), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "rlhf", *sys.argv[1:]]))
