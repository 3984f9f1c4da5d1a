"""The options of an experiment from its signature and docstring: for the command line and for a form."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from probe.errors import ConfigError

if TYPE_CHECKING:
    from probe.experiments.registry import Experiment

HELP = {
    "n": "Number of questions of each kind.",
    "seed": "Seed of everything random; equal seeds ask both models the same.",
    "strict": "Refuse a data file with a row that cannot be used; otherwise such rows are left out and counted.",
    "data": "A file or folder to ask from; without one the model's world.",
}
"""What shared arguments mean, where an experiment does not say."""


def form(experiment: "Experiment") -> type:
    """A dataclass with one field an option: type, default and explanation; `probe.options` and tyro read it.

    An option whose default is a function is for Python callers alone.

    Raises:
        ConfigError: an option has neither a type nor a default.
    """
    import tyro

    told = arguments(experiment)
    fields = []
    for name, parameter in experiment.signature.parameters.items():
        if name in ("baseline", "tick") or parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if _is_for_python(parameter):
            continue
        hint = hint_of(experiment, name)
        if hint is None:
            raise ConfigError(f"The option `{name}` of the experiment `{experiment.name}` needs a type or a default.")
        text = told.get(name) or HELP.get(name, "")
        default = {} if parameter.default is parameter.empty else {"default": parameter.default}
        made: Any = field(kw_only=True, metadata={"help": text}, **default)
        fields.append((name, Annotated[hint, tyro.conf.arg(help=text)], made))
    return make_dataclass(experiment.name, fields, frozen=True)


def arguments(experiment: "Experiment") -> Mapping[str, str]:
    """What the docstring's section `Args:` says of each argument."""
    text = inspect.getdoc(experiment.function) or ""
    section = re.split(r"\n(?=\S)", text.partition("\nArgs:\n")[2])[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {6,}.*)*)", section, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


def _is_for_python(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty and callable(parameter.default)


def hint_of(experiment: "Experiment", name: str) -> Any:
    """The type of an option; that of its default where the annotation cannot be read, None where there is neither."""
    parameter = experiment.signature.parameters[name]
    names = getattr(inspect.unwrap(experiment.function), "__globals__", {})
    hint = parameter.annotation
    if isinstance(hint, str):
        try:
            hint = eval(hint, names)
        except Exception:  # a name that exists for type checkers only
            hint = parameter.empty
    if hint is not parameter.empty:
        return hint
    known = parameter.default not in (parameter.empty, None)
    return type(parameter.default) if known else None
