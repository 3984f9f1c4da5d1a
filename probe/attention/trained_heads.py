"""Attention captured during a run: its heads at one step, and how a head changed through training.

No model is loaded. Axes: S captured steps, D blocks, H heads, T tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input, Prompt
from probe.analyses.catalogue import analysis
from probe.attention.moved_heads import MOVED, OTHERS, AttentionShift
from probe.attention.one_score import INDUCTION, OneScore, OneScores, score_label
from probe.attention.patterns import RANKED_BY, head_distance
from probe.attention.reading import (
    STAGES,
    Attentions,
    PromptAttention,
    ShownHead,
    argmax,
    find_head,
    head_name,
    parse_head,
)
from probe.attention.scores import pattern_scores
from probe.attention.tracing import Rollout, Rollouts, rollout
from probe.errors import DataError
from probe.model.heads import head_names
from probe.numbers import rate
from probe.plotting.notebook import Drawable, Look, titled
from probe.plotting.theme import METHODS, aligned_colour
from probe.runs.captured import (
    attention,
    captured_prompts,
    captures_of,
    has_attention,
    numbers_of,
    usual_prompt,
)
from probe.runs.captures import Captures, Tensors
from probe.runs.reader import Run
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHARES = ("previous_token", "duplicate_token", "induction", "sink")
"""Scores drawn over training."""
DISTANCE = "moved since the first step"
"""Label of the attention that moved among tokens other than the first since the first capture, in the same figure."""
HEIGHT = 340
"""Height of the curves in pixels."""


def captured_steps(*, run: Path) -> list[int]:
    """Return the steps that a run captured."""
    return list(captures_of(run).steps)


def last_step(*, run: Path) -> int:
    """Return the last step that a run captured."""
    return captured_steps(run=run)[-1]


FromRun = Annotated[Path, Input("Run", key="att_watched")]
"""Folder of a run with captures."""
Captured = Annotated[
    str | None, Input("Captured prompt", key="att_captured", choices=captured_prompts, first=usual_prompt)
]
"""Text of a captured prompt."""
Step = Annotated[int | None, Input("Step", key="att_step", choices=captured_steps, first=last_step)]
"""Step at which captures were taken."""


@dataclass(frozen=True)
class CapturedAttention(Attentions):
    """Attention of every head on a captured prompt at one step, optionally compared with the first step."""

    of: str = ""
    """End of a clause that names the run."""
    starts: bool = False
    """Whether the step is the first captured one."""

    @property
    def hooked(self) -> tuple[int, ...]:
        """Empty: no model was run."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Notes on how to read a mosaic, and on the first step, which has no earlier one to compare."""
        first = "This is the first captured step; move on to see what training changed."
        return (*super().notes, *[first] * self.starts)

    def scores(self, name: str) -> OneScores:
        """Measure one behaviour of every head (`probe.attention.one_score.SCORES`, without repeated tokens)."""
        return OneScores(tuple(OneScore(name, pattern_scores(read)) for read in self.results), self.looks)

    def shift(self, head: str) -> AttentionShift:
        """Return which heads moved since the first captured step, with one of them enlarged."""
        first, second = self.results
        return AttentionShift((first, second), parse_head(head), (self.looks[0], self.looks[1]))

    def rollout(self) -> Rollouts:
        """Trace the tokens from which every state can come, by attention rollout."""
        results = tuple(Rollout(read.tokens, read.prompt_length, rollout(read)) for read in self.results)
        return Rollouts(results, self.looks)


@analysis("attention", title="Captured patterns", equations=STAGES, key="att_captured", widths=((1, 1),))
def captured_attention(
    *,
    run: FromRun,
    prompt: Prompt = "",
    captured: Captured = None,
    step: Step = None,
    since: Annotated[bool, Input("First step", key="att_since")] = True,
) -> CapturedAttention:
    """Show the attention of every head at one captured step of a run.

    Rows are queries (destination), columns keys (source). *Moved* is the weight that tokens other than the first gained
    from one another, averaged over all rows but the first, which has only one key: total variation (half the sum of
    absolute changes of a row) minus the change on the first token, on which idle heads rest. No model is loaded.

    Args:
        run: folder of a run with captures.
        prompt: prompt to use if it was captured and `captured` is not given.
        captured: text of a captured prompt; by default the one whose answers changed most.
        step: captured step; by default the last one.
        since: also show the first captured step.

    Raises:
        DataError: the run has no captures of attention, or did not capture this prompt or step.
    """
    captures, index = _open(run, prompt, captured)
    step = captures.steps[-1] if step is None else step
    first = captures.steps[0]
    looks = [(first, METHODS["pretrain"])] if since and step != first else []
    looks.append((step, aligned_colour(Run(run).method)))
    return CapturedAttention(
        tuple(read_captured(captures, index, each) for each, _ in looks),
        tuple(Look(f"step {each:,}", colour) for each, colour in looks),
        f" of {run.name}",
        step == first,
    )


def read_captured(captures: Captures, index: int, step: int) -> PromptAttention:
    """Return the attention of every head on one captured prompt at a step.

    Raises:
        DataError: the step was not captured, or was captured without attention.
    """
    if step not in captures.steps:
        raise DataError(f"Step {step:,} was not captured: give one of {', '.join(map(str, captures.steps))}.")
    prompt, tensors = captures.prompts[index], captures.load(step)
    require_attention(tensors)
    pattern = attention(tensors, index, prompt).astype(np.float32)
    return PromptAttention(list(prompt.tokens), list(prompt.token_ids), prompt.length, pattern)


def require_attention(tensors: Tensors) -> None:
    """Check that a capture holds attention.

    Raises:
        DataError: it does not.
    """
    if not has_attention(tensors):
        raise DataError(
            "The captures of this run hold no attention: its model has blocks without heads, or other parts were chosen"
            " with --capture."
        )


def _open(run: Path, prompt: str, captured: str | None) -> tuple[Captures, int]:
    """Open the captures of a run, and find the index of the prompt."""
    captures, text = captures_of(run), usual_prompt(run=run, prompt=prompt) if captured is None else captured
    numbers = numbers_of(captures)
    if text not in numbers:
        raise DataError(
            f"{run.name} did not capture the prompt {text!r}: give one of its {len(numbers)} captured prompts."
        )
    return captures, numbers[text]


@dataclass(frozen=True)
class TrainedHeads(Drawable):
    """Attention scores of every head on one captured prompt over the training of a run."""

    run: str
    """Name of the run."""
    steps: list[int]
    """[S] captured steps."""
    courses: Mapping[str, np.ndarray]
    """[S D H] scores by name: those of `SHARES`, and `DISTANCE`."""

    notes = (
        "Shares of the head's attention on the token before, on earlier copies, on what followed them, and on the "
        "first token; and the attention that moved among other tokens since the first capture. Captures hold patterns "
        "only: for scores, values and circuits choose the run, or one of its checkpoints (RUN@STEP), as the model.",
    )

    @property
    def heads(self) -> list[str]:
        """Names of the heads, `L0H0` first."""
        return head_names(*self.courses[DISTANCE].shape[1:])

    def _head(self, head: str | None) -> tuple[int, int]:
        return argmax(self.courses[DISTANCE][-1]) if head is None else find_head(head, self.heads)

    def sentence(self, head: ShownHead = None) -> str:
        """Say which share of a head's attention changed most, and how far the head moved.

        Args:
            head: name of the head; by default the one that moved most from the first step to the last.
        """
        at = self._head(head)
        ends = {name: [float(course[at]) for course in values[[0, -1]]] for name, values in self.courses.items()}
        name = max(SHARES, key=lambda each: abs(ends[each][1] - ends[each][0]))
        return (
            f"From step {self.steps[0]:,} to step {self.steps[-1]:,} of {self.run}, {head_name(at)} moved "
            f"{rate(ends[DISTANCE][1])} of its attention among tokens other than the first; of its scores, "
            f"{score_label(name)} changed most ({rate(ends[name][0])} \u2192 {rate(ends[name][1])})."
        )

    def figures(
        self,
        head: str | None = None,
        step: Annotated[int | None, Input("Step", key="att_step", advanced=True)] = None,
    ) -> "dict[str, go.Figure]":
        """Draw the shares of a head's attention over the steps.

        Args:
            head: name of the head.
            step: step to mark.
        """
        from probe.attention.head_figures import score_curves

        at = self._head(head)
        lines = {_label(name): values[(slice(None), *at)] for name, values in self.courses.items()}
        chart = score_curves(self.steps, lines, marker=step)
        return {"training": titled(chart, f"{head_name(at)} of {self.run} through training, on this prompt", HEIGHT)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the shares of every head at every step."""
        step, layer, head = (axis.ravel() for axis in np.indices(self.courses[DISTANCE].shape))
        names = np.array(self.heads, dtype=object).reshape(self.courses[DISTANCE].shape[1:])
        values = {_label(name): each.ravel() for name, each in self.courses.items()}
        return {"training": pd.DataFrame({"step": np.array(self.steps)[step], "head": names[layer, head], **values})}

    def data(self, figure: str, head: str | None = None) -> pd.DataFrame:
        """Return the shares of the chosen head at every step."""
        table = self.tables()["training"]
        return table[table["head"] == head_name(self._head(head))].reset_index(drop=True)

    def lists(self, head: str | None = None) -> dict[str, pd.DataFrame]:
        """Return the shares of the chosen head at every step."""
        return {f"{head_name(self._head(head))} through training": self.data("training", head)}


def _label(name: str) -> str:
    return DISTANCE if name == DISTANCE else score_label(name)


@analysis("attention", title="Through training", equations=(INDUCTION, MOVED, OTHERS), key="att_training")
def follow_attention(
    *, run: FromRun, prompt: Prompt = "", captured: Captured = None, tick: Tick = ignore
) -> TrainedHeads:
    """Show how the heads changed on one captured prompt while a run was trained.

    Previous token, duplicate token and induction are the shares of all weight on the token before, on earlier copies of
    the query's token, and on the tokens that followed these copies; sink is the mean weight on the first token. *Moved*
    is the weight that tokens other than the first gained from one another since the first capture, averaged over all
    rows but the first, which has only one key. No model is loaded.

    Args:
        run: folder of a run with captures.
        prompt: prompt to use if it was captured and `captured` is not given.
        captured: text of a captured prompt; by default the one whose answers changed most.
        tick: function called with the share of the work done.

    Raises:
        DataError: the run has no captures of attention, or did not capture this prompt.
    """
    captures, index = _open(run, prompt, captured)
    first, rows = read_captured(captures, index, captures.steps[0]), []
    for number, step in enumerate(captures.steps, start=1):
        read = read_captured(captures, index, step)
        values = pattern_scores(read).values
        rows.append({name: values[name] for name in SHARES} | {DISTANCE: head_distance(first, read, RANKED_BY)})
        tick(number / len(captures.steps))
    courses = {name: np.stack([np.asarray(row[name], dtype=float) for row in rows]) for name in (*SHARES, DISTANCE)}
    return TrainedHeads(run.name, list(captures.steps), courses)
