"""PPO the slow way: one token at a time in plain Python numbers, from the definitions; nothing of trainers/ is used."""

import math
from collections.abc import Sequence

Row = list[float]


def rewards(logprobs: Row, reference: Row, score: float, beta: float) -> Row:
    """r_t = - beta (log pi - log pi_ref), the score on the last token."""
    found = []
    for t in range(len(logprobs)):
        found.append(-beta * (logprobs[t] - reference[t]))
        if t == len(logprobs) - 1:
            found[t] += score
    return found


def n_step(r: Row, values: Row, t: int, n: int, gamma: float) -> float:
    """A_t^(n): n rewards, then the value of the state that they lead to, which is 0 at the end."""
    total = 0.0
    for i in range(n):
        total += gamma**i * r[t + i]
    after = values[t + n] if t + n < len(values) else 0.0
    return total + gamma**n * after - values[t]


def advantages(r: Row, values: Row, gamma: float, lam: float) -> Row:
    """Generalised advantages as the exponentially weighted mean of the n-step ones (Schulman et al. 2016, eq. 16)."""
    found = []
    for t in range(len(r)):
        left = len(r) - t
        total = lam ** (left - 1) * n_step(r, values, t, left, gamma)
        for n in range(1, left):
            total += (1 - lam) * lam ** (n - 1) * n_step(r, values, t, n, gamma)
        found.append(total)
    return found


def whitened(rows: Sequence[Row]) -> list[Row]:
    """Mean 0 and variance 1 over all numbers of all rows."""
    flat = [x for row in rows for x in row]
    if len(flat) < 2:
        return [[0.0 for _ in row] for row in rows]
    mean = sum(flat) / len(flat)
    variance = sum((x - mean) ** 2 for x in flat) / (len(flat) - 1)
    return [[(x - mean) / math.sqrt(variance + 1e-8) for x in row] for row in rows]


def policy_loss(new: float, old: float, advantage: float, epsilon: float) -> tuple[float, bool]:
    """The loss of one token, and whether the clip is what counts."""
    ratio = math.exp(new - old)
    bounded = 1 + epsilon if ratio > 1 + epsilon else 1 - epsilon if ratio < 1 - epsilon else ratio
    free, clipped = -ratio * advantage, -bounded * advantage
    return (clipped, True) if clipped > free else (free, False)


def value_loss(new: float, old: float, target: float, epsilon: float) -> tuple[float, bool]:
    """The loss of one value, and whether the clip is what counts; epsilon 0 clips nothing."""
    free = (new - target) ** 2 / 2
    if epsilon == 0:
        return free, False
    bounded = old + epsilon if new > old + epsilon else old - epsilon if new < old - epsilon else new
    clipped = (bounded - target) ** 2 / 2
    return (clipped, True) if clipped > free else (free, False)
