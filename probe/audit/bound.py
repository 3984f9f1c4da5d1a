"""Bounds on a change, such as `sycophancy>+0.05`: kept unless the whole interval of the difference lies beyond."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from probe.errors import ConfigError, near_names
from probe.numbers import in_unit
from probe.terms import DIFFERENCE, RATES

if TYPE_CHECKING:
    from probe.audit.change import Audit

_FORM = re.compile(r"\s*([\w.@]+)\s*([<>])\s*([-+\u2212]?(?:\d+\.?\d*|\.\d+))\s*")


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
        """The sentence that says how it is broken; empty where it is kept.

        Raises:
            ConfigError: the metric was not measured; near names are listed.
        """
        rows = audit.rows[audit.rows["metric"] == self.metric]
        if not len(rows):
            raise unknown(self.metric, list(audit.rows["metric"]), "was not measured")
        row = rows.iloc[0]
        low, high = float(row["difference_low"]), float(row["difference_high"])
        if not (low > self.limit if self.above else high < self.limit):  # NaN, where there is no interval, breaks none
            return ""
        unit = DIFFERENCE if row["unit"] in RATES else str(row["unit"])
        gap = in_unit(unit, row["difference"], low, high, sign=True)
        return f"{self.text}: {row['title']} changed by {gap}, all of which lies beyond the bound."


def read_bound(text: str, names: list[str]) -> Bound:
    """A bound from its text: METRIC>NUMBER or METRIC<NUMBER.

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


def unknown(metric: str, names: list[str], what: str) -> ConfigError:
    """The refusal of a metric."""
    near = near_names(metric, names, most=3) or [name for name in names if "." not in name]
    return ConfigError(f"The metric `{metric}` {what}: near names are {', '.join(near)}.")
