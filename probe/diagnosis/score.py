"""Score of the diagnosis: how often it names a fault that was put into a training, how soon, and how often it errs.

A trial is a training whose truth is known. Beside the run `NAME` lies `NAME.json`: its `fault` (the name of a fault;
null if it is healthy), the first injured `step`, and if wished `name`, `recipe`, `seed`, and `kind`, which says on what
kind of model it was trained. The trials that count are in `score.tsv` in this folder; `make score` makes them anew.

Beside the diagnosis stand three obvious rules: a fixed bound on the KL, on the entropy, and on the loss.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from probe.diagnosis.alarms import Lasting
from probe.diagnosis.diagnosed import diagnose
from probe.diagnosis.fault_record import faults, find_fault
from probe.diagnosis.run_reading import PREFERENCES, TOKENS, Reading, Series
from probe.errors import DataError
from probe.numbers import percent
from probe.runs.reader import Run
from probe.stats import wilson
from probe.untrusted import MB, read_json

FILE = "score.tsv"
SOON = 0.25
"""Share of the steps of a training after its injury within which an alarm is soon."""
WINDOW = 5
"""Number of consecutive values over whose mean the obvious rules have their bounds."""
MOST_KL, LEAST_ENTROPY, MOST_LOSS = 1.05, 0.028, 1.2
"""Bounds of the obvious rules, in nats a completion, nats a token, and shares of the loss of the first steps. No
healthy training of the seeds 0 to 2, shipped or shortened, goes beyond them: 1.04 nats, 0.0281 nats, 1.17."""
LOOKS = 200
"""Most looks of a replay; longer runs are looked at evenly."""
HEALTHY = "healthy"
"""Name of the row of trials without a fault."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Diagnosis of a training whose truth is known."""

    kind: str
    """Kind of model that was trained: world, SmolLM2, TRL."""
    name: str
    """Name of the injury, or of the healthy training."""
    recipe: str
    seed: int
    fault: str
    """Name of the fault that was put into it; empty if it is healthy."""
    step: int
    """First injured step; 0 if it is healthy."""
    steps: int
    """Number of planned steps."""
    found: str
    """Names of the findings, the worst first, separated by spaces."""
    alarm: int | None
    """Step of the first alarm that a look after every logged row raises; None without one."""
    raised: str
    """Name of the fault of this alarm."""
    kl: int | None
    """Step at which the rule on the KL is broken; None if it never is. The same for the next two."""
    entropy: int | None
    loss: int | None

    @property
    def named(self) -> bool:
        """Whether the fault is among the findings."""
        return self.fault in self.found.split()

    @property
    def first(self) -> bool:
        """Whether the fault is the worst finding."""
        return self.found.split()[:1] == [self.fault]

    @property
    def delay(self) -> float | None:
        """Steps from the injury to the first alarm, as a share of all steps; None without an alarm since then."""
        return None if self.alarm is None or self.alarm < self.step else (self.alarm - self.step) / max(self.steps, 1)

    @property
    def rules(self) -> list[str]:
        """Names of the obvious rules that are broken since the injury."""
        steps = {"KL": self.kl, "entropy": self.entropy, "loss": self.loss}
        return [name for name, step in steps.items() if step is not None and step >= self.step]


def try_run(path: Path) -> Trial:
    """Diagnose a run beside which its truth lies, and replay the alarms of its training.

    Args:
        path: folder of the run.

    Raises:
        DataError: beside it is no truth.
        ConfigError: its fault is none that is known.
    """
    beside = path.with_name(f"{path.name}.json")
    try:
        truth = read_json(beside, MB)
    except (OSError, ValueError) as error:
        raise DataError(f"The truth about {path.name} cannot be read: {beside.name} should lie beside it.") from error
    if not isinstance(truth, dict) or "fault" not in truth:
        raise DataError(f'{beside.name} does not name a fault: write {{"fault": NAME or null, "step": STEP}}.')
    fault = "" if truth["fault"] is None else find_fault(str(truth["fault"])[:80]).name
    run = Run(path)
    reading = Reading.of(run)
    planned = run.config.get("steps")
    steps = planned if type(planned) is int and planned > 0 else reading.last_step
    alarm, raised = replay(reading, steps)
    words = {"kind": "world", "name": path.name, "recipe": ""}
    step, seed = _count_of(truth, "step"), _count_of(truth, "seed")
    return Trial(
        **{key: str(truth.get(key) or default)[:80] for key, default in words.items()},
        seed=seed,
        fault=fault,
        step=step if fault else 0,
        steps=steps,
        found=" ".join(each.fault.name for each in diagnose(reading).findings),
        alarm=alarm,
        raised=raised,
        kl=break_kl(reading),
        entropy=break_entropy(reading),
        loss=break_loss(reading),
    )


def _count_of(truth: Mapping[str, Any], key: str) -> int:
    value = truth.get(key)
    return value if type(value) is int and 0 <= value < 2**62 else 0


def replay(reading: Reading, planned: int) -> tuple[int | None, str]:
    """Return the step of the first alarm that a look after every logged row raises, and its fault."""
    lasting, rows = Lasting(planned), len(reading.frame)
    for end in np.unique(np.linspace(1, rows, min(rows, LOOKS)).astype(int)) if rows else ():
        seen = Reading(reading.frame.iloc[:end], reading.method, reading.config)
        for each in lasting.take(seen.last_step, diagnose(seen).findings):
            return seen.last_step, each.fault.name
    return None, ""


def _beyond(series: Series, broken: Callable[[np.ndarray], np.ndarray]) -> int | None:
    """Return the first step at which the mean of the last values is beyond a bound."""
    if len(series) < WINDOW:
        return None
    means = np.convolve(series.values, np.ones(WINDOW) / WINDOW, "valid")
    places = np.flatnonzero(broken(means))
    return int(series.steps[places[0] + WINDOW - 1]) if len(places) else None


def break_kl(reading: Reading) -> int | None:
    """Return the first step at which the KL exceeds its bound, or None."""
    return _beyond(reading.series("objective/kl", "kl", "kl_to_reference"), lambda means: means > MOST_KL)


def break_entropy(reading: Reading) -> int | None:
    """Return the first step at which the entropy falls below its bound, or None."""
    return _beyond(reading.series("entropy", "objective/entropy"), lambda means: means < LEAST_ENTROPY)


def break_loss(reading: Reading) -> int | None:
    """Return the first step at which a loss of given examples is not finite or above its bound, or None."""
    lost = reading.lost("loss", ("lr", "grad_norm", "step_time"))
    if len(lost):
        return int(lost[0])
    if reading.method not in (*TOKENS, *PREFERENCES, "continual"):
        return None
    return _beyond(reading.series("loss"), lambda means: means > MOST_LOSS * means[0])


def score(trials: Iterable[Trial]) -> pd.DataFrame:
    """Count over trials: one row per fault, one for all faults of each kind of model, and the healthy ones last.

    Columns: `fault` (name), `title`, `runs`, `found` (runs with any finding), `named` (runs in which this fault is
    found), `first` (it is the worst finding), `alarms` (runs with an alarm since the injury), `soon` (within `SOON`
    of the steps), `delay` (median of steps to the alarm, as a share of all), `rules` (runs in which an obvious rule is
    broken).
    """
    trials = list(trials)
    groups: list[tuple[str, str, list[Trial]]] = []
    ill = [each for each in trials if each.fault]
    for name, fault in faults().items():
        groups.append((name, fault.title, [each for each in ill if each.fault == name]))
    for kind in dict.fromkeys(each.kind for each in ill):
        groups.append(("", f"All faults, {kind}", [each for each in ill if each.kind == kind]))
    groups.append(("", "All faults", ill))
    groups.append((HEALTHY, "Healthy", [each for each in trials if not each.fault]))
    return pd.DataFrame([_count(*group) for group in groups if group[2]], columns=list(COLUMNS))


COLUMNS = ("fault", "title", "runs", "found", "named", "first", "alarms", "soon", "delay", "rules")


def _count(name: str, title: str, trials: Sequence[Trial]) -> dict[str, Any]:
    delays = [each.delay for each in trials if each.delay is not None]
    return {
        "fault": name,
        "title": title,
        "runs": len(trials),
        "found": sum(bool(each.found) for each in trials),
        "named": sum(each.named for each in trials),
        "first": sum(each.first for each in trials),
        "alarms": len(delays),
        "soon": sum(delay <= SOON for delay in delays),
        "delay": float(np.median(delays)) if delays else None,
        "rules": sum(bool(each.rules) for each in trials),
    }


def sentence(trials: Iterable[Trial]) -> str:
    """Return the score in words, with 95 % intervals over runs."""
    trials = list(trials)
    ill, healthy = [each for each in trials if each.fault], [each for each in trials if not each.fault]

    def share(count: int, runs: Sequence[Trial]) -> str:
        return f"{count} of {len(runs)} ({percent(*wilson(count, len(runs)))})"

    named, ruled = sum(each.named for each in ill), sum(bool(each.rules) for each in ill)
    soon = sum(each.delay is not None and each.delay <= SOON for each in ill)
    alarmed, found = sum(each.alarm is not None for each in healthy), sum(bool(each.found) for each in healthy)
    parts = [
        f"The fault is named in {share(named, ill)} trainings into which it was put, and an alarm is raised within a "
        f"quarter of the training after the injury in {soon}; an obvious rule is broken in {ruled}."
    ] * bool(ill)
    if healthy:
        wrong = sum(bool(each.rules) for each in healthy)
        verbs = (("has", "have", found, "a finding"), ("raises", "raise", alarmed, "an alarm"))
        said = ", ".join(f"{count} {one if count == 1 else more} {what}" for one, more, count, what in verbs)
        breaks = "breaks" if wrong == 1 else "break"
        parts.append(f"Of {len(healthy)} healthy trainings {said}, and {wrong} {breaks} an obvious rule.")
    return " ".join(parts)


@lru_cache(maxsize=1)
def shipped_trials() -> tuple[Trial, ...]:
    """Read the trials of `score.tsv`, on whose seeds and models no rule was made before they were scored."""
    text = files("probe.diagnosis").joinpath(FILE).read_text()
    return tuple(_trial(row) for row in csv.DictReader(text.splitlines(), delimiter="\t"))


def _trial(row: dict[str, str]) -> Trial:
    values: dict[str, Any] = dict(row)
    for each in fields(Trial):
        if each.type is not str:
            values[each.name] = int(row[each.name]) if row[each.name] else None
    return Trial(**values)


def as_text(trials: Iterable[Trial]) -> str:
    """Return trials as tab-separated values, as `score.tsv` has them."""
    lines = ["\t".join(each.name for each in fields(Trial))]
    for trial in trials:
        lines.append("\t".join("" if value is None else str(value) for value in asdict(trial).values()))
    return "\n".join(lines) + "\n"
