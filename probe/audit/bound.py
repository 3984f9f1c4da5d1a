"""Bounds on a change: one that must not be exceeded (`sycophancy>+0.05`), and one that must be shown (`sums:0.05`).

The first is kept unless the whole 95 % interval of the difference lies beyond it, so that fewer questions break fewer
bounds. The second is kept only if two one-sided tests show that the difference lies within it, so that fewer questions
keep fewer. A value that could not be computed keeps neither.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.audit.verdict import INNER_ENDS, reach, within
from probe.errors import ConfigError, near_names
from probe.numbers import in_unit
from probe.terms import DIFFERENCE, RATES

if TYPE_CHECKING:
    from probe.audit.change import Audit

_FORM = re.compile(r"\s*([\w.@]+)\s*([<>])\s*([-+\u2212]?(?:\d+\.?\d*|\.\d+))\s*")
_MARGIN = re.compile(r"\s*([\w.@]+)\s*:\s*((?:\d+\.?\d*|\.\d+))\s*")


@dataclass(frozen=True)
class Bound:
    """A change of a metric that is too much."""

    text: str
    """As it was given."""
    metric: str
    """A name of the audit's table."""
    above: bool
    """Whether a difference above the limit is too much, else one below it."""
    limit: float
    """In the unit of the metric; rates from 0 to 1."""

    def broken(self, audit: "Audit") -> str:
        """Return the sentence that says how it is broken; empty where it is kept."""
        row = _row(audit, self.metric)
        if row is None:
            return f"{self.text}: {_MISSING}."
        low, high = float(row["difference_low"]), float(row["difference_high"])
        if not (low > self.limit if self.above else high < self.limit):
            return ""
        gap = _difference(row, low, high)
        return f"{self.text}: {row['title']} changed by {gap}, all of which lies beyond the bound."

    def never(self, row: Mapping[Any, Any]) -> str:
        """Return the sentence that says why no other model could break it; empty where one could.

        Args:
            row: with title, unit, n, and base: where the base stands. Without it (NaN) the end is taken that leaves
                most room.
        """
        base = float(row["base"])
        known = not math.isnan(base)
        fall, rise = reach({**row, "base": base if known else 0.0 if self.above else 1.0})
        if rise > self.limit if self.above else fall < self.limit:
            return ""
        side = "rise" if self.above else "fall"
        at = f" from {in_unit(str(row['unit']), base, None, None)}" if known else ""
        return (
            f"{self.text} can never be broken: with {_questions(int(row['n']))} no {side}{at} has its whole interval"
            f" beyond the bound, whatever the other model does ({row['title']})."
        )


@dataclass(frozen=True)
class Within:
    """A margin within which a metric must be shown to stay."""

    text: str
    """As it was given."""
    metric: str
    """A name of the audit's table."""
    margin: float
    """In the unit of the metric; rates from 0 to 1."""

    def broken(self, audit: "Audit") -> str:
        """Return the sentence that says how far it is from shown; empty where it is shown."""
        row = _row(audit, self.metric)
        if row is None:
            return f"{self.text}: {_MISSING}."
        if within(row, self.margin):
            return ""
        low, high = (float(row[name]) for name in INNER_ENDS)
        return (
            f"{self.text}: {row['title']} is not shown to stay within the margin: the difference is"
            f" {_difference(row, low, high)} (90 % interval, {int(row['n'])} pairs)."
        )


_MISSING = "the difference could not be computed, so that it is not known whether the bound is kept"


def _questions(n: int) -> str:
    return f"{n} question{'' if n == 1 else 's'}"


def _row(audit: "Audit", metric: str) -> Mapping[Any, Any] | None:
    """Return the row of a metric; None where there is none, or it has no interval."""
    rows = audit.rows[audit.rows["metric"] == metric]
    if not len(rows):
        return None
    row = rows.iloc[0].to_dict()
    known = all(math.isfinite(float(row[name])) for name in ("difference_low", "difference_high"))
    return row if known else None


def _difference(row: Mapping[Any, Any], low: float, high: float) -> str:
    """Format the difference of a row in its unit, with the given ends of its interval."""
    unit = DIFFERENCE if row["unit"] in RATES else str(row["unit"])
    return in_unit(unit, row["difference"], low, high, sign=True)


def read_bound(text: str, names: Collection[str]) -> Bound:
    """Read a bound from its text: METRIC>NUMBER or METRIC<NUMBER.

    Args:
        text: such as `sycophancy>+0.05` or `sums<-0.1`.
        names: the metrics that can be measured.

    Raises:
        ConfigError: it has another form, or there is no such metric; near names are listed.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"The bound `{text}` has another form than METRIC>+0.05 or METRIC<-0.05: write it so.")
    metric, sign, limit = match.groups()
    if metric not in names:
        raise unknown(metric, names, "does not exist")
    return Bound(text.strip(), metric, sign == ">", float(limit.replace("\u2212", "-")))


def read_within(text: str, names: Collection[str]) -> Within:
    """Read a margin from its text: METRIC:MARGIN.

    Args:
        text: such as `sums:0.05`.
        names: the metrics that can be measured.

    Raises:
        ConfigError: it has another form, the margin is 0, or there is no such metric; near names are listed.
    """
    match = _MARGIN.fullmatch(text)
    if match is None or float(match[2]) == 0:
        raise ConfigError(f"The margin `{text}` has another form than METRIC:0.05, with a number above 0: write it so.")
    if match[1] not in names:
        raise unknown(match[1], names, "does not exist")
    return Within(text.strip(), match[1], float(match[2]))


def unknown(metric: str, names: Collection[str], what: str) -> ConfigError:
    """Return the error for a metric that cannot be used, with near names."""
    near = near_names(metric, list(names), most=3) or [name for name in names if "." not in name]
    return ConfigError(f"The metric `{metric}` {what}: near names are {', '.join(near)}.")
