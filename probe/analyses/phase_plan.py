"""All trainings of the experiment `continual` for one model: each strategy, and relearning the first phase after it.

The first phase is learned plainly from the model (`first`), then each strategy goes through all phases, and from where
it ended the first phase is learned again, plainly and on the same examples as at first.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.analyses.phased_training import Trainer, learning_curve, saved_scores, saved_texts, task_name, truth
from probe.analyses.savings import Savings, savings, steps_to
from probe.errors import ConfigError
from probe.model.lm import LM
from probe.stats import Interval
from probe.ticks import Tick, part

if TYPE_CHECKING:
    from probe.world.questions import Item
    from probe.world.world import World

POINTS = 25
"""Measurements on the way of learning and of relearning, at most."""
FIRST = "first"
TRAINED = 0.8
"""Where the bar stands after a training; the rest is for measuring what it left."""
Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """What is trained."""

    trainer: Trainer
    strategies: Sequence[str]
    steps: int
    """Of a phase."""
    seed: int
    target: float
    """Accuracy on the first phase to which learning and relearning are counted."""
    relearn: bool
    tick: Tick

    @property
    def every(self) -> int:
        """Steps between two measurements on the way of learning."""
        return max(1, self.steps // POINTS)

    def part(self, strategy: str, again: bool = False) -> Tick:
        """The tick of one training: the first learning, a strategy's, or the relearning after it."""
        if not self.relearn:
            return part(self.tick, self.strategies.index(strategy), len(self.strategies))
        number = 0 if strategy == FIRST else 2 * self.strategies.index(strategy) + 1 + again
        return part(self.tick, number, 2 * len(self.strategies) + 1)


@dataclass
class Measured:
    """What the trainings gave."""

    tasks: list[str]
    """Names of the phases in their order; `old`, what the model knew before, comes last if it was measured."""
    scores: dict[str, list[Array]]
    """For each strategy the scores [rows, items] of each task, before training and after each phase."""
    texts: list[list[tuple[str, str]]]
    """For each task the prompt and the true answer of its items."""
    answers: dict[str, list[list[tuple[str, float]]]] = field(default_factory=dict)
    """For each strategy and task the likeliest answers after all phases and their probabilities; none with files."""
    learning: list[pd.DataFrame] = field(default_factory=list)
    """Ways of learning the first phase: learning, step, value, ci_low, ci_high, n."""
    savings: dict[str, Savings] = field(default_factory=dict)
    """For each strategy what relearning took; intervals are NaN with files."""


def in_world(plan: Plan, lm: LM, world: "World", phases: int, n: int) -> Measured:
    """Train on the world's phases, and ask the models after each.

    Raises:
        ConfigError: the world has fewer phases.
        RunError: a training failed.
    """
    if phases > world.config.phases:
        raise ConfigError(f"--phases is {phases} and the world has {world.config.phases}: give that many or fewer.")
    kinds = {**{f"phase_{i}": f"phase_{i}" for i in range(phases)}, "old": "fact"}
    asked = {task: world.questions(kind, n, plan.seed) for task, kind in kinds.items()}
    before = {task: truth(lm, items) for task, items in asked.items()}
    texts = [[(item.prompt, item.answers[0]) for item in items] for items in asked.values()]
    found = Measured(list(asked), {}, texts)

    def load(path: Path) -> LM:
        return LM.load(path, device=lm.device)

    def learn(name: str, start: Array, tick: Tick, **options: Any) -> tuple[list[int], Array]:
        """Steps of learning the first phase plainly, and the scores of its questions at each."""
        options |= {"phases": 1, "steps": plan.steps, "save_every": plan.every}
        saved = plan.trainer.train(name, training(tick), **options).checkpoints()
        scores = [start, *(truth(load(one.path), asked["phase_0"]) for one in measuring(tick, saved))]
        return [0, *(one.step for one in saved)], np.stack(scores)

    at, first = learn(FIRST, before["phase_0"], plan.part(FIRST)) if plan.relearn else ([], np.zeros((0, n)))
    if plan.relearn:
        found.learning.append(_curve(at, first, FIRST, plan.seed))
    for strategy in plan.strategies:
        options = {"phases": phases, "steps": plan.steps * phases, "save_every": plan.steps, "strategy": strategy}
        tick = plan.part(strategy)
        saved = plan.trainer.train(strategy, training(tick), **options).checkpoints()
        copies = [load(one.path) for one in saved]
        found.scores[strategy], found.answers[strategy] = [], []
        for task in measuring(tick, asked):
            rows = [before[task], *(truth(copy, asked[task]) for copy in copies)]
            found.scores[strategy].append(np.stack(rows))
            found.answers[strategy].append(likeliest(copies[-1], asked[task]))
        if plan.relearn:
            start = found.scores[strategy][0][-1]
            _, again = learn(f"again-{strategy}", start, plan.part(strategy, True), base=str(saved[-1].path))
            found.learning.append(_curve(at, again, strategy, plan.seed))
            found.savings[strategy] = savings(at, first, again, plan.target, plan.seed)
    return found


def on_files(plan: Plan, files: Sequence[Path], old: str | Path | None) -> Measured:
    """Train on files and read the scores that the trainings have saved.

    Raises:
        RunError: a training failed, or a file cannot be used; the message is the training's own.
    """
    one = {"data": str(files[0]), "steps": plan.steps, "eval_every": plan.every, "save_every": 0}
    whole = {"data": ",".join(map(str, files)), "old": None if old is None else str(Path(old).expanduser())}
    found = Measured([], {}, [])

    def learn(name: str, tick: Tick, **options: Any) -> tuple[list[int], list[float]]:
        return learning_curve(plan.trainer.train(name, tick, **one, **options), task_name(files[0]))

    at, first = learn(FIRST, plan.part(FIRST)) if plan.relearn else ([], [])
    if plan.relearn:
        found.learning.append(_logged(at, first, FIRST))
    for strategy in plan.strategies:
        options = {**whole, "steps": plan.steps * len(files), "save_every": 0, "strategy": strategy}
        run = plan.trainer.train(strategy, plan.part(strategy), **options)
        found.tasks, found.scores[strategy] = saved_scores(run)
        if plan.relearn:
            last = str(run.checkpoints()[-1].path)
            steps, again = learn(f"again-{strategy}", plan.part(strategy, True), base=last)
            found.learning.append(_logged(steps, again, strategy))
            found.savings[strategy] = _plainly(at, first, again, plan.target)
    sizes = [task.shape[1] for task in found.scores[plan.strategies[0]]]
    found.texts = saved_texts(run, found.tasks) or [
        [(f"held-out example {i} of {name}", "") for i in range(size)]
        for name, size in zip(found.tasks, sizes, strict=True)
    ]
    return found


def training(tick: Tick) -> Tick:
    """The tick of a training that is measured afterwards."""
    return lambda share: tick(TRAINED * share)


def measuring(tick: Tick, things: Collection[T]) -> Iterator[T]:
    """What is measured after a training, one after the other, with a tick after each."""
    for number, thing in enumerate(things, 1):
        yield thing
        tick(TRAINED + (1 - TRAINED) * number / len(things))


def likeliest(lm: LM, items: "Sequence[Item]") -> list[tuple[str, float]]:
    """Greedy answers with their probabilities, the end token's included."""
    found = lm.generate([item.prompt for item in items], max_new_tokens=6, temperature=0)
    return list(zip(found.text, found.logprobs.double().sum(1).exp().tolist(), strict=True))


def _curve(steps: Sequence[int], scores: Array, of: str, seed: int) -> pd.DataFrame:
    """A way of learning with the intervals of its items."""
    rows = []
    for step, row in zip(steps, scores, strict=True):
        value, low, high = stats.bootstrap_mean(row, seed=seed, bounds=stats.SHARE)
        rows.append({"learning": of, "step": step, "value": value, "ci_low": low, "ci_high": high, "n": len(row)})
    return pd.DataFrame(rows)


def _logged(steps: Sequence[int], values: Sequence[float], of: str) -> pd.DataFrame:
    """The same from a log, without intervals."""
    nan = float("nan")
    return pd.DataFrame({"learning": of, "step": steps, "value": values, "ci_low": nan, "ci_high": nan, "n": 0})


def _plainly(steps: Sequence[int], first: Sequence[float], again: Sequence[float], target: float) -> Savings:
    """Savings of curves whose items are not known."""
    exact = [float(steps_to(steps, np.array(each), target)) for each in (first, again)]
    one, two = (min(each, float(steps[-1])) for each in exact)
    share = (one - two) / one if one else float("nan")
    bare = [Interval(value, float("nan"), float("nan")) for value in (one, two, share)]
    return Savings(bare[0], bare[1], bare[2], bool(np.isfinite(exact).all()))
