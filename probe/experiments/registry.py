"""The experiments by name: built in, from other packages, or from a file; and how one is run.

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

import difflib
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from probe.errors import ConfigError
from probe.experiments.metrics import Metric
from probe.experiments.result import Evidence, Result
from probe.ticks import Tick, ignore

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.lm import LM

GROUP = "probe.experiments"
"""Entry-point group of packages that bring experiments: each names a decorated function, or a module of some."""
BUILT_IN = ("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval", "continual")
"""Modules of this package that hold an experiment of their name."""
SHARED = ("baseline", "data", "n", "seed", "tick")
"""Arguments that every experiment understands alike, as far as it has them."""

Found: TypeAlias = Evidence | pd.DataFrame
Draw = Callable[[Result], "Mapping[str, go.Figure]"]
Say = Callable[[Result], str]


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
    """What the summary holds."""
    draw: Draw | None = None
    """Figures of a result with any number of models, from its items and tables."""
    say: Say | None = None
    """The finding in one sentence, computed from a result."""
    version: int = 1
    """Raised when equal arguments would give other numbers; part of the key of stored results."""
    origin: str = "built in"
    """Where it comes from: built in, a distribution, or a file."""
    signature: inspect.Signature = field(default_factory=inspect.Signature)
    """Of `run`."""

    @property
    def source(self) -> str | None:
        """SHA-256 of the file that defines it, for one that is not built in: edited code gives other numbers."""
        file = None if self.origin == "built in" else inspect.getsourcefile(self.function)
        if file is None or not Path(file).is_file():
            return None
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    @property
    def about(self) -> str:
        """What it measures: its docstring without the arguments."""
        text = inspect.getdoc(self.function) or ""
        return text.partition("\nArgs:")[0].partition("\nReturns:")[0].partition("\nRaises:")[0].strip()

    def takes(self, name: str) -> bool:
        """Whether it has an argument of the name."""
        return name in self.signature.parameters


_KNOWN: dict[str, Experiment] = {}
_ORIGIN: list[str] = []


def experiment(
    name: str,
    *,
    title: str = "",
    metrics: Sequence[Metric] = (),
    draw: Draw | None = None,
    say: Say | None = None,
    version: int = 1,
) -> Callable[[Callable[..., Found]], Callable[..., Result]]:
    """Make a function an experiment; see the module.

    Args:
        name: by which it is called; a word or several with underscores.
        title: for people.
        metrics: what the summary holds; without any, the mean of every numeric column of the items.
        draw: gives figures by name from a result.
        say: gives the finding from a result, in one sentence.
        version: raised when equal arguments would give other numbers.

    Raises:
        ConfigError: the name is no word or is taken by another function, or the function takes no model.
    """
    if not name.isidentifier():
        raise ConfigError(f"An experiment was called {name!r}: give a word of letters, digits and underscores.")

    def decorate(function: Callable[..., Found]) -> Callable[..., Result]:
        from probe.experiments.run import perform

        own = inspect.signature(function)
        if not own.parameters or any(each.kind is each.VAR_KEYWORD for each in own.parameters.values()):
            raise ConfigError(f"The experiment `{name}` must take a model, and name each of its other arguments.")
        signature = _with_baseline(own)

        @functools.wraps(function)
        def run(*args: Any, **options: Any) -> Result:
            return perform(_KNOWN_BY_RUN[run], *args, **options)

        run.__signature__ = signature  # type: ignore[attr-defined]
        origin = _ORIGIN[-1] if _ORIGIN else _where(function)
        made = Experiment(
            name,
            title or name.replace("_", " ").capitalize(),
            function,
            run,
            tuple(metrics),
            draw,
            say,
            version,
            origin,
            signature,
        )
        taken = _KNOWN.get(name)
        if taken is not None and _place(taken.function) != _place(function):
            raise ConfigError(f"An experiment `{name}` exists already ({taken.origin}): choose another name.")
        _KNOWN[name] = _KNOWN_BY_RUN[run] = made
        return run

    return decorate


_KNOWN_BY_RUN: dict[Callable[..., Result], Experiment] = {}


def experiments() -> dict[str, Experiment]:
    """Every experiment by name: built-in ones, those of installed packages, then those of this process.

    A package whose experiment cannot be imported is left out with a warning.
    """
    for name in BUILT_IN:
        if importlib.util.find_spec(f"{__package__}.{name}"):
            with _from("built in"):
                import_module(f"{__package__}.{name}")
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        with _from(point.dist.name if point.dist else point.module):
            _load(point)
    order = {name: index for index, name in enumerate(BUILT_IN)}
    return dict(sorted(_KNOWN.items(), key=lambda pair: order.get(pair[0], len(order))))


def find_experiment(name: str) -> Experiment:
    """The experiment of a name.

    Raises:
        ConfigError: there is none; near names are listed.
    """
    known = experiments()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "name one of these, or give its file with --plugin."
        raise ConfigError(f"There is no experiment `{name}`, only {', '.join(known)}: {hint}")
    return known[name]


def load_plugin(file: str | Path) -> list[str]:
    """Run a Python file that defines experiments, annotators, verifiers or pages; gives the names of new experiments.

    The file runs with all rights of this process: only your own belong here.

    Raises:
        ConfigError: there is no such file, or it fails.
    """
    path = Path(file).expanduser().resolve()
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"The plugin `{file}` is no Python file: give the path of a file that ends in .py.")
    before, name = dict(_KNOWN), f"probe_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _from(str(path)):
            spec.loader.exec_module(module)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"The plugin `{file}` fails with {type(error).__name__}: {error}; mend the file.") from error
    return [each for each, made in _KNOWN.items() if before.get(each) is not made]


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


def _with_baseline(own: inspect.Signature) -> inspect.Signature:
    """The function's signature with `baseline` and `tick`."""
    first, *rest = own.parameters.values()
    words = [each.replace(kind=each.KEYWORD_ONLY) for each in rest if each.name not in ("baseline", "tick")]
    extra = [
        inspect.Parameter("baseline", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="LM | str | None"),
        inspect.Parameter("tick", inspect.Parameter.KEYWORD_ONLY, default=ignore, annotation=Tick),
    ]
    model = first.replace(kind=first.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([model, extra[0], *words, extra[1]], return_annotation=Result)


@contextmanager
def _from(origin: str) -> Iterator[None]:
    """Say where experiments that are defined inside come from."""
    _ORIGIN.append(origin)
    try:
        yield
    finally:
        _ORIGIN.pop()


def _load(point: Any) -> None:
    import warnings

    try:
        point.load()
    except Exception as error:  # whatever another package does wrong
        warnings.warn(
            f"The experiment `{point.name}` of {point.value} cannot be imported ({type(error).__name__}: {error}) and"
            " is left out.",
            stacklevel=3,
        )


def _where(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__module__", "") or "here")


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    """A function that is defined again (a file that is run twice, a notebook cell) replaces itself."""
    return str(inspect.getsourcefile(function)), function.__qualname__
