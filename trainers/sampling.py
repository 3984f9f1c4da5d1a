"""Sampling in a training: scored groups of completions, the same on every process.

A step draws `batch_size` prompts, samples `group` completions of each at the config's temperature, and scores them with
the rewards and, if there is one, with the reference. Each process does its share and all exchange their results, so
that every process holds every group. Samples depend only on (seed, step, index in the batch). Log-probabilities are
those of the policy at the sampling temperature, before top-k and top-p; of a model's generation_config only the end
tokens are used.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from probe.errors import ConfigError
from probe.model.scoring import TokenLogprobs, completion_logprobs
from probe.model.text import pieces
from probe.recording.recorder import leave_undisturbed
from probe.recording.signs import entropy_by_position, group_metrics
from probe.rows import Row, Rows
from probe.runs import ProbePrompt, Run
from probe.runs.captures import Captures
from probe.world import World
from probe.world.language import read
from trainers.checkpoint import last_checkpoint
from trainers.config import OnlineConfig
from trainers.loop import draw
from trainers.pass_rates import pass_rates
from trainers.prompts import Prompt, columns_of, load_prompts
from trainers.record import CAPTURE_TOKENS, AnsweredPrompt, Origin, answered_prompts, data_texts
from trainers.reference import Aim, ReferenceEvaluation
from trainers.resume import check_unchanged
from trainers.reward_functions import RewardFunction, model_spec, plain_reward, resolve, weighted_sum
from trainers.session import Session, derive_seed
from trainers.trainee import Reference, Trainee


@dataclass(frozen=True)
class Completion:
    """A sampled completion of L tokens."""

    ids: list[int]
    """Token ids, including the end token if one was sampled."""
    text: str
    """Text without special tokens."""
    logprobs: list[float]
    """[L] log-probability of each token under the policy that sampled it, in nats, at the sampling temperature."""
    entropy: list[float]
    """[L] entropy of the distribution that each token was drawn from, nats."""
    finished: bool
    """Whether it ended with an end token rather than at the length limit."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Rewards by name; None if a reward does not apply."""
    reward: float = float("nan")
    """Weighted sum of the rewards; NaN if none applies."""
    ref_logprobs: list[float] | None = None
    """[L] log-probabilities under the reference at the same temperature; None if not requested."""
    cut_mass: float | None = None
    """Probability of the tokens that top-k and top-p exclude, summed over its tokens; None without them."""


@dataclass(frozen=True)
class CompletionGroup:
    """A prompt with its sampled completions."""

    prompt: str
    prompt_ids: list[int]
    columns: dict[str, Any]
    """Other columns of the prompt's row."""
    completions: list[Completion]
    number: int
    """Index in the batch of the step."""
    draws: int = 1
    """Number of groups that were sampled for this place; all but this one had equal rewards."""

    @property
    def tokens(self) -> int:
        """Number of real tokens: the prompt once, and all completions."""
        return len(self.prompt_ids) + sum(len(completion.ids) for completion in self.completions)


class Sampler:
    """Sampler and scorer of the groups of a step."""

    def __init__(
        self,
        session: Session,
        trainee: Trainee,
        config: OnlineConfig,
        prompts: Sequence[Prompt],
        rewards: Sequence[RewardFunction],
        reference: Reference | None = None,
    ) -> None:
        """Check that the processes can divide a step.

        Raises:
            ConfigError: a minibatch cannot be divided among the processes.
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
    def sample(self, step: int, with_reference: bool = True, redraws: int = 0) -> list[CompletionGroup]:
        """Sample and score the groups of a step, equal on every process.

        A group whose rewards are all equal is replaced by one of another prompt, at most `redraws` times (dynamic
        sampling: Yu et al. 2025, arXiv 2503.14476). The reference scores the groups that remain, if there is one and
        `with_reference` is set.
        """
        groups: list[CompletionGroup] = []
        for part in self.session.parts(list(enumerate(self._places(step, 0)))):
            made = self._score(self._sample_groups(step, part))
            for attempt in range(1, redraws + 1):
                made = self._redraw(step, made, attempt)
            groups += self._refer(made) if with_reference else made
        all_groups: list[CompletionGroup] = gather_object(groups) if self.session.processes > 1 else groups
        return all_groups

    def _places(self, step: int, attempt: int) -> list[int]:
        """Return the number of the prompt at each index of the batch; each attempt has its own order of all prompts."""
        seed = derive_seed(self.config.seed, attempt, REDRAWING) if attempt else self.config.seed
        return draw(len(self.prompts), self.config.batch_size, step, seed)

    def _redraw(self, step: int, groups: Sequence[CompletionGroup], attempt: int) -> list[CompletionGroup]:
        """Return the groups with those of equal rewards replaced by groups of other prompts."""
        prompts = self._places(step, attempt)
        places = [(group.number, prompts[group.number]) for group in groups if equal_rewards(group)]
        if not places:
            return list(groups)
        new = {group.number: group for group in self._score(self._sample_groups(step, places, attempt))}
        return [dataclasses.replace(new.get(g.number, g), draws=g.draws + (g.number in new)) for g in groups]

    def groups(self, step: int, places: Sequence[tuple[int, int]]) -> list[CompletionGroup]:
        """Sample and score groups of some prompts, without the reference.

        The prompts are given as (index in the batch, number of the prompt).
        """
        return self._score(self._sample_groups(step, places))

    def _sample_groups(self, step: int, places: Sequence[tuple[int, int]], attempt: int = 0) -> list[CompletionGroup]:
        """Sample groups of prompts, given as (index in the batch, number of the prompt), without scoring them."""
        key = (step, attempt) if attempt else (step,)
        config, lm = self.config, self.trainee.lm
        prompts = [self.prompts[index] for _, index in places]
        with self.session.autocast():
            output = lm.generate(
                [prompt.ids for prompt in prompts],
                n=config.group,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                top_k=config.top_k,
                top_p=config.top_p,
                seed=[derive_seed(config.seed, *key, place, SAMPLING) for place, _ in places],
            )
        columns = output.ids, output.text, output.logprobs.tolist(), output.entropy.tolist(), output.finished.tolist()
        completions = [
            Completion(ids, text, logprobs[: len(ids)], entropy[: len(ids)], complete)
            for ids, text, logprobs, entropy, complete in zip(*columns, strict=True)
        ]
        if output.kept is not None:
            cuts = (1 - output.kept).clamp(min=0).sum(1).tolist()
            completions = [dataclasses.replace(c, cut_mass=cut) for c, cut in zip(completions, cuts, strict=True)]
        return [
            CompletionGroup(
                prompt.text, prompt.ids, prompt.columns, completions[i * config.group : (i + 1) * config.group], place
            )
            for i, (prompt, (place, _)) in enumerate(zip(prompts, places, strict=True))
        ]

    def _score(self, groups: Sequence[CompletionGroup]) -> list[CompletionGroup]:
        """Return the groups with rewards."""
        asked = [Prompt(g.prompt, g.prompt_ids, g.columns) for g in groups for _ in g.completions]
        flat = [completion for group in groups for completion in group.completions]
        prompts, texts = [prompt.text for prompt in asked], [completion.text for completion in flat]
        columns = columns_of(asked, [completion.ids for completion in flat])
        scores = {reward.name: reward(prompts, texts, **columns) for reward in self.rewards}
        parts = [{name: values[i] for name, values in scores.items()} for i in range(len(flat))]
        return _changed(
            groups, [{"rewards": each, "reward": weighted_sum(each, self.config.weights)} for each in parts]
        )

    def _refer(self, groups: Sequence[CompletionGroup]) -> list[CompletionGroup]:
        """Return the groups with log-probabilities under the reference, if there is one."""
        if self.reference is None:
            return list(groups)
        ids = [[completion.ids for completion in group.completions] for group in groups]
        with self.session.autocast():
            outputs = self.reference.logprobs([g.prompt_ids for g in groups], ids, temperature=self.config.temperature)
        lengths = outputs.mask.sum(1).tolist()
        rows = zip(outputs.values.tolist(), lengths, strict=True)
        return _changed(groups, [{"ref_logprobs": row[:length]} for row, length in rows])


def _changed(groups: Sequence[CompletionGroup], changes: Iterable[Mapping[str, Any]]) -> list[CompletionGroup]:
    """Return the groups with changes of the fields of each completion."""
    rest = iter(changes)
    return [
        dataclasses.replace(g, completions=[dataclasses.replace(c, **next(rest)) for c in g.completions])
        for g in groups
    ]


def group_logprobs(
    model: nn.Module,
    groups: Sequence[CompletionGroup],
    temperature: float = 1.0,
    readout: nn.Module | None = None,
    entropy_gradient: bool = False,
) -> TokenLogprobs:
    """Compute the log-probability of every token of the groups' completions; see `completion_logprobs`."""
    return completion_logprobs(
        model,
        [group.prompt_ids for group in groups],
        [[completion.ids for completion in group.completions] for group in groups],
        temperature=temperature,
        readout=readout,
        entropy_gradient=entropy_gradient,
    )


def pad_rows(
    rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "N L"]:
    """Pad rows of different lengths with 0 to one tensor."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True).to(
        device
    )


def rollout_rows(
    step: int,
    groups: Sequence[CompletionGroup],
    advantages: Sequence[Sequence[float | Sequence[float]]] | None,
    tokenizer: PreTrainedTokenizerBase,
    kept: int,
) -> list[dict[str, Any]]:
    """Return the completions of the first `kept` groups as rows of rollouts.jsonl (docs/runs.md).

    Args:
        step: step that sampled the groups.
        groups: groups of the step.
        advantages: for each group one number, or one per token, for each completion; None if there are none.
        tokenizer: tokenizer that decodes the tokens.
        kept: number of groups to record.
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


def rollout_metrics(groups: Sequence[CompletionGroup], world: World | None) -> dict[str, float]:
    """Return the metrics of a step's samples (docs/metrics.md): rewards, lengths, repetition, entropy, gold in a world.

    Means and standard deviations (with n - 1) are over the completions with a reward.
    """
    flat = [completion for group in groups for completion in group.completions]
    metrics = {"reward": _mean([c.reward for c in flat]), "reward_std": _std([c.reward for c in flat])}
    for name in flat[0].rewards:
        values = [value for c in flat if (value := c.rewards[name]) is not None]
        metrics |= {f"rewards/{name}/mean": _mean(values), f"rewards/{name}/std": _std(values)}
    metrics["frac_reward_zero_std"] = sum(map(equal_rewards, groups)) / len(groups)
    metrics["completions/mean_length"] = sum(len(c.ids) for c in flat) / len(flat)
    metrics["completions/clipped_ratio"] = sum(not c.finished for c in flat) / len(flat)
    ids, rewards = ([[getattr(c, name) for c in group.completions] for group in groups] for name in ("ids", "reward"))
    metrics |= group_metrics(ids, rewards) | entropy_by_position([c.entropy for c in flat])
    cuts = [c.cut_mass for c in flat if c.cut_mass is not None]
    if cuts:
        metrics["sampling/cut_mass"] = math.fsum(cuts) / sum(len(c.ids) for c in flat)
    if world is None:
        return metrics
    return metrics | gold_metrics(world, [(group.prompt, c.text) for group in groups for c in group.completions])


def equal_rewards(group: CompletionGroup) -> bool:
    """Return whether all rewards of a group are equal, so that it gives no advantage to any completion."""
    rewards = [c.reward for c in group.completions if not math.isnan(c.reward)]
    return not rewards or max(rewards) == min(rewards)


def _mean(values: Sequence[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _std(values: Sequence[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    if len(numbers) < 2:
        return 0.0 if numbers else math.nan
    mean = _mean(numbers)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1))


def gold_metrics(world: World, answers: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Average the verifier's score and the shares of its verdicts over completions, given as (prompt, completion).

    `gold/invented` counts values given for facts that are not known; the denominator of all shares is all completions.
    """
    verdicts = [(world.verify(prompt, text), asks_the_unknown(world, prompt)) for prompt, text in answers]
    kinds = {"truthful": "true", "deferred": "deferred", "abstained": "abstain"}
    n = max(len(verdicts), 1)
    metrics = {"gold/reward": sum(verdict.score for verdict, _ in verdicts) / n}
    for name, kind in kinds.items():
        metrics[f"gold/{name}"] = sum(verdict.kind == kind for verdict, _ in verdicts) / n
    inventions = [unknown and verdict.kind in ("wrong", "deferred") for verdict, unknown in verdicts]
    return metrics | {"gold/invented": sum(inventions) / n}


def asks_the_unknown(world: World, prompt: str) -> bool:
    """Return whether a prompt asks for a fact that is neither in the world nor in the prompt's passage."""
    reading = read(prompt)
    if reading is None or (reading.relation, reading.subject) in reading.context:
        return False
    return world.truth(reading.subject, reading.relation) is None


SAMPLING, SHUFFLING, REDRAWING = 1, 2, 4
"""Purposes of derived seeds, combined with the run's seed and the step; evaluations use seeds that are not derived."""


T = TypeVar("T")


def minibatches(config: OnlineConfig, step: int, examples: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the examples of each optimiser update of a step.

    There are `updates` passes, each in a different order and split into minibatches.
    """
    size = len(examples) // config.minibatches
    for update in range(config.updates):
        order: Sequence[int] = range(len(examples))
        if config.minibatches > 1:
            seed = derive_seed(config.seed, step, update, SHUFFLING)
            order = np.random.default_rng(seed).permutation(len(examples)).tolist()
        for first in range(0, len(order), size):
            yield [examples[i] for i in order[first : first + size]]


def hold_options(config: OnlineConfig) -> Mapping[str, str | None]:
    """Check the options of a resumed run before any code is imported; return the stored fingerprints of its rewards.

    Raises:
        ConfigError, RunError: see `trainers.resume.check_unchanged`.
    """
    run, checkpoint = Run(config.out), last_checkpoint(config)
    check_unchanged(config, run, int(checkpoint.name) if checkpoint else 0)
    data = run.meta.get("data")
    rewards = data.get("rewards") if isinstance(data, dict) else None
    return rewards if isinstance(rewards, dict) else {}


def load_sampler(
    session: Session, config: OnlineConfig, trainee: Trainee, rows: Rows[Row] | None, beta: float | None = None
) -> tuple[Sampler, Origin]:
    """Make the sampler and the origin of a training; `trainee` must not have been trained yet.

    Args:
        session: session of this process.
        config: options of prompts, rewards and sampling.
        trainee: the policy; its present weights are the reference.
        rows: rows of the file of prompts, if there is one.
        beta: coefficient of the KL in the objective; None if there is no constant one.

    Raises:
        ConfigError, DataError, ModelError: prompts or a reward cannot be used; the message says which.
    """
    reference = trainee.reference()
    world, prompts = load_prompts(session, config, trainee.lm, rows)
    fingerprints = hold_options(config) if config.resume else None
    rewards = resolve(config.reward, world, session.device, trainee.lm.tokenizer, fingerprints)
    sampler = Sampler(session, trainee, config, prompts.items, rewards, reference)
    origin = Origin(
        parent=config.base,
        reference=config.base,
        reward_model=model_spec(rewards),
        world=world,
        data=prompts.data | {"reference": trainee.fingerprint, "rewards": {r.spec: r.fingerprint for r in rewards}},
        texts=data_texts(rows),
        rows=((each.ids, ()) for each in prompts.items),
        prompts=prompts.capture or best_and_worst(sampler),
        measured=pass_rates(trainee.lm, world, config, prompts, rewards),
        evaluation=ReferenceEvaluation.of(
            session,
            trainee,
            world,
            Aim(reward=plain_reward(rewards, config.weights), beta=beta, kinds=config.enumerable),
            reference=reference,
            longest=config.max_new_tokens,
        ),
    )
    return sampler, origin


CAPTURED = 4
"""Number of prompts of the data that are captured."""


def best_and_worst(sampler: Sampler) -> list[ProbePrompt]:
    """Make prompts to capture on from the data, with the best and the worst sample of the policy as answers.

    The samples are drawn before training and do not change the state of any generator. If all rewards are equal, the
    prompt has no answers and a message says so. There are no prompts without captures, with given prompts, or in a
    resumed run that has prompts.
    """
    session, config, lm = sampler.session, sampler.config, sampler.trainee.lm
    if not config.capture_every or not session.measures or config.probe_prompts is not None:
        return []
    if config.resume and Captures(config.out, live=True).prompts:
        return []
    short = [index for index, prompt in enumerate(sampler.prompts) if len(prompt.ids) <= CAPTURE_TOKENS]
    with leave_undisturbed(lm.model), torch.no_grad():
        groups = sampler.groups(0, list(enumerate(short[:CAPTURED] or [0])))
    return answered_prompts(lm, map(_extremes, groups), CAPTURED)


def _extremes(group: CompletionGroup) -> AnsweredPrompt:
    """Return a prompt with its best and its worst completion by reward, or without answers if rewards are equal."""
    ranked = sorted(
        (each for each in group.completions if math.isfinite(each.reward) and each.ids), key=lambda each: -each.reward
    )
    size = len(group.completions)
    if not ranked or ranked[0].reward == ranked[-1].reward:
        rewards = f"the reward {ranked[0].reward:.3g}" if ranked else "no reward"
        said = f"There are no answers: all {size} completions that the policy sampled before training have {rewards}."
        return AnsweredPrompt(group.prompt_ids, {}, said)
    best, worst = ranked[0], ranked[-1]
    return AnsweredPrompt(
        group.prompt_ids,
        {"best": best.ids, "worst": worst.ids},
        f"The answers are the best and the worst of {size} completions that the policy sampled before training"
        f" (rewards {best.reward:.3g} and {worst.reward:.3g}).",
    )
