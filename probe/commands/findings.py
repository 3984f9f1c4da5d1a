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

    asked = parse(Findings, argv, "probe findings")

    from probe.commands.progress import Progress
    from probe.findings.claim import Bench, read_record, record, table
    from probe.findings.claims import choose_claims, finding
    from probe.runs.schema import jsonable
    from probe.runs.storage import check_folder, disk
    from probe.ticks import part

    if asked.n is not None and asked.n < 1:
        raise ConfigError(f"--n is {asked.n}; expected 1 or more.")
    if asked.out is not None:
        check_folder(asked.out.parent)
        if asked.out.is_dir():
            raise ConfigError(f"--out `{asked.out}` is a folder: give the path of a CSV file.")
    claims = choose_claims(asked.only)
    bench = Bench(asked.runs, n=asked.n, again=asked.again)
    check_runs(bench, claims)
    known = {} if asked.again or asked.n is not None else read_record(bench, claims)
    with Progress("Findings") as bar:
        for index, claim in enumerate(claims):
            if claim.name not in known:
                bar.at(claim.name, index + 1, len(claims))
                bench.tick = part(bar.tick, index, len(claims))
                bench.tick(0.0)
                known[claim.name] = finding(bench, claim)
                if asked.n is None:  # what is on record was asked in full
                    record(bench, [claim], [known[claim.name]])
    found = [known[claim.name] for claim in claims]
    frame = table(found)
    if asked.out is not None:
        with disk(asked.out):
            asked.out.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(asked.out, index=False)
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in frame.astype(object).to_dict("records")
    ]
    if asked.json:
        say(json.dumps(jsonable(rows), indent=2))
    else:
        show(draw_table(found), rows)
    measured = [each for each in found if each.holds is not None]
    if not measured:
        raise RunError(f"None of the claims could be measured: {found[0].said}")
    if not asked.json:
        left = len(found) - len(measured)
        rest = f"; {left} {'was' if left == 1 else 'were'} not measured" if left else ""
        remark(f"{sum(bool(each.holds) for each in measured)} of {len(measured)} claims hold on these runs{rest}.")
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
        needed = ", ".join(dict.fromkeys(name for names in absent for name in names))
        raise RunError(
            f"No claim can be measured on the runs in {places}, which lack {needed}: name the folder of the sample runs"
            " with --runs, or make them with `probe samples`."
        )


def draw_table(found: "list[Finding]") -> "Table":
    """The table for a terminal."""
    from probe.plotting.intervals import format_interval

    made = grid("Findings")
    made.leading = 1
    for name in ("claim", "effect", "value [95 %]", "holds here"):
        made.add_column(name, no_wrap=name in ("value [95 %]", "holds here"))
    colours = {"holds": "green", "does not hold": "red", "not measured": "yellow"}
    for each in found:
        value = "" if each.value is None else format_interval(each.value, each.ci_low, each.ci_high)
        claim = f"[bold]{safe(each.sentence)}[/bold]\n{safe(each.said)}\n[dim]{safe(each.source)}[/dim]"
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]"
        made.add_row(claim, safe(each.effect), value.replace("[", "\\["), verdict)
    return made
