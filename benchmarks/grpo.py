"""A step of GRPO against TRL: 24 prompts of 18 tokens, 8 completions of 8 tokens each, with sampling and rewards."""

from pathlib import Path
from typing import Any

import torch

import probe
from benchmarks.against_trl import COMMON, REPEATS, WARMUP, against, fresh, settings, stepper, words
from benchmarks.harness import Row
from benchmarks.models import COMPLETIONS, NEW_TOKENS, PROMPTS, tiny
from probe.model.text import encode
from trainers.config import RLVRConfig
from trainers.reward_functions import resolve
from trainers.rlvr import RLVR
from trainers.sampling import Prompt, Sampler
from trainers.session import Session
from trainers.trainee import Trainee


def even(prompts: list[str], completions: list[str], **columns: object) -> list[float]:
    """Return the reward of both: whether the characters of a completion have an even sum."""
    return [float(sum(map(ord, text)) % 2 == 0) for text in completions]


def run() -> tuple[list[Row], list[str]]:
    """Measure without a reference in the loss, TRL's default, and with one."""
    return [measure(0.0), measure(0.04)], []


def measure(beta: float) -> Row:
    """Measure one comparison with the same reward, normalisation, clipping and weight of the KL."""
    import trl
    from datasets import Dataset

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tiny().tokenizer), (PROMPTS * (WARMUP + REPEATS), 17), generator=generator)
    texts = words(ids.tolist())
    config = settings(
        RLVRConfig,
        base="unused",
        reward=("benchmarks.grpo:even",),
        batch_size=PROMPTS,
        group=COMPLETIONS,
        max_new_tokens=NEW_TOKENS,
        beta=beta,
        kl_estimator="k3",
        log_every=COMMON["logging_steps"],
        steps=COMMON["max_steps"],
    )
    assert isinstance(config, RLVRConfig)
    session, trainee = Session(config), Trainee(fresh())
    prompts = [Prompt(text, encode(trainee.lm.tokenizer, text), {}) for text in texts]
    sampler = Sampler(session, trainee, config, prompts, resolve(config.reward, None), trainee.reference())
    step = stepper(session, RLVR(config, trainee, sampler, None))

    def make(folder: Path) -> Any:
        trainer: Any = trl.GRPOTrainer(
            model=probe.LM.load(fresh().save(folder / "model")).model,  # TRL reads its reference from there
            reward_funcs=even,
            args=trl.GRPOConfig(
                output_dir=str(folder),
                per_device_train_batch_size=PROMPTS * COMPLETIONS,
                num_generations=COMPLETIONS,
                max_completion_length=NEW_TOKENS,
                loss_type="grpo",
                beta=beta,
                **COMMON,
            ),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            processing_class=tiny().tokenizer,
        )
        if beta:
            trainer.ref_model.float()  # it was loaded in half precision
        return trainer

    name = f"GRPO step of {PROMPTS} x {COMPLETIONS} completions of {NEW_TOKENS} tokens, KL weight {beta}"
    return against(name, "TRL", make, step, ">= 3.2", trainee.module)
