"""`probe runs list` and `probe runs show REF`: what the run directories say, in a terminal."""

import json
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from probe.commands.terminal import safe
from probe.options import choose, parse

if TYPE_CHECKING:
    from rich.table import Table

    from probe.runs.reader import Run

COLOURS = {"finished": "green", "running": "cyan", "interrupted": "yellow", "killed": "red", "failed": "red"}


def runs(argv: list[str]) -> int:
    """List runs or show one: `probe runs list`, `probe runs show REF`."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class List:
        """List the runs of a folder, or of all run roots."""

        root: str | None = None
        """A folder that holds run directories (default: $PROBE_RUNS, or else ./runs and the sample runs)."""
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
    chosen = choose(argv, "probe runs", about, {"list": "all runs", "show": "one run: `probe runs show REF`"})
    if chosen is None:
        return 0
    if chosen[0] == "list":
        listing = parse(List, chosen[1], "probe runs list")
        list_(listing.root, listing.json)
    else:
        shown = parse(Show, chosen[1], "probe runs show")
        show(shown.ref, shown.json)
    return 0


def list_(root: str | None, as_json: bool) -> None:
    """Print one line a run, and one to stderr for each directory that cannot be read."""
    from rich.console import Console

    from probe.runs import RunWarning, list_runs, roots

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RunWarning)
        found = list_runs(root)
    if as_json:
        print(json.dumps([_summary(run) for run in found], indent=2))
    elif found:
        Console(emoji=False, highlight=False).print(_table(found))
    else:
        places = [root] if root else [str(path) for path in roots()]
        searched = ", ".join(places) or "any run root"
        print(f"No runs in {searched}: make one with `probe train`, or name a folder with --root.")
    for warning in caught:
        Console(stderr=True, emoji=False, highlight=False).print(f"[yellow]warning: {safe(warning.message)}[/]")


def show(ref: str, as_json: bool) -> None:
    """Print what is known of one run."""
    from rich.console import Console
    from rich.table import Table

    from probe.runs import open_run

    run = open_run(ref)
    if as_json:
        print(json.dumps(_detail(run), indent=2))
        return
    console = Console(emoji=False, highlight=False)
    console.print(f"[bold]{safe(run.name)}[/] {safe(run.method)}, [{COLOURS[run.status]}]{run.status}[/]")
    about = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in _detail(run).items():
        if name in ("name", "method", "status", "headline", "config") or value in (None, [], {}, ""):
            continue
        about.add_row(name.replace("_", " "), safe(_text(value)))
    console.print(about)
    if len(run.headline):
        figures = Table(title="headline", title_justify="left")
        figures.add_column("metric")
        for column in ("value", "95 % interval", "n"):
            figures.add_column(column, justify="right")
        for row in run.headline.itertuples():
            figures.add_row(safe(str(row.metric)), _number(row.value), _interval(row), _count(row.n))
        console.print(figures)
    if run.config:
        settings = Table(title="config", title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, value in run.config.items():
            settings.add_row(safe(name), safe(_text(value)))
        console.print(settings)


def _table(found: "list[Run]") -> "Table":
    from rich.table import Table

    table = Table()
    for name in ("name", "method", "parent", "status"):
        table.add_column(name)
    table.add_column("steps", justify="right")
    table.add_column("headline")
    for run in found:
        first = next(run.headline.itertuples(), None)
        figure = f"{first.metric} {_number(first.value)} {_interval(first)}".strip() if first else ""
        status = f"[{COLOURS[run.status]}]{run.status}[/]"
        table.add_row(safe(run.name), safe(run.method), safe(run.parent or ""), status, f"{run.steps:,}", safe(figure))
    return table


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
        shown = ", ".join(_text(item) for item in value[:12])
        return f"{shown}, ... ({len(value)} in all)" if len(value) > 12 else shown
    return str(value)


def _number(value: Any) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def _interval(row: Any) -> str:
    return f"[{_number(row.ci_low)}, {_number(row.ci_high)}]" if _number(row.ci_low) or _number(row.ci_high) else ""


def _count(n: Any) -> str:
    return "" if n is None or math.isnan(n) else f"{int(n):,}"
