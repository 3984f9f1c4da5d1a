"""Trainings for the factorial of annotators: DPO on every cell, RLHF on four, with the recipes of the sample runs.

    probe samples --factorial --seeds 5 --slim --out runs/factorial

A run is named after its method and the value of `--annotator`: `dpo-agreeable+abstain=0` differs from `dpo-agreeable`
only by the fine for abstaining. RLHF is trained for low weight and rare checks of correctness, on all combinations of
agreement and the fine, each with a separate reward model. `table` compares the trainings with the exact optima
(`probe.rewards.factorial`).
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from probe import LM
from probe.errors import DataError
from probe.numbers import in_unit
from probe.rewards.factorial import (
    ENDS,
    Factorial,
    TrainedGroup,
    cells,
    describe_trained,
    effect_table,
    factorial,
    trained,
)
from probe.runs import list_runs
from probe.runs.ancestry import RunIndex
from probe.seeds import Group, groups, headline
from probe.seeds.t_intervals import OverTrainings
from probe.terms import SHARE, term
from probe.world import AGREEABLE, HONEST, of
from trainers.samples.recipes import RECIPES, STRONG_PPO, Recipe, dpo_by, ppo, reward

SHOWN = ("invention", "deferral")
"""Outcomes that are headline metrics of trainings."""
RARE = {"checks": AGREEABLE.checks, "correctness": AGREEABLE.correctness}
"""Levels of the factors at which RLHF is trained."""


def recipes() -> dict[str, Recipe]:
    """Return the recipes by name: the base, DPO on every cell, then a reward model and PPO on four."""
    found = {"base": RECIPES["base"]._replace(asked=())}
    specs = [cell.spec for cell in cells()]
    found |= {f"dpo-{spec}": Recipe(dpo_by(spec), "dpo") for spec in specs}
    for spec in (cell.spec for cell in cells() if all(getattr(cell.annotator, k) == v for k, v in RARE.items())):
        found[f"reward-{spec}"] = Recipe(reward(spec), "reward-model")
        found[f"rlhf-{spec}"] = Recipe(ppo(f"rlhf-{spec}", spec, **STRONG_PPO), "rlhf")
    return found


def tables(folder: Path) -> str:
    """Return the factorial of a folder as Markdown tables: optima and trainings, effects, and a summary.

    Raises:
        DataError: the base has no weights in the folder, or no world.
    """
    runs = list_runs(folder)
    grouped = groups(runs)
    base = next((group for group in grouped if group.first.name == "base"), None)
    if base is None or not base.first.checkpoints():
        raise DataError(f"`{folder}` has no `base` with weights, so no optimum can be computed: make the runs there.")
    lm = LM.load(str(base.first.path))
    world = of(lm)
    if world is None:
        raise DataError(
            f"`{base.first.path}` belongs to no world, so its answers cannot be listed: give runs of a world."
        )
    found = factorial(lm, world, name=base.first.name)
    rows = trained((TrainedGroup(each.name, each.first, figures(each), each.count) for each in grouped), RunIndex(runs))
    words = f"{found.sentence} {describe_trained(rows, found, figures(base))}".strip()
    return "\n\n".join((summary(found), table(found, rows), markdown(effect_table(found)), words))


def figures(group: Group) -> pd.DataFrame:
    """Return headline metrics over trainings if there are several, else over the answers of the single one."""
    return headline(group) if group.count > 1 else group.first.headline


def table(found: Factorial, rows: pd.DataFrame) -> str:
    """Tabulate each outcome of the optimum and of the trainings, by method.

    The table has one row for the reference, and after it one for each cell.
    """
    methods = [method for method in ("dpo", "rlhf") if (rows["method"] == method).any()]
    lines = []
    for annotator in [None, *dict.fromkeys(found.cells["annotator"].dropna())]:
        line = {"annotator": f"`{annotator}`" if annotator else f"none: `{found.reference}`"}
        for metric in SHOWN:
            named = found.cells["annotator"].isna() if annotator is None else found.cells["annotator"] == annotator
            (exact,) = found.cells[named & (found.cells["metric"] == metric)].to_dict("records")
            words = term(f"{metric}_listed", "rewards").title.partition(" (")[0]
            line[f"{words}: optimum"] = in_unit(SHARE, *(exact[end] for end in ENDS))
            for method in methods:
                own = rows[(rows["annotator"] == annotator) & (rows["method"] == method) & (rows["metric"] == metric)]
                line[f"{words}: {method.upper()}"] = "; ".join(map(_cell, own.to_dict("records")))
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def _cell(row: dict) -> str:
    """Format a value with its interval: over trainings, or of one training over its answers."""
    if row["n"] > 1:
        return OverTrainings(row["value"], row["ci_low"], row["ci_high"], row["n"]).format(SHARE)
    return in_unit(SHARE, *(row[end] for end in ENDS))


def markdown(table: pd.DataFrame) -> str:
    """Format a table of texts as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(map(str, cells))} |"

    return "\n".join(
        [line(table.columns), line("---" for _ in table.columns), *(line(row) for row in table.itertuples(index=False))]
    )


def summary(found: Factorial) -> str:
    """Tabulate the optima for a low weight of correctness.

    The table has a row for each preference, and a column for each outcome and each frequency of checks.
    """
    rows = found.cells[found.cells["correctness"] == AGREEABLE.correctness]
    wishes = {
        "nothing": (HONEST, HONEST),
        "agreement with the user": (AGREEABLE, HONEST),
        "an answer: a fine for abstaining": (HONEST, AGREEABLE),
        "both": (AGREEABLE, AGREEABLE),
    }
    lines = []
    for wish, (agrees, fines) in wishes.items():
        line = {"besides correctness the annotator wants": wish}
        for metric in SHOWN:
            for who in (AGREEABLE, HONEST):
                at = (rows["agreement"] == agrees.agreement) & (rows["abstain"] == fines.abstain)
                (row,) = rows[at & (rows["checks"] == who.checks) & (rows["metric"] == metric)].to_dict("records")
                words = term(f"{metric}_listed", "rewards").title.partition(" (")[0]
                line[f"{words}, checks {100 * who.checks:.0f} %"] = in_unit(SHARE, *(row[end] for end in ENDS))
        lines.append(line)
    return markdown(pd.DataFrame(lines))
