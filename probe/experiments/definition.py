"""Definition of an experiment: its function, metrics, finding and options."""

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
"""Arguments with the same meaning in every experiment that has them."""

Found: TypeAlias = Evidence | pd.DataFrame
Draw = Callable[[Result], "Mapping[str, go.Figure]"]
Say = Callable[[Result], str]
Read = Callable[..., "Sequence[Rows[Any]]"]
Tokens = Callable[..., int]
Count = Callable[[pd.DataFrame], Mapping[str, pd.DataFrame]]


@dataclass(frozen=True)
class Experiment:
    """Experiment as the registry stores it."""

    name: str
    """Name of the experiment."""
    title: str
    """Title shown to people."""
    function: Callable[..., Found]
    """Decorated function, from one model to its evidence."""
    run: Callable[..., Result]
    """Function `run(lm, *, baseline=None, ...)` that returns a result."""
    metrics: tuple[Metric, ...] = ()
    """Metrics of the summary."""
    draw: Draw | None = None
    """Function that draws a result with any number of models from its items and tables."""
    say: Say | None = None
    """Function that states the finding of a result in one sentence."""
    read: Read | None = None
    """Function that reads the files named by the options before a model is loaded; with it, the experiment has the
    option `strict`.
    """
    version: int = 1
    """Version; increase it when equal arguments would give other numbers. It is part of the key of stored results."""
    across_worlds: bool = False
    """Whether models of different worlds are compared; items are the same if their questions are."""
    light: Mapping[str, Any] = field(default_factory=dict)
    """Options used when questions are asked again in the other form of their prompts (`probe.experiments.forms`)."""
    cheap: Mapping[str, Any] = field(default_factory=dict)
    """Options that leave out all but the main numbers, offered where the whole takes long."""
    tokens: Tokens | None = None
    """Function of a model and the arguments that counts the tokens that the questions of a file have together, if that
    takes a moment; the time then follows from the model's reading speed."""
    count: Count | None = None
    """Function that computes tables from the items of one model; they are recomputed with the summary."""
    origin: str = BUILT
    """Source of the experiment: built in, a distribution, or a file."""
    is_whole: Callable[[Result], bool] = field(default=lambda result: True)
    """Function that tells whether a stored result holds everything that this version measures. An incomplete result is
    shown, but measured again on request.
    """
    signature: inspect.Signature = field(default_factory=inspect.Signature)
    """Signature of `run`."""

    @property
    def source(self) -> str | None:
        """SHA-256 of the defining file, for an experiment that is not built in: edited code gets its own results."""
        return None if self.origin == BUILT else source_hash(self.function)

    @property
    def about(self) -> str:
        """Description of the experiment: its docstring without the arguments."""
        return description(self.function)

    def term(self, metric: str) -> Term:
        """Return the term that describes a metric in the summary.

        For an experiment that is not built in, the term holds the metric's name and whether it is a share.
        """
        if self.origin == BUILT:
            return term(metric, self.name)
        shares = {each.name for each in self.metrics if isinstance(each, Share)}
        return Term(metric, SHARE if metric in shares else "")

    @property
    def takes_unit(self) -> bool:
        """Whether it has the option `unit` of experiments that read files, and not an argument of that name."""
        return self.takes("unit") and "unit" not in inspect.signature(self.function).parameters

    @property
    def counts_rows(self) -> bool:
        """Whether it reads rows of a file: `limit` takes the first rows, and `n` is their number unless given."""
        return self.takes("limit")

    @property
    def names_columns(self) -> bool:
        """Whether it reads files without a header, whose columns the option `columns` names."""
        return self.counts_rows and self.takes("columns")

    def takes(self, name: str) -> bool:
        """Return whether it has an argument of this name."""
        return name in self.signature.parameters


HELP = {
    "n": "Number of questions of each kind.",
    "seed": "Seed of all random choices; with equal seeds both models get the same questions.",
    "strict": "Refuse a data file with a row that cannot be used; otherwise such rows are left out and counted.",
    "data": "A file or folder to ask from; without one the model's world.",
    "columns": "Names of the columns of a CSV or TSV file without a header, separated by commas, such as"
    " label,title,text; _ stands for a column that is not used.",
    "unit": "Column of the data file that names the sampling unit, such as a category: rows of one unit are not"
    " independent, and intervals resample whole units (default: each row).",
}
"""Help of shared arguments, used if an experiment gives none."""


def form(experiment: "Experiment") -> type:
    """Build a dataclass with one field per option (type, default, explanation), for `probe.options` and tyro.

    An option whose default is a function is available only in Python.

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
            hint, first, text = int | None, None, f"{text.rstrip('.')} (default: {first}; all rows of a file)."
        default = {} if first is parameter.empty else {"default": first}
        names = [each.name for each in SETS.values() if name == "data" and experiment.name in each.experiments]
        if str in get_args(hint) and get_origin(get_args(hint)[0]) is Literal:  # suggestions; any text is allowed
            hint, names = str, list(get_args(get_args(hint)[0]))
        option_field: Any = field(kw_only=True, metadata={"help": text, "suggestions": names}, **default)
        fields.append((name, Annotated[hint, tyro.conf.arg(help=text)], option_field))
    return make_dataclass(experiment.name, fields, frozen=True)


def _is_for_python(parameter: inspect.Parameter) -> bool:
    return parameter.default is not parameter.empty and callable(parameter.default)


def option_hint(experiment: "Experiment", name: str) -> Any:
    """Return the type of an option: its annotation, or the type of its default; None without either."""
    parameter = experiment.signature.parameters[name]
    hint = hint_of(experiment.function, parameter.annotation)
    has_default = parameter.default not in (parameter.empty, None)
    return type(parameter.default) if hint is None and has_default else hint
