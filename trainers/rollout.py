"""Sampling in a training: groups of completions of a prompt, scored, the same on every process.

A step draws `batch_size` prompts, samples `group` completions of each at the config's temperature, and scores them
with the rewards and, where there is one, with the reference. Each process does its share and all exchange what they
found, so that every process holds every group. What is drawn depends on (seed, step, place in the batch) alone.

The log-probabilities are those of the policy at the temperature that it was sampled with, before top-k and top-p cut
its tail; a model's own generation_config changes nothing but which tokens end a text.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from probe.errors import ConfigError
from probe.model.text import pieces
from probe.world import World
from trainers.config import OnlineConfig
from trainers.data import draw
from trainers.gold import gold_metrics
from trainers.online import SAMPLING
from trainers.prompts import Prompt
from trainers.reference import Reference
from trainers.rewards import RewardFunction, weighted_sum
from trainers.session import Session, derive_seed
from trainers.trainee import Trainee


@dataclass(frozen=True)
class Completion:
    """A sampled completion of L tokens."""

    ids: list[int]
    """Its tokens, the end token included if one was drawn."""
    text: str
    """The same as text, without special tokens."""
    logprobs: list[float]
    """[L] log-probability of each token under the policy that sampled it, nats, at the sampling temperature."""
    entropy: list[float]
    """[L] entropy of the distribution that each token was drawn from, nats."""
    finished: bool
    """Whether it ended with an end token, and not at the length limit."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Each reward by name; None where it does not apply."""
    reward: float = float("nan")
    """Their weighted sum; NaN where none of them applies."""
    ref_logprobs: list[float] | None = None
    """[L] log-probabilities under the reference at the same temperature; None if they were not asked for."""


@dataclass(frozen=True)
class Group:
    """A prompt with the completions that were sampled for it."""

    prompt: str
    prompt_ids: list[int]
    columns: dict[str, Any]
    """The other columns of the prompt's row."""
    completions: list[Completion]
    number: int
    """Its place in the batch of the step."""

    @property
    def tokens(self) -> int:
        """Real tokens: the prompt once, and all completions."""
        return len(self.prompt_ids) + sum(len(completion.ids) for completion in self.completions)


class Sampler:
    """Samples and scores the groups of a step."""

    def __init__(
        self,
        session: Session,
        trainee: Trainee,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        rewards: Sequence[RewardFunction],
        reference: Reference | None = None,
    ) -> None:
        """Check that the processes can share a step.

        Raises:
            ConfigError: a minibatch cannot be shared by the processes.
        """
        parts = session.processes * config.accumulation * config.minibatches
        if config.batch_size % parts:
            raise ConfigError(
                f"--batch-size {config.batch_size} cannot be shared by {session.processes} processes with"
                f" --accumulation {config.accumulation} and --minibatches {config.minibatches}: give a multiple of"
                f" {parts}."
            )
        self.session, self.trainee, self.config = session, trainee, config
        self.prompts, self.rewards, self.reference = prompts, rewards, reference

    @torch.no_grad()
    def sample(self, step: int, with_reference: bool = True) -> list[Group]:
        """The groups of a step, equal on every process; the reference scores them if there is one and it is wanted."""
        config = self.config
        places = list(enumerate(draw(len(self.prompts), config.batch_size, step, config.seed)))
        groups: list[Group] = []
        for part in self.session.parts(places):
            groups += self._score(self._sampled(step, part), with_reference)
        shared: list[Group] = gather_object(groups) if self.session.processes > 1 else groups
        return shared

    def _sampled(self, step: int, places: Sequence[tuple[int, int]]) -> list[Group]:
        """Unscored groups of prompts, given as (place in the batch, number of the prompt)."""
        config, lm = self.config, self.trainee.lm
        prompts = [self.prompts[index] for _, index in places]
        with self.session.autocast():
            made = lm.generate(
                [prompt.ids for prompt in prompts],
                n=config.group,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                seed=[derive_seed(config.seed, step, place, SAMPLING) for place, _ in places],
            )
        columns = made.ids, made.text, made.logprobs.tolist(), made.entropy.tolist(), made.finished.tolist()
        completions = [
            Completion(ids, text, logprobs[: len(ids)], entropy[: len(ids)], finished)
            for ids, text, logprobs, entropy, finished in zip(*columns, strict=True)
        ]
        return [
            Group(
                prompt.text, prompt.ids, prompt.columns, completions[i * config.group : (i + 1) * config.group], place
            )
            for i, (prompt, (place, _)) in enumerate(zip(prompts, places, strict=True))
        ]

    def _score(self, groups: Sequence[Group], with_reference: bool) -> list[Group]:
        """The groups with rewards, and with log-probabilities under the reference."""
        flat = [(group, completion) for group in groups for completion in group.completions]
        columns = {name: [group.columns[name] for group, _ in flat] for name in groups[0].columns}
        columns |= {"prompt_ids": [g.prompt_ids for g, _ in flat], "completion_ids": [c.ids for _, c in flat]}
        prompts, texts = [group.prompt for group, _ in flat], [completion.text for _, completion in flat]
        scores = {reward.name: reward(prompts, texts, **columns) for reward in self.rewards}
        parts = [{name: values[i] for name, values in scores.items()} for i in range(len(flat))]
        reference: list[list[float] | None] = [None] * len(flat)
        if self.reference is not None and with_reference:
            reference = self._reference(groups, self.reference)
        scored = iter(
            dataclasses.replace(
                completion, rewards=named, reward=weighted_sum(named, self.config.weights), ref_logprobs=logprobs
            )
            for (_, completion), named, logprobs in zip(flat, parts, reference, strict=True)
        )
        return [dataclasses.replace(g, completions=[next(scored) for _ in g.completions]) for g in groups]

    def _reference(self, groups: Sequence[Group], reference: Reference) -> list[list[float] | None]:
        ids = [[completion.ids for completion in group.completions] for group in groups]
        with self.session.autocast():
            found = reference.logprobs([g.prompt_ids for g in groups], ids, temperature=self.config.temperature)
        lengths = found.mask.sum(1).tolist()
        return [row[:length] for row, length in zip(found.values.tolist(), lengths, strict=True)]


def padded(
    rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "N L"]:
    """Rows of different lengths as one tensor, 0 beyond their ends."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True).to(
        device
    )


def rollout_rows(
    step: int,
    groups: Sequence[Group],
    advantages: Sequence[Sequence[float | Sequence[float]]] | None,
    tokenizer: PreTrainedTokenizerBase,
    kept: int,
) -> list[dict[str, Any]]:
    """The completions of the first `kept` groups as rows of rollouts.jsonl (docs/runs.md).

    Args:
        step: the step that sampled them.
        groups: what it sampled.
        advantages: for each group one number, or one a token, for each completion; None where there are none.
        tokenizer: spells the tokens.
        kept: groups to record.
    """
    rows = []
    for i, group in enumerate(groups[:kept]):
        for j, completion in enumerate(group.completions):
            row = {
                "step": step,
                "prompt": group.prompt,
                "completion": completion.text,
                "group": group.number,
                "token_ids": completion.ids,
                "tokens": pieces(tokenizer, completion.ids),
                "rewards": completion.rewards,
                "reward": completion.reward,
                "advantage": None if advantages is None else advantages[i][j],
                "logprobs": completion.logprobs,
                "ref_logprobs": completion.ref_logprobs,
                "entropy": completion.entropy,
                "finished": completion.finished,
            }
            rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def rollout_metrics(groups: Sequence[Group], world: World | None) -> dict[str, float]:
    """What a step has sampled, in figures (docs/metrics.md): rewards, lengths and, in a world, the gold ones.

    Means and standard deviations are over completions, those without a reward left out; the latter divide by n - 1.
    """
    flat = [completion for group in groups for completion in group.completions]
    found = {"reward": _mean([c.reward for c in flat]), "reward_std": _std([c.reward for c in flat])}
    for name in flat[0].rewards:
        values = [value for c in flat if (value := c.rewards[name]) is not None]
        found |= {f"rewards/{name}/mean": _mean(values), f"rewards/{name}/std": _std(values)}
    found["frac_reward_zero_std"] = sum(map(equal_rewards, groups)) / len(groups)
    found["completions/mean_length"] = sum(len(c.ids) for c in flat) / len(flat)
    found["completions/clipped_ratio"] = sum(not c.finished for c in flat) / len(flat)
    if world is None:
        return found
    return found | gold_metrics(world, [(group.prompt, c.text) for group in groups for c in group.completions])


def equal_rewards(group: Group) -> bool:
    """Whether all rewards of a group are the same, so that none of its completions is better than another."""
    rewards = [c.reward for c in group.completions if not math.isnan(c.reward)]
    return not rewards or max(rewards) == min(rewards)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _std(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return 0.0 if known else math.nan
    mean = _mean(known)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))
