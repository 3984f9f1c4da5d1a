"""`probe experiment NAME --model REF`: runs an experiment, prints its table and saves the result."""

import json
from dataclasses import fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from probe.commands import tables
from probe.commands.opened import check_models, give_world, named_world, open_models, require_files
from probe.commands.tables import grid, remark, safe
from probe.errors import ConfigError, RunError
from probe.options import choose, option, parse, take_check, words
from probe.terms import Term
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from rich.table import Table

    from probe.experiments.definition import Experiment
    from probe.experiments.result import Result
    from probe.experiments.run import Call
    from probe.experiments.slice_comparison import SliceComparison

MANY = 100
"""Number of rows of a file above which the command first tells how many it uses and how long this will take."""
ABOUT = """usage: probe experiment NAME --model REF [--also REF ...] [--baseline REF] [--data FILE] [OPTIONS]

Run an experiment on a model, print what it found and save it. `--plugin FILE.py` adds your own. With
`--check` it only checks the options and the files, and prints nothing if they are right."""


def experiment(argv: list[str]) -> int:
    """Run an experiment: `probe experiment NAME --model REF [--baseline REF]`.

    With `--check` it only checks the options and the files.
    """
    from probe.experiments.registry import experiments, find_experiment
    from probe.plugins import take

    rest, only_check = take_check(take(argv))
    titles = {name: each.title for name, each in experiments().items()}
    choice = choose(rest, "probe experiment", ABOUT, titles)
    if choice is None:
        return 0
    if not only_check and not {"-h", "--help"} & set(choice[1]):
        check_named(choice[1])
    run(find_experiment(choice[0]), choice[1], only_check)
    return 0


def check_named(words: "Sequence[str]") -> None:
    """Check the files and models that a command line names.

    The options of an experiment are known only after its slow import; files and models always have the same options.

    Raises:
        DataError: a file does not exist, or an output folder contains something else.
        ModelError: see `probe.commands.opened.check_models`.
    """
    from probe.questions.sets import SETS

    named: dict[str, list[str]] = {option: [] for option in ("--model", "--also", "--baseline", "--data", "--world")}
    option = ""
    for word in words:
        if word.startswith("--"):
            option, sign, value = word.partition("=")
            named.get(option, []).extend([value] if sign else [])
        elif option == "--also" or (option in named and not named[option]):
            named[option].append(word)
    for ref in named["--world"]:
        named_world(ref)
    require_files(data for data in named["--data"] if data not in SETS)
    check_models((*named["--model"], *named["--also"], *named["--baseline"]))


def run(experiment: "Experiment", argv: list[str], only_check: bool = False) -> None:
    """Run one experiment as the command line asks, or only check its options and files.

    Raises:
        ProbeError: the options, the models or the data are not valid.
    """
    import tyro

    from probe.commands.progress import Progress
    from probe.experiments.definition import form
    from probe.experiments.result import RESULT_FILE, check_target, records
    from probe.experiments.run import call, join, labels, prepare
    from probe.experiments.slice_comparison import compare_slices
    from probe.experiments.slices import read_slices, slices_file
    from probe.experiments.store import PARTIAL, obtain, place, target
    from probe.runs.directories import WORK
    from probe.ticks import part

    own = form(experiment)
    clash = {"model", "also", "baseline", "world", "out", "again", "slices", "json", "check"} & {
        each.name for each in fields(own)
    }
    if clash:
        raise ConfigError(
            f"The option `{clash.pop()}` of the experiment `{experiment.name}` has the name of an option of the"
            " command: rename it."
        )

    def arg(hint: Any, text: str) -> Any:
        return Annotated[hint, tyro.conf.arg(help=text)]

    arguments: list[Any] = [
        ("model", arg(str, "The model: a run, a checkpoint, a Hugging Face folder or hub id.")),
        ("baseline", arg(str | None, "A second model that answers the same items."), None),
        (
            "also",
            arg(tuple[str, ...], "Further models, each with a column of its own; the figures show all."),
            (),
        ),
        (
            "world",
            arg(str | None, "The world of models that have none, such as a copy: a run of it, or its world.json."),
            None,
        ),
        (
            "out",
            arg(Path | None, "Folder to save to (default: results in a run of yours, else ./results/MODEL)."),
            None,
        ),
        ("again", arg(bool, "Run it even if its result is stored."), False),
        ("slices", arg(bool, "Also compare the slices of items kept in results/slices with all other items."), False),
        ("json", arg(bool, "Print JSON instead of a table."), False),
    ]
    kind = make_dataclass(experiment.name, arguments, bases=(own,), kw_only=True, frozen=True)
    kind.__doc__ = experiment.about or experiment.title
    settings: Any = parse(kind, argv, f"probe experiment {experiment.name}")
    options = {each.name: getattr(settings, each.name) for each in fields(own)}
    if settings.out:
        check_target(settings.out)
    slices = read_slices(experiment.name) if settings.slices else []
    if settings.slices and not slices:
        raise ConfigError(
            f"No slice is kept in `{slices_file(experiment.name)}`: keep one on the page of the experiment, or with"
            " `probe.experiments.slices.keep_slice`."
        )
    files = prepare(experiment, **options)  # invalid files are refused before a model is loaded
    if only_check:
        return
    open_models((settings.model, *settings.also, settings.baseline))
    for note in files.notes:
        say(f"probe: note: {note}", error=True)
    from probe.model.rewards import analysable_together  # late: imports torch, not needed for help

    models = analysable_together([ref for ref in (settings.model, *settings.also, settings.baseline) if ref])
    give_world(models, named_world(settings.world))
    files = call(experiment, models[0], **options)
    if files.default:
        say(f"probe: note: {files.default.note}", error=True)
    parts = []
    if files.read and experiment.counts_rows and files.options["n"] > MANY:
        count = f"{files.options['n']:,} of its rows; --limit and --n take fewer"
        say(f"probe: asking `{files.options['data']}`, {count}", error=True)
        tell_cost([call(experiment, lm, **options) for lm in models])
    try:
        with Progress(experiment.title) as bar:
            for index, (lm, label) in enumerate(zip(models, labels(models), strict=True)):
                bar.at(label, index + 1, len(models))
                tick = part(bar.tick, index, len(models))
                parts.append(obtain(experiment, lm, again=settings.again, tick=tick, **options))
    except KeyboardInterrupt:
        if any((WORK / PARTIAL).glob("*")):
            say("probe: the answers so far are kept: run the same command to continue", error=True)
        raise
    result = join(experiment, parts) if len(parts) > 1 else parts[0]
    summaries = {label: each.summary for label, each in zip(result.models, parts, strict=True)}
    folder, problem = None, ""
    try:
        joint = replace(call(experiment, models[0], **options), models=models)
        there = len(models) == 1 and (place(joint) / RESULT_FILE).is_file()
        folder = place(joint) if there and not settings.out else result.save(settings.out or target(joint))
    except RunError as error:
        if settings.out:
            raise
        problem = str(error)
    if settings.json:
        from probe.runs.schema import jsonable

        answer = {"name": result.name, "summary": records(result.summary), "meta": result.meta}
        if len(parts) > 2:
            answer["summaries"] = {label: records(summary) for label, summary in summaries.items()}
        if slices:
            compared = compare_slices(experiment, result, slices)
            answer |= {"slices": records(compared.rows), "slices_notes": list(compared.notes)}
        say(json.dumps(jsonable(answer | {"saved": str(folder) if folder else None}), indent=2))
        return
    show(result, summaries)
    if slices:
        show_slices(compare_slices(experiment, result, slices))
    remark(f"Saved in {folder}" if folder else f"Not saved: {problem} `--out` names one.")


def tell_cost(calls: "Sequence[Call]") -> None:
    """Print how long calls of one model each will take together, without stored or started ones."""
    from probe.commands.progress import clock
    from probe.experiments.cost import TRIED, cheaper, counts_tokens, estimate_seconds
    from probe.experiments.store import find_stored, partial_file

    new = [each for each in calls if not find_stored(each) and not partial_file(each).exists()]
    if new:
        each = [estimate_seconds(request) for request in new]
        basis = "the model's reading speed" if counts_tokens(new[0]) else f"{TRIED} of the rows"
        less = [cheaper(request, seconds) for request, seconds in zip(new, each, strict=True)]
        offers = [offer for offer in less if offer is not None]
        words_of = {option(name): value for name, value in offers[0][0].items()} if offers else {}
        offered = (
            f"; `{' '.join(words(words_of))}` takes about {clock(sum(part[1] for part in offers))}" if offers else ""
        )
        cost = f"this takes about {clock(sum(each))}, estimated from {basis}{offered}"
        say(f"probe: {cost}; Ctrl-C stops it at any time", error=True)


def show(result: "Result", summaries: "Mapping[str, pd.DataFrame] | None" = None) -> None:
    """Print the finding and the table of a result (see `table`), or the values as TSV if output is no terminal."""
    from probe.experiments.forms import form_notes
    from probe.experiments.registry import experiments

    if result.finding:
        tables.remark(result.finding)
    for note in form_notes(result, experiments().get(result.name)):
        tables.remark(note)
    tables.show(table(result, summaries), rows_of(result, summaries))


def show_slices(found: "SliceComparison") -> None:
    """Print the table of a comparison of slices and its notes, or the values as TSV if output is no terminal."""
    from probe.experiments.result import records
    from probe.experiments.slice_comparison import HEADS, TITLE

    for note in found.notes:
        tables.remark(note)
    say("")
    lines = found.lists()[TITLE]
    output = grid(safe(TITLE), "95 % intervals over answers")
    for name in HEADS:
        output.add_column(safe(name), justify="left" if name in ("metric", "slice", "model") else "right")
    for line in lines.to_dict("records"):
        output.add_row(*(safe(line[name]) for name in HEADS))
    tables.show(output, records(found.rows))


def rows_of(result: "Result", summaries: "Mapping[str, pd.DataFrame] | None" = None) -> "list[dict[str, Any]]":
    """Return the summary as values, one row per metric.

    With three or more models there is one row per metric and model; the first model's rows hold the difference to the
    last.
    """
    from probe.experiments.result import records

    joint = records(result.summary)
    if summaries is None or len(summaries) < 3:
        return joint
    gaps = {row["metric"]: row for row in joint}
    first, empty = next(iter(summaries)), {name: None for row in joint for name in row}
    return [
        {"model": label} | empty | row | (gaps.get(row["metric"], {}) if label == first else {})
        for label, each in summaries.items()
        for row in records(each)
    ]


def table(result: "Result", summaries: "Mapping[str, pd.DataFrame] | None" = None) -> "Table":
    """Draw the summary for a terminal: values with intervals and, with a baseline, differences (paired unless marked).

    Args:
        result: result of one model or several.
        summaries: summary of each model; with three or more, each has a column, and the difference compares the first
            with the last.
    """
    from probe.experiments.comparison import GAP, VALUE
    from probe.experiments.metrics import COMPARED

    if summaries is not None and len(summaries) > 2:
        return _table_of_many(result, summaries)
    has_baseline = "difference" in result.summary
    output = _columns(
        result,
        [
            result.models[0] if result.models else "value",
            *([str(result.meta.get("baseline")), "difference"] if has_baseline else []),
            "n",
        ],
    )
    for row in result.summary.to_dict("records"):
        about = _term(result, row["metric"])
        cells = [_cell(row, about.unit, VALUE)]
        if has_baseline:
            cells += [_cell(row, about.unit, COMPARED[:3]), _cell(row, about.unit, GAP)]
        output.add_row(*[safe(about.label), *cells, f"{int(row['n']):,}", safe(row["metric"])][: len(output.columns)])
    return output


def _table_of_many(result: "Result", summaries: "Mapping[str, pd.DataFrame]") -> "Table":
    from probe.experiments.comparison import GAP, VALUE

    rows = {label: {row["metric"]: row for row in each.to_dict("records")} for label, each in summaries.items()}
    gaps = {row["metric"]: row for row in result.summary.to_dict("records")}
    first, *_, last = rows
    output = _columns(result, [*rows, f"{first} - {last}"])
    for name in dict.fromkeys(metric for of in rows.values() for metric in of):
        about = _term(result, name)
        cells = [_cell(of.get(name, {}), about.unit, VALUE) for of in rows.values()]
        gap = _cell(gaps.get(name, {}), about.unit, GAP)
        output.add_row(*[safe(about.label), *cells, gap, safe(name)][: len(output.columns)])
    return output


def _term(result: "Result", metric: str) -> Term:
    """Return the term that describes a metric, as its experiment defines it."""
    from probe.experiments.registry import experiments

    known = experiments().get(result.name)
    return known.term(metric) if known else Term(metric)


def _columns(result: "Result", names: list[str]) -> "Table":
    """Return an empty table; its caption explains the intervals and the marks of differences."""
    from probe.experiments.comparison import UNPAIRED
    from probe.experiments.metrics import BARE, has_bare

    different = "pairs" in result.summary and (result.summary["pairs"] == 0).any()
    caption = "95 % intervals over answers"
    caption += f"; {UNPAIRED} not paired: the models were asked different questions" if different else ""
    caption += f"; {BARE}" if has_bare(result.summary) else ""
    output = grid(safe(result.title), caption)
    output.add_column("metric")
    for name in names:
        output.add_column(safe(name), justify="right")
    if any(_term(result, metric).title != metric for metric in result.summary["metric"]):
        output.add_column("name", style="dim")
    return output


def _cell(row: "Mapping[Any, Any]", unit: str, names: "Sequence[str]") -> str:
    from probe.experiments.comparison import cell

    value = row.get(names[0])
    return "" if value is None or value != value else safe(cell(row, unit, names))
