"""Signs of trouble in a step that samples: a gap between sampler and trainer, repetition, rewards that follow length.

A sampler and a trainer with the same weights compute the same log-probabilities up to rounding. They differ if the
sampler has stale weights, another temperature, other number formats or kernels; then the samples are not those of the
policy that is trained. The ratio pi_trainer / pi_sampler of a token is 1 without a gap.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

NGRAM = 4
"""Number of tokens in a row that completions are compared by."""


def gap_metrics(log_ratios: Float[Tensor, " M"]) -> dict[str, float]:
    """Return the gap between sampler and trainer over M tokens (docs/metrics.md); empty without tokens.

    Args:
        log_ratios: log pi_trainer - log pi_sampler of each sampled token, nats.
    """
    if not len(log_ratios):
        return {}
    values = log_ratios.double()
    differences, ratios = values.abs(), values.exp()
    scaled = (values - values.max()).exp()
    return {
        "sampling/sampling_logp_difference/mean": float(differences.mean()),
        "sampling/sampling_logp_difference/max": float(differences.max()),
        "sampling/importance_sampling_ratio/min": float(ratios.min()),
        "sampling/importance_sampling_ratio/mean": float(ratios.mean()),
        "sampling/importance_sampling_ratio/max": float(ratios.max()),
        "sampling/effective_sample_size": float(scaled.sum() ** 2 / (len(values) * scaled.square().sum())),
    }


def group_metrics(groups: Sequence[Sequence[Sequence[int]]], rewards: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return repetition within groups and over the step, and the correlation of reward and length (docs/metrics.md).

    Args:
        groups: for each prompt the token ids of its completions.
        rewards: reward of each completion; those without one (NaN) are left out of the correlation.
    """
    distinct = [len(set(map(tuple, group))) / len(group) for group in groups]
    return {
        "completions/distinct_ratio": sum(distinct) / len(distinct),
        "completions/shared_4gram_ratio": shared_ngram([ids for group in groups for ids in group]),
        "completions/reward_length_correlation": reward_length_correlation(groups, rewards),
    }


def entropy_by_position(entropies: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return the mean entropy at the first token, and in the first and the last quarter of the completions.

    A quarter of L tokens has L / 4 of them, rounded up. Means are over tokens; without any there are none.

    Args:
        entropies: for each completion the entropy in nats of the distribution that each token was drawn from.
    """
    parts = {
        "first_token": [row[:1] for row in entropies],
        "first_quarter": [row[: math.ceil(len(row) / 4)] for row in entropies],
        "last_quarter": [row[len(row) - math.ceil(len(row) / 4) :] for row in entropies],
    }
    sums = {name: (sum(map(math.fsum, rows)), sum(map(len, rows))) for name, rows in parts.items()}
    return {f"entropy/{name}": total / count for name, (total, count) in sums.items() if count}


def shared_ngram(completions: Sequence[Sequence[int]]) -> float:
    """Return the share of completions that hold the n-gram of `NGRAM` tokens that most of them hold."""
    counts: Counter[tuple[int, ...]] = Counter()
    for ids in completions:
        counts.update(set(zip(*(ids[i:] for i in range(NGRAM)), strict=False)))
    return max(counts.values(), default=0) / len(completions)


def reward_length_correlation(groups: Sequence[Sequence[Sequence[int]]], rewards: Sequence[Sequence[float]]) -> float:
    """Return the correlation of reward and number of tokens, both less the mean of their group.

    It is NaN if either is constant within every group.
    """
    parts = list[np.ndarray]()
    for group, row in zip(groups, rewards, strict=True):
        both = np.array([list(row), [len(ids) for ids in group]], dtype=np.float64)
        both = both[:, ~np.isnan(both[0])]
        if both.size:
            parts.append((both - both.mean(1, keepdims=True)) * (np.ptp(both, axis=1, keepdims=True) > 0))
    if not parts:
        return math.nan
    centred = np.concatenate(parts, axis=1)
    scale = math.sqrt(np.prod(np.square(centred).sum(1)))
    return float(np.prod(centred, axis=0).sum() / scale) if scale else math.nan
