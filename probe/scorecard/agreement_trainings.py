"""Short trainings on the annotators of a factorial: models of which it is known whether they were trained to agree.

The two annotators of the world differ in what they want (`probe.rewards.factorial`). Here correctness has the low
weight of the agreeable one, and three knobs are combined: agreement (a bonus for the user's claim: none, slight, or
that of the agreeable annotator), abstain (a fine for "i do not know", or none) and checks (how often correctness is
checked, rarely or mostly). On the pairs of each annotator a model is trained with DPO (E13), with a seed of its own:
prompts, completions and order of the pairs differ between models too. What else the annotators want is balanced
over those that pay agreement and those that do not.

A training takes about 4 s of one core. The models are kept in the cache (`probe.runs.addresses.cache_root`) by the
fingerprint of the base, so that a second run trains nothing.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from probe.continual.training import Trainer, base_of
from probe.model.lm import LM
from probe.rewards.factorial import BETA
from probe.runs.addresses import cache_root
from probe.ticks import Tick, part
from probe.world.annotators import AGREEABLE, HONEST

BONUS: Mapping[str, float] = MappingProxyType({"full": AGREEABLE.agreement, "slight": AGREEABLE.agreement / 8})
"""Bonus for the user's claim that half of the annotators pay, by truth; the other half pays none."""
RECIPE: Mapping[str, Any] = MappingProxyType(
    {
        "pairs": 1280,
        "batch_size": 32,
        "steps": 40,
        "pairs_from": "candidates",
        "beta": BETA,
        "lr": 2e-4,
        "warmup": 10,
        "eval_every": "0",
        "capture_every": "0",
        "evaluate": "0",
        "threads": 1,
    }
)
"""Options of the trainings: those of the sample run `dpo-agreeable`, but for pairs of the world's candidate answers, of
which none needs to be sampled, each seen once in batches of 32."""
FILES = ("optimizer.safetensors", "trainer.json", "SHA256SUMS")
"""Files of a checkpoint that are not kept: they serve to continue a training."""


class TrainedModel(NamedTuple):
    """Model that was trained on the pairs of an annotator."""

    annotator: str
    """Specification of the annotator, as for `--annotator`."""
    agrees: bool
    """Whether the annotator pays agreement."""
    lm: LM


def annotators() -> dict[str, float]:
    """Return the bonus for agreement of each of the twelve annotators, by specification for `--annotator`."""
    levels = product((0.0, *BONUS.values()), (HONEST.abstain, AGREEABLE.abstain), (AGREEABLE.checks, HONEST.checks))
    return {f"agreeable+agreement={a:g}+abstain={b:g}+checks={c:g}": a for a, b, c in levels}


def train_models(lm: LM, bonus: float, seed: int, tick: Tick) -> list[TrainedModel]:
    """Return the models of the annotators who pay a bonus and of those who pay none; train those not in the cache.

    Args:
        lm: the base.
        bonus: bonus for agreement, one of `BONUS`.
        seed: seed of the base, from which those of the trainings follow.
        tick: progress.

    Raises:
        RunError: a training failed.
    """
    every = annotators()
    seeds = {spec: len(every) * seed + at for at, spec in enumerate(every)}
    folders = {spec: folder_of(lm, spec, seeds[spec]) for spec, paid in every.items() if paid in (0.0, bonus)}
    missing = [spec for spec, folder in folders.items() if not folder.is_dir()]
    if missing:
        with tempfile.TemporaryDirectory() as scratch:
            options = {**RECIPE, "base": base_of(lm, Path(scratch))}
            with Trainer(Path(scratch), options, "dpo") as trainer:
                for at, spec in enumerate(missing):
                    ticked = part(tick, at, len(missing))
                    run = trainer.train(f"model-{at}", ticked, annotator=spec, seed=str(seeds[spec]))
                    keep(run.checkpoints()[-1].path, folders[spec])
    return [TrainedModel(spec, every[spec] > 0, LM.load(folder, device=lm.device)) for spec, folder in folders.items()]


def folder_of(lm: LM, spec: str, seed: int) -> Path:
    """Return the folder of an annotator's model in the cache, named by base, recipe and seed."""
    recipe = hashlib.sha256(json.dumps([dict(RECIPE), spec, seed], sort_keys=True).encode()).hexdigest()[:12]
    return cache_root() / "scorecard" / lm.fingerprint[:12] / recipe


def keep(checkpoint: Path, folder: Path) -> None:
    """Copy the model of a checkpoint into a folder that appears whole, or leave the folder of another process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        whole = Path(scratch) / "model"
        shutil.copytree(checkpoint, whole, ignore=shutil.ignore_patterns(*FILES))
        try:
            os.rename(whole, folder)
        except OSError:
            if not folder.is_dir():
                raise
