"""Semantic entropy: the entropy of what is said, answers of one meaning taken together, and agreement among samples.

    SE(x) = - sum over meanings C of p(C | x) log p(C | x),   p(C | x) = sum of p(y | x) over answers y in C

in nats (Farquhar et al. 2024, Nature 630). In the world each meaning is one canonical answer, so SE is exact by
enumeration; whatever is no answer of the set counts as one further meaning. From M samples it is the discrete estimator
of the paper: p(C) is the share of the samples in C. That is biased downwards, by how much `expected_discrete` says
exactly. Which samples mean the same is decided by a pluggable equivalence; samples join the first cluster whose first
member they are equivalent to, as in the paper's algorithm.
"""

import re
import string
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from probe.errors import ConfigError, DataError

Equivalence = Callable[[str, str], bool]
"""Whether two answers mean the same."""


def normalised(text: str) -> str:
    """`text` in lower case without punctuation, English articles and extra blanks (Rajpurkar et al. 2016, SQuAD)."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def same_text(a: str, b: str) -> bool:
    """Equal once normalised."""
    return normalised(a) == normalised(b)


def identical(a: str, b: str) -> bool:
    """Equal but for blanks at the ends."""
    return a.strip() == b.strip()


EQUIVALENCES: dict[str, Equivalence] = {"normalised": same_text, "exact": identical}
"""By name; add your own, for instance one that asks an entailment model."""


def equivalence(name: str) -> Equivalence:
    """The equivalence of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EQUIVALENCES:
        known = ", ".join(EQUIVALENCES)
        raise ConfigError(f"There is no equivalence `{name}`, only {known}: name one, or add yours to EQUIVALENCES.")
    return EQUIVALENCES[name]


def clusters(texts: Sequence[str], equivalent: Equivalence = same_text) -> list[int]:
    """The cluster of each of M texts, numbered from 0 in order of appearance."""
    heads: list[str] = []
    found = []
    for text in texts:
        index = next((i for i, head in enumerate(heads) if equivalent(head, text)), len(heads))
        if index == len(heads):
            heads.append(text)
        found.append(index)
    return found


def discrete_entropy(labels: Sequence[int]) -> float:
    """The discrete estimator in nats: the entropy of the shares of the clusters among M samples.

    Raises:
        DataError: no sample.
    """
    if not len(labels):
        raise DataError("Semantic entropy was asked for of no sample: draw at least one.")
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return float(entr(counts / counts.sum()).sum())


def expected_discrete(probabilities: ArrayLike, samples: int) -> float:
    """What the discrete estimator gives on average, exactly.

    The sum over clusters and counts k of Bin(k; M, p) h(k / M), with h(q) = - q log q.

    Args:
        probabilities: [C] exact probabilities of the clusters.
        samples: M.
    """
    from scipy.stats import binom

    counts = np.arange(samples + 1)
    chances = binom.pmf(counts, samples, np.asarray(probabilities, dtype=float)[:, None])
    return float((chances @ entr(counts / samples)).sum())


def with_rest(logprobs: ArrayLike) -> NDArray[np.float64]:
    """[P A + 1] probabilities of the answers and, last, of everything else, from [P A] log-probabilities."""
    p = np.exp(np.asarray(logprobs, dtype=float))
    return np.concatenate([p, np.clip(1 - p.sum(axis=1, keepdims=True), 0, 1)], axis=1)


def exact_entropy(logprobs: ArrayLike) -> NDArray[np.float64]:
    """[P] semantic entropy in nats of answers that are canonical, exact; see `with_rest`."""
    return entr(with_rest(logprobs)).sum(axis=1)


def agreement(samples: Sequence[str], main: str, equivalent: Equivalence = same_text) -> float:
    """SelfCheck: the share of M sampled answers that say the same as the main answer (Manakul et al. 2303.08896).

    Its expectation is the model's probability of the main answer's meaning. 1 is full agreement.
    """
    return float(np.mean([equivalent(main, sample) for sample in samples]))
