"""Simulated coverage of t intervals over trainings; `python -m probe.seeds.coverage` repeats the simulation.

A training's rate is the mean of all trainings plus an effect of its seed: normal, none, skewed (exponential: a few
trainings deviate strongly), or collapsing (one training in five ends 50 percentage points lower). Trainings that are
apart (`probe.seeds.t_intervals.are_apart`) are listed and get no interval; `covered` counts the other simulations. Each
training answers `ANSWERS` questions, each right with the training's rate, so that its mean has binomial noise too, as
the stored results have. A difference is between models and the bases that they start from: the effect of the base is in
both, that of the further training in the models alone. The results are in `coverage.tsv` in this folder.
"""

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from probe.seeds.t_intervals import are_apart, half_widths

if TYPE_CHECKING:
    from probe.seeds.grouping import Group

Effect = Literal["normal", "zero", "skewed", "collapsing"]
"""Distribution of the seed's effect on a training's rate."""
Estimate = Literal["mean", "difference"]
SEEDS = (3, 5, 10)
SIMULATIONS = 2000
"""Simulations per condition; they estimate a coverage of 95 % to within 1 percentage point."""
ANSWERS = 400
"""Questions that each training answers."""
RATE, OTHER, SPREAD = 0.6, 0.4, 0.06
"""Mean rates of models and of their bases, and the standard deviation of a seed's effect."""
COLLAPSE, DEPTH = 0.2, 0.5
"""Share of trainings that collapse, and the drop of their rate; the others have a third of the usual spread."""
NOISE = 2 * 1.96 * math.sqrt(RATE * (1 - RATE) / ANSWERS)
"""Width of an interval over one training's answers."""
SOUND = (0.93, 0.97)
"""Range of coverage that counts as the nominal 95 %; readers are warned about coverage outside it."""
FILE = "coverage.tsv"


@dataclass(frozen=True)
class SimulatedCoverage:
    """Coverage of intervals in one simulated condition."""

    estimate: str
    effect: str
    seeds: int
    covered: float
    """Share of the intervals that cover the truth."""
    listed: float
    """Share of the simulations whose trainings are listed as apart and get no interval."""
    found: float
    """Share listed among simulations in which some but not all trainings collapsed; NaN without collapse."""
    simulations: int


def simulate(
    effect: Effect, seeds: int, estimate: Estimate = "mean", simulations: int = SIMULATIONS
) -> SimulatedCoverage:
    """Simulate the coverage of 95 % t intervals over trainings.

    Args:
        effect: distribution of the seed's effect on a training's rate.
        seeds: number of trainings, or of pairs.
        estimate: the mean of one method, or its paired difference to the bases.
        simulations: number of simulated intervals.
    """
    rng = np.random.default_rng([seeds, simulations, get_args(Effect).index(effect)])
    shape = seeds, simulations
    effects, collapsed = _effects(rng, effect, shape)
    values, truth = _answer(rng, RATE + effects), RATE
    if estimate == "difference":
        base = SPREAD * rng.normal(size=shape) if effect == "collapsing" else _effects(rng, effect, shape)[0]
        effects, collapsed = _effects(rng, effect, shape)
        values, truth = _answer(rng, RATE + base + effects), RATE - OTHER
        values -= _answer(rng, OTHER + base)
    listed = np.array([are_apart(each, NOISE) for each in values.T])
    covered = (np.abs(values.mean(axis=0) - truth) <= half_widths(values))[~listed]
    mixed = (collapsed.any(axis=0)) & ~collapsed.all(axis=0)
    found = listed[mixed].mean() if mixed.any() else math.nan
    held, told, mixed_told = (round(float(each), 4) for each in (covered.mean(), listed.mean(), found))
    return SimulatedCoverage(estimate, effect, seeds, held, told, mixed_told, simulations)


def _effects(
    rng: np.random.Generator, effect: Effect, shape: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw effects of seeds with mean 0 (standard deviation `SPREAD` without collapse), and mark collapsed seeds."""
    none = np.zeros(shape, dtype=bool)
    if effect == "collapsing":
        collapsed = rng.random(shape) < COLLAPSE
        return DEPTH * (COLLAPSE - collapsed) + SPREAD / 3 * rng.normal(size=shape), collapsed
    if effect == "zero":
        return np.zeros(shape), none
    return SPREAD * (rng.normal(size=shape) if effect == "normal" else rng.exponential(size=shape) - 1), none


def _answer(rng: np.random.Generator, rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draw the share of right answers of each training."""
    return rng.binomial(ANSWERS, np.clip(rates, 0, 1)) / ANSWERS


@lru_cache
def simulated() -> tuple[SimulatedCoverage, ...]:
    """Load the simulated coverages from `coverage.tsv`."""
    with (files("probe.seeds") / FILE).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return tuple(
        SimulatedCoverage(
            row["estimate"],
            row["effect"],
            int(row["seeds"]),
            float(row["covered"]),
            float(row["listed"]),
            float(row["found"]),
            int(row["simulations"]),
        )
        for row in rows
    )


def caution(count: int) -> str:
    """Warn if intervals over this many trainings cover more or less than 95 %; return an empty text if they do not.

    No interval accounts for collapses that none of the trainings shows; docs/seeds.md says so. For a number of
    trainings that was not simulated, the next smaller simulated one is used, or the smallest.
    """
    seeds = max((each for each in SEEDS if each <= count), default=SEEDS[0])
    known = [each for each in simulated() if each.seeds == seeds and each.effect != "collapsing"]
    odd = [each for each in known if not SOUND[0] <= each.covered <= SOUND[1]]
    if count < 2 or not odd:
        return ""
    cases = (f"{100 * each.covered:.1f} % of cases for a {each.estimate}" for each in odd)
    effects = " or ".join(dict.fromkeys(each.effect for each in odd))
    return (
        f"Where seeds have a {effects} effect, simulated intervals over {seeds} trainings held the truth in "
        f"{' and in '.join(cases)}, not in 95 %."
    )


def cautions(found: "Mapping[str, Group]") -> str:
    """Return the caveats for intervals over trainings of these groups; an empty text if there are none.

    Args:
        found: groups by display name.
    """
    several = {name: each for name, each in found.items() if each.count > 1}
    shared = [name for name, each in several.items() if each.shared]
    parts = [f"Seeds of {', '.join(shared)} start from one base, so nothing is known of other bases."] if shared else []
    return " ".join([*parts, *dict.fromkeys(filter(None, (caution(each.count) for each in several.values())))])


def write(rows: Iterable[SimulatedCoverage], path: Path) -> None:
    """Write the simulated coverages as a TSV table."""
    names = [each.name for each in fields(SimulatedCoverage)]
    lines = [names, *([str(value) for value in astuple(row)] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Simulate all conditions and write `coverage.tsv`."""
    kinds = [(e, f, k) for e in get_args(Estimate) for f in get_args(Effect) for k in SEEDS]
    write((simulate(effect, seeds, estimate) for estimate, effect, seeds in kinds), Path(__file__).with_name(FILE))


if __name__ == "__main__":
    main()
