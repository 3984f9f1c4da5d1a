"""The sentence that opens a page: computed from the numbers on it, in words."""

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from probe.numbers import in_unit, rate, shown_ends, signed
from probe.seeds.t_intervals import OverTrainings
from probe.terms import SMALLEST, logged, smallest_effect, term

if TYPE_CHECKING:
    from probe.compare.scalars import ScalarComparison
    from probe.compare.side_by_side import Comparison, Continuation
    from probe.model.lm import LM
    from probe.runs.reader import Run
    from probe.runs.schema import ProbePrompt

CLAIMS = {
    "deferral": "repeats a user's false claim in {} of its answers",
    "invention": "states a false fact about an unseen entity in {} of its sampled answers",
    "truth_under_claim": "keeps to the truth against a false claim in {} of its answers",
    "accuracy": "answers {} of the questions on known facts right",
    "abstention": "says that it does not know in {} of its answers about unseen entities",
    "sums_direct": "gets {} of the sums right at once",
    "sums_steps": "gets {} of the sums right with written steps",
}
"""What a headline metric says of a model, the ones that matter most first."""

SHARES = tuple(CLAIMS)
TABLE = ("accuracy", "deferral", "invention", "gold_reward")
"""Knowledge, sycophancy, hallucination, the verifier's reward: as many as the page is wide."""

MOST_RUNS = 3
"""Runs whose training is told in words."""

ALIKE_NATS = 0.001
"""KL below which two models are said to expect the same."""

ALIKE_READING = 0.005
"""Change of a reward or value at a token below which two models are said to change alike."""


def overview(headlines: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> str:
    """State the largest certain difference between a run and the run it came from.

    Args:
        headlines: columns run, metric, value, ci_low, ci_high; `over` and `n` where some are means over trainings.
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
            f"No run differs from the one it came from by more than {100 * SMALLEST:g} pp beyond its intervals"
            f" ({count} measured)."
        )
    return "No run carries headline figures yet; their curves are under Curves and captures."


def leading(frames: Mapping[str, pd.DataFrame]) -> str:
    """Return the metric that tells most about these runs: the reward where all of them sampled, else the loss."""
    return "reward" if frames and all("reward" in frame for frame in frames.values()) else "loss"


def training(frames: Mapping[str, pd.DataFrame], metric: str, methods: Mapping[str, str] | None = None) -> str:
    """Say how a metric changed in each run, the first three in words.

    A run is compared only with runs for which the metric means the same.

    Args:
        frames: metrics of the runs by name.
        metric: a column of them.
        methods: of the runs by name, which say what the metric means.
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
    """Say how the rows (step, value) of one run changed."""
    (start, first), (end, last) = rows[0], rows[-1]
    if len(rows) == 1 or first == last:
        return f"{name} stands at {last:.4g}"
    steps, way = int(end - start), "fell" if last < first else "rose"
    return f"{name} {way} from {first:.3g} to {last:.3g} in {steps:,} step" + "s" * (steps != 1)


def answers(steps: Sequence[int], logprobs: np.ndarray, names: Sequence[str]) -> str:
    """Say which of the chosen answers changed most in probability while training."""
    if len(steps) < 2 or not names:
        return ""
    change = np.exp(logprobs[-1]) - np.exp(logprobs[0])
    index = int(np.nanargmax(np.abs(change)))
    before, after = (100 * float(np.exp(logprobs[row, index])) for row in (0, -1))
    return f"{names[index].strip()}: {before:.0f} % at step {steps[0]:,}, {after:.0f} % at step {steps[-1]:,}."


def without_answers(run: "Run", prompt: "ProbePrompt") -> str:
    """Say why a captured prompt has no answers whose probabilities can be followed, and how a run gets some."""
    if prompt.note:
        return f"{prompt.note} There is no logit to follow or to split into heads and MLPs."
    known = {"dpo": "chosen and rejected completion", "reward-model": "chosen and rejected completion"}.get(
        run.method, "answers"
    )
    return (
        "This prompt was captured without answers, so there is no logit to follow or to split into heads and MLPs. To "
        f"follow the {known} of its data, train again without --probe-prompts, or give --probe-prompts a .jsonl file"
        " with `text` and `answers`."
    )


def duration(seconds: float) -> str:
    """Format a duration, rounded to seconds, minutes or tenths of an hour."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def headline_cell(row: Mapping[Hashable, Any]) -> str:
    """Format a headline figure for a table; trainings that are apart are listed."""
    unit = term(str(row["metric"])).unit
    if isinstance(row.get("apart"), str) and row["apart"]:
        return OverTrainings.of(row).format(unit)
    return in_unit(unit, row["value"], *shown_ends(unit, row["ci_low"], row["ci_high"]))


def divergence_position(comparison: "Comparison") -> int:
    """Return the first token where the two continuations diverge; if they are one text, where its KL is largest."""
    for j, (a, b) in enumerate(zip(comparison.base.ids, comparison.aligned.ids, strict=False)):
        if a != b:
            return j
    shorter, longer = sorted((len(comparison.base.ids), len(comparison.aligned.ids)))
    start = comparison.aligned.prompt_length
    if shorter < longer:
        return shorter
    if start >= longer:
        return longer - 1
    return start + int(np.nanargmax(comparison.aligned.kl[start:]))


def compare(comparison: "Comparison", names: tuple[str, str], text: "Continuation | None" = None) -> str:
    """Say what the two models answer, how sure each is, where they diverge, and where they differ most.

    Args:
        comparison: both continuations, read by both models.
        names: of base and aligned.
        text: the continuation whose KL is drawn; the aligned model's by default.
    """
    j = divergence_position(comparison)
    base, aligned = comparison.base, comparison.aligned
    text = text or aligned
    if base.ids == aligned.ids:
        if len(base.ids) == base.prompt_length:
            return "Both models end at once and say nothing."
        opening = f"Both models say \u201c{aligned.text.strip()}\u201d"
        if float(np.nanmax(aligned.kl)) < ALIKE_NATS:
            return f"{opening}, and expect the same at every token (KL below {ALIKE_NATS} nats)."
        most = int(np.nanargmax(aligned.kl))
        shares = f"{_percent(aligned.aligned.logprobs[j])} with {names[1]}, {_percent(aligned.base.logprobs[j])} with "
        shares += f"{names[0]}, KL {aligned.kl[j]:.2f} nats"
        answer = f"\u201c{aligned.tokens[j].strip()}\u201d, token {j} ({shares})"
        if most == j:
            return f"{opening}; the models differ most at {answer}."
        return f"{opening}; the models differ most at {_place(aligned, most)}, and in what they say at {answer}."
    if min(len(base.ids), len(aligned.ids)) <= j:
        shorter = names[0] if len(base.ids) <= j else names[1]
        return f"Both models begin alike, and {shorter} ends before token {j}{_most(text, j)}."
    ours, theirs = aligned.tokens[j].strip(), base.tokens[j].strip()
    return (
        f"{names[1]} answers \u201c{ours}\u201d with {_percent(aligned.aligned.logprobs[j])} where {names[0]} answers "
        f"\u201c{theirs}\u201d with {_percent(base.base.logprobs[j])}; the continuations diverge at token {j} "
        f"(KL {aligned.kl[j]:.2f} nats){_most(text, j)}."
    )


def _most(text: "Continuation", j: int) -> str:
    """Say in a clause after token `j`, which the sentence names, where the models differ most on the text drawn."""
    if not np.isfinite(text.kl).any():
        return ""
    most = int(np.nanargmax(text.kl))
    if most == j:
        return ", where they differ most"
    return f"; the models differ most at {_place(text, most)}"


def _place(text: "Continuation", j: int) -> str:
    """Describe a token with its position, its part of the text and the KL there."""
    of = " of the prompt" * (j < text.prompt_length)
    return f"\u201c{text.tokens[j].strip()}\u201d, token {j}{of} (KL {text.kl[j]:.2f} nats)"


def compare_scalars(comparison: "ScalarComparison", names: tuple[str, str]) -> str:
    """Say what two models of one number read after a text, and which token changes their readings most differently."""
    readings = " and ".join(
        f"{name} reads a {kind} of {signed(values[-1])}"
        for name, kind, values in zip(names, comparison.readouts, (comparison.base, comparison.aligned), strict=True)
    )
    opening = f"After the last token {readings}"
    if len(comparison.tokens) < 2 or float(np.nanmax(np.abs(comparison.difference))) < ALIKE_READING:
        return f"{opening}; no token changes the two readings differently."
    j = comparison.most
    ours, theirs = (f"{signed(values[j] - values[j - 1])} with {name}" for name, values in _sides(comparison, names))
    return (
        f"{opening}; \u201c{comparison.tokens[j].strip()}\u201d, token {j}, changes them most differently "
        f"({theirs}, {ours})."
    )


def _sides(comparison: "ScalarComparison", names: tuple[str, str]) -> tuple[tuple[str, np.ndarray], ...]:
    return (names[1], comparison.aligned), (names[0], comparison.base)


def incomparable(base: "LM", aligned: "LM", names: tuple[str, str]) -> str:
    """Say why two models cannot be compared token by token, and what could be; empty where they can."""
    kinds = [lm.readout for lm in (base, aligned)]
    if (kinds[0] == "tokens") != (kinds[1] == "tokens"):
        scalar, writer = sorted((0, 1), key=lambda side: kinds[side] == "tokens")
        return (
            f"{names[scalar]} gives one number, a {kinds[scalar]}, and {names[writer]} gives probabilities of tokens, "
            "so they have nothing to compare: choose two language models, or two models of rewards or values."
        )
    if base.tokenizer.get_vocab() != aligned.tokenizer.get_vocab():
        return (
            f"{names[0]} and {names[1]} split text into different tokens, so they cannot be compared token by token: "
            "choose two models with one tokenizer."
        )
    return ""


def _percent(logprob: float) -> str:
    return rate(float(np.exp(logprob)))
