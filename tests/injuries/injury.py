"""What an injury is: an ordinary training with one thing changed from outside, from a known step on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

from trainers.session import Session

Begun = Callable[[], bool]
"""Function that says whether the first injured step has come."""

KINDS = {"real": "SmolLM2", "trl": "TRL"}


def kind_of(recipe: str) -> str:
    """Return what a recipe trains: the model of a `world`, `SmolLM2`, or that with `TRL`."""
    return KINDS.get(recipe.partition("-")[0], "world")


def unharmed(begun: Begun) -> AbstractContextManager[Any]:
    """Return a context that changes nothing, for injuries that are options."""
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Injury:
    """A fault that is injected into an ordinary training."""

    name: str
    fault: str
    """Name of the fault in `probe.diagnosis`, which several injuries may have in common."""
    recipe: str
    """Name of the recipe in `shortened.RECIPES` that it is injected into."""
    step: int
    """First injured step; 1 for the whole training."""
    about: str
    """What is changed, and the harm that it does."""
    inject: Callable[[Begun], AbstractContextManager[Any]] = unharmed
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options in which the training differs from the recipe."""
    shows: Mapping[str, int] = field(default_factory=dict)
    """Metric -> 1 or -1, the direction in which it leaves the healthy runs' by the end if the injury does its harm;
    none if the training fails."""

    def at(self, step: int) -> "Injury":
        """Return the injury with another first step."""
        return replace(self, step=step)


@contextmanager
def beginning(step: int) -> Iterator[Begun]:
    """Yield the function that says, inside the context, whether a training has come to this step."""
    now, original = 0, Session.seed

    def seed(self: Session, at: int) -> None:
        nonlocal now
        now = at
        original(self, at)

    with patch.object(Session, "seed", seed):
        yield lambda: now >= step


def wrapped(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """Return a context in which a function is `wrapper` of itself."""
    return patch.object(owner, name, wrapper(getattr(owner, name)))
