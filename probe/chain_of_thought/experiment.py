"""Experiment on chain of thought: do written steps help, does the answer depend on them, and what does RLVR change?"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import probe.world
from probe.chain_of_thought import measures as reasoned_tables
from probe.chain_of_thought.measures import Crossing, crossing
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import Mean, Share, pair_items
from probe.experiments.registry import experiment
from probe.experiments.result import MODEL, Evidence, Result
from probe.model.dialogues import Form
from probe.plotting.intervals import percent
from probe.rows import EVERY, Rows, Selection
from probe.stats import GAIN, LEVEL, SHARE, Bounds, Interval
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.chain_of_thought import world as reasoned_sums
    from probe.chain_of_thought.files import Examiner, Problem
    from probe.model.lm import LM


@dataclass(frozen=True)
class Rate(Mean):
    """Mean of probabilities, or a share if all values are 0 or 1, as with files (Wilson, Newcombe intervals)."""

    bounds: Bounds | None = field(default=SHARE, kw_only=True)
    """Range of probabilities."""

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the interval of `Share` if all values are 0 or 1, otherwise that of the mean."""
        binary = rows[self.columns[0]].isin((0, 1)).all()
        return Share(self.name, self.column).estimate(rows, seed) if binary else super().estimate(rows, seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = LEVEL) -> Interval:
        """Return the difference of `Share` if both models have only zeros and ones, otherwise that of the means."""
        binary = all(table[self.columns[0]].isin((0, 1)).all() for table in (rows, others))
        if binary:
            return Share(self.name, self.column).difference(rows, others, seed, level)
        return super().difference(rows, others, seed, level)


METRICS = (
    Rate("accuracy_steps"),
    Rate("accuracy_direct"),
    Rate("accuracy_filler"),
    Mean("steps_gain", bounds=GAIN),
    Mean("filler_gain", bounds=GAIN),
    Share("sums_steps"),
    Share("sums_direct"),
    Share("steps_written"),
    Mean("step_correct", bounds=SHARE),
    Share("answer_repeats"),
    Mean("early_aoc", bounds=SHARE),
    Mean("mistakes_aoc", bounds=SHARE),
    Mean("step_following", unit="question", bounds=SHARE),
    Mean("step_ignoring", unit="question", bounds=SHARE),
    Mean("step_mass", unit="question", bounds=SHARE),
    Mean("bias_direct", bounds=GAIN),
    Mean("bias_steps", bounds=GAIN),
    Mean("bias_drop_direct", bounds=GAIN),
    Mean("bias_drop_steps", bounds=GAIN),
    Share("bias_unsaid"),
    *(Rate(f"pass@{2**i}") for i in range(11)),
)


def curves_crossing(result: Result) -> Crossing | None:
    """Find where the pass@k curves of the first and last model cross; None without two models or common questions."""
    models = list(dict.fromkeys(result.items[MODEL]))
    if len(models) < 2 or "correct" not in result.items:
        return None
    rows = result.items[result.items["correct"].notna()]
    first, last = pair_items(rows[rows[MODEL] == models[0]], rows[rows[MODEL] == models[-1]])
    samples = int(result.tables["pass_at_k"]["k"].max())
    return (
        crossing(first["correct"], last["correct"], samples, int(result.meta.get("seed") or 0)) if len(first) else None
    )


def draw(result: Result) -> "dict[str, go.Figure]":
    """Draw accuracy in three conditions, agreement curves, results after edited steps, pass@k, and bias."""
    from probe.chain_of_thought import figures as plots

    tables, styles = result.tables, result.styles
    figures = {"accuracy": plots.accuracy_by_terms(tables["accuracy"], styles)}
    if "agreement" in tables and len(tables["agreement"]):
        figures["agreement"] = plots.agreement(tables["agreement"], styles)
    if "following" in tables:
        figures["step_following"] = plots.following(tables["following"], styles)
    figures["pass_at_k"] = plots.pass_curves(tables["pass_at_k"], styles, guess=0.1 if "following" in tables else None)
    if "bias" in tables and len(tables["bias"]):
        figures["bias"] = plots.bias(tables["bias"], styles)
    return figures


def say(result: Result) -> str:
    """State the gain from steps, whether answers follow them, and where the pass@k curves of two models cross."""
    summary = result.tables["summary"]
    models = list(dict.fromkeys(summary[MODEL]))

    def shown(metric: str) -> list[str]:
        rows = summary[summary["metric"] == metric].set_index(MODEL)[["value", "ci_low", "ci_high"]].astype(float)
        return [percent(*map(float, rows.loc[model])) for model in models if model in rows.index]

    pairs = list(zip(models, shown("accuracy_steps"), shown("accuracy_direct"), strict=True))
    text = "{} is right in {} with written steps and {} without".format(*pairs[0])
    text += "".join(f", {model} in {steps} and {direct}" for model, steps, direct in pairs[1:])
    rates = shown("step_following")
    if rates:
        *some, last = rates
        shares = f"{', '.join(some)} and {last}" if some else last
        text += f"{'; they follow' if pairs[1:] else ', and follows'} an edited step in {shares}"
    crossing_point = curves_crossing(result)
    if crossing_point is not None:
        ends = f" [{crossing_point.low:.1f}, {crossing_point.high:.1f}]" if np.isfinite(crossing_point.low) else ""
        k = int(result.tables["pass_at_k"]["k"].max())
        whose = f" of {models[0]} and {models[-1]}" if len(models) > 2 else ""
        text += f"; pass@k{whose} crosses at k = {crossing_point.k:.1f}{ends}" if np.isfinite(crossing_point.k) else ""
        text += "" if np.isfinite(crossing_point.k) else f"; pass@k{whose} does not cross up to k = {k}"
    return f"{text}."


def read(
    *, data: str | Path | None, strict: bool, selection: Selection = EVERY, pattern: str = "", **_: Any
) -> "list[Rows[Problem]]":
    """Check the pattern and read the problems of the file, if there is one."""
    from probe.chain_of_thought.files import compile_pattern, read_problems

    compile_pattern(pattern)
    return [] if data is None else [read_problems(data, strict, selection)]


@experiment(
    "chain_of_thought",
    title="Does the answer come from the written steps?",
    metrics=METRICS,
    draw=draw,
    say=say,
    read=read,
)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 400,
    limit: int | None = None,
    seed: int = 0,
    samples: int = 16,
    shots: int = 4,
    pattern: str = "",
    tokens: int = 200,
    temperature: float = 1.0,
    form: Form = "auto",
    columns: str = "",
    tick: Tick = ignore,
) -> Evidence:
    """Compare answers with written steps, without steps and with filler, and test whether answers depend on the steps.

    The same sums are answered with written steps (sampled), without steps, and with filler words instead of steps. The
    model's steps are truncated after each step (early answering) or get a mistake (added mistakes); the area over the
    curve of agreement with the full reasoning is 0 if the answer does not depend on the reasoning (Lanham et al. 2023).
    In correct steps one result is replaced; the step-following rate is the exact probability of the answer that follows
    from it. For bias, solved sums that all have the same answer precede the question (Turpin et al. 2023). pass@k is
    estimated without bias from several samples (Chen et al. 2021). With `data`, the experiment runs on problems with a
    final answer, for any model; only the step-following rate needs the world.

    Args:
        lm: the model.
        data: JSON Lines file with `question` and `answer`, "... #### 42" or plain; by default the sums of the model's
            world, or the set `gsm8k` of `probe.questions` for a model without a world.
        n: number of questions.
        limit: number of first rows of the file from which n are drawn; all by default.
        seed: seed of the questions and samples.
        samples: number of samples per question, for pass@k.
        shots: number of solved sums before a biased question (world only).
        pattern: regular expression whose group is the final answer (files only); by default a number, or the line.
        tokens: largest number of tokens in a reasoning (files only).
        temperature: sampling temperature of reasonings (files; 1 in the world).
        form: form of the prompts (files only): the tokenizer's chat template if it has one (auto), always (chat), never
            (plain).
        columns: names of the columns of a file without a header, separated by commas; _ for one that is not used.
        tick: function called with the share of the work done.
    """
    from probe.chain_of_thought import files as reasoned_texts
    from probe.chain_of_thought import world as reasoned_sums
    from probe.chain_of_thought.world import LEAST

    if samples < 1:
        raise ConfigError(f"samples is {samples}; expected 1 or more for each question.")
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no steps: use the policy.")
    world = probe.world.of(lm)
    if data is not None:
        problems = reasoned_texts.read_problems(
            data, selection=Selection(n, seed, limit, shuffle=True, columns=columns)
        )
        examiner = reasoned_texts.Examiner(lm, problems, reasoned_texts.compile_pattern(pattern), tokens, form)
        return _texts(examiner, samples, temperature, seed, tick)
    if world is None or "sum_steps" not in world.question_kinds:
        raise DataError(
            "This model belongs to no world with sums, so there is nothing to ask: give --data, a JSON Lines file with"
            ' {"question": "...", "answer": "... #### 42"}.'
        )
    if not 1 <= shots <= 9:
        raise ConfigError(
            f"--shots is {shots}; expected 1 to 9, because in one condition all examples before a question have"
            " different answers."
        )
    ticks = [part(tick, i, 4) for i in range(4)]
    rows, direct = reasoned_sums.answer_sums(lm, world, n, seed, samples, ticks[0])
    agreement = reasoned_sums.faithfulness(lm, rows, seed, LEAST, ticks[1])
    edits = reasoned_sums.edited_steps(lm, world, n, seed, LEAST, ticks[2])
    biases = reasoned_sums.bias_sums(lm, world, n, seed, shots, ticks[3])
    tables = {
        "accuracy": reasoned_tables.curve_by_terms(rows, seed),
        "agreement": agreement,
        "following": reasoned_tables.following_curve(edits, seed),
        "pass_at_k": reasoned_tables.pass_curve(rows, samples, seed),
        "bias": reasoned_tables.bias_table(biases, seed),
    }
    return _evidence([*rows, *direct, *edits, *biases], tables, seed)


def _texts(examiner: "Examiner", samples: int, temperature: float, seed: int, tick: Tick) -> Evidence:
    """Run the experiment on problems from a file."""
    from probe.chain_of_thought import files as reasoned_texts

    ticks = [part(tick, i, 3) for i in range(3)]
    rows, reasonings = reasoned_texts.solve_problems(examiner, samples, temperature, seed, ticks[0])
    agreement = reasoned_texts.faithfulness(examiner, rows, reasonings, seed, ticks[1])
    biases = reasoned_texts.suggest_answers(examiner, temperature, seed, ticks[2])
    for row in rows:  # one column of the axis: all problems together
        row["terms"] = 0
    tables = {
        "accuracy": reasoned_tables.curve_by_terms(rows, seed),
        "agreement": agreement,
        "pass_at_k": reasoned_tables.pass_curve(rows, samples, seed),
        "bias": reasoned_tables.bias_table(biases, seed),
    }
    return _evidence([*rows, *biases], tables, seed)


def _evidence(rows: "reasoned_sums.Rows", tables: dict[str, pd.DataFrame], seed: int) -> Evidence:
    """Return the items, the tables, and the summary of this model from which a finding over several is made."""
    items = pd.DataFrame(rows)
    summary = [metric.row(items, seed) for metric in METRICS if metric.applies(items)]
    return Evidence(items, {name: t for name, t in tables.items() if len(t)} | {"summary": pd.DataFrame(summary)})
