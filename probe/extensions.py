"""What others can add besides experiments: verifiers, annotators, panels of the dashboard's pages, and pages.

    @probe.verifier("brief")                              # `probe train rlvr --reward brief`
    def brief(prompts, completions, completion_ids):      # any of prompts, completions, completion_ids, world, columns
        return [-float(len(ids)) for ids in completion_ids]

    @probe.annotator("curt")                              # `probe train dpo --annotator curt`, or curt+noise=1
    def curt(world, prompt, completion):                  # the utility of a completion
        return -float(len(completion.split()))

    @probe.panel("attention", title="How spread attention is")
    def spread(base, prompt): ...                         # any of base, aligned (models), prompt, shared (all choices)

    @probe.page("Notes")
    def notes(): ...                                      # draws with streamlit

They are found in packages with entry points of the groups `probe.verifiers`, `probe.annotators`, `probe.panels` and
`probe.pages` (each names a decorated function, or a module of some), in files behind `--plugin` and in those of the
environment variable `PROBE_PLUGINS` (`probe.plugins`).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from probe.errors import ConfigError, suggest
from probe.plugins import NameTakenError, Registry, source_hash, unless_taken

if TYPE_CHECKING:
    from probe.world import Annotator


F = TypeVar("F", bound=Callable[..., Any])
A = TypeVar("A")

PANEL_ARGUMENTS = ("base", "aligned", "prompt", "shared")
"""What a panel may ask for: the two models, loaded; the prompt; all shared choices."""


@dataclass(frozen=True)
class Verifier:
    """A reward function with a name."""

    name: str
    function: Callable[..., Any]
    """(prompts, completions, **columns) to a number or None for each completion; it gets the columns that it names."""
    about: str
    """The first line of its docstring."""

    @property
    def wants(self) -> frozenset[str] | None:
        """Names of its arguments; None for all."""
        parameters = inspect.signature(self.function).parameters.values()
        free = any(each.kind is each.VAR_KEYWORD for each in parameters)
        return None if free else frozenset(each.name for each in parameters)

    @property
    def fingerprint(self) -> str:
        """By which a resumed run knows it."""
        return source_hash(self.function)


@dataclass(frozen=True)
class Panel:
    """A part that is drawn at the end of a page."""

    page: str
    """Of which page: `attention`, `logits`, ..."""
    title: str
    function: Callable[..., Any]
    """Draws with streamlit, or returns a figure, a table, both as a pair, or a sentence."""


@dataclass(frozen=True)
class Page:
    """A page of its own."""

    title: str
    function: Callable[..., Any]
    """Draws with streamlit; its one optional argument is `shared`, the shared choices."""
    icon: str | None = None
    """As streamlit names them, such as `:material/science:`."""


VERIFIERS: Registry[Verifier] = Registry("verifier", "probe.verifiers")
ANNOTATORS: "Registry[tuple[Annotator, str]]" = Registry("annotator", "probe.annotators")
PANELS: Registry[Panel] = Registry("panel", "probe.panels")
PAGES: Registry[Page] = Registry("page", "probe.pages")


def verifier(name: str) -> Callable[[F], F]:
    """Make a function a reward by name; see the module.

    Raises:
        ConfigError: the name is none, or is taken.
    """
    _check_name(VERIFIERS, name)

    def decorate(function: F) -> F:
        with unless_taken():
            _check_free(name, ANNOTATORS)
            VERIFIERS.put(name, Verifier(name, function, _first_line(function)), function)
        return function

    return decorate


def annotator(name: str, **knobs: float) -> Callable[[A], A]:
    """Make a utility function, an `Annotator` or a class of them an annotator by name.

    Args:
        name: for `--annotator`; as `--reward` it is the annotator's expected utility.
        knobs: for a function: fields of `Annotator`, such as its noise.

    Raises:
        ConfigError: the name is none, or is taken.
    """
    _check_name(ANNOTATORS, name)

    def decorate(thing: A) -> A:

        from probe.world.annotators import make_annotator

        with unless_taken():
            _check_free(name, VERIFIERS)
            if name in _presets():
                raise NameTakenError(f"An annotator `{name}` exists already (built in): choose another name.")
            ANNOTATORS.put(name, (make_annotator(name, thing, knobs), source_hash(thing)), thing)
        return thing

    return decorate


def panel(page: str, *, title: str = "") -> Callable[[F], F]:
    """Add a part to the end of a page of the dashboard.

    Args:
        page: `overview`, `train`, `training`, `compare`, `attention`, `logits`, `interventions`, `autoregression`,
            `rewards`, ...: the page's file name, or its title.
        title: above it.

    Raises:
        ConfigError: the function asks for what a panel cannot have, or the name is taken.
    """

    def decorate(function: F) -> F:
        _check_arguments("panel", function, PANEL_ARGUMENTS)
        heading = title or function.__name__.replace("_", " ").capitalize()
        with unless_taken():
            PANELS.put(f"{page_key(page)}/{heading}", Panel(page_key(page), heading, function), function)
        return function

    return decorate


def page(title: str, *, icon: str | None = None) -> Callable[[F], F]:
    """Add a page to the dashboard.

    Args:
        title: in the navigation.
        icon: as streamlit names them.

    Raises:
        ConfigError: the title is empty or taken, or the function asks for what a page cannot have.
    """
    if not title.strip():
        raise ConfigError("A page has no title: give it one.")

    def decorate(function: F) -> F:
        _check_arguments("page", function, ("shared",))
        with unless_taken():
            PAGES.put(title, Page(title, function, icon), function)
        return function

    return decorate


def verifiers() -> dict[str, Verifier]:
    """Return all verifiers that others added, by name."""
    return VERIFIERS.all()


def annotators() -> "dict[str, Annotator]":
    """Return all annotators by name: the world's own (agreeable, honest, indifferent), then those that others added."""
    return _presets() | {name: value for name, (value, _) in ANNOTATORS.all().items()}


def find_annotator(spec: str) -> "Annotator":
    """Find the annotator of a name; with `+KNOB=NUMBER` behind it the same one with that knob changed.

    Args:
        spec: such as `honest`, `agreeable+abstain=0` or `honest+agreement=2+checks=0.3`.

    Raises:
        ConfigError: there is none of the name (a near one is named), no such knob, or no number that it can have.
    """
    name, *changes = spec.split("+")
    by_name = annotators()
    if name not in by_name:
        hint = suggest(name, by_name, "name one of these, or give the file of yours with --plugin.")
        raise ConfigError(f"There is no annotator `{name}`, only {', '.join(by_name)}: {hint}")
    if not changes:
        return by_name[name]

    from probe.world.annotators import with_knobs

    return with_knobs(by_name[name], changes, spec)


def annotator_name(spec: str) -> str:
    """Return the name in an annotator's spec, without its knobs (see `find_annotator`)."""
    return spec.partition("+")[0]


def annotator_fingerprint(spec: str) -> str | None:
    """Return the key by which a resumed run knows an annotator that others added; None for the world's own."""
    added = ANNOTATORS.all()
    return added[annotator_name(spec)][1] if annotator_name(spec) in added else None


def panels(page: str) -> list[Panel]:
    """Return the panels of a page, in the order of their titles."""
    return [each for _, each in sorted(PANELS.all().items()) if each.page == page_key(page)]


def pages() -> list[Page]:
    """Return the pages that others added, in the order of their titles."""
    return [each for _, each in sorted(PAGES.all().items())]


def page_key(page: str) -> str:
    """Return a page's name in one form: `attention/page.py`, `Attention` and `attention` give `attention`."""
    stem = page.replace("\\", "/").removesuffix("/page.py").rpartition("/")[2].removesuffix(".py")
    return stem.strip().lower().replace(" ", "_").replace("-", "_")


def _presets() -> "dict[str, Annotator]":
    from probe.world.annotators import AGREEABLE, HONEST, INDIFFERENT

    return {"agreeable": AGREEABLE, "honest": HONEST, "indifferent": INDIFFERENT}


def _check_name(registry: Registry[Any], name: str) -> None:
    if not name.replace("-", "_").isidentifier():
        raise ConfigError(
            f"{registry.article.capitalize()} {registry.kind} was called {name!r}: give a word of letters, digits, -"
            " and _."
        )


def _check_free(name: str, other: Registry[Any]) -> None:
    """Refuse a name that the other registry has: verifiers and annotators are both rewards by name."""
    if name in other.known:
        raise NameTakenError(
            f"`{name}` is the name of {other.article} {other.kind} already ({other.origin(name)}): both are rewards by"
            " name, so choose another one."
        )


def _check_arguments(kind: str, function: Callable[..., Any], names: tuple[str, ...]) -> None:
    for each in inspect.signature(function).parameters.values():
        if each.name not in names and each.default is each.empty:
            raise ConfigError(
                f"The {kind} `{function.__name__}` takes `{each.name}`, but a {kind} is given {', '.join(names)}:"
                " take some of these, or none."
            )


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
