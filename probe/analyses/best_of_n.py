"""The exact distribution of the best of N samples on finite answer sets (E14): what rejection sampling imitates.

N answers are drawn from the reference and the one of highest reward is kept; among equal rewards the first drawn. By
symmetry the answers of one level of reward keep the reference's proportions, so only the level has to be followed:

    P(best level = r) = F(r)^N - F(below r)^N,   F the distribution of the reward under the reference.

Its KL to the reference is below log N - (N-1)/N, with equality only where no two answers tie (Beirami et al.
2401.01879). Axes: P prompts, A answers (-inf log-probability beyond a prompt's answers).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import rel_entr

from probe.analyses.answers import Array
from probe.analyses.optimum import checked, expectation, kl, kl_to_optimal
from probe.errors import ConfigError


def best_of_n(ref_logprobs: Array, rewards: Array, n: int) -> Array:
    """[P A] log-probabilities of the best of `n` draws from the reference.

    Args:
        ref_logprobs: [P A] log-probabilities of the answers under the reference; they need not be normalised.
        rewards: [P A].
        n: draws, at least 1.

    Raises:
        ConfigError: `n` is below 1.
        DataError: see `probe.analyses.optimum.optimum`.
    """
    if n < 1:
        raise ConfigError(f"The best of {n} samples does not exist: give 1 or more.")
    ref, rewards = checked(ref_logprobs, rewards)
    probabilities = np.exp(ref)
    higher = rewards[:, None, :] > rewards[:, :, None]
    equal = rewards[:, None, :] == rewards[:, :, None]
    above = np.where(higher, probabilities[:, None, :], 0.0).sum(axis=2)
    level = np.where(equal, probabilities[:, None, :], 0.0).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        upto = n * np.log1p(-np.minimum(above, 1.0))
        # what is left below the level, as a share of what is left up to it
        below = n * np.log1p(-np.minimum(level / (1.0 - above), 1.0))
        chosen = ref - np.log(level) + upto + np.log(-np.expm1(below))
    return np.where(np.isfinite(ref) & (level > 0), chosen, -np.inf)


def best_of_n_bound(n: int) -> float:
    """log N - (N-1)/N: the most that KL(best of N || reference) can be, in nats."""
    return float(np.log(n) - (n - 1) / n)


def binary_best_of_n_kl(p: Array | float, n: int) -> Array:
    """KL(best of N || reference) for a reward of two values, the higher one at rate `p` under the reference.

    q log(q/p) + (1-q) log((1-q)/(1-p)) with q = 1 - (1-p)^N, in nats (METRICS, details that decide correctness).
    """
    p = np.asarray(p, dtype=float)
    with np.errstate(divide="ignore"):
        q = -np.expm1(n * np.log1p(-p))
    return rel_entr(q, p) + rel_entr((1 - p) ** n, 1 - p)


def best_of_n_table(ref_logprobs: Array, rewards: Array, ns: Sequence[int] = (1, 2, 4, 8, 16, 32, 64)) -> pd.DataFrame:
    """The best of N against the reference and against the frontier, one N a row, means over the prompts.

    Returns:
        Columns n, reward, kl (to the reference), bound, kl_to_optimal (to the nearest point of the frontier), beta.
    """
    ref, rewards = checked(ref_logprobs, rewards)
    rows = []
    for n in ns:
        policy = best_of_n(ref, rewards, n)
        distance = kl_to_optimal(policy, ref, rewards)
        rows.append(
            {
                "n": n,
                "reward": float(expectation(policy, rewards).mean()),
                "kl": float(kl(policy, ref).mean()),
                "bound": best_of_n_bound(n),
                "kl_to_optimal": distance.mean,
                "beta": distance.beta,
            }
        )
    return pd.DataFrame(rows)
