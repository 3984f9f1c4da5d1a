"""`probe findings`: tests published claims on the sample runs and their null controls."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.tables import grid, remark, safe, show
from probe.errors import ConfigError, RunError
from probe.options import parse
from probe.texts import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from probe.findings.bench import Bench
    from probe.findings.claim import Claim, Finding


def findings(argv: list[str]) -> int:
    """Test published claims on the sample runs: effect, interval, null control, and verdict."""
    import tyro

    @dataclass(frozen=True, kw_only=True)
    class Findings:
        """Test published claims about aligned models on the sample runs, and on null controls without the effect."""

        only: tyro.conf.Positional[tuple[str, ...]] = ()
        """Names of the claims to test; all by default."""
        runs: Path | None = None
        """Folder that holds the runs (default: the run directories, among them the sample runs)."""
        controls: Path | None = None
        """Folder of the control runs that `probe samples --controls` makes (default: the folder of the other runs)."""
        plan: bool = False
        """Print the criterion of each claim and the hash of the plan; measure nothing."""
        n: int | None = None
        """Number of questions of each kind in experiments (default: each experiment's own)."""
        again: bool = False
        """Measure again what is recorded next to the runs, and rerun experiments even if their results are stored."""
        json: bool = False
        """Print JSON instead of a table."""
        out: Path | None = None
        """File to write the table to, as CSV."""

    settings = parse(Findings, argv, "probe findings")

    from probe.commands.progress import Progress
    from probe.findings.bench import Bench
    from probe.findings.claim import judge, table
    from probe.findings.claims import CLAIMS, choose_claims, finding, lacks
    from probe.findings.ledger import read_record, record
    from probe.findings.verdicts import read_plan
    from probe.plotting.csv_text import to_csv
    from probe.runs.schema import jsonable
    from probe.runs.storage import check_folder, write_file
    from probe.ticks import part

    if settings.plan:
        if settings.json:
            say(json.dumps(read_plan().to_dict(), indent=2))
        else:
            say(read_plan().text.rstrip())
            say(f"# hash {read_plan().hash}")
        return 0
    if settings.n is not None and settings.n < 1:
        raise ConfigError(f"--n is {settings.n}; expected 1 or more.")
    if settings.out is not None:
        check_folder(settings.out.parent)
        if settings.out.is_dir():
            raise ConfigError(f"--out `{settings.out}` is a folder: give the path of a CSV file.")
    claims = choose_claims(settings.only)
    if settings.controls is not None and not settings.controls.is_dir():
        raise RunError(f"--controls `{settings.controls}` is not a folder: give one that holds run directories.")
    bench = Bench(settings.runs, n=settings.n, again=settings.again, controls=settings.controls)
    check_runs(bench, claims)
    by_name = {} if settings.n is not None else read_record(bench, CLAIMS)
    asked_anew = {claim.name for claim in claims} if settings.again else set()
    with Progress("Findings") as bar:
        for index, claim in enumerate(claims):
            known = by_name.get(claim.name)
            if known is None or claim.name in asked_anew or lacks(bench, claim, known):
                bar.at(claim.name, index + 1, len(claims))
                bench.tick = part(bar.tick, index, len(claims))
                bench.tick(0.0)
                by_name[claim.name] = finding(bench, claim)
                if settings.n is None:  # recorded findings have the full number of questions
                    record(bench, [claim], [by_name[claim.name]])
    judged = judge(by_name)
    results = [judged[claim.name] for claim in claims]
    frame = table(results)
    if settings.out is not None:
        write_file(settings.out, to_csv(frame).encode())
    rows: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in frame.astype(object).to_dict("records")
    ]
    if settings.json:
        say(json.dumps(jsonable(rows), indent=2))
    else:
        show(draw_table(results), rows)
    verdicts = [each for each in results if each.trainings]
    if not verdicts:
        raise RunError(f"None of the claims could be measured: {results[0].said}")
    if not settings.json:
        missing = len(results) - len(verdicts)
        rest = f"; {missing} {'was' if missing == 1 else 'were'} not measured" if missing else ""
        counts = Counter(each.verdict for each in verdicts)
        hold, fail, open_ = (counts[word] for word in ("holds", "fails", "undecided"))
        remark(f"Of {len(verdicts)} claims {hold} hold, {fail} fail and {open_} are undecided on these runs{rest}.")
    return 0


def check_runs(bench: "Bench", claims: "Sequence[Claim]") -> None:
    """Raise an error if no claim can be measured.

    Raises:
        RunError: the folder of the runs does not exist, or every claim lacks a run.
    """
    from probe.runs import roots

    if bench.root is not None and not bench.root.is_dir():
        raise RunError(f"`{bench.root}` is not a folder: give one that holds run directories.")
    absent = [bench.missing(claim.runs) for claim in claims if claim.runs]
    if absent and all(absent) and not any(claim.benches(bench) for claim in claims if not claim.runs):
        places = ", ".join(f"`{place}`" for place in ([bench.root] if bench.root else roots())) or "any run directory"
        lacks = ", ".join(dict.fromkeys(name for names in absent for name in names))
        raise RunError(
            f"No claim can be measured on the runs in {places}, which lack {lacks}: name the folder of the sample runs"
            " with --runs, or make them with `probe samples`."
        )


def draw_table(results: "list[Finding]") -> "Table":
    """Draw the table of findings for a terminal."""
    drawing = grid("Findings")
    drawing.leading = 1
    for name in ("claim", "seed 0 [95 %]", "over trainings", "null holds", "verdict"):
        drawing.add_column(name, no_wrap=name in ("null holds", "verdict"))
    colours = {"holds": "green", "fails": "red", "undecided": "yellow", "not measured": "yellow"}
    for each in results:
        told = " ".join(
            filter(None, (each.said, each.over_trainings, each.against_null if each.trainings else "", each.why))
        )
        claim = f"[bold]{safe(each.sentence)}[/bold]\n{safe(told)}\n[dim]{safe(each.source)}; {safe(each.effect)}[/dim]"
        null = f"{each.null.holds} of {each.null.repetitions}" if each.null.repetitions else "unknown"
        verdict = f"[{colours[each.verdict]}]{each.verdict}[/]"
        values = (each.number, each.mean_number if each.trainings else "", null)
        drawing.add_row(claim, *(safe(value).replace("[", "\\[") for value in values), verdict)
    return drawing
