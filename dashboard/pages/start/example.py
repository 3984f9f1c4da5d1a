"""The worked example of the Start page, from a run's captures, without loading a model."""

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
    head: tuple[str, float] | None
    """Head whose direct effect on logit(new answer) - logit(old answer) grew most, and the growth in nats."""

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


def find_example(store: Store) -> AnswerChange | None:
    """Find a captured prompt with a changed answer in the run whose agreement with false claims changed most.

    The result is None if no run with a parent has captures on a prompt whose most probable answer changed.
    """
    headlines = data.headlines(store)
    for base, label in data.parents(store):
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
    first, last = (data.capture(run, step) for step in (captures.steps[0], captures.steps[-1]))
    best = None
    for index, prompt in enumerate(captures.prompts):
        if len(prompt.answers) < 2:
            continue
        steps, logprobs = data.answer_logprobs(run, index)
        before, after = logprobs[[0, -1]].argmax(1)
        change = float(np.exp(logprobs[-1, after]) - np.exp(logprobs[0, after]))
        if before != after and (best is None or change > best[0]):
            head = _head(first, last, index, logprobs)
            best = (
                change,
                AnswerChange(base, aligned, run, prompt, steps, logprobs, _rates(headlines, base, aligned), head),
            )
    return best[1] if best else None


def _rates(rows: pd.DataFrame, base: str, aligned: str) -> tuple[str, str] | None:
    from probe.plotting.intervals import percent

    cells = [rows[(rows["run"] == name) & (rows["metric"] == data.AGREEMENT)] for name in (base, aligned)]
    if any(len(cell) == 0 for cell in cells):
        return None
    first, second = (percent(*cell.iloc[0][["value", "ci_low", "ci_high"]]) for cell in cells)
    return first, second


def _head(
    first: dict[str, np.ndarray], last: dict[str, np.ndarray], index: int, logprobs: np.ndarray
) -> tuple[str, float] | None:
    """Return the head with the largest direct effect on the change of the answer, and this effect.

    Captures attribute logit(first answer) - logit(second answer), so the result is None if the most probable answer did
    not change between these two, or if the captures have no attribution.
    """
    if "attribution" not in first or "attribution" not in last or {*logprobs[[0, -1]].argmax(1)} != {0, 1}:
        return None
    sign = -1.0 if logprobs[-1].argmax() == 1 else 1.0
    change = sign * (last["attribution"][index] - first["attribution"][index])[:, :-1].astype(float)
    layer, head = np.unravel_index(int(change.argmax()), change.shape)
    return f"L{layer}H{head}", float(change[layer, head])


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


def about_head(example: AnswerChange) -> str:
    """State which head carries the change by direct effect, and name the measures of other pages."""
    if example.head is None:
        return ""
    name, nats = example.head
    before, after = (example.prompt.answers[i].strip() for i in (example.before, example.after))
    return (
        f"Of all heads, {name} has the largest direct effect on the change: its contribution to logit({after}) -"
        f" logit({before}) grew by {nats:.1f} nats. Other measures name other parts: Logits also counts MLPs,"
        " Attention shows which head attends elsewhere, Interventions what changes without a part."
    )
