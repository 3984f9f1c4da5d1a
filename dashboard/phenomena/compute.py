"""Results for the pages of experiments: found where they were stored, computed when asked for, compared."""

import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from dashboard import access, models
from dashboard.data import stamp
from dashboard.models import ModelFacts
from dashboard.report import tell
from probe.errors import DataError, ProbeError
from probe.experiments import store
from probe.experiments.cost import TRIED, estimate_seconds
from probe.experiments.definition import Experiment, form
from probe.experiments.metrics import COLUMNS, COMPARED, PAIRS, differences
from probe.experiments.registry import experiments
from probe.experiments.result import RESULT_FILE, Result, sendable_result
from probe.experiments.run import Call, call, columns_as_metrics, finish, join, prepare, rename_model
from probe.experiments.store import writable
from probe.options import describe, parse, words
from probe.plugins import failure
from probe.questions.sets import SETS, default_set
from probe.ticks import Tick
from probe.untrusted import read_file
from probe.world import of

if TYPE_CHECKING:
    from probe.model.lm import LM

FOLDER = "compared"
"""Inside the folder of a result, and gone when the result is stored anew; may be deleted at any time."""


def compare_summaries(experiment: Experiment, result: Result, base: Result, place: Path | None) -> pd.DataFrame:
    """Return the summary of one model with the columns of a baseline (`probe.experiments.metrics.COMPARED`).

    Args:
        experiment: of both.
        result: of the model.
        base: of the baseline.
        place: the folder of the model's stored result, in which the table is kept; None keeps nothing.
    """
    names = ("key", "created", "seconds", "unit", "intervals")
    facts = [tuple(each.meta.get(name) for name in names) for each in (result, base)]
    name = f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.csv"
    files = [] if place is None else [folder / FOLDER / name for folder in (place, writable(place))]
    tables = (_read(file, experiment.across_worlds) for file in files)
    comparison = next((table for table in tables if table is not None), None)
    if comparison is None or list(comparison["metric"]) != list(result.summary["metric"]):
        seed = int(base.meta.get("seed") or 0)
        metrics = experiment.metrics or columns_as_metrics(pd.concat([result.items, base.items]))
        both = result.items, base.items
        comparison = differences(metrics, result.summary, base.summary, *both, seed, experiment.across_worlds)
        if files:
            _write(files[-1], comparison)
    return comparison


def _read(file: Path, across_worlds: bool) -> pd.DataFrame | None:
    if not file.is_file():
        return None
    try:
        text = pd.read_csv(io.BytesIO(read_file(file)), dtype=str, keep_default_na=False)
        columns = (*COLUMNS[1:], *COMPARED, *((PAIRS,) if across_worlds else ()))
        numbers = {name: [float(value or "nan") for value in text[name]] for name in columns}
        return pd.DataFrame({"metric": list(text["metric"]), **numbers}).astype({"n": int})
    except (OSError, ValueError, KeyError):
        return None


def _write(file: Path, table: pd.DataFrame) -> None:
    if not access.may_write() or not store.may_make(file):
        return
    scratch = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(table.to_csv(index=False), encoding="utf-8")
        scratch.replace(file)
    except OSError:  # what is not kept is made again
        scratch.unlink(missing_ok=True)


@dataclass(frozen=True)
class Subject:
    """A model that an experiment is run on."""

    label: str
    """How the page calls it."""
    choice: str
    """What the reader chose."""
    ref: str
    """What loads it."""


@dataclass(frozen=True)
class Question:
    """An experiment with its options."""

    experiment: Experiment
    words: tuple[str, ...] = ()
    """The options that differ from their defaults, as on the command line."""

    @property
    def options(self) -> dict[str, Any]:
        """The options by name, with their types.

        Raises:
            ConfigError: a value does not fit.
        """
        return _options(self.experiment, self.words)

    def call(self, known: ModelFacts) -> Call:
        """Return the call on one model by which its stored result is found.

        Raises:
            ConfigError: an option cannot be used.
        """
        return call(self.experiment, cast("LM", known), **self.options)


@dataclass(frozen=True)
class Outcome:
    """What is there of one model."""

    subject: Subject
    result: Result | None = None
    error: str = ""
    """Why there is none, in one sentence, where the experiment failed."""
    place: Path | None = None
    """The folder that it lies in; None where it is in this server's memory alone."""


def refusal(question: Question) -> str:
    """Say in one sentence why a file that the options name cannot be used; empty where it can.

    No model is needed.
    """
    try:
        prepare(question.experiment, **question.options)
    except DataError as error:
        return str(error)
    return ""


def find_result(question: Question, subject: Subject, known: ModelFacts) -> Outcome:
    """Find the result that is stored, or that this server has computed; the outcome is empty where there is none."""
    own_call = question.call(known)
    place = store.place(own_call)
    version = stamp(place / RESULT_FILE)
    memory = models.RESULTS
    if version != (0, 0):
        key = "stored result", str(place), version
        result = memory.get(key)
        if result is None:
            record = store.find_stored(own_call)
            result = None if record is None else sendable_result(record)
            memory.put(key, result)
        if result is not None:
            return Outcome(subject, result, place=place)
    return Outcome(subject, memory.get(("unstored result", str(place))))


def stored_options(question: Question, known: Sequence[ModelFacts]) -> dict[str, dict[str, Any]]:
    """Find options under which a result of every model is stored: values by name, keyed by the words that say them.

    Results are a stranger's data: those over a file, or with an option that names one, are left out, shipped sets
    apart, and so are those with an option that is no plain value.
    """
    experiment, found = question.experiment, dict[str, dict[str, Any]]()
    fields = describe(form(experiment))
    for _, index in chain.from_iterable(map(store.results, store.homes(cast("LM", known[0])))):
        meta, data = index["meta"], index["meta"].get("data") or {}
        if index["name"] != experiment.name or not (isinstance(meta.get("options"), dict) and isinstance(data, dict)):
            continue
        set_name = str(data.get("name")).removesuffix(".jsonl")
        usual = default_set(experiment.name)
        values = meta["options"] | {"n": meta.get("n"), "seed": meta.get("seed")}
        files = [each for each in fields if each["file"] and each["name"] != "data"]
        named = any(values.get(each["name"], each["default"]) != each["default"] for each in files)
        if named or (data and set_name not in SETS):
            continue
        values["data"] = None if not data or (usual and set_name == usual.name) else set_name
        changed = {each["name"]: values.get(each["name"], each["default"]) for each in fields}
        changed = {each["name"]: changed[each["name"]] for each in fields if changed[each["name"]] != each["default"]}
        if not all(_is_plain(value) for value in changed.values()):
            continue
        flags = {each["flag"]: changed[each["name"]] for each in fields if each["name"] in changed}
        other = replace(question, words=tuple(words(flags)))
        with suppress(ProbeError):
            if all((store.place(other.call(each)) / RESULT_FILE).is_file() for each in known):
                found[", ".join(f"{name} {value}" for name, value in changed.items())] = changed
    return found


def _is_plain(value: object) -> bool:
    """Return whether a value is one word of a command line, and no option."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and not value.startswith("-"))


def compute(question: Question, subject: Subject, known: ModelFacts, *, again: bool = False) -> Outcome:
    """Run an experiment on a model with a progress bar, and store what it finds.

    Raises:
        ConfigError: the reader may only read.
    """
    access.check()
    try:
        own_call = question.call(known)
        lm = models.load(subject.ref)
        if lm is None:
            return Outcome(subject)
        result = models.compute_once(
            _perform,
            lm,
            say=f"{question.experiment.title}: asking {subject.label}",
            steps=True,
            again=again,
            name=question.experiment.name,
            words=question.words,
            source=question.experiment.source,
        )
        result = finish(question.experiment, _relabel(result, subject.label, subject.ref))
    except Exception as error:  # whatever a reader's own experiment does wrong
        return Outcome(subject, error=explain_failure(question.experiment, error))
    place = store.keep(own_call, result)
    result = sendable_result(result)
    if place is None:
        models.RESULTS.put(("unstored result", str(store.place(own_call))), result)
    return Outcome(subject, result, place=place)


def _perform(lm: "LM", tick: Tick, name: str, words: tuple[str, ...], source: str | None) -> Result:
    experiment = experiments()[name]
    return store.carry_out(call(experiment, lm, **_options(experiment, words)), tick)


def _relabel(result: Result, label: str, ref: str) -> Result:
    """Rename the model of a result to the label and the reference that the reader knows; its figures stay."""
    about = [model | {"label": label, "ref": ref} for model in result.meta["models"]]
    result = rename_model(result, label)
    return replace(result, meta=result.meta | {"models": about})


def alike(
    outcomes: Sequence[Outcome], leader: str | None, across_worlds: bool = False
) -> tuple[list[Outcome], list[Outcome]]:
    """Return (results that can be compared, the others): the former are those of the world that one model belongs to.

    Args:
        outcomes: what is there of every model.
        leader: the choice whose world it is; the first model's where there is no result of it.
        across_worlds: the experiment lays models of all worlds side by side.
    """
    candidates = [each for each in outcomes if each.result is not None]
    if across_worlds:
        return candidates, []
    first = next((each for each in candidates if each.subject.choice == leader), candidates[0] if candidates else None)
    same = [each for each in candidates if first is not None and _world(each) == _world(first)]
    return same, [each for each in candidates if each not in same]


def _world(outcome: Outcome) -> object:
    meta = outcome.result.meta if outcome.result is not None else {}
    return None if meta.get("data") else meta.get("world")


def apart(outcomes: Sequence[Outcome]) -> str:
    """Describe how the worlds of models differ; empty where all belong to one, or were asked from one file."""
    if len({_world(each) for each in outcomes}) < 2:
        return ""
    facts = [models.model_facts(each.subject.ref) for each in outcomes]
    worlds = [world for each in facts if each is not None and (world := of(each)) is not None]
    configs = [world.config.to_dict() for world in worlds]
    differences = ["without a world"] if len(worlds) < len(outcomes) else []
    differences += ["with other seeds"] if len({world.seed for world in worlds}) > 1 else []
    for name, value in configs[0].items() if configs else ():
        values = [config[name] for config in configs]
        if any(other != value for other in values):
            numbers = sorted({float(other) for other in values if isinstance(other, int | float)})
            differences.append(f"{name.replace('_', ' ')} {' or '.join(f'{number:g}' for number in numbers)}".strip())
    return ", ".join(differences)


@dataclass(frozen=True)
class Together:
    """Results of several models side by side."""

    result: Result
    """Of all of them."""
    summaries: dict[str, pd.DataFrame]
    """Of each model by label; those of any but the first have the columns of `probe.experiments.metrics.COMPARED`."""
    problem: str = ""
    """Why there are no figures and no sentence, where drawing or saying them fails."""


def together(question: Question, outcomes: Sequence[Outcome]) -> Together:
    """Join results side by side, with the first model as the baseline.

    Raises:
        DataError: they are of different questions.
    """
    stamps = tuple(
        (each.subject, each.result.meta.get("key"), each.result.meta.get("created"))
        for each in outcomes
        if each.result is not None
    )
    key = "joined results", question.experiment.name, question.experiment.source, question.words, stamps
    result = models.RESULTS.get(key)
    if result is None:
        result = _together(question.experiment, [each for each in outcomes if each.result is not None])
        models.RESULTS.put(key, result)
    return result


def _together(experiment: Experiment, outcomes: Sequence[Outcome]) -> Together:
    parts = [
        _relabel(each.result, each.subject.label, each.subject.ref) for each in outcomes if each.result is not None
    ]
    base, *others = parts
    summaries = {base.models[0]: base.summary}
    for each, other in zip(outcomes[1:], others, strict=True):
        summaries[other.models[0]] = compare_summaries(experiment, other, base, each.place)
    bare = replace(experiment, metrics=experiment.metrics[:1], draw=None, say=None)
    result = join(bare, [*others, base]) if others else base
    result = replace(result, summary=summaries[result.models[0]])
    try:
        return Together(finish(experiment, result), summaries)
    except Exception as error:  # whatever a drawing does wrong: the numbers are there even so
        figures: dict[str, Any] = {}  # those of one model would be taken for those of all
        return Together(finish(bare, replace(result, figures=figures)), summaries, explain_failure(experiment, error))


def tried_seconds(question: Question, known: ModelFacts) -> float | None:
    """Return how long a model takes, by the few questions that `try_out` asked it; None where it asked none."""
    seconds: float | None = models.RESULTS.get(_tried(question, known))
    return seconds


def try_out(question: Question, subject: Subject, known: ModelFacts) -> None:
    """Ask a model a few questions, with a progress bar, to know how long all of them take.

    Raises:
        ConfigError: the reader may only read.
        ProbeError: the model or the experiment cannot be used.
    """
    access.check()
    lm = models.load(subject.ref)
    if lm is not None:
        seconds = models.compute_once(
            _try,
            lm,
            say=f"{question.experiment.title}: asking {subject.label} {TRIED} questions",
            steps=True,
            name=question.experiment.name,
            words=question.words,
            source=question.experiment.source,
        )
        models.RESULTS.put(_tried(question, known), seconds)


def _tried(question: Question, known: ModelFacts) -> tuple[object, ...]:
    return "tried", known.fingerprint, question.experiment.name, question.experiment.source, question.words


def _try(lm: "LM", tick: Tick, name: str, words: tuple[str, ...], source: str | None) -> float:
    experiment = experiments()[name]
    return estimate_seconds(call(experiment, lm, **_options(experiment, words)), tick)


def explain_failure(experiment: Experiment, error: Exception) -> str:
    """Say in one sentence why an experiment failed; what is no mistake of the reader's is printed in the console."""
    if isinstance(error, ProbeError):
        return str(error)
    tell(error)
    return str(failure(f"The experiment `{experiment.name}`", error, experiment.function))


def _options(experiment: Experiment, words: tuple[str, ...]) -> dict[str, Any]:

    own: Any = form(experiment)
    values = parse(own, list(words), f"probe experiment {experiment.name}")
    return {each.name: getattr(values, each.name) for each in fields(own)}


def changed_options(question: Question) -> dict[str, Any]:
    """Return the options whose values differ from the function's defaults."""
    parameters = question.experiment.signature.parameters
    return {name: value for name, value in question.options.items() if parameters[name].default != value}
