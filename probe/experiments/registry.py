"""The experiments by name: built in, from other packages, or from a file; how one is run, and which options it has.

    @probe.experiment("echo", title="Does it echo the question?", metrics=[Share("echoes")])
    def echo(lm, *, n=100, seed=0):
        \"\"\"One paragraph on what is measured.

        Args:
            n: questions.
            seed: seed of the questions.
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
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, suggest
from probe.experiments.definition import BUILT, Count, Draw, Experiment, Found, Read, Say
from probe.experiments.metrics import Metric
from probe.experiments.result import Result
from probe.experiments.run import perform
from probe.plugins import NameTakenError, Registry, include, load, origin_of, unless_taken
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    from probe.model.lm import LM

GROUP = "probe.experiments"
"""Entry-point group of packages that bring experiments: each names a decorated function, or a module of some."""
BUILT_IN = ("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval", "continual")
"""Subjects that hold an experiment of their name: `probe.NAME.experiment`."""
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
    """Return the experiment of a name.

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
        tick: function called with the share of the work done.
        options: n, seed, data, and the experiment's own.

    Raises:
        ConfigError: there is no such experiment, or it has no such option.
        ProbeError: what the experiment cannot use.
    """
    return find_experiment(name).run(lm, baseline=baseline, tick=tick, **options)


def _with_baseline(own: inspect.Signature, reads: bool) -> inspect.Signature:
    """Return the function's signature with `baseline` and `tick`, and `strict` and `unit` where it reads files."""
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
