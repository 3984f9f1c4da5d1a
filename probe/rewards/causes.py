"""Analysis of one cause at a time: optima of all combinations of two annotators, and trained policies."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import plotly.graph_objects as go

import probe.world
from probe.analyses.analysis_record import Input
from probe.analyses.catalogue import analysis
from probe.errors import DataError
from probe.model.in_memory import keep, kept
from probe.model.lm import LM
from probe.numbers import in_unit
from probe.plotting.intervals import whiskers
from probe.plotting.notebook import Drawable, Look, alone, titled
from probe.plotting.panels import Panels
from probe.plotting.series import BAYES, IDEAL, RATE
from probe.plotting.theme import escape, escape_lines, method_colour, on_hover, row_axis
from probe.rewards.factorial import (
    BETA,
    ENDS,
    KNOBS,
    OUTCOMES,
    SHORT,
    Factorial,
    TrainedGroup,
    describe_trained,
    effect_table,
    factorial,
    trained,
)
from probe.rewards.frontiers import QUESTIONS, SEED
from probe.rewards.ground import Among, every_run, reading_seconds
from probe.runs.ancestry import RunIndex
from probe.runs.reader import Run, list_runs
from probe.seeds.group_tables import headline
from probe.seeds.grouping import Group, groups
from probe.terms import SHARE, term
from probe.world.annotators import AGREEABLE, HONEST

OPTIMUM = (
    r"\pi^*_\beta(y \mid x) = \pi_{ref}(y \mid x)\, e^{R(x,y)/\beta} / Z(x), \quad"
    r"\text{effect of a knob} = \overline{p}_{\text{agreeable level}} - \overline{p}_{\text{honest level}}"
)
WEIGHT = "correctness"
"""Factor shown within each line; the lines are the combinations of all other factors."""
LINES = [knob for knob in KNOBS if knob != WEIGHT]
NONE = "none of them"
ROW = 40
"""Height of a line in pixels."""
GAP = 0.15
"""Distance between two marks of a line, in lines."""
Marks = tuple[str, str, float, pd.DataFrame]
"""Series of marks: name, colour, weight of correctness, rows."""
PASSES = 8000
"""Number of texts whose reading takes the base as long as the optima of all cells on 64 questions of each kind."""


@dataclass(frozen=True)
class Causes(Drawable):
    """Effect of each preference of an annotator on the optimum, and results of trainings on such annotators."""

    found: Factorial
    """Optima and their effects."""
    trained: pd.DataFrame
    """Trainings on cells of the factorial (`probe.rewards.factorial.trained`)."""
    before: pd.DataFrame
    """Headline metrics of the base."""
    looks: tuple[Look, ...] = field(default_factory=alone)
    """Name and colour of the base."""

    @property
    def _optima(self) -> Factorial:
        return replace(self.found, reference=self.looks[0].name)

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Sentences that explain the lines of the figure, and over what the intervals are taken."""
        return (
            "Each line is an annotator with the listed settings of the agreeable one and the other settings of the"
            " honest one. Filled: weight 1 of correctness, as the agreeable one has; open: weight 2. Dashed:"
            f" {self.looks[0].name}. Optima: exact at beta {self.found.beta:g}, given a listed answer, with 95 %"
            " intervals over people. Trainings: sampled answers, intervals over trainings or answers. An interaction is"
            " half the difference between the effects of a knob at the two levels of the other. Where the user claims"
            " nothing, agreement has nothing to reward, so its effect is 0 by construction.",
        )

    def sentence(self) -> str:
        """Name the largest cause of each outcome, and count the trainings on the same side as their optimum."""
        return f"{self._optima.sentence} {describe_trained(self.trained, self._optima, self.before)}".strip()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return optima and trainings, all effects, and all pairs of cells that differ in one knob."""
        cells = pd.concat([self.found.cells.assign(method="optimum"), self.trained], ignore_index=True)
        return {"one-cause": cells, "one-cause-effects": self.found.effects, "one-cause-pairs": self.found.pairs}

    def lists(self) -> dict[str, pd.DataFrame]:
        """Return the main effects and the interactions of two knobs."""
        return {"Effects": effect_table(self.found)}

    def figures(self) -> dict[str, go.Figure]:
        """Draw all cells with their trainings."""
        return {"one-cause": titled(draw_factorial(self._optima, self.trained), "One cause at a time")}


def has_causes(lm: LM) -> bool:
    """Return whether a model's world has the questions."""
    world = probe.world.of(lm) if lm.readout == "tokens" else None
    return world is not None and {each.measure.question for each in OUTCOMES.values()} <= {*world.question_kinds}


def trainings_of(lm: LM, there: Collection[Run] | None = None) -> tuple[Path, ...]:
    """Return the runs that were trained from a model.

    Args:
        lm: the model.
        there: candidate runs; by default those in the folders of runs.
    """
    own, runs = run_of(lm), [*(list_runs() if there is None else there)]
    index = RunIndex(runs)
    return tuple(run.path for run in runs if own is not None and _parent(run, index) == own)


def run_of(lm: LM) -> Path | None:
    """Return the folder of the run whose last checkpoint a model is; None for any other model."""
    if lm.run_dir is None or lm.directory is None:
        return None
    last = Run(lm.run_dir).checkpoints()[-1:]
    return lm.run_dir.resolve() if last and last[0].path.resolve() == lm.directory.resolve() else None


def _parent(run: Run, index: RunIndex) -> Path | None:
    source = index.find(run.parent, run) if run.parent else None
    return None if source is None else source.path.resolve()


def causes_seconds(lm: LM, *, beta: float, n: int, **rest: Any) -> float:
    """Estimate the seconds that the optima take; 0 if they are known."""
    if kept(lm, ("causes", beta, n)) is not None:
        return 0.0
    return reading_seconds(PASSES * n // QUESTIONS, lm)


@analysis("rewards", title="One cause at a time", equations=(OPTIMUM,), seconds=causes_seconds, key="cause")
def separate_causes(
    lm: LM,
    *,
    beta: Annotated[float, Input("Beta", advanced=True)] = BETA,
    n: Annotated[int, Input("Questions of each kind", advanced=True, within=(1, 1000))] = QUESTIONS,
    trainings: Annotated[tuple[Path, ...] | None, Input("Trainings", first=trainings_of, advanced=True)] = None,
    among: Among = None,
) -> Causes:
    """Measure the effect of each preference of an annotator on the optimum, all else equal.

    The two annotators of the world differ in four knobs: agreement, a penalty for abstaining, how often correctness is
    checked, and its weight. Here each knob takes the level of either annotator, which gives 16 annotators. For each,
    the optimum of DPO is computed exactly (E12), with its hallucination rate on unseen entities, with and without a
    claim of the user, and its rate of repeating a false claim. The table also shows the trainings that learned from
    such an annotator.

    Args:
        lm: the base; it must have a world.
        beta: price of KL, in nats.
        n: number of questions of each kind.
        trainings: folders of runs; by default those in the folders of runs that were trained from the base.
        among: folders of all known runs; by default those in the folders of runs.

    Raises:
        DataError: the base has no world with such questions, or cannot generate text.
        ConfigError: beta is not positive.
    """
    world = probe.world.of(lm)
    if world is None or not has_causes(lm):
        raise DataError(
            "Causes need a world with questions about unseen entities and false claims: use a language model of"
            " such a world."
        )
    found = keep(lm, ("causes", beta, n), lambda: factorial(lm, world, beta, n, SEED))
    runs = [Run(path) for path in (trainings_of(lm) if trainings is None else trainings)]
    own = None if lm.run_dir is None else Run(lm.run_dir)
    there = [Run(path) for path in (every_run() if among is None else among)]
    known = {each.path.resolve(): each for each in [*there, *runs, *([own] if own else [])]}
    index = RunIndex(known.values())
    wanted, parent = {each.path.resolve() for each in runs}, run_of(lm)
    apart = groups(known.values())
    children = [each for each in apart if each.first.path.resolve() in wanted]
    rows = [TrainedGroup(_title(each), each.first, _headline(each), each.count) for each in children]
    bases = [each for each in apart if parent in {run.path.resolve() for run in each.runs}]
    before = _headline(bases[0]) if bases else pd.DataFrame(columns=["metric", "value", "ci_low", "ci_high"])
    return Causes(found, trained(rows, index, found.beta), before)


def _title(group: Group) -> str:
    return f"{group.name} ({len(group.runs)} seeds)" if group.count > 1 else group.first.name


def _headline(group: Group) -> pd.DataFrame:
    return headline(group) if group.count > 1 else group.first.headline


def draw_factorial(found: Factorial, trained: pd.DataFrame | None = None) -> go.Figure:
    """Draw one panel per outcome, with one line per combination of agreement, fine and rare checks.

    Filled marks are annotators with a low weight of correctness, open ones those with a high weight. The dashed line is
    the reference.

    Args:
        found: exact optima of all cells.
        trained: results of trainings (`probe.rewards.factorial.trained`).
    """
    optima = found.cells[found.cells["annotator"].notna()]
    lines = list(dict.fromkeys(map(_line, optima.to_dict("records"))))
    titles = [escape_lines(term(f"{metric}_listed", "rewards").title, 30) for metric in OUTCOMES]
    panels = Panels(titles, spacing=0.05, shared_y=True)
    series = list(_series(optima, trained))
    for column, metric in enumerate(OUTCOMES, start=1):
        for order, (name, colour, weight, rows) in enumerate(series):
            rows = rows[rows["metric"] == metric]
            offset = (order - (len(series) - 1) / 2) * GAP
            panels.add(column, _trace(rows, name, colour, weight, lines, offset))
        base = found.cells[found.cells["annotator"].isna() & (found.cells["metric"] == metric)]
        panels.mark(column, IDEAL, x=float(base["value"].iloc[0]))
    panels.axis("y", **row_axis([escape(line) for line in lines]))
    panels.axis("x", **RATE, zeroline=False, nticks=3)
    return panels.figure(height=ROW * len(lines) + 150, margin={"t": 96})


def _series(optima: pd.DataFrame, trained: pd.DataFrame | None) -> Iterator[Marks]:
    """Yield the optima, then the trainings by method, each by weight of correctness."""
    parts: list[tuple[str, str, pd.DataFrame]] = [("optimum", BAYES, optima)]
    if trained is not None:
        parts += [(str(method).upper(), method_colour(str(method)), rows) for method, rows in trained.groupby("method")]
    for name, colour, rows in parts:
        for annotator in (AGREEABLE, HONEST):
            own = rows[rows[WEIGHT] == annotator.correctness]
            if len(own):
                yield f"{name}, weight {annotator.correctness:g}", colour, annotator.correctness, own


def _trace(rows: pd.DataFrame, name: str, colour: str, weight: float, lines: list[str], offset: float) -> go.Scatter:
    low, high = (rows[end].fillna(rows["value"]).clip(0, 1) for end in ENDS[1:])
    symbol = ("diamond" if colour == BAYES else "circle") + "-open" * (weight != AGREEABLE.correctness)
    hover = [
        f"{escape(str(row.get('run') or name))}, {escape(row['annotator'])}: "
        f"{in_unit(SHARE, *(row[end] for end in ENDS))}"
        for row in rows.to_dict("records")
    ]
    return go.Scatter(
        x=rows["value"].tolist(),
        y=[lines.index(_line(row)) + offset for row in rows.to_dict("records")],
        mode="markers",
        name=escape(name),
        legendgroup=name,
        marker={"color": colour, "size": 8, "symbol": symbol},
        error_x=whiskers(rows["value"], low, high, thickness=1.4, color=colour),
        **on_hover(hover),
    )


def _line(row: Mapping[Any, Any]) -> str:
    """Return the name of a cell's line: the factors at the agreeable annotator's level."""
    return " + ".join(SHORT[knob] for knob in LINES if row[knob] == getattr(AGREEABLE, knob)) or NONE
