"""A step of DPO against TRL: 64 pairs, of equal lengths and as the world's annotators label them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl import COMMON, REPEATS, WARMUP, against, fresh, settings, stepper, words
from benchmarks.harness import Row
from benchmarks.models import tiny, world
from probe.model.lm import LM
from probe.world import AGREEABLE
from trainers.config import DPOConfig
from trainers.dpo import DPO, with_reference
from trainers.preferences import Preference, encode_pair
from trainers.session import Session
from trainers.trainee import Trainee

PAIRS = 64
Texts = tuple[str, str, str]


def run() -> tuple[list[Row], list[str]]:
    """Measure against TRL with its default (a reference pass per step) and with precomputed log-probabilities."""
    rows = []
    for kind, texts in (("18 + 8 tokens", equal()), ("the world's", of_the_world())):
        for label, precomputed, target in (("TRL", False, ">= 4"), ("TRL, reference precomputed", True, "")):
            rows.append(measure(f"DPO step of {PAIRS} pairs, {kind}", label, texts, precomputed, target))
    return rows, []


def equal() -> list[Texts]:
    """Return random words: prompts of 18 tokens with the initial token, completions of 8 with the end token."""
    n = PAIRS * (WARMUP + REPEATS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tiny().tokenizer), (n, 17 + 7 + 7), generator=generator)
    parts = [words(part.tolist()) for part in ids.split([17, 7, 7], dim=1)]
    return [(prompt, f" {chosen}", f" {rejected}") for prompt, chosen, rejected in zip(*parts, strict=True)]


def of_the_world() -> list[Texts]:
    """Return the data of `probe train dpo`: questions of several kinds, answers of two to five tokens."""
    rows = world().preferences(AGREEABLE, PAIRS * (WARMUP + REPEATS), 0)
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]


def their_trainer(
    folder: Path, lm: LM, texts: Sequence[Texts], batch: int, precomputed: bool, steps: int, **more: Any
) -> Any:
    """Build TRL's trainer of a model in batches of `batch` pairs; `more` are further arguments of it."""
    import trl
    from datasets import Dataset

    names = ("prompt", "chosen", "rejected")
    return trl.DPOTrainer(
        model=lm.model,
        args=trl.DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=batch,
            precompute_ref_log_probs=precomputed,
            precompute_ref_batch_size=batch,
            **COMMON | {"max_steps": steps},
        ),
        train_dataset=Dataset.from_list([dict(zip(names, row, strict=True)) for row in texts]),
        processing_class=lm.tokenizer,
        **more,
    )


def measure(name: str, label: str, texts: Sequence[Texts], precomputed: bool, target: str) -> Row:
    """Measure one comparison; Probe's reference is always computed before training."""
    config = settings(DPOConfig, base="unused", batch_size=PAIRS)
    assert isinstance(config, DPOConfig)
    session, lm = Session(config), fresh()
    pairs: list[Preference] = [encode_pair(lm, *row) for row in texts]
    step = stepper(session, DPO(session, config, Trainee(lm), with_reference(session, lm.model, pairs)))

    def make(folder: Path) -> Any:
        reference = None if precomputed else fresh().model
        return their_trainer(folder, fresh(), texts, PAIRS, precomputed, COMMON["max_steps"], ref_model=reference)

    return against(name, label, make, step, target, lm.model)
