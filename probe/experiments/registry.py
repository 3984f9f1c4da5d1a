"""Registry of the experiments by name: built in, from other packages, or from a file; execution and options.

    @probe.experiment("echo", title="Does it echo the question?", metrics=[Share("echoes")])
    def echo(lm, *, n=100, seed=0):
        \"\"\"One paragraph on what is measured.

        Args:
            n: number of questions.
            seed: seed of the questions.
        \"\"\"
        ...
        return items                       # a DataFrame with a column `echoes`, or an `Evidence` with more

    result = probe.run_experiment("echo", lm, baseline=other, n=50)

The function receives one model. The decorated function has the same arguments and `baseline`: it runs both models,
pairs their items, draws, and records the provenance. Options are the function's keyword arguments; the command line and
the dashboard derive theirs from its signature. Two arguments are special: a function that takes `tick` reports its
progress (`probe.ticks`), one that takes `data` reads a file or folder.
"""

import functools
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, suggest
from probe.experiments.definition import BUILT, Count, Draw, Experiment, Found, Read, Say, Tokens
from probe.experiments.metrics import Metric
from probe.experiments.result import Result
from probe.experiments.run import perform
from probe.plugins import NameTakenError, Registry, include, load, origin_of, unless_taken
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

GROUP = "probe.experiments"
"""Entry-point group of packages that bring experiments: each entry names a decorated function, or a module with some.
"""
BUILT_IN = ("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval", "continual")
"""Subjects with an experiment of their name: `probe.NAME.experiment`."""
POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD

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
    cheap: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
    count: Count | None = None,
    is_whole: Callable[[Result], bool] = lambda result: True,
) -> Callable[[Callable[..., Found]], Callable[..., Result]]:
    """Register a function as an experiment; see the module.

    Args:
        name: name of the experiment; words joined by underscores.
        title: title shown to people.
        metrics: metrics of the summary; by default the mean of every numeric column of the items.
        draw: function that returns figures by name from a result.
        say: function that states the finding of a result in one sentence.
        read: function that reads the files named by the options, so that an invalid file is refused before a model is
            loaded. It receives all options and `strict` by name, for an experiment with `limit` also the `selection` of
            rows that will be used, and returns the rows. The experiment then has the option `strict`, which refuses a
            file with an invalid row; otherwise results record the number of such rows. An experiment that takes `data`
            also has the option `unit`, the column of the file with the sampling unit of items that name their `row`.
        version: version, increased when equal arguments would give other numbers.
        across_worlds: whether models of different worlds can be compared. Each keeps its own items; a difference is
            paired if items with equal names have equal questions, and unpaired otherwise.
        light: options that save work when some questions of a file are asked again in the other form of prompts, which
            is done for a function that takes `form` (`probe.experiments.forms`).
        cheap: options that leave out all but the main numbers; they are offered where the whole takes long.
        tokens: function of the model and the arguments that counts the tokens to read for the questions of a file, so
            that the time is known without asking any; it takes a moment.
        count: function that computes tables by name from the items of one model, which name the people they ask about.
            Tables that the function also returned are recomputed together with a stored summary, so that both are
            consistent.
        is_whole: function that tells whether a stored result of this version holds everything that is measured now, if
            equal arguments give the old numbers and additional ones. By default every result does.

    Raises:
        ConfigError: the name is not valid or taken by another function, or the function takes no model.
    """
    if not name.isidentifier():
        raise ConfigError(f"{name!r} cannot name an experiment: give a word of letters, digits and underscores.")

    def decorate(function: Callable[..., Found]) -> Callable[..., Result]:
        own = inspect.signature(function)
        if not _is_named(list(own.parameters.values())):
            raise ConfigError(f"The experiment `{name}` must take a model, and name each of its other arguments.")
        signature = _with_baseline(own, read is not None)

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Result:
            return perform(_BY_RUN[run], *args, **options)

        run.__signature__ = signature  # type: ignore[attr-defined]
        origin = BUILT if str(getattr(function, "__module__", "")).startswith("probe.") else origin_of(function)
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
            cheap or {},
            tokens,
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
    """Return every experiment by name: built-in ones, those of installed packages, then those of this process.

    One that cannot be imported is left out with a warning (`probe.plugins.problems`).
    """
    for name in BUILT_IN:
        module = f"probe.{name}.experiment"
        if importlib.util.find_spec(module):
            include(module, f"The experiment `{name}`", partial(import_module, module), BUILT)
    order = {name: index for index, name in enumerate(BUILT_IN)}
    return dict(sorted(_EXPERIMENTS.all().items(), key=lambda pair: order.get(pair[0], len(order))))


def find_experiment(name: str) -> Experiment:
    """Return the experiment with a name.

    Raises:
        ConfigError: no experiment has this name; similar names are listed.
    """
    by_name = experiments()
    if name not in by_name:
        hint = suggest(name, by_name, "name one of these, or give its file with --plugin.")
        raise ConfigError(f"There is no experiment `{name}`, only {', '.join(by_name) or 'none'}: {hint}")
    return by_name[name]


def load_plugin(file: str | Path) -> list[str]:
    """Run a Python file that defines experiments, annotators, verifiers or pages; return new experiment names.

    The file runs with all rights of this process: load only files that you trust.

    Raises:
        ConfigError: the file does not exist or fails.
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
    """Run an experiment by name.

    Args:
        name: name of the experiment (`probe experiment` lists them).
        lm: the model, or a reference to it.
        baseline: second model that answers the same items, or a reference to it.
        tick: function called with the share of the work done.
        options: `n`, `seed`, `data`, and the experiment's own options.

    Raises:
        ConfigError: the experiment does not exist or has no such option.
        ProbeError: the experiment cannot use the models or the options.
    """
    return find_experiment(name).run(lm, baseline=baseline, tick=tick, **options)


def _with_baseline(own: inspect.Signature, reads: bool) -> inspect.Signature:
    """Return the function's signature with `baseline` and `tick`, and `strict` and `unit` if it reads files."""
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
    """Return whether the first argument can be positional and all others can be keywords."""
    if not parameters or parameters[0].kind not in (inspect.Parameter.POSITIONAL_ONLY, POSITIONAL):
        return False
    return all(each.kind in (POSITIONAL, inspect.Parameter.KEYWORD_ONLY) for each in parameters[1:])
