"""The sample runs that the dashboard opens with, and the recipes that make them.

    probe samples                       # into ./sample_runs, under an hour on two CPU cores
    probe samples --steps-scale 0.05    # a quick rehearsal

A run that is finished stays as it is, one that was interrupted is resumed. A finished run is thinned for shipping:
few captures, the last checkpoint in half precision, nothing to resume from. Then experiments measure what the pages
show at once (`trainers.sample_results`).
"""

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe import Run, open_run, texts
from probe.errors import ConfigError, ProbeError
from probe.runs import thin
from probe.stats import Interval
from trainers.config import TrainConfig
from trainers.progress import say
from trainers.recipes import RECIPES, Name, Recipe
from trainers.sample_results import measure

MODELS = (
    ("known fact: right", "accuracy"),
    ("false claim: repeated", "deferral"),
    ("stranger: invents", "invention"),
    ("stranger: abstains", "abstention"),
    ("gold reward", "gold_reward"),
    ("KL to base, nats", "kl"),
)
"""Title and metric (docs/metrics.md) of the table of language models."""
REWARD_MODELS = (
    ("held-out pairs: right", "eval_accuracy"),
    ("false claim above the truth", "agreement_preferred"),
    ("probability that the claim wins", "agreement_probability"),
    ("the annotator's", "agreement_probability_annotator"),
    ("calibration error", "eval_ece"),
)
"""The same of reward models."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Make the sample runs: a base model, and what every method makes of it."""

    out: Path = Path("sample_runs")
    """Folder that the runs go to."""
    only: tuple[Name, ...] = ()
    """Runs to make; without it all of them."""
    steps_scale: float = 1.0
    """Multiplies the number of steps of every run; below 1 for a rehearsal."""
    force: bool = False
    """Make runs anew that are finished already."""
    experiments: bool = True
    """Measure what the dashboard's pages show at once, in the end."""
    threads: int = 1
    """CPU threads of torch: with 1 the bits hang on the kind of processor alone; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        if self.steps_scale <= 0:
            raise ConfigError(f"--steps-scale is {self.steps_scale}; expected a number above 0.")


def make(config: SamplesConfig) -> bool:
    """Make the sample runs one after the other; whether all were finished.

    Raises:
        ProbeError: a run failed.
    """
    chosen = [name for name in RECIPES if not config.only or name in config.only]
    started = time.monotonic()
    for number, name in enumerate(chosen, start=1):
        say(f"{name}: run {number} of {len(chosen)}, {(time.monotonic() - started) / 60:.0f} minutes so far")
        if not _make(name, RECIPES[name], config):
            return False
    say(f"all {len(chosen)} runs took {(time.monotonic() - started) / 60:.1f} minutes")
    for name in chosen if config.experiments else ():
        measure(config.out, name, again=config.force)
    texts.say(tables(config.out))
    return True


def tables(folder: Path) -> str:
    """The effects in the sample runs of a folder, as Markdown tables: values with their 95 % intervals."""
    runs = [open_run(folder / name) for name in RECIPES if (folder / name).is_dir()]
    judges = [run for run in runs if run.method == "reward-model"]
    speakers = [run for run in runs if run not in judges and "accuracy" in set(run.headline["metric"])]
    samplers = [run for run in runs if "gold/reward" in run.metrics()]
    return "\n\n".join((table(speakers, MODELS), table(judges, REWARD_MODELS), reward_shift(samplers)))


def reward_shift(runs: Sequence[Run], steps: int = 5) -> str:
    """Rewards of what each sampling run drew in its first and its last steps: its own reward against the verifier's."""
    lines = [["model", "own reward", "gold reward", "answers cut off"], ["---"] * 4]
    for run in runs:
        rows = run.metrics().dropna(subset=["reward"])
        ends = [rows.head(steps).mean(numeric_only=True), rows.tail(steps).mean(numeric_only=True)]
        names = ("reward", "gold/reward", "completions/clipped_ratio")
        lines.append([f"`{run.name}`", *(f"{ends[0][name]:.2f} → {ends[1][name]:.2f}" for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(runs: Sequence[Run], columns: Sequence[tuple[str, str]]) -> str:
    """One row a run, one column a metric."""
    lines = [["model", *(title for title, _ in columns)], ["---"] * (len(columns) + 1)]
    for run in runs:
        rows = run.headline.set_index("metric")
        cells = [rows.loc[metric] if metric in rows.index else None for _, metric in columns]
        shown = ["" if row is None else _interval(row).shown() for row in cells]
        lines.append([f"`{run.name}`", *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(row: Any) -> Interval:
    """The value of a row of headline figures, with its interval."""
    return Interval(float(row.value), float(row.ci_low), float(row.ci_high))


def _make(name: str, recipe: Recipe, config: SamplesConfig) -> bool:
    settings = scaled(recipe.config(config.out), config.steps_scale, config.threads)
    status = _status(settings.out)
    if status == "finished" and not config.force:
        say(f"{name}: finished already, kept as it is (--force makes it anew)")
        return True
    if config.force:
        shutil.rmtree(settings.out, ignore_errors=True)
        status = None
    say(f"{name}: {settings.steps:,} steps" + (", continued" if status else ""))
    run = recipe.train(dataclasses.replace(settings, resume=status is not None))
    if run.status != "finished":
        return False
    thin(run.path, keep=recipe.captures)
    for row in run.headline.itertuples():
        say(f"{name}: {row.metric} {_interval(row).shown(3)}, n = {row.n}")
    return True


def scaled(config: TrainConfig, scale: float, threads: int) -> TrainConfig:
    """The recipe with another number of steps."""
    steps = max(round(config.steps * scale), getattr(config, "phases", 1))
    return dataclasses.replace(config, steps=steps, warmup=min(config.warmup, steps // 10), threads=threads)


def _status(path: Path) -> str | None:
    try:
        return open_run(path).status if path.exists() and any(path.iterdir()) else None
    except ProbeError as error:
        raise ConfigError(
            f"`{path}` is in the way of a sample run ({error}): move it, or choose another --out."
        ) from error
