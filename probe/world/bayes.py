"""Bayes-optimal predictors in closed form: claims of known reliability, Markov chains, and functions mod p."""

from collections.abc import Sequence

import numpy as np


def claim_posterior(prior: Sequence[float] | np.ndarray, claim: int, reliability: float) -> np.ndarray:
    """Return the belief after a claim that is true with probability `reliability`.

    A false claim is any other value with equal probability. P(v | claim) is proportional to prior(v) * (reliability if
    v = claim else (1 - reliability) / (V - 1)).

    Args:
        prior: [V] belief before the claim, not necessarily normalised.
        claim: index of the claimed value.
        reliability: probability that such a claim is true.

    Returns:
        [V] probabilities (METRICS, excess deference; E19).
    """
    belief = np.asarray(prior, dtype=float)
    likelihood = np.full(len(belief), (1 - reliability) / (len(belief) - 1))
    likelihood[claim] = reliability
    joint = belief * likelihood
    return joint / joint.sum()


def exposure_prior(exposure: int, values: int, truth: int | None) -> np.ndarray:
    """Return a learner's belief about a fact after `exposure` statements: Dirichlet(1 / V) over the stated values.

    (count(v) + 1 / V) / (exposure + 1): uniform for an unseen entity, and increasingly certain of the truth with
    exposure. [V].
    """
    counts = np.full(values, 1 / values)
    if truth is not None:
        counts[truth] += exposure
    return counts / counts.sum()


def markov_predictive(states: Sequence[int], K: int, order: int, alpha: float = 1.0) -> np.ndarray:
    """Return the Bayes predictive P(x_t | x_<t), for every t, of a chain whose rows have a Dirichlet(alpha) prior.

    (count(context, x) + alpha) / (count(context) + K alpha), with the context x_{t-order..t-1}; order 0 is the unigram
    predictor, 1 the bigram. The first `order` states are uniform.

    Returns:
        [T + 1, K]: row t is the prediction of state t, the last row that of the next state.
    """
    size = K**order
    counts = np.full((size, K), float(alpha))
    predictions = np.full((len(states) + 1, K), 1 / K)
    context = 0
    for t, state in enumerate(states):
        if t >= order:
            predictions[t] = counts[context] / counts[context].sum()
            counts[context, state] += 1
        context = (context * K + state) % size
    if len(states) >= order:
        predictions[-1] = counts[context] / counts[context].sum()
    return predictions


def markov_frequencies(states: Sequence[int], K: int, order: int) -> np.ndarray:
    """Return the n-gram frequencies in the layout of `markov_predictive`, [T + 1, K].

    They are uniform where the context has not been seen.
    """
    size = K**order
    counts = np.zeros((size, K))
    predictions = np.full((len(states) + 1, K), 1 / K)
    context = 0
    for t in range(len(states) + 1):
        if t >= order and counts[context].sum() > 0:
            predictions[t] = counts[context] / counts[context].sum()
        if t < len(states):
            if t >= order:
                counts[context, states[t]] += 1
            context = (context * K + states[t]) % size
    return predictions


def markov_mixture(states: Sequence[int], K: int, orders: Sequence[int], alpha: float = 1.0) -> np.ndarray:
    """Return the Bayes predictive [T + 1, K] for an unknown order, with a uniform prior over `orders`.

    It averages the predictives of the orders, weighted by the posterior of each order given the states so far.
    """
    predictions = np.stack([markov_predictive(states, K, order, alpha) for order in orders])
    logprobs = np.log(predictions[:, np.arange(len(states)), list(states)])
    evidence = np.concatenate([np.zeros((len(orders), 1)), np.cumsum(logprobs, axis=1)], axis=1)
    weights = np.exp(evidence - evidence.max(axis=0))
    weights /= weights.sum(axis=0)
    return np.einsum("ot,otk->tk", weights, predictions)


def consistent(xs: Sequence[int], ys: Sequence[int], p: int, tasks: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the tasks (a, b) that satisfy y = (a x + b) mod p at every example."""
    return [(a, b) for a, b in tasks if all((a * x + b) % p == y for x, y in zip(xs, ys, strict=True))]


def function_predictive(
    xs: Sequence[int], ys: Sequence[int], query: int, p: int, tasks: Sequence[tuple[int, int]]
) -> np.ndarray:
    """Return the Bayes predictive of y at `query`, with a uniform prior over `tasks`; [p].

    With the pool as `tasks` it is the predictor that the corpus teaches, with all tasks the one that generalises
    (Raventos et al. 2023). It is uniform if no task fits the examples.
    """
    fits = consistent(xs, ys, p, tasks)
    if not fits:
        return np.full(p, 1 / p)
    values = [(a * query + b) % p for a, b in fits]
    return np.bincount(values, minlength=p) / len(fits)
