"""Bounds on a change: one that must not be exceeded (`sycophancy>+0.05`), and one that must be shown (`sums:0.05`).

The first is kept unless the whole 95 % interval of the difference lies beyond it, so that fewer questions break fewer
bounds. The second is kept only if two one-sided tests show that the difference lies within it, so that fewer questions
keep fewer. A value that could not be computed satisfies neither.
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

_FORM = re.compile(r"\s*([^\s<>:]+)\s*([<>])\s*([-+\u2212]?(?:\d+\.?\d*|\.\d+))\s*")
_MARGIN = re.compile(r"\s*([^\s<>:]+)\s*:\s*((?:\d+\.?\d*|\.\d+))\s*")


@dataclass(frozen=True)
class Bound:
    """Limit that the change of a metric must not exceed."""

    text: str
    """Bound as it was written."""
    metric: str
    """Name of the metric in the audit's table."""
    above: bool
    """Whether differences above the limit break the bound; otherwise those below do."""
    limit: float
    """Limit in the unit of the metric; rates from 0 to 1."""

    def broken(self, audit: "Audit") -> str:
        """Return the sentence that explains how the bound is broken; empty if it is kept."""
        row = _row(audit, self.metric)
        if row is None:
            return f"{self.text}: {_MISSING}."
        low, high = float(row["difference_low"]), float(row["difference_high"])
        if not (low > self.limit if self.above else high < self.limit):
            return ""
        gap = _difference(row, low, high)
        return f"{self.text}: {row['title']} changed by {gap}; the whole interval lies beyond the bound."

    def never(self, row: Mapping[Any, Any]) -> str:
        """Return the sentence that explains why no other model could break the bound; empty if one could.

        Args:
            row: title, unit, n and base, the value of the base. If the base is NaN, the end of the range with most room
                is assumed.
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
    """Margin within which a metric must be shown to stay."""

    text: str
    """Margin as it was written."""
    metric: str
    """Name of the metric in the audit's table."""
    margin: float
    """Margin in the unit of the metric; rates from 0 to 1."""

    def broken(self, audit: "Audit") -> str:
        """Return the sentence that explains why the metric is not shown to stay within the margin; empty if it is."""
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


_MISSING = "the difference could not be computed, so it is unknown whether the bound holds"


def _questions(n: int) -> str:
    return f"{n} question{'' if n == 1 else 's'}"


def _row(audit: "Audit", metric: str) -> Mapping[Any, Any] | None:
    """Return the row of a metric, or None if it has no row or no interval."""
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
        text: bound such as `sycophancy>+0.05` or `sums<-0.1`.
        names: metrics that can be measured.

    Raises:
        ConfigError: the text has another form, or no metric has this name; similar names are listed.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise ConfigError(f"The bound `{text}` is not of the form METRIC>+0.05 or METRIC<-0.05: write it in this form.")
    metric, sign, limit = match.groups()
    if metric not in names:
        raise unknown(metric, names, "does not exist")
    return Bound(text.strip(), metric, sign == ">", float(limit.replace("\u2212", "-")))


def read_within(text: str, names: Collection[str]) -> Within:
    """Read a margin from its text: METRIC:MARGIN.

    Args:
        text: margin such as `sums:0.05`.
        names: metrics that can be measured.

    Raises:
        ConfigError: the text has another form, the margin is 0, or no metric has this name; similar names are listed.
    """
    match = _MARGIN.fullmatch(text)
    if match is None or float(match[2]) == 0:
        raise ConfigError(
            f"The margin `{text}` is not of the form METRIC:0.05 with a number above 0: write it in this form."
        )
    if match[1] not in names:
        raise unknown(match[1], names, "does not exist")
    return Within(text.strip(), match[1], float(match[2]))


def unknown(metric: str, names: Collection[str], what: str) -> ConfigError:
    """Return the error for an unusable metric, with similar names."""
    near = near_names(metric, list(names), most=3) or [name for name in names if "." not in name]
    return ConfigError(f"The metric `{metric}` {what}: similar names are {', '.join(near)}.")
