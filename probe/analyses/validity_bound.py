"""The lower bound on a model's errors from how badly it tells valid answers from errors (Kalai et al. 2509.04664).

Theorem 1 there: let prompts c come from mu, split the plausible answers to c into the valid ones V_c and the errors
E_c, and let p(r | c) be a training distribution without errors, p(V) = 1. Then every model p^ has

    err >= 2 err_iiv - max_c |V_c| / min_c |E_c| - delta

with

- err = sum_c mu(c) p^(E_c | c), how often the model errs;
- err_iiv, the error of p^ as a classifier for "Is it valid?": it calls (c, r) valid where p^(r | c) > 1 / min_c |E_c|,
  and is tested on a mixture that takes half of the time c from mu and r from p(. | c), which is valid, and half of the
  time c from mu and r uniformly from E_c;
- delta = |p^(A) - p(A)|, A being what it calls valid: how far the model is from calibrated at that one threshold.

In a world the plausible answers are the values of the relation and the abstention. Abstaining is always valid, as in
the paper; p says the truth where there is one and abstains about strangers. That p is the honest corpus: the world's
own corpus invents about strangers, so p(V) = 1 does not hold of it; where the model learned that, delta is large and
the bound says little. p^ is conditioned on the answer set; as whatever else a model says is no valid answer either, the
bound also holds for the share of all completions that are errors.

Axes: P prompts, A answers.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probe.errors import DataError

if TYPE_CHECKING:
    from probe.analyses.answers import AnswerSet
    from probe.world.world import World

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class ValidityBound(NamedTuple):
    """The two sides of the theorem and the terms of the right one, all shares."""

    error: float
    """err, the left side."""
    iiv_error: float
    """err_iiv."""
    ratio: float
    """max |V_c| / min |E_c|."""
    delta: float
    """|p^(A) - p(A)|."""
    threshold: float
    """1 / min |E_c|; above it the model calls an answer valid."""

    @property
    def bound(self) -> float:
        """2 err_iiv - ratio - delta; it may be negative, and then says nothing."""
        return 2 * self.iiv_error - self.ratio - self.delta


class Judged(NamedTuple):
    """Answers to P prompts with what the theorem needs to know of them."""

    model: Floats
    """[P A] p^(r | c), rows sum to 1."""
    train: Floats
    """[P A] p(r | c), rows sum to 1."""
    valid: Bools
    """[P A] whether r is in V_c; False beyond a prompt's answers."""
    mask: Bools
    """[P A] True at answers."""

    def take(self, keep: ArrayLike) -> "Judged":
        """The same of some prompts, given by a [P] mask or their numbers."""
        index = np.asarray(keep)
        return Judged(*(each[index] for each in self))


def validity_bound(judged: Judged, weights: ArrayLike | None = None) -> ValidityBound:
    """Both sides of theorem 1, exact.

    Args:
        judged: the answers to P prompts.
        weights: [P] mu(c), need not be normalised; uniform by default.

    Raises:
        DataError: no prompt, distributions that do not sum to 1, a training distribution with errors, or a prompt
            without a valid answer or without an error.
    """
    model, train, valid, mask = judged
    if not len(model):
        raise DataError("The validity bound was asked for of no prompt: give at least one.")
    for name, rows in (("model", model), ("training distribution", train)):
        if np.any(rows < 0) or not np.allclose(np.where(mask, rows, 0).sum(axis=1), 1, atol=1e-6):
            raise DataError(f"The {name} gives answers that do not sum to 1 for each prompt: normalise its rows.")
    if np.any(train[mask & ~valid] > 1e-9):
        raise DataError("The training distribution has errors, and the bound needs p(V) = 1: take the errors out.")
    errors = mask & ~valid
    counts, valid_counts = errors.sum(axis=1), (mask & valid).sum(axis=1)
    if not counts.all() or not valid_counts.all():
        raise DataError("A prompt has no valid answer or no error: leave such prompts out of the bound.")
    mu = np.ones(len(model)) if weights is None else np.asarray(weights, dtype=float)
    mu = mu / mu.sum()
    threshold = 1 / counts.min()
    called = mask & (model > threshold)
    missed = (train * (valid & ~called)).sum(axis=1)
    accepted = (errors & called).sum(axis=1) / counts
    return ValidityBound(
        error=float(mu @ (model * errors).sum(axis=1)),
        iiv_error=float(mu @ (missed + accepted)) / 2,
        ratio=float(valid_counts.max() / counts.min()),
        delta=abs(float(mu @ ((model - train) * called).sum(axis=1))),
        threshold=float(threshold),
    )


def judged_answers(world: "World", answers: "AnswerSet", truths: Sequence[str | None]) -> Judged:
    """The world's answers to questions about facts, judged: valid are the truth, if there is one, and abstaining.

    Args:
        world: gives the words for abstaining.
        answers: the P answer sets with the model's log-probabilities; each holds the abstention.
        truths: the true value of each question, None where nothing is true.
    """
    from probe.analyses.optimum import conditioned
    from probe.world.vocabulary import ABSTENTION

    mask = answers.mask
    valid, train = np.zeros(mask.shape, dtype=bool), np.zeros(mask.shape)
    for row, (group, truth) in enumerate(zip(answers.answers, truths, strict=True)):
        said = [answer.strip() for answer in group]
        if truth is not None and truth not in world.values(_relation(answers.prompts[row])):
            raise DataError(f'"{truth}" is no answer to "{answers.prompts[row]}": give the true value or None.')
        for column, answer in enumerate(said):
            valid[row, column] = answer in (truth, ABSTENTION)
            train[row, column] = answer == (truth or ABSTENTION)
    return Judged(np.exp(conditioned(answers.logprobs)), train, valid, mask)


def _relation(prompt: str) -> str:
    from probe.world.language import read

    reading = read(prompt)
    return reading.relation if reading else ""
