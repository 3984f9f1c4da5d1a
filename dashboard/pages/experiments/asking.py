"""An experiment's options and models, and its results, stored or newly computed."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
import streamlit as st

from dashboard import access, models
from dashboard.components.focus import take_focus
from dashboard.components.form import lasting_key, memory, options
from dashboard.consent import may_open, name_all
from dashboard.data import parents, stamp
from dashboard.jobs import find_job, launch
from dashboard.markdown import escape_markdown, guard_callback, note
from dashboard.models import ModelFacts
from dashboard.seed_groups import by_member, seed_groups
from dashboard.state import SharedChoices, current, default_pair, keep, model_options, split_choice
from probe.errors import DataError, ProbeError
from probe.experiments import store
from probe.experiments.comparison import ModelComparison, compare_results
from probe.experiments.cost import TRIED, estimate_seconds
from probe.experiments.definition import Experiment, form
from probe.experiments.registry import experiments
from probe.experiments.result import RESULT_FILE, Result, sendable_result
from probe.experiments.run import Call, call, prepare, rename_model
from probe.jobs.job import LIVE, Job
from probe.jobs.trainings import status_of
from probe.options import describe, parse, words
from probe.questions.sets import SETS, default_set
from probe.seeds.joined_results import find_results
from probe.seeds.numbers_over_trainings import NumbersOverTrainings, Trainings
from probe.seeds.t_intervals import UNKNOWN
from probe.texts import visible
from probe.ticks import Tick
from probe.world import of

if TYPE_CHECKING:
    from probe.model.lm import LM

MORE = "also"
"""Key of further models, the same on all pages of experiments."""
MOST, MOST_VALUES = 8, 16
"""Largest number of models that are compared, and of values in a list of a stored option."""
NEAR = 8
"""Largest number of pairs of a run and its base whose stored results are looked for."""


@dataclass(frozen=True)
class Subject:
    """A model that an experiment is run on."""

    label: str
    """Label of the model on the page."""
    choice: str
    """Choice of the reader."""
    ref: str
    """Reference that loads the model."""


@dataclass(frozen=True)
class Request:
    """An experiment with its options."""

    experiment: Experiment
    words: tuple[str, ...] = ()
    """Options that differ from their defaults, as on the command line."""

    @property
    def options(self) -> dict[str, Any]:
        """The options by name, converted to their types.

        Raises:
            ConfigError: a value does not fit.
        """
        return _options(self.experiment, self.words)

    def call(self, known: ModelFacts) -> Call:
        """Return the call on one model, with which its stored result is found.

        Raises:
            ConfigError: an option cannot be used.
        """
        return call(self.experiment, cast("LM", known), **self.options)


@dataclass(frozen=True)
class ModelResult:
    """Result of one model, if any."""

    subject: Subject
    result: Result | None = None
    error: str = ""
    """Reason for a missing result in one sentence, if the experiment failed."""
    place: Path | None = None
    """Folder of the result."""
    job: Job | None = None
    """The last job that measured the model with these options, if there is no result."""

    @property
    def is_measured(self) -> bool:
        """Return whether a job is measuring the model now."""
        return self.job is not None and status_of(self.job) in LIVE


@dataclass(frozen=True)
class Nearest:
    """Stored results that are shown in place of missing ones."""

    question: Request
    outcomes: list[ModelResult]
    remark: str
    """Sentence that says whose results they are, and with which options."""


def refusal(question: Request) -> str:
    """State in one sentence why a file named by the options cannot be used; empty if it can. No model is needed."""
    try:
        prepare(question.experiment, **question.options)
    except DataError as error:
        return str(error)
    return ""


def find_result(question: Request, subject: Subject, known: ModelFacts) -> ModelResult:
    """Find the stored result of a model; without one, the job that measures it and why it failed."""
    own_call = question.call(known)
    place = store.place(own_call)
    version = stamp(place / RESULT_FILE)
    result = None
    if version != (0, 0):
        key = "stored result", str(place), version
        result = models.RESULTS.get(key)
        if result is None:
            record = store.find_stored(own_call)
            result = None if record is None else sendable_result(record)
            models.RESULTS.put(key, result)
    if result is not None:
        return ModelResult(subject, result, place=place)
    job = find_job(title_of_job(question, subject))
    if job is None:
        return ModelResult(subject)
    unsaved = next((line for line in job.lines if line.startswith("Not saved: ")), "")
    return ModelResult(subject, error=job.error or unsaved, job=job)


def stored_options(question: Request, known: Sequence[ModelFacts]) -> dict[str, dict[str, Any]]:
    """Find options under which a result of every model is stored: values by name, keyed by the words that say them.

    Stored results are untrusted: those over a file (except shipped sets), with an option that names a file, or with an
    option that is not a plain value are left out.
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
        other = with_options(question, changed)
        with suppress(ProbeError):
            if all((store.place(other.call(each)) / RESULT_FILE).is_file() for each in known):
                found[", ".join(f"{name} {_in_words(value)}" for name, value in changed.items())] = changed
    return found


def with_options(question: Request, values: Mapping[str, Any]) -> Request:
    """Return the request with these values of its options, by name, and the defaults of the others."""
    fields = describe(form(question.experiment))
    flags = {each["flag"]: values[each["name"]] for each in fields if each["name"] in values}
    return replace(question, words=tuple(words(flags)))


def nearest_results(question: Request, asked: Sequence[Subject]) -> Nearest | None:
    """Find stored results for a question without any.

    They are those with other options, else those of a run and its base of which one was asked about, else of one of the
    models, else of the usual pair of models.
    """
    found = _with_other_options(question, asked)
    if found is not None:
        other, outcomes, told = found
        remark = f"This is what is stored with {told}: the models have not been measured with the options chosen here."
        return Nearest(other, outcomes, remark)
    shared = current()
    usual = subjects(shared, [choice for choice in default_pair(shared.store) if choice])
    choices = {each.choice for each in asked}
    near = [subjects(shared, [*pair]) for pair in parents(shared.store) if choices & {*pair}][:NEAR]
    for pair in (*near, *([each] for each in asked), usual, *([each] for each in usual)):
        found = _with_other_options(question, pair) if set(pair) != set(asked) else None
        if found is not None:
            other, outcomes, told = found
            names = " and ".join(each.label for each in pair)
            remark = f"This is the stored result of {names} with {told}: the models chosen here have not been measured."
            return Nearest(other, outcomes, remark)
    return None


def _with_other_options(question: Request, asked: Sequence[Subject]) -> tuple[Request, list[ModelResult], str] | None:
    """Find stored results of all models: the request with fewest other options, the results, the options in words."""
    facts = []
    with suppress(ProbeError):  # the page shows why a model cannot be read
        facts = [models.model_facts(subject.ref) for subject in asked]
    known = [each for each in facts if each is not None]
    choices = stored_options(question, known) if known and len(known) == len(asked) else {}
    for label, values in sorted(choices.items(), key=lambda pair: len(pair[1])):
        other = with_options(question, values)
        found = [find_result(other, subject, each) for subject, each in zip(asked, known, strict=True)]
        if all(each.result is not None for each in found):
            return other, found, label or "the default options"
    return None


def _is_plain(value: object) -> bool:
    """Return whether a value is words of a command line and not an option."""
    if isinstance(value, list):
        return 0 < len(value) <= MOST_VALUES and not any(
            isinstance(each, list) or not _is_plain(each) for each in value
        )
    return isinstance(value, bool | int | float) or (isinstance(value, str) and not value.startswith("-"))


def _in_words(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def title_of_job(question: Request, subject: Subject) -> str:
    """Return the title of the job that runs an experiment on a model."""
    options = f" ({' '.join(question.words)})" if question.words else ""
    return f"{question.experiment.name.replace('_', ' ').capitalize()} of {subject.label}{options}"


def measure(question: Request, subject: Subject, page: str, *, again: bool = False) -> None:
    """Start a job that runs an experiment on a model and stores the result.

    Args:
        question: experiment and options.
        subject: model.
        page: page that shows the result.
        again: replace a stored result.

    Raises:
        ConfigError: the reader may only read.
        RunError: the job cannot be started.
    """
    access.check()
    if not models.agreed(subject.ref):
        return
    words = ["experiment", question.experiment.name, "--model", subject.ref, *question.words]
    link = {**st.query_params.to_dict(), "page": page}
    launch([*words, *(["--again"] if again else [])], title_of_job(question, subject), link)


def _relabel(result: Result, label: str, ref: str) -> Result:
    """Rename the model of a result to the label and reference on the page; the numbers are unchanged."""
    about = [model | {"label": label, "ref": ref} for model in result.meta["models"]]
    result = rename_model(result, label)
    return replace(result, meta=result.meta | {"models": about})


def alike(
    outcomes: Sequence[ModelResult], leader: str | None, across_worlds: bool = False
) -> tuple[list[ModelResult], list[ModelResult]]:
    """Return (comparable results, others): results are comparable if they are of the same world.

    Args:
        outcomes: outcome of every model.
        leader: choice whose world is used; that of the first model if it has no result.
        across_worlds: whether the experiment compares models of all worlds.
    """
    candidates = [each for each in outcomes if each.result is not None]
    if across_worlds:
        return candidates, []
    first = next((each for each in candidates if each.subject.choice == leader), candidates[0] if candidates else None)
    same = [each for each in candidates if first is not None and _world(each) == _world(first)]
    return same, [each for each in candidates if each not in same]


def _world(outcome: ModelResult) -> object:
    meta = outcome.result.meta if outcome.result is not None else {}
    return None if meta.get("data") else meta.get("world")


def apart(outcomes: Sequence[ModelResult]) -> str:
    """Describe the differences of the models' worlds; empty if all have one world or were asked from one file."""
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


def compare(question: Request, outcomes: Sequence[ModelResult]) -> ModelComparison:
    """Compare results, with the first model as the baseline.

    Raises:
        DataError: the results are about different questions.
    """
    found = [(each, each.result) for each in outcomes if each.result is not None]
    stamps = tuple((each.subject, result.meta.get("key"), result.meta.get("created")) for each, result in found)
    key = "joined results", question.experiment.name, question.experiment.source, question.words, stamps
    known: ModelComparison | None = models.RESULTS.get(key)
    if known is None:
        places = {each.subject.label: each.place for each, _ in found}

        def differences(experiment: Experiment, result: Result, base: Result) -> pd.DataFrame:
            place = places[result.models[0]]
            return store.compare_stored(experiment, result, base, place, keep=access.may_write())

        parts = [_relabel(result, each.subject.label, each.subject.ref) for each, result in found]
        known = compare_results(question.experiment, parts, differences)
        models.RESULTS.put(key, known)
    return known


def over_trainings(
    both: ModelComparison, outcomes: Sequence[ModelResult]
) -> tuple[NumbersOverTrainings | None, list[str]]:
    """Find the stored results of other seeds, for models that are runs with other seeds.

    Returns:
        The numbers over trainings, if any, and sentences about them.
    """
    board = current().store
    groups, found, lacking, runs = by_member(seed_groups(board)), list[Trainings](), list[str](), 0
    for each in outcomes:
        label, step = split_choice(board, each.subject.choice)
        group = groups.get(label or "")
        if group is None or step is not None or each.result is None:
            continue
        runs += 1
        if not group.several:
            continue
        results = None
        with suppress(DataError):
            results = find_results(group.group, each.result.name, like=each.result.meta)
        if results is not None and results.group.count > 1:
            found.append(Trainings(each.subject.label, group.name, group.group, results))
        else:
            lacking.append(group.name)
    if lacking:
        names = " and ".join(dict.fromkeys(lacking))
        remarks = [f"Intervals are over answers: other seeds of {names} have no stored result with these options."]
    else:
        remarks = [f"Intervals are over answers. {UNKNOWN}"] if runs and not found else []
    if not found:
        return None, remarks
    numbers = NumbersOverTrainings(both, tuple(found))
    return numbers, [*remarks, numbers.sentence()]


def tried_seconds(question: Request, known: ModelFacts) -> float | None:
    """Estimate the seconds of a model from the few questions of `try_out`; None without these."""
    seconds: float | None = models.RESULTS.get(_tried(question, known))
    return seconds


def try_out(question: Request, subject: Subject, known: ModelFacts) -> None:
    """Ask a model a few questions, with a progress bar, to estimate the time for all.

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


def _tried(question: Request, known: ModelFacts) -> tuple[object, ...]:
    return "tried", known.fingerprint, question.experiment.name, question.experiment.source, question.words


def _try(lm: "LM", tick: Tick, name: str, words: tuple[str, ...], source: str | None) -> float:
    experiment = experiments()[name]
    return estimate_seconds(call(experiment, lm, **_options(experiment, words)), tick)


def _options(experiment: Experiment, words: tuple[str, ...]) -> dict[str, Any]:

    own: Any = form(experiment)
    values = parse(own, list(words), f"probe experiment {experiment.name}")
    return {each.name: getattr(values, each.name) for each in fields(own)}


def changed_options(question: Request) -> dict[str, Any]:
    """Return the options whose values differ from the function's defaults."""
    parameters = question.experiment.signature.parameters
    return {name: value for name, value in question.options.items() if parameters[name].default != value}


def choose_experiment(known: Mapping[str, Experiment]) -> Experiment:
    """Let the reader choose one of several experiments."""
    name = st.selectbox(
        "Experiment",
        list(known),
        key=keep("experiment", known, next(iter(known))),
        bind="query-params",
        help="\n".join(
            f"- {escape_markdown(f'{name}: {each.title}, of {each.origin}')}" for name, each in known.items()
        ),
        format_func=visible,
    )
    return known[name]


def choose_models(shared: SharedChoices) -> list[Subject]:
    """Let the reader choose further models; return all chosen models without repeats, the base first."""
    sides = [choice for choice in (shared.base, shared.aligned) if choice]
    labels = [choice for choice in model_options(shared.store) if choice not in sides]
    lasting_key(MORE, [])
    if MORE in st.session_state:
        st.session_state[MORE] = [choice for choice in st.session_state[MORE] if choice not in sides]
    more = st.multiselect(
        "Further models",
        [*labels, *(choice for choice in st.session_state.get(MORE, []) if choice not in labels)],
        key=MORE,
        bind="query-params",
        max_selections=MOST - 2,
        accept_new_options=True,
        on_change=_name_more,
        placeholder="in addition to the two selected models",
        help="Runs, their checkpoints, or the path of any Hugging Face model; all get the same questions.",
        format_func=visible,
    )
    memory()[MORE] = list(more)
    return subjects(shared, [*sides, *more])


@guard_callback
def _name_more() -> None:
    """Record the models that the person added; models of a link were recorded in the previous run of the page."""
    before = memory().get(MORE, [])
    name_all(choice for choice in st.session_state[MORE] if choice not in before)


def subjects(shared: SharedChoices, choices: list[str]) -> list[Subject]:
    """Label models by a run's label or the last part of another reference, in full if two are equal."""
    entries: list[Subject] = []
    short = [choice if shared.label(choice) else Path(choice).name for choice in dict.fromkeys(choices)]
    for choice, name in zip(dict.fromkeys(choices), short, strict=True):
        ref = shared.reference(choice)
        if ref is not None and ref not in [each.ref for each in entries]:
            entries.append(Subject(choice if short.count(name) > 1 else name, choice, ref))
    return entries


def choose_options(experiment: Experiment) -> Request | None:
    """Draw the folded form of the function's options, and return the question with the chosen options.

    The result is None while a file named by a link waits for the reader's consent: its content is part of the key of a
    result, so it would be read immediately.
    """
    fields = describe(form(experiment))
    with st.popover("Options", icon=":material/tune:", width="stretch"):
        if not fields:
            note("It has no options.")
        flags = options(experiment.name, fields, link=True)
        take_focus("options")
    files = [flags[field["flag"]] for field in fields if field["file"] and field["flag"] in flags]
    files = [file for file in files if file not in SETS]
    return Request(experiment, tuple(words(flags))) if all(may_open(str(file)) for file in files) else None
