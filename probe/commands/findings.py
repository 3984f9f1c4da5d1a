"""`probe findings`: ten published claims, measured on the sample runs, and whether each holds here."""

from typing import TYPE_CHECKING

from probe.commands.terminal import safe
from probe.options import parse

if TYPE_CHECKING:
    from rich.table import Table

    from probe.findings.claim import Finding


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
        """Folder that holds the runs (default: the run roots, among them the sample runs)."""
        n: int | None = None
        """Questions of each kind in experiments (default: their own numbers)."""
        again: bool = False
        """Measure anew what is on record beside the runs, and run experiments even if their results are stored."""
        json: bool = False
        """Print JSON instead of a table."""
        out: Path | None = None
        """File to write the table to, as CSV."""

    asked = parse(Findings, argv, "probe findings")

    from rich.console import Console

    from probe.findings.bench import Bench
    from probe.findings.claim import table
    from probe.findings.record import record, recorded
    from probe.findings.report import chosen, finding
    from probe.runs.schema import dumps

    claims = chosen(asked.only)
    bench, waiting = Bench(asked.runs, n=asked.n, again=asked.again), Console(stderr=True)
    known = {} if asked.again or asked.n is not None else recorded(bench, claims)
    for claim in claims:
        if claim.name not in known:
            with waiting.status(safe(f"{claim.name}: {claim.sentence}")):
                known[claim.name] = finding(bench, claim)
            if asked.n is None:  # what is on record was asked in full
                record(bench, [claim], [known[claim.name]])
    found = [known[claim.name] for claim in claims]
    frame = table(found)
    if asked.out is not None:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(asked.out, index=False)
    if asked.json:
        print(dumps(frame.astype(object).to_dict("records"), indent=2))
        return 0
    Console().print(drawn(found))
    measured = [each for each in found if each.holds is not None]
    print(f"{sum(bool(each.holds) for each in measured)} of {len(measured)} claims hold on these runs.")
    return 0


def drawn(found: "list[Finding]") -> "Table":
    """The table for a terminal."""
    from rich.table import Table

    from probe.plots.intervals import written

    made = Table(title="Findings", title_justify="left", show_lines=True)
    for name in ("claim", "effect", "value [95 %]", "holds here"):
        made.add_column(name, ratio={"claim": 5, "effect": 3}.get(name, 2))
    colours = {"holds": "green", "does not hold": "red", "not measured": "yellow"}
    for each in found:
        value = "" if each.value is None else written(each.value, each.ci_low, each.ci_high)
        claim = f"[bold]{safe(each.sentence)}[/bold]\n{safe(each.said)}\n[dim]{safe(each.source)}[/dim]"
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]"
        made.add_row(claim, safe(each.effect), value.replace("[", "\\["), verdict)
    return made
