"""`probe runs`: lists and shows runs in a terminal, and copies runs to a store and back.

`probe runs list` and `probe runs show REF` print the contents of the run directories; `probe runs upload` and `probe
runs download` copy a run to a store and back. `probe.commands.keeping` marks runs, renames them and throws them away.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands import keeping
from probe.commands.opened import open_runs
from probe.commands.tables import at_terminal, draw, grid, remark, safe, show, tsv
from probe.errors import ConfigError, RunError, suggest
from probe.numbers import in_unit
from probe.options import choose, parse
from probe.terms import term
from probe.texts import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from probe.runs.reader import Run
    from probe.runs.run_filter import RunFilter

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "killed": "red",
    "failed": "red",
    "broken": "bold red",
}


def runs(argv: list[str]) -> int:
    """List runs, show, mark or tidy them, or copy one to or from a store: `probe runs list`, `mark`, `upload`, ..."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class List:
        """List the runs of a folder, or of all run directories, the newest first."""

        pattern: tyro.conf.Positional[str | None] = None
        """Text that the names of the runs contain, or a shell pattern that they match (`dpo-*`)."""
        root: str | None = None
        """Folder that contains run directories, local or in a store as s3://bucket/runs (default: $PROBE_RUNS, or else
        ./runs and the sample runs).
        """
        method: str | None = None
        """Method of the runs to list."""
        status: str | None = None
        """Status of the runs to list: finished, running, interrupted, killed, failed or broken."""
        tag: list[str] = field(default_factory=list)
        """Tags that the runs to list have, all of them."""
        text: str | None = None
        """Words in the name, the method, the tags, the note or the settings (`lr=0.001`) of the runs to list."""
        archived: bool = False
        """List archived runs, too."""
        group: bool = False
        """Print one line for runs that differ only by seed, with means over these trainings."""
        json: bool = False
        """Print JSON instead of a table."""

    @dataclass(frozen=True, kw_only=True)
    class Show:
        """Show the settings, the state and the headline figures of one run."""

        ref: tyro.conf.Positional[str]
        """Name of a run, path of its directory, or its address in a store."""
        json: bool = False
        """Print JSON instead of tables."""

    @dataclass(frozen=True, kw_only=True)
    class Upload:
        """Send a run to a store; unchanged files are not sent again. A run that is still being written can be sent."""

        run: tyro.conf.Positional[str]
        """Name of a run, or path of its directory."""
        url: tyro.conf.Positional[str]
        """Address of the run in the store, such as s3://bucket/runs/base; any protocol that fsspec supports."""
        attempt: int | None = None
        """Number of the attempt that writes the run, for runs that are retried; a higher attempt that has claimed the
        run locks this one out (default: the newest attempt there, or else 1).
        """

    @dataclass(frozen=True, kw_only=True)
    class Download:
        """Fetch a run from a store, checked by its hashes; it can be resumed, and appears complete or not at all."""

        url: tyro.conf.Positional[str]
        """Address of the run, such as s3://bucket/runs/base."""
        directory: tyro.conf.Positional[str]
        """Folder to write to; it must be new or empty."""

    about = "usage: probe runs COMMAND [OPTIONS]\n\nList runs, mark and tidy them, or keep them in a store."
    summaries = {
        "list": "all runs, or some: `probe runs list dpo --status running`",
        "show": "one run: `probe runs show REF`",
        **keeping.SUMMARIES,
        "upload": "send a run to a store: `probe runs upload RUN s3://bucket/runs/NAME`",
        "download": "fetch one: `probe runs download s3://bucket/runs/NAME DIRECTORY`",
    }
    choice = choose(argv, "probe runs", about, summaries)
    if choice is None:
        return 0
    if choice[0] == "list":
        listing = parse(List, choice[1], "probe runs list")
        only = _filter(listing.pattern, listing.text, listing.method, listing.status, listing.tag)
        (list_groups if listing.group else list_)(listing.root, listing.json, only, listing.archived)
    elif choice[0] == "show":
        settings = parse(Show, choice[1], "probe runs show")
        show_run(settings.ref, settings.json)
    elif choice[0] in keeping.SUMMARIES:
        keeping.keep(*choice)
    elif choice[0] == "upload":
        sending = parse(Upload, choice[1], "probe runs upload")
        send_run(sending.run, sending.url, sending.attempt)
    else:
        fetching = parse(Download, choice[1], "probe runs download")
        fetch_run(fetching.url, fetching.directory)
    return 0


def _filter(
    pattern: str | None, text: str | None, method: str | None, status: str | None, tags: Sequence[str]
) -> "RunFilter":
    """Return the criteria on a command line.

    Raises:
        ConfigError: there is no such status.
    """
    from probe.runs.run_filter import RunFilter

    if status is not None and status not in COLOURS:
        remedy = suggest(status, COLOURS, "name one of these.")
        raise ConfigError(f"--status is {status}; expected one of {', '.join(COLOURS)}: {remedy}")
    return RunFilter(pattern or "", text or "", method, status, tags)


def send_run(ref: str, url: str, attempt: int | None) -> None:
    """Upload a run and print how much was sent."""
    from probe.runs.store.remote import upload

    (path,) = open_runs((ref,))
    sent = upload(path, url, attempt)
    whole = sent.version
    say(
        f"Sent {sent.files} files ({_megabytes(sent.bytes)}) of `{path}` to {url}; {len(whole.files) - sent.files} were"
        f" there unchanged. The run has {len(whole.files)} files ({_megabytes(whole.bytes)})."
    )


def fetch_run(url: str, directory: str) -> None:
    """Download a run and print its location."""
    from probe.runs import Run
    from probe.runs.store.remote import download

    run = Run(download(url, directory))
    say(f"Fetched {url} to `{run.path}`: {run.method}, {run.status}, {run.steps:,} steps.")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _none(only: "RunFilter", names: list[str], methods: list[str]) -> str:
    """Return the reason why none of these runs is listed."""
    words = [f"`{only.name}` in its name"] if only.name else []
    words += [f"`{only.text}` in its texts"] if only.text else []
    words += [f"{what} `{value}`" for what, value in (("method", only.method), ("status", only.status)) if value]
    words += [f"the tag `{tag}`" for tag in only.tags]
    if only.method is not None and only.method not in methods:
        remedy = suggest(only.method, methods, f"the methods are {', '.join(sorted(set(methods)))}.")
    else:
        remedy = suggest(only.name, names, "`probe runs list` lists all.")
    return f"None of {len(names)} runs has {' and '.join(words)}: {remedy}"


def list_(root: str | None, as_json: bool, only: "RunFilter", archived: bool) -> None:
    """Print one line per run, pinned ones and then the newest first; for an unreadable run it gives the reason.

    Args:
        root: run directory; all by default.
        as_json: print JSON even on a terminal.
        only: criteria of the runs to list.
        archived: list archived runs, too.

    Raises:
        RunError: `root` is not a folder, or cannot be read.
    """
    from probe.runs import roots
    from probe.runs.addresses import is_cached
    from probe.runs.directories import shown_name, store_problems
    from probe.runs.reader import checked_folder
    from probe.runs.schema import jsonable

    places = roots() if root is None else [checked_folder(root)]
    everything = [row for place in places if place.is_dir() for row in summaries(place, only)]
    everything.sort(key=lambda row: row["name"])
    everything.sort(key=lambda row: (row["problem"] is None, row["pinned"], row["created"] or ""), reverse=True)
    found = [row for row in everything if row.pop("kept")]
    rows = [row for row in found if archived or not row["archived"]]
    for problem in store_problems(None if root is None else [root]).values():
        remark(problem)
    for place in places:
        if not place.is_dir() and not is_cached(place):
            remark(f"The run directory {place} is not a folder and is left out: correct PROBE_RUNS.")
    if as_json:
        say(json.dumps(jsonable(rows), indent=2))
    elif rows:
        table = _table(rows, {row["name"] for row in everything})
        show(table, [_line(row) for row in rows], optional=("when", "base", "method", "steps", "tags"))
        for row in rows if at_terminal() else ():
            if row["problem"]:
                remark(f"{row['name']} is broken: {row['problem']}")
    elif everything and not found:
        remark(_none(only, [row["name"] for row in everything], [row["method"] for row in everything if row["method"]]))
    elif not everything:
        folders = ", ".join(map(shown_name, places)) or "any run directory"
        remark(f"No runs in {folders}: make one with `probe train`, or name a folder with --root.")
    _tell_archived(len(found) - len(rows))


def list_groups(root: str | None, as_json: bool, only: "RunFilter", archived: bool) -> None:
    """Print one line per group of runs that differ only by seed, with means and intervals over its trainings.

    Args:
        root: run directory; None for all.
        as_json: print JSON even on a terminal.
        only: criteria of the runs to list.
        archived: count archived runs, too.

    Raises:
        RunError: `root` is not a folder, or cannot be read.
    """
    from probe.runs import roots
    from probe.runs.directories import run_directories, shown_name, store_problems
    from probe.runs.reader import Run, checked_folder
    from probe.runs.schema import jsonable
    from probe.seeds import groups, headline
    from probe.seeds.t_intervals import UNKNOWN

    places, runs = roots() if root is None else [checked_folder(root)], []
    for problem in store_problems(None if root is None else [root]).values():
        remark(problem)
    for path in (path for place in places if place.is_dir() for path in run_directories(place)):
        try:
            runs.append(Run(path))
        except RunError as error:
            remark(f"{path.name} is broken: {error}")
    chosen = [run for run in runs if only.keeps(run.name, run.method, run.status, run)]
    known = [run for run in chosen if archived or not run.marks.archived]
    found = groups(sorted(known, key=lambda run: (run.created, run.name)))
    rows: list[dict[str, Any]] = [
        {"name": group.name, "method": group.method, "seeds": group.count, "about": group.about}
        | {"runs": [run.name for run in group.runs], "headline": headline(group).to_dict("records")}
        for group in found
    ]
    if as_json:
        say(json.dumps(jsonable(rows), indent=2))
    elif rows:
        metrics = [name for name in GROUP_METRICS if any(name in _by_metric(row) for row in rows)]
        apart = {name for row in rows for name, each in _by_metric(row).items() if each["apart"]}
        show(_group_table(rows), [_group_line(row, metrics, apart) for row in rows])
        if at_terminal():
            remark("Means over trainings [95 % t interval over trainings]; one training has no such interval.")
            if all(row["seeds"] == 1 for row in rows):
                remark(UNKNOWN)
            if any(each["apart"] for row in rows for each in row["headline"]):
                remark(
                    "Some seeds ended far from the others: a mean with an interval would describe neither group,"
                    " so all are listed."
                )
    elif runs and not chosen:
        remark(_none(only, [run.name for run in runs], [run.method for run in runs]))
    elif not runs:
        folders = ", ".join(map(shown_name, places)) or "any run directory"
        remark(f"No runs in {folders}: make one with `probe train`, or name a folder with --root.")
    _tell_archived(len(chosen) - len(known))


def _tell_archived(count: int) -> None:
    if count:
        remark(f"Archived runs that are left out: {count}; --archived lists them, too.")


GROUP_METRICS = ("accuracy", "deferral", "invention", "gold_reward", "eval_accuracy")
"""Headline figures in a group's line, if it has them."""


def _by_metric(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each["metric"]): each for each in row["headline"]}


def _group_line(row: Mapping[str, Any], metrics: Sequence[str], apart: Collection[str]) -> dict[str, Any]:
    """Return a group as one row of values: each metric with the bounds of its interval over trainings.

    Metrics whose values differ strongly between the seeds of some group get a further column with these values.
    """
    line = {name: row[name] for name in ("name", "method", "seeds", "about")}
    for metric in metrics:
        figure = _by_metric(row).get(metric, {})
        names = (metric, f"{metric}_low", f"{metric}_high")
        line |= {name: figure.get(key) for name, key in zip(names, ("value", "ci_low", "ci_high"), strict=True)}
        line |= {f"{metric}_apart": figure.get("apart", "")} if metric in apart else {}
    return line | {"runs": " ".join(row["runs"])}


def _group_table(rows: Sequence[Mapping[str, Any]]) -> "Table":
    from probe.seeds.t_intervals import OverTrainings

    table = grid()
    for name in ("name", "method", "seeds", "headline, over trainings"):
        table.add_column(name, justify="right" if name == "seeds" else "left")
    for row in rows:
        texts, known = [], _by_metric(row)
        for metric in [name for name in GROUP_METRICS if name in known] or list(known)[:1]:
            figure, words = known[metric], term(metric)
            texts.append(f"{words.title} {OverTrainings.of(figure).format(words.unit)}")
        seeds = str(row["seeds"]) + ("*" if " one base " in row["about"] else "")
        table.add_row(safe(row["name"]), safe(row["method"]), seeds, safe("; ".join(texts)))
    if any(" one base " in row["about"] for row in rows):
        table.caption = "* only the last steps differ by seed: all members start from one base"
    return table


def summaries(root: Path, only: "RunFilter") -> "list[dict[str, Any]]":
    """Summarise each run in a folder, with whether it meets the criteria (`kept`).

    An unreadable run gets the status `broken` and its problem.
    """
    from probe.runs.directories import run_directories
    from probe.runs.reader import Run
    from probe.runs.run_marks import Marks

    rows = []
    for path in run_directories(root):
        try:
            run = Run(path)
            rows.append(_summary(run) | {"kept": only.keeps(run.name, run.method, run.status, run)})
        except RunError as error:
            unknown = dict.fromkeys(("method", "parent", "steps", "created"))
            facts = {"name": path.name, "path": str(path), "status": "broken", "headline": [], "problem": str(error)}
            kept = only.keeps(path.name, None, "broken")
            rows.append(unknown | facts | asdict(Marks()) | {"kept": kept})
    return rows


def show_run(ref: str, as_json: bool) -> None:
    """Print the facts known about one run."""
    from rich.table import Table

    from probe.runs import Run
    from probe.runs.schema import jsonable

    (place,) = open_runs((ref,))
    run = Run(place)
    detail = _detail(run)
    if as_json:
        say(json.dumps(jsonable(detail), indent=2))
        return
    if not at_terminal():
        say(tsv(_flat(detail)))
        return
    screen = console()
    screen.print(f"[bold]{safe(run.name)}[/] {safe(run.method)}, [{COLOURS[run.status]}]{run.status}[/]")
    about = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in detail.items():
        if name in ("name", "method", "status", "headline", "config") or value in (None, [], {}, ""):
            continue
        about.add_row(name.replace("_", " "), safe(_text(value)))
    draw(about)
    if len(run.headline):
        figures = grid("headline")
        figures.add_column("metric")
        figures.add_column("value [95 % over answers]", justify="right", no_wrap=True)
        figures.add_column("n", justify="right", no_wrap=True)
        figures.add_column("name", style="dim")
        for row in run.headline.to_dict("records"):
            words = term(str(row["metric"]))
            figures.add_row(safe(words.label), safe(_value(row, words.unit)), _count(row["n"]), safe(row["metric"]))
        draw(figures)
    if run.config:
        settings = Table(title="config", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in run.config.items():
            settings.add_row(safe(name), safe(_text(value)))
        draw(settings)


def _flat(detail: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per fact of a run: `name`, `value`, and for a headline figure its interval and n."""
    empty = dict.fromkeys(("value", "ci_low", "ci_high", "n"))
    rows = []
    for name, value in detail.items():
        if name == "headline":
            rows += [
                {"name": f"headline.{each.get('metric')}"} | {key: each.get(key) for key in empty} for each in value
            ]
        elif name == "config":
            rows += [empty | {"name": f"config.{key}", "value": _text(each)} for key, each in value.items()]
        elif value not in (None, [], {}, ""):
            rows.append(empty | {"name": name, "value": _text(value)})
    return [{"name": row["name"], **row} for row in rows]


def _table(rows: list[dict[str, Any]], names: set[str]) -> "Table":
    """Draw runs as a table for a terminal; a base is shown by its name alone if the name is in `names`."""
    table = grid()
    tagged = any(row["tags"] for row in rows)
    for name in ("name", "method", "base", "steps", "status", "headline", *["tags"] * tagged, "when"):
        table.add_column(name, justify="right" if name == "steps" else "left", no_wrap=name in ("steps", "when"))
    table.columns[5].min_width = HEADLINE_WIDTH
    for row, line in ((row, _line(row)) for row in rows):
        parent = line["parent"] or ""
        parent = Path(parent).name if Path(parent).name in names else parent
        status = f"[{COLOURS[line['status']]}]{line['status']}[/]"
        steps = "" if line["steps"] is None else f"{line['steps']:,}"
        about = term(line["metric"] or "")
        figure = f"{_value(line, about.unit)} {about.title}" if line["metric"] else ""
        when = _when(row["created"])
        last = map(safe, (figure, *[", ".join(row["tags"])] * tagged, when))
        name = PIN * row["pinned"] + line["name"]
        table.add_row(*map(safe, (name, line["method"] or "", parent)), steps, status, *last)
    return table


PIN = "* "
"""Sign before the name of a pinned run."""
HEADLINE_WIDTH = 20
"""Smallest width of the headline figure in characters, below which other columns are left out."""


def _when(created: Any) -> str:
    """Return the minute (UTC) in which a run was started; empty if its file does not say."""
    try:
        return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError):
        return ""


def _line(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a run with the first of its headline figures as one row of values."""
    first: dict[str, Any] = next(iter(summary["headline"]), {})
    about = ("name", "method", "parent", "status", "steps")
    return (
        {name: summary[name] for name in about}
        | {name: first.get(name) for name in ("metric", "value", "ci_low", "ci_high", "n")}
        | {"tags": ",".join(summary["tags"]), "note": summary["note"]}
        | {"problem": summary["problem"], "path": summary["path"]}
    )


def _summary(run: "Run") -> dict[str, Any]:
    return {
        "name": run.name,
        "path": str(run.path),
        "method": run.method,
        "parent": run.parent,
        "status": run.status,
        "steps": run.steps,
        "created": run.created,
        "headline": run.meta.get("headline") or [],
        "problem": None,
        **asdict(run.marks),
    }


def _detail(run: "Run") -> dict[str, Any]:
    captures = run.captures()
    return {
        **_summary(run),
        "message": run.message,
        "reference": run.reference,
        "reward_model": run.reward_model,
        "seed": run.seed,
        "world": (run.world or {}).get("hash"),
        "data": run.meta.get("data"),
        "versions": run.meta.get("versions"),
        "git": run.meta.get("git"),
        "checkpoints": [checkpoint.step for checkpoint in run.checkpoints()],
        "captures": captures.steps,
        "captures_take": captures.cost,
        "captures_hold": captures.holds,
        "results": list(run.results()),
        "config": run.config,
    }


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        text = ", ".join(_text(item) for item in value[:12])
        return f"{text}, ... ({len(value)} in all)" if len(value) > 12 else text
    return str(value)


def _value(row: Mapping[Any, Any], unit: str) -> str:
    return in_unit(unit, row["value"], row["ci_low"], row["ci_high"])


def _count(n: Any) -> str:
    return "" if n is None or math.isnan(n) else f"{int(n):,}"
