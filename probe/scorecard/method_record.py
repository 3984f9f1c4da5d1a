"""Record of a method that looks inside a model, and the registry: built in, from other packages, or from a file.

    @probe.method("decoding", title="Nearest neighbour")
    def nearest(states, labels, groups):
        \"\"\"Give the label of the nearest training state.\"\"\"
        return lambda others: labels[((others[:, None] - states[None]) ** 2).sum(-1).argmin(1)]

    probe scorecard --plugin nearest.py

What a function receives and returns is the family's (`probe.scorecard.family_record`). The decorator returns the
function unchanged. Packages add methods through the entry-point group `probe.methods`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from probe.errors import ConfigError
from probe.plugins import BUILT_IN, Registry, origin_of, unless_taken

RESERVED = ("random", "oracle")
"""Names of the two checks that every family has."""
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Method:
    """Method as the registry stores it."""

    name: str
    """Stable name: the name of its function."""
    family: str
    """Name of its family."""
    title: str
    """Title shown to people."""
    function: Callable[..., Any]
    """Function that the family calls."""
    origin: str = BUILT_IN
    """Source of the method: built in, a distribution, or a file."""


METHODS: Registry[Method] = Registry("method", "probe.methods")


def method(family: str, *, title: str = "") -> Callable[[F], F]:
    """Register a function as a method of a family; see the module.

    Args:
        family: name of the family, such as `decoding`.
        title: title shown to people; by default the name of the function.

    Raises:
        ConfigError: the family is no name, or the method's name is taken.
    """
    if not isinstance(family, str) or not family.isidentifier():
        raise ConfigError(f"A method of the family {family!r} was declared: name a family, as in @method('decoding').")

    def decorate(function: F) -> F:
        name = function.__name__
        if not name.isidentifier() or name in RESERVED:
            raise ConfigError(f"A method cannot be called `{name}`: choose another name for the function.")
        own = str(function.__module__).startswith("probe.scorecard.")
        origin = BUILT_IN if own else origin_of(function)
        with unless_taken():
            METHODS.put(
                f"{family}/{name}",
                Method(name, family, title or name.replace("_", " "), function, origin),
                function,
                origin,
            )
        return function

    return decorate
