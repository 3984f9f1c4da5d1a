"""Bootstrap over what is independent: items, or whole units of them such as the rows of one prompt."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.errors import DataError
from probe.stats import Bounds, Interval, unvaried

RESAMPLES = 1000
"""How often items or units are drawn."""
Columns = Mapping[str, NDArray[Any]]


def bootstrap(
    units: pd.Series | None,
    fn: Callable[[Columns], float],
    arrays: Columns,
    seed: int,
    bounds: Bounds | None = None,
    count: Callable[[Columns], float] | None = None,
) -> Interval:
    """`fn` of the arrays, and the quantiles of its values for resampled units.

    Where it never varies, `probe.stats.unvaried` says how far it may: by its `bounds`, and by how many units it rests
    on, which is their number unless `count` says otherwise of the arrays.
    """
    rng = np.random.default_rng(seed)
    size = len(next(iter(arrays.values())))
    codes = np.arange(size) if units is None else pd.factorize(units)[0]
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))
    groups = [order[a:b] for a, b in pairwise(starts)]
    single = len(groups) == size
    drawn = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        chosen = rng.integers(0, len(groups), len(groups))
        index = order[chosen] if single else np.concatenate([groups[g] for g in chosen])
        drawn[i] = fn({name: values[index] for name, values in arrays.items()})
    known = drawn[np.isfinite(drawn)]
    value = float(fn(arrays))
    if len(groups) < 2 or len(known) < RESAMPLES // 2:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    found = Interval(value, float(low), float(high))
    return unvaried(found, len(groups) if count is None else min(len(groups), count(arrays)), bounds)


def bootstrap_units(units: pd.Series, values: NDArray[np.float64], seed: int, bounds: Bounds | None = None) -> Interval:
    """The mean of the values, and the quantiles of the means for resampled units: as `bootstrap`, by sums."""
    codes, names = pd.factorize(units)
    value = float(values.mean())
    if len(names) < 2:
        return Interval(value, float("nan"), float("nan"))
    sums, counts = np.bincount(codes, values), np.bincount(codes)
    drawn = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return unvaried(Interval(value, float(low), float(high)), len(names), bounds)


def floats(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column of items as [N] numbers.

    Raises:
        DataError: a row has none, or an infinite one; text is none, also where it reads like one.
    """
    try:
        if rows[column].map(lambda value: isinstance(value, str)).any():
            raise TypeError
        values = rows[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"The column `{column}` of the items is no number in every row: give numbers.") from None
    if not np.isfinite(values).all():
        raise DataError(f"The column `{column}` of the items is infinite in some row: give finite numbers, or none.")
    return values
