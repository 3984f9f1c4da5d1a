"""What the summary of the experiment `hallucination` holds; every name is explained in docs/experiments.md."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from probe.analyses.calibration import BINS, calibration_error, chance_error
from probe.analyses.confidence_targets import NAMED
from probe.analyses.selective import aurc, auroc
from probe.experiments.metrics import Mean, Metric, Share, Statistic
from probe.stats import SHARE, Bounds, Interval, between, unvaried

RESAMPLES = 1000


@dataclass(frozen=True)
class CalibrationError(Metric):
    """Expected calibration error of the columns `confidence` and `right` (see `probe.analyses.calibration`)."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Probabilities, and zeros and ones."""
        return ("confidence", "right")

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """With the interval of `calibration_error`, which is shifted against the bias of resampling."""
        return calibration_error(rows["confidence"], rows["right"], seed=seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """Items drawn together; the interval is shifted until its median is the difference."""
        ours, theirs = _gaps(rows), _gaps(others)
        n = len(rows)
        value = float(np.abs(ours.sum(0)).sum() - np.abs(theirs.sum(0)).sum()) / n
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        drawn = (np.abs(counts @ ours).sum(1) - np.abs(counts @ theirs).sum(1)) / n
        low, middle, high = np.quantile(drawn, [0.025, 0.5, 0.975])
        found = Interval(value, float(value + low - middle), float(value + high - middle))
        return unvaried(found, n, between(SHARE))


@dataclass(frozen=True)
class ChanceError(Metric):
    """What `CalibrationError` would be of a perfectly calibrated model with the same confidences.

    The ends are no confidence interval: between them lie 95 % of what such models show.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """As `CalibrationError`, so that both are of the same items; who was right is not read."""
        return ("confidence", "right")

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """See `calibration.chance_error`."""
        return chance_error(rows["confidence"], seed=seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """Of the means; both are simulated and nothing is estimated from answers, so there is no interval."""
        gap = self.estimate(rows, seed).value - self.estimate(others, seed).value
        return Interval(gap, float("nan"), float("nan"))


def _gaps(rows: pd.DataFrame) -> np.ndarray:
    """[N B] confidence - right, each in the column of its bin."""
    p, y = rows["confidence"].to_numpy(dtype=float), rows["right"].to_numpy(dtype=float)
    result = np.zeros((len(p), BINS))
    result[np.arange(len(p)), np.minimum((p * BINS).astype(int), BINS - 1)] = p - y
    return result


def _by_kind(name: str, column: str, bounds: Bounds | None = None) -> tuple[Mean, ...]:
    """The mean of a column over questions about known people, rare ones, and strangers of both kinds."""
    kinds = {"known": "fact", "rare": "rare", "stranger": "stranger", "heldout": "stranger_heldout"}
    return tuple(Mean(f"{name}_{short}", column, where={"kind": kind}, bounds=bounds) for short, kind in kinds.items())


SAMPLED = (
    Share("accuracy", "is_true", where={"kind": "fact"}),
    Share("accuracy_rare", "is_true", where={"kind": "rare"}),
    Share("abstention", "abstained", where={"kind": "stranger"}),
    Share("invention", "invented", where={"kind": "stranger"}),
    Share("abstention_heldout", "abstained", where={"kind": "stranger_heldout"}),
    Share("invention_heldout", "invented", where={"kind": "stranger_heldout"}),
)
"""Judged samples; with equal n and seed these are the numbers of `probe.analyses.evaluation`."""


def ranking(name: str, score: str, positive: str, sign: float = 1.0, **options: Any) -> Statistic:
    """An AUROC; where it never varies it rests on as many items as the rarer kind has."""
    return Statistic(
        name,
        lambda columns: auroc(sign * columns[score], columns[positive]),
        (score, positive),
        bounds=SHARE,
        count=lambda columns: min(columns[positive].sum(), (1 - columns[positive]).sum()),
        **options,
    )


CERTAINTY = (
    CalibrationError("ece"),
    ChanceError("ece_calibrated"),
    Mean("brier", bounds=SHARE),
    ranking("auroc", "confidence", "right"),
    Statistic("aurc", lambda c: aurc(c["confidence"], 1 - c["right"]), ("confidence", "right"), bounds=SHARE),
    ranking("auroc_entropy", "semantic_entropy", "hallucinates"),
    ranking("auroc_agreement", "agreement", "hallucinates", -1),
    ranking("auroc_entropy_free", "semantic_entropy_sampled", "wrong"),
    ranking("auroc_agreement_free", "agreement", "wrong", -1),
    ranking("auroc_p_ik", "p_ik", "knowable"),
    ranking("auroc_p_true", "p_true", "match_true", where={"matched": 1}),
)


def _p_ik(kind: str) -> tuple[Metric, ...]:
    """Of P(IK) where a head was fitted to what a model answers to a file's questions."""
    where = {"kind": kind}
    return (
        Mean(f"p_ik_{kind}", "p_ik", where=where, bounds=SHARE),
        Mean(f"p_right_{kind}", "p_right", where=where, bounds=SHARE),
        ranking(f"auroc_p_ik_{kind}", "p_ik", "knows", where=where),
        Mean(f"brier_p_ik_{kind}", "brier_p_ik", where=where, bounds=SHARE),
        Mean(f"brier_p_ik_{kind}_constant", "brier_p_ik_constant", where=where, bounds=SHARE),
    )


METRICS: tuple[Metric, ...] = (
    Mean("hall", bounds=SHARE),
    *_by_kind("hall", "hall", SHARE),
    *SAMPLED,
    Share("mc1"),
    Mean("mc1_chance", bounds=SHARE),
    Mean("mc2", bounds=SHARE),
    Share("matched"),
    Share("match_true"),
    Share("match_wrong"),
    Share("match_abstain"),
    *CERTAINTY,
    Mean("semantic_entropy"),
    *_by_kind("semantic_entropy", "semantic_entropy"),
    Mean("semantic_entropy_sampled"),
    Mean("agreement", bounds=SHARE),
    *_by_kind("p_ik", "p_ik", SHARE),
    Mean("p_true", bounds=SHARE),
    *_p_ik("choice"),
    *_p_ik("free"),
    *(Mean(f"score_{100 * t:.0f}", f"own_{100 * t:.0f}", bounds=(-t / (1 - t), 1.0)) for t in NAMED),
    *(Mean(f"score_{100 * t:.0f}_target", f"target_{100 * t:.0f}", bounds=(-t / (1 - t), 1.0)) for t in NAMED),
    ranking("known_auroc", "direction", "knowable", unit="person"),
    ranking("known_auroc_heldout", "direction", "unheard", unit="person"),
    Mean("snowball_kl"),
    Share("snowball_hall_clean", "snowball_clean"),
    Share("snowball_hall_wrong", "snowball_wrong"),
    Mean("answer_mass", bounds=SHARE),
)
