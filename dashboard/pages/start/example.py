"""The worked example of the Start page, from a run's captures, without loading a model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboard import data
from dashboard.data import Store
from probe.errors import RunError
from probe.logits.trained import answer_names
from probe.numbers import rate
from probe.runs.reader import Run
from probe.runs.schema import ProbePrompt

LEAST = 0.05
"""Smallest probability of an answer that is drawn."""


@dataclass(frozen=True)
class AnswerChange:
    """A prompt on which training changed the most probable answer."""

    base: str
    aligned: str
    run: Run
    """Label of the aligned model's run."""
    prompt: ProbePrompt
    steps: list[int]
    logprobs: np.ndarray
    """[S A] log-probabilities of the prompt's answers over the captured steps, in nats."""
    rates: tuple[str, str] | None
    """Rates of agreement with false claims of both models, with intervals."""

    @property
    def before(self) -> int:
        """The index of the most probable answer before the training."""
        return int(self.logprobs[0].argmax())

    @property
    def after(self) -> int:
        """The index of the most probable answer after the training."""
        return int(self.logprobs[-1].argmax())

    def likely(self) -> tuple[list[str], np.ndarray]:
        """Return the answers whose probability reached `LEAST` at a step, and [S K] their log-probabilities in nats."""
        kept = np.flatnonzero(np.exp(self.logprobs).max(0) >= LEAST)
        return answer_names(self.run, [self.prompt.answers[index] for index in kept]), self.logprobs[:, kept]


def find_example(store: Store, pairs: Sequence[tuple[str, str]]) -> AnswerChange | None:
    """Return a captured prompt with a changed answer of the first pair (parent, run) that has one; None without any."""
    headlines = data.headlines(store)
    for base, label in pairs:
        try:
            example = _example(store, base, label, headlines)
        except RunError as error:  # damaged captures: another run is used
            data.tell(error)
            continue
        if example is not None:
            return example
    return None


def _example(store: Store, base: str, aligned: str, headlines: pd.DataFrame) -> AnswerChange | None:
    run = store.runs[aligned]
    captures = data.captures(run)
    if len(captures) < 2:
        return None
    best = None
    for index, prompt in enumerate(captures.prompts):
        if len(prompt.answers) < 2:
            continue
        steps, logprobs = data.answer_logprobs(run, index)
        before, after = logprobs[[0, -1]].argmax(1)
        change = float(np.exp(logprobs[-1, after]) - np.exp(logprobs[0, after]))
        if before != after and (best is None or change > best[0]):
            rates = _rates(headlines, base, aligned)
            best = change, AnswerChange(base, aligned, run, prompt, steps, logprobs, rates)
    return best[1] if best else None


def _rates(rows: pd.DataFrame, base: str, aligned: str) -> tuple[str, str] | None:
    from probe.plotting.intervals import percent

    cells = [rows[(rows["run"] == name) & (rows["metric"] == data.AGREEMENT)] for name in (base, aligned)]
    if any(len(cell) == 0 for cell in cells):
        return None
    first, second = (percent(*cell.iloc[0][["value", "ci_low", "ci_high"]]) for cell in cells)
    return first, second


def sentence(example: AnswerChange) -> str:
    """Describe the effect of training on the worked example, and on all such questions."""
    before, after = (example.prompt.answers[i].strip() for i in (example.before, example.after))
    chances = [
        rate(float(np.exp(row[i])))
        for row, i in ((example.logprobs[0], example.before), (example.logprobs[-1], example.after))
    ]
    parts = [f"{example.base} answers {before} ({chances[0]}), {example.aligned} answers {after} ({chances[1]})."]
    if example.rates:
        before, after = example.rates
        parts.append(f"Agreement with false claims (sampled, this training): {before} before, {after} after.")
    return " ".join(parts)
