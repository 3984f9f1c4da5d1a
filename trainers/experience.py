"""What PPO learns from: sampled groups with the values, rewards, advantages and returns of every token (E11).

Log-probabilities and values of the policy that sampled come from one pass of the same kind as the loss makes, so that
the ratio of the first update is 1 up to rounding. Each process does its share and all exchange what they found:
advantages are whitened over the tokens of the whole step, however many processes and parts it is run in. All of this
is computed in double precision.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase

from probe.model.scoring import completion_logprobs
from trainers.advantages import gae, token_rewards, whiten
from trainers.heads import Headed
from trainers.rollout import Completion, Group, padded, rollout_rows
from trainers.session import Session

if TYPE_CHECKING:
    from trainers.config import RLHFConfig

CPU = torch.device("cpu")
Rows = list[list[float]]


@dataclass(frozen=True)
class Trace:
    """What a completion of L tokens taught; all lists are [L]."""

    score: float
    """Its reward less the penalty for a missing end token; NaN where no reward applies."""
    logprobs: list[float]
    """log pi under the policy that sampled, nats."""
    values: list[float]
    """V_t of that policy: the value of the state before the token."""
    kl: list[float]
    """log pi - log pi_ref, nats."""
    rewards: list[float]
    """r_t."""
    advantages: list[float]
    """A_t, whitened."""
    returns: list[float]
    """A_t + V_t of the advantages before whitening."""

    @property
    def counts(self) -> bool:
        """Whether the completion has a reward; one without is left out of everything."""
        return not math.isnan(self.score)


class Example(NamedTuple):
    """A group with a trace of each completion."""

    group: Group
    traces: list[Trace]


class Collector:
    """Turns the groups of a step into examples."""

    def __init__(self, session: Session, module: Headed, config: "RLHFConfig") -> None:
        self.session, self.module, self.config = session, module, config

    def collect(self, groups: Sequence[Group], beta: float) -> list[Example]:
        """The examples of all groups, equal on every process; dropout is off."""
        self.module.eval()
        found: list[tuple[Rows, Rows]] = []
        for part in self.session.parts(groups):
            found += self._read(part)
        read: list[tuple[Rows, Rows]] = gather_object(found) if self.session.processes > 1 else found
        logprobs, values = ([row for pair in read for row in pair[i]] for i in (0, 1))
        traces = iter(learn([c for g in groups for c in g.completions], logprobs, values, beta, self.config))
        return [Example(group, [next(traces) for _ in group.completions]) for group in groups]

    @torch.no_grad()
    def _read(self, groups: Sequence[Group]) -> list[tuple[Rows, Rows]]:
        """Log-probabilities and values of the tokens of each completion of each group."""
        with self.session.autocast():
            scored = completion_logprobs(
                self.module.model,
                [group.prompt_ids for group in groups],
                [[completion.ids for completion in group.completions] for group in groups],
                temperature=self.config.temperature,
                readout=self.module.head,
            )
        assert scored.readout is not None
        rows = zip(scored.values.tolist(), scored.readout.tolist(), strict=True)
        cut = [
            [(a[: len(c.ids)], b[: len(c.ids)]) for c, (a, b) in zip(g.completions, rows, strict=False)] for g in groups
        ]
        return [([a for a, _ in group], [b for _, b in group]) for group in cut]


def learn(
    completions: Sequence[Completion], logprobs: Rows, values: Rows, beta: float, config: "RLHFConfig"
) -> list[Trace]:
    """A trace of each completion, from what the policy that sampled says of its tokens."""
    scores = [c.reward - config.missing_eos_penalty * (not c.finished) for c in completions]
    known = torch.tensor([not math.isnan(score) for score in scores])[:, None]
    old, reference, predicted = (
        padded(rows, CPU, torch.float64) for rows in (logprobs, [c.ref_logprobs or [] for c in completions], values)
    )
    lengths = torch.tensor([len(c.ids) for c in completions])
    mask = torch.arange(old.shape[1]) < lengths[:, None]
    drift = (old - reference).where(mask, 0)
    rewards = token_rewards(drift, torch.tensor(scores, dtype=torch.float64).nan_to_num(), mask, beta)
    advantages, returns = gae(rewards, predicted, mask, config.gamma, config.lam)
    tables = (old, predicted, drift, rewards, whiten(advantages, mask & known), returns)
    cut = [[row[:n] for row, n in zip(table.tolist(), lengths.tolist(), strict=True)] for table in tables]
    return [Trace(score, *rows) for score, rows in zip(scores, zip(*cut, strict=True), strict=True)]


def objective_metrics(examples: Sequence[Example]) -> dict[str, float]:
    """What is maximised, as means over the completions that have a reward (docs/metrics.md)."""
    pairs = [(c, t) for e in examples for c, t in zip(e.group.completions, e.traces, strict=True) if t.counts]
    n = max(len(pairs), 1)
    total = {
        "objective/kl": sum(math.fsum(trace.kl) for _, trace in pairs),
        "objective/entropy": sum(math.fsum(completion.entropy) for completion, _ in pairs),
        "objective/scores": sum(trace.score for _, trace in pairs),
        "objective/rlhf_reward": sum(math.fsum(trace.rewards) for _, trace in pairs),
    }
    found = {name: value / n for name, value in total.items()}
    found["objective/non_score_reward"] = found["objective/rlhf_reward"] - found["objective/scores"]
    return found | {"val/explained_variance": explained_variance([trace for _, trace in pairs])}


def explained_variance(traces: Sequence[Trace]) -> float:
    """1 - Var(return - value) / Var(return) over tokens: 1 for perfect values, 0 for a constant, NaN without spread."""
    returns = torch.tensor([value for trace in traces for value in trace.returns], dtype=torch.float64)
    values = torch.tensor([value for trace in traces for value in trace.values], dtype=torch.float64)
    if len(returns) < 2 or returns.max() == returns.min():
        return math.nan
    return 1 - float((returns - values).var() / returns.var())


def trace_rows(
    step: int, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, kept: int
) -> list[Mapping[str, Any]]:
    """The completions of the first `kept` groups as rows of rollouts.jsonl, with what each token was worth."""
    groups, advantages = [e.group for e in examples], [[t.advantages for t in e.traces] for e in examples]
    rows = rollout_rows(step, groups, advantages, tokenizer, kept)
    traces = [trace for example in examples[:kept] for trace in example.traces]
    return [
        {**row, "values": trace.values, "token_rewards": trace.rewards, "returns": trace.returns, "kl": trace.kl}
        for row, trace in zip(rows, traces, strict=True)
    ]
