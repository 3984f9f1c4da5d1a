"""Commands that train a run and measure it again, from what the run and its results recorded.

A run may come from anybody: its values are quoted, so a command has one word for each value, and code that it names is
reported, because typing the command runs that code.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probe.errors import ProbeError, RunError
from probe.jobs.trainings import describe_methods
from probe.options import changed, option, words
from probe.plugins import OPTION as PLUGIN
from probe.plugins import code_options
from probe.runs.schema import jsonable
from probe.texts import visible

if TYPE_CHECKING:
    from probe.experiments.definition import Experiment
    from probe.experiments.result import Result
    from probe.runs.reader import Run

Methods = Mapping[str, Sequence[Mapping[str, Any]]]


def options_of_methods() -> Methods:
    """Return each training method's options, as in `probe train --describe`; empty without installed trainers."""
    try:
        return {each["method"]: each["fields"] for each in describe_methods()}
    except RunError:
        return {}


def training_command(run: "Run", methods: Methods) -> str:
    """Return the command that reproduces a run, with the options that differ from their defaults.

    Args:
        run: the run.
        methods: result of `options_of_methods`.

    Returns:
        The command, or an empty text if no command reproduces the run: its method is missing, or a value is not valid
        for its option.
    """
    if run.method not in methods:
        return ""
    out = run.config.get("out")
    fields = [each for each in methods[run.method] if each["name"] not in ("out", "resume")]
    flags = {"--out": out if isinstance(out, str) else run.name} | changed(run.config, fields)
    return _command(["probe", "train", run.method], flags)


def code_named(run: "Run") -> str:
    """Return a sentence on the code that a training command would run; empty if it names none."""
    names = [f"{option(name)} {' '.join(values)}" for name, values in code_options(run.config).items()]
    return f"The command of {run.name} runs code ({', '.join(names)}): read that code before you type it." * bool(names)


def experiment_command(
    name: str, model: str, experiment: "Experiment | None" = None, result: "Result | None" = None
) -> str:
    """Return the command that measures a model: with default options, or with those of a given result.

    Args:
        name: name of the experiment.
        model: a reference to the model.
        experiment: the installed experiment; only its options are taken from a result.
        result: result to reproduce.
    """
    first = ["probe", "experiment", name]
    if experiment is not None and experiment.origin.endswith(".py"):
        first += [PLUGIN, experiment.origin]
    flags: dict[str, Any] = {"--model": model}
    for key, value in _options(result).items() if experiment is not None and result is not None else ():
        parameter = experiment.signature.parameters.get(key) if experiment is not None else None
        if parameter is not None and value is not None and value != _as_stored(parameter.default):
            flags[option(key)] = value
    return _command(first, flags)


def _options(result: "Result | None") -> dict[str, Any]:
    """Return the options with which a result was measured; only the name of data is recorded."""
    meta = result.meta if result is not None else {}
    options, data = meta.get("options"), meta.get("data")
    known = {name: meta.get(name) for name in ("n", "seed")} | (options if isinstance(options, dict) else {})
    return known | {"data": data.get("name") if isinstance(data, dict) else None}


def _as_stored(default: Any) -> Any:
    try:
        return jsonable(default)
    except ProbeError:
        return None


def _command(first: Sequence[str], flags: Mapping[str, Any]) -> str:
    """Return a command quoted for a shell; no value is placed where it would be read as an option.

    It is empty if a value cannot be written this way: a mapping, or a list with a text that begins with `-`.
    """
    parts = list(first)
    for flag, value in flags.items():
        texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        if isinstance(value, dict) or (isinstance(value, list) and any(each.startswith("-") for each in texts)):
            return ""
        dashed = isinstance(value, str) and value.startswith("-")
        parts += [f"{flag}={value}"] if dashed else words({flag: value})
    return visible(shlex.join(parts))
