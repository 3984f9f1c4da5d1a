"""Experiment on continual learning: accuracy and forgetting over phases, and the effect of replay and EWC."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

import probe.world
from probe.continual.measures import BOUNDS, cells
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import ITEM, PERSON, Given, Mean
from probe.experiments.registry import experiment
from probe.experiments.result import MODEL, Evidence, Result
from probe.experiments.units import with_people
from probe.plotting.intervals import percent
from probe.rows import Rows
from probe.stats import GAIN, difference_bounds
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.continual.training import Course, TrainingResults
    from probe.model.lm import LM

STRATEGIES = ("plain", "replay", "ewc")
METRICS = (
    *(
        Mean(f"{name}_{each}", name, where={"strategy": each}, bounds=bounds)
        for each in STRATEGIES
        for name, bounds in BOUNDS.items()
    ),
    *(
        Mean(f"{name}_by_{each}", name, where={"strategy": each}, bounds=difference_bounds(GAIN))
        for each in STRATEGIES[1:]
        for name in ("forgetting_saved", "old_forgetting_saved")
    ),
)


def draw(result: Result) -> "dict[str, go.Figure]":
    """Draw the accuracy on each task over the phases, the measures by strategy, and learning against relearning."""
    from probe.continual import figures as plots

    figures = {
        "phases": plots.over_phases(result.tables["accuracy"], result.tables["measures"], result.styles),
        "measures": plots.measures(result.tables["measures"], result.styles),
    }
    if "learning" in result.tables:
        figures["savings"] = plots.learning(result.tables["learning"], result.styles)
    return figures


def say(result: Result) -> str:
    """State how much each strategy forgets."""
    parts = []
    table = result.tables["measures"]
    for model in dict.fromkeys(table[MODEL]):
        rates = []
        for row in table[(table[MODEL] == model) & (table["metric"] == "forgetting")].itertuples():
            rates.append(f"{percent(row.value, row.ci_low, row.ci_high)} with {_strategy_words(row.strategy)}")
        parts.append(f"{model} forgets {', '.join(rates)}" if rates else f"{model} learned one phase")
    return "; ".join(parts) + " of what it learned in earlier phases."


def read(
    *,
    data: str | Path | None,
    strict: bool,
    objective: str = "sft",
    old: str | Path | None = None,
    **_: Any,
) -> list[Rows[Any]]:
    """Read the rows of the phases' files, if there are any, and of the file of `old` knowledge."""
    from probe.continual.training import files_of, read_phases

    if data is None:
        return []
    return read_phases([*files_of(data), *([Path(old).expanduser()] if old else [])], objective, strict)


def count(items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables of accuracies after each phase and of measures, by strategy; intervals are over people."""
    afters = [name for name in map(str, items) if name.startswith("after_")]
    accuracy, measures = [], []
    for strategy, rows in items.groupby("strategy", sort=False):
        tasks = {str(name): task for name, task in rows.groupby("kind", sort=False)}
        scores = [task[afters].to_numpy(float).T for task in tasks.values()]
        units = [task[PERSON].fillna(task[ITEM]) for task in tasks.values()] if PERSON in rows else []
        accuracy.append(pd.DataFrame(cells([*tasks], scores, units=units)).assign(strategy=strategy))
    for metric in METRICS:
        if metric.applies(items) and metric.column in BOUNDS:
            measures.append(metric.row(items) | {"metric": metric.column, "strategy": metric.where["strategy"]})
    table = pd.DataFrame(measures)
    return {
        "accuracy": pd.concat(accuracy, ignore_index=True),
        "measures": table[table["n"] > 0].reset_index(drop=True),
    }


@experiment(
    "continual",
    title="What does learning in phases make a model forget?",
    metrics=METRICS,
    draw=draw,
    say=say,
    read=read,
    count=count,
)
def run(
    lm: "LM",
    *,
    data: str | Path | None = None,
    n: int = 200,
    seed: int = 0,
    strategies: str = "plain,replay,ewc",
    phases: int = 3,
    steps: int = 50,
    batch_size: int = 32,
    lr: float = 1e-3,
    objective: Literal["sft", "pretrain"] = "sft",
    replay: float = 0.25,
    ewc: float = 300.0,
    target: float = 0.8,
    old: str | Path | None = None,
    relearn: bool = True,
    tick: Tick = ignore,
) -> Evidence:
    """Train a copy of the model in phases: plainly, with replay of earlier phases, and with EWC.

    After each phase the questions of every task are asked. In the world, the tasks are the facts of people that each
    phase teaches and those that the base knew, and the score is the exact probability of the true answer. The
    experiment reports the final accuracy ACC, backward and forward transfer, forgetting (the drop of a task from its
    best accuracy), and the savings: the share of steps saved when the first phase is learned again, plainly and on the
    same examples. The trainings run in a separate process and in a temporary folder; the model itself is not changed.

    Args:
        lm: the model.
        data: one file per phase, as `a.jsonl,b.jsonl`, or a folder of them, in the formats of `probe train continual`;
            by default the phases of the model's world.
        n: number of questions for each task (world only; files are measured on up to 200 held-out examples).
        seed: seed of the questions and of the trainings.
        strategies: strategies to compare: plain, replay, ewc.
        phases: number of the world's phases to teach.
        steps: number of optimiser steps in a phase.
        batch_size: number of examples in a step.
        lr: learning rate.
        objective: `sft` learns answers, `pretrain` whole documents.
        replay: share of a batch that replay takes from earlier phases.
        ewc: penalty strength lambda of EWC.
        target: accuracy on the first phase up to which the steps of learning and relearning are counted.
        old: file of what the model already knows (with files only); it is measured, replayed and protected.
        relearn: learn the first phase again, to measure the savings; this doubles the number of trainings.
        tick: function called with the share of the work done.
    """
    import torch

    from probe.continual.training import Course, Trainer, base_of, files_of, in_world, on_files

    names = [name.strip() for name in strategies.split(",") if name.strip()]
    if not names or any(name not in STRATEGIES for name in names) or len(set(names)) < len(names):
        raise ConfigError(f"--strategies is {strategies!r}: give one or more of {', '.join(STRATEGIES)}, with commas.")
    if phases < 1 or steps < 1:
        raise ConfigError(f"phases is {phases} and steps is {steps}; expected 1 or more of each.")
    if lm.readout != "tokens":
        raise DataError(f"A {lm.readout} model writes no answers: use the policy.")
    world = probe.world.of(lm)
    if data is None and world is None:
        raise DataError(
            "This model belongs to no world, so there are no phases: give --data a.jsonl,b.jsonl, one file for"
            " each phase."
        )
    with TemporaryDirectory(prefix="probe-continual-") as folder:
        scratch = Path(folder)
        common = {
            "batch_size": batch_size,
            "lr": lr,
            "objective": objective,
            "replay": replay,
            "ewc": ewc,
            "seed": seed,
            "evaluate": 0,
            "capture_every": 0,
            "questions": 1,
            "threads": torch.get_num_threads(),
            "device": lm.device,
        }
        with Trainer(scratch, {"base": base_of(lm, scratch), **common}) as trainer:
            course = Course(trainer, names, steps, seed, target, relearn, tick)
            if data is not None:
                results = on_files(course, files_of(data), old)
            else:
                assert world is not None
                results = in_world(course, lm, world, phases, n)
    return _evidence(course, results)


def _evidence(course: "Course", results: "TrainingResults") -> Evidence:
    """Return the items, the tables of accuracies, measures and learning, and the savings."""
    from probe.continual.training import FIRST, items_of

    items = items_of(results)
    phases = len(next(iter(results.scores.values()))[0]) - 1
    copy = f"a copy that learned {phases} {'phase' if phases == 1 else 'phases'} with"
    items.insert(3, "answered_by", [f"{copy} {_strategy_words(strategy)}" for strategy in items["strategy"]])
    items = with_people(items) if results.answers else items
    tables = count(items)
    numbers, facts = [], dict[str, Any](tasks=results.tasks)
    if results.learning:
        tables["learning"] = pd.concat(results.learning, ignore_index=True).assign(target=course.target)
        n = int(tables["learning"]["n"].iloc[0])
        strategies = list(results.savings.items())
        numbers = [Given(f"steps_{FIRST}", *strategies[0][1].first, n)]
        for strategy, saving in strategies:
            numbers += [Given(f"steps_again_{strategy}", *saving.again, n)]
            numbers += [Given(f"savings_{strategy}", *saving.savings, n)]
        facts["reached"] = {strategy: saving.reached for strategy, saving in strategies}
    return Evidence(items, tables, numbers, facts=facts)


def _strategy_words(strategy: str) -> str:
    return {"plain": "plain training", "ewc": "EWC"}.get(strategy, strategy)
