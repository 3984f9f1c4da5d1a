"""`probe scorecard`: methods that look inside a model against what is known of it, on the bases of five seeds."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probe.commands.tables import grid, remark, safe, show
from probe.options import parse
from probe.plugins import split, take
from probe.texts import say

if TYPE_CHECKING:
    from rich.table import Table

    from probe.scorecard.method_record import Method
    from probe.scorecard.method_scoring import Outcome

WORK = Path("results/scorecard.tsv")
"""File of the rows of one's own runs, in the working directory."""


def scorecard(argv: list[str]) -> int:
    """Score methods that look inside a model against what is known of it: floor, ceiling, baseline, cost."""

    @dataclass(frozen=True, kw_only=True)
    class Scorecard:
        """Score methods that look inside a model against what is known of it, over the bases of five seeds.

        Prints the stored card. Methods of a --plugin are computed, on all bases with weights.
        """

        method: tuple[str, ...] = ()
        """Names of methods to show; all by default."""
        family: str | None = None
        """Name of the family to show; all by default."""
        run: bool = False
        """Compute what is not stored yet; a run that was stopped goes on."""
        runs: Path | None = None
        """Folder of the bases `base`, `base-seed1`, ... (default: the run directories), which
        `probe samples --only base --seeds 5` makes."""
        out: Path = WORK
        """File of the rows of --run and of plugins."""
        plan: bool = False
        """Print the plan: methods, truths, scores, numbers of texts and thresholds; compute nothing."""
        json: bool = False
        """Print JSON instead of a table."""

    files, _ = split(argv)
    settings = parse(Scorecard, take(argv), "probe scorecard")

    from probe.plugins import BUILT_IN
    from probe.runs.schema import jsonable
    from probe.scorecard.card import Card, read_card
    from probe.scorecard.catalogue_of_methods import find_family, find_methods, methods
    from probe.scorecard.plan_of_card import departures, read_plan
    from probe.scorecard.stored_rows import read_rows

    if settings.plan:
        say(json.dumps(dict(read_plan().parts), indent=2) if settings.json else read_plan().text.rstrip())
        for line in departures(read_plan()):
            remark(line)
        return 0
    family = find_family(settings.family).name if settings.family else None
    for name in settings.method:
        find_methods(name)
    own = {str(Path(each).expanduser().resolve()) for each in files}
    plugged = [each for each in methods() if each.origin in own and family in (None, each.family)]
    chosen = [
        each
        for each in methods()
        if family in (None, each.family) and (not settings.method or each.name in settings.method)
    ]
    card, problems = read_card(), list[str]()
    if settings.run or plugged:
        computed = [each for each in chosen if settings.run or each in plugged]
        outcome = compute(settings.runs, settings.out, computed)
        fresh = {(row.family, row.method, row.truth, row.seed): row for row in (*card.rows, *outcome.rows)}
        card, problems = Card(tuple(fresh.values()), card.plan), list(outcome.problems)
    elif settings.out.is_file():
        stored = {(row.family, row.method, row.truth, row.seed): row for row in card.rows}
        mine = read_card(read_rows(settings.out)).rows
        builtin = {(each.family, each.name) for each in methods() if each.origin == BUILT_IN}
        stored |= {
            (row.family, row.method, row.truth, row.seed): row
            for row in mine
            if (row.family, row.method) in builtin or row.method in settings.method
        }
        card = Card(tuple(stored.values()), card.plan)
    names = [*settings.method, *(each.name for each in plugged if not settings.method)]
    card = card.only(family, names or None)
    if settings.json:
        say(json.dumps(jsonable(card.to_dict()), indent=2))
    else:
        table = card.table()
        rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        show(draw_table(rows), rows)
        remark(f"Scorecard {card.plan.version}. {card.sentence()}")
    for line in [*problems, *departures(read_plan())]:
        remark(line)
    return 0


def compute(folder: Path | None, out: Path, chosen: "list[Method]") -> "Outcome":
    """Score methods on all bases with weights, and keep the rows in a file.

    Raises:
        RunError: there is no base with weights.
        DataError: the file cannot be read or written.
    """
    from probe.commands.progress import Progress
    from probe.scorecard.method_scoring import find_bases, name_of, score_methods
    from probe.scorecard.plan_of_card import read_plan
    from probe.scorecard.stored_rows import append, read_rows, shipped_rows

    seeds = read_plan().seeds
    bases = find_bases(folder, seeds)
    missing = [name_of(seed) for seed in seeds if seed not in bases]
    if missing:
        remark(f"Not scored, because they have no weights here: {', '.join(missing)}.")
    known = [*shipped_rows(), *read_rows(out)]
    with Progress("Scorecard") as bar:
        return score_methods(bases, chosen, known=known, keep=lambda row: append(out, row), tick=bar.tick)


def draw_table(rows: list[dict[str, Any]]) -> "Table":
    """Draw the rows of a card for a terminal."""
    from probe.scorecard.card import VERDICTS, told

    drawing = grid("Scorecard")
    drawing.add_column("family, truth, measure", min_width=20)
    drawing.add_column("method", min_width=14)
    for name in ("score [95 %]", "floor", "ceiling", "baseline", "seconds"):
        drawing.add_column(name, justify="right", no_wrap=True)
    drawing.add_column("verdict")
    last = None
    for row in rows:
        place = row["family"], row["truth"]
        head = "" if place == last else f"[bold]{row['family']}: {row['truth']}[/] ({row['measure']})"
        if last is not None and place != last:
            drawing.add_section()
        last = place
        numbers = (f"{row[each]:.2f}" if row[each] == row[each] else "" for each in ("floor", "ceiling", "baseline"))
        score = safe(told(row)).replace("[", "\\[")
        drawing.add_row(
            head, safe(row["title"]), score, *numbers, f"{row['seconds']:.1f}", VERDICTS.get(row["verdict"], "")
        )
    return drawing
