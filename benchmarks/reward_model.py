"""A step of the reward model against TRL: 64 pairs, of equal lengths and as the world's annotators label them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.against_trl import COMMON, against, fresh, settings, stepper
from benchmarks.dpo import PAIRS, Texts, equal, of_the_world
from benchmarks.harness import Row
from benchmarks.models import tiny
from trainers.config import RewardConfig
from trainers.preferences import encode_pair
from trainers.reward_model import HeldOut, RewardModelling
from trainers.scalar_heads import RewardTrainee
from trainers.session import Session
from trainers.trainee import Trainee


def run() -> tuple[list[Row], list[str]]:
    """Measure on the same pairs as for DPO."""
    rows = [("18 + 8 tokens", equal()), ("the world's", of_the_world())]
    return [measure(f"reward model step of {PAIRS} pairs, {kind}", texts) for kind, texts in rows], []


def measure(name: str, texts: Sequence[Texts]) -> Row:
    """Measure one comparison."""
    import trl
    from datasets import Dataset

    config = settings(RewardConfig, base="unused", batch_size=PAIRS)
    assert isinstance(config, RewardConfig)
    session, theirs = Session(config), RewardTrainee(Trainee(fresh()), seed=0)
    trainee = RewardTrainee(Trainee(fresh()), seed=0)
    pairs = [encode_pair(trainee.lm, *row) for row in texts]
    step = stepper(session, RewardModelling(session, config, trainee, pairs, HeldOut(pairs=[])))

    def make(folder: Path) -> Any:
        rows = [{"chosen": prompt + chosen, "rejected": prompt + rejected} for prompt, chosen, rejected in texts]
        return trl.RewardTrainer(
            model=theirs.module,
            args=trl.RewardConfig(output_dir=str(folder), per_device_train_batch_size=PAIRS, **COMMON),
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny().tokenizer,
        )

    return against(name, "TRL", make, step, ">= 2", trainee.module)
