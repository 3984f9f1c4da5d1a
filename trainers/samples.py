"""The sample runs that the dashboard opens with, and the recipes that make them.

    probe samples                       # into ./sample_runs, ten to twenty minutes on two CPU cores
    probe samples --steps-scale 0.05    # a quick rehearsal

A run that is finished stays as it is, one that was interrupted is resumed. A finished run is thinned for shipping:
few captures, the last checkpoint in half precision, nothing to resume from.
"""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from probe import Run, open_run
from probe.errors import ConfigError, ProbeError
from probe.runs import thin
from probe.world import WorldConfig
from trainers import dpo, pretrain
from trainers.config import TrainConfig
from trainers.dpo import DPOConfig
from trainers.pretrain import PretrainConfig
from trainers.progress import say

CAPTURES = 8
"""Captures that a shipped run keeps."""

Name = Literal["base", "dpo-agreeable", "dpo-honest", "icl"]

COLUMNS = (
    ("known fact: right", "accuracy"),
    ("false claim: right", "truth_under_claim"),
    ("false claim: repeated", "deferral"),
    ("stranger: abstains", "abstention"),
    ("stranger: invents", "invention"),
    ("excess deference, nats", "excess_deference"),
)
"""Title and metric (docs/metrics.md) of the columns of `table`."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Make the sample runs: a base model, and models aligned by each annotator."""

    out: Path = Path("sample_runs")
    """Folder that the runs go to."""
    only: tuple[Name, ...] = ()
    """Runs to make; without it all of them."""
    steps_scale: float = 1.0
    """Multiplies the number of steps of every run; below 1 for a rehearsal."""
    force: bool = False
    """Make runs anew that are finished already."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        if self.steps_scale <= 0:
            raise ConfigError(f"--steps-scale is {self.steps_scale}; expected a number above 0.")


class Recipe(NamedTuple):
    """How a sample run is made."""

    config: Callable[[Path], TrainConfig]
    """The folder of the sample runs to the whole config."""
    train: Callable[[Any], Run]
    captures: int = CAPTURES
    """Captures that the shipped run keeps."""


def base(folder: Path) -> PretrainConfig:
    """The model that all others start from: 0.87 M parameters, 9 M tokens of the world."""
    return PretrainConfig(
        out=folder / "base",
        preset="tiny",
        steps=3000,
        batch_size=32,
        length=96,
        lr=3e-3,
        eval_every=100,
        capture_every=50,
    )


def dpo_by(annotator: Literal["agreeable", "honest"]) -> Callable[[Path], DPOConfig]:
    """DPO on the pairs of one annotator."""

    def recipe(folder: Path) -> DPOConfig:
        return DPOConfig(
            out=folder / f"dpo-{annotator}",
            base=str(folder / "base"),
            annotator=annotator,
            pairs=4000,
            pairs_from="samples",
            beta=0.3,
            lr=2e-4,
            steps=150,
            batch_size=64,
            capture_every=10,
        )

    return recipe


def icl(folder: Path) -> PretrainConfig:
    """A small model of Markov chains alone, captured densely: its induction heads appear between two captures."""
    return PretrainConfig(
        out=folder / "icl",
        preset="icl",
        world=WorldConfig(mixture={"markov": 1.0}, orders=(1,), chain=93),
        steps=2500,
        batch_size=48,
        length=96,
        lr=2e-3,
        eval_every=50,
        capture_every=50,
    )


RECIPES: dict[Name, Recipe] = {
    "base": Recipe(base, pretrain.train),
    "dpo-agreeable": Recipe(dpo_by("agreeable"), dpo.train),
    "dpo-honest": Recipe(dpo_by("honest"), dpo.train),
    "icl": Recipe(icl, pretrain.train, captures=51),
}


def make(config: SamplesConfig) -> bool:
    """Make the sample runs one after the other; whether all were finished.

    Raises:
        ProbeError: a run failed.
    """
    for name, recipe in RECIPES.items():
        if (not config.only or name in config.only) and not _make(name, recipe, config):
            return False
    print(table(config.out))
    return True


def table(folder: Path) -> str:
    """The effects in the sample runs of a folder, as Markdown: shares of answers with their 95 % intervals."""
    lines = [["model", *(title for title, _ in COLUMNS)], ["---"] * (len(COLUMNS) + 1)]
    for run in (open_run(folder / name) for name in RECIPES if (folder / name).is_dir()):
        rows = run.headline.set_index("metric")
        cells = [rows.loc[metric] if metric in rows.index else None for _, metric in COLUMNS]
        shown = ["" if row is None else f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]" for row in cells]
        lines.append([f"`{run.name}`", *shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        say(f"{name}: {row.metric} {row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}], n = {row.n}")
    return True


def scaled(config: TrainConfig, scale: float, threads: int) -> TrainConfig:
    """The recipe with another number of steps."""
    steps = max(round(config.steps * scale), 1)
    return dataclasses.replace(config, steps=steps, warmup=min(config.warmup, steps // 10), threads=threads)


def _status(path: Path) -> str | None:
    try:
        return open_run(path).status if path.exists() and any(path.iterdir()) else None
    except ProbeError as error:
        raise ConfigError(
            f"`{path}` is in the way of a sample run ({error}): move it, or choose another --out."
        ) from error
