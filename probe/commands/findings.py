"""`probe findings`: ten published claims, measured on the sample runs, and whether each holds here."""

import json
from typing import TYPE_CHECKING, Any

from probe.commands.tables import grid, remark, show
from probe.commands.terminal import safe
from probe.errors import ConfigError, RunError
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from probe.findings.claim import Bench, Claim, Finding


def findings(argv: list[str]) -> int:
    """Measure ten published claims on the sample runs: effect, interval, and whether each holds here."""
    from dataclasses import dataclass
    from pathlib import Path

    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Findings:
        """Measure ten published claims about aligned models on the sample runs."""

        only: tyro.conf.Positional[tuple[str, ...]] = ()
        """Names of claims; all by default."""
        runs: Path | None = None
        """Folder that holds the runs (default: the folders of runs, among them the sample runs)."""
        n: int | None = None
        """Questions of each kind in experiments (default: their own numbers)."""
        again: bool = False
        """Measure anew what is on record beside the runs, and run experiments even if their results are stored."""
        json: bool = False
        """Print JSON instead of a table."""
        out: Path | None = None
        """File to write the table to, as CSV."""

    settings = parse(Findings, argv, "probe findings")

    from probe.commands.progress import Progress
    from probe.findings.claim import Bench, read_record, record, table
    from probe.findings.claims import choose_claims, finding
    from probe.plotting.csv_text import to_csv
    from probe.runs.schema import jsonable
    from probe.runs.storage import check_folder, disk
    from probe.ticks import part

    if settings.n is not None and settings.n < 1:
        raise ConfigError(f"--n is {settings.n}; expected 1 or more.")
    if settings.out is not None:
        check_folder(settings.out.parent)
        if settings.out.is_dir():
            raise ConfigError(f"--out `{settings.out}` is a folder: give the path of a CSV file.")
    claims = choose_claims(settings.only)
    bench = Bench(settings.runs, n=settings.n, again=settings.again)
    check_runs(bench, claims)
    by_name = {} if settings.again or settings.n is not None else read_record(bench, claims)
    with Progress("Findings") as bar:
        for index, claim in enumerate(claims):
            if bench.lacks(claim, by_name.get(claim.name)):
                bar.at(claim.name, index + 1, len(claims))
                bench.tick = part(bar.tick, index, len(claims))
                bench.tick(0.0)
                by_name[claim.name] = finding(bench, claim)
                if settings.n is None:  # what is on record was asked in full
                    record(bench, [claim], [by_name[claim.name]])
    results = [by_name[claim.name] for claim in claims]
    frame = table(results)
    if settings.out is not None:
        with disk(settings.out):
            settings.out.parent.mkdir(parents=True, exist_ok=True)
            settings.out.write_text(to_csv(frame), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in frame.astype(object).to_dict("records")
    ]
    if settings.json:
        say(json.dumps(jsonable(rows), indent=2))
    else:
        show(draw_table(results), rows)
    verdicts = [each for each in results if each.holds is not None]
    if not verdicts:
        raise RunError(f"None of the claims could be measured: {results[0].said}")
    if not settings.json:
        missing = len(results) - len(verdicts)
        rest = f"; {missing} {'was' if missing == 1 else 'were'} not measured" if missing else ""
        remark(f"{sum(bool(each.holds) for each in verdicts)} of {len(verdicts)} claims hold on these runs{rest}.")
    return 0


def check_runs(bench: "Bench", claims: "Sequence[Claim]") -> None:
    """Refuse to measure where nothing can be measured.

    Raises:
        RunError: the folder of the runs is none, or each claim lacks a run.
    """
    from probe.runs import roots

    if bench.root is not None and not bench.root.is_dir():
        raise RunError(f"`{bench.root}` is not a folder: give one that holds run directories.")
    absent = [bench.missing(claim.runs) for claim in claims]
    if all(absent):
        places = ", ".join(f"`{place}`" for place in ([bench.root] if bench.root else roots())) or "any folder of runs"
        lacks = ", ".join(dict.fromkeys(name for names in absent for name in names))
        raise RunError(
            f"No claim can be measured on the runs in {places}, which lack {lacks}: name the folder of the sample runs"
            " with --runs, or make them with `probe samples`."
        )


def draw_table(results: "list[Finding]") -> "Table":
    """The table for a terminal."""
    drawing = grid("Findings")
    drawing.leading = 1
    for name in ("claim", "effect", "value [95 %]", "holds here"):
        drawing.add_column(name, no_wrap=name in ("value [95 %]", "holds here"))
    colours = {"holds": "green", "does not hold": "red", "not measured": "yellow"}
    for each in results:
        value = "" if each.value is None else each.number
        said = f"{each.said} {each.over_trainings}".strip()
        claim = f"[bold]{safe(each.sentence)}[/bold]\n{safe(said)}\n[dim]{safe(each.source)}[/dim]"
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]"
        drawing.add_row(claim, safe(each.effect), value.replace("[", "\\["), verdict)
    return drawing
