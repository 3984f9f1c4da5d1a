"""Extensions other than analyses and experiments: verifiers and annotators.

    @probe.verifier("brief")                              # `probe train rlvr --reward brief`
    def brief(prompts, completions, completion_ids):      # any of prompts, completions, completion_ids, world, columns
        return [-float(len(ids)) for ids in completion_ids]

    @probe.annotator("curt")                              # `probe train dpo --annotator curt`, or curt+noise=1
    def curt(world, prompt, completion):                  # the utility of a completion
        return -float(len(completion.split()))

They are found in packages with entry points of the groups `probe.verifiers` and `probe.annotators` (each names a
decorated function, or a module with such functions), in files given by `--plugin` and in those of the environment
variable `PROBE_PLUGINS` (`probe.plugins`).
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
    """A named reward function."""

    name: str
    function: Callable[..., Any]
    """Function (prompts, completions, **columns) -> a number or None per completion; it gets the columns that it
    names."""
    about: str
    """First line of its docstring."""

    @property
    def wants(self) -> frozenset[str] | None:
        """The names of its arguments; None for all."""
        parameters = inspect.signature(self.function).parameters.values()
        free = any(each.kind is each.VAR_KEYWORD for each in parameters)
        return None if free else frozenset(each.name for each in parameters)

    @property
    def fingerprint(self) -> str:
        """The key under which a resumed run finds the verifier."""
        return source_hash(self.function)


VERIFIERS: Registry[Verifier] = Registry("verifier", "probe.verifiers")
ANNOTATORS: "Registry[tuple[Annotator, str]]" = Registry("annotator", "probe.annotators")


def verifier(name: str) -> Callable[[F], F]:
    """Register a function as a reward by name; see the module.

    Raises:
        ConfigError: the name is invalid or taken.
    """
    _check_name(VERIFIERS, name)

    def decorate(function: F) -> F:
        with unless_taken():
            _check_free(name, ANNOTATORS)
            first_line = (inspect.getdoc(function) or "").partition("\n")[0]
            VERIFIERS.put(name, Verifier(name, function, first_line), function)
        return function

    return decorate


def annotator(name: str, **knobs: float) -> Callable[[A], A]:
    """Register a utility function, an `Annotator` or a subclass of it as an annotator by name.

    Args:
        name: name for `--annotator`; with `--reward` it stands for the annotator's expected utility.
        knobs: fields of `Annotator` for a function, such as its noise.

    Raises:
        ConfigError: the name is invalid or taken.
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
    """Return all added verifiers by name."""
    return VERIFIERS.all()


def annotators() -> "dict[str, Annotator]":
    """Return all annotators by name: the world's (agreeable, honest, indifferent), then the added ones."""
    return _presets() | {name: value for name, (value, _) in ANNOTATORS.all().items()}


def find_annotator(spec: str) -> "Annotator":
    """Find an annotator by name; a suffix `+KNOB=NUMBER` changes a knob.

    Args:
        spec: name with changes of knobs, such as `honest`, `agreeable+abstain=0` or `honest+agreement=2+checks=0.3`.

    Raises:
        ConfigError: the name is unknown (a similar one is suggested), the knob is unknown, or its value is invalid.
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
    """Return the fingerprint with which a resumed run identifies an added annotator; None for the world's."""
    added = ANNOTATORS.all()
    return added[annotator_name(spec)][1] if annotator_name(spec) in added else None


def _presets() -> "dict[str, Annotator]":
    from probe.world.annotators import AGREEABLE, HONEST, INDIFFERENT

    return {"agreeable": AGREEABLE, "honest": HONEST, "indifferent": INDIFFERENT}


def _check_name(registry: Registry[Any], name: str) -> None:
    if not name.replace("-", "_").isidentifier():
        raise ConfigError(
            f"{registry.article.capitalize()} {registry.kind} cannot be called {name!r}: give a word of letters,"
            " digits, - and _."
        )


def _check_free(name: str, other: Registry[Any]) -> None:
    """Refuse a name of the other registry, since both verifiers and annotators are rewards by name."""
    if name in other.known:
        raise NameTakenError(
            f"`{name}` is the name of {other.article} {other.kind} already ({other.origin(name)}): both are rewards by"
            " name, so choose another one."
        )
