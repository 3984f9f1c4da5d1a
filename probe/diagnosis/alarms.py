"""Alarms: faults that a run shows while it is being trained.

A look is a diagnosis of what has been logged so far. Single looks at a short record find faults that vanish later, so a
fault becomes an alarm only if every look over a stretch finds it, unless its evidence is a level that no sound training
has (`Fault.at_once`). Looks take at most a share `SHARE` of the time: the
next one waits until the time since the start pays for it. They read numbers that were logged, draw no random numbers
and touch no weights, so that a training with alarms is bit for bit the same.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from probe.diagnosis.diagnosed import Finding, diagnose
from probe.diagnosis.fault_record import ANY, check_names, faults
from probe.diagnosis.run_reading import Reading
from probe.runs.alarm_rows import Alarm
from probe.runs.metric_log import MetricLog
from probe.runs.reader import Run
from probe.runs.schema import RunWarning
from probe.runs.writer import RunWriter
from probe.texts import say

SHARE = 0.01
"""Largest share of the time that looks take."""
FIRST = 0.03
"""Seconds that the first look is expected to take."""
LOOKS = 3
"""Fewest looks that must find a fault."""
FACTOR, PART = 1.5, 0.15
"""A fault that is found first at step s must be found up to step 1.5 s, or s plus 15 % of the planned steps if that is
less. In the 60 sound sample runs no fault lasts as long if every row is looked at, and one does in 0.4 % of replays
with looks at random rows."""


class Lasting:
    """Findings of consecutive looks, of which those that last become alarms."""

    def __init__(self, planned: int | None = None, raised: Iterable[str] = ()) -> None:
        """Begin without findings.

        Args:
            planned: number of steps of the training, if known.
            raised: faults that were raised before.
        """
        self.planned, self.raised = planned, set(raised)
        self._since: dict[str, tuple[int, int]] = {}
        """Fault -> the step of the first of the consecutive looks that found it, and their number."""

    def take(self, step: int, findings: Iterable[Finding]) -> list[Finding]:
        """Take the findings of a look at the record up to a step; return those that become alarms."""
        found = {each.fault.name: each for each in findings if each.fault.name not in self.raised}
        before, self._since = self._since, {}
        new = list[Finding]()
        for name, finding in found.items():
            start, looks = before.get(name, (step, 0))
            self._since[name] = start, looks + 1
            lasts = looks + 1 >= LOOKS and step >= self._until(start)
            if lasts or finding.fault.at_once:
                new.append(finding)
                self.raised.add(name)
        return new

    def _until(self, start: int) -> float:
        """Return the step up to which a fault that was found first at `start` must be found."""
        least = FACTOR * start
        return least if self.planned is None else min(least, start + PART * self.planned)


class Alarms:
    """Watch over the metrics of a run that is being written."""

    def __init__(
        self, writer: RunWriter, *, stop_on: Sequence[str] = (), clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Begin to watch; alarms that the run has already are not raised again.

        Args:
            writer: writer of the run.
            stop_on: names of faults at whose alarm training should stop, or `any`.
            clock: clock in seconds.

        Raises:
            ConfigError: there is no fault of a name.
        """
        check_names(stop_on)
        faults()  # imports their modules
        run = Run(writer.path)
        planned = run.config.get("steps")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)  # readers say what they leave out
            raised = [each.fault for each in run.alarms()]
        self._writer, self._stop_on, self._clock = writer, frozenset(stop_on), clock
        self._method, self._config = run.method, run.config
        self._log = MetricLog(writer.path)
        self._lasting = Lasting(planned if type(planned) is int and planned > 0 else None, raised)
        self._step, self._works = -1, True
        self.spent = 0.0
        """Seconds that looks have taken."""
        self._expected = FIRST
        self.stop: Alarm | None = None
        """Alarm for which training should stop; None without one."""
        self._start = clock()

    def due(self, step: int) -> bool:
        """Return whether a look after `step` is due: something is new, and the time since the start pays for it."""
        pays = self.spent + self._expected <= SHARE * (self._clock() - self._start)
        return self._works and step > self._step and pays

    def look(self, step: int) -> list[Alarm]:
        """Look at what was logged up to `step` if a look is due; write and print new alarms, and return them.

        If the search itself fails, as a fault of a plugin may, that is said once, and training goes on without alarms.

        Raises:
            RunError: an alarm could not be written.
        """
        if not self.due(step):
            return []
        start = self._clock()
        try:
            new = self._find(step)
        except Exception as error:
            self._works = False
            say(f"There are no alarms from step {step:,} on, since looking for faults failed: {error}", error=True)
            new = []
        self._step, self._expected = step, self._clock() - start
        self.spent += self._expected
        for alarm in new:
            self._writer.alarm(alarm)
            say(alarm.sentence(), error=True)
            if self.stop is None and self._stop_on & {alarm.fault, ANY}:
                self.stop = alarm
        return new

    def _find(self, step: int) -> list[Alarm]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RunWarning)
            frame = self._log.read(live=True)
        found = diagnose(Reading(frame, self._method, self._config)).findings
        return [alarm_of(each, step) for each in self._lasting.take(step, found)]


def alarm_of(finding: Finding, step: int) -> Alarm:
    """Return the alarm of a finding that is raised at a step."""
    fault, sign = finding.fault, finding.sign
    texts: dict[str, Any] = {"metric": sign.metric, "evidence": sign.sentence, "remedy": fault.remedy}
    return Alarm(fault.name, fault.title, sign.step, step, sign.severity, **texts)
