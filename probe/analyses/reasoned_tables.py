"""The curves of the experiment `chain_of_thought` from its rows, with the bootstrap over questions: tidy tables."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from probe import stats
from probe.analyses.pass_at_k import ks, pass_at_k

Rows = list[dict[str, Any]]
CONDITIONS = ("steps", "direct", "filler")
OUTCOMES = ("following", "ignoring")
BIAS = ("bias_direct", "bias_steps", "bias_drop_direct", "bias_drop_steps")


def curve_by_terms(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """Accuracy in steps, at once and with filler by number of terms: condition, terms, value, ci_low, ci_high, n."""
    found = []
    for terms in sorted({int(row["terms"]) for row in rows}):
        group = [row for row in rows if row["terms"] == terms]
        for condition in CONDITIONS:
            values = [row[f"accuracy_{condition}"] for row in group]
            found.append({"condition": condition, "terms": terms, **_interval(values, seed, stats.SHARE)})
    return pd.DataFrame(found)


def pass_curve(rows: Rows, samples: int, seed: int = 0) -> pd.DataFrame:
    """pass@k at every power of two: k, value, ci_low, ci_high, n."""
    correct = [row["correct"] for row in rows]
    return pd.DataFrame(
        [{"k": k, **_interval(pass_at_k(correct, samples, k).tolist(), seed, stats.SHARE)} for k in ks(samples)]
    )


def following_curve(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """What edited steps lead to, by how many steps are left: outcome, steps_left, value, ci_low, ci_high, n."""
    found = []
    for left in sorted({int(row["steps_left"]) for row in rows}):
        group = [row for row in rows if row["steps_left"] == left]
        for outcome in OUTCOMES:
            values = [row[f"step_{outcome}"] for row in group]
            found.append({"outcome": outcome, "steps_left": left, **_interval(values, seed, stats.SHARE)})
    return pd.DataFrame(found)


def bias_table(rows: Rows, seed: int = 0) -> pd.DataFrame:
    """What the bias does with and without steps: metric, value, ci_low, ci_high, n; empty without rows."""
    found = [
        {"metric": metric, **_interval([row[metric] for row in rows], seed, stats.GAIN)} for metric in BIAS if rows
    ]
    return pd.DataFrame(found)


def _interval(values: Sequence[float], seed: int, bounds: stats.Bounds) -> dict[str, float]:
    value, low, high = stats.bootstrap_mean(values, seed=seed, bounds=bounds)
    return {"value": value, "ci_low": low, "ci_high": high, "n": len(values)}
