"""`probe diagnose RUN...`: names the faults of training that runs show, with step, evidence and remedy."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.opened import open_runs
from probe.commands.tables import at_terminal, grid, remark, safe, show
from probe.errors import ConfigError
from probe.options import parse
from probe.plugins import take
from probe.texts import say

if TYPE_CHECKING:
    from rich.table import Table

    from probe.diagnosis.diagnosed import Diagnosis


def diagnose(argv: list[str]) -> int:
    """Find faults of training in runs: which, from which step, the evidence, and what to try."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Diagnose:
        """Find faults of training in what runs recorded: which fault, from which step, the evidence, what to try.

        It also says which faults could not be seen, and which metrics are missing for that. The exit status is 1 if a
        fault that --fail-on names was found.
        """

        runs: tyro.conf.Positional[tuple[str, ...]] = ()
        """Runs to diagnose: names in the run directories, or paths."""
        json: bool = False
        """Print JSON: findings, faults that were not found (clear), and faults that could not be seen (unseen)."""
        html: Path | None = None
        """File to write sentences, curves and remedies to, such as diagnosis.html."""
        fail_on: tuple[str, ...] = ()
        """Faults that make the exit status 1, or any."""
        score: bool = False
        """Show how often faults that were put into trainings were named: in those that come with Probe, or in the runs
        given, beside each of which a file NAME.json names its fault (null if healthy) and the first injured step."""

    settings = parse(Diagnose, take(argv), "probe diagnose")

    from probe.diagnosis.diagnosed import diagnose as look
    from probe.diagnosis.fault_record import ANY, check_names
    from probe.runs.reader import Run
    from probe.runs.schema import jsonable

    if settings.score:
        return show_score(settings.runs, settings.json)
    if not settings.runs:
        raise ConfigError("`probe diagnose` was called without a run: name at least one, as in `probe diagnose rlhf`.")
    check_names(settings.fail_on)
    if settings.html is not None:
        check_file(settings.html)
    found = [look(Run(place)) for place in open_runs(settings.runs)]
    if settings.html is not None:
        from probe.report.diagnosed_runs import write_diagnoses
        from probe.runs.storage import write_file

        write_file(settings.html.expanduser(), write_diagnoses(found).encode())
    if settings.json:
        say(json.dumps(jsonable(as_json(found)), indent=2))
    else:
        show(draw_table(found), rows(found))
        for line in remarks(found):
            if at_terminal():
                say("")
            remark(line)
    if settings.html is not None:
        remark(f"Written: {settings.html}")
    names = {each.fault.name for one in found for each in one.findings}
    for one in found:
        for each in one.unseen:
            if each.fault.name in settings.fail_on:
                remark(f"`{each.fault.name}` cannot be seen in {one.name}, which lacks {each.text}.")
    return int(bool(names & set(settings.fail_on)) or (ANY in settings.fail_on and bool(names)))


def show_score(runs: Sequence[str], as_json: bool) -> int:
    """Show the score of the diagnosis on trainings whose faults are known.

    Raises:
        DataError: beside a run is no truth.
    """
    from probe.diagnosis.score import score, sentence, shipped_trials, try_run
    from probe.runs.schema import jsonable

    trials = [try_run(place) for place in open_runs(runs)] if runs else shipped_trials()
    table = [{str(key): value for key, value in row.items()} for row in score(trials).to_dict("records")]
    if as_json:
        say(json.dumps(jsonable({"score": table, "trials": [asdict(each) for each in trials]}), indent=2))
        return 0
    drawing = grid()
    drawing.add_column("fault", min_width=24)
    for name in ("runs", "named", "worst", "anything", "alarm", "soon", "delay", "obvious rule"):
        drawing.add_column(name, justify="right")
    for row in table:
        delay = "" if row["delay"] is None else f"{100 * row['delay']:.0f} %"
        counts = (str(row[name]) for name in ("runs", "named", "first", "found", "alarms", "soon"))
        drawing.add_row(safe(row["title"]), *counts, delay, str(row["rules"]))
    show(drawing, table)
    remark(f"{sentence(trials)} {SCORED}")
    return 0


SCORED = (
    "worst: the fault is the worst finding; anything: any fault is found; soon: an alarm within a quarter of the "
    "training after the injury; delay: the median of the steps from the injury to the first alarm, as a share of all; "
    "obvious rule: a fixed bound on KL, entropy or loss is broken."
)


def check_file(path: Path) -> None:
    """Raise an error unless an HTML file can be written to `path`.

    Raises:
        ConfigError: it is a folder, or does not end in .html. RunError: its folder does not exist.
    """
    from probe.runs.storage import check_folder

    out = path.expanduser()
    check_folder(out.parent)
    if out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--html `{path}` is not the path of an HTML file: let it end in .html.")


def as_json(found: "Sequence[Diagnosis]") -> dict[str, Any]:
    """Return diagnoses as lists of findings, of faults that were not found, and of faults that could not be seen."""
    parts = [(one.name, one.to_dict()) for one in found]
    lists = {
        key: [{"run": name} | each for name, part in parts for each in part[key]] for key in ("findings", "unseen")
    }
    clear = [{"run": name, "faults": part["clear"]} for name, part in parts]
    runs = [{key: part[key] for key in ("run", "method", "steps", "sentence")} for _, part in parts]
    return {"runs": runs, **lists, "clear": clear}


def rows(found: "Sequence[Diagnosis]") -> list[dict[str, Any]]:
    """Return one row per finding, and one without a fault for each run in which nothing was found."""
    lines = []
    for one in found:
        for line in one.table().to_dict("records") or [{}]:
            lines.append({"run": one.name} | {str(key): value for key, value in line.items()})
    names = list(dict.fromkeys(key for line in lines for key in line))
    return [{key: line.get(key) for key in names} for line in lines]


def draw_table(found: "Sequence[Diagnosis]") -> "Table":
    """Draw diagnoses for a terminal."""
    drawing = grid()
    drawing.leading = 1
    drawing.add_column("run")
    drawing.add_column("from step", justify="right", no_wrap=True)
    drawing.add_column("fault, evidence, what to try", min_width=40)
    for one in found:
        for each in one.findings:
            text = (
                f"[bold red]{safe(each.fault.title)}[/] [dim]{safe(each.fault.name)}[/]\n{safe(each.sign.sentence)}\n"
                f"[dim]Try:[/] {safe(each.fault.remedy)}"
            )
            drawing.add_row(safe(one.name), f"{each.sign.step:,}", text)
        if not one.findings:
            nothing = "nothing found" if one.clear else "nothing logged in which a fault could be seen"
            drawing.add_row(safe(one.name), "", f"[green]{nothing}[/]" if one.clear else nothing)
    return drawing


def remarks(found: "Sequence[Diagnosis]") -> list[str]:
    """Return sentences on what was not found and what could not be seen, each for all runs for which it holds."""
    groups: dict[str, list[str]] = {}
    for one in found:
        clear = f"Not found: {', '.join(each.title for each in one.clear)}." if one.clear else ""
        unseen = f"Could not be seen: {'; '.join(f'{each.fault.title}, without {each.text}' for each in one.unseen)}."
        for line in filter(None, (clear, unseen if one.unseen else "")):
            groups.setdefault(line, []).append(one.name)
    if len(found) == 1:
        return list(groups)
    return [f"{', '.join(names)}: {line[0].lower()}{line[1:]}" for line, names in groups.items()]
