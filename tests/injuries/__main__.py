"""Injured trainings and healthy ones: `python -m tests.injuries [NAME ...] --out FOLDER [--score FILE]`.

Those of SmolLM2, by Probe's trainers and by TRL, need `make real-model`; without it they are left out by default.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from probe.diagnosis.score import as_text, try_run
from tests.injuries import by_trl, smollm2
from tests.injuries.differences import chapter, summary
from tests.injuries.given import INJURIES as GIVEN
from tests.injuries.injury import Injury, kind_of
from tests.injuries.sampled import INJURIES as SAMPLED
from tests.injuries.shortened import injure, keep_healthy, shortened

WORLD = {injury.name: injury for injury in (*SAMPLED, *GIVEN)}
REAL = {injury.name: injury for injury in (*smollm2.INJURIES, *by_trl.INJURIES)}
INJURIES = WORLD | REAL
HEALTHY = (*smollm2.RECIPES, *by_trl.RECIPES)
"""Recipes that may be named, for their healthy runs alone."""
ABSENT = f"There is no `{smollm2.SMOLLM2}`: `make real-model` writes it."
SAMPLES = Path("sample_runs")
HEAD = """Beside each run lies a file with its fault (null: healthy) and the first injured step.

The first table has the metrics that should show the harm, as means over the last quarter of the steps: healthy →
injured, and the difference in standard deviations of the healthy runs over seeds, if there are two or more; `no` marks
less than two, or the other direction. The chapters have all metrics.

| fault | injury | recipe | step | seeds | healthy → injured (standard deviations) |
|---|---|---|---|---|---|"""


def run(arguments: list[str]) -> int:
    """Train what is named and the healthy runs of its recipes, and write what differs to README.txt."""
    parser = argparse.ArgumentParser(prog="python -m tests.injuries", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="injuries, faults or recipes; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; those in it are kept")
    parser.add_argument("--score", type=Path, help="file to write the diagnosis of all runs of the folder to")
    given = parser.parse_args(arguments)
    present = smollm2.SMOLLM2.is_dir()
    known = INJURIES if present else WORLD
    chosen = [each for each in known.values() if not given.names or {each.name, each.fault} & {*given.names}]
    alone = [each for each in HEALTHY if present and (each in given.names if given.names else True)]
    names = {*INJURIES, *HEALTHY, *(each.fault for each in INJURIES.values())}
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"{' '.join(unknown)}: expected some of {', '.join((*INJURIES, *HEALTHY))}, or their faults.")
    if not present and {*given.names} & {*REAL, *HEALTHY}:
        parser.error(ABSENT)
    if not present and not given.names:
        print(f"Only injuries of the world are trained. {ABSENT}", file=sys.stderr)
    for seed in given.seeds:
        for recipe in dict.fromkeys([*(injury.recipe for injury in chosen), *alone]):
            _train(given.out, recipe, None, seed)
        for injury in chosen:
            _train(given.out, injury.recipe, injury, seed)
            write(given.out, chosen, given.seeds)
    if given.score is not None:
        truths = sorted(given.out.glob("*.json"))
        given.score.write_text(as_text(try_run(truth.with_suffix("")) for truth in truths))
    return 0


def _train(folder: Path, recipe: str, injury: Injury | None, seed: int) -> None:
    """Train with or without an injury, unless that was done before."""
    out = folder / f"{injury.name if injury else f'healthy-{recipe}'}-seed{seed}"
    if out.with_name(f"{out.name}.json").exists():
        return
    start, kind = time.monotonic(), kind_of(recipe)
    if kind == "TRL":
        by_trl.train(recipe, injury, out, seed)
    elif injury:
        injure(injury, shortened(recipe, SAMPLES if kind == "world" else folder, out, seed))
    else:
        keep_healthy(recipe, shortened(recipe, SAMPLES if kind == "world" else folder, out, seed))
    print(f"{out.name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def write(folder: Path, chosen: Sequence[Injury], seeds: Sequence[int]) -> None:
    """Write README.txt: all injuries of which there are runs in a table, and a chapter for each."""
    rows, chapters = [], []
    for injury in chosen:
        pairs = [(folder / f"{injury.name}-seed{s}", folder / f"healthy-{injury.recipe}-seed{s}") for s in seeds]
        done = [pair for pair in pairs if all(run.with_name(f"{run.name}.json").exists() for run in pair)]
        if done:
            injured, healthy = zip(*done, strict=True)
            rows.append(summary(injury, injured, healthy))
            chapters.append(chapter(injury, injured, healthy))
    (folder / "README.txt").write_text("\n".join([HEAD, *rows, "", *chapters]))


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
