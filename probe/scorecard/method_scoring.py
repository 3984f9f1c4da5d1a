"""Scoring: methods asked about problems of bases, and their rows.

Rows of a base, a task and a method are written as soon as they are there, so that a run that was stopped goes on.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from probe.errors import ProbeError, RunError
from probe.model.lm import LM
from probe.plugins import BUILT_IN, failure
from probe.runs import roots
from probe.runs.reader import Run
from probe.scorecard.catalogue_of_methods import families
from probe.scorecard.family_record import RANDOM, Family, Grade
from probe.scorecard.method_record import Method
from probe.scorecard.plan_of_card import Plan, read_plan
from probe.ticks import Tick, ignore, part

BASE = "base"
"""Name of the run of the first seed; the others are called like `base-seed1`."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Score of a method for a truth on one base."""

    family: str
    method: str
    truth: str
    seed: int
    """Seed of the base, or of the texts for a model without a world."""
    score: float
    chance: float
    """Expected score of a random answer."""
    seconds: float
    """Seconds of processor time that the method took for the problem; truths of one problem share them."""
    n: int
    """Number of texts of the problem."""
    also: str = "{}"
    """Further numbers by name, as JSON."""
    plan: str = ""
    """Hash of the family's part of the plan."""
    base: str = ""
    """First digits of the base's fingerprint."""


def name_of(seed: int) -> str:
    """Return the name of the base of a seed."""
    return f"{BASE}-seed{seed}" if seed else BASE


def find_bases(folder: Path | None, seeds: Sequence[int]) -> dict[int, Path]:
    """Return the bases of seeds that have weights.

    Args:
        folder: folder of the runs; by default the run directories.
        seeds: seeds to look for.

    Raises:
        RunError: there is none.
    """
    places = [folder] if folder else roots()
    found: dict[int, Path] = {}
    for seed in seeds:
        for place in places:
            path = place / name_of(seed)
            if path.is_dir() and is_whole(Run(path)):
                found[seed] = path
                break
    if not found:
        where = ", ".join(f"`{each}`" for each in places) or "any run directory"
        remedy = f"make them with `probe samples --only base --seeds {len(seeds)}`."
        raise RunError(f"There is no base with weights in {where}: {remedy}")
    return found


def is_whole(run: Run) -> bool:
    """Return whether a training has ended and its weights are there."""
    return run.status == "finished" and bool(run.checkpoints())


@dataclass(frozen=True)
class Outcome:
    """Rows that were computed, and sentences on methods that failed."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]


def score_methods(
    bases: Mapping[int, Path | LM],
    chosen: Iterable[Method],
    *,
    names: Iterable[str] | None = None,
    known: Iterable[Row] = (),
    keep: Callable[[Row], None] = lambda row: None,
    plan: Plan | None = None,
    tick: Tick = ignore,
) -> Outcome:
    """Score methods and the references of their families on bases.

    Args:
        bases: model, or path of its run, by seed; for a model without a world, the model by seed of the texts.
        chosen: methods.
        names: names of the families whose references are scored too; by default those of the methods.
        known: rows that need not be computed again, if base and plan are the same.
        keep: called with each row as soon as it is there.
        plan: truths and numbers of texts, by default those of the file.
        tick: progress.

    Raises:
        ProbeError: a model or its texts cannot be read.
    """
    plan = plan or read_plan()
    chosen = list(chosen)
    wanted = set(names) if names is not None else {each.family for each in chosen}
    every = [family for name, family in families().items() if name in wanted | {each.family for each in chosen}]
    have = {(row.family, row.method, row.truth, row.seed, row.base, row.plan): row for row in known}
    rows, problems = list[Row](), dict[str, None]()
    work = [(seed, family, task) for seed in bases for family in every for task in tasks_of(family, plan)]
    lms: dict[int, LM] = {}
    for at, (seed, family, task) in enumerate(work):
        tick(at / len(work))
        if seed not in lms:
            given = bases[seed]
            lms = {seed: given if isinstance(given, LM) else LM.load(given)}
        lm, problem = lms[seed], None
        truths = [each.name for each in family.truths if each.task == task and plan.asks(family.name, each.name)]
        hashed, stem = plan.hash(family.name), lm.fingerprint[:12]
        n = plan.texts(family.name)
        asked: list[Method | str] = [*(each for each in chosen if each.family == family.name)]
        asked += list(family.references) if family.name in wanted else []
        for each in asked:
            name = each if isinstance(each, str) else each.name
            keys = [(family.name, name, truth, seed, stem, hashed) for truth in truths]
            if all(key in have for key in keys) and (isinstance(each, str) or each.origin == BUILT_IN):
                rows += [have[key] for key in keys]
                continue
            if problem is None:
                problem = family.prepare(lm, task, n, seed, part(tick, at, len(work)))
            own = {"seed": seed, "n": n, "plan": hashed, "base": stem}
            try:
                new = _rows(family, problem, each, truths, own)
            except ProbeError as error:
                problems[str(error)] = None
                continue
            for row in new:
                rows.append(row)
                keep(row)
    tick(1.0)
    return Outcome(tuple(rows), tuple(problems))


def tasks_of(family: Family, plan: Plan | None = None) -> list[str]:
    """Return the tasks of a family, or of those of its truths that a plan asks."""
    asked = [each for each in family.truths if plan is None or plan.asks(family.name, each.name)]
    return list(dict.fromkeys(each.task for each in asked))


def _rows(
    family: Family, problem: Any, asked: Method | str, truths: Sequence[str], own: Mapping[str, Any]
) -> list[Row]:
    """Return the rows of a method or reference for the truths of one problem; none if it does not apply.

    Raises:
        ProbeError: the method failed.
    """
    rows = []
    if isinstance(asked, str):
        for truth in truths:
            rng = np.random.default_rng([own["seed"], *truth.encode()])
            started, grades = time.process_time(), list[Grade]()
            for _ in range(family.draws if asked == RANDOM else 1):
                grades.append(family.grade(problem, truth, family.references[asked](problem, truth, rng)))
            seconds = (time.process_time() - started) / len(grades)
            found = Grade(float(np.mean([each.score for each in grades])), grades[0].also if len(grades) == 1 else {})
            rows.append(_row(family, problem, asked, truth, found, seconds, own))
        return rows
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            if asked.origin != BUILT_IN:
                warnings.simplefilter("ignore")  # a stranger's, about a stranger's code
            answer = family.ask(problem, asked.function)
    except ProbeError as error:
        raise type(error)(f"The method `{asked.name}` of the family `{family.name}` is left out. {error}") from error
    except Exception as error:
        if asked.origin == BUILT_IN:
            raise
        raise failure(f"The method `{asked.name}` of the family `{family.name}`", error, asked.function) from error
    seconds = time.process_time() - started
    if answer is None:
        return []
    grades = [family.grade(problem, truth, answer) for truth in truths]
    return [
        _row(family, problem, asked.name, truth, found, seconds, own)
        for truth, found in zip(truths, grades, strict=True)
    ]


def _row(
    family: Family, problem: Any, name: str, truth: str, found: Grade, seconds: float, own: Mapping[str, Any]
) -> Row:
    also = json.dumps({key: float(f"{value:.4g}") for key, value in found.also.items() if math.isfinite(value)})
    expected = float(f"{family.chance(problem, truth):.6g}")
    score = float(f"{found.score:.6g}")
    numbers: dict[str, Any] = {"score": score, "chance": expected, "seconds": round(seconds, 3), **own}
    return Row(family=family.name, method=name, truth=truth, also=also, **numbers)
