"""What is made once of a model and kept while it is in memory; and small models that are named by inputs."""

from collections.abc import Callable, Hashable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from probe.model.references import is_adapter, model_files, resolve, split_readout

if TYPE_CHECKING:
    from probe.model.lm import LM

T = TypeVar("T")
Stamp = tuple[int, int]
"""When the weights of a model were written, and their bytes."""
MOST = 64
"""Results that are kept of a model."""
LIGHT = 16 * 2**20
"""Bytes of weights up to which a model that an input names stays in memory."""
SUMMED = 2**16
"""Weights of a tensor that are summed up to tell it from a changed one, about."""
KEPT: "WeakKeyDictionary[LM, dict[Hashable, Any]]" = WeakKeyDictionary()


def keep(lm: "LM", key: Hashable, make: Callable[[], T]) -> T:
    """Return what `make` gives, made once for each key as long as the model is in memory and its weights stay.

    Under hooks it is made anew: they change what the model gives.
    """
    if lm.is_hooked:
        return make()
    own = KEPT.setdefault(lm, {})
    whole = key, _version(lm)
    if whole not in own:
        made = make()
        while len(own) >= MOST:
            own.pop(next(iter(own)))
        own[whole] = made
    return cast(T, own[whole])


def kept(lm: "LM", key: Hashable) -> Any:
    """Return what `keep` has of a key; None where it was not made."""
    return None if lm.is_hooked else KEPT.get(lm, {}).get((key, _version(lm)))


def _version(lm: "LM") -> tuple[float, ...]:
    """Return what tells weights from changed ones: a change through `.data` raises no counter, so sums are among it."""
    flat = [each.detach().flatten() for each in lm.model.parameters()]
    sums = [float(each[:: 1 + each.numel() // SUMMED].double().sum()) for each in flat]
    return sum(each._version for each in lm.model.parameters()), *sums


def stamp_of(directory: Path) -> Stamp:
    """Return when the files of a model were written last, and their size; (0, 0) where there are none."""
    stats = [file.stat() for file in model_files(directory)]
    return max((each.st_mtime_ns for each in stats), default=0), sum(each.st_size for each in stats)


def load_named(ref: str | Path) -> "LM":
    """Load the model that an input names; a small one stays in memory until it was written again.

    Raises:
        ModelError: there is none, or it cannot be used.
    """
    from probe.model.rewards import analysable

    directory = resolve(split_readout(str(ref))[0]).directory
    stamp = stamp_of(directory)
    small = stamp[1] <= LIGHT and not is_adapter(directory)  # an adapter is small, and its base need not be
    return _load(str(ref), stamp) if small else analysable(ref)


@lru_cache(maxsize=16)
def _load(ref: str, stamp: Stamp) -> "LM":
    from probe.model.rewards import analysable

    return analysable(ref)
