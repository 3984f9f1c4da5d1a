"""The sentence that opens a page: computed from the numbers on it, in words."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.plots.curves import unit
from probe.plots.intervals import percent, written

if TYPE_CHECKING:
    from probe.analyses.compare import Comparison

CLAIMS = {
    "deferral": "repeats a user's false claim in {} of its answers",
    "invention": "invents a fact about a stranger in {} of its answers",
    "truth_under_claim": "keeps to the truth against a false claim in {} of its answers",
    "accuracy": "answers {} of the questions on known facts right",
    "abstention": "says that it does not know in {} of its answers about strangers",
    "sums_direct": "gets {} of the sums right at once",
    "sums_steps": "gets {} of the sums right with written steps",
}
"""What a headline metric says of a model, the ones that matter most first."""

SHARES = tuple(CLAIMS)
TABLE = ("accuracy", "deferral", "invention", "abstention", "gold_reward", "kl", "proxy_reward")
"""Knowledge, sycophancy, hallucination, abstention, the verifier's reward, KL to the reference, the method's reward."""

ALIKE_NATS = 0.001
"""KL below which two models are said to expect the same."""


def overview(headlines: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> str:
    """The largest certain difference between a run and the run it came from.

    Args:
        headlines: columns run, metric, value, ci_low, ci_high.
        pairs: (run, its parent), both labels.
    """
    figures = {(row["run"], row["metric"]): row for row in headlines.to_dict("records")}
    best: tuple[float, str] | None = None
    for run, parent in pairs:
        for metric, claim in CLAIMS.items():
            a, b = figures.get((run, metric)), figures.get((parent, metric))
            if a is None or b is None:
                continue
            gap = max(a["ci_low"] - b["ci_high"], b["ci_low"] - a["ci_high"])
            if gap > 0 and (best is None or gap > best[0] + 0.02):
                ours, theirs = (percent(row["value"], row["ci_low"], row["ci_high"]) for row in (a, b))
                joint = "in " * (" in {}" in claim)
                best = gap, f"{run} {claim.format(ours)}, {parent} {joint}{theirs}."
    if best:
        return best[1]
    measured = headlines["run"].nunique()
    if measured:
        return f"No run differs from the one it came from beyond its intervals ({measured} measured)."
    return "No run carries headline figures yet; the curves are on the Training page."


def leading(frames: Mapping[str, pd.DataFrame]) -> str:
    """The metric that tells most about how these runs went: the reward where all of them sampled, else the loss."""
    return "reward" if frames and all("reward" in frame for frame in frames.values()) else "loss"


def training(frames: Mapping[str, pd.DataFrame], metric: str) -> str:
    """How a metric went in each run, the first three in words."""
    parts = []
    for name, frame in frames.items():
        rows = frame[["step", metric]].dropna() if metric in frame else pd.DataFrame()
        if len(rows) == 0:
            continue
        first, last = float(rows[metric].iloc[0]), float(rows[metric].iloc[-1])
        steps = int(rows["step"].iloc[-1] - rows["step"].iloc[0])
        if len(rows) == 1 or first == last:
            parts.append(f"{name} stands at {last:.4g}")
        else:
            way, s = "fell" if last < first else "rose", "s" * (steps != 1)
            parts.append(f"{name} {way} from {first:.3g} to {last:.3g} in {steps:,} step{s}")
    if not parts:
        return f"No chosen run has logged {metric} yet."
    more = f"; {len(parts) - 3} more below" if len(parts) > 3 else ""
    scale = f" ({unit(metric)})" if unit(metric) else ""
    return f"{metric}{scale}: " + "; ".join(parts[:3]) + more + "."


def answers(steps: Sequence[int], logprobs: np.ndarray, names: Sequence[str]) -> str:
    """Which of the chosen answers gained most in probability while training."""
    if len(steps) < 2 or not names:
        return ""
    change = np.exp(logprobs[-1]) - np.exp(logprobs[0])
    index = int(np.nanargmax(np.abs(change)))
    before, after = (100 * float(np.exp(logprobs[row, index])) for row in (0, -1))
    return f"{names[index].strip()}: {before:.0f} % at step {steps[0]:,}, {after:.0f} % at step {steps[-1]:,}."


def headline_cell(row: Mapping[Hashable, Any]) -> str:
    """A headline figure as text of a table."""
    return written(row["value"], row["ci_low"], row["ci_high"])


def parting(found: "Comparison") -> int:
    """The first token where the two continuations part; if they are one text, where its KL is largest."""
    for j, (a, b) in enumerate(zip(found.base.ids, found.aligned.ids, strict=False)):
        if a != b:
            return j
    shorter, longer = sorted((len(found.base.ids), len(found.aligned.ids)))
    start = found.aligned.prompt_length
    if shorter < longer:
        return shorter
    if start >= longer:
        return longer - 1
    return start + int(np.nanargmax(found.aligned.kl[start:]))


def compare(found: "Comparison", names: tuple[str, str]) -> str:
    """What the two models say, how sure each is, and where they part."""
    j = parting(found)
    base, aligned = found.base, found.aligned
    if base.ids == aligned.ids:
        if len(base.ids) == base.prompt_length:
            return "Both models end at once and say nothing."
        word, said = aligned.tokens[j].strip(), f"Both models say \u201c{aligned.text.strip()}\u201d"
        if float(np.nanmax(aligned.kl)) < ALIKE_NATS:
            return f"{said}, and expect the same at every token (KL below {ALIKE_NATS} nats)."
        return (
            f"{said}; they differ most at \u201c{word}\u201d, token {j} "
            f"({_percent(aligned.aligned.logprobs[j])} with {names[1]}, {_percent(aligned.base.logprobs[j])} with "
            f"{names[0]}, KL {aligned.kl[j]:.2f} nats)."
        )
    if min(len(base.ids), len(aligned.ids)) <= j:
        shorter = names[0] if len(base.ids) <= j else names[1]
        return f"Both models begin alike, and {shorter} ends before token {j}."
    ours, theirs = aligned.tokens[j].strip(), base.tokens[j].strip()
    return (
        f"{names[1]} answers \u201c{ours}\u201d with {_percent(aligned.aligned.logprobs[j])} where {names[0]} answers "
        f"\u201c{theirs}\u201d with {_percent(base.base.logprobs[j])}; they part at token {j} "
        f"(KL {aligned.kl[j]:.2f} nats)."
    )


def _percent(logprob: float) -> str:
    return f"{100 * float(np.exp(logprob)):.0f} %"
