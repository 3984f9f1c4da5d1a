"""What the summary of the experiment `hallucination` holds; every name is explained in docs/experiments.md."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from probe.analyses.calibration import BINS, calibration_error
from probe.analyses.confidence_targets import NAMED
from probe.analyses.selective import aurc, auroc
from probe.experiments.metrics import Mean, Metric, Share, Statistic
from probe.stats import Interval

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
        return Interval(value, float(value + low - middle), float(value + high - middle))


def _gaps(rows: pd.DataFrame) -> np.ndarray:
    """[N B] confidence - right, each in the column of its bin."""
    p, y = rows["confidence"].to_numpy(dtype=float), rows["right"].to_numpy(dtype=float)
    result = np.zeros((len(p), BINS))
    result[np.arange(len(p)), np.minimum((p * BINS).astype(int), BINS - 1)] = p - y
    return result


def _by_kind(name: str, column: str) -> tuple[Mean, ...]:
    """The mean of a column over questions about known people, rare ones, and strangers of both kinds."""
    kinds = {"known": "fact", "rare": "rare", "stranger": "stranger", "heldout": "stranger_heldout"}
    return tuple(Mean(f"{name}_{short}", column, where={"kind": kind}) for short, kind in kinds.items())


SAMPLED = (
    Share("accuracy", "is_true", where={"kind": "fact"}),
    Share("accuracy_rare", "is_true", where={"kind": "rare"}),
    Share("abstention", "abstained", where={"kind": "stranger"}),
    Share("invention", "invented", where={"kind": "stranger"}),
    Share("abstention_heldout", "abstained", where={"kind": "stranger_heldout"}),
    Share("invention_heldout", "invented", where={"kind": "stranger_heldout"}),
)
"""Judged samples; with equal n and seed these are the numbers of `probe.world.evaluate`."""

CERTAINTY = (
    CalibrationError("ece"),
    Mean("brier"),
    Statistic("auroc", lambda c: auroc(c["confidence"], c["right"]), ("confidence", "right")),
    Statistic("aurc", lambda c: aurc(c["confidence"], 1 - c["right"]), ("confidence", "right")),
    Statistic(
        "auroc_entropy",
        lambda c: auroc(c["semantic_entropy"], c["hallucinates"]),
        ("semantic_entropy", "hallucinates"),
    ),
    Statistic("auroc_agreement", lambda c: auroc(-c["agreement"], c["hallucinates"]), ("agreement", "hallucinates")),
    Statistic(
        "auroc_entropy_free",
        lambda c: auroc(c["semantic_entropy_sampled"], c["wrong"]),
        ("semantic_entropy_sampled", "wrong"),
    ),
    Statistic("auroc_agreement_free", lambda c: auroc(-c["agreement"], c["wrong"]), ("agreement", "wrong")),
    Statistic("auroc_p_ik", lambda c: auroc(c["p_ik"], c["knowable"]), ("p_ik", "knowable")),
    Statistic(
        "auroc_p_true", lambda c: auroc(c["p_true"], c["match_true"]), ("p_true", "match_true"), where={"matched": 1}
    ),
)


def _p_ik(kind: str) -> tuple[Metric, ...]:
    """Of P(IK) where a head was fitted to what a model answers to a file's questions."""
    columns, where = ("p_ik", "knows"), {"kind": kind}
    return (
        Mean(f"p_ik_{kind}", "p_ik", where=where),
        Mean(f"p_right_{kind}", "p_right", where=where),
        Statistic(f"auroc_p_ik_{kind}", lambda c: auroc(c["p_ik"], c["knows"]), columns, where=where),
        Mean(f"brier_p_ik_{kind}", "brier_p_ik", where=where),
        Mean(f"brier_p_ik_{kind}_constant", "brier_p_ik_constant", where=where),
    )


METRICS: tuple[Metric, ...] = (
    Mean("hall"),
    *_by_kind("hall", "hall"),
    *SAMPLED,
    Share("mc1"),
    Mean("mc1_chance"),
    Mean("mc2"),
    Share("matched"),
    Share("match_true"),
    Share("match_wrong"),
    Share("match_abstain"),
    *CERTAINTY,
    Mean("semantic_entropy"),
    *_by_kind("semantic_entropy", "semantic_entropy"),
    Mean("semantic_entropy_sampled"),
    Mean("agreement"),
    *_by_kind("p_ik", "p_ik"),
    Mean("p_true"),
    *_p_ik("choice"),
    *_p_ik("free"),
    *(Mean(f"score_{100 * t:.0f}", f"own_{100 * t:.0f}") for t in NAMED),
    *(Mean(f"score_{100 * t:.0f}_target", f"target_{100 * t:.0f}") for t in NAMED),
    Statistic("known_auroc", lambda c: auroc(c["direction"], c["knowable"]), ("direction", "knowable"), unit="person"),
    Statistic(
        "known_auroc_heldout", lambda c: auroc(c["direction"], c["unheard"]), ("direction", "unheard"), unit="person"
    ),
    Mean("snowball_kl"),
    Share("snowball_hall_clean", "snowball_clean"),
    Share("snowball_hall_wrong", "snowball_wrong"),
    Mean("answer_mass"),
)
