"""Running an experiment: its function on one model or two, and everything that makes a result of what it gave."""

import difflib
import hashlib
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import probe.world
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import ITEM, Mean, Metric, Share, differences, summarise
from probe.experiments.registry import SHARED, Experiment
from probe.experiments.result import MODEL, Evidence, Result, labelled, stack
from probe.runs.schema import jsonable
from probe.ticks import Tick, part

if TYPE_CHECKING:
    from probe.lm import LM

PACKAGES = ("probe-lm", "torch", "transformers", "transformer-lens", "numpy")


@dataclass(frozen=True)
class Call:
    """An experiment with its models and arguments, checked."""

    experiment: Experiment
    models: "list[LM]"
    """The model, and the baseline if there is one."""
    options: dict[str, Any]
    """All arguments of the function but model, baseline and tick, defaults filled in."""

    @property
    def key(self) -> str:
        """By which its result is stored: everything that the numbers depend on."""
        facts = {
            "experiment": [self.experiment.name, self.experiment.version, self.experiment.source],
            "models": [lm.fingerprint for lm in self.models],
            "options": {name: _told(value) for name, value in sorted(self.options.items()) if name != "data"},
            "data": data_facts(self.options.get("data")),
        }
        return hashlib.sha256(json.dumps(jsonable(facts), sort_keys=True).encode()).hexdigest()[:12]


def call(experiment: Experiment, lm: "LM | str", *, baseline: "LM | str | None" = None, **options: Any) -> Call:
    """Check the arguments of an experiment, and load models that are named.

    Raises:
        ConfigError: an option is unknown, or `n` is not at least 1.
        ModelError: a model cannot be loaded.
    """
    signature = experiment.signature
    names = [name for name in signature.parameters if name not in ("baseline", "tick")][1:]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"its options are {', '.join(names) or 'none'}."
            raise ConfigError(f"The experiment `{experiment.name}` has no option `{name}`: {hint}")
    if "n" in options and (not isinstance(options["n"], int) or options["n"] < 1):
        raise ConfigError(f"The experiment was asked for with n={options['n']!r}: give a whole number from 1 on.")
    filled = {name: options.get(name, signature.parameters[name].default) for name in names}
    lacking = [name for name, value in filled.items() if value is inspect.Parameter.empty]
    if lacking:
        raise ConfigError(f"The experiment `{experiment.name}` needs `{lacking[0]}`: give it a value.")
    return Call(experiment, [_model(each) for each in (lm, baseline) if each is not None], filled)


def perform(experiment: Experiment, lm: "LM | str", *, tick: Tick | None = None, **options: Any) -> Result:
    """Run an experiment on a model and, if one is given, on a baseline.

    Args:
        experiment: what to run.
        lm: the model, or a reference to one.
        tick: called with the share that is done.
        options: `baseline`, and the experiment's own.
    """
    asked = call(experiment, lm, **options)
    start = time.perf_counter()
    shown = []
    for index, model in enumerate(asked.models):
        told: dict[str, Any] = {}
        if "tick" in inspect.signature(experiment.function).parameters:
            told["tick"] = part(tick, index, len(asked.models))
        shown.append(_evidence(experiment.function(model, **asked.options, **told), experiment.name))
        if tick is not None:
            tick((index + 1) / len(asked.models))
    return assemble(asked, shown, time.perf_counter() - start)


def assemble(asked: Call, parts: Sequence[Evidence], seconds: float) -> Result:
    """The result of what the models showed."""
    experiment = asked.experiment
    found = [labelled(part, label) for part, label in zip(parts, labels(asked.models), strict=True)]
    seed = int(asked.options.get("seed") or 0)
    metrics = experiment.metrics or columns_as_metrics(found[0].items)
    tables = [summarise(metrics, part.items, part.given, seed) for part in found]
    summary = tables[0]
    if len(found) > 1:
        summary = differences(metrics, tables[0], tables[1], found[0].items, found[1].items, seed)
    if not len(summary):
        raise DataError(f"The experiment `{experiment.name}` measured nothing: give it more or other items.")
    figures = {name: chart for part in found[:1] for name, chart in part.figures.items()}
    names = list(dict.fromkeys(name for part in found for name in part.tables))
    result = Result(
        name=experiment.name,
        summary=summary,
        items=stack([part.items for part in found]),
        tables={name: stack([part.tables[name] for part in found if name in part.tables]) for name in names},
        figures=figures,
        meta=_meta(asked, found, seconds),
    )
    return finished(experiment, result)


def join(experiment: Experiment, results: Sequence[Result]) -> Result:
    """Results of one experiment with one model each as a result with all of them.

    The summary is the first one's, with the last one as its baseline; items, tables, figures and finding are of all.

    Raises:
        DataError: they are of different experiments or were made with different options.
    """
    results = [
        _renamed(each, label) for each, label in zip(results, _apart([r.models[0] for r in results]), strict=True)
    ]
    first, last = results[0], results[-1]
    for other in results[1:]:
        if other.name != first.name or other.meta.get("options") != first.meta.get("options"):
            raise DataError(
                f"The results of {first.models[0]} and {other.models[0]} were made with different options: run the"
                " experiment again on one of them."
            )
    metrics = experiment.metrics or columns_as_metrics(first.items)
    summary = first.summary
    if len(results) > 1:
        seed = int(first.meta.get("seed") or 0)
        summary = differences(metrics, first.summary, last.summary, first.items, last.items, seed)
    names = list(dict.fromkeys(name for each in results for name in each.tables))
    meta = first.meta | {"models": [model for each in results for model in each.meta["models"]]}
    meta |= {"baseline": last.models[0] if len(results) > 1 else None}
    tables = {name: stack([each.tables[name] for each in results if name in each.tables]) for name in names}
    items = stack([each.items for each in results])
    return finished(experiment, Result(first.name, summary, items, tables, dict(first.figures), meta))


def finished(experiment: Experiment, result: Result) -> Result:
    """The result with its figures and its finding."""
    figures = dict(experiment.draw(result)) if experiment.draw else result.figures
    result = replace(result, figures=figures)
    said = experiment.say(result) if experiment.say else ""
    return replace(result, meta=result.meta | {"finding": said})


def labels(models: "Sequence[LM]") -> list[str]:
    """How the models are called: the last part of their references, told apart where they are equal."""
    return _apart([Path(lm.ref).name or "model" for lm in models])


def _apart(names: Sequence[str]) -> list[str]:
    """Names with a number behind each that is taken already."""
    found: list[str] = []
    for name in names:
        ways = (name, *(f"{name} ({count})" for count in range(2, len(names) + 2)))
        found.append(next(way for way in ways if way not in found))
    return found


def _renamed(result: Result, label: str) -> Result:
    """The result of one model under another label."""
    if result.models == [label]:
        return result
    tables = {name: table.assign(**{MODEL: label}) for name, table in result.tables.items()}
    models = [model | {"label": label} for model in result.meta["models"]]
    items, meta = result.items.assign(**{MODEL: label}), result.meta | {"models": models}
    return replace(result, items=items, tables=tables, meta=meta)


def columns_as_metrics(items: pd.DataFrame) -> tuple[Metric, ...]:
    """The mean of every numeric column; a share where all values are zeros and ones."""
    found: list[Metric] = []
    for column in items.columns:
        if column in (ITEM, MODEL) or not pd.api.types.is_numeric_dtype(items[column]):
            continue
        known = items[column].dropna()
        found.append(Share(str(column)) if known.isin((0, 1)).all() else Mean(str(column)))
    return tuple(found)


def data_facts(data: Any) -> dict[str, Any] | None:
    """Name and SHA-256 of a data file, or of the files of a folder, if `data` is one."""
    if not isinstance(data, str | Path):
        return None
    path = Path(data).expanduser()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return {"name": path.name, "files": len(files), "sha256": digest.hexdigest()}


def _evidence(found: Any, name: str) -> Evidence:
    if isinstance(found, Evidence):
        return found
    if isinstance(found, pd.DataFrame):
        return Evidence(found)
    raise ConfigError(
        f"The experiment `{name}` gave a {type(found).__name__}: let its function return a table of items or an"
        " Evidence."
    )


def _model(lm: "LM | str") -> "LM":
    if isinstance(lm, str | Path):
        from probe.readouts import analysable

        return analysable(str(lm))
    return lm


def _meta(asked: Call, parts: Sequence[Evidence], seconds: float) -> dict[str, Any]:
    """Where a result comes from, as JSON values."""
    first = asked.models[0]
    world = probe.world.of(first)
    names = labels(asked.models)
    models = [
        {
            "label": label,
            "ref": lm.ref,
            "fingerprint": lm.fingerprint,
            "method": method_of(lm),
            "facts": jsonable(dict(part.facts)),
        }
        for label, lm, part in zip(names, asked.models, parts, strict=True)
    ]
    return {
        "title": asked.experiment.title,
        "models": models,
        "baseline": names[1] if len(names) > 1 else None,
        "n": asked.options.get("n"),
        "seed": asked.options.get("seed"),
        "options": {name: _told(value) for name, value in asked.options.items() if name not in SHARED},
        "data": data_facts(asked.options.get("data")),
        "world": world.hash if world else None,
        "origin": asked.experiment.origin,
        "version": asked.experiment.version,
        "key": asked.key,
        "seconds": round(seconds, 2),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": str(first.device),
        "dtype": str(first.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in PACKAGES},
    }


def method_of(lm: "LM") -> str:
    """The method of the run that a model belongs to, for its colour; `other` outside of runs."""
    if lm.run_dir is None:
        return "other"
    from probe.runs.reader import read_meta

    return str(read_meta(lm.run_dir)["method"])


def _told(value: Any) -> Any:
    """An argument as a JSON value; what has none is told by its name or its type."""
    if isinstance(value, Path):
        return str(value)
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Mapping | list | tuple | str | int | float | bool | type(None)):
        return jsonable(value)
    return type(value).__name__
