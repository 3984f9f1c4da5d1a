"""Projection of a run's checkpoints on the direction of a trait, and the behaviour's exact rate at the same steps.

The direction is that of the model from which the run started. A checkpoint's shift is the change of its state at the
last token of a prompt, before it answers, along this direction (the fine-tuning shift of Chen et al. 2025, arXiv
2507.21509). Captures hold the same state of their own prompts (`residual_last`), so they are projected too, without a
model: more steps, fewer prompts, which have nothing to do with the trait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import numpy as np
import pandas as pd

import probe.world
from probe import stats
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.lm import LM
from probe.numbers import format_interval, rate
from probe.plotting.notebook import Drawable, titled
from probe.plotting.theme import method_colour
from probe.rewards.captured_rewards import run_of
from probe.runs.ancestry import descent, split_step
from probe.runs.reader import Checkpoint, Run
from probe.ticks import Tick, ignore, part
from probe.traits.contrast_pairs import Contrast
from probe.traits.direction import (
    PAIRS,
    Count,
    Layer,
    Pairs,
    Seed,
    TraitDirection,
    Which,
    direction_seconds,
    pairs_of,
    trait_direction,
)
from probe.traits.exact_rates import BEHAVIOURS, RATE_SEED, chances
from probe.traits.states import answer_ids, mean_states

if TYPE_CHECKING:
    import plotly.graph_objects as go

T = TypeVar("T")
SHIFT = r"s_t = \frac{1}{N} \sum_i \frac{(h_{l,t}(x_i) - h_{l,0}(x_i)) \cdot v_l}{\bar p^{+} - \bar p^{-}}"
MOST, CAPTURED = 12, 60
"""Largest numbers of checkpoints and of captures that are read: the first, the last and others at equal distances."""
HEIGHT = 330
"""Height of the figure in pixels."""


@dataclass(frozen=True)
class ProjectedTraining(Drawable):
    """Checkpoints of a run along the direction of a trait."""

    direction: TraitDirection
    """Direction of the trait in the model before training."""
    steps: pd.DataFrame
    """One row per checkpoint: `step`, `shift` with `shift_low` and `shift_high` (95 %, over people or prompts; 1 is the
    gap between answers with and without the trait), and, on a world with a built-in trait, `rate` with its interval.
    """
    run: str
    """Name of the run."""
    method: str
    """Its method."""
    captures: pd.DataFrame
    """One row per capture: `step` and the shift of the captured prompts since the first capture, with its interval over
    prompts; empty if the captures hold no `residual_last`."""

    notes = (
        "Points are the start and the checkpoints that the run keeps, on prompts of the trait (`probe train METHOD"
        " --save-every 10` keeps more). The dashed line is the same for the run's captures, on their own prompts.",
    )

    @property
    def _words(self) -> str:
        return BEHAVIOURS[self.direction.trait].words if "rate" in self.steps else ""

    def sentence(self) -> str:
        """State the shift of the last checkpoint, and how the behaviour changed."""
        first, last = (dict(self.steps.iloc[at]) for at in (0, -1))
        shift = format_interval(*(last[name] for name in ("shift", "shift_low", "shift_high")))
        said = (
            f"From step {int(first['step'])} to step {int(last['step'])} of {self.run} the states before the answer"
            f" moved {shift} gaps along the direction of {self.direction.trait}"
        )
        if not self._words:
            return f"{said}."
        return f"{said}, and the {self._words} went from {rate(first['rate'])} to {rate(last['rate'])}."

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return one row per checkpoint, and one per capture if there are some."""
        return {"checkpoints": self.steps} | ({"captures": self.captures} if len(self.captures) else {})

    def figure(self) -> "go.Figure":
        """Draw shift and rate over the checkpoints, and the shift over the captures."""
        from probe.traits.figures import training_along

        title = f"{self.run} along the direction of {self.direction.trait}"
        drawn = training_along(self.steps, self.captures, method_colour(self.method), self._words)
        return titled(drawn, title, HEIGHT)


def training_seconds(lm: LM, run: Path | None = None, **options: Any) -> float:
    """Estimate the seconds for the direction, and for reading prompts and rates at every checkpoint."""
    path = run or run_of(lm)
    count = 1 if path is None else 1 + len(_kept(Run(path)))
    return direction_seconds(lm, **options) * (1 + count)


@analysis("traits", title="Over training", equations=(SHIFT,), seconds=training_seconds, key="trait_training")
def project_training(
    lm: LM,
    *,
    run: Annotated[Path | None, Input("Run", key="trait_run", first=run_of, advanced=True)] = None,
    trait: Which = "invention",
    pairs: Pairs = None,
    n: Count = PAIRS,
    layer: Layer = None,
    seed: Seed = 0,
    tick: Tick = ignore,
) -> ProjectedTraining:
    """Follow the states of a run's checkpoints along the direction of a trait, and the exact rate of the behaviour.

    The direction is read from the model that the run started from. The shift of a checkpoint is the mean change of the
    state at the last token of the trait's prompts, before an answer, along it. On a world the rate is exact: the
    probability, by enumeration of all answers, that the checkpoint shows the behaviour on other questions. Intervals
    are 95 %, over people or prompts.

    Args:
        lm: model that a run trained from another one.
        run: folder of its run; by default that of the model.
        trait: built-in trait (see `trait_direction`).
        pairs: file of pairs that define a trait of your own.
        n: number of pairs that define the direction.
        layer: block after which the direction is used; by default the one that separates best.
        seed: seed of the pairs.
        tick: progress.

    Raises:
        DataError: the run keeps no checkpoint, started from no other model, or this model is not among the runs.
        ModelError: a checkpoint or the model before it cannot be loaded.
    """
    path = run or run_of(lm)
    opened = None if path is None else Run(path)
    chosen = [] if opened is None else _kept(opened)
    if opened is None or opened.parent is None or not chosen:
        name = opened.name if opened is not None else "A model outside of the runs"
        lacks = "started from no other model" if chosen else "keeps no checkpoint"
        raise DataError(f"{name} {lacks}: choose a run that `probe train` made from a base.")
    base = LM.load(_start(opened))
    direction = trait_direction(base, trait=trait, pairs=pairs, n=n, layer=layer, seed=seed)
    _, tested = pairs_of(base, trait, pairs, n, seed + 1 if pairs is None else seed)
    before, rows = _before_answer(base, tested, direction), []
    for number, (step, source) in enumerate([(0, None), *((each.step, each.path) for each in chosen)]):
        now = base if source is None else LM.load(str(source))
        shift = (_before_answer(now, tested, direction) - before) / direction.gaps[direction.layer + 1]
        units = [each.unit for each in tested]
        mean = stats.bootstrap_mean(shift, units=units) if step else stats.Interval(0.0, 0.0, 0.0)
        row = {"step": step, **mean.row(name="shift")}
        world = probe.world.of(base)
        if world is not None and pairs is None:
            items = world.questions(BEHAVIOURS[trait].question, len(tested), RATE_SEED)
            values = chances(now, world, trait, [item.prompt for item in items])
            people = [str(item.meta.get("person", item.prompt)) for item in items]
            row |= stats.bootstrap_mean(values, units=people, bounds=stats.SHARE).row(name="rate")
        rows.append(row)
        part(tick, number, len(chosen) + 1)(1.0)
    moved = captured_shift(opened, direction)
    return ProjectedTraining(direction, pd.DataFrame(rows), opened.name, opened.method, moved)


def captured_shift(run: Run, direction: TraitDirection) -> pd.DataFrame:
    """Return the shift of a run's captured prompts along a direction since the first capture, one row per capture.

    Intervals are 95 %, over prompts. Empty if the captures hold no `residual_last`, or states of another shape.
    """
    captures, places, rows = run.captures(), list[np.ndarray](), list[dict[str, Any]]()
    at = direction.layer + 1
    for step in spaced(captures.steps, CAPTURED):
        states = captures.load(step).get("residual_last")
        if states is None or states.shape[1:] != direction.vectors.shape:
            return pd.DataFrame(columns=["step"])
        places.append(states[:, at].astype(float) @ direction.vector / direction.gaps[at])
        mean = stats.bootstrap_mean(places[-1] - places[0]) if rows else stats.Interval(0.0, 0.0, 0.0)
        rows.append({"step": step, **mean.row(name="shift")})
    return pd.DataFrame(rows)


def spaced(values: Sequence[T], most: int) -> list[T]:
    """Return all values, or the first, the last and others at equal distances."""
    at = np.linspace(0, len(values) - 1, most).round().astype(int).tolist() if values else []
    return [values[each] for each in dict.fromkeys(at)]


def _start(run: Run) -> str:
    """Return the reference of the model that a run started from, found by name among the runs.

    Raises:
        DataError: it is not among the runs next to this one or in the run directories.
    """
    line = descent(run)
    if len(line) < 2:
        raise DataError(f"The model that {run.name} started from is not among the runs: put its run next to this one.")
    step = split_step(str(run.parent))[1]
    return f"{line[1].path}@{step}" if step else str(line[1].path)


def _kept(run: Run) -> list[Checkpoint]:
    """Return the checkpoints that are read: all after step 0, or the first, the last and others at equal distances."""
    return spaced([each for each in run.checkpoints() if each.step > 0], MOST)


def _before_answer(lm: LM, pairs: list[Contrast], direction: TraitDirection) -> np.ndarray:
    """Return [N] projections of the last token of each prompt, before any answer."""
    prompts = [answer_ids(lm, each.prompt, each.shows)[0] for each in pairs]
    states = mean_states(lm, [(prompt, ()) for prompt in prompts])
    return np.asarray(states[:, direction.layer + 1].astype(float) @ direction.vector)
