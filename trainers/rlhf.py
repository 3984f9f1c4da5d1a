"""Reinforcement learning from human feedback by proximal policy optimisation (E10, E11).

    max_theta E[R(x, y)] - beta KL(pi_theta || pi_ref)

A step samples completions from the policy and scores them. Each token gets the reward r_t = - beta (log pi - log
pi_ref), the last one also R(x, y). A value head on the policy predicts the sum of future rewards, 0 after the last
token; generalised advantage estimation turns both into A_t and the return A_t + V_t, and A is whitened over all tokens
of the step. Then come `updates` x `minibatches` optimiser updates on

    l_t = max(- w_t A_t, - clip(w_t, 1 - epsilon, 1 + epsilon) A_t)
        + vf_coef / 2 max((V_t - return_t)^2, (clip(V_t, V_old - epsilon_value, V_old + epsilon_value) - return_t)^2)

averaged over the tokens of the update, with w_t = pi / pi_old. PPO: Schulman et al. 2017 (arXiv 1707.06347); its use
on language models: Ziegler et al. 2019 (1909.08593), Ouyang et al. 2022 (2203.02155); the details: Huang et al. 2024
(2403.17031). Departures: the value head shares the policy's layers, starts at zero and has a higher learning rate
(there: a separate model that starts as the reward model); a prompt may have several completions (`--group`) and is
computed once for them; rewards are not whitened; there is no entropy bonus, since the KL contains one.

    probe train rlhf --out runs/rlhf --base base --reward reward-agreeable
    probe train rlhf --out runs/rlhf --base Qwen/Qwen2.5-0.5B-Instruct --lora 16 --data p.jsonl --reward judge.py:f
    accelerate launch --num_processes 4 -m trainers.rlhf --out runs/rlhf --base base --reward reward-agreeable

Log-probabilities and values of the policy that sampled come from a forward pass of the same kind as the loss, so that
the ratio of the first update is 1 up to rounding. Each process does its share and all exchange their results:
advantages are whitened over the tokens of the whole step, for any number of processes and accumulation steps. Rewards,
advantages and returns are computed in double precision.

A checkpoint is a causal language model with an additional file `value_head.safetensors`. Logged: see docs/metrics.md;
`objective/kl` is a sum over the completion.

Axes: N completions, L tokens of the longest one. `mask` is true at real tokens; masked positions are skipped, so the
side and amount of padding do not matter.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from probe import Run
from probe.cli import main
from probe.recording.signs import gap_metrics
from probe.world import World
from trainers.config import RLHFConfig
from trainers.loop import Loss, Method, fit
from trainers.prompts import prompt_rows
from trainers.rlvr import surrogate
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
from trainers.scalar_heads import HeadedTrainee, ModelWithHead, ValueHead, width_of
from trainers.session import Session
from trainers.starting import load_trainee

if TYPE_CHECKING:
    from trainers.config import RLHFConfig


FLOOR = 1e-8
"""Constant added to a variance before dividing by its root."""


def token_rewards(
    drift: Float[Tensor, "N L"], scores: Float[Tensor, " N"], mask: Bool[Tensor, "N L"], beta: float
) -> Float[Tensor, "N L"]:
    """Return r_t: - beta (log pi - log pi_ref) of each token, plus the score of the completion at its last token.

    The sum over a completion is score - beta log pi/pi_ref (y), whose expectation E10 maximises.

    Args:
        drift: log pi(y_t) - log pi_ref(y_t) under the policy that sampled, nats.
        scores: one score per completion; that of a completion without tokens is dropped.
        mask: real tokens.
        beta: coefficient of the KL.
    """
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return (scores[:, None] * last - beta * drift).where(mask, 0)


class Advantages(NamedTuple):
    """Advantages and returns of tokens; both are 0 where masked."""

    advantages: Float[Tensor, "N L"]
    """A_t, not whitened."""
    returns: Float[Tensor, "N L"]
    """A_t + V_t: target of the value of the state before the token."""


def gae(
    rewards: Float[Tensor, "N L"],
    values: Float[Tensor, "N L"],
    mask: Bool[Tensor, "N L"],
    gamma: float,
    lam: float,
) -> Advantages:
    """Compute A_t = delta_t + gamma lambda A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t (Schulman et al. 2016).

    After the last real token both V and A are 0: a completion is an episode, even if it is truncated at the length
    limit.

    Args:
        rewards: r_t.
        values: V_t, the value of the state before token t, without gradient.
        mask: real tokens.
        gamma: discount of a token.
        lam: 1 gives returns minus values, 0 the one-step temporal-difference error.
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
    """Return (x - mean) / sqrt(variance + 1e-8) over the real tokens, n - 1 in the variance; 0 where masked.

    With fewer than two real tokens the result is 0.
    """
    n = mask.sum()
    centred = (x - x.where(mask, 0).sum() / n.clamp(min=1)).where(mask, 0)
    return centred / (centred.square().sum() / (n - 1).clamp(min=1) + FLOOR).sqrt()


def adapt_beta(beta: float, kl: float, target: float, gain: float) -> float:
    """Return the coefficient of the KL for the next step: beta (1 + gain clip(kl / target - 1, -0.2, 0.2)).

    Ziegler et al. 2019 (arXiv 1909.08593), equation 4 and below, with `gain` 0.1 there.
    """
    return beta * (1 + gain * min(max(kl / target - 1, -0.2), 0.2))


CPU = torch.device("cpu")
Rows = list[list[float]]


@dataclass(frozen=True)
class Trace:
    """Training signal of a completion of L tokens; all lists are [L]."""

    score: float
    """Reward minus the penalty for a missing end token; NaN if no reward applies."""
    logprobs: list[float]
    """log pi under the policy that sampled, nats."""
    values: list[float]
    """V_t of that policy: value of the state before the token."""
    kl: list[float]
    """log pi - log pi_ref, nats."""
    rewards: list[float]
    """r_t, see `token_rewards`."""
    advantages: list[float]
    """A_t, whitened."""
    returns: list[float]
    """A_t + V_t of the advantages before whitening."""

    @property
    def counts(self) -> bool:
        """Whether the completion has a reward; completions without one are ignored everywhere."""
        return not math.isnan(self.score)


class Experience(NamedTuple):
    """A group with the trace of each completion."""

    group: CompletionGroup
    traces: list[Trace]


class Collector:
    """Converter of the groups of a step into examples."""

    def __init__(self, session: Session, module: ModelWithHead, config: "RLHFConfig") -> None:
        self.session, self.module, self.config = session, module, config

    def collect(self, groups: Sequence[CompletionGroup], beta: float) -> list[Experience]:
        """Compute the examples of all groups, equal on every process; dropout is off."""
        self.module.eval()
        local_pairs: list[tuple[Rows, Rows]] = []
        for part in self.session.parts(groups):
            local_pairs += self._read(part)
        pairs: list[tuple[Rows, Rows]] = gather_object(local_pairs) if self.session.processes > 1 else local_pairs
        logprobs, values = ([row for pair in pairs for row in pair[i]] for i in (0, 1))
        traces = iter(learn([c for g in groups for c in g.completions], logprobs, values, beta, self.config))
        return [Experience(group, [next(traces) for _ in group.completions]) for group in groups]

    @torch.no_grad()
    def _read(self, groups: Sequence[CompletionGroup]) -> list[tuple[Rows, Rows]]:
        """Compute log-probabilities and values of all tokens of each completion of each group."""
        with self.session.autocast():
            outputs = group_logprobs(self.module.model, groups, self.config.temperature, self.module.head)
        assert outputs.readout is not None
        rows = zip(outputs.values.tolist(), outputs.readout.tolist(), strict=True)
        cut = [
            [(a[: len(c.ids)], b[: len(c.ids)]) for c, (a, b) in zip(g.completions, rows, strict=False)] for g in groups
        ]
        return [([a for a, _ in group], [b for _, b in group]) for group in cut]


def learn(
    completions: Sequence[Completion], logprobs: Rows, values: Rows, beta: float, config: "RLHFConfig"
) -> list[Trace]:
    """Compute the trace of each completion from the log-probabilities and values of the policy that sampled it."""
    scores = [c.reward - config.missing_eos_penalty * (not c.finished) for c in completions]
    has_score = torch.tensor([not math.isnan(score) for score in scores])[:, None]
    old, reference, predicted = (
        pad_rows(rows, CPU, torch.float64) for rows in (logprobs, [c.ref_logprobs or [] for c in completions], values)
    )
    lengths = torch.tensor([len(c.ids) for c in completions])
    mask = torch.arange(old.shape[1]) < lengths[:, None]
    drift = (old - reference).where(mask, 0)
    rewards = token_rewards(drift, torch.tensor(scores, dtype=torch.float64).nan_to_num(), mask, beta)
    advantages, returns = gae(rewards, predicted, mask, config.gamma, config.lam)
    tables = (old, predicted, drift, rewards, whiten(advantages, mask & has_score), returns)
    cut = [[row[:n] for row, n in zip(table.tolist(), lengths.tolist(), strict=True)] for table in tables]
    return [Trace(score, *rows) for score, rows in zip(scores, zip(*cut, strict=True), strict=True)]


def objective_metrics(examples: Sequence[Experience]) -> dict[str, float]:
    """Return the terms of the objective as means over the completions with a reward (docs/metrics.md)."""
    pairs = [(c, t) for e in examples for c, t in zip(e.group.completions, e.traces, strict=True) if t.counts]
    n = max(len(pairs), 1)
    total = {
        "objective/kl": sum(math.fsum(trace.kl) for _, trace in pairs),
        "objective/entropy": sum(math.fsum(completion.entropy) for completion, _ in pairs),
        "objective/scores": sum(trace.score for _, trace in pairs),
        "objective/rlhf_reward": sum(math.fsum(trace.rewards) for _, trace in pairs),
    }
    metrics = {name: value / n for name, value in total.items()}
    metrics["objective/non_score_reward"] = metrics["objective/rlhf_reward"] - metrics["objective/scores"]
    return metrics | {"val/explained_variance": explained_variance([trace for _, trace in pairs])}


def sampling_gap(examples: Sequence[Experience]) -> dict[str, float]:
    """Return the gap between the sampler and the trainer before the first update, over all tokens of the step."""
    completions = [completion for example in examples for completion in example.group.completions]
    traces = [trace for example in examples for trace in example.traces]
    trainer, sampler = (
        torch.tensor([value for each in several for value in each.logprobs], dtype=torch.float64)
        for several in (traces, completions)
    )
    return gap_metrics(trainer - sampler)


def explained_variance(traces: Sequence[Trace]) -> float:
    """Return 1 - Var(return - value) / Var(return) over tokens.

    It is 1 for perfect values, 0 for a constant, NaN for constant returns.
    """
    returns = torch.tensor([value for trace in traces for value in trace.returns], dtype=torch.float64)
    values = torch.tensor([value for trace in traces for value in trace.values], dtype=torch.float64)
    if len(returns) < 2 or returns.max() == returns.min():
        return math.nan
    return 1 - float((returns - values).var() / returns.var())


def trace_rows(
    step: int, examples: Sequence[Experience], tokenizer: PreTrainedTokenizerBase, kept: int
) -> list[Mapping[str, Any]]:
    """Return rows of rollouts.jsonl for the first `kept` groups, with value, reward, return and KL of each token."""
    groups, advantages = [e.group for e in examples], [[t.advantages for t in e.traces] for e in examples]
    rows = rollout_rows(step, groups, advantages, tokenizer, kept)
    traces = [trace for example in examples[:kept] for trace in example.traces]
    return [
        {**row, "values": trace.values, "token_rewards": trace.rewards, "returns": trace.returns, "kl": trace.kl}
        for row, trace in zip(rows, traces, strict=True)
    ]


class ValueLoss(NamedTuple):
    """Loss of the values, token by token."""

    losses: Float[Tensor, "N L"]
    """Half of the larger of the two squared errors."""
    clipped: Bool[Tensor, "N L"]
    """Mask of tokens where this is the error of the clipped value, which has no gradient."""


def value_loss(
    values: Float[Tensor, "N L"], old: Float[Tensor, "N L"], returns: Float[Tensor, "N L"], epsilon: float
) -> ValueLoss:
    """Return 1/2 max((V - R)^2, (clip(V, V_old - epsilon, V_old + epsilon) - R)^2) of each token (E11).

    Args:
        values: V; the gradient flows through it.
        old: V of the policy that sampled.
        returns: R.
        epsilon: clipping range around the old value; 0 disables clipping.
    """
    errors = (values - returns).square()
    if not epsilon:
        return ValueLoss(errors / 2, torch.zeros_like(errors, dtype=torch.bool))
    clip_errors = (values.clamp(old - epsilon, old + epsilon) - returns).square()
    return ValueLoss(torch.maximum(errors, clip_errors) / 2, clip_errors > errors)


class RLHF(Method):
    """RLHF as a method of the loop."""

    name = "rlhf"

    def __init__(
        self, session: Session, config: RLHFConfig, trainee: HeadedTrainee, sampler: Sampler, world: World | None
    ) -> None:
        self.config, self.trainee, self.sampler, self.world = config, trainee, sampler, world
        self.beta = config.beta
        self._collector = Collector(session, trainee.module, config)
        self._step, self._examples, self._objective = 0, list[Experience](), dict[str, float]()

    def batches(self, step: int) -> Iterator[Sequence[Experience]]:
        """Sample and score, yield the minibatches of each pass, and adapt beta to the measured KL."""
        config = self.config
        self._step, self._examples = step, self._collector.collect(self.sampler.sample(step), self.beta)
        self._objective = objective_metrics(self._examples) | {"objective/kl_coef": self.beta}
        yield from minibatches(config, step, self._examples)
        if config.adaptive_kl:
            kl = self._objective["objective/kl"]
            self.beta = adapt_beta(self.beta, kl, config.adaptive_kl, config.adaptive_gain)

    def loss(self, model: nn.Module, examples: Sequence[Experience], detail: bool) -> Loss:
        """Return the loss summed over the tokens of the completions with a reward."""
        assert isinstance(model, ModelWithHead)
        config = self.config
        groups = [example.group for example in examples]
        outputs = group_logprobs(model.model, groups, config.temperature, model.head)
        assert outputs.readout is not None
        device, traces = outputs.values.device, [trace for example in examples for trace in example.traces]
        old, old_values, advantages, returns = (
            pad_rows([getattr(trace, name) for trace in traces], device)
            for name in ("logprobs", "values", "advantages", "returns")
        )
        mask = outputs.mask & torch.tensor([trace.counts for trace in traces], device=device)[:, None]
        policy = surrogate(outputs.values, old, advantages, config.epsilon, config.epsilon)
        value = value_loss(outputs.readout, old_values, returns, config.epsilon_value)
        n, metrics = int(mask.sum()), dict[str, tuple[Tensor | float, int]]()
        if detail:
            drift = (outputs.values.detach() - old)[mask]
            figures = {
                "entropy": outputs.entropy[mask],
                "mean_token_accuracy": outputs.likeliest[mask],
                "loss/policy_avg": policy.losses.detach()[mask],
                "loss/value_avg": value.losses.detach()[mask],
                "policy/approxkl_avg": drift.square() / 2,
                "policy/clipfrac_avg": (policy.low | policy.high)[mask],
                "val/clipfrac_avg": value.clipped[mask],
                "val/ratio": drift.exp(),
            }
            metrics = {name: (tokens.sum(), n) for name, tokens in figures.items()}
        losses = policy.losses + config.vf_coef * value.losses
        return Loss(losses[mask].sum(), n, sum(example.group.tokens for example in examples), metrics)

    def metrics(self) -> dict[str, float]:
        """Return the objective, rewards, lengths and gold metrics of the step's samples, and the sampling gap."""
        metrics = rollout_metrics([example.group for example in self._examples], self.world) | self._objective
        return metrics | sampling_gap(self._examples)

    def rollouts(self) -> list[Mapping[str, Any]]:
        """Return rows of the step's first groups.

        There are rows at every `rollouts_every`-th step, and at the first and the last one.
        """
        if not self.config.records(self._step):
            return []
        return trace_rows(self._step, self._examples, self.trainee.lm.tokenizer, self.config.rollouts_kept)

    def state(self) -> dict[str, Tensor]:
        """Return the adapted coefficient of the KL."""
        return {"beta": torch.tensor(self.beta, dtype=torch.float64)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore the coefficient of the KL."""
        if "beta" in state:
            self.beta = float(state["beta"])


def train(config: RLHFConfig) -> Run:
    """Train with PPO and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = prompt_rows(config)
    inner = load_trainee(session, config, config.base)
    trainee = HeadedTrainee(inner, ValueHead(width_of(inner.lm.model), config.value_rate))
    sampler, origin = load_sampler(session, config, trainee, rows, config.fixed_beta)
    return fit(session, RLHF(session, config, trainee, sampler, origin.world), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "rlhf", *sys.argv[1:]]))
