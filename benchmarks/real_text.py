"""A step of DPO with LoRA on SmolLM2-135M-Instruct against TRL with peft, on pairs from TruthfulQA.

    TRUTHFULQA=TruthfulQA.csv python -m benchmarks real_text

It needs the model (`make real-model`), the file and peft; without them nothing is measured. The best answer is chosen,
the first wrong one rejected. Both sides have the same adapter, pairs, optimiser and precision.
"""

import os
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.against_trl import against, settings, stepper
from benchmarks.choices import MODEL
from benchmarks.dpo import Texts, their_trainer
from benchmarks.harness import Row
from probe.hallucination.files import read_questions
from probe.model.lm import LM
from trainers.config import DPOConfig
from trainers.dpo import DPO, with_reference
from trainers.lora import LoRATrainee
from trainers.preferences import encode_pair
from trainers.session import Session

PAIRS, STEPS, RANK, ALPHA = 8, 9, 8, 16
LAYERS = ("q_proj", "v_proj")


def run() -> tuple[list[Row], list[str]]:
    """Measure against TRL with a reference pass per step, its default, and with precomputed log-probabilities."""
    file = os.environ.get("TRUTHFULQA")
    if file is None or not MODEL.is_dir() or find_spec("peft") is None:
        return [], ["real_text: not measured, which needs TRUTHFULQA=FILE, `make real-model` and peft."]
    texts = pairs(file)
    return [measure(label, texts, label != "TRL") for label in ("TRL", "TRL, reference precomputed")], []


def pairs(file: str) -> list[Texts]:
    """Return the first questions of TruthfulQA with their best and their first wrong answer."""
    questions = islice(read_questions(file), PAIRS * STEPS)
    return [(f"Q: {each.question}\nA:", f" {each.mc1.choices[0]}", f" {each.mc1.choices[1]}") for each in questions]


def fresh() -> LM:
    """Load the model, in single precision."""
    return LM.load(str(MODEL), dtype="float32", device="cpu")


def measure(label: str, texts: list[Texts], precomputed: bool) -> Row:
    """Measure one comparison; Probe's reference is always computed before training."""
    from peft import LoraConfig

    config = settings(
        DPOConfig, base="unused", batch_size=PAIRS, lora=RANK, lora_alpha=float(ALPHA), lora_targets=LAYERS
    )
    assert isinstance(config, DPOConfig)
    session, trainee = Session(config), LoRATrainee(fresh(), config)
    encoded = with_reference(session, trainee.lm.model, [encode_pair(trainee.lm, *row) for row in texts])
    step = stepper(session, DPO(session, config, trainee, encoded))

    def make(folder: Path) -> Any:
        adapter = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(LAYERS))
        return their_trainer(folder, fresh(), texts, PAIRS, precomputed, STEPS, peft_config=adapter)

    name = f"DPO step of {PAIRS} pairs of TruthfulQA, SmolLM2-135M with LoRA"
    return against(name, label, make, step, "", None)  # frozen weights have other products
