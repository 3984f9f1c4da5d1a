"""Heads and layers that changed most between two captured steps of a run, over all captured prompts.

No model is loaded. Axes: S captured steps, D blocks, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.attention.moved_heads import MOVED, OTHERS, RANKED
from probe.attention.reading import LABELS, SINK, STILL, ShownHead, argmax, find_head, head_name, parse_head
from probe.attention.trained_heads import FromRun, captured_steps, last_step, require_attention
from probe.errors import ConfigError, DataError
from probe.model.heads import head_names
from probe.numbers import rate
from probe.plotting.notebook import Drawable, clickable, titled
from probe.plotting.theme import aligned_colour
from probe.runs.captured import attention, captures_of, has_lens, heads_moved
from probe.runs.captures import Captures
from probe.runs.reader import Run
from probe.runs.schema import ProbePrompt
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 430
"""Height of the figures in pixels."""


def first_step(*, run: Path) -> int:
    """Return the first step that a run captured."""
    return captured_steps(run=run)[0]


Start = Annotated[int | None, Input("From step", key="att_from", choices=captured_steps, first=first_step)]
"""Captured step that the change is measured from."""
End = Annotated[int | None, Input("To step", key="att_to", choices=captured_steps, first=last_step)]
"""Captured step that the change is measured to."""


@dataclass(frozen=True)
class Movement(Drawable):
    """Change of every head and every layer between two captured steps, mean over the captured prompts."""

    run: str
    """Name of the run."""
    method: str
    """Method of the run."""
    steps: list[int]
    """[S] captured steps from the first compared one to the last."""
    moved: np.ndarray
    """[D H] total variation between the first and the last step (0 to 1); NaN for heads that were not captured."""
    others: np.ndarray
    """[D H] part of `moved` that lies among tokens other than the first, by which heads are ranked."""
    course: np.ndarray
    """[S-1 D H] this part between each step and the captured step before it."""
    layers: pd.DataFrame
    """One row per layer (embedding first): layer, attention, predicted, residual_norm (`layer_movement`); NaN for what
    was not captured."""
    prompts: int
    """Number of captured prompts."""

    notes = (
        f"{SINK} With the first token, what moved is the total variation of a head's attention. Both describe where"
        " heads attend, not what this does to the answer; every head moves to some extent, so compare a head with the"
        " median head.",
    )

    @property
    def heads(self) -> list[str]:
        """Names of the heads, `L0H0` first."""
        return head_names(*self.moved.shape)

    @property
    def count(self) -> int:
        """Number of captured heads."""
        return int(np.isfinite(self.moved).sum())

    @property
    def top(self) -> str:
        """Name of the head that moved most."""
        return head_name(argmax(self.others))

    def sentence(self, head: ShownHead = None) -> str:
        """Name the head and the layer that changed most, with the median head for comparison.

        Args:
            head: head to describe in addition, if another one than the first was chosen.
        """
        most, median = float(np.nanmax(self.others)), float(np.nanmedian(self.others))
        when = f"From step {self.steps[0]:,} to step {self.steps[-1]:,} of {self.run}"
        if most < STILL:
            return (
                f"{when}, no head moved more than {rate(most)} of its attention among tokens other than the first"
                f" ({rate(float(np.nanmax(self.moved)))} with the first)."
            )
        at = argmax(self.others)
        said = (
            f"{when}, {self.top} moved most: {rate(most)} of its attention among tokens other than the first"
            f" ({rate(float(self.moved[at]))} with the first); the median head moved {rate(median)}"
        )
        if head is not None and head != self.top:
            own = find_head(head, self.heads)
            rank = 1 + int((self.others > self.others[own]).sum())
            said += f"; {head} ranks {rank} of {self.count} with {rate(float(self.others[own]))}"
        if self.layers["predicted"].isna().all():
            return f"{said}."
        layer = self.layers.iloc[int(self.layers["predicted"].argmax())]
        if not layer["predicted"]:
            return f"{said}. No layer's most probable next token changed."
        return (
            f"{said}. The most probable next token changed most often after {layer['layer']}: at "
            f"{rate(float(layer['predicted']))} of the tokens."
        )

    def table(self) -> pd.DataFrame:
        """Return one row per head, the one that moved most first: head, other_tokens, moved (shares)."""
        values = {"other_tokens": self.others.ravel(), "moved": self.moved.ravel()}
        table = pd.DataFrame({"head": self.heads, **values})
        return table.dropna().sort_values("other_tokens", ascending=False, kind="stable", ignore_index=True)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the change of every head, of every layer, and of every head from step to step."""
        step, layer, head = (axis.ravel() for axis in np.indices(self.course.shape))
        names = np.array(self.heads, dtype=object).reshape(self.moved.shape)
        ends = np.array(self.steps)
        values = {"from_step": ends[step], "to_step": ends[step + 1], "head": names[layer, head]}
        course = pd.DataFrame({**values, "other_tokens": self.course.ravel()})
        return {"moved-heads": self.table(), "moved-layers": self.layers, "moved-steps": course}

    def data(self, figure: str) -> pd.DataFrame:
        """Return the table behind a figure."""
        return self.tables()[figure]

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the heads and the layers with their changes."""
        named = {"other_tokens": LABELS["other_tokens"], "moved": LABELS["total_variation"]}
        named |= {"attention": "heads, mean share moved among tokens other than the first"}
        named |= {"predicted": "next token changed, share", "residual_norm": "residual norm, relative change"}
        return {
            "Heads": self.table().rename(columns=named),
            "Layers": self.layers.rename(columns=named),
        }

    def figures(self, head: ShownHead = None) -> "dict[str, go.Figure]":
        """Draw the heads that moved most, the layers, and the movement from step to step.

        Args:
            head: head in full colour; by default the one that moved most.
        """
        from probe.attention.head_figures import head_ranking
        from probe.logits.part_figures import training_map
        from probe.plotting.marks import token_bars
        from probe.plotting.panels import Panels

        chosen = find_head(head or self.top, self.heads)
        names, colour = list(self.table()["head"][:RANKED]), aligned_colour(self.method)
        heads = [parse_head(name) for name in names]
        values = np.array([self.others[each] for each in heads])
        label = "attention moved among tokens other than the first"
        ranking = head_ranking(heads, values, label, chosen=chosen, colour=colour)
        layers, rows = Panels(), self.layers[::-1]
        token_bars(layers, 1, list(rows["layer"]), rows["predicted"], marker={"color": colour})
        layers.axis("x", title="share of tokens whose most probable next token changed", rangemode="tozero")
        course = np.array([self.course[:, layer, number] for layer, number in heads])
        high = max(1e-6, float(course.max(initial=0.0)))
        steps = training_map(
            course[::-1], self.steps[1:], names[::-1], label="moved since the\ncapture before", low=0, high=high
        )
        charts = {
            "moved-heads": titled(
                clickable(ranking, head="customdata"), f"Heads that moved most, of {self.count}", HEIGHT
            ),
            "moved-layers": titled(layers.figure(showlegend=False), "Predictions that changed, by layer", HEIGHT),
            "moved-steps": titled(steps, "Movement of these heads since the capture before", HEIGHT),
        }
        if rows["predicted"].isna().all():
            del charts["moved-layers"]
        return charts


def layer_movement(captures: Captures, first: int, last: int) -> pd.DataFrame:
    """Return how far each layer changed between two captured steps, mean over the tokens of all prompts.

    Returns:
        Columns layer (`embedding`, `block 0`, ...), predicted (share of tokens whose most probable next token by the
        logit lens differs) and residual_norm (relative change of the norm of the residual stream, absolute value).
    """
    before, after = captures.load(first), captures.load(last)
    rows = 1 + attention(after, 0, captures.prompts[0]).shape[0]
    predicted, norms = np.full(rows, np.nan), np.full(rows, np.nan)
    if has_lens(before) and has_lens(after):
        old, new = (_tokens(each["lens_top_ids"][..., 0], captures.prompts) for each in (before, after))
        predicted = (old != new)[:, old[0] >= 0].mean(1)  # -1 was not captured
    if "residual_norm" in before and "residual_norm" in after:
        old, new = (_tokens(each["residual_norm"], captures.prompts).astype(float) for each in (before, after))
        norms = np.nanmean(np.abs(new - old) / np.maximum(old, 1e-9), axis=1)
    names = ["embedding", *(f"block {block}" for block in range(rows - 1))]
    return pd.DataFrame({"layer": names, "predicted": predicted, "residual_norm": norms})


def _tokens(values: np.ndarray, prompts: Sequence[ProbePrompt]) -> np.ndarray:
    """Return values [P D+1 T] of all tokens of the prompts, one prompt after the other."""
    return np.concatenate([values[index, :, : prompt.length] for index, prompt in enumerate(prompts)], axis=1)


def _attention_moved(captures: Captures, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = captures.load(first), captures.load(last)
    for tensors in (before, after):
        require_attention(tensors)
    return heads_moved(before, after, captures.prompts)


@analysis(
    "attention",
    title="What moved while training",
    equations=(MOVED, OTHERS),
    key="att_movement",
    widths=((4, 4), (1,)),
)
def rank_movement(*, run: FromRun, start: Start = None, end: End = None, tick: Tick = ignore) -> Movement:
    """Rank the heads and the layers of a run by how much they changed between two captured steps.

    *Moved* is the total variation distance: half the sum of absolute changes of a row of attention, averaged over all
    rows but the first and over all captured prompts. Heads are ranked by its part among tokens other than the first,
    which leaves out what the first token, on which idle heads rest, gained or lost. Layers are compared by the token
    that the logit lens finds most probable, and by the norm of the residual stream. No model is loaded.

    Args:
        run: folder of a run with captures.
        start: captured step to measure from; by default the first one.
        end: captured step to measure to; by default the last one.
        tick: function called with the share of the work done.

    Raises:
        DataError: the run has fewer than two captures, or captures without attention.
        ConfigError: the steps were not captured, or are not in order.
    """
    captures = captures_of(run)
    if len(captures) < 2:
        raise DataError(f"{run.name} captured one step only, so nothing can be compared: choose another run.")
    first, last = captures.steps[0] if start is None else start, captures.steps[-1] if end is None else end
    steps = [step for step in captures.steps if first <= step <= last]
    if first not in captures.steps or last not in captures.steps or len(steps) < 2:
        known = ", ".join(map(str, captures.steps))
        raise ConfigError(f"Steps {first:,} to {last:,} were requested: give two captured steps in order, of {known}.")
    course = []
    for number, ends in enumerate(pairwise(steps), start=1):
        course.append(_attention_moved(captures, *ends)[1])
        tick(number / len(steps))
    moved, others = _attention_moved(captures, first, last)
    layers = layer_movement(captures, first, last)
    layers.insert(1, "attention", [np.nan, *pd.DataFrame(others).mean(axis=1)])
    tick(1.0)
    return Movement(run.name, Run(run).method, steps, moved, others, np.stack(course), layers, len(captures.prompts))
