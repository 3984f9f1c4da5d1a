"""Alarms of a run: faults of training that showed while it was trained, one a line of alarms.jsonl."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from probe.runs.captures import all_rows
from probe.runs.schema import ALARMS, RunWarning
from probe.runs.storage import Position, read_log
from probe.texts import visible
from probe.untrusted import MB

SIZE, MOST = MB, 200
"""Most bytes of the file that are read, and most alarms of a run."""
NAME, TEXT = 80, 1000
"""Most characters of a name, and of a sentence."""


@dataclass(frozen=True)
class Alarm:
    """Fault that showed during a training, and lasted."""

    fault: str
    """Name of the fault."""
    title: str
    """Title shown to people."""
    began: int
    """Step from which it shows."""
    step: int
    """Step at which the alarm was raised."""
    severity: float
    """How much it damages, 0 to 1."""
    metric: str
    """Metric whose curve shows it."""
    evidence: str
    """Evidence in one sentence."""
    remedy: str
    """Remedy to try."""

    def sentence(self) -> str:
        """Return the alarm in a few sentences, for one line of a log."""
        return f"Alarm at step {self.step:,}: {self._words()}"

    def ending(self, step: int) -> str:
        """Return the message of a run that is stopped after `step` for this alarm."""
        return f"It was stopped after step {step:,} for an alarm: {self._words()}"

    def _words(self) -> str:
        return f"{self.title} ({self.fault}) from step {self.began:,}. {self.evidence} Try: {self.remedy}"

    def row(self) -> dict[str, Any]:
        """Return the alarm as plain values for JSON."""
        return asdict(self)


def read_alarms(run: Path, live: bool) -> list[Alarm]:
    """Return the alarms of the run in a directory in the order in which they were raised.

    Lines that cannot be read are left out with a `RunWarning`; texts are cut.

    Args:
        run: directory of the run.
        live: whether a process may be writing it.
    """
    path = run / ALARMS
    lines, _ = read_log(path, Position(), live=live, most=SIZE)
    rows = all_rows([], lines, path)
    found = [each for each in map(_parse, rows[:MOST]) if each is not None]
    if odd := len(rows[:MOST]) - len(found):
        warnings.warn(f"{odd} lines of `{path}` are no alarms and are left out.", RunWarning, stacklevel=2)
    if len(rows) > MOST:
        warnings.warn(
            f"`{path}` has {len(rows):,} alarms, of which the first {MOST} are read.", RunWarning, stacklevel=2
        )
    return found


def _parse(row: Mapping[str, Any]) -> Alarm | None:
    """Return the alarm of a line; None if it is not one."""
    texts = {name: row.get(name) for name in ("fault", "title", "metric", "evidence", "remedy")}
    began, severity = row.get("began"), row.get("severity")
    if not all(isinstance(each, str) for each in texts.values()) or not texts["fault"]:
        return None
    if type(began) is not int or not 0 <= began < 2**63:
        return None
    if not isinstance(severity, int | float) or not 0 <= severity <= 1:
        return None
    short = {name: visible(text)[: TEXT if name in ("evidence", "remedy") else NAME] for name, text in texts.items()}
    return Alarm(began=began, step=row["step"], severity=float(severity), **short)
