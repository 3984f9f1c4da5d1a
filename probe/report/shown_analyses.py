"""Results of analyses that a report shows: they are computed by name for the report.

    look_inside("logit_lens --prompt 'where does mira live ?'", [probe.open_run("base"), probe.open_run("sft")])

An analysis of a model against its base is applied to every run whose base is in the report; an analysis of a single
model is applied to all runs.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from probe.analyses.analysis_record import PAIR, Analysis
from probe.analyses.catalogue import find_analysis
from probe.errors import ConfigError, ProbeError
from probe.options import parse
from probe.plotting.notebook import Drawable, Look, title_of
from probe.plotting.theme import METHODS, OTHER, method_colour
from probe.runs.reader import Run
from probe.ticks import Tick, ignore, part

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from probe.model.lm import LM
    from probe.report.document import HtmlReport

ROWS = 10
"""Maximum number of rows of a table."""


@dataclass(frozen=True)
class Shown:
    """Results of an analysis of some runs."""

    title: str
    about: str
    """Definition of the analysis."""
    words: str
    """Request: name and options of the analysis."""
    commands: tuple[str, ...]
    """Commands that give the same results in a terminal."""
    sentences: tuple[str, ...]
    """Findings, or the reason why there are none."""
    notes: tuple[str, ...]
    figures: "tuple[tuple[str, go.Figure], ...]"
    """Title and figure of each."""
    tables: tuple[tuple[str, pd.DataFrame], ...]
    """Title and first rows of each, formatted for reading."""


def look_inside(words: str, runs: Sequence[Run], tick: Tick = ignore) -> Shown:
    """Run an analysis on runs.

    Args:
        words: name and options of the analysis, as for `probe show`.
        runs: runs whose models are analysed, at their last checkpoints.
        tick: called with the completed share.

    Raises:
        ConfigError: there is no such analysis or option; it compares a model with its base, and the runs include no
            model with its base; or the runs hold no model.
    """
    try:
        name, *argv = shlex.split(words)
    except ValueError:
        raise ConfigError(
            f"--analysis {words!r} cannot be split into words: give a name and options as to `probe show`, with quotes"
            " that are closed."
        ) from None
    analysis = find_analysis(name).with_words(argv)
    form: Any = parse(analysis.form(), argv, f"probe report --analysis {name}")
    values = {each: getattr(form, analysis.option_of(each)) for each in analysis.inputs | analysis.views}
    groups = list(_groups(analysis, [run for run in runs if run.checkpoints()]))
    results: list[Drawable] = []
    looks: list[list[Look]] = []
    problems = []
    pairs = analysis.models == PAIR
    every = [] if pairs else [_load(run) for run in groups[0]]
    values = analysis.settled(values, *every)
    takes = groups if pairs else [[run] for run in groups[0]] or [[]]
    for index, group in enumerate(takes):
        try:
            lms = [_load(run) for run in group] if pairs else every[index : index + 1]
            results.append(analysis.run(*lms, tick=part(tick, index, len(takes)), **values))
            looks.append(_looks(group if pairs else groups[0])[slice(None) if pairs else slice(index, index + 1)])
        except ProbeError as error:
            problems.append(f"{' and '.join(run.name for run in group)}: {error}")
    if pairs:
        found = [
            each for result, look in zip(results, looks, strict=True) for each in analysis.together([result], look)
        ]
    else:
        found = analysis.together(results, [look for own in looks for look in own])
    apart = [f": {' and '.join(each.name for each in look)}" for look in looks] if len(found) > 1 else [""]
    placed = []
    for name, each in zip(apart, found, strict=True) if found else ():
        try:
            analysis.require_views(each, values)
            placed.append((name, each))
        except ProbeError as error:
            problems.append(f"{name.removeprefix(': ') or analysis.title}: {error}")
    return Shown(
        analysis.title,
        " ".join(analysis.about.partition("\n\n")[0].split()),
        words,
        tuple(_commands(words, groups)),
        tuple(filter(None, (*(analysis.sentence(each, values) for _, each in placed), *problems))),
        tuple(dict.fromkeys(note for _, each in placed for note in each.notes)),
        tuple(
            (f"{title_of(chart, analysis.title)}{name}", chart)
            for name, each in placed
            for chart in analysis.figures(each, values).values()
        ),
        tuple(
            (f"{title}{name}", table.head(ROWS))
            for name, each in placed
            for title, table in analysis.lists(each, values).items()
        ),
    )


def write_shown(document: "HtmlReport", shown: Shown) -> None:
    """Write the results of an analysis as a section of a report."""
    document.section(shown.title)
    for sentence in shown.sentences:
        document.say(sentence, "answer")
    document.say(shown.about, "note")
    for title, chart in shown.figures:
        document.figure(chart, title)
    for note in shown.notes:
        document.say(note, "note")
    for title, table in shown.tables:
        floats = {name for name in table if pd.api.types.is_float_dtype(table[name])}
        rows = [
            ["" if pd.isna(cell) else f"{cell:.3g}" if name in floats else str(cell) for name, cell in row.items()]
            for row in table.to_dict("records")
        ]
        document.table([str(name).replace("_", " ") for name in table], rows, caption=title)


def _groups(analysis: Analysis, runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Yield the runs whose models an analysis takes: pairs of a run and its base, or all at once."""
    if not runs:
        raise ConfigError("No run of this report holds a model: leave --analysis out, or name runs with checkpoints.")
    if analysis.models != PAIR:
        yield list(runs) if analysis.models else []
        return
    by_path = {str(run.path.resolve()): run for run in runs}
    by_name: Mapping[str, Run] = {run.name: run for run in runs}
    pairs = []
    for run in runs:
        parent = run.parent or ""
        base = by_path.get(parent.partition("@")[0]) or by_name.get(parent.partition("@")[0].rpartition("/")[2])
        pairs += [[base, run]] if base is not None and base is not run else []
    if not pairs:
        raise ConfigError(
            f"`{analysis.name}` compares a run with its parent, and none of {', '.join(by_name)} is the parent of"
            " another: name such a pair, as in `probe report base sft`."
        )
    yield from pairs


def _load(run: Run) -> "LM":
    from probe.model.rewards import analysable  # torch, which a report without analyses does not need

    return analysable(run.path)


def _looks(group: Sequence[Run]) -> list[Look]:
    """Return the styles of runs: the colour of the method, or another one if it is taken."""
    colours = [method_colour(run.method) for run in group]
    if len(group) == 2:
        colours = [METHODS["pretrain"], colours[1] if colours[1] != METHODS["pretrain"] else OTHER]
    return [Look(run.name, colour) for run, colour in zip(group, colours, strict=True)]


def _commands(words: str, groups: Sequence[Sequence[Run]]) -> Iterator[str]:
    """Yield the commands that give the same results: each model with its base, or two models at a time."""
    name, *options = shlex.split(words)
    for group in groups:
        for start in range(0, len(group), 2) or [0]:
            names = [f"./{run.name}" if run.name.startswith("-") else run.name for run in group[start : start + 2]]
            yield shlex.join(["probe", "show", name, *names[::-1], *options])
