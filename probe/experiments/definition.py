"""What an experiment is: what it runs, measures and says, and its options."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

import pandas as pd

from probe.errors import ConfigError
from probe.experiments.metrics import Metric, Share
from probe.experiments.result import Evidence, Result
from probe.options import argument_help, description, hint_of
from probe.plugins import BUILT_IN as BUILT
from probe.plugins import source_hash
from probe.questions.sets import SETS
from probe.terms import SHARE, Term, term

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.rows import Rows

SHARED = ("baseline", "data", "n", "seed", "strict", "tick", "unit")
"""Arguments that every experiment understands alike, as far as it has them."""

Found: TypeAlias = Evidence | pd.DataFrame
Draw = Callable[[Result], "Mapping[str, go.Figure]"]
Say = Callable[[Result], str]
Read = Callable[..., "Sequence[Rows[Any]]"]
Count = Callable[[pd.DataFrame], Mapping[str, pd.DataFrame]]


@dataclass(frozen=True)
class Experiment:
    """An experiment as the registry knows it."""

    name: str
    """By which it is called."""
    title: str
    """For people."""
    function: Callable[..., Found]
    """What was decorated: one model to its evidence."""
    run: Callable[..., Result]
    """`run(lm, *, baseline=None, ...)` to a result."""
    metrics: tuple[Metric, ...] = ()
    """The metrics of the summary."""
    draw: Draw | None = None
    """Figures of a result with any number of models, from its items and tables."""
    say: Say | None = None
    """The finding in one sentence, computed from a result."""
    read: Read | None = None
    """Reads the files that its options name, before a model is loaded; with it the experiment has `strict`."""
    version: int = 1
    """Raised when equal arguments would give other numbers; part of the key of stored results."""
    across_worlds: bool = False
    """Whether models of different worlds are laid side by side; items are the same where they ask the same."""
    light: Mapping[str, Any] = field(default_factory=dict)
    """Options with which it is asked again in the other form of its prompts (`probe.experiments.forms`)."""
    count: Count | None = None
    """Tables that are functions of the items of one model alone, made anew where the summary is."""
    origin: str = BUILT
    """Where it comes from: built in, a distribution, or a file."""
    is_whole: Callable[[Result], bool] = field(default=lambda result: True)
    """Whether a stored result holds all that this version measures. One that does not is shown as it is, and measured
    anew where it is asked for."""
    signature: inspect.Signature = field(default_factory=inspect.Signature)
    """Of `run`."""

    @property
    def source(self) -> str | None:
        """SHA-256 of the file that defines it, for one that is not built in: edited code gives other numbers."""
        return None if self.origin == BUILT else source_hash(self.function)

    @property
    def about(self) -> str:
        """What it measures: its docstring without the arguments."""
        return description(self.function)

    def term(self, metric: str) -> Term:
        """Return the term of a metric in the summary.

        For an experiment that is not built in, the term holds the metric's name and whether it is a share.
        """
        if self.origin == BUILT:
            return term(metric, self.name)
        shares = {each.name for each in self.metrics if isinstance(each, Share)}
        return Term(metric, SHARE if metric in shares else "")

    @property
    def takes_unit(self) -> bool:
        """Whether it has the option `unit` that every experiment over files has, and none of its own."""
        return self.takes("unit") and "unit" not in inspect.signature(self.function).parameters

    @property
    def counts_rows(self) -> bool:
        """Whether it asks rows of a file: `limit` takes the first, and `n`, where it is not given, is their number."""
        return self.takes("limit")

    def takes(self, name: str) -> bool:
        """Whether it has an argument of the name."""
        return name in self.signature.parameters


HELP = {
    "n": "Number of questions of each kind.",
    "seed": "Seed of everything random; equal seeds ask both models the same.",
    "strict": "Refuse a data file with a row that cannot be used; otherwise such rows are left out and counted.",
    "data": "A file or folder to ask from; without one the model's world.",
    "unit": "Column of the data file that names what was drawn, such as its category: rows that share it are not"
    " independent, and intervals resample whole ones. Without it the row.",
}
"""Help of shared arguments, where an experiment gives none."""


def form(experiment: "Experiment") -> type:
    """Build a dataclass with one field per option: type, default and explanation; `probe.options` and tyro read it.

    An option whose default is a function is for Python callers alone.

    Raises:
        ConfigError: an option has neither a type nor a default.
    """
    import tyro

    help_texts = argument_help(experiment.function)
    fields = []
    for name, parameter in experiment.signature.parameters.items():
        if name in ("baseline", "tick") or parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if _is_for_python(parameter):
            continue
        hint, first = option_hint(experiment, name), parameter.default
        if hint is None:
            raise ConfigError(f"The option `{name}` of the experiment `{experiment.name}` needs a type or a default.")
        text = help_texts.get(name) or HELP.get(name, "")
        if name == "n" and experiment.counts_rows:
            hint, first, text = int | None, None, f"{text.rstrip('.')} (default: {first}, of a file all of them)."
        default = {} if first is parameter.empty else {"default": first}
        names = [each.name for each in SETS.values() if name == "data" and experiment.name in each.experiments]
        if str in get_args(hint) and get_origin(get_args(hint)[0]) is Literal:  # names beside which any text may stand
            hint, names = str, list(get_args(get_args(hint)[0]))
        option_field: Any = field(kw_only=True, metadata={"help": text, "suggestions": names}, **default)
        fields.append((name, Annotated[hint, tyro.conf.arg(help=text)], option_field))
    return make_dataclass(experiment.name, fields, frozen=True)


def _is_for_python(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty and callable(parameter.default)


def option_hint(experiment: "Experiment", name: str) -> Any:
    """Return the type of an option: its annotation, else the type of its default; None where there is neither."""
    parameter = experiment.signature.parameters[name]
    hint = hint_of(experiment.function, parameter.annotation)
    has_default = parameter.default not in (parameter.empty, None)
    return type(parameter.default) if hint is None and has_default else hint
