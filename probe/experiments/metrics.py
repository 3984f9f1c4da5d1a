"""Metrics of experiments: functions of the items, so that intervals and paired differences come by themselves.

An experiment leaves a table with one row an item; a metric says which column of it is averaged, or which function of
its columns is taken. Two models that answered the same items are compared item by item.

    Share("deferral")                                   # column of zeros and ones: Wilson; difference by Newcombe
    Mean("excess_deference")                            # column of numbers: bootstrap; difference paired
    Statistic("auroc", auroc, ("right", "confidence"))  # any function of columns: bootstrap over items

Rows where a column has no value (NaN) do not count. Where several rows come from one prompt, `unit` names the column
of what is independent, and whole units are drawn.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.errors import ConfigError, DataError
from probe.stats import Interval

COLUMNS = ("metric", "value", "ci_low", "ci_high", "n")
COMPARED = ("baseline", "baseline_low", "baseline_high", "difference", "difference_low", "difference_high")
"""Columns of a summary, and those that a baseline adds; the difference is the model's value minus the baseline's."""
ITEM = "item"
"""The column that names an item; equal names in two models' tables are the same question."""
RESAMPLES = 1000
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
Columns = Mapping[str, NDArray[Any]]


class Given(NamedTuple):
    """A number that is no function of the items, such as one read from captures, with the interval that it came with.

    Without an interval the ends are NaN.
    """

    metric: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0


@dataclass(frozen=True)
class Metric(ABC):
    """What all metrics have."""

    name: str
    """In the summary; stable, listed in docs/experiments.md."""
    where: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Only items that have these values in these columns."""
    unit: str = field(default=ITEM, kw_only=True)
    """The column of what was drawn independently."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""

    @abstractmethod
    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """The value of rows as `select` gives them, with its 95 % interval."""

    @abstractmethod
    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """Value of `rows` minus that of `others`, which are the same items in the same order."""

    def applies(self, items: pd.DataFrame) -> bool:
        """Whether the items have what it reads; a metric whose columns an experiment left out is left out too."""
        return {*self.columns, *self.where, self.unit} <= {*items.columns, ITEM}

    def select(self, items: pd.DataFrame) -> pd.DataFrame:
        """The rows that count."""
        keep = items[list(self.columns)].notna().all(axis=1)
        for column, value in self.where.items():
            keep &= items[column] == value
        return items[keep]

    def row(self, items: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
        """metric, value, ci_low, ci_high, n; n counts items."""
        rows = self.select(items)
        found = self.estimate(rows, seed) if len(rows) else UNKNOWN
        return dict(zip(COLUMNS, (self.name, *found, len(rows)), strict=True))


@dataclass(frozen=True)
class Mean(Metric):
    """The mean of a column: percentile bootstrap over units."""

    column: str = ""
    """Column of numbers; without one that of the metric's name."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.column or self.name,)

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """See `probe.stats.bootstrap_mean`; of units, a mean weighted by their sizes."""
        values = _floats(rows, self.columns[0])
        if self.unit == ITEM:
            return stats.bootstrap_mean(values, seed=seed)
        return _bootstrap(rows, self.unit, lambda columns: float(columns["v"].mean()), {"v": values}, seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """The mean of the differences, item by item."""
        gap = _floats(rows, self.columns[0]) - _floats(others, self.columns[0])
        if self.unit == ITEM:
            return stats.bootstrap_mean(gap, seed=seed)
        return _bootstrap(rows, self.unit, lambda columns: float(columns["v"].mean()), {"v": gap}, seed)


@dataclass(frozen=True)
class Share(Mean):
    """The share of ones in a column of zeros and ones: Wilson's interval, Newcombe's for paired differences."""

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """See `probe.stats.wilson`; the bootstrap where several rows belong to one unit."""
        values = _floats(rows, self.columns[0])
        if not np.isin(values, (0, 1)).all():
            raise DataError(f"The share `{self.name}` has items that are neither 0 nor 1: use a mean for them.")
        return super().estimate(rows, seed) if self.unit != ITEM else stats.wilson(int(values.sum()), len(values))

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """See `probe.stats.paired_proportions`."""
        if self.unit != ITEM:
            return super().difference(rows, others, seed)
        return stats.paired_proportions(_floats(rows, self.columns[0]), _floats(others, self.columns[0]))


@dataclass(frozen=True)
class Statistic(Metric):
    """A function of columns, such as a calibration error: percentile bootstrap over units."""

    fn: Callable[[Columns], float]
    """{column: [N] values} -> number; NaN where it has none."""
    reads: tuple[str, ...]
    """The columns that it is given."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What `fn` is given."""
        return self.reads

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """The function of all rows, and the quantiles of that of resampled ones."""
        return _bootstrap(rows, self.unit, self.fn, self._arrays(rows), seed)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
        """The same for the difference, items drawn together."""
        both = self._arrays(rows) | {f"\0{name}": values for name, values in self._arrays(others).items()}

        def gap(columns: Columns) -> float:
            ours = {name: columns[name] for name in self.reads}
            return self.fn(ours) - self.fn({name: columns[f"\0{name}"] for name in self.reads})

        return _bootstrap(rows, self.unit, gap, both, seed)

    def _arrays(self, rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        return {name: rows[name].to_numpy() for name in self.reads}


def summarise(
    metrics: Sequence[Metric], items: pd.DataFrame, given: Sequence[Given] = (), seed: int = 0
) -> pd.DataFrame:
    """One row a metric: metric, value, ci_low, ci_high, n.

    Metrics whose columns the items lack, and those without any item, are left out.

    Raises:
        ConfigError: two metrics have one name.
    """
    rows = [metric.row(items, seed) for metric in metrics if metric.applies(items)]
    rows = [row for row in rows if row["n"]]
    rows += [dict(zip(COLUMNS, each, strict=True)) for each in given]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    twice = table["metric"][table["metric"].duplicated()]
    if len(twice):
        raise ConfigError(f"Two metrics are called `{twice.iloc[0]}`: give each a name of its own.")
    return table.astype({"value": float, "ci_low": float, "ci_high": float, "n": int})


def differences(
    metrics: Sequence[Metric],
    summary: pd.DataFrame,
    baseline: pd.DataFrame,
    items: pd.DataFrame,
    baseline_items: pd.DataFrame,
    seed: int = 0,
) -> pd.DataFrame:
    """`summary` with the columns of a baseline: its value and interval, and the difference with its paired interval.

    Args:
        metrics: what the summaries were made with.
        summary: of the model.
        baseline: of the baseline.
        items: of the model.
        baseline_items: of the baseline; only items of both enter the difference.
        seed: of the bootstrap.

    Returns:
        The difference of a metric that is no function of items has no interval.
    """
    theirs = baseline.set_index("metric")
    ours, others = paired(items, baseline_items)
    by_name = {metric.name: metric for metric in metrics}
    rows = []
    for name, value in zip(summary["metric"], summary["value"], strict=True):
        if name not in theirs.index:
            rows.append([float("nan")] * len(COMPARED))
            continue
        base = [float(theirs.loc[name, column]) for column in ("value", "ci_low", "ci_high")]
        metric = by_name.get(name)
        found = _difference(metric, ours, others, seed) if metric is not None else UNKNOWN
        gap = float(value) - base[0]
        rows.append([*base, *(found if found.value == found.value else (gap, *UNKNOWN[1:]))])
    return pd.concat([summary.reset_index(drop=True), pd.DataFrame(rows, columns=list(COMPARED))], axis=1)


def paired(items: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of both tables whose items both have, in the same order."""
    ours, theirs = items.set_index(ITEM, drop=False), others.set_index(ITEM, drop=False)
    common = ours.index.intersection(theirs.index, sort=False)
    return ours.loc[common], theirs.loc[common]


def _difference(metric: Metric, ours: pd.DataFrame, others: pd.DataFrame, seed: int) -> Interval:
    if not (metric.applies(ours) and metric.applies(others)):
        return UNKNOWN
    both = metric.select(ours).index.intersection(metric.select(others).index, sort=False)
    return metric.difference(ours.loc[both], others.loc[both], seed) if len(both) else UNKNOWN


def _bootstrap(rows: pd.DataFrame, unit: str, fn: Callable[[Columns], float], arrays: Columns, seed: int) -> Interval:
    """`fn` of the arrays, and the quantiles of its values for resampled units."""
    rng = np.random.default_rng(seed)
    codes = pd.factorize(rows[unit])[0] if unit != ITEM else np.arange(len(rows))
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max(initial=-1) + 2))
    groups = [order[a:b] for a, b in pairwise(starts)]
    single = len(groups) == len(rows)
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
    return Interval(value, float(low), float(high))


def _floats(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    try:
        return rows[column].to_numpy(dtype=float)
    except (TypeError, ValueError):
        raise DataError(f"The column `{column}` of the items is no number in every row: give numbers.") from None
