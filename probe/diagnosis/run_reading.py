"""Reading of a run for the search for faults: what was logged, as clean series, whoever logged it.

The table of metrics is read once, and a series is reduced to at most `POINTS` medians, so that a search takes the same
time for a hundred and for a million steps. Values that are missing or not finite are left out of a series;
`Reading.lost` says where they stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probe.numbers import in_unit, shown_ends
from probe.runs.encoded_rows import EncodedRows
from probe.runs.reader import Run
from probe.stats import Interval
from probe.terms import term

POINTS = 256
"""Largest number of values of a series that are examined."""
LARGEST = 1e100
"""Largest size of a value; larger ones are cut, so that sums of squares stay finite."""
ROLLOUTS, CHECKPOINT, HELD_OUT, ENCODED = "rollouts", "checkpoint", "held_out", "encoded_rows"
"""Names of what a fault may need in addition to metrics: sampled completions, a saved model, held-out rows that were
compared with the training rows, rows as the model reads them beside its chat template."""
SECOND = ("expected_gold", "gold/reward", "rewards/*/mean")
"""Measures of completions beside the reward that is maximised; rewards count if there are several. The share of true
completions is none: a policy that rightly learns to abstain is true less often."""
ANOTHER = "a second "
"""Beginning of an entry of `Fault.needs` of which two metrics must be there."""
TIMES = ("step", "time")
SAMPLING = ("rlhf", "rlvr", "rsft")
"""Methods that train on sampled completions."""
PREFERENCES = ("dpo", "reward-model")
"""Methods that train on pairs."""
TOKENS = ("pretrain", "sft")
"""Methods that train on texts."""
METHODS = (*TOKENS, *PREFERENCES, *SAMPLING, "continual")
"""Methods that runs name; the method of another run is derived from its metrics."""


@dataclass(frozen=True)
class Series:
    """Values of one metric by step: finite, steps rising."""

    metric: str
    """Name of the metric; empty if it was not logged."""
    steps: NDArray[np.int64]
    """[N] steps."""
    values: NDArray[np.float64]
    """[N] values."""

    def __len__(self) -> int:
        return len(self.values)

    def coarse(self) -> "Series":
        """Return medians of consecutive blocks, each at the first step of its block, at most `POINTS` of them."""
        return self._reduced

    @cached_property
    def _reduced(self) -> "Series":
        size = -(-len(self) // POINTS)
        if size <= 1:
            return self
        whole = len(self) // size * size
        medians = np.median(self.values[:whole].reshape(-1, size), axis=1)
        rest = [np.median(self.values[whole:])] if whole < len(self) else []
        return Series(self.metric, self.steps[::size], np.append(medians, rest))

    def part(self, start: int, stop: int | None = None) -> "Series":
        """Return the values from one place to another."""
        return Series(self.metric, self.steps[start:stop], self.values[start:stop])

    def up_to(self, step: int) -> "Series":
        """Return the values before a step."""
        return self.part(0, int(np.searchsorted(self.steps, step)))

    def since(self, step: int) -> "Series":
        """Return the values from a step on."""
        return self.part(int(np.searchsorted(self.steps, step)))


class Reading:
    """Record of a run, as the functions that find faults see it."""

    def __init__(self, frame: pd.DataFrame, method: str = "", config: dict[str, Any] | None = None) -> None:
        """Read a table of metrics.

        Args:
            frame: table with the column `step` and a column for each metric, as `Run.metrics()` returns it.
            method: training method; derived from the metrics if it is none of `METHODS`.
            config: settings of the method.
        """
        self.run: Run | None = None
        """Run that is read; None for a bare table."""
        self.frame, self.config = frame, config or {}
        self.method = method if method in METHODS else method_of(list(frame.columns))
        self._known: dict[str, Series] = {}

    @classmethod
    def of(cls, run: Run) -> "Reading":
        """Read a run."""
        reading = cls(run.metrics(), run.method, run.config)
        reading.run = run
        return reading

    @cached_property
    def order(self) -> NDArray[np.intp]:
        """Rows of the table by rising step, the last row of each step."""
        steps = self._column("step")
        rows = np.flatnonzero(np.isfinite(steps) & (np.abs(steps) < 2**62))
        rows = rows[np.argsort(steps[rows], kind="stable")]
        kept = np.append(np.diff(steps[rows]) > 0, True)[: len(rows)]
        return rows[kept]

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have a value at some step."""
        return tuple(str(name) for name in self.frame if name not in TIMES and len(self.series(str(name))))

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """Sampled completions; an empty table if there are none."""
        return self.run.rollouts() if self.run is not None else pd.DataFrame()

    @cached_property
    def held_out(self) -> tuple[int, int]:
        """Number of held-out rows, and of those that are trained on too; 0 and 0 if these were not counted."""
        data = self.run.meta.get("data") if self.run is not None else None
        rows, repeated = (
            (data.get(HELD_OUT), data.get(f"{HELD_OUT}_repeated")) if isinstance(data, dict) else (None, None)
        )
        if type(rows) is not int or type(repeated) is not int or not 0 <= repeated <= rows < 2**62:
            return 0, 0
        return rows, repeated

    @cached_property
    def encoded(self) -> EncodedRows | None:
        """Rows as the model reads them; None without them, or if the model's own template is unknown."""
        found = self.run.encoded_rows() if self.run is not None else None
        return found if found is not None and found.known else None

    @cached_property
    def last_step(self) -> int:
        """The last logged step; 0 without any."""
        return int(self._column("step")[self.order[-1]]) if len(self.order) else 0

    def series(self, *names: str) -> Series:
        """Return the first of these metrics that has values; `*` in a name stands for any text.

        Args:
            names: names of metrics, the preferred one first.
        """
        for name in names:
            for each in self.matching(name):
                if each not in self._known:
                    self._known[each] = self._read(each)
                if len(self._known[each]):
                    return self._known[each]
        return Series("", np.empty(0, np.int64), np.empty(0))

    def matching(self, name: str) -> Sequence[str]:
        """Return the columns that a name, which may hold `*`, stands for."""
        if "*" not in name:
            return [name] if name in self.frame else []
        return [str(each) for each in self.frame if each not in TIMES and fnmatchcase(str(each), name)]

    def count(self, name: str) -> int:
        """Return how much of an entry of `Fault.needs` there is: values of a metric, rollouts, models, or rows."""
        if name == HELD_OUT:
            return self.held_out[0]
        if name == ENCODED:
            return len(self.encoded.rows) if self.encoded is not None else 0
        if name == ROLLOUTS:
            return len(self.rollouts)
        if name == CHECKPOINT:
            return len(self.run.checkpoints()) if self.run is not None else 0
        counts = sorted((len(self.series(each)) for each in self.matching(name.removeprefix(ANOTHER))), reverse=True)
        at = 1 if name.startswith(ANOTHER) else 0
        return counts[at] if len(counts) > at else 0

    def has(self, name: str, least: int = 1) -> bool:
        """Return whether an entry of `Fault.needs` was logged at least `least` times; one saved model is enough."""
        return self.count(name) >= (1 if name == CHECKPOINT else least)

    def lost(self, name: str, beside: Sequence[str]) -> NDArray[np.int64]:
        """Return the steps at which a metric has no finite value although another metric of the same row has one.

        Args:
            name: metric.
            beside: metrics that are logged in the same rows.
        """
        if name not in self.frame:
            return np.empty(0, np.int64)
        there = np.zeros(len(self.order), dtype=bool)
        for each in (other for other in beside if other in self.frame and other != name):
            there |= np.isfinite(self._column(each)[self.order])
        gone = there & ~np.isfinite(self._column(name)[self.order])
        return self._column("step")[self.order[gone]].astype(np.int64)

    def text(self, metric: str, interval: Interval) -> str:
        """Format a level of a metric with its interval in the metric's unit."""
        unit = term(metric, f"train/{self.method}").unit
        return in_unit(unit, interval.value, *shown_ends(unit, interval.low, interval.high))

    def title(self, metric: str) -> str:
        """Return the title of a metric."""
        return term(metric, f"train/{self.method}").title

    def _read(self, name: str) -> Series:
        values = self._column(name)[self.order]
        known = np.isfinite(values)
        steps = self._column("step")[self.order[known]].astype(np.int64)
        return Series(name, steps, np.clip(values[known], -LARGEST, LARGEST))

    def _column(self, name: str) -> NDArray[np.float64]:
        if name not in self.frame:
            return np.empty(0)
        column = self.frame[name]
        if column.dtype.kind not in "fiub":
            column = pd.to_numeric(column, errors="coerce")
        return np.asarray(column.to_numpy(dtype=float, na_value=np.nan))


def method_of(metrics: Sequence[str]) -> str:
    """Return the method whose trainers log such metrics, of a run that does not name one of `METHODS`."""
    names = set(map(str, metrics))
    if names & {"objective/scores", "val/ratio", "loss/value_avg"}:
        return "rlhf"
    if names & {"frac_reward_zero_std", "completions/mean_length", "reward_std"}:
        return "rlvr"
    if names & {"rewards/margins", "logps/rejected"}:
        return "dpo"
    if {"margin", "accuracy"} <= names:
        return "reward-model"
    return "sft"
