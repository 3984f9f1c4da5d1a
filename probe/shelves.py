"""Where extensions are kept: one shelf a kind, by name, each with where it comes from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from probe.errors import ConfigError
from probe.sources import NOTEBOOK

T = TypeVar("T")
BUILT_IN = "built in"
"""The origin of what belongs to Probe itself."""


class NameTakenError(ConfigError):
    """A name that another extension has already."""


class Shelf(Generic[T]):
    """The extensions of one kind by name."""

    def __init__(self, kind: str, group: str) -> None:
        """Make an empty shelf.

        Args:
            kind: one word for messages, such as `experiment`.
            group: entry-point group of packages that bring some.
        """
        self.kind, self.group = kind, group
        self.article = "an" if kind[0] in "aeiou" else "a"
        self.known: dict[str, T] = {}
        self.places: dict[str, tuple[tuple[str, str], str]] = {}
        SHELVES.append(self)

    def put(self, name: str, thing: T, defined: Any, origin: str | None = None) -> None:
        """Add a thing; one that is defined again (a notebook cell, a file that is run twice) replaces itself.

        Args:
            name: by which it is called.
            thing: what is kept.
            defined: the function or class behind it, by which it is known again.
            origin: where it comes from, if not as `origin_of` says.

        Raises:
            NameTakenError: another one has the name.
        """
        origin = origin or origin_of(defined)
        place = _place(defined, origin)
        taken = self.places.get(name)
        if taken is not None and taken[0] != place:
            raise NameTakenError(
                f"{self.article.capitalize()} {self.kind} `{name}` exists already ({taken[1]}): choose another name for"
                f" that of {origin}."
            )
        self.known[name] = thing
        self.places[name] = place, origin

    def origin(self, name: str) -> str:
        """Where a thing comes from."""
        return self.places[name][1]

    def all(self) -> dict[str, T]:
        """Everything on it, once installed packages and the environment's plugins are imported."""
        from probe.plugins import discover

        discover()
        return dict(self.known)

    def state(self) -> tuple[dict[str, T], dict[str, Any]]:
        """What `restore` needs to put it back."""
        return dict(self.known), dict(self.places)

    def forget(self, origin: str) -> None:
        """Take off what came from a file that is about to run again."""
        for name in [name for name, (_, whence) in self.places.items() if whence == origin]:
            del self.known[name], self.places[name]


SHELVES: list[Shelf[Any]] = []
"""All shelves of this process."""
ORIGINS: list[str] = []
"""What is being loaded, the innermost last."""
REFUSED: list[list[NameTakenError]] = []
"""What was left out of each of these."""


@contextmanager
def coming_from(origin: str) -> Iterator[list[NameTakenError]]:
    """Say where extensions that are defined inside come from; gives what was left out because its name was taken."""
    refused: list[NameTakenError] = []
    ORIGINS.append(origin)
    REFUSED.append(refused)
    try:
        yield refused
    finally:
        ORIGINS.pop()
        REFUSED.pop()


@contextmanager
def unless_taken() -> Iterator[None]:
    """Leave out a thing whose name is taken, and nothing else of the file or package that is being loaded.

    Raises:
        NameTakenError: nothing is being loaded; whoever defines the thing is told at once.
    """
    try:
        yield
    except NameTakenError as error:
        if not REFUSED:
            raise
        REFUSED[-1].append(error)


def origin_of(thing: Any) -> str:
    """Where a thing comes from: the file or distribution that is being loaded, else its module."""
    module = str(getattr(thing, "__module__", "") or "here")
    return ORIGINS[-1] if ORIGINS else module


@contextmanager
def undone_on_failure(origin: str) -> Iterator[None]:
    """What is defined inside is taken back if an error leaves it."""
    states = [(shelf, shelf.state()) for shelf in SHELVES]
    try:
        yield
    except BaseException:
        restore(states)
        for shelf in SHELVES[len(states) :]:  # made meanwhile
            shelf.forget(origin)
        raise


def restore(states: Sequence[tuple[Shelf[Any], tuple[dict[str, Any], dict[str, Any]]]]) -> None:
    """Put shelves back to earlier states."""
    for shelf, (known, places) in states:
        shelf.known, shelf.places = dict(known), dict(places)


def _place(defined: Any, origin: str) -> tuple[str, str]:
    """By what a thing is known again when it is defined anew."""
    module = getattr(defined, "__module__", None)
    if module == NOTEBOOK:
        return NOTEBOOK, ""
    name = getattr(defined, "__qualname__", None)
    return (str(module), str(name)) if name else (origin, "")
