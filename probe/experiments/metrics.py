"""Metrics of experiments: functions of the items, from which intervals and paired differences follow.

An experiment returns a table with one row per item; a metric is the mean of a column, or a function of columns. Two
models that answered the same items are compared item by item; models with different items are compared as independent.

    Share("deferral")                                   # column of zeros and ones: Wilson; difference by Newcombe
    Mean("excess_share", bounds=GAIN)                   # column of numbers: studentised bootstrap; difference paired
    Statistic("auroc", auroc, ("right", "confidence"))  # any function of columns: percentile bootstrap

Rows where a column has no value (NaN) do not count. The *unit* is what was sampled: rows that share a unit are not
independent, and whole units are resampled (Miller 2024, arXiv 2411.00640). The unit of a row is its value in the first
of these columns in which it has one: `unit` (a column of a file that the user named), `person` (the subject of a
world's question), the column that the metric itself names, `row` (of a file), `item`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe import stats
from probe.errors import ConfigError, DataError
from probe.stats import Bounds, Interval, floats

Columns = Mapping[str, NDArray[Any]]

COLUMNS = ("metric", "value", "ci_low", "ci_high", "n")
COMPARED = ("baseline", "baseline_low", "baseline_high", "difference", "difference_low", "difference_high")
"""Columns of a summary, and those that a baseline adds; the difference is the model's value minus the baseline's."""
PAIRS = "pairs"
"""Additional column for models that may have read different prompts: number of items of both behind a difference; 0 if
it is unpaired, between different items, NaN if it is not of items.
"""
ITEM = "item"
"""Column that identifies an item; equal names in two models' tables are the same question."""
UNIT, PERSON, ROW = "unit", "person", "row"
"""Columns that identify the sampling unit that items share: a column named by the user, the person of a world, and the
row of a file.
"""
INTERVALS = 3
"""Version of the intervals; increase it when equal items get other intervals, so that stored results are recomputed."""
PROMPT, EXPECTED = "prompt", "expected"
"""Columns with the exact prompt of the model, and with the right answer."""
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))
BARE = (
    f"a value without an interval is not a mean of answers, or it is a mean of fewer than {stats.LEAST} or of"
    " equal ones"
)
"""Text after "intervals"."""


class Given(NamedTuple):
    """Number that is not a function of the items, such as one read from captures, with its interval.

    Without an interval the bounds are NaN.
    """

    metric: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    n: int = 0


@dataclass(frozen=True)
class Metric(ABC):
    """Base class of metrics."""

    name: str
    """Name in the summary; stable, listed in docs/experiments.md."""
    where: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Values that some columns must have for an item to count."""
    unit: str = field(default=ITEM, kw_only=True)
    """Column of the sampling units, for rows with neither `UNIT` nor `PERSON`."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns that it reads."""

    @abstractmethod
    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the value of rows selected by `select`, with its 95 % interval."""

    @abstractmethod
    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the value of `rows` minus that of `others`, which are the same items in the same order."""

    def value(self, columns: Columns) -> float:
        """Return only the value, from the values of its columns; faster than `estimate` where possible."""
        return self.estimate(pd.DataFrame(dict(columns)), 0).value

    def applies(self, items: pd.DataFrame) -> bool:
        """Return whether the items have the columns that the metric reads; otherwise the metric is left out."""
        return {*self.columns, *self.where, self.unit} <= {*items.columns, ITEM}

    def select(self, items: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that count for the metric.

        Raises:
            DataError: a row has no unit.
        """
        mask = items[list(self.columns)].notna().all(axis=1)
        for column, value in self.where.items():
            mask &= (items[column] == value).fillna(False).astype(bool)
        rows = items[mask]
        if self.unit != ITEM and rows[self.unit].isna().any():
            raise DataError(
                f"The sampling unit of the metric `{self.name}` is the column `{self.unit}`, which some of its"
                " items lack: fill it in."
            )
        return rows

    def units(self, rows: pd.DataFrame) -> NDArray[np.int64] | None:
        """Return [N] indices of each row's unit; None if every row is its own unit."""
        columns = [name for name in dict.fromkeys((UNIT, PERSON, self.unit, ROW)) if name in rows and name != ITEM]
        if not len(rows) or not columns:
            return None
        drawn, start = np.full(len(rows), -1), 0
        for name in columns:
            codes, names = pd.factorize(rows[name])  # -1 where there is none
            drawn = np.where((drawn < 0) & (codes >= 0), codes + start, drawn)
            start += len(names)
        alone = np.arange(start, start + len(rows))
        drawn = np.where(drawn < 0, alone, drawn)
        return drawn if len(np.unique(drawn)) < len(drawn) else None

    def row(self, items: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
        """Return the row of the summary: metric, value, ci_low, ci_high, n; n counts items."""
        rows = self.select(items)
        interval = self.estimate(rows, seed) if len(rows) else UNKNOWN
        return dict(zip(COLUMNS, (self.name, *interval, len(rows)), strict=True))


@dataclass(frozen=True)
class Mean(Metric):
    """Mean of a column: studentised bootstrap over units."""

    column: str = ""
    """Column of numbers; by default the column with the metric's name."""
    bounds: Bounds | None = field(default=None, kw_only=True)
    """Smallest and largest possible value of an item; without them, items with equal values get no interval."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that is averaged."""
        return (self.column or self.name,)

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the mean with its interval: see `probe.stats.bootstrap_mean`; over units, weighted by their sizes."""
        values = floats(rows, self.columns[0])
        return stats.bootstrap_mean(values, seed=seed, bounds=self.bounds, units=self.units(rows))

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the mean of the item-by-item differences, with its interval."""
        gap = floats(rows, self.columns[0]) - floats(others, self.columns[0])
        bounds = stats.difference_bounds(self.bounds)
        return stats.bootstrap_mean(gap, level, seed=seed, bounds=bounds, units=self.units(rows))

    def value(self, columns: Columns) -> float:
        """Return the mean."""
        return float(np.mean(columns[self.columns[0]].astype(float)))


@dataclass(frozen=True)
class Share(Mean):
    """Share of ones in a column of zeros and ones: Wilson's interval, Newcombe's for paired differences."""

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the share with its interval: see `probe.stats.wilson`, or `probe.stats.unit_share` with units."""
        values, units = self._zeros_and_ones(rows), self.units(rows)
        if units is None:
            return stats.wilson(int(values.sum()), len(values))
        return stats.unit_share(values, units)

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the paired difference: see `probe.stats.paired_proportions`, or the bootstrap with units."""
        values, other_values = self._zeros_and_ones(rows), self._zeros_and_ones(others)
        units = self.units(rows)
        if units is None:
            return stats.paired_proportions(values, other_values, level)
        return stats.paired_difference(values, other_values, level, seed=seed, bounds=stats.SHARE, units=units)

    def _zeros_and_ones(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        values = floats(rows, self.columns[0])
        if not np.isin(values, (0, 1)).all():
            raise DataError(f"The share `{self.name}` has items that are neither 0 nor 1: use a mean for them.")
        return values


@dataclass(frozen=True)
class Statistic(Metric):
    """Function of columns, such as a calibration error: percentile bootstrap over units."""

    fn: Callable[[Columns], float]
    """Function {column: [N] values} -> number; NaN if undefined."""
    reads: tuple[str, ...]
    """Columns that `fn` receives."""
    bounds: Bounds | None = field(default=None, kw_only=True)
    """Smallest and largest possible value; without them, there is no interval if resampling never changes the value."""
    weighted: Callable[[Columns, NDArray[np.float64]], NDArray[np.float64]] | None = field(default=None, kw_only=True)
    """Vectorised function for many resamples: ({column: [N] values}, [r N] number of times each item is drawn) -> [r].
    """
    count: Callable[[Columns], float] | None = field(default=None, kw_only=True)
    """Function that counts the units it is based on, if these are not all: for an AUROC, those of the rarer class."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that `fn` receives."""
        return self.reads

    def estimate(self, rows: pd.DataFrame, seed: int) -> Interval:
        """Return the function of all rows, with the quantiles of its values on resampled rows as the interval."""
        return self._bootstrap([rows], seed, self.bounds)

    def value(self, columns: Columns) -> float:
        """Return the function of all rows."""
        return float(self.fn(columns))

    def difference(self, rows: pd.DataFrame, others: pd.DataFrame, seed: int, level: float = stats.LEVEL) -> Interval:
        """Return the difference of the function between `rows` and `others`; items are drawn together."""
        return self._bootstrap([rows, others], seed, stats.difference_bounds(self.bounds), level)

    def _bootstrap(
        self, sides: Sequence[pd.DataFrame], seed: int, bounds: Bounds | None, level: float = stats.LEVEL
    ) -> Interval:
        arrays = [{name: rows[name].to_numpy() for name in self.reads} for rows in sides]
        units = self.units(sides[0])
        codes = np.arange(len(sides[0])) if units is None else pd.factorize(units)[0]
        n = int(codes.max()) + 1 if len(codes) else 0
        values = np.array([float(self.fn(each)) for each in arrays])
        value = float(values[0] - values[1:].sum())
        draws = np.array([self._drawn(each, codes, n, seed) for each in arrays]) if n > 1 else np.empty((1, 0))
        count = min(n, *(self.count(each) for each in arrays)) if self.count else n
        if np.isfinite(draws).all(axis=0).sum() < stats.RESAMPLES // 2:
            return Interval(value, float("nan"), float("nan"))
        return stats.percentile(value, draws[0] - draws[1:].sum(axis=0), count, bounds, stats.tails_of(level))

    def _drawn(self, arrays: Columns, codes: NDArray[np.intp], n: int, seed: int) -> NDArray[np.float64]:
        """Compute [R] values of the function on resamples, which are the same for equal units."""
        if self.weighted is not None:
            blocks = (counts[:, codes].astype(float) for counts in stats.drawn_counts(n, seed, stats.RESAMPLES))
            return np.concatenate([self.weighted(arrays, block) for block in blocks])
        members = stats.group(pd.Series(codes))

        def drawn(resamples: NDArray[np.int64]) -> list[float]:
            indices = (np.concatenate([members[unit] for unit in each]) for each in resamples)
            return [self.fn({name: values[index] for name, values in arrays.items()}) for index in indices]

        return stats.resample(drawn, n, stats.RESAMPLES, seed)


def interval_of(rows: pd.DataFrame, column: str, bounds: Bounds | None = None, seed: int = 0) -> Interval:
    """Return the mean of a column with its interval, for tables other than the summary.

    The interval is over units if several rows belong to one. The mean is estimated as a share if `bounds` are those of
    a share and all values are zeros and ones.
    """
    rows = rows[rows[column].notna()]
    if not len(rows):
        return UNKNOWN
    kind = Share if bounds == stats.SHARE and rows[column].isin((0, 1)).all() else Mean
    return kind(column, bounds=bounds).estimate(rows, seed)


def summarise(
    metrics: Sequence[Metric], items: pd.DataFrame, given: Sequence[Given] = (), seed: int = 0
) -> pd.DataFrame:
    """Return one row per metric: metric, value, ci_low, ci_high, n.

    Metrics whose columns are missing, and those without items, are left out.

    Raises:
        ConfigError: two metrics have the same name.
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
    by_prompt: bool = False,
) -> pd.DataFrame:
    """Add the columns of a baseline to a summary: its value and interval, and the difference with its interval.

    With `by_prompt`, a metric is paired only if items with equal names have equal questions in both models. Otherwise
    each model's value is that of its own items, and the difference has the interval of two independent values
    (`unpaired_difference`), which is conservative if some of the items are the same.

    Args:
        metrics: metrics of the summaries.
        summary: summary of the model.
        baseline: summary of the baseline.
        items: items of the model.
        baseline_items: items of the baseline; only items of both enter the difference.
        seed: seed of the bootstrap.
        by_prompt: require equal prompts, not only equal names, of the same item; adds the column `PAIRS`.

    Returns:
        The summary with the columns of `COMPARED`; the difference of a number that is not a function of items has no
        interval.
    """
    baseline_rows = baseline.set_index("metric")
    own_items, others = pair_items(items, baseline_items)
    by_name = {metric.name: metric for metric in metrics}
    unequal = _read_differently(own_items, others) if by_prompt else own_items.index[:0]
    rows, pairs = [], []
    for name, value in zip(summary["metric"], summary["value"], strict=True):
        if name not in baseline_rows.index:
            rows.append([float("nan")] * len(COMPARED))
            pairs.append(float("nan"))
            continue
        base = [float(baseline_rows.loc[name, column]) for column in ("value", "ci_low", "ci_high")]
        metric = by_name.get(name)
        common = _common(metric, own_items, others) if by_prompt and metric is not None else None
        if common is not None and (not len(common) or common.isin(unequal).any()):
            own = summary.loc[summary["metric"] == name, ["value", "ci_low", "ci_high"]].iloc[0]
            difference, count = unpaired_difference(Interval(*map(float, own)), Interval(*base)), 0.0
        else:
            difference = paired(metric, own_items, others, seed) if metric is not None else UNKNOWN
            count = float("nan") if common is None else float(len(common))
        gap = float(value) - base[0]
        rows.append([*base, *(difference if difference.value == difference.value else (gap, *UNKNOWN[1:]))])
        pairs.append(count)
    extra = pd.DataFrame(rows, columns=list(COMPARED))
    return pd.concat([summary.reset_index(drop=True), extra.assign(**{PAIRS: pairs}) if by_prompt else extra], axis=1)


def unpaired_difference(first: Interval, second: Interval) -> Interval:
    """Return first - second of independent estimates, with bounds by square-and-add (Zou and Donner 2008).

    For shares with Wilson's intervals this is Newcombe's interval (1998, Statistics in Medicine 17:873, method 10).
    """
    gap = first.value - second.value
    low = gap - math.hypot(first.value - first.low, second.high - second.value)
    return Interval(gap, low, gap + math.hypot(first.high - first.value, second.value - second.low))


def pair_items(items: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of both tables for the items that both have, in the same order."""
    ours, theirs = items.set_index(ITEM, drop=False), others.set_index(ITEM, drop=False)
    common = ours.index.intersection(theirs.index, sort=False)
    return ours.loc[common], theirs.loc[common]


def questions(items: pd.DataFrame) -> pd.Series:
    """Return the question of each item as a text: prompt and right answer; empty if no prompt is known."""
    if PROMPT not in items:
        return pd.Series("", index=items.index)
    right = items[EXPECTED] if EXPECTED in items else pd.Series("", index=items.index)
    texts = items[PROMPT].astype(str) + "\0" + right.where(right.notna(), "").astype(str)
    return texts.where(items[PROMPT].notna(), "")


def _read_differently(own: pd.DataFrame, others: pd.DataFrame) -> pd.Index:
    """Return the names of items, in the same order in both tables, whose questions differ or are unknown."""
    prompts = questions(own)
    return own.index[((prompts != questions(others)) | (prompts == "")).to_numpy()]


def _common(metric: Metric, own: pd.DataFrame, others: pd.DataFrame) -> pd.Index:
    """Return the names of the items that a metric counts in both tables."""
    if not (metric.applies(own) and metric.applies(others)):
        return own.index[:0]
    return metric.select(own).index.intersection(metric.select(others).index, sort=False)


def paired(
    metric: Metric, own: pd.DataFrame, others: pd.DataFrame, seed: int = 0, level: float = stats.LEVEL
) -> Interval:
    """Compute the difference of `own` and `others` over the items of both, in the order of `pair_items`."""
    rows, other_rows = select_pairs(metric, own, others)
    return metric.difference(rows, other_rows, seed, level) if len(rows) else UNKNOWN


def select_pairs(metric: Metric, own: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that a metric counts in both tables, which `pair_items` has put in one order."""
    if not (metric.applies(own) and metric.applies(others)):
        return own.head(0), others.head(0)
    columns = list(dict.fromkeys((ITEM, *metric.columns, *metric.where, metric.unit, UNIT, PERSON, ROW)))
    rows, other_rows = (metric.select(each[[name for name in columns if name in each]]) for each in (own, others))
    if not rows.index.equals(other_rows.index):
        common = rows.index.intersection(other_rows.index, sort=False)
        rows, other_rows = rows.loc[common], other_rows.loc[common]
    return rows, other_rows


def has_bare(summary: pd.DataFrame) -> bool:
    """Return whether some value of a summary has no interval (`BARE`)."""
    return bool((summary["value"].notna() & summary["ci_low"].isna()).any())
