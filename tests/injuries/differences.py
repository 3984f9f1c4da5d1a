"""What an injury does to the metrics, against the healthy runs of the same seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from probe import open_run
from tests.injuries.injury import Injury

CLOCK = ("step", "time", "step_time", "tokens_per_second", "num_tokens")
AT = 5
"""Steps from the injury on that count as its beginning."""


class Difference(NamedTuple):
    """A metric of a window of steps, over seeds."""

    metric: str
    healthy: float
    healthy_sd: float
    injured: float
    injured_sd: float

    @property
    def deviations(self) -> float:
        """Difference in standard deviations of the healthy runs over seeds; infinite if these are all equal."""
        gap = self.injured - self.healthy
        return float(gap / self.healthy_sd) if self.healthy_sd else float(np.sign(gap) * np.inf if gap else 0.0)


def means(run: Path, first: int, last: int) -> pd.Series:
    """Return the means of all metrics over the steps from `first` to `last`; those not measured then are left out."""
    rows = open_run(run).metrics()
    rows = rows[(rows["step"] >= first) & (rows["step"] <= last)]
    return rows.drop(columns=list(CLOCK), errors="ignore").mean(numeric_only=True).dropna()


def differences(injured: Sequence[Path], healthy: Sequence[Path], first: int, last: int) -> list[Difference]:
    """Return the differences in all metrics that both have, over seeds, in a window of steps."""
    sick, sound = (pd.DataFrame([means(run, first, last) for run in runs]) for runs in (injured, healthy))
    spread = (lambda column: float(column.std(ddof=1))) if len(sound) > 1 else (lambda column: float("nan"))
    return [
        Difference(name, float(sound[name].mean()), spread(sound[name]), float(sick[name].mean()), spread(sick[name]))
        for name in sound
        if name in sick
    ]


def steps_of(run: Path) -> int:
    """Return the number of steps that a run was to have."""
    return int(json.loads((run / "run.json").read_text())["config"]["steps"])


def windows(injury: Injury, steps: int) -> dict[str, tuple[int, int]]:
    """Return the first and last step of the windows: at the injury, and the last quarter of the training."""
    return {
        "at the injury": (injury.step, min(injury.step + AT - 1, steps)),
        "last quarter": (steps - steps // 4 + 1, steps),
    }


def takes(injury: Injury, found: Sequence[Difference]) -> dict[str, bool]:
    """Return for each metric of `shows` whether it left the healthy ones by two standard deviations or more."""
    values = {each.metric: each for each in found}
    return {name: name in values and (sign * values[name].deviations >= 2) for name, sign in injury.shows.items()}


def summary(injury: Injury, injured: Sequence[Path], healthy: Sequence[Path]) -> str:
    """Return one row of the table of all injuries: whether the metrics that should show the harm do by the end."""
    first, last = windows(injury, steps_of(injured[0]))["last quarter"]
    found = {each.metric: each for each in differences(injured, healthy, first, last)}
    taken = takes(injury, list(found.values()))
    shown = [_shown(found[name], yes) if name in found else f"{name} not measured" for name, yes in taken.items()]
    runs = [open_run(run) for run in injured]
    shown += [f"{run.status} after step {run.metrics()['step'].max()}" for run in runs if run.status != "finished"]
    cells = injury.fault, injury.name, injury.recipe, injury.step, len(injured), "; ".join(shown)
    return f"| {' | '.join(map(str, cells))} |"


def _shown(each: Difference, yes: bool) -> str:
    sd = "" if np.isnan(each.healthy_sd) else f" ({each.deviations:+.1f}{'' if yes else ', no'})"
    return f"{each.metric} {each.healthy:.3g} → {each.injured:.3g}{sd}"


def chapter(injury: Injury, injured: Sequence[Path], healthy: Sequence[Path]) -> str:
    """Return the text about an injury: what it is, and the tables of its windows."""
    steps = steps_of(injured[0])
    lines = [
        f"## {injury.name} ({injury.fault}; recipe {injury.recipe}, from step {injury.step} of {steps})",
        injury.about,
    ]
    for title, (first, last) in windows(injury, steps).items():
        found = differences(injured, healthy, first, last)
        if not found:
            continue
        lines += [f"{title} (steps {first} to {last}, {len(injured)} seeds):", tabulate(found), ""]
    return "\n".join(lines)


def tabulate(found: Sequence[Difference]) -> str:
    """Return differences as a table, the largest in standard deviations first."""
    order = sorted(found, key=lambda each: -abs(np.nan_to_num(each.deviations)))
    rows: list[list[Any]] = [["metric", "healthy", "sd", "injured", "sd", "in healthy sd"]]
    for each in order:
        rows.append([each.metric, *(f"{value:.4g}" for value in each[1:]), f"{each.deviations:+.1f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
