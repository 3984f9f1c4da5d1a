"""An annotator from a function of the user's own: its utility, the noise of the world's annotators."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from probe.errors import ConfigError, DataError
from probe.plugins import failure
from probe.world.annotators import Annotator

if TYPE_CHECKING:
    from probe.world import World

Utility = Callable[["World", str, str], float]
"""(world, prompt, completion) to a utility."""


def _nothing(world: "World", prompt: str, completion: str) -> float:
    return 0.0


@dataclass(frozen=True, kw_only=True)
class OwnAnnotator(Annotator):
    """Prefers what a function gives more to; only the noise of the other knobs acts."""

    name: str = ""
    wish: Utility = _nothing
    """What a completion is worth."""

    def utility(self, world: "World", prompt: str, completion: str, checked: bool = True) -> float:
        """What the function gives.

        Raises:
            ConfigError: it fails.
            DataError: it gives no finite number.
        """
        try:
            found: Any = self.wish(world, prompt, completion)
        except Exception as error:  # the function is the user's
            raise failure(f"The annotator `{self.name}`", error, self.wish) from error
        try:
            value = math.nan if isinstance(found, str | bytes) else float(found)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"The annotator `{self.name}` gave {found!r} for a completion: return a finite number.")
        return value


def made(name: str, thing: Any, knobs: Mapping[str, float]) -> Annotator:
    """An annotator from an `Annotator`, a class of them, or a utility function.

    Raises:
        ConfigError: it is none of these, or has no such knobs.
    """
    try:
        if isinstance(thing, Annotator) and not knobs:
            return thing
        if isinstance(thing, type) and issubclass(thing, Annotator):
            return thing(**knobs)
        if callable(thing) and not isinstance(thing, type | Annotator):
            return OwnAnnotator(name=name, wish=thing, **knobs)
    except TypeError as error:
        known = ", ".join(each.name for each in fields(Annotator))
        raise ConfigError(f"The annotator `{name}` cannot be made ({error}): its knobs are {known}.") from None
    raise ConfigError(
        f"The annotator `{name}` is a {type(thing).__name__}: decorate a function (world, prompt, completion) -> float,"
        " or give an Annotator without further knobs."
    )
