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

        Prints the stored card. Methods of a --plugin are computed, on all bases with weights, and so is a --model.
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
        model: str | None = None
        """Score this model instead of the bases, on texts by templates: a reference to a model that reads English."""
        carry: bool = False
        """Show whether methods have the same order on the bases and on a model: SmolLM2, or that of --model."""
        out: Path | None = None
        """File of the rows of --run and of plugins (default: results/scorecard.tsv; of a --model with the first digits
        of its fingerprint in the name)."""
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
    card, problems, out = read_card(), list[str](), settings.out or WORK
    if settings.model or settings.carry:
        return show_model(settings.model, settings.out, chosen, settings.carry, settings.json)
    if settings.run or plugged:
        computed = [each for each in chosen if settings.run or each in plugged]
        outcome = compute(settings.runs, out, computed)
        fresh = {(row.family, row.method, row.truth, row.seed): row for row in (*card.rows, *outcome.rows)}
        card, problems = Card(tuple(fresh.values()), card.plan), list(outcome.problems)
    elif out.is_file():
        stored = {(row.family, row.method, row.truth, row.seed): row for row in card.rows}
        mine = read_card(read_rows(out)).rows
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


def show_model(ref: str | None, out: Path | None, chosen: "list[Method]", carry: bool, as_json: bool) -> int:
    """Show the card of a model without a world: computed, or of SmolLM2 as stored; or whether the order carries over.

    Raises:
        ConfigError: the model has a world.
        ModelError: the model cannot be loaded.
        DataError: its tokenizer splits the words of the texts; the file cannot be read.
    """
    from probe.runs.schema import jsonable
    from probe.scorecard.card import Card, read_card
    from probe.scorecard.carried_order import carried_order
    from probe.scorecard.plan_of_card import read_real_plan
    from probe.scorecard.stored_rows import SMOLLM2, shipped_rows

    plan, problems = read_real_plan(), tuple[str, ...]()
    if ref is None:
        card, name = read_card(shipped_rows(SMOLLM2), plan), "SmolLM2"
    else:
        outcome = compute_model(ref, out, chosen)
        card, name, problems = Card(outcome.rows, plan), Path(ref).name, outcome.problems
    order = carried_order(read_card(), card, name)
    if as_json:
        say(json.dumps(jsonable(order.to_dict() if carry else card.to_dict()), indent=2))
    else:
        table = order.truths if carry else card.table()
        rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
        show(draw_orders(rows) if carry else draw_table(rows), rows)
        remark(order.sentence())
    for line in problems:
        remark(line)
    return 0


def compute_model(ref: str, out: Path | None, chosen: "list[Method]") -> "Outcome":
    """Score methods on a model without a world, and keep the rows in a file."""
    import probe.world
    from probe.commands.progress import Progress
    from probe.errors import ConfigError
    from probe.model.lm import LM
    from probe.scorecard.method_scoring import score_methods
    from probe.scorecard.plan_of_card import read_real_plan
    from probe.scorecard.stored_rows import SMOLLM2, append, read_rows, shipped_rows

    lm, plan = LM.load(ref), read_real_plan()
    if probe.world.of(lm) is not None:
        raise ConfigError(f"`{ref}` has a world, on which more is known: leave out --model.")
    file = out or WORK.with_stem(f"{WORK.stem}-{lm.fingerprint[:12]}")
    known = [*shipped_rows(SMOLLM2), *read_rows(file)]
    models = dict.fromkeys(plan.seeds, lm)
    with Progress("Scorecard") as bar:
        return score_methods(models, chosen, known=known, keep=lambda row: append(file, row), plan=plan, tick=bar.tick)


def draw_orders(rows: list[dict[str, Any]]) -> "Table":
    """Draw the orders of methods on the bases and on a model for a terminal."""
    from probe.scorecard.carried_order import VERDICTS

    drawing = grid("Does it carry over?")
    drawing.add_column("family, truth", min_width=20)
    for name in ("order on the bases", "order on the model"):
        drawing.add_column(name, min_width=20)
    for name in ("tau", *VERDICTS.values()):
        drawing.add_column(name, justify="right")
    for row in rows:
        counts = (str(row[each]) for each in VERDICTS)
        orders = (safe(row[each]).replace(", ", "\n") for each in ("bases", "model"))
        drawing.add_row(f"[bold]{row['family']}: {row['truth']}[/]", *orders, f"{row['tau']:.2f}", *counts)
    return drawing


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
