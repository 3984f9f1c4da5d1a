"""Confidence of answers: calibration, scores under a confidence target, risk and coverage, semantic entropy.

The expected calibration error measures whether predicted probabilities match frequencies:

    ECE = sum over bins of (n_b / n) |mean prediction in b - mean target in b|,   bins of equal width

(Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599). It is biased upwards: with few items, bins deviate by chance
alone, and more so for a less confident model. Resampling adds the same bias again, so intervals come from the
percentile bootstrap, shifted until their median is the estimate. Two models are compared by the reliability part of the
Brier score without that bias,

    REL = sum over bins of (n_b / n) (d_b^2 - var(d_b)),   d_b = mean (prediction - target) in b

(Murphy 1973, J. Applied Meteorology 12:595; debiased as Kumar et al. 2019, arXiv 1909.10155). It is 0 on average for a
calibrated model, however sharp, and can be negative.

Semantic entropy is the entropy over meanings, with answers of the same meaning merged:

    SE(x) = - sum over meanings C of p(C | x) log p(C | x),   p(C | x) = sum of p(y | x) over answers y in C

in nats (Farquhar et al. 2024, Nature 630). In the world each meaning is one canonical answer, so SE is exact by
enumeration; all texts outside the answer set count as one further meaning. From M samples it is the discrete estimator
of the paper: p(C) is the share of the samples in C. It is biased downwards; `expected_discrete` computes its exact
mean. A configurable equivalence decides which samples mean the same; samples join the first cluster whose first member
they are equivalent to, as in the paper's algorithm.
"""

import re
import string
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr, expit

from probe import stats
from probe.errors import ConfigError, DataError, suggest
from probe.stats import SHARE, Interval, unvaried_interval

Floats = NDArray[np.float64]
BINS = 10
_CHUNK = 4_000_000  # counts held in memory at once


def reliability(predicted: ArrayLike, target: ArrayLike, bins: int = BINS) -> pd.DataFrame:
    """Return the reliability diagram: one row per bin that is not empty.

    Args:
        predicted: [N] probabilities.
        target: [N] outcomes (0 or 1), or their exact probabilities.
        bins: number of bins of equal width on [0, 1].

    Returns:
        Columns low, high (edges of the bin), predicted, target (means) and n.

    Raises:
        DataError: the lists differ in length, are empty, or contain values outside 0 to 1.
    """
    p, y = _shares(predicted, target)
    index = _bin(p, bins)
    rows = [
        {
            "low": b / bins,
            "high": (b + 1) / bins,
            "predicted": p[index == b].mean(),
            "target": y[index == b].mean(),
            "n": int((index == b).sum()),
        }
        for b in np.unique(index)
    ]
    return pd.DataFrame(rows)


def calibration_error(
    predicted: ArrayLike, target: ArrayLike, bins: int = BINS, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Return the expected calibration error of N probabilities, with its bootstrap interval (95 %).

    Arguments and errors as in `reliability`; `resamples` times N items are drawn with replacement.
    """
    p, y = _shares(predicted, target)
    return _interval(bin_gaps(p - y, p, bins), 1, resamples, seed)


def reliability_part(
    predicted: ArrayLike, target: ArrayLike, weights: Floats, units: ArrayLike | None = None
) -> Floats:
    """Compute [r] REL, the unbiased reliability part of the Brier score, of resamples; see the module.

    In a bin d_b^2 - var(d_b) is the mean product of the gaps of two different items, (S^2 - sum s^2) / (M^2 - sum m^2),
    s and m being the sums of the gaps and the counts of each unit, S and M those of all. Pairs within one unit, even
    one that is drawn twice, are excluded. A bin with a single unit counts as 0.

    Args:
        predicted: [N] probabilities.
        target: [N] outcomes (0 or 1), or their exact probabilities.
        weights: [r n] number of times each unit is drawn, in order of first appearance; one row of ones gives the
            estimate itself.
        units: [N] names of the sampling units; by default each item is a unit.
    """
    p, y = _shares(predicted, target)
    codes = np.arange(len(p)) if units is None else pd.factorize(np.asarray(units, dtype=object))[0]
    gaps, counts = np.zeros((codes.max() + 1, BINS)), np.zeros((codes.max() + 1, BINS))
    np.add.at(gaps, (codes, _bin(p, BINS)), p - y)
    np.add.at(counts, (codes, _bin(p, BINS)), 1.0)
    squares = weights**2
    total = weights @ counts
    pairs, products = total**2 - squares @ counts**2, (weights @ gaps) ** 2 - squares @ gaps**2
    found = np.where(pairs > 0, products / np.where(pairs > 0, pairs, 1), 0.0)
    return np.asarray((total * found).sum(axis=1) / total.sum(axis=1))


def bin_gaps(gaps: NDArray[np.float64], predicted: NDArray[np.float64], bins: int = BINS) -> NDArray[np.float64]:
    """Return [N bins] each of N gaps in the column of its prediction's bin, zeros elsewhere."""
    table = np.zeros((len(gaps), bins))
    table[np.arange(len(gaps)), _bin(predicted, bins)] = gaps
    return table


def chance_error(predicted: ArrayLike, draws: int = 1000, seed: int = 0) -> Interval:
    """Simulate the calibration error that a perfectly calibrated model shows with these N probabilities.

    Each answer is right with its own probability. The error is above 0, since N is finite, and larger for fewer items:
    a measured error is evidence of miscalibration only if it exceeds this one (Kumar et al. 2019, arXiv 1909.10155).

    Args:
        predicted: [N] probabilities.
        draws: number of simulations of the N items.
        seed: seed of the simulations.

    Returns:
        The mean, and bounds between which 95 % of the simulated errors lie; NaN bounds if all probabilities are 0 or 1,
        since the error is then exactly 0.
    """
    p, _ = _shares(predicted, predicted)
    inside = bin_gaps(np.ones(len(p)), p)
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // len(p))
    sizes = [min(rows, draws - done) for done in range(0, draws, rows)]
    gaps = np.concatenate([(p - (rng.random((size, len(p))) < p)) @ inside for size in sizes])
    errors = np.abs(gaps).sum(axis=1) / len(p)
    return stats.percentile(errors.mean(), errors, len(p))


def preference_calibration(
    margins: ArrayLike, target: ArrayLike | None = None, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Compute the calibration error of sigma(margin) as the probability that the chosen completion is preferred.

    Each pair counts in both orders, as p = sigma(m) with target q and as 1 - p with 1 - q, so that the order of its
    completions does not matter.

    Args:
        margins: [N] reward of the chosen completion minus that of the rejected one, nats.
        target: [N] probabilities that the chosen one is preferred, if known; by default 1, the choice itself.
        resamples: number of bootstrap resamples of the N pairs.
        seed: seed of the bootstrap.
    """
    m = np.asarray(margins, dtype=float)
    p, q = _shares(expit(m), np.ones_like(m) if target is None else target)
    return _interval(bin_gaps(p - q, p) + bin_gaps(q - p, 1 - p), 2, resamples, seed)


def _interval(gaps: NDArray[np.float64], sides: int, resamples: int, seed: int) -> Interval:
    """Compute the sum over bins of |sum of gaps [N bins]| / (N sides), with a bootstrap interval over items.

    The percentile interval is shifted so that the median of the draws equals the estimate.
    """
    n = len(gaps)
    rng, rows = np.random.default_rng(seed), max(1, _CHUNK // n)
    sizes = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    sums = np.concatenate([rng.multinomial(n, np.full(n, 1 / n), size=size) @ gaps for size in sizes])
    value = float(np.abs(gaps.sum(axis=0)).sum() / (n * sides))
    (lower, upper), drawn = stats.tails_of(stats.LEVEL), np.abs(sums).sum(axis=1) / (n * sides)
    low, middle, high = (float(each) for each in np.quantile(drawn, (lower, 0.5, upper)))
    ends = max(value + low - middle, SHARE[0]), min(value + high - middle, SHARE[1])
    return unvaried_interval(Interval(value, *ends), n, SHARE)


def _bin(p: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    return np.minimum((p * bins).astype(np.intp), bins - 1)


def _shares(predicted: ArrayLike, target: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = np.asarray(predicted, dtype=float), np.asarray(target, dtype=float)
    inside = all(bool(((values >= 0) & (values <= 1)).all()) for values in (p, y))
    if p.ndim != 1 or p.shape != y.shape or not p.size or not inside:
        raise DataError(
            "A calibration error needs two lists of the same length with numbers between 0 and 1, and got"
            f" {p.size} predictions and {y.size} targets: give one target for each prediction."
        )
    return p, y


TARGETS = tuple(step / 20 for step in range(19))
NAMED = (0.5, 0.75, 0.9)
"""Confidence targets that the paper proposes, with penalties of 1, 3 and 9."""
OUTCOMES = ("accuracy", "error", "abstention", "score")


def penalty(target: float) -> float:
    """Compute t / (1 - t), the cost of a wrong answer.

    Raises:
        ConfigError: t is not in [0, 1).
    """
    if not 0 <= target < 1:
        raise ConfigError(f"A confidence target of {target} was requested: give one from 0 to below 1.")
    return target / (1 - target)


def score(right: ArrayLike, wrong: ArrayLike, target: float) -> Floats:
    """Compute [N] scores under a target, from the probabilities (or zeros and ones) of right and wrong answers."""
    return np.asarray(right, dtype=float) - penalty(target) * np.asarray(wrong, dtype=float)


def answers_above(confidence: ArrayLike, right: ArrayLike, target: float) -> tuple[Floats, Floats]:
    """Return [N] right and [N] wrong answers, as zeros and ones, if the model answers only above confidence t.

    Args:
        confidence: [N] probability of the likeliest value.
        right: [N] whether that value is right.
        target: confidence target t.
    """
    sure, truth = np.asarray(confidence, dtype=float) > target, np.asarray(right, dtype=float)
    return sure * truth, sure * (1 - truth)


def target_curves(
    own_right: ArrayLike,
    own_wrong: ArrayLike,
    confidence: ArrayLike,
    right: ArrayLike,
    targets: Sequence[float] = TARGETS,
    units: ArrayLike | None = None,
) -> pd.DataFrame:
    """Compute accuracy, error, abstention and score by confidence target t.

    The instruction is "answer only if you are more than t confident". A right answer scores 1, a wrong one -t / (1 -
    t), abstaining 0: answering pays exactly if the probability of being right exceeds t (Kalai et al., arXiv
    2509.04664). t = 0 is the usual grading, which rewards any guess. Two policies are compared:

    - `own`: the model without an instruction abstains by itself;
    - `target`: it gives its likeliest value if this has a probability above t, and abstains otherwise. A calibrated
      model cannot do better than that.

    Args:
        own_right: [N] probabilities that the model is right without a confidence target.
        own_wrong: [N] probabilities that it is wrong.
        confidence: [N] probability of its likeliest value.
        right: [N] whether that value is right.
        targets: values of t.
        units: [N] names of the sampling units, see `probe.stats.bootstrap_mean`.

    Returns:
        Columns way, target, outcome, value, ci_low, ci_high, n; bootstrap intervals over the N items or their units.

    Raises:
        DataError: the lists differ in length.
    """
    lists = [np.asarray(each, dtype=float) for each in (own_right, own_wrong, confidence, right)]
    if len({len(each) for each in lists}) != 1:
        raise DataError(
            f"The lists for confidence targets have {[len(each) for each in lists]} items: give lists of the same"
            " length."
        )
    rows = []
    for target in targets:
        rules = {"own": (lists[0], lists[1]), "target": answers_above(lists[2], lists[3], target)}
        for rule, (hit, miss) in rules.items():
            values = hit, miss, 1 - hit - miss, score(hit, miss, target)
            for outcome, column in zip(OUTCOMES, values, strict=True):
                bounds = (-target / (1 - target), 1.0) if outcome == OUTCOMES[-1] else stats.SHARE
                mean = stats.bootstrap_mean(column, bounds=bounds, units=units)
                rows.append({"way": rule, "target": target, "outcome": outcome, **mean.row(len(column))})
    return pd.DataFrame(rows)


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """Compute P(a positive item scores above a negative one), counting ties as half; NaN if a class is empty.

    Args:
        score: [N] scores.
        positive: [N] labels, zeros and ones.
    """
    values, labels = _flat(score, positive)
    ones = int(labels.sum())
    if ones in (0, len(labels)):
        return float("nan")
    ranks = _ranks(values)
    return float((ranks[labels == 1].sum() - ones * (ones + 1) / 2) / (ones * (len(labels) - ones)))


def aurocs(score: ArrayLike, positive: ArrayLike, weights: Floats) -> Floats:
    """Compute [r] `auroc` of resamples; weights [r N] are the numbers of times that each item is drawn."""
    values, labels = _flat(score, positive)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))
    drawn = weights[:, order]
    ones = np.add.reduceat(drawn * labels[order], starts, axis=1)  # of each value
    zeros = np.add.reduceat(drawn, starts, axis=1) - ones
    wins = (ones * (np.cumsum(zeros, axis=1) - zeros / 2)).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(wins / (ones.sum(axis=1) * zeros.sum(axis=1)))


def aurcs(confidence: ArrayLike, wrong: ArrayLike, weights: Floats) -> Floats:
    """Compute [r] `aurc` of resamples; weights [r N] are the numbers of times that each item is drawn.

    Among c items of one confidence with mean error m, after k items with e errors, the risks are (e + m j) / (k + j)
    for j from 1 to c; their sum is c m + (e - m k) (H(k + c) - H(k)), with harmonic numbers H.
    """
    values, errors = _flat(confidence, wrong)
    order = np.argsort(-values, kind="stable")
    starts = np.flatnonzero(np.diff(-values[order], prepend=-np.inf))
    drawn = weights[:, order]
    count = np.add.reduceat(drawn, starts, axis=1)
    failed = np.add.reduceat(drawn * errors[order], starts, axis=1)
    k, e = np.cumsum(count, axis=1) - count, np.cumsum(failed, axis=1) - failed
    mean = failed / np.maximum(count, 1)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, int(weights.sum(axis=1).max()) + 1))])
    span = harmonic[(k + count).astype(np.intp)] - harmonic[k.astype(np.intp)]
    return np.asarray((failed + (e - mean * k) * span).sum(axis=1) / weights.sum(axis=1))


def risk_coverage(confidence: ArrayLike, wrong: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the risk-coverage curve: the share of errors among the k most confident items, k = 1 to N.

    See El-Yaniv and Wiener (2010). Items of equal confidence get their mean error, which gives the expected curve over
    all orders of ties.

    Args:
        confidence: [N] confidence of the model.
        wrong: [N] errors, zeros and ones.

    Returns:
        [N] coverage k / N and [N] risk.
    """
    values, errors = _flat(confidence, wrong)
    order = np.argsort(-values, kind="stable")
    values, errors = values[order], errors[order]
    _, group, counts = np.unique(-values, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=errors) / counts
    k = np.arange(1, len(values) + 1)
    return k / len(values), np.cumsum(mean[group]) / k


def aurc(confidence: ArrayLike, wrong: ArrayLike) -> float:
    """Compute the area under the risk-coverage curve: the mean of its N points; lower is better.

    See Geifman and El-Yaniv (2017). For an uninformative confidence it equals the error rate.
    """
    return float(risk_coverage(confidence, wrong)[1].mean())


def risk_table(
    confidence: ArrayLike, wrong: ArrayLike, points: int = 50, units: ArrayLike | None = None
) -> pd.DataFrame:
    """Return the risk-coverage curve at `points` coverages, with bootstrap intervals over items.

    The columns are coverage, value, ci_low, ci_high and n.

    The intervals are pointwise. At coverage x the value is the risk of the x N most confident items. With `units`, [N]
    names of the sampling units, whole units are resampled.
    """
    values, errors = _flat(confidence, wrong)
    n = len(values)
    at = np.unique(np.ceil(np.linspace(1 / points, 1, points) * n).astype(int)) - 1
    coverage, risk = risk_coverage(values, errors)
    members = stats.group(pd.Series(np.arange(n) if units is None else np.asarray(units, dtype=object)))

    def drawn(resamples: NDArray[np.int64]) -> list[Floats]:
        risks = []
        for chosen in resamples:
            rows = np.concatenate([members[unit] for unit in chosen])
            found = risk_coverage(values[rows], errors[rows])[1]
            risks.append(found[np.ceil((at + 1) / n * len(found) - 1e-9).astype(int) - 1])
        return risks

    risks, most = stats.resample(drawn, len(members), 200, 0), len(members)
    counts = (min(i + 1, most) for i in at)
    intervals = [stats.percentile(risk[i], r, count, SHARE) for i, r, count in zip(at, risks.T, counts, strict=True)]
    return pd.DataFrame([{"coverage": coverage[i], **each.row(i + 1)} for i, each in zip(at, intervals, strict=True)])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute ranks from 1, averaging ties."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def _flat(score: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, marks = np.asarray(score, dtype=float), np.asarray(labels, dtype=float)
    if values.ndim != 1 or values.shape != marks.shape or not len(values) or not np.isin(marks, (0, 1)).all():
        raise DataError(
            f"{values.size} scores came with {marks.size} labels: give two lists of the same length, with labels 0"
            " or 1."
        )
    return values, marks


Equivalence = Callable[[str, str], bool]
"""Function that tells whether two answers mean the same."""


def normalise(text: str) -> str:
    """Normalise a text: lower case, no punctuation, articles or extra spaces (Rajpurkar et al. 2016, SQuAD)."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def same_text(a: str, b: str) -> bool:
    """Return whether two texts are equal after `normalise`."""
    return normalise(a) == normalise(b)


def identical(a: str, b: str) -> bool:
    """Return whether two texts are equal except for surrounding white space."""
    return a.strip() == b.strip()


EQUIVALENCES: dict[str, Equivalence] = {"normalised": same_text, "exact": identical}
"""Equivalences by name; add your own, for instance one with an entailment model."""


def equivalence(name: str) -> Equivalence:
    """Return the equivalence with a name.

    Raises:
        ConfigError: no equivalence has this name.
    """
    if name not in EQUIVALENCES:
        remedy = suggest(name, EQUIVALENCES, "name one, or add yours to EQUIVALENCES.")
        raise ConfigError(f"There is no equivalence `{name}`, only {', '.join(EQUIVALENCES)}: {remedy}")
    return EQUIVALENCES[name]


def clusters(texts: Sequence[str], equivalent: Equivalence = same_text) -> list[int]:
    """Assign each of M texts to a cluster, numbered from 0 in order of appearance."""
    heads: list[str] = []
    assignment = []
    for text in texts:
        index = next((i for i, head in enumerate(heads) if equivalent(head, text)), len(heads))
        if index == len(heads):
            heads.append(text)
        assignment.append(index)
    return assignment


def discrete_entropy(labels: Sequence[int]) -> float:
    """Return the discrete estimator in nats: the entropy of the shares of the clusters among M samples.

    Raises:
        DataError: there are no samples.
    """
    if not len(labels):
        raise DataError("Semantic entropy needs samples and got none: draw at least one.")
    counts = np.unique(np.asarray(labels), return_counts=True)[1]
    return float(entr(counts / counts.sum()).sum())


def expected_discrete(probabilities: ArrayLike, samples: int) -> float:
    """Compute the exact mean of the discrete estimator.

    The sum over clusters and counts k of Bin(k; M, p) h(k / M), with h(q) = - q log q.

    Args:
        probabilities: [C] exact probabilities of the clusters.
        samples: number of samples M.
    """
    from scipy.stats import binom

    counts = np.arange(samples + 1)
    chances = binom.pmf(counts, samples, np.asarray(probabilities, dtype=float)[:, None])
    return float((chances @ entr(counts / samples)).sum())


def with_rest(logprobs: ArrayLike) -> NDArray[np.float64]:
    """Return [P A + 1] probabilities of the answers and, last, of all other texts, from [P A] log-probabilities."""
    p = np.exp(np.asarray(logprobs, dtype=float))
    return np.concatenate([p, np.clip(1 - p.sum(axis=1, keepdims=True), 0, 1)], axis=1)


def exact_entropy(logprobs: ArrayLike) -> NDArray[np.float64]:
    """Compute [P] the exact semantic entropy in nats of canonical answers; see `with_rest`."""
    return entr(with_rest(logprobs)).sum(axis=1)


def agreement(samples: Sequence[str], main: str, equivalent: Equivalence = same_text) -> float:
    """Compute the share of M sampled answers that are equivalent to the main answer (SelfCheck).

    See Manakul et al. (2303.08896). Its expectation is the model's probability of the main answer's meaning; 1 is full
    agreement.
    """
    return float(np.mean([equivalent(main, sample) for sample in samples]))
