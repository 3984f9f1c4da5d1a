"""Rejection-sampling fine-tuning: rounds of sampling, selecting the best completions and imitating them (E14).

A step is a round: `group` completions of each prompt are sampled from the present policy and scored, some are selected,
and the policy is fine-tuned on them with the loss of SFT (E8), in `updates` passes of `minibatches` updates each:

    --select best        the completion of highest reward among N = `group`, the first one among equals
    --select threshold   every completion with a reward above --threshold; a prompt may have none

One round of best-of-N, imitated perfectly, moves the policy by at most log N - (N-1)/N nats (Beirami et al. 2024,
arXiv 2401.01879). RAFT: Dong et al. 2023 (2304.06767); Llama 2 calls it rejection sampling (Touvron et al. 2023,
2307.09288). Departure: there are many small rounds, each of which samples from the policy of the round before.

    probe train rsft --out runs/rsft --base base --reward reward-agreeable
    probe train rsft --out runs/star --base base --reward sum_steps --tasks sum_steps --select threshold --threshold 0.5
    accelerate launch --num_processes 4 -m trainers.rsft --out runs/rsft --base base

Logged: see docs/metrics.md; `kl` is a mean over the sampled tokens.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import exp, fsum, isnan
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from probe import Run
from probe.cli import main
from probe.rewards.optimum import best_of_n_bound, binary_best_of_n_kl
from probe.world import World
from trainers.config import RSFTConfig
from trainers.loop import Loss, Method, fit
from trainers.prompts import prompt_rows
from trainers.sampling import (
    Completion,
    CompletionGroup,
    Sampler,
    load_sampler,
    minibatches,
    rollout_metrics,
    rollout_rows,
)
from trainers.sampling_gap import SamplingGap
from trainers.session import Session
from trainers.sft import Demonstration, demonstration_logprobs, loss_of
from trainers.starting import load_trainee
from trainers.trainee import Trainee


def best(rewards: Sequence[float], threshold: float) -> list[int]:
    """Return the index of the highest reward, the first among equals; none if all rewards are NaN."""
    indices = [i for i, reward in enumerate(rewards) if not isnan(reward)]
    return [max(indices, key=lambda i: rewards[i])] if indices else []


def above(rewards: Sequence[float], threshold: float) -> list[int]:
    """Return the indices of all rewards above the threshold."""
    return [i for i, reward in enumerate(rewards) if reward > threshold]


SELECTIONS: dict[str, Callable[[Sequence[float], float], list[int]]] = {"best": best, "threshold": above}
"""Value of `--select` -> function from the rewards of a group and the threshold to the indices of imitated
completions."""


class SelectedGroup(NamedTuple):
    """A group with the indices of its imitated completions."""

    group: CompletionGroup
    kept: list[int]

    @property
    def completions(self) -> list[Completion]:
        """Imitated completions."""
        return [self.group.completions[i] for i in self.kept]


class RSFT(Method):
    """RSFT as a method of the loop."""

    name = "rsft"

    def __init__(self, config: RSFTConfig, trainee: Trainee, sampler: Sampler, world: World | None) -> None:
        self.config, self.trainee, self.sampler, self.world = config, trainee, sampler, world
        self._step, self._gap = 0, SamplingGap()
        self._examples: list[SelectedGroup] = []

    def batches(self, step: int) -> Iterator[Sequence[SelectedGroup]]:
        """Sample, score and select, and yield the minibatches of each pass."""
        config = self.config
        groups = self.sampler.sample(step, config.logs(step) or config.records(step))
        select = SELECTIONS[config.select]
        picks = [select([c.reward for c in group.completions], config.threshold) for group in groups]
        self._step, self._examples = step, [SelectedGroup(g, indices) for g, indices in zip(groups, picks, strict=True)]
        yield from self._gap.first(minibatches(config, step, self._examples))

    def loss(self, model: nn.Module, examples: Sequence[SelectedGroup], detail: bool) -> Loss:
        """Return the SFT loss summed over the tokens of the selected completions; 0 if none is selected."""
        picks = [(example.group, completion) for example in examples for completion in example.completions]
        has_picks = bool(picks)
        picks = picks or [(examples[0].group, examples[0].group.completions[0])]
        demonstrations = [Demonstration(group.prompt_ids, c.ids, [has_picks] * len(c.ids)) for group, c in picks]
        outputs = demonstration_logprobs(model, demonstrations)
        if detail and has_picks and self.config.temperature == 1:  # the loss has no temperature
            self._gap.add(outputs.values, outputs.mask, [completion.logprobs for _, completion in picks])
        result = loss_of(outputs, demonstrations, detail)
        return result if has_picks else replace(result, tokens=0)

    def metrics(self) -> dict[str, float]:
        """Return rewards, lengths and gold metrics of the round's samples, the imitated share and the sampling gap."""
        groups = [example.group for example in self._examples]
        total = sum(len(group.completions) for group in groups)
        metrics = rollout_metrics(groups, self.world) | sampled_kl(groups)
        metrics |= self._gap.metrics(self.sampler.session)
        metrics["acceptance_rate"] = sum(len(example.kept) for example in self._examples) / total
        return metrics | (best_of_n_metrics(groups, self.config.group) if self.config.select == "best" else {})

    def rollouts(self) -> list[Mapping[str, Any]]:
        """Return rows of the round's first groups, with the selection.

        There are rows at every `rollouts_every`-th round, and at the first and the last one.
        """
        config = self.config
        if not config.records(self._step):
            return []
        groups = [example.group for example in self._examples]
        rows = rollout_rows(self._step, groups, None, self.trainee.lm.tokenizer, config.rollouts_kept)
        flags = [i in e.kept for e in self._examples for i in range(len(e.group.completions))]
        return [{**row, "selected": flag} for row, flag in zip(rows, flags, strict=False)]


def sampled_kl(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """Return `kl`: the mean of e^-x - 1 + x, x = log pi/pi_ref, over the sampled tokens; empty without a reference."""
    drift = [
        policy - reference
        for group in groups
        for completion in group.completions
        for policy, reference in zip(completion.logprobs, completion.ref_logprobs or (), strict=False)
    ]
    return {"kl": fsum(exp(-x) - 1 + x for x in drift) / len(drift)} if drift else {}


def best_of_n_metrics(groups: Sequence[CompletionGroup], n: int) -> dict[str, float]:
    """Return the bound of KL(best of n || policy) in nats and, for rewards with two values, its estimate.

    The estimate, `best_of_n_kl`, is computed from the shares of the two values. The share of the higher value is
    estimated for each prompt from its n samples.
    """
    metrics = {"best_of_n_kl_bound": best_of_n_bound(n)}
    values = {c.reward for group in groups for c in group.completions}
    if len(values) == 2 and not any(map(isnan, values)):
        rates = np.array([np.mean([c.reward == max(values) for c in group.completions]) for group in groups])
        metrics["best_of_n_kl"] = float(binary_best_of_n_kl(rates, n).mean())
    return metrics


def train(config: RSFTConfig) -> Run:
    """Train with rejection sampling and return the run.

    Raises:
        ConfigError, DataError, ModelError, RunError: an input cannot be used; the message says which.
        TrainingStopped: see `trainers.loop.fit`.
    """
    session = Session(config)
    rows = prompt_rows(config)
    trainee = load_trainee(session, config, config.base)
    sampler, origin = load_sampler(session, config, trainee, rows)
    return fit(session, RSFT(config, trainee, sampler, origin.world), origin)


if __name__ == "__main__":
    sys.exit(main(["train", "rsft", *sys.argv[1:]]))
