"""Diagnosis of a run: the faults that its record shows, worst first, and those that the record cannot show."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.diagnosis.fault_record import OR, Fault, Sign, faults, find_fault
from probe.diagnosis.run_reading import Reading
from probe.runs.reader import Run
from probe.stats import Interval

if TYPE_CHECKING:
    import plotly.graph_objects as go

DRAWN = 1000
"""Points of a curve in a figure."""


@dataclass(frozen=True)
class Finding:
    """Fault that was found in a run."""

    fault: Fault
    sign: Sign

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values for JSON."""
        sign = self.sign
        return {
            "fault": self.fault.name,
            "title": self.fault.title,
            "step": sign.step,
            "severity": sign.severity,
            "evidence": sign.sentence,
            "metric": sign.metric,
            "before": sign.before.row(),
            "after": sign.after.row(),
            "remedy": self.fault.remedy,
        }


@dataclass(frozen=True)
class Unseen:
    """Fault that the record of a run cannot show."""

    fault: Fault
    lacks: tuple[str, ...]
    """Entries that the run lacks, each a metric or alternatives (`Fault.needs`)."""
    logged: tuple[int, ...]
    """Number of values that were logged of each entry; `Fault.least` are needed."""

    @property
    def text(self) -> str:
        """What the run lacks, in words."""
        return ", ".join(
            f"{name} ({_count(count, 'value')}, {self.fault.least} needed)" if count else name
            for name, count in zip(self.lacks, self.logged, strict=True)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain values for JSON."""
        lists = {"lacks": list(self.lacks), "logged": list(self.logged), "needed": self.fault.least}
        return {"fault": self.fault.name, "title": self.fault.title, **lists}


@dataclass(frozen=True)
class Diagnosis:
    """Faults of one run."""

    name: str
    """Name of the run."""
    reading: Reading
    findings: tuple[Finding, ...]
    """Faults that were found, the worst first."""
    clear: tuple[Fault, ...]
    """Faults that would have been seen, and were not."""
    unseen: tuple[Unseen, ...]
    """Faults that could not be seen from what was logged."""

    def sentence(self) -> str:
        """Return the result in one or two sentences."""
        looked = len(self.findings) + len(self.clear)
        rest = f" {_count(len(self.unseen), 'fault')} could not be seen from what was logged." if self.unseen else ""
        if not looked:
            return f"{self.name} logged nothing in which a fault could be seen."
        if not self.findings:
            return f"{self.name}: none of the {_count(looked, 'fault')} that could be seen was found.{rest}"
        first = self.findings[0]
        others = [each.fault.title for each in self.findings[1:]]
        more = f" Also found: {', '.join(others)}." if others else ""
        return f"{self.name}: {first.fault.title} from step {first.sign.step:,}. {first.sign.sentence}{more}{rest}"

    def table(self) -> pd.DataFrame:
        """Return one row per finding: fault, step, severity, metric, levels before and after, evidence, remedy."""
        rows = [
            {
                **{name: value for name, value in each.to_dict().items() if name not in ("before", "after")},
                **Interval.row(each.sign.before, name="before"),
                **Interval.row(each.sign.after, name="after"),
            }
            for each in self.findings
        ]
        return pd.DataFrame(rows, columns=list(rows[0]) if rows else [*COLUMNS])

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain values for JSON."""
        return {
            "run": self.name,
            "method": self.reading.method,
            "steps": self.reading.last_step,
            "sentence": self.sentence(),
            "findings": [each.to_dict() for each in self.findings],
            "clear": [each.name for each in self.clear],
            "unseen": [each.to_dict() for each in self.unseen],
        }

    def figures(self) -> "dict[str, go.Figure]":
        """Return the curves that show each finding, with the step at which it began, by the name of the fault."""
        return {each.fault.name: self._figure(each.sign) for each in self.findings if each.sign.metric}

    def _figure(self, sign: Sign) -> "go.Figure":
        from probe.plotting.curves import metric_curves, styles

        methods = {self.name: self.reading.method}
        return metric_curves(
            {self.name: self._frame},
            list(dict.fromkeys(name for name in (sign.metric, *sign.also) if name in self._frame)),
            styles(methods),
            methods=methods,
            marker=sign.step,
            points=DRAWN,
        )

    @cached_property
    def _frame(self) -> pd.DataFrame:
        """Return the table of metrics with rising steps."""
        return self.reading.frame.iloc[self.reading.order]


COLUMNS = ("fault", "title", "step", "severity", "evidence", "metric", "remedy")
"""First columns of the table of findings."""


def diagnose(run: Run | Reading, only: Collection[str] = ()) -> Diagnosis:
    """Look for faults in what a run recorded.

    Args:
        run: run, or a reading of a bare table of metrics.
        only: names of the faults to look for; all by default.

    Raises:
        ConfigError: there is no fault of a name, or the function of a plugin failed.
    """
    known = [find_fault(name) for name in only] if only else [*faults().values()]
    reading = Reading.of(run) if isinstance(run, Run) else run
    findings, clear, unseen = list[Finding](), list[Fault](), list[Unseen]()
    for fault in sorted(known, key=lambda each: each.general):
        if not fault.applies(reading) or (fault.general and findings):
            continue
        if lacks := fault.lacks(reading):
            logged = tuple(max(map(reading.count, each.split(OR))) for each in lacks)
            unseen.append(Unseen(fault, lacks, logged))
        elif sign := fault.look(reading):
            findings.append(Finding(fault, sign))
        else:
            clear.append(fault)
    hidden = {name for each in findings for name in each.fault.hides}
    shown = [each for each in findings if each.fault.name not in hidden]
    ranked = sorted(shown, key=lambda each: (-each.sign.severity, each.sign.step))
    name = reading.run.name if reading.run is not None else "The run"
    return Diagnosis(name, reading, tuple(ranked), tuple(clear), tuple(unseen))


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
