"""The sentence at the top of a page, computed from its numbers."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.numbers import in_unit, shown_ends
from probe.seeds.t_intervals import OverTrainings
from probe.terms import SMALLEST, logged, smallest_effect, term

if TYPE_CHECKING:
    from probe.model.lm import LM

CLAIMS = {
    "deferral": "repeats a user's false claim in {} of its answers",
    "invention": "states a false fact about an unseen entity in {} of its sampled answers",
    "truth_under_claim": "keeps to the truth against a false claim in {} of its answers",
    "accuracy": "answers {} of the questions on known facts right",
    "abstention": "says that it does not know in {} of its answers about unseen entities",
    "sums_direct": "gets {} of the sums right at once",
    "sums_steps": "gets {} of the sums right with written steps",
}
"""Phrases for headline metrics, the most important metrics first."""

SHARES = tuple(CLAIMS)
TABLE = ("accuracy", "deferral", "invention", "gold_reward")
"""Metrics of the table of runs: knowledge, sycophancy, hallucination, the verifier's reward; more do not fit the
page."""

MOST_RUNS = 3
"""Largest number of runs whose training is described in words."""


def overview(headlines: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> str:
    """State the largest significant difference between a run and the run it started from.

    Args:
        headlines: columns run, metric, value, ci_low, ci_high; `over` and `n` if some are means over trainings.
        pairs: labels of (run, its parent).
    """
    figures = {(row["run"], row["metric"]): row for row in headlines.to_dict("records")}
    best: tuple[float, str] | None = None
    for run, parent in pairs:
        for metric, claim in CLAIMS.items():
            a, b = figures.get((run, metric)), figures.get((parent, metric))
            if a is None or b is None:
                continue
            gap = max(a["ci_low"] - b["ci_high"], b["ci_low"] - a["ci_high"])
            if gap > smallest_effect(term(metric).unit) and (best is None or gap > best[0] + 0.02):
                ours, theirs = (headline_cell(row) for row in (a, b))
                joint = "in " * (" in {}" in claim)
                over = f"Over {a['n']:.0f} trainings " if a.get("over") == b.get("over") == "trainings" else ""
                best = gap, f"{over}{run} {claim.format(ours)}, {parent} {joint}{theirs}."
    if best:
        return best[1]
    count = headlines["run"].nunique()
    if count:
        return (
            f"No run differs from its parent by more than {100 * SMALLEST:g} pp beyond its intervals"
            f" ({count} measured)."
        )
    return "No run has headline figures yet; their curves are under Curves and captures."


def leading(frames: Mapping[str, pd.DataFrame]) -> str:
    """Return the most informative metric of these runs: the reward if all of them sampled, else the loss."""
    return "reward" if frames and all("reward" in frame for frame in frames.values()) else "loss"


def training(frames: Mapping[str, pd.DataFrame], metric: str, methods: Mapping[str, str] | None = None) -> str:
    """Describe how a metric changed in each run, for the first three in words.

    A run is compared only with runs for which the metric has the same definition.

    Args:
        frames: tables of metrics by run.
        metric: column of the tables.
        methods: methods by run, which determine the definition of the metric.
    """
    from probe.plotting.curves import metric_panels

    methods = methods or {}
    frames = {name: frame for name, frame in frames.items() if metric in frame and frame[metric].notna().any()}
    if not frames:
        return f"No chosen run has logged {logged(metric, tuple(methods.values())).title} yet."
    sentences, said = [], 0
    for panel in metric_panels(frames, [metric], methods):
        names = panel.runs[: MOST_RUNS - said]
        said += len(names)
        if names:
            parts = [_course(name, frames[name][["step", metric]].dropna().to_numpy(dtype=float)) for name in names]
            sentences.append(f"{panel.about.label}: " + "; ".join(parts))
    more = f"; {len(frames) - said} more below" if len(frames) > said else ""
    return (
        ". ".join(sentence[:1].upper() + sentence[1:] if at else sentence for at, sentence in enumerate(sentences))
        + f"{more}."
    )


def _course(name: str, rows: np.ndarray) -> str:
    """Describe how the rows (step, value) of one run changed."""
    (start, first), (end, last) = rows[0], rows[-1]
    if len(rows) == 1 or first == last:
        return f"{name} is at {last:.4g}"
    steps, way = int(end - start), "fell" if last < first else "rose"
    return f"{name} {way} from {first:.3g} to {last:.3g} in {steps:,} step" + "s" * (steps != 1)


def answers(steps: Sequence[int], logprobs: np.ndarray, names: Sequence[str]) -> str:
    """State which of the chosen answers changed most in probability during training."""
    if len(steps) < 2 or not names:
        return ""
    change = np.exp(logprobs[-1]) - np.exp(logprobs[0])
    index = int(np.nanargmax(np.abs(change)))
    before, after = (100 * float(np.exp(logprobs[row, index])) for row in (0, -1))
    return f"{names[index].strip()}: {before:.0f} % at step {steps[0]:,}, {after:.0f} % at step {steps[-1]:,}."


def headline_cell(row: Mapping[Hashable, Any]) -> str:
    """Format a headline metric for a table; trainings that are apart are listed."""
    unit = term(str(row["metric"])).unit
    if isinstance(row.get("apart"), str) and row["apart"]:
        return OverTrainings.of(row).format(unit)
    return in_unit(unit, row["value"], *shown_ends(unit, row["ci_low"], row["ci_high"]))


def incomparable(base: "LM", aligned: "LM", names: tuple[str, str]) -> str:
    """State why two models cannot be compared token by token, and an alternative; empty if they can."""
    kinds = [lm.readout for lm in (base, aligned)]
    if (kinds[0] == "tokens") != (kinds[1] == "tokens"):
        scalar, writer = sorted((0, 1), key=lambda side: kinds[side] == "tokens")
        return (
            f"{names[scalar]} outputs one number, a {kinds[scalar]}, and {names[writer]} outputs probabilities of"
            " tokens, so they cannot be compared: choose two language models, or two models of rewards or values."
        )
    if base.tokenizer.get_vocab() != aligned.tokenizer.get_vocab():
        return (
            f"{names[0]} and {names[1]} split text into different tokens, so they cannot be compared token by token: "
            "choose two models with the same tokenizer."
        )
    return ""
