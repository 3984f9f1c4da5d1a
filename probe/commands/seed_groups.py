"""`probe runs list --group`: one line for runs that differ by seed only, with means and intervals over trainings."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probe.commands.tables import at_terminal, grid, remark, show
from probe.commands.terminal import safe
from probe.errors import RunError
from probe.terms import term
from probe.texts import say

if TYPE_CHECKING:
    from rich.table import Table

    from probe.commands.runs import Filter


def list_groups(root: str | None, as_json: bool, only: "Filter") -> None:
    """Print one line a group of runs that differ by seed only, with means and intervals over its trainings.

    Args:
        root: a folder of runs; None for all of them.
        as_json: print JSON, wherever standard output goes.
        only: which runs.

    Raises:
        RunError: `root` is not a folder, or may not be read.
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
    known = [run for run in runs if only.keeps(run.name, run.method, run.status)]
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
                    "Seeds apart: some ended far from the others, and a mean with an interval would describe neither."
                )
    elif runs:
        remark(only.remark([run.name for run in runs], [run.method for run in runs]))
    else:
        folders = ", ".join(map(shown_name, places)) or "any folder of runs"
        remark(f"No runs in {folders}: make one with `probe train`, or name a folder with --root.")


GROUP_METRICS = ("accuracy", "deferral", "invention", "gold_reward", "eval_accuracy")
"""Headline figures of a group's line, where it has them."""


def _by_metric(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(each["metric"]): each for each in row["headline"]}


def _group_line(row: Mapping[str, Any], metrics: Sequence[str], apart: Collection[str]) -> dict[str, Any]:
    """A group as one row of values: each metric with the ends of its interval over trainings.

    Metrics in which seeds of some group are apart have a further column with the values of these.
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
        table.caption = "* seeds of the last steps alone: all members start from one base"
    return table
