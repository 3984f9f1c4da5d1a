"""Running an experiment: its function on one model or two, and everything that makes a result of what it gave."""

import difflib
import hashlib
import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

import probe.world
from probe.errors import ConfigError, DataError
from probe.experiments.beside import beside, columns_as_metrics, finished, join, labels, owned, renamed
from probe.experiments.differences import differences
from probe.experiments.form import hint_of
from probe.experiments.keys import content, data_facts, identity, told
from probe.experiments.metrics import summarise
from probe.experiments.registry import SHARED, Experiment
from probe.experiments.result import Evidence, Result, labelled, stack
from probe.runs.schema import jsonable
from probe.ticks import Tick, part

if TYPE_CHECKING:
    from probe.model.lm import LM
    from probe.rows import Rows

__all__ = ["Call", "call", "columns_as_metrics", "finished", "join", "labels", "perform", "prepare", "renamed"]

READING = 2
"""Raised when the rows of equal files are read or asked otherwise; part of the key of stored results over files."""
PACKAGES = ("probe-lm", "torch", "transformers", "transformer-lens", "numpy")


@dataclass(frozen=True)
class Call:
    """An experiment with its models and arguments, checked."""

    experiment: Experiment
    models: "list[LM]"
    """The model, and the baseline if there is one."""
    options: dict[str, Any]
    """All arguments but model, baseline and tick, defaults filled in."""
    read: "Sequence[Rows[Any]]" = ()
    """The rows of the files that the options name."""

    @property
    def key(self) -> str:
        """By which its result is stored: everything that the numbers depend on."""
        facts: dict[str, Any] = {
            "experiment": [self.experiment.name, self.experiment.version, self.experiment.source],
            "models": [lm.fingerprint for lm in self.models],
            "options": {name: self._identity(name) for name in sorted(self.arguments) if name != "data"},
            "data": data_facts(self.options.get("data")),
        }
        if self.read:
            facts["reading"] = READING
        return hashlib.sha256(json.dumps(jsonable(facts), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that the function takes: `strict` is for the reader of files, and alters no number."""
        own = inspect.signature(self.experiment.function).parameters
        return {name: value for name, value in self.options.items() if name in own}

    @property
    def left_out(self) -> int:
        """Rows of the files that cannot be used."""
        return sum(len(rows.left_out) for rows in self.read)

    @property
    def notes(self) -> list[str]:
        """What is to be said of the files, a sentence each."""
        return [note for rows in self.read for note in rows.notes()]

    def _identity(self, name: str) -> Any:
        """Of an option; one that may be a path stands for what lies there."""
        kind = hint_of(self.experiment, name)
        return (content if Path in (kind, *get_args(kind)) else identity)(self.options[name])


def call(experiment: Experiment, lm: "LM | str", *, baseline: "LM | str | None" = None, **options: Any) -> Call:
    """Check the arguments of an experiment, read its files, and load models that are named.

    Raises:
        ConfigError: an option is unknown, or `n` is not at least 1.
        DataError: a file cannot be used; then no model has been loaded.
        ModelError: a model cannot be loaded.
    """
    asked = prepare(experiment, **options)
    return replace(asked, models=[_model(each) for each in (lm, baseline) if each is not None])


def prepare(experiment: Experiment, **options: Any) -> Call:
    """Check the arguments of an experiment and read its files, without a model; see `call`."""
    signature = experiment.signature
    names = [name for name in signature.parameters if name not in ("baseline", "tick")][1:]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"its options are {', '.join(names) or 'none'}."
            raise ConfigError(f"The experiment `{experiment.name}` has no option `{name}`: {hint}")
    filled = {name: options.get(name, signature.parameters[name].default) for name in names}
    n: Any = options.get("n", 1)
    whole = not isinstance(n, bool) and isinstance(n, Integral) and int(n) >= 1
    if not whole and n != signature.parameters["n"].default:
        raise ConfigError(f"The experiment was asked for with n={n!r}: give a whole number from 1 on.")
    lacking = [name for name, value in filled.items() if value is inspect.Parameter.empty]
    if lacking:
        raise ConfigError(f"The experiment `{experiment.name}` needs `{lacking[0]}`: give it a value.")
    with owned(experiment, "The reader of the experiment"):
        found = experiment.read(**filled) if experiment.read else ()
    return Call(experiment, [], filled, found)


def perform(experiment: Experiment, lm: "LM | str", *, tick: Tick | None = None, **options: Any) -> Result:
    """Run an experiment on a model and, if one is given, on a baseline.

    Args:
        experiment: what to run.
        lm: the model, or a reference to one.
        tick: called with the share that is done.
        options: `baseline`, and the experiment's own.

    Raises:
        ConfigError: see `call`; or an experiment that is not built in fails.
        DataError: the models belong to different worlds and the experiment does not lay those side by side, or what
            it gave cannot be used.
    """
    asked = call(experiment, lm, **options)
    _check_worlds(asked)
    start = time.perf_counter()
    shown = []
    for index, model in enumerate(asked.models):
        more: dict[str, Any] = {}
        if "tick" in inspect.signature(experiment.function).parameters:
            more["tick"] = part(tick, index, len(asked.models))
        with owned(experiment, "The experiment"):
            found = experiment.function(model, **asked.arguments, **more)
        shown.append(_evidence(found, experiment.name))
        if tick is not None:
            tick((index + 1) / len(asked.models))
    return assemble(asked, shown, time.perf_counter() - start)


def assemble(asked: Call, parts: Sequence[Evidence], seconds: float) -> Result:
    """The result of what the models showed."""
    experiment = asked.experiment
    found = [labelled(part, label) for part, label in zip(parts, labels(asked.models), strict=True)]
    seed = int(asked.options.get("seed") or 0)
    metrics = experiment.metrics or columns_as_metrics(stack([part.items for part in found]))
    tables = [summarise(metrics, part.items, part.given, seed) for part in found]
    summary = tables[0]
    if len(found) > 1:
        both = found[0].items, found[1].items
        summary = differences(metrics, tables[0], tables[1], *both, seed, by_prompt=experiment.across_worlds)
    if not len(summary):
        raise DataError(f"The experiment `{experiment.name}` measured nothing: give it more or other items.")
    figures = {name: chart for part in found[:1] for name, chart in part.figures.items()}
    names = list(dict.fromkeys(name for part in found for name in part.tables))
    result = Result(
        name=experiment.name,
        summary=summary,
        items=beside([part.items for part in found], experiment.across_worlds),
        tables={name: stack([part.tables[name] for part in found if name in part.tables]) for name in names},
        figures=figures,
        meta=_meta(asked, found, seconds),
    )
    return finished(experiment, result)


def _evidence(found: Any, name: str) -> Evidence:
    if isinstance(found, Evidence):
        return found
    if isinstance(found, pd.DataFrame):
        return Evidence(found)
    raise ConfigError(
        f"The experiment `{name}` gave a {type(found).__name__}: let its function return a table of items or an"
        " Evidence."
    )


def _check_worlds(asked: Call) -> None:
    """Refuse to compare models that would be asked different questions under one name.

    Raises:
        DataError: they belong to different worlds, and there are no data to ask from.
    """
    if len(asked.models) < 2 or asked.options.get("data") is not None or asked.experiment.across_worlds:
        return
    worlds = [probe.world.of(lm) for lm in asked.models]
    if None not in worlds and len({world.hash for world in worlds if world}) > 1:
        first, second = labels(asked.models)[:2]
        raise DataError(f"{first} and {second} belong to different worlds: compare models of one, or give --data.")


def _model(lm: "LM | str") -> "LM":
    if isinstance(lm, str | Path):
        from probe.model.rewards import analysable

        return analysable(str(lm))
    return lm


def _meta(asked: Call, parts: Sequence[Evidence], seconds: float) -> dict[str, Any]:
    """Where a result comes from, as JSON values."""
    first = asked.models[0]
    worlds = [world.hash if world else None for world in map(probe.world.of, asked.models)]
    names = labels(asked.models)
    models = [
        {
            "label": label,
            "ref": lm.ref,
            "fingerprint": lm.fingerprint,
            "method": method_of(lm),
            "world": world,
            "facts": jsonable(dict(part.facts)),
        }
        for label, lm, world, part in zip(names, asked.models, worlds, parts, strict=True)
    ]
    return {
        "title": asked.experiment.title,
        "models": models,
        "baseline": names[1] if len(names) > 1 else None,
        "n": asked.options.get("n"),
        "seed": asked.options.get("seed"),
        "options": {name: told(value) for name, value in asked.options.items() if name not in SHARED},
        "data": data_facts(asked.options.get("data")),
        "left_out": asked.left_out,
        "notes": asked.notes,
        "world": worlds[0] if len(set(worlds)) == 1 else None,
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
