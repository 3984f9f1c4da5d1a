"""Report of runs as one file: findings, lineage, metrics with definitions, and commands that reproduce them.

Only the requested analyses are computed; the rest comes from the runs and their stored results. Both may come from
anybody, so all content is text and numbers (`probe.report.document`), and figures are drawn from the tables of the
results.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import pandas as pd

from probe.errors import ConfigError, DataError, ProbeError
from probe.experiments.registry import experiments
from probe.plotting.curves import Spread, metric_curves, sections, styles
from probe.plotting.export import provenance
from probe.plotting.intervals import in_unit
from probe.plotting.runs import layout
from probe.report.collect import Measured, collect
from probe.report.document import HtmlReport, today
from probe.report.pictures import Picture, first_figure, last_name, lineage_figure, lineage_table
from probe.report.reproduce import Methods, code_named, experiment_command, options_of_methods, training_command
from probe.report.shown_analyses import Shown, write_shown
from probe.runs.directories import run_directories
from probe.runs.reader import Run
from probe.runs.schema import dumps
from probe.seeds.group_tables import curves, headline
from probe.seeds.grouping import Group, groups
from probe.seeds.joined_results import find_results
from probe.seeds.t_intervals import UNKNOWN, OverTrainings
from probe.terms import Term, term
from probe.ticks import Tick, ignore
from probe.untrusted import sendable

MAIN = ("accuracy", "deferral", "invention", "abstention", "gold_reward", "kl")
"""Columns of the first table: knowledge, sycophancy, hallucination, abstention, true reward (verifier), and KL."""
WIDE = 5
"""Maximum number of runs in one table."""
ROWS = 4
"""Number of rows of curves in one figure, so that it fits on a page of paper."""
TRAININGS = (
    "Means over runs that differ by seed only. Brackets hold 95 % t intervals over trainings, the questions held fixed."
)
SPEED = ("speed", "optimiser")
"""Sections of curves that say nothing about what was learned."""


def report(
    runs: Sequence[Run],
    chosen: Sequence[str] = (),
    *,
    shown: Sequence[Shown] = (),
    around: Sequence[Run] | None = None,
    methods: Methods | None = None,
    tick: Tick = ignore,
) -> str:
    """Return the report of some runs as HTML.

    Args:
        runs: runs of the report.
        chosen: names of experiments; if empty, all that are stored for these runs.
        shown: results of analyses of these runs (`look_inside`).
        around: possible ancestors of these runs, for the lineage, and runs with other seeds; by default the runs in the
            same folders.
        methods: result of `options_of_methods`; by default it is called.
        tick: called with the completed share.

    Raises:
        ConfigError: there is no run, or no experiment has a given name.
    """
    if not runs:
        raise ConfigError("A report was requested without a run: name at least one.")
    around = _beside(runs) if around is None else around
    by_label = _order(dict(zip(_apart([run.name for run in runs]), runs, strict=True)))
    known = _groups(runs, around)
    seeds = _seeds(by_label, known)
    further = [label for label, run in by_label.items() if label in seeds and seeds[label].first.path != run.path]
    measured, left_out = collect(by_label, chosen, further)
    tick(0.4)
    facts = provenance(report=list(by_label), experiments=[each.name for each in measured])
    names = ", ".join(by_label)
    document = HtmlReport(f"Report on {names}" if len(names) < 60 else f"Report on {len(by_label)} runs", facts)
    document.say(f"{today()}, Probe {facts['probe']}, runs: {names}.", "note")
    rows = _headlines(by_label)
    first = first_figure(by_label, rows, measured, around)
    document.figure(*first)
    told = [(each.title, each.sentences) for each in measured] + [(each.title, each.sentences) for each in shown]
    answers = [(f"{title}:", _sentence(text)) for title, sentences in told for text in sentences]
    if answers:
        document.answers(answers)
    if not measured:
        document.say("No result of an experiment is stored for these runs.")
    for sentence in [*_never(by_label, measured, chosen), *left_out]:
        document.say(sentence)
    document.section("Lineage", page=False)
    _write_lineage(document, by_label, around, first)
    if len(rows):
        document.section("Headline figures")
        _write_headlines(document, by_label, rows, known)
    for index, each in enumerate(measured):
        document.section(each.title)
        _write_measured(document, each, by_label, [other for other in measured if other.name == each.name], first)
        _write_groups(document, each, by_label, known)
        tick(0.4 + 0.4 * (index + 1) / len(measured))
    for look in shown:
        write_shown(document, look)
    document.section("Training")
    _write_training(document, by_label, seeds)
    document.section("Settings")
    _write_settings(document, by_label)
    document.section("Versions and hashes")
    _write_versions(document, by_label, measured)
    document.section("How to reproduce")
    _write_commands(document, by_label, measured, options_of_methods() if methods is None else methods, chosen, shown)
    tick(0.95)
    return document.html()


def _apart(names: Sequence[str]) -> list[str]:
    """Return names, with a number after each repeated one."""
    return [
        name if not names[:i].count(name) else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)
    ]


def _beside(runs: Sequence[Run]) -> list[Run]:
    """Return the readable runs in the folders of these runs."""
    others = []
    for folder in dict.fromkeys(run.path.absolute().parent for run in runs):
        for path in run_directories(folder):
            try:
                others.append(Run(path))
            except ProbeError:  # `probe runs list` reports the reason
                continue
    return others


def _order(runs: dict[str, Run]) -> dict[str, Run]:
    """Return runs in the order of their lineage."""
    place = layout(lineage_table(runs, ()))
    return {label: runs[label] for label in sorted(runs, key=lambda name: place[name][1])}


def _write_lineage(document: HtmlReport, runs: Mapping[str, Run], around: Sequence[Run], first: Picture) -> None:
    picture = lineage_figure(runs, around)
    if picture[1] != first[1]:
        document.figure(*picture)
    rows = [
        (
            label,
            run.method,
            run.status,
            f"{run.steps:,}",
            last_name(run.parent),
            last_name(run.reward_model),
            run.created[:10],
            "" if run.message is None else run.message,
        )
        for label, run in runs.items()
    ]
    columns = ["run", "method", "status", "steps", "parent", "reward model", "started", "how it ended"]
    keep = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    document.table([columns[i] for i in keep], [[row[i] for i in keep] for row in rows])


def _headlines(runs: Mapping[str, Run]) -> pd.DataFrame:
    tables = [run.headline.assign(run=label) for label, run in runs.items() if len(run.headline)]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _write_headlines(
    document: HtmlReport, runs: Mapping[str, Run], table: pd.DataFrame, known: Sequence[Group]
) -> None:
    document.say(
        "Measured by each method at the end of its training. Brackets hold 95 % intervals over questions: Wilson's for"
        " shares, bootstrap ones for means. They say nothing about other seeds."
    )
    cells = {(row["run"], row["metric"]): row for row in table.to_dict("records")}
    metrics = list(dict.fromkeys(table["metric"]))
    for group in _families(runs, cells):
        main = [metric for metric in MAIN if any((label, metric) in cells for label in group)]
        if main:
            first: list[list[object]] = [
                [label, *(_value(cells.get((label, metric)), metric) for metric in main)] for label in group
            ]
            document.table(["run", *(_head(metric, term(metric)) for metric in main)], first, kind="numbers")
    _write_trainings(document, known)
    document.heading("Every headline figure")
    for group in _families(runs, cells):
        own = [metric for metric in metrics if any((label, metric) in cells for label in group)]
        for labels in _blocks(group):
            rows: list[list[object]] = [
                [_head(metric, term(metric)), *(_value(cells.get((label, metric)), metric) for label in labels)]
                for metric in own
            ]
            document.table(["metric", *labels], rows, kind="numbers")
    document.heading("What the metrics mean")
    words = {name: term(name) for name in metrics}
    meanings = [
        [(each.title, name), each.unit, each.better, each.definition or "the run's own", each.source]
        for name, each in words.items()
    ]
    document.table(["metric", "unit", "better", "definition", "source"], meanings, kind="terms")


def _groups(runs: Sequence[Run], around: Sequence[Run]) -> list[Group]:
    """Return the groups of seeds that the runs belong to, with their members among `around`."""
    paths = {run.path.resolve() for run in runs}
    others = [run for run in around if run.path.resolve() not in paths]
    return [group for group in groups([*runs, *others]) if paths & {run.path.resolve() for run in group.runs}]


def _seeds(runs: Mapping[str, Run], known: Sequence[Group]) -> dict[str, Group]:
    """Return by label the group of a run and its other seeds, if some of them are in the report too."""
    found: dict[str, Group] = {}
    for whole in known:
        own = {label: run for label, run in runs.items() if run.path in {each.path for each in whole.runs}}
        group = whole.of(own.values())
        found |= dict.fromkeys(own, group) if group.count > 1 else {}
    return found


def _write_trainings(document: HtmlReport, known: Sequence[Group]) -> None:
    """Write the main figures of the runs' groups of seeds, as means over trainings."""
    document.heading("Over trainings")
    found = [group for group in known if group.count > 1]
    if not found:
        document.say(f"Each run was trained with one seed. {UNKNOWN.partition(': ')[2].capitalize()}")
        return
    document.say(TRAININGS)
    tables = [(group, {str(row["metric"]): row for row in headline(group).to_dict("records")}) for group in found]
    judges = [name for _, table in tables if not table.keys() & set(MAIN) for name in list(table)[:WIDE]]
    for metrics in (MAIN, tuple(dict.fromkeys(judges))):
        own = [metric for metric in metrics if any(metric in table for _, table in tables)]
        rows: list[list[object]] = [
            [group.name, group.about, *(_over_trainings(table.get(metric), term(metric)) for metric in own)]
            for group, table in tables
            if any(metric in table for metric in own)
        ]
        if rows:
            document.table(["group", "seeds", *(_head(metric, term(metric)) for metric in own)], rows, kind="numbers")


def _over_trainings(row: Mapping[Any, Any] | None, about: Term) -> str:
    if row is None:
        return _interval(None, about)
    return OverTrainings.of(row).format(about.unit)


def _head(metric: str, about: Term) -> tuple[str, str, str]:
    """Return a metric as a cell: its title with its unit, its name, and its definition on hover."""
    return about.label, metric, about.explain(metric)


def _blocks(labels: Sequence[str]) -> list[Sequence[str]]:
    """Split labels into parts of nearly equal size, as few as the width of a table (`WIDE`) allows."""
    size = -(-len(labels) // -(-len(labels) // WIDE)) if labels else 1
    return [labels[i : i + size] for i in range(0, len(labels), size)]


def _families(runs: Mapping[str, Run], cells: Mapping[tuple[str, str], object]) -> list[list[str]]:
    """Group the labels of runs with common metrics, such as language models and reward models."""
    families: list[tuple[list[str], set[str]]] = []
    for label in runs:
        own = {metric for run, metric in cells if run == label}
        match = next((each for each in families if each[1] & own), None)
        if match:
            match[0].append(label)
            match[1].update(own)
        elif own:
            families.append(([label], own))
    return [labels for labels, _ in families]


def _value(row: Mapping[Any, Any] | None, metric: str) -> str:
    """Format a metric's value with its interval in its unit."""
    return _interval(row, term(metric))


def _write_measured(
    document: HtmlReport, measured: Measured, runs: Mapping[str, Run], all_: Sequence[Measured], first: Picture
) -> None:
    for sentence in measured.sentences:
        document.say(_sentence(sentence), "answer")
    if measured.problem:
        document.say(measured.problem, "note")
    if measured.experiment and measured.experiment.about:
        document.say(" ".join(measured.experiment.about.partition("\n\n")[0].split()), "note")
    absent = [label for label in _writers(runs) if not any(label in other.by_run for other in all_)]
    if absent:
        document.say(_not_stored(measured.name, absent, runs), "note")
    for title, chart in measured.figures:
        if chart is not first[0]:
            document.figure(chart, title)
    document.heading("Every number")
    document.say(_conditions(measured), "note")
    cells = {
        (label, row["metric"]): row
        for label, result in measured.drawn.items()
        for row in result.summary.to_dict("records")
    }
    for group in _blocks([label for label in runs if label in measured.drawn]):
        words = _words(measured, [metric for label, metric in cells if label in group])
        rows = [
            [
                _head(name, each) if each.definition else name,
                *(_interval(cells.get((label, name)), each) for label in group),
                _count(cells, group, name),
            ]
            for name, each in words.items()
        ]
        document.table(["metric", *group, "n"], rows, kind="numbers")


def _words(measured: Measured, metrics: Iterable[str]) -> dict[str, Term]:
    """Return the term (title, unit, definition) of each metric of an experiment."""
    names = dict.fromkeys(metrics)
    return {name: measured.experiment.term(name) if measured.experiment else Term(name) for name in names}


def _write_groups(document: HtmlReport, measured: Measured, runs: Mapping[str, Run], known: Sequence[Group]) -> None:
    """Write the metrics of runs that have other seeds, as means over trainings."""
    found = []
    for group in known:
        paths = {run.path for run in group.runs}
        own = next((result for label, result in measured.by_run.items() if runs[label].path in paths), None)
        with suppress(DataError):  # its summary is not a table, or it has been deleted
            found += [find_results(group, measured.name, own.meta)] if own else []
    found = [each for each in found if each.group.count > 1]
    if not found:
        return
    document.heading("Over trainings")
    document.say(TRAININGS, "note")
    titles = _apart([f"{each.group.name}, {len(each.group.runs)} seeds" for each in found])
    tables = {
        title: each.table().set_index("metric").to_dict("index") for title, each in zip(titles, found, strict=True)
    }
    for names in _blocks(titles):
        words = _words(measured, (str(metric) for name in names for metric in tables[name]))
        rows: list[list[object]] = [
            [
                _head(metric, each) if each.definition else metric,
                *(_over_trainings(tables[name].get(metric), each) for name in names),
            ]
            for metric, each in words.items()
        ]
        document.table(["metric", *names], rows, kind="numbers")


def _conditions(measured: Measured) -> str:
    """Say in one sentence how a result was measured, and where its metrics are defined."""
    meta = next(iter(measured.by_run.values())).meta
    facts = [f"n = {meta.get('n')}", f"seed {meta.get('seed')}"]
    data = meta.get("data")
    facts += [f"data {data.get('name')}"] if isinstance(data, dict) else []
    options = meta.get("options")
    if isinstance(options, dict):
        facts += [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in options.items() if value is not None]
    text = f"Measured with {', '.join(facts)}; values with 95 % intervals."
    if measured.experiment and measured.experiment.origin == "built in":
        text += f" Hover over a metric for its definition; docs/{measured.name}.md of Probe has all of them."
    return text


def _interval(row: Mapping[Any, Any] | None, about: Term) -> str:
    return "\u2014" if row is None else in_unit(about.unit, row["value"], row["ci_low"], row["ci_high"])


def _count(cells: Mapping[tuple[str, str], Mapping[Any, Any]], labels: Sequence[str], name: str) -> str:
    """Return the number of items on which the values of a metric are based."""
    counts = sorted({int(row["n"]) for label in labels if (row := cells.get((label, name))) and row["n"] == row["n"]})
    return "" if not counts else f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}\u2013{counts[-1]:,}"


def _writers(runs: Mapping[str, Run]) -> list[str]:
    """Return the labels of the runs that experiments apply to: those whose model generates text."""
    return [label for label, run in runs.items() if run.method != "reward-model" and run.checkpoints()]


def _never(runs: Mapping[str, Run], measured: Sequence[Measured], chosen: Sequence[str]) -> list[str]:
    """Return a sentence on each chosen experiment without a stored result, with the command that measures it."""
    there = {each.name for each in measured}
    return [_not_stored(name, _writers(runs) or list(runs), runs) for name in chosen if name not in there]


def _not_stored(name: str, labels: Sequence[str], runs: Mapping[str, Run]) -> str:
    """State that an experiment is not stored for some runs, with the command that measures it."""
    known = experiments()
    title = known[name].title if name in known else name
    first = " on the first of them" if len(labels) > 1 else ""
    command = experiment_command(name, runs[labels[0]].name, known.get(name))
    return f"{title}: not stored for {', '.join(labels)}; `{command}` measures it{first}."


def _write_training(document: HtmlReport, runs: Mapping[str, Run], trained: Mapping[str, Group]) -> None:
    """Draw the curves of each run; for runs that differ only by seed, draw their mean."""
    look = styles({label: run.method for label, run in runs.items()})
    if trained:
        document.say(
            "Curves of seeds: line, mean over trainings; band, its 95 % t interval; faint, each training.", "note"
        )
    unfolded = True
    for label, run in runs.items():
        seeds, spread = trained.get(label), None
        if seeds and seeds.first.path != run.path:
            continue
        if seeds:
            document.fold(f"{seeds.name}, {len(seeds.runs)} seeds", unfolded=unfolded)
            found = curves(seeds)
            frame, spread = found.mean, Spread(found.low, found.high, list(found.members.values()))
        else:
            document.fold(label, unfolded=unfolded)
            frame = run.metrics()
        unfolded = False
        names = [str(column) for column in frame.columns]
        parts = {name: own for name, own in sections(names).items() if name not in SPEED}
        if not parts:
            document.say("The run has logged no metrics.")
        for name, metrics in parts.items():
            for part in (metrics[i : i + 3 * ROWS] for i in range(0, len(metrics), 3 * ROWS)):
                spreads = {label: spread} if spread else None
                chart = metric_curves(
                    {label: frame}, part, look, methods={label: run.method}, columns=3, spreads=spreads
                )
                chart.update_layout(showlegend=False, margin={"t": 30})
                document.figure(chart, f"{name}*" if name.endswith("/") else name, 80 + 180 * -(-len(part) // 3))


def _write_settings(document: HtmlReport, runs: Mapping[str, Run]) -> None:
    worlds: dict[str, tuple[Mapping[str, Any], list[str]]] = {}
    for label, run in runs.items():
        if run.world:
            worlds.setdefault(dumps(sendable(run.world)), (run.world, []))[1].append(label)
        own = {"method": run.method, "seed": run.seed, "steps taken": run.steps}
        config = {name: value for name, value in run.config.items() if name != "world" or not isinstance(value, dict)}
        document.heading(label)
        _facts(document, own | _flat(config))
    for world, labels in worlds.values():
        document.heading(f"World of {', '.join(labels)}")
        _facts(document, {"seed": world.get("seed")} | _flat(world.get("config")))


def _facts(document: HtmlReport, facts: Mapping[str, object]) -> None:
    """Write names and values as a table with two pairs per row."""
    pairs = [(name, _shown(value)) for name, value in facts.items() if value is not None]
    half = -(-len(pairs) // 2)
    rows = [[*left, *right] for left, right in zip_longest(pairs[:half], pairs[half:], fillvalue=("", ""))]
    document.table(["setting", "value", "setting", "value"], rows, kind="facts")


def _write_versions(document: HtmlReport, runs: Mapping[str, Run], measured: Sequence[Measured]) -> None:
    sets: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for label, run in runs.items():
        versions = run.meta.get("versions")
        own = versions if isinstance(versions, dict) else {}
        sets.setdefault(dumps(sendable(own)), (own, []))[1].append(label)
    rows = [[", ".join(labels), name, value] for own, labels in sets.values() for name, value in own.items()]
    document.heading("Versions that trained")
    if rows:
        seen = set()
        shown = [["" if row[0] in seen else (seen.add(row[0]) or row[0]), *row[1:]] for row in rows]  # type: ignore[func-returns-value]
        document.table(["runs", "package", "version"], shown)
    document.heading("Hashes of what trained")
    rows = []
    for label, run in runs.items():
        git = run.meta.get("git")
        facts: dict[str, Any] = {"world": (run.world or {}).get("hash")}
        facts |= {f"data.{name}": value for name, value in _flat(run.meta.get("data")).items()}
        if isinstance(git, dict):
            facts["git"] = f"{git.get('revision')}{', with changes' if git.get('dirty') else ''}"
        entries = [[name, _shown(value)] for name, value in facts.items() if value is not None]
        rows += [[label if not index else "", *entry] for index, entry in enumerate(entries)]
    document.table(["run", "what", "value"], rows, kind="hashes")
    rows = []
    for each in measured:
        for label, result in each.by_run.items():
            models = result.meta.get("models") or [{}]
            versions = result.meta.get("versions")
            number = versions.get("probe-lm") if isinstance(versions, dict) else ""
            key, created = result.meta.get("key"), str(result.meta.get("created"))[:10]
            rows.append([each.name, label, created, number or "", key or "", models[0].get("fingerprint") or ""])
    if rows:
        document.heading("Hashes of what was measured")
        columns = ["experiment", "run", "measured", "Probe", "key", "fingerprint of the model"]
        document.table(columns, rows, kind="hashes")


def _write_commands(
    document: HtmlReport,
    runs: Mapping[str, Run],
    measured: Sequence[Measured],
    methods: Methods,
    chosen: Sequence[str],
    shown: Sequence[Shown],
) -> None:
    document.say("Options that are not shown have their default values. References are shown as the run recorded them.")
    document.heading("Train")
    commands = {label: training_command(run, methods) for label, run in runs.items()}
    document.code([command for command in commands.values() if command])
    for label, run in runs.items():
        if not commands[label]:
            document.say(
                f"{label} was made by `{run.method}` with settings that no command of `probe train` here gives."
            )
        if code := code_named(run):
            document.say(code)
    if measured:
        document.heading("Measure")
        document.code(
            [
                command
                for each in measured
                for label, result in each.by_run.items()
                if (command := experiment_command(each.name, runs[label].name, each.experiment, result))
            ]
        )
    if shown:
        document.heading("Look inside")
        document.code([command for each in shown for command in each.commands])
    document.heading("Report")
    names = [f"./{run.name}" if run.name.startswith("-") else run.name for run in runs.values()]
    document.code([_report_command(names, chosen, [each.words for each in shown])])


def _report_command(names: Sequence[str], chosen: Sequence[str], analyses: Sequence[str] = ()) -> str:
    more = ["--experiment", *chosen] if chosen else []
    more += ["--analysis", *analyses] if analyses else []
    return shlex.join(["probe", "report", *names, *more, "--out", "report.html"])


def _flat(value: object, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one mapping, with dots in their names."""
    if not isinstance(value, Mapping):
        return {}
    entries: dict[str, Any] = {}
    for name, each in value.items():
        entries |= _flat(each, f"{prefix}{name}.") if isinstance(each, Mapping) else {f"{prefix}{name}": each}
    return entries


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _sentence(text: str) -> str:
    """Return a text as a sentence: with a full stop unless it ends in `.`, `!` or `?`."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
