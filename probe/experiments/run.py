"""Running experiments on one model or two, the facts a result depends on, and joining results of several models.

The facts that a result depends on are stored as JSON values, which are equal exactly if the numbers would be.
"""

import functools
import hashlib
import inspect
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

import probe.world
from probe.errors import ConfigError, DataError, ProbeError, suggest
from probe.experiments.definition import SHARED, Experiment, option_hint
from probe.experiments.forms import compare_forms, count_again
from probe.experiments.metrics import INTERVALS, ITEM, Mean, Metric, Share, differences, questions, summarise
from probe.experiments.result import MODEL, Evidence, Result, label_items, stack
from probe.experiments.units import read_units, sum_up, with_people, with_units
from probe.model.references import resolve
from probe.plugins import BUILT_IN, code_hash, failure, source_hash
from probe.questions.sets import QuestionSet, default_set, locate
from probe.rows import Rows, Selection, lacks_header
from probe.runs.addresses import is_run
from probe.runs.directories import find
from probe.runs.schema import jsonable, read_meta
from probe.ticks import Tick, between, ignore, part
from probe.untrusted import DATA, open_file

if TYPE_CHECKING:
    from probe.model.lm import LM


def join(experiment: Experiment, results: Sequence[Result]) -> Result:
    """Join results of one experiment with one model each into a result with all of them.

    The summary is that of the first with the last as its baseline; items, tables, figures and finding are those of all.
    Models of different worlds are joined if the experiment allows it.

    Raises:
        DataError: experiments or options differ, or a result has several models.
    """
    for each in results:
        if len(each.models) != 1:
            raise DataError(
                f"A result of {' and '.join(each.models) or 'no model'} cannot be joined: give results of one"
                " model each."
            )
    if not results:
        raise DataError("No result was given to join: give at least one.")
    new_names = _apart([each.models[0] for each in results])
    results = [rename_model(each, label) for each, label in zip(results, new_names, strict=True)]
    first, last = results[0], results[-1]
    for other in results[1:]:
        odd = _differs(first, other, experiment.across_worlds)
        if odd:
            raise DataError(
                f"The results of {first.models[0]} and {other.models[0]} were made with different {odd}: run the"
                " experiment again on one of them."
            )
    metrics = metrics_of(experiment, stack([each.items for each in results]))
    summary = first.summary
    if len(results) > 1:
        seed = int(first.meta.get("seed") or 0)
        both = first.items, last.items
        summary = differences(metrics, first.summary, last.summary, *both, seed, by_prompt=experiment.across_worlds)
    names = list(dict.fromkeys(name for each in results for name in each.tables))
    models = [{"world": each.meta.get("world")} | model for each in results for model in each.meta["models"]]
    worlds = {model["world"] for model in models}
    meta = first.meta | {"models": models, "world": first.meta.get("world") if len(worlds) == 1 else None}
    meta |= {"baseline": last.models[0] if len(results) > 1 else None}
    tables = {name: stack([each.tables[name] for each in results if name in each.tables]) for name in names}
    items = beside([each.items for each in results], experiment.across_worlds)
    return finish(experiment, Result(first.name, summary, items, tables, dict(first.figures), meta))


def beside(parts: Sequence[pd.DataFrame], across_worlds: bool) -> pd.DataFrame:
    """Return the items of several models as one table.

    Args:
        parts: items of one model each.
        across_worlds: whether items with equal names may have different questions; if so, the name of the first model
            with the question is appended to the item's, so that equal names are the same item.
    """
    items = stack(parts)
    if not across_worlds:
        return items
    question = questions(items)
    several = question.groupby(items[ITEM]).transform("nunique") > 1
    first = items[MODEL].groupby([items[ITEM], question]).transform("first")
    return items.assign(**{ITEM: items[ITEM].where(~several, items[ITEM] + " (" + first + ")")})


def finish(experiment: Experiment, result: Result) -> Result:
    """Return the result with figures and finding."""
    figures = result.figures
    if experiment.draw:
        with explain_errors(experiment, "The drawing of the experiment"):
            figures = dict(experiment.draw(result))
    return with_finding(experiment, replace(result, figures=figures))


def renew(experiment: Experiment, result: Result, unit: str = "", units: Mapping[str, str] | None = None) -> Result:
    """Recompute the stored result of one model from its items; figures are added only if it had some.

    Args:
        experiment: experiment of the result.
        result: result of an earlier version, or with other units.
        unit: column of the file with the sampling unit.
        units: see `probe.experiments.units.read_units`.

    Raises:
        DataError: a metric of this version cannot read the items.
    """
    new = sum_up(result, metrics_of(experiment, result.items), unit, units, experiment.count)
    return finish(experiment, new) if result.figures else with_finding(experiment, new)


def with_finding(experiment: Experiment, result: Result) -> Result:
    """Return the result with its finding."""
    sentence = ""
    if experiment.say:
        with explain_errors(experiment, "The sentence of the experiment"):
            sentence = str(experiment.say(result))
    return replace(result, meta=result.meta | {"finding": sentence})


def labels(models: "Sequence[LM]") -> list[str]:
    """Return labels of the models: the last part of their references, numbered if they are equal."""
    return _apart([Path(lm.ref).name or "model" for lm in models])


def _apart(names: Sequence[str]) -> list[str]:
    """Append a number to each name that is taken already."""
    new_names: list[str] = []
    for name in names:
        candidates = (name, *(f"{name} ({count})" for count in range(2, len(names) + 2)))
        new_names.append(next(way for way in candidates if way not in new_names))
    return new_names


def rename_model(result: Result, label: str) -> Result:
    """Return the result of one model under another label."""
    if result.models == [label]:
        return result
    tables = {name: table.assign(**{MODEL: label}) for name, table in result.tables.items()}
    models = [model | {"label": label} for model in result.meta["models"]]
    items, meta = result.items.assign(**{MODEL: label}), result.meta | {"models": models}
    return replace(result, items=items, tables=tables, meta=meta)


def columns_as_metrics(items: pd.DataFrame) -> tuple[Metric, ...]:
    """Return a metric for every numeric column: its mean, or a share if all values are zeros and ones."""
    metrics: list[Metric] = []
    for column in items.columns:
        values = items[column].dropna()
        kind = pd.api.types.infer_dtype(values, skipna=True)
        if column in (ITEM, MODEL) or kind not in ("boolean", "integer", "floating", "mixed-integer-float"):
            continue
        metrics.append(Share(str(column)) if values.isin((0, 1)).all() else Mean(str(column)))
    return tuple(metrics)


@contextmanager
def explain_errors(experiment: Experiment, what: str) -> Iterator[None]:
    """Turn an error in a function that is not built in into one sentence."""
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        if experiment.origin == BUILT_IN:
            raise
        raise failure(f"{what} `{experiment.name}`", error, experiment.function) from error


def _differs(first: Result, other: Result, across_worlds: bool) -> str:
    """Return the first setting whose difference forbids a comparison; empty if the results can be compared."""
    if first.name != other.name:
        return "experiments"
    facts = [settings_of(each.name, each.meta, across_worlds) for each in (first, other)]
    return next((name for name, value in facts[0].items() if value != facts[1][name]), "")


def settings_of(experiment: str, meta: Mapping[str, Any], across_worlds: bool = False) -> dict[str, Any]:
    """Return the settings that results of an experiment must have in common to be compared.

    Args:
        experiment: name of the experiment.
        meta: provenance of a result.
        across_worlds: whether models of different worlds may be compared.
    """
    options, data = meta.get("options") or {}, meta.get("data")  # from an untrusted file, so of any type
    return {
        "units": meta.get("unit") or "",
        "options": _without_added(experiment, options) if isinstance(options, Mapping) else options,
        "n": meta.get("n"),
        "seeds": meta.get("seed"),
        "data": data.get("sha256") if isinstance(data, Mapping) else data,
        "worlds": None if data or across_worlds else meta.get("world"),
        "versions": meta.get("version"),
    }


def _without_added(experiment: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of an experiment without those of `ADDED` that have their default."""
    added = {name: ADDED.get(name, ADDED.get(f"{experiment}.{name}")) for name in options if is_added(experiment, name)}
    return {name: value for name, value in options.items() if name not in added or value != added[name]}


def is_added(experiment: str, option: str) -> bool:
    """Return whether an option was added after results had been stored, which lack it."""
    return option in ADDED or f"{experiment}.{option}" in ADDED


STARTED = f"{os.getpid()}-{time.time_ns()}"
"""Identifier of this process, which keeps identities of unhashable objects apart between processes."""


def data_facts(data: Any) -> dict[str, Any] | None:
    """Return the name, number of files and SHA-256 of an experiment's data: a file, several, or the files of a folder.

    Other data are described by the name of their type and a SHA-256 of their identity. None without data.
    """
    if data is None:
        return None
    if not isinstance(data, str | Path):
        identity_text = json.dumps(identity(data), sort_keys=True).encode()
        return {"name": type(data).__name__, "files": 0, "sha256": hashlib.sha256(identity_text).hexdigest()}
    paths = _paths(data)
    files_by_path = [(path, _files(path)) for path in paths]
    digest = hashlib.sha256()
    for path, files in files_by_path:
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            try:
                with open_file(file, most=DATA) as opened:
                    size = os.fstat(opened.fileno()).st_size
                    digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
                    hashlib.file_digest(opened, lambda: digest)
            except OSError as error:
                raise DataError(f"`{file}` cannot be read ({error.strerror}): give a file that can.") from None
    names = ", ".join(path.name for path in paths)
    return {"name": names, "files": sum(len(files) for _, files in files_by_path), "sha256": digest.hexdigest()}


def _paths(data: str | Path) -> list[Path]:
    """Return the path that the text names, or several separated by commas."""
    whole = Path(data).expanduser()
    parts = [Path(part.strip()).expanduser() for part in str(data).split(",") if part.strip()]
    return parts if len(parts) > 1 and not whole.exists() else [whole]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def content(value: Any) -> Any:
    """Return the identity of an option that may name files or a model: their contents instead of names.

    A name that is not a local file, folder or run, such as one on the hub, is its own identity.
    """
    if not isinstance(value, str | Path):
        return identity(value)
    paths = _paths(value)
    if not all(path.exists() for path in paths) or is_run(paths[0]):
        try:
            paths = [resolve(find(value)).directory]
        except ProbeError:
            return identity(value)
    return [data_facts(path) for path in paths]


def identity(value: Any) -> Any:
    """Return a value as JSON values that are equal only for equal values.

    An object that cannot be converted equals only itself.
    """
    if isinstance(value, Mapping):
        return {str(key): identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [identity(each) for each in value]
    if hasattr(value, "fingerprint"):  # a model
        return [type(value).__name__, value.fingerprint]
    if isinstance(value, pd.DataFrame):
        return [str(value.dtypes.to_dict()), value.to_csv()]
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, {each.name: identity(getattr(value, each.name)) for each in fields(value)}]
    if callable(value) and hasattr(value, "__qualname__"):
        return [getattr(value, "__module__", ""), value.__qualname__, source_hash(value), code_hash(value)]
    try:
        return jsonable(value)
    except ProbeError:
        return [type(value).__name__, id(value), STARTED]


def describe_argument(value: Any) -> Any:
    """Return an argument as a JSON value for people; its name or type if JSON cannot hold it."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    try:
        return jsonable(value)
    except ProbeError:
        return type(value).__name__


READING = 3
"""Version of the file readers; increase it when equal files give other questions. It is part of the key of stored
results over files.
"""
ADDED: dict[str, Any] = {"limit": None, "only": "all", "columns": "", "sycophancy.wording": "published"}
ADDED |= {
    "sycophancy.speakers": "",
    "hallucination.form": "plain",
    "in_context.form": "plain",
    "in_context.label_names": "",
    "chain_of_thought.form": "auto",
}
"""Options of experiments that were added after results had been stored, with their defaults: a result without the
option counts as one with the default.
"""
PACKAGES = ("probe-lm", "torch", "transformers", "transformer-lens", "numpy")


@dataclass(frozen=True)
class Call:
    """Checked call of an experiment, with its models and arguments."""

    experiment: Experiment
    models: "list[LM]"
    """The model, followed by the baseline if there is one."""
    options: dict[str, Any]
    """All arguments but model, baseline and tick, including defaults."""
    read: "Sequence[Rows[Any]]" = ()
    """Rows of the files that the options name."""
    default: QuestionSet | None = None
    """Name of the question set used because the model belongs to no world and no data were named."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Sampling unit of each row of the file, if the option `unit` names a column; answers do not depend on it."""

    @property
    def key(self) -> str:
        """Key of its stored result: a hash of everything that the numbers depend on."""
        names = _without_added(self.experiment.name, self.arguments)
        facts: dict[str, Any] = {
            "experiment": [self.experiment.name, self.experiment.version, self.experiment.source],
            "models": [
                [lm.fingerprint, world.hash if world else None]
                for lm, world in zip(self.models, map(probe.world.of, self.models), strict=True)
            ],
            "options": {name: self._identity(name) for name in sorted(names) if name != "data"},
            "data": data_facts(self.options.get("data")),
        }
        if self.read:
            facts["reading"] = READING
        if any(rows.reading for rows in self.read):
            facts["reading"] = [READING, *(rows.reading for rows in self.read)]
        return hashlib.sha256(json.dumps(jsonable(facts), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def arguments(self) -> dict[str, Any]:
        """Options passed to the function; `strict` concerns only the reader of files."""
        own = inspect.signature(self.experiment.function).parameters
        return {name: value for name, value in self.options.items() if name in own}

    @property
    def unit(self) -> str:
        """Column of the file that the option `unit` names; empty if not given."""
        return str(self.options["unit"]) if self.experiment.takes_unit else ""

    @property
    def left_out(self) -> int:
        """Number of invalid rows in the files."""
        return sum(len(rows.left_out) for rows in self.read)

    @property
    def notes(self) -> list[str]:
        """Notes on the questions, one sentence each."""
        notes = [note for rows in self.read for note in rows.notes()]
        return [self.default.note, *notes] if self.default else notes

    def _identity(self, name: str) -> Any:
        """Return the identity of an option; for a path, of its contents."""
        kind = option_hint(self.experiment, name)
        return (content if Path in (kind, *get_args(kind)) else identity)(self.options[name])


def call(experiment: Experiment, lm: "LM | str", *, baseline: "LM | str | None" = None, **options: Any) -> Call:
    """Check the arguments of an experiment, read its files, and load the named models.

    Models without a world are asked the experiment's question set (`probe.questions`) if no data are named.

    Raises:
        ConfigError: an option is unknown, or `n` is not at least 1.
        DataError: a file is not valid; in this case no model has been loaded.
        ModelError: a model cannot be loaded.
    """
    setup = prepare(experiment, **options)
    models = [_model(each) for each in (lm, baseline) if each is not None]
    chosen = default_set(experiment.name) if "data" in setup.options and setup.options["data"] is None else None
    if chosen is not None and not any(probe.world.of(each) for each in models):
        setup = replace(prepare(experiment, **options | {"data": chosen.name}), default=chosen)
    if setup.unit and not setup.units:
        raise ConfigError(f"unit={setup.unit} names a column of a data file: give a file with data, or leave unit out.")
    return replace(setup, models=models)


def prepare(experiment: Experiment, **options: Any) -> Call:
    """Check the arguments of an experiment and read its files, without loading a model; see `call`."""
    signature = experiment.signature
    names = [name for name in signature.parameters if name not in ("baseline", "tick")][1:]
    for name in options:
        if name not in names:
            hint = suggest(name, names, f"its options are {', '.join(names) or 'none'}.")
            raise ConfigError(f"The experiment `{experiment.name}` has no option `{name}`: {hint}")
    defaults = {name: signature.parameters[name].default for name in names}
    arguments = defaults | ({"n": None} if experiment.counts_rows else {}) | options
    if "data" in names:
        arguments["data"] = locate(arguments["data"]) if isinstance(arguments["data"], str) else arguments["data"]
    for name in {"n", "limit"} & set(names):
        count: Any = arguments[name]
        whole = not isinstance(count, bool) and isinstance(count, Integral) and int(count) >= 1
        if not whole and count != defaults[name] and not (count is None and experiment.counts_rows):
            raise ConfigError(f"The experiment got {name}={count!r}; expected a whole number from 1 on.")
    if arguments.get("limit") is not None and arguments["data"] is None:
        raise ConfigError("limit takes the first rows of a data file: give a file with data, or leave limit out.")
    lacking = [name for name, value in arguments.items() if value is inspect.Parameter.empty]
    if lacking:
        raise ConfigError(f"The experiment `{experiment.name}` needs `{lacking[0]}`: give it a value.")
    columns = str(arguments["columns"]) if experiment.names_columns else ""
    if columns and arguments["data"] is None:
        raise ConfigError("columns names the columns of a data file: give a file with data, or leave columns out.")
    selection = Selection(arguments.get("n"), arguments.get("seed", 0), arguments.get("limit"), columns=columns)
    more = {"selection": selection} if experiment.counts_rows else {}
    with explain_errors(experiment, "The reader of the experiment"), _advise_columns(experiment, arguments):
        inputs = experiment.read(**arguments, **more) if experiment.read else ()
    if experiment.counts_rows and arguments["n"] is None:
        arguments["n"] = (inputs[-1].read_count if inputs else 0) or signature.parameters["n"].default
    request = Call(experiment, [], arguments, inputs)
    if not (request.unit and inputs):
        return request
    return replace(request, units=read_units(inputs[-1].path, request.unit, columns))


@contextmanager
def _advise_columns(experiment: Experiment, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Name the option `columns` if a file that cannot be used has no header."""
    try:
        yield
    except DataError:
        data = arguments.get("data")
        if not experiment.names_columns or arguments["columns"] or not isinstance(data, str | Path):
            raise
        if not lacks_header(Path(data).expanduser()):
            raise
        raise DataError(
            f"The first row of `{data}` is no header: name its columns with columns, such as columns=label,title,text,"
            " or add a row of names."
        ) from None


def perform(
    experiment: Experiment, lm: "LM | str", *, tick: Tick | None = None, both_forms: bool = True, **options: Any
) -> Result:
    """Run an experiment on a model and, if one is given, on a baseline.

    Args:
        experiment: experiment to run.
        lm: the model, or a reference to it.
        tick: function called with the share of the work done.
        both_forms: whether to ask some questions of a file again in the other form of prompts
            (`probe.experiments.forms`).
        options: `baseline`, and the experiment's own options.

    Raises:
        ConfigError: see `call`; or an experiment that is not built in fails.
        DataError: the models belong to different worlds and the experiment does not compare across worlds, or its
            evidence is not valid.
    """
    request = call(experiment, lm, **options)
    _check_worlds(request)
    start = time.perf_counter()
    evidence = []
    for index, model in enumerate(request.models):
        arguments, again = request.arguments, count_again(model, request.arguments) if both_forms else 0
        own, share = part(tick, index, len(request.models)), 1 - again / (arguments["n"] + again) if again else 1.0
        ask = functools.partial(evidence_of, experiment, model)
        sent = ask(arguments, between(own, 0, share))
        rest = between(own, share, 1)
        evidence.append(compare_forms(experiment, model, arguments, sent, ask, rest, metrics_of, again))
        if tick is not None:
            tick((index + 1) / len(request.models))
    return assemble(request, evidence, time.perf_counter() - start)


def assemble(request: Call, parts: Sequence[Evidence], seconds: float) -> Result:
    """Build the result of a request from the evidence of its models."""
    experiment = request.experiment
    counted = [replace(part, items=with_units(part.items, request.units)) for part in parts]
    if request.options.get("data") is None:
        counted = [replace(part, items=with_people(part.items)) for part in counted]
    evidence = [label_items(part, label) for part, label in zip(counted, labels(request.models), strict=True)]
    seed = int(request.options.get("seed") or 0)
    metrics = metrics_of(experiment, stack([part.items for part in evidence]))
    tables = [summarise(metrics, part.items, part.given, seed) for part in evidence]
    summary = tables[0]
    if len(evidence) > 1:
        both = evidence[0].items, evidence[1].items
        summary = differences(metrics, tables[0], tables[1], *both, seed, by_prompt=experiment.across_worlds)
    if not len(summary):
        raise DataError(f"The experiment `{experiment.name}` measured nothing: give it more or other items.")
    figures = {name: chart for part in evidence[:1] for name, chart in part.figures.items()}
    names = list(dict.fromkeys(name for part in evidence for name in part.tables))
    result = Result(
        name=experiment.name,
        summary=summary,
        items=beside([part.items for part in evidence], experiment.across_worlds),
        tables={name: stack([part.tables[name] for part in evidence if name in part.tables]) for name in names},
        figures=figures,
        meta=_meta(request, evidence, seconds),
    )
    return finish(experiment, result)


def evidence_of(experiment: Experiment, lm: "LM", arguments: Mapping[str, Any], tick: Tick = ignore) -> Evidence:
    """Run an experiment's function on one model and return its evidence, without a summary or figures."""
    more = {"tick": tick} if "tick" in inspect.signature(experiment.function).parameters else {}
    with explain_errors(experiment, "The experiment"):
        return _evidence(experiment.function(lm, **arguments, **more), experiment.name)


def metrics_of(experiment: Experiment, items: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the metrics of an experiment; if it names none, its numeric columns."""
    return experiment.metrics or columns_as_metrics(items)


def _evidence(output: Any, name: str) -> Evidence:
    if isinstance(output, Evidence):
        return output
    if isinstance(output, pd.DataFrame):
        return Evidence(output)
    raise ConfigError(
        f"The experiment `{name}` returned a {type(output).__name__}; expected a table of items or an Evidence."
    )


def _check_worlds(request: Call) -> None:
    """Raise an error if models would get different questions under one name.

    Raises:
        DataError: the models belong to different worlds, and no data are given.
    """
    if len(request.models) < 2 or request.options.get("data") is not None or request.experiment.across_worlds:
        return
    worlds = [probe.world.of(lm) for lm in request.models]
    if None not in worlds and len({world.hash for world in worlds if world}) > 1:
        first, second = labels(request.models)[:2]
        raise DataError(
            f"{first} and {second} belong to different worlds: compare models of the same world, or give --data."
        )


def _model(lm: "LM | str") -> "LM":
    if isinstance(lm, str | Path):
        from probe.model.rewards import analysable

        return analysable(str(lm))
    return lm


def _meta(request: Call, parts: Sequence[Evidence], seconds: float) -> dict[str, Any]:
    """Return the provenance of a result as JSON values."""
    first = request.models[0]
    worlds = [world.hash if world else None for world in map(probe.world.of, request.models)]
    names = labels(request.models)
    models = [
        {
            "label": label,
            "ref": lm.ref,
            "fingerprint": lm.fingerprint,
            "method": method_of(lm),
            "world": world,
            "facts": jsonable(dict(part.facts)),
        }
        for label, lm, world, part in zip(names, request.models, worlds, parts, strict=True)
    ]
    return {
        "title": request.experiment.title,
        "models": models,
        "baseline": names[1] if len(names) > 1 else None,
        "n": request.options.get("n"),
        "seed": request.options.get("seed"),
        "options": {name: describe_argument(value) for name, value in request.options.items() if name not in SHARED},
        "data": data_facts(request.options.get("data")),
        "left_out": request.left_out,
        "unit": request.unit,
        "intervals": INTERVALS,
        "notes": request.notes,
        "world": worlds[0] if len(set(worlds)) == 1 else None,
        "origin": request.experiment.origin,
        "version": request.experiment.version,
        "key": request.key,
        "seconds": round(seconds, 2),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in PACKAGES},
    }


def method_of(lm: "LM") -> str:
    """Return the method of the run that a model belongs to, for its colour; `other` for models outside runs."""
    if lm.run_dir is None:
        return "other"

    return str(read_meta(lm.run_dir)["method"])
