"""Published claims, the finding for each on the runs that are here, and the file that stores the findings.

A claim is somebody's published sentence. Its effect is one number whose sign the sentence predicts; the claim holds
here if the whole 95 % interval lies on that side of zero, and whatever else the sentence asserts is so too.

A `Bench` holds the runs that claims are measured on: models loaded once, results of experiments from the store or made
anew. Where these runs have other seeds (`probe.seeds`), each pipeline of theirs is a bench of its own, and the effects
of all give the mean over trainings. What was found is measured anew on demand, and of itself when one of the runs is
another one than then. Findings of the sample runs that come with Probe are found there, and new ones go to `results` of
the working directory.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.errors import RunError
from probe.experiments.store import WORK
from probe.numbers import in_unit
from probe.runs.directories import find, is_shipped
from probe.runs.reader import Run, list_runs, open_run
from probe.runs.schema import dumps
from probe.runs.storage import disk, write_atomic
from probe.seeds.grouping import Group, groups
from probe.seeds.t_intervals import OverTrainings, mean_over_trainings
from probe.stats import Interval
from probe.terms import UNSAID
from probe.ticks import Tick
from probe.untrusted import read_json, readable

if TYPE_CHECKING:
    from probe.experiments.result import Result
    from probe.model.lm import LM
    from probe.world.world import World

BASE = "base"


class Bench:
    """Runs by name, in one folder or in the folders of runs."""

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        n: int | None = None,
        again: bool = False,
        tick: Tick | None = None,
    ) -> None:
        """Say where the runs are.

        Args:
            root: folder that holds them; default: the folders of runs.
            n: questions of each kind in experiments; None for their own defaults.
            again: run experiments even if their results are stored.
            tick: called with the share of an experiment that is done.
        """
        self.root = None if root is None else Path(root).expanduser()
        self.n, self.again, self.tick = n, again, tick
        self.origin = ""
        """The first training of the seeds that stand for the named runs (`probe.seeds.Group.lines`); else empty."""
        self._models: dict[str, LM] = {}
        self._fresh: set[tuple[Any, ...]] = set()

    def run(self, name: str) -> Run:
        """The run of a name, or the seed of it that descends from `origin`.

        Raises:
            RunError: there is none.
        """
        if not self.origin:
            return self._named(name)
        try:
            return self._seeds(name)[self.origin]
        except KeyError:
            raise RunError(f"`{name}` has no seed that descends from the training {self.origin[:8]}.") from None

    def further(self, claim: "Claim") -> list["Bench"]:
        """A bench for each further pipeline, by seed: the runs of a claim from a first training of their own.

        Runs whose seeds start from one base have none, since nothing but their last step was trained again.
        """
        try:
            seeds = [self._seeds(name) for name in claim.runs]
        except RunError:  # a run is missing or broken
            return []
        named, benches = self._named(claim.runs[0]).path.resolve(), []
        for origin, run in seeds[0].items():
            if run.path.resolve() != named and all(origin in each for each in seeds[1:]):
                other = Bench(self.root, n=self.n, again=self.again, tick=self.tick)
                other.origin, other._groups = origin, self._groups
                benches.append(other)
        return benches

    def lacks(self, claim: "Claim", found: "Finding | None") -> bool:
        """Whether a claim is yet to be measured here: on the named runs, or on a further seed that has weights."""
        return found is None or any(
            other.origin not in found.further and all(other.run(name).checkpoints() for name in claim.runs)
            for other in self.further(claim)
        )

    def _named(self, name: str) -> Run:
        return open_run(name) if self.root is None else Run(find(name, [self.root]))

    def _seeds(self, name: str) -> dict[str, Run]:
        """The seeds of a named run by the first training that each descends from."""
        path = self._named(name).path.resolve()
        group = next((each for each in self._groups if any(run.path.resolve() == path for run in each.runs)), None)
        seeds: dict[str, Run] = {}
        for line, run in zip(group.lines, group.runs, strict=True) if group else ():
            seeds.setdefault(line[0], run)
        return seeds

    @cached_property
    def _groups(self) -> list[Group]:
        return groups(list_runs(self.root))

    def missing(self, names: tuple[str, ...]) -> list[str]:
        """The names that no run has; a run that cannot be read is there."""
        absent = []
        for name in names:
            try:
                find(name, None if self.root is None else [self.root])
            except RunError:
                absent.append(name)
        return absent

    def lm(self, name: str) -> "LM":
        """The model of a run; a reward model as one whose logit is the reward."""
        if name not in self._models:
            from probe.model.rewards import analysable

            self._models[name] = analysable(str(self.run(name).path))
        return self._models[name]

    @cached_property
    def world(self) -> "World":
        """The world of the base model.

        Raises:
            RunError: it has none.
        """
        from probe.world import of

        world = of(self.run(BASE))
        if world is None:
            raise RunError(f"The run `{BASE}` has no world, so nothing is known to be true: name the sample runs.")
        return world

    def result(self, experiment: str, name: str, baseline: str | None = None, **options: Any) -> "Result":
        """The result of an experiment on a run, and on a baseline if one is named; stored results are read."""
        from probe.experiments.registry import find_experiment
        from probe.experiments.store import obtain

        options = options if self.n is None else {"n": self.n, **options}
        key = (experiment, name, baseline, tuple(sorted(options.items())))
        other = self.lm(baseline) if baseline else None
        again = self.again and key not in self._fresh
        result = obtain(find_experiment(experiment), self.lm(name), other, again=again, tick=self.tick, **options)
        self._fresh.add(key)
        return result


@dataclass(frozen=True)
class Measurement:
    """What a claim's function gives."""

    effect: Interval
    """The number of the claim with its 95 % interval."""
    n: int
    """Items behind it."""
    holds: bool
    """Whether the claim holds here."""
    said: str
    """The numbers in one sentence, those included that speak against the claim."""


@dataclass(frozen=True)
class Claim:
    """A published claim and how it is measured."""

    name: str
    """Short and stable, as in `probe findings --only`."""
    sentence: str
    """The claim."""
    source: str
    """Who published it, with the number of the preprint."""
    effect: str
    """What the number is."""
    runs: tuple[str, ...]
    """Names of the runs that it needs, the model first."""
    page: str
    """The page of the dashboard that shows it, such as `sycophancy` or `rewards`."""
    measure: Callable[[Bench], Measurement]
    choices: Mapping[str, str] = field(default_factory=dict)
    """What else a link to that page chooses, such as a prompt."""
    version: int = 1
    """Raised when equal runs would give another finding."""
    unit: str = ""
    """Of the number (`probe.terms`)."""


@dataclass(frozen=True)
class Finding:
    """A claim with its finding; without numbers where it could not be measured."""

    name: str
    sentence: str
    source: str
    effect: str
    page: str
    runs: tuple[str, ...]
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    holds: bool | None = None
    """None where it could not be measured."""
    said: str = ""
    """The numbers in words, or why there are none."""
    choices: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    further: Mapping[str, "Finding"] = field(default_factory=dict)
    """The same of further seeds, by the first training that each descends from."""

    @classmethod
    def of(cls, claim: Claim, found: Measurement | str) -> "Finding":
        """What was found, or why nothing was."""
        facts: dict[str, Any] = {
            name: getattr(claim, name)
            for name in ("name", "sentence", "source", "effect", "page", "runs", "choices", "unit")
        }
        if isinstance(found, str):
            return cls(**facts, said=found)
        value, low, high = found.effect
        return cls(**facts, value=value, ci_low=low, ci_high=high, n=found.n, holds=found.holds, said=found.said)

    @property
    def number(self) -> str:
        """The effect with its interval, as its unit is shown."""
        text = in_unit(self.unit, self.value, self.ci_low, self.ci_high, sign=True)
        return text if self.unit in UNSAID else f"{text} {self.unit}"

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured`."""
        return "not measured" if self.holds is None else "holds" if self.holds else "does not hold"

    @property
    def seeds(self) -> list["Finding"]:
        """Of all trainings in which the claim was measured, the named runs' first."""
        return [each for each in (self, *self.further.values()) if each.value is not None]

    @property
    def mean(self) -> OverTrainings:
        """Of the effect over trainings."""
        return mean_over_trainings([each.value for each in self.seeds if each.value is not None])

    @property
    def held(self) -> int:
        """In how many trainings the claim holds."""
        return sum(bool(each.holds) for each in self.seeds)

    @property
    def over_trainings(self) -> str:
        """The mean over trainings in a sentence; empty where there is one."""
        count = len(self.seeds)
        mean = self.mean.format(self.unit, sign=True) + f" {self.unit}" * (self.unit not in UNSAID)
        held = "all" if self.held == count else f"{self.held} of them"
        return f"Over {count} trainings {mean}; holds in {held}." if count > 1 else ""


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row a claim: what it says, its effect with the interval over answers, and the mean over trainings.

    Returns:
        name, sentence, source, effect, value, ci_low, ci_high, n, holds, said, page, runs; over trainings mean,
        mean_low, mean_high, trainings, and held, in how many of them it holds.
    """
    over = ["mean", "mean_low", "mean_high", "trainings", "held"]
    rows = [
        asdict(finding) | {"runs": " ".join(finding.runs)} | dict(zip(over, (*finding.mean, finding.held), strict=True))
        for finding in findings
    ]
    order = ["name", "sentence", "source", "effect", "value", "ci_low", "ci_high", "n", "holds", "said", "page", "runs"]
    return pd.DataFrame(rows, columns=order + over)


FILE = "findings.json"
FORMAT = 1
TYPES: dict[str, Any] = {
    **dict.fromkeys(("name", "sentence", "source", "effect", "page", "said"), str),
    **dict.fromkeys(("value", "ci_low", "ci_high"), int | float | None),
    "n": int,
    "holds": bool | None,
}
"""The fields of an entry; one that lacks any is measured anew."""
MEASURED = ("value", "ci_low", "ci_high", "n", "holds", "said")
"""Those that were found; the others say what the claim is, and the claim itself says it here."""


def key(bench: Bench, claim: Claim) -> str:
    """A hash of everything that a finding depends on: the claim's version, and when and how its runs were made.

    Raises:
        RunError: a run is missing.
    """
    runs = [bench.run(name) for name in claim.runs]
    run_facts = [[run.name, run.created, run.steps, run.config] for run in runs]
    text = json.dumps([FORMAT, claim.name, claim.version, run_facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def entry_name(bench: Bench, claim: Claim) -> str:
    """Where a finding stands in the file: one of the named runs by its claim, those of further seeds by their runs too.

    Raises:
        RunError: a run is missing.
    """
    return f"{claim.name} {key(bench, claim)}" if bench.origin else claim.name


def folder(bench: Bench) -> Path | None:
    """The folder that holds the runs: the one that was named, or that of the first run of the claims that is there."""
    if bench.root is not None:
        return bench.root
    try:
        return Path(os.path.abspath(bench.run("base").path)).parent
    except RunError:
        return None


def files(bench: Bench) -> list[Path]:
    """The files that may store findings; new ones go to the first. None where there are no runs."""
    place = folder(bench)
    if place is None:
        return []
    writable = not is_shipped(place) and os.access(place, os.W_OK)
    return [place / FILE] if writable else [WORK / FILE, place / FILE]


def read_record(bench: Bench, claims: Sequence[Claim]) -> dict[str, Finding]:
    """Findings by claim that are on record for the runs as they are now, those of further seeds with them."""
    stored = [_read(file) for file in files(bench)]
    findings = {}
    for claim in claims:
        if found := on_record(bench, claim, stored):
            seeds = {other.origin: on_record(other, claim, stored) for other in bench.further(claim)}
            findings[claim.name] = replace(found, further={at: each for at, each in seeds.items() if each})
    return findings


def on_record(bench: Bench, claim: Claim, stored: Sequence[Mapping[str, Any]] | None = None) -> Finding | None:
    """The finding on one bench alone, without further seeds.

    Args:
        bench: of the named runs, or of one further seed.
        claim: whose finding.
        stored: entries of the files, where they were read.
    """
    stored = [_read(file) for file in files(bench)] if stored is None else stored
    try:
        name, expected = entry_name(bench, claim), key(bench, claim)
    except RunError:  # a run is missing or broken
        return None
    for entry in (entries.get(name) for entries in stored):
        if not isinstance(entry, dict) or entry.get("key") != expected:
            continue
        if all(
            each in entry and isinstance(entry[each], kind) and _is_bounded(entry[each]) for each, kind in TYPES.items()
        ):
            return replace(Finding.of(claim, ""), **{each: entry[each] for each in MEASURED})
    return None


def record(bench: Bench, claims: Sequence[Claim], found: Sequence[Finding]) -> Path | None:
    """Put findings on record, those of further seeds with them; None where the folder may not be written to.

    Raises:
        RunError: the disk refuses.
    """
    file = next(iter(files(bench)), None)
    if file is None or not os.access(next(place for place in file.absolute().parents if place.exists()), os.W_OK):
        return None
    entries = _read(file)
    for claim, finding in zip(claims, found, strict=True):
        benches = {other.origin: other for other in bench.further(claim)}
        seeds = [(benches[origin], each) for origin, each in finding.further.items() if origin in benches]
        for at, each in [(bench, finding), *seeds]:
            if each.holds is not None:
                values = {name: getattr(each, name) for name in TYPES}
                entries[entry_name(at, claim)] = {"key": key(at, claim), **values}
    with disk(file):
        write_atomic(file, (dumps({"format": FORMAT, "findings": entries}, indent=2) + "\n").encode())
    return file


def _is_bounded(value: Any) -> bool:
    return not isinstance(value, int | float) or abs(value) < 2**63


def _read(file: Path) -> dict[str, Any]:
    """Entries by claim; none where the file is missing, damaged or of another format."""
    try:
        content = readable(read_json(file))
    except (OSError, ValueError):
        return {}
    fits = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("findings"), dict)
    return content["findings"] if fits else {}
