"""Lines of the training page: the metrics of runs and of means over seeds, read and drawn without a widget."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dashboard import data
from dashboard.components.step_views import Moment
from dashboard.data import Store
from dashboard.seed_groups import SeedGroup, group_curves
from probe.diagnosis.diagnosed import Finding
from probe.errors import ProbeError
from probe.plotting.crowds import MOST_LINES, Course
from probe.plotting.curves import (
    AXES,
    RELATIVE,
    TOKENS,
    Mark,
    MetricPanel,
    Spread,
    metric_curves,
    metric_panels,
    with_axes,
)
from probe.plotting.downsampling import Window
from probe.runs.reader import Run


@dataclass(frozen=True)
class Line:
    """A line in each panel: a run, or the mean of a group of seeds."""

    title: str
    label: str
    """Label of the run, or of a group's first member."""
    group: SeedGroup | None = None
    """Group whose mean is drawn."""
    behind: bool = False
    """Whether it is part of the bands behind the other lines; its table then has few rows."""
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Metrics with the columns of all axes that are known for them."""
    spread: Spread | None = None
    """Interval around a mean."""

    @property
    def members(self) -> tuple[str, ...]:
        """Labels of its runs."""
        return self.group.members if self.group else (self.label,)

    def read(self, store: Store) -> "Line":
        """Return the line with all of its metrics."""
        run = store.runs[self.label]
        if self.group is None:
            frame = data.metrics(run)
            return replace(self, frame=with_axes(frame, length(run, frame)))
        mean = group_curves(self.group)
        spread = Spread(mean.low, mean.high, list(mean.members.values()))
        return with_line_axes(store, replace(self, frame=mean.mean, spread=spread))

    def outline(self, store: Store) -> "Line":
        """Return the line with the rows that unsmoothed bands and the sentence above the page need."""
        run = store.runs[self.label]
        if self.group is None:
            return replace(self, frame=data.outline(run, partial(length, run)))
        return replace(self, frame=data.few_rows(self.read(store).frame))

    def bare(self) -> "Line":
        """Return the line without its tables, to be read again."""
        return replace(self, frame=pd.DataFrame(), spread=None)


@dataclass(frozen=True)
class Section:
    """A section of the page: chosen metrics and their display."""

    name: str
    metrics: list[str]
    lines: list[Line]
    x: str
    """Column of the horizontal axis."""
    weight: float
    log_y: bool
    methods: dict[str, str]
    """Method of each line, by its title."""

    @property
    def drawn(self) -> list[Line]:
        """The lines that have the axis."""
        return [line for line in self.lines if self.x in line.frame]

    @property
    def panels(self) -> list[MetricPanel]:
        """The panels of its metrics, one per quantity."""
        return metric_panels({line.title: line.frame for line in self.drawn}, self.metrics, self.methods)

    def marker(self, moment: Moment | None) -> float | None:
        """Return the position of the captures' step on the axis; None if the run logged nothing at that step."""
        if moment is None:
            return None
        if self.x == "step":
            return moment.step
        frame = data.metrics(moment.run)
        steps = length(moment.run, frame)
        if self.x == RELATIVE:
            return 100 * moment.step / max(1, steps)
        rows = with_axes(frame, steps).reindex(columns=["step", self.x]).dropna()
        places = rows.loc[rows["step"] == moment.step, self.x]
        return float(places.iloc[0]) if len(places) else None


def length(run: Run, frame: pd.DataFrame) -> int:
    """Return the number of steps of a run: those logged or, during training, those requested."""
    logged = int(frame["step"].max()) if len(frame) else 0
    setting = run.config.get("steps")
    return max(logged, setting) if run.status == "running" and type(setting) is int else logged


def is_unlike(store: Store, lines: Sequence[Line]) -> bool:
    """Return whether runs of different methods have different numbers of steps, so that steps are not comparable."""
    logged = [line for line in lines if len(line.frame)]
    methods = {store.runs[line.label].method for line in logged}
    return len(methods) > 1 and len({length(store.runs[line.label], line.frame) for line in logged}) > 1


def with_line_axes(store: Store, line: Line) -> Line:
    """Return a mean with the columns of all axes in its tables; it has tokens if each of its trainings has."""
    steps = length(store.runs[line.label], line.frame)
    frame, spread = with_axes(line.frame, steps), line.spread
    if spread is None:
        return replace(line, frame=frame)
    members = [with_axes(each, steps) for each in spread.members]
    if any(TOKENS not in each for each in members):
        frame = frame.drop(columns=TOKENS, errors="ignore")
    shared = {axis: frame[axis] for axis in (RELATIVE, TOKENS) if axis in frame}
    low, high = (each.assign(**shared) for each in (spread.low, spread.high))
    return replace(line, frame=frame, spread=Spread(low, high, members))


def courses(store: Store, section: Section, line: Line, metrics: Sequence[str]) -> dict[str, Course]:
    """Return what the bands need of a line behind; without the axis there is none."""
    runs = [store.runs[label] for label in line.members]
    whole = section.weight > 0  # what is smoothed needs every step
    return data.courses(
        runs, metrics, section.x, section.weight, lambda: line.read(store).frame if whole else line.frame
    )


def chart_of(
    store: Store,
    section: Section,
    marker: float | None,
    metrics: Sequence[str],
    columns: int,
    most: int,
    points: int | None = None,
    windows: Mapping[int, Window] | None = None,
) -> go.Figure:
    """Draw the lines of a section, with the bands behind them.

    Args:
        store: all runs.
        section: the section; lines in front without a table are read.
        marker: step of the captures on the axis.
        metrics: metrics to draw.
        columns: number of panels side by side.
        most: number of panels.
        points: about the number of points of a curve; all by default.
        windows: parts of the axis that panels show.
    """
    look, drawn = store.style(), [line.read(store) if line.frame.empty else line for line in section.lines]
    lines = [line for line in drawn if section.x in line.frame]
    front = [line for line in lines if not line.behind]
    few = sum(len(line.members) for line in front if line.spread) <= MOST_LINES
    spreads = {line.title: line.spread if few else replace(line.spread, members=[]) for line in front if line.spread}
    return metric_curves(
        {line.title: line.frame for line in front},
        metrics,
        {line.title: look[line.label] for line in lines},
        methods=section.methods,
        x=section.x,
        weight=section.weight,
        log_y=section.log_y,
        marker=marker,
        columns=columns,
        spreads=spreads,
        most=most,
        points=points,
        windows=windows or {},
        behind={line.title: courses(store, section, line, metrics) for line in lines if line.behind},
        marks={line.title: faults_of(store, line) for line in front},
    )


def faults_of(store: Store, line: Line) -> list[Mark]:
    """Return a mark for each fault that the run of a line shows, or most of its trainings; the worst fault first.

    Among several trainings the mark is at the median of their steps. A fault of a plugin that fails has no mark, which
    the page Diagnosis tells.
    """
    found: dict[str, list[Finding]] = {}
    for label in line.members:
        with suppress(ProbeError):
            for each in data.diagnosis(store.runs[label]).findings:
                found.setdefault(each.fault.name, []).append(each)
    marks, several = [], len(line.members) > 1
    for same in sorted(found.values(), key=lambda same: -max(each.sign.severity for each in same)):
        sign, title = same[0].sign, same[0].fault.title
        if len(same) <= len(line.members) // 2:
            continue
        step = int(np.median([each.sign.step for each in same]))
        where = f" in {len(same)} of {len(line.members)} trainings, at the median" * several
        marks.append(Mark(step, (sign.metric, *sign.also), f"{title}{where} from step {step:,}"))
    return marks


def numbers(store: Store, section: Section, metrics: Sequence[str]) -> pd.DataFrame:
    """Return all numbers of a section's lines, which are read for it (`table`)."""
    lines = [line.read(store) for line in section.lines]
    return table([line for line in lines if section.x in line.frame], metrics)


def table(lines: Sequence[Line], metrics: Sequence[str]) -> pd.DataFrame:
    """Return the numbers behind the curves: one row per line and step; for means with the ends of their intervals."""
    parts = []
    for line in lines:
        rows = line.frame.reindex(columns=[*AXES, *metrics]).assign(run=line.title)
        if line.spread and line.group:
            ends = {
                f"{m}_{end}": each[m]
                for m in metrics
                for end, each in (("low", line.spread.low), ("high", line.spread.high))
                if m in each
            }
            rows = rows.assign(**ends, trainings=line.group.group.count)
        parts.append(rows)
    whole = pd.concat(parts, ignore_index=True)
    return whole[["run", *(column for column in whole if column != "run")]]
