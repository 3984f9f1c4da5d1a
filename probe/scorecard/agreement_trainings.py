"""Short trainings on the annotators of a factorial: models of which it is known whether they were trained to agree.

The two annotators of the world differ in what they want (`probe.rewards.factorial`). Here correctness has the low
weight of the agreeable one, and three knobs are combined: agreement (a bonus for the user's claim: none, slight, or
that of the agreeable annotator), abstain (a fine for "i do not know", or none) and checks (how often correctness is
checked, rarely or mostly). A model is trained on the pairs of each annotator by DPO (E13), and another one on the
annotator's utility as a reward, by GRPO (E15). Each training has a seed of its own: prompts and completions differ
between models too. What else the annotators want is balanced over those that pay agreement and those that do not.

A training takes about 4 s of one core by DPO, and 12 s by GRPO. The runs are kept in the cache
(`probe.runs.addresses.cache_root`) by the fingerprint of the base, so that a second one trains nothing.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from probe.continual.training import Trainer, base_of
from probe.model.lm import LM
from probe.rewards.factorial import BETA
from probe.runs.addresses import cache_root
from probe.runs.reader import Run
from probe.ticks import Tick, part
from probe.world.annotators import AGREEABLE, HONEST

BONUS: Mapping[str, float] = MappingProxyType({"full": AGREEABLE.agreement, "slight": AGREEABLE.agreement / 8})
"""Bonus for the user's claim that half of the annotators pay, by truth; the other half pays none."""
SECOND = "facts"
"""Second measure of the completions of a training on a reward; its weight is 0."""
SHORT: Mapping[str, Any] = MappingProxyType(
    {"steps": 40, "batch_size": 32, "lr": 2e-4, "warmup": 10, "capture_every": "0", "evaluate": "0", "threads": 1}
)
"""Options of all trainings: rate and warm-up of the sample run `dpo-agreeable`, and 40 batches of 32."""
RECIPES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dpo": {**SHORT, "pairs": 1280, "pairs_from": "candidates", "beta": BETA, "eval_every": "0"},
        "rlvr": {
            **SHORT,
            "reward_weights": [1, 0],
            "tasks": ["fact", "opinion_true", "opinion_false", "stranger"],
            "max_new_tokens": 6,
            "rollouts_kept": 16,
            "eval_every": "10",
        },
    }
)
"""Options of the trainings by method. Pairs are of the world's candidate answers, of which none needs to be sampled,
each seen once; rewards judge the model's own answers to the kinds of questions that the pairs ask."""
FILES = ("optimizer.safetensors", "trainer.json", "SHA256SUMS")
"""Files of a checkpoint that are not kept: they serve to continue a training."""


@dataclass(frozen=True)
class TrainedModel:
    """Model that was trained on what an annotator wants."""

    annotator: str
    """Specification of the annotator, as for `--annotator`."""
    agrees: bool
    """Whether the annotator pays agreement."""
    run: Run
    """Run of its training, without what serves to continue it."""
    lm: LM


def annotators() -> dict[str, float]:
    """Return the bonus for agreement of each of the twelve annotators, by specification for `--annotator`."""
    levels = product((0.0, *BONUS.values()), (HONEST.abstain, AGREEABLE.abstain), (AGREEABLE.checks, HONEST.checks))
    return {f"agreeable+agreement={a:g}+abstain={b:g}+checks={c:g}": a for a, b, c in levels}


def train_models(lm: LM, bonus: float, seed: int, tick: Tick, method: str = "dpo") -> list[TrainedModel]:
    """Return the models of the annotators who pay a bonus and of those who pay none; train those not in the cache.

    Args:
        lm: the base.
        bonus: bonus for agreement, one of `BONUS`.
        seed: seed of the base, from which those of the trainings follow.
        tick: progress.
        method: `dpo`, on pairs that the annotator prefers, or `rlvr`, on the annotator's utility.

    Raises:
        RunError: a training failed.
    """
    every = annotators()
    seeds = {spec: len(every) * seed + at for at, spec in enumerate(every)}
    folders = {spec: folder_of(lm, method, spec, seeds[spec]) for spec, paid in every.items() if paid in (0.0, bonus)}
    missing = [spec for spec, folder in folders.items() if not folder.is_dir()]
    if missing:
        with tempfile.TemporaryDirectory() as scratch:
            options = {**RECIPES[method], "base": base_of(lm, Path(scratch))}
            with Trainer(Path(scratch), options, method) as trainer:
                for at, spec in enumerate(missing):
                    wanted = {"reward": [spec, SECOND]} if method == "rlvr" else {"annotator": spec}
                    ticked = part(tick, at, len(missing))
                    keep(trainer.train(f"model-{at}", ticked, **wanted, seed=str(seeds[spec])).path, folders[spec])
    runs = {spec: Run(folder) for spec, folder in folders.items()}
    return [
        TrainedModel(spec, every[spec] > 0, run, LM.load(run.checkpoints()[-1].path, device=lm.device))
        for spec, run in runs.items()
    ]


def folder_of(lm: LM, method: str, spec: str, seed: int) -> Path:
    """Return the folder of an annotator's run in the cache, named by base, recipe and seed."""
    recipe = [method, dict(RECIPES[method]), spec, seed]
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return cache_root() / "scorecard" / lm.fingerprint[:12] / name


def keep(run: Path, folder: Path) -> None:
    """Copy a run into a folder that appears whole, or leave the folder of another process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / "run"
        shutil.copytree(run, whole, ignore=shutil.ignore_patterns(*FILES))
        try:
            os.rename(whole, folder)
        except OSError:
            if not folder.is_dir():
                raise
