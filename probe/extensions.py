"""What others can add besides analyses and experiments: verifiers and annotators.

    @probe.verifier("brief")                              # `probe train rlvr --reward brief`
    def brief(prompts, completions, completion_ids):      # any of prompts, completions, completion_ids, world, columns
        return [-float(len(ids)) for ids in completion_ids]

    @probe.annotator("curt")                              # `probe train dpo --annotator curt`, or curt+noise=1
    def curt(world, prompt, completion):                  # the utility of a completion
        return -float(len(completion.split()))

They are found in packages with entry points of the groups `probe.verifiers` and `probe.annotators` (each names a
decorated function, or a module of some), in files behind `--plugin` and in those of the environment variable
`PROBE_PLUGINS` (`probe.plugins`).
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


VERIFIERS: Registry[Verifier] = Registry("verifier", "probe.verifiers")
ANNOTATORS: "Registry[tuple[Annotator, str]]" = Registry("annotator", "probe.annotators")


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


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
