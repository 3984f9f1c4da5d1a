"""The recipes of the sample runs, shortened to half a minute each, and the trainings with and without an injury."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from probe import Run, open_run
from probe.errors import TrainingStopped
from tests.injuries import smollm2
from tests.injuries.injury import Injury, beginning, kind_of
from tests.trainers.quick import train
from trainers.config import TrainConfig
from trainers.samples.recipes import STRONG, STRONG_PPO, dpo_by, ppo, reward, rlvr, sft

SHORT: dict[str, Any] = {"log_every": 1, "eval_every": 5, "capture_every": 0, "save_every": 0, "threads": 1}
"""Every step is logged, and the weights are written at the end alone."""
ONLINE = SHORT | {"steps": 30, "rollouts_every": 2, "evaluate": 0}

RECIPES: dict[str, tuple[Callable[[Path], TrainConfig], dict[str, Any]]] = {
    "rlvr": (rlvr, ONLINE),
    "rlhf": (ppo("rlhf", "honest", **STRONG_PPO), ONLINE),
    "rlhf-agreeable": (STRONG, ONLINE),
    "dpo": (dpo_by("agreeable"), SHORT | {"steps": 45, "pairs": 1000, "evaluate": 0}),
    "sft": (sft, SHORT | {"steps": 60, "examples": 2500, "evaluate": 0}),
    "reward-model": (reward("honest"), SHORT | {"steps": 60, "pairs": 3000, "eval_every": 10, "evaluate": 20}),
    **{name: (make, {}) for name, make in smollm2.RECIPES.items()},
}
"""Name -> recipe, and the options in which the shortened one differs."""


def shortened(recipe: str, samples: Path, out: Path, seed: int, **changes: Any) -> TrainConfig:
    """Return the options of a shortened recipe on the sample runs in `samples`, or with its data in that folder."""
    make, options = RECIPES[recipe]
    return replace(make(samples), out=out, seed=seed, **options | changes)


def injure(injury: Injury, config: TrainConfig) -> Run:
    """Train with the injury, which may end it, and return the run, beside which its truth is written (`note`)."""
    config = replace(config, **injury.options)
    with beginning(injury.step) as begun, injury.inject(begun), suppress(TrainingStopped):
        train(config)
    return note(config.out, injury.name, injury.fault, injury.recipe, injury.step, config.seed)


def keep_healthy(recipe: str, config: TrainConfig) -> Run:
    """Train without an injury and return the run, beside which its truth is written (`note`)."""
    train(config)
    return note(config.out, f"healthy-{recipe}", None, recipe, None, config.seed)


def note(out: Path, name: str, fault: str | None, recipe: str, step: int | None, seed: int) -> Run:
    """Write the truth about a run (fault and first injured step, null if healthy) beside it, and return the run.

    Raises:
        KeyboardInterrupt: the training was stopped by a signal, which ends all others too.
    """
    run = open_run(out)
    if run.status == "interrupted":
        raise KeyboardInterrupt
    truth = {"name": name, "fault": fault, "recipe": recipe, "step": step, "seed": seed, "kind": kind_of(recipe)}
    out.with_name(f"{out.name}.json").write_text(json.dumps(truth) + "\n")
    return run
