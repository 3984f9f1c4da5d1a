"""Stored results of runs for a report; results that were measured alike are grouped.

A run may come from anybody. So results are searched where they are stored, read by the common reader, and drawn from
their tables by the experiments that are installed here. A sentence reports each result that cannot be read or drawn.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from probe.errors import DataError
from probe.experiments.comparison import draw_together
from probe.experiments.definition import Experiment
from probe.experiments.forms import form_notes
from probe.experiments.registry import experiments, find_experiment
from probe.experiments.result import Result
from probe.experiments.run import rename_model, settings_of
from probe.experiments.store import results
from probe.report.reproduce import experiment_command
from probe.runs.directories import run_homes
from probe.runs.reader import Run
from probe.runs.schema import dumps
from probe.untrusted import sendable

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Measured:
    """Results of one experiment that were measured alike, one for each model."""

    name: str
    experiment: Experiment | None
    """Experiment; None if it is not installed here."""
    by_run: dict[str, Result]
    """Results by the label of the run; the run from which the others started is the last."""
    drawn: dict[str, Result]
    """Results with their own figures and columns; of runs that differ only by seed, the first."""
    joint: Result | None
    """Joint result of `drawn`, with its figures; None if they cannot be drawn together."""
    problem: str = ""
    """Reason why they cannot be drawn together."""

    @property
    def title(self) -> str:
        """Title of the experiment."""
        return self.experiment.title if self.experiment else next(iter(self.by_run.values())).title

    @property
    def sentences(self) -> list[str]:
        """Findings, one sentence each or one per model, and the form of the prompts from files."""
        parts = [self.joint] if self.joint else list(self.drawn.values())
        notes = [note for each in parts for note in form_notes(each, self.experiment)]
        return [each.finding for each in parts if each.finding] + notes

    @property
    def figures(self) -> "list[tuple[str, go.Figure]]":
        """Title and figure of each."""
        if self.joint:
            return [(_words(name), chart) for name, chart in self.joint.figures.items()]
        return [
            (f"{_words(name)}: {label}" if len(self.drawn) > 1 else _words(name), chart)
            for label, result in self.drawn.items()
            for name, chart in result.figures.items()
        ]


def collect(
    runs: Mapping[str, Run], chosen: Sequence[str] = (), further: Collection[str] = ()
) -> tuple[list[Measured], list[str]]:
    """Return the stored results of runs, grouped by measurement, and sentences on those that are left out.

    Args:
        runs: runs by label.
        chosen: names of experiments; all if empty.
        further: labels of runs that differ only by seed from another run of the report.

    Raises:
        ConfigError: a name is not that of an experiment, neither here nor among the results.
    """
    known = experiments()
    groups: dict[str, dict[str, Result]] = {}
    told: list[str] = []
    stored = set()
    for label, run in runs.items():
        for place, index in (pair for folder in run_homes(run.path) for pair in results(folder)):
            name, meta = index["name"], index["meta"]
            models = [model["label"] for model in meta.get("models", [])]
            stored.add(name)
            if (chosen and name not in chosen) or len(models) != 1 or "@" in models[0] or "#" in models[0]:
                continue
            if _is_older(meta, run):
                told.append(
                    f"A result of {name} on {label} is left out: it was measured before the run ended."
                    f" `{experiment_command(name, run.name, known.get(name))}` measures it again."
                )
                continue
            try:
                result = rename_model(_sendable(Result.load(place)), label)
            except DataError as error:
                told.append(f"A result of {name} on {label} is left out: {error}")
                continue
            groups.setdefault(_alike(name, meta, known.get(name)), {}).setdefault(label, result)
    for name in chosen:
        if name not in stored:
            find_experiment(name)
    order = [*(chosen or known), *sorted(stored)]
    measured = [_together(known.get(next(iter(each.values())).name), each, further) for each in groups.values()]
    return sorted(measured, key=lambda each: (order.index(each.name), -len(each.by_run))), list(dict.fromkeys(told))


def _alike(name: str, meta: Mapping[str, Any], experiment: Experiment | None) -> str:
    """Return the key that results must share to be shown side by side."""
    across_worlds = bool(experiment and experiment.across_worlds)
    return dumps(sendable([name, settings_of(name, meta, across_worlds)]))


def _is_older(meta: Mapping[str, Any], run: Run) -> bool:
    """Return whether a result was measured before the last heartbeat of its run."""
    try:
        return datetime.fromisoformat(str(meta.get("created"))).timestamp() < (run.meta.get("heartbeat") or 0)
    except (ValueError, OverflowError):
        return False


def _together(experiment: Experiment | None, by_run: dict[str, Result], further: Collection[str]) -> Measured:
    """Join the results of one experiment, and draw them together if it is installed."""
    first, *rest = by_run.items()
    by_run = dict([*rest, first])
    drawn = {label: result for label, result in by_run.items() if label not in further} or by_run
    name = first[1].name
    if experiment is None:
        return Measured(name, None, by_run, drawn, None, f"The experiment `{name}` is not installed here.")
    try:
        joint, problem = draw_together(experiment, list(drawn.values()))
    except DataError as error:
        return Measured(name, experiment, by_run, drawn, None, str(error))
    return Measured(name, experiment, by_run, drawn, None if problem else joint, problem)


def _sendable(result: Result) -> Result:
    return replace(result, meta=sendable(result.meta))


def _words(name: str) -> str:
    words = " ".join(name.replace("_", " ").replace("-", " ").split())
    return words[:1].upper() + words[1:]
