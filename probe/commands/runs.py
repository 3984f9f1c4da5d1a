"""`probe runs list` and `probe runs show REF`: what the folders of runs hold, in a terminal; `--group` joins seeds."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.tables import at_terminal, draw, grid, remark, show, tsv
from probe.commands.terminal import safe
from probe.errors import RunError
from probe.numbers import in_unit
from probe.options import choose, parse
from probe.terms import term
from probe.texts import console, say

if TYPE_CHECKING:
    from rich.table import Table

    from probe.runs.reader import Run

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "killed": "red",
    "failed": "red",
    "broken": "bold red",
}


def runs(argv: list[str]) -> int:
    """List runs or show one: `probe runs list`, `probe runs show REF`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class List:
        """List the runs of a folder, or of all folders of runs."""

        root: str | None = None
        """A folder that holds run directories (default: $PROBE_RUNS, or else ./runs and the sample runs)."""
        group: bool = False
        """Print one line for runs that differ by seed only, with means over these trainings."""
        json: bool = False
        """Print JSON instead of a table."""

    @dataclass(frozen=True, kw_only=True)
    class Show:
        """Show the settings, the state and the headline figures of one run."""

        ref: tyro.conf.Positional[str]
        """The name of a run, or the path of its directory."""
        json: bool = False
        """Print JSON instead of tables."""

    about = "usage: probe runs {list,show} [OPTIONS]\n\nList runs or show one."
    choice = choose(argv, "probe runs", about, {"list": "all runs", "show": "one run: `probe runs show REF`"})
    if choice is None:
        return 0
    if choice[0] == "list":
        listing = parse(List, choice[1], "probe runs list")
        (list_groups if listing.group else list_)(listing.root, listing.json)
    else:
        settings = parse(Show, choice[1], "probe runs show")
        show_run(settings.ref, settings.json)
    return 0


def list_(root: str | None, as_json: bool) -> None:
    """Print one line a run; of a run that cannot be read the line says why.

    Raises:
        RunError: `root` is not a folder, or may not be read.
    """
    from probe.runs.schema import jsonable

    places = _places(root)
    rows = [row for place in places if place.is_dir() for row in summaries(place)]
    rows.sort(key=lambda row: (row["problem"] is not None, row["created"] or "", row["name"]))
    if as_json:
        say(json.dumps(jsonable(rows), indent=2))
    elif rows:
        show(_table(rows), [_line(row) for row in rows])
        for row in rows if at_terminal() else ():
            if row["problem"]:
                remark(f"{row['name']} is broken: {row['problem']}")
    else:
        _nothing(places)


def list_groups(root: str | None, as_json: bool) -> None:
    """Print one line a group of runs that differ by seed only, with means and intervals over its trainings.

    Raises:
        RunError: `root` is not a folder, or may not be read.
    """
    from probe.runs import list_runs
    from probe.runs.schema import jsonable
    from probe.seeds import groups, headline
    from probe.seeds.t_intervals import UNKNOWN

    places = [place for place in _places(root) if place.is_dir()]
    found = groups(run for place in places for run in list_runs(place))
    rows = [
        {"name": group.name, "method": group.method, "seeds": group.count, "about": group.about}
        | {"runs": [run.name for run in group.runs], "headline": headline(group).to_dict("records")}
        for group in found
    ]
    if as_json:
        say(json.dumps(jsonable(rows), indent=2))
    elif rows:
        metrics = [name for name in GROUP_METRICS if any(name in _by_metric(row) for row in rows)]
        show(_group_table(rows), [_group_line(row, metrics) for row in rows])
        if at_terminal():
            remark("Means over trainings [95 % t interval over trainings]; one training has no such interval.")
            if all(row["seeds"] == 1 for row in rows):
                remark(UNKNOWN)
    else:
        _nothing(places)


GROUP_METRICS = ("accuracy", "deferral", "invention", "gold_reward", "eval_accuracy")
"""Headline figures of a group's line, where it has them."""


def _by_metric(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each["metric"]): each for each in row["headline"]}


def _group_line(row: Mapping[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    """A group as one row of values: each metric with the ends of its interval over trainings."""
    line = {name: row[name] for name in ("name", "method", "seeds", "about")}
    for metric in metrics:
        figure = _by_metric(row).get(metric, {})
        names = (metric, f"{metric}_low", f"{metric}_high")
        line |= {name: figure.get(key) for name, key in zip(names, ("value", "ci_low", "ci_high"), strict=True)}
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
            mean = OverTrainings(figure["value"], figure["ci_low"], figure["ci_high"], int(figure["n"]))
            texts.append(f"{words.title} {mean.format(words.unit)}")
        seeds = str(row["seeds"]) + ("*" if " one base " in row["about"] else "")
        table.add_row(safe(row["name"]), safe(row["method"]), seeds, safe("; ".join(texts)))
    if any(" one base " in row["about"] for row in rows):
        table.caption = "* seeds of the last steps alone: all members start from one base"
    return table


def _places(root: str | None) -> list[Path]:
    """The folders to list; of those that are none a remark says it.

    Raises:
        RunError: `root` is not a folder.
    """
    from probe.runs import roots

    if root is not None and not os.path.isdir(os.path.expanduser(root)):
        raise RunError(f"`{root}` is not a folder: give one that holds run directories.")
    places = roots() if root is None else [Path(root).expanduser()]
    for place in places:
        if not place.is_dir():
            remark(f"The folder of runs {place} is not a folder and is left out: correct PROBE_RUNS.")
    return places


def _nothing(places: Sequence[Path]) -> None:
    folders = ", ".join(map(str, places)) or "any folder of runs"
    remark(f"No runs in {folders}: make one with `probe train`, or name a folder with --root.")


def summaries(root: Path) -> "list[dict[str, Any]]":
    """What is known of each run in a folder; of a run that cannot be read the status `broken` and its problem."""
    from probe.runs.directories import run_directories
    from probe.runs.reader import Run

    rows = []
    for path in run_directories(root):
        try:
            rows.append(_summary(Run(path)))
        except RunError as error:
            unknown = dict.fromkeys(("method", "parent", "steps", "created"))
            facts = {"name": path.name, "path": str(path), "status": "broken", "headline": [], "problem": str(error)}
            rows.append(unknown | facts)
    return rows


def show_run(ref: str, as_json: bool) -> None:
    """Print what is known of one run."""
    from rich.table import Table

    from probe.runs import open_run
    from probe.runs.schema import jsonable

    run = open_run(ref)
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
    """One row a fact of a run: `name`, `value`, and of a headline figure its interval and n."""
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


def _table(rows: list[dict[str, Any]]) -> "Table":
    table, names = grid(), {row["name"] for row in rows}
    for name in ("name", "method", "parent", "status", "steps", "headline"):
        table.add_column(name, justify="right" if name == "steps" else "left")
    for row in map(_line, rows):
        parent = row["parent"] or ""
        parent = Path(parent).name if Path(parent).name in names else parent
        status = f"[{COLOURS[row['status']]}]{row['status']}[/]"
        steps = "" if row["steps"] is None else f"{row['steps']:,}"
        about = term(row["metric"] or "")
        figure = f"{about.title} {_value(row, about.unit)}" if row["metric"] else ""
        table.add_row(*map(safe, (row["name"], row["method"] or "", parent)), status, steps, safe(figure))
    return table


def _line(summary: dict[str, Any]) -> dict[str, Any]:
    """A run with the first of its headline figures, as one row of values."""
    first: dict[str, Any] = next(iter(summary["headline"]), {})
    about = ("name", "method", "parent", "status", "steps")
    return (
        {name: summary[name] for name in about}
        | {name: first.get(name) for name in ("metric", "value", "ci_low", "ci_high", "n")}
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
    }


def _detail(run: "Run") -> dict[str, Any]:
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
        "captures": run.captures().steps,
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
