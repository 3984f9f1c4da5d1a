"""Cached results of models in memory, and small models that inputs name."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from probe.model.loading import quick_stamp
from probe.model.references import is_adapter, model_files, resolve, split_readout

if TYPE_CHECKING:
    from probe.model.lm import LM

T = TypeVar("T")
Stamp = tuple[int, int]
"""Time of the last change of a model's weights, and their size in bytes."""
MOST = 64
"""Maximum number of results that are kept for a model."""
LIGHT = 16 * 2**20
"""Maximum bytes of weights of a model that stays in memory after an input named it."""
KEPT: "WeakKeyDictionary[LM, dict[Hashable, Any]]" = WeakKeyDictionary()


def keep(lm: "LM", key: Hashable, make: Callable[[], T]) -> T:
    """Return the result of `make`, computed once for each key while the model is in memory and unchanged.

    Under hooks it is computed again, because hooks change the model's outputs.
    """
    if lm.is_hooked:
        return make()
    own = KEPT.setdefault(lm, {})
    whole = key, quick_stamp(lm.model)
    if whole not in own:
        made = make()
        while len(own) >= MOST:
            own.pop(next(iter(own)))
        own[whole] = made
    return cast(T, own[whole])


def kept(lm: "LM", key: Hashable) -> Any:
    """Return the result that `keep` stored for a key; None if there is none."""
    return None if lm.is_hooked else KEPT.get(lm, {}).get((key, quick_stamp(lm.model)))


def stamp_of(directory: Path) -> Stamp:
    """Return the time of the last change of a model's files, and their size; (0, 0) if there are none."""
    stats = [file.stat() for file in model_files(directory)]
    return max((each.st_mtime_ns for each in stats), default=0), sum(each.st_size for each in stats)


def load_named(ref: str | Path) -> "LM":
    """Load the model that an input names; a small one stays in memory until its files change.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    from probe.model.rewards import analysable

    directory = resolve(split_readout(str(ref))[0]).directory
    stamp = stamp_of(directory)
    small = stamp[1] <= LIGHT and not is_adapter(directory)  # an adapter's base may be large
    return _load(str(ref), stamp) if small else analysable(ref)


@lru_cache(maxsize=16)
def _load(ref: str, stamp: Stamp) -> "LM":
    from probe.model.rewards import analysable

    return analysable(ref)
