"""The experiments by name: built in, from other packages, or from a file; how one is run, and which options it has.

    @probe.experiment("echo", title="Does it echo the question?", metrics=[Share("echoes")])
    def echo(lm, *, n=100, seed=0):
        \"\"\"One paragraph on what is measured.

        Args:
            n: questions.
            seed: of the questions.
        \"\"\"
        ...
        return items                       # a DataFrame with a column `echoes`, or an `Evidence` with more

    result = probe.run_experiment("echo", lm, baseline=other, n=50)

The function sees one model. What the decorator gives back is called like it and takes `baseline` besides, runs both,
pairs their items, draws, and writes down where all of it comes from. Options are the function's keyword arguments; the
command line and the dashboard make theirs from its signature. `tick` and `data` are known to both: a function that
takes `tick` says how far it is (`probe.ticks`), one that takes `data` reads a file or folder.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

import pandas as pd

from probe.errors import ConfigError, suggest
from probe.experiments.metrics import Metric, Share
from probe.experiments.result import Evidence, Result
from probe.plugins import BUILT_IN as BUILT
from probe.plugins import NameTakenError, Registry, include, load, origin_of, source_hash, unless_taken
from probe.questions.sets import SETS
from probe.terms import SHARE, Term, term
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.model.lm import LM
    from probe.rows import Rows

GROUP = "probe.experiments"
"""Entry-point group of packages that bring experiments: each names a decorated function, or a module of some."""
BUILT_IN = ("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval", "continual")
"""Subjects that hold an experiment of their name: `probe.NAME.experiment`."""
SHARED = ("baseline", "data", "n", "seed", "strict", "tick", "unit")
"""Arguments that every experiment understands alike, as far as it has them."""

POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD

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
        text = inspect.getdoc(self.function) or ""
        return text.partition("\nArgs:")[0].partition("\nReturns:")[0].partition("\nRaises:")[0].strip()

    def term(self, metric: str) -> Term:
        """A metric of the summary in words; of an experiment of somebody's own, its name and whether it is a share."""
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


_EXPERIMENTS: Registry[Experiment] = Registry("experiment", GROUP)
_BY_RUN: dict[Callable[..., Result], Experiment] = {}


def experiment(
    name: str,
    *,
    title: str = "",
    metrics: Sequence[Metric] = (),
    draw: Draw | None = None,
    say: Say | None = None,
    read: Read | None = None,
    version: int = 1,
    across_worlds: bool = False,
    light: Mapping[str, Any] | None = None,
    count: Count | None = None,
    is_whole: Callable[[Result], bool] = lambda result: True,
) -> Callable[[Callable[..., Found]], Callable[..., Result]]:
    """Make a function an experiment; see the module.

    Args:
        name: by which it is called; a word or several with underscores.
        title: for people.
        metrics: what the summary holds; without any, the mean of every numeric column of the items.
        draw: gives figures by name from a result.
        say: gives the finding from a result, in one sentence.
        read: reads the files that the options name, so that a wrong one is refused before a model is loaded. It gets
            all options and `strict` by name, of an experiment with `limit` also the `selection` of rows that the
            function will use, and gives the rows that it read. The experiment then has the option `strict`, which
            refuses a file with a row that cannot be used; otherwise results record how many there are. One that takes
            `data` also has the option `unit`, a column of the file by which items are counted that name their `row`.
        version: raised when equal arguments would give other numbers.
        across_worlds: models of different worlds may be laid side by side. Each keeps its own items; a difference is
            paired where both were asked the same under the same names, and unpaired elsewhere.
        light: options that spare work where some questions of a file are asked again in the other form of prompts,
            which is done for a function that takes `form` (`probe.experiments.forms`).
        count: gives tables by name from the items of one model, which name the people they ask about. Those that the
            function gave too are made anew wherever a stored summary is, so that both count the same.
        is_whole: whether a stored result of this version holds all that is measured now, where equal arguments give
            the same numbers as before and further ones. By default every one does.

    Raises:
        ConfigError: the name is no word or is taken by another function, or the function takes no model.
    """
    if not name.isidentifier():
        raise ConfigError(f"An experiment was called {name!r}: give a word of letters, digits and underscores.")

    def decorate(function: Callable[..., Found]) -> Callable[..., Result]:
        from probe.experiments.run import perform

        own = inspect.signature(function)
        if not _is_named(list(own.parameters.values())):
            raise ConfigError(f"The experiment `{name}` must take a model, and name each of its other arguments.")
        signature = _with_baseline(own, read is not None)

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Result:
            return perform(_BY_RUN[run], *args, **options)

        run.__signature__ = signature  # type: ignore[attr-defined]
        origin = BUILT if _is_ours(function) else origin_of(function)
        entry = Experiment(
            name,
            title or name.replace("_", " ").capitalize(),
            function,
            run,
            tuple(metrics),
            draw,
            say,
            read,
            version,
            across_worlds,
            light or {},
            count,
            origin,
            is_whole,
            signature,
        )
        _BY_RUN[run] = entry
        with unless_taken():
            if name in BUILT_IN and origin != BUILT:
                raise NameTakenError(f"An experiment `{name}` exists already ({BUILT}): choose another name.")
            _EXPERIMENTS.put(name, entry, function, origin)
        return run

    return decorate


def experiments() -> dict[str, Experiment]:
    """Every experiment by name: built-in ones, those of installed packages, then those of this process.

    One that cannot be imported is left out with a warning (`probe.plugins.problems`).
    """
    for name in BUILT_IN:
        module = f"probe.{name}.experiment"
        if importlib.util.find_spec(module):
            include(module, f"The experiment `{name}`", partial(import_module, module), BUILT)
    order = {name: index for index, name in enumerate(BUILT_IN)}
    return dict(sorted(_EXPERIMENTS.all().items(), key=lambda pair: order.get(pair[0], len(order))))


def find_experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ConfigError: there is none; near names are listed.
    """
    by_name = experiments()
    if name not in by_name:
        hint = suggest(name, by_name, "name one of these, or give its file with --plugin.")
        raise ConfigError(f"There is no experiment `{name}`, only {', '.join(by_name) or 'none'}: {hint}")
    return by_name[name]


def load_plugin(file: str | Path) -> list[str]:
    """Run a Python file that defines experiments, annotators, verifiers or pages; gives the names of new experiments.

    The file runs with all rights of this process: only your own belong here.

    Raises:
        ConfigError: there is no such file, or it fails.
    """
    return load(file)[_EXPERIMENTS.kind]


def run_experiment(
    name: str,
    lm: "LM | str",
    *,
    baseline: "LM | str | None" = None,
    tick: Tick = ignore,
    **options: Any,
) -> Result:
    """Run an experiment by its name.

    Args:
        name: of the experiment (`probe experiment` lists them).
        lm: the model, or a reference to one.
        baseline: a second model that answers the same items, or a reference.
        tick: called with the share that is done.
        options: n, seed, data, and the experiment's own.

    Raises:
        ConfigError: there is no such experiment, or it has no such option.
        ProbeError: what the experiment cannot use.
    """
    return find_experiment(name).run(lm, baseline=baseline, tick=tick, **options)


def _with_baseline(own: inspect.Signature, reads: bool) -> inspect.Signature:
    """The function's signature with `baseline` and `tick`, and `strict` and `unit` where it reads files."""
    first, *rest = own.parameters.values()
    words = [each.replace(kind=each.KEYWORD_ONLY) for each in rest if each.name not in ("baseline", "tick")]
    extra = [
        inspect.Parameter("baseline", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="LM | str | None"),
        inspect.Parameter("tick", inspect.Parameter.KEYWORD_ONLY, default=ignore, annotation=Tick),
    ]
    if reads and "strict" not in own.parameters:
        words.append(inspect.Parameter("strict", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool))
    if reads and "data" in own.parameters and "unit" not in own.parameters:
        words.append(inspect.Parameter("unit", inspect.Parameter.KEYWORD_ONLY, default="", annotation=str))
    model = first.replace(kind=first.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([model, extra[0], *words, extra[1]], return_annotation=Result)


def _is_named(parameters: Sequence[inspect.Parameter]) -> bool:
    """Whether the first argument can be given by place and all others by name."""
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, POSITIONAL):
        return False
    return all(each.kind in (POSITIONAL, inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:])


def _is_ours(function: Callable[..., Any]) -> bool:
    return str(getattr(function, "__module__", "")).startswith("probe.")


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
    """A dataclass with one field an option: type, default and explanation; `probe.options` and tyro read it.

    An option whose default is a function is for Python callers alone.

    Raises:
        ConfigError: an option has neither a type nor a default.
    """
    import tyro

    help_texts = arguments(experiment)
    fields = []
    for name, parameter in experiment.signature.parameters.items():
        if name in ("baseline", "tick") or parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        if _is_for_python(parameter):
            continue
        hint, first = hint_of(experiment, name), parameter.default
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


def arguments(experiment: "Experiment") -> Mapping[str, str]:
    """The help of each argument in the docstring's section `Args:`."""
    import docstring_parser

    params = docstring_parser.parse(inspect.getdoc(experiment.function) or "").params
    return {each.arg_name: " ".join((each.description or "").split()) for each in params}


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
    has_default = parameter.default not in (parameter.empty, None)
    return type(parameter.default) if has_default else None
