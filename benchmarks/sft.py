"""A step of SFT against TRL: 32 demonstrations, of equal lengths and as the world gives them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl import COMMON, REPEATS, WARMUP, against, fresh, settings, stepper
from benchmarks.harness import Row
from benchmarks.models import tiny, world
from trainers.config import SFTConfig
from trainers.session import Session
from trainers.sft import SFT, Demonstration, encode_completion
from trainers.trainee import Trainee

EXAMPLES = 32


def run() -> tuple[list[Row], list[str]]:
    """Measure with equal lengths, for the cost of a step, and with the world's, for the gain of packing."""
    kinds = (("18 + 8 tokens", equal()), ("the world's", of_the_world()))
    return [measure(f"SFT step of {EXAMPLES} examples, {kind}", examples) for kind, examples in kinds], []


def equal() -> list[Demonstration]:
    """Return random tokens: prompts of 18, completions of 8."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tiny().tokenizer), (EXAMPLES * (WARMUP + REPEATS), 26), generator=generator).tolist()
    return [Demonstration(row[:18], row[18:], [True] * 8) for row in ids]


def of_the_world() -> list[Demonstration]:
    """Return the data of `probe train sft`: 7 to 40 tokens."""
    items = world().demonstrations(EXAMPLES * (WARMUP + REPEATS), 0)
    return [encode_completion(tiny(), item.prompt, item.answers[0]) for item in items]


def measure(name: str, examples: Sequence[Demonstration]) -> Row:
    """Measure one comparison on the same ids and labels."""
    import trl
    from datasets import Dataset

    config = settings(SFTConfig, base="unused", batch_size=EXAMPLES)
    assert isinstance(config, SFTConfig)
    session, trainee = Session(config), Trainee(fresh())
    step = stepper(session, SFT(session, config, trainee, examples))
    rows = [{"input_ids": e.prompt + e.completion, "labels": [-100] * len(e.prompt) + e.completion} for e in examples]

    def make(folder: Path) -> Any:
        return trl.SFTTrainer(
            model=fresh().model,
            args=trl.SFTConfig(output_dir=str(folder), per_device_train_batch_size=EXAMPLES, **COMMON),
            train_dataset=Dataset.from_list(rows),
            processing_class=tiny().tokenizer,
        )

    return against(name, "TRL", make, step, ">= 1.6", trainee.module)
