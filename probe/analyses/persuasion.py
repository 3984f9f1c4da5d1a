"""How far a context moves the answers to a question (Du et al. 2024, 2404.04633).

    psi(c, q) = KL( p(. | c, q) || p(. | q) )  in nats,

over the finite set of answers, both distributions conditioned on it; exact by enumeration. Here p(. | q) is what the
model says without any context (METRICS, Retrieval), where Du et al. average over contexts.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.analyses.optimum import conditioned, kl
from probe.errors import DataError


def persuasion(with_context: ArrayLike, without: ArrayLike) -> NDArray[np.float64]:
    """[P] persuasion scores in nats.

    Args:
        with_context: [P A] log-probabilities of the answers after context and question, as they are.
        without: [P A] of the same answers after the question alone.

    Raises:
        DataError: the shapes differ.
    """
    after, before = (np.atleast_2d(np.asarray(each, dtype=float)) for each in (with_context, without))
    if after.shape != before.shape:
        raise DataError(
            f"Persuasion compares answers of the shapes {after.shape} and {before.shape}: give the same answers twice."
        )
    return kl(conditioned(after), conditioned(before))
