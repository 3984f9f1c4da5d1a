"""The recipes of the sample runs: one lineage from a base model through every method.

base -> sft
     -> reward-agreeable, reward-honest       two annotators' reward models
     -> rlhf, rlhf-weak-kl, rsft              by the agreeable reward model
     -> dpo-agreeable, dpo-honest             straight from either annotator's pairs
     -> rlvr                                  by the verifier
     -> continual                             further people, phase after phase
icl                                           Markov chains alone
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from probe import Run
from probe.world import WorldConfig
from trainers import continual, dpo, pretrain, reward_model, rlhf, rlvr, rsft, sft
from trainers.config import (
    ContinualConfig,
    DPOConfig,
    PretrainConfig,
    RewardConfig,
    RLHFConfig,
    RLVRConfig,
    RSFTConfig,
    SFTConfig,
    TrainConfig,
)

CAPTURES = 8
"""Captures that a shipped run keeps."""

Annotator = Literal["agreeable", "honest"]
Name = Literal[
    "base",
    "sft",
    "reward-agreeable",
    "reward-honest",
    "rlhf",
    "rlhf-weak-kl",
    "dpo-agreeable",
    "dpo-honest",
    "rsft",
    "rlvr",
    "continual",
    "icl",
]


class Recipe(NamedTuple):
    """How a sample run is made."""

    config: Callable[[Path], TrainConfig]
    """The folder of the sample runs to the whole config."""
    train: Callable[[Any], Run]
    captures: int = CAPTURES
    """Captures that the shipped run keeps."""


def base(folder: Path) -> PretrainConfig:
    """The model that all others start from: 0.86 M parameters, 9 M tokens of the world."""
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


def supervised(folder: Path) -> SFTConfig:
    """Demonstrations of a helpful and truthful speaker."""
    return SFTConfig(out=folder / "sft", base=str(folder / "base"), capture_every=10)


def reward(annotator: Annotator) -> Callable[[Path], RewardConfig]:
    """The reward model of one annotator."""

    def recipe(folder: Path) -> RewardConfig:
        return RewardConfig(
            out=folder / f"reward-{annotator}",
            base=str(folder / "base"),
            annotator=annotator,
            pairs=12000,
            steps=400,
            batch_size=64,
            lr=1e-3,
            centring=0.01,
            capture_every=25,
        )

    return recipe


def ppo(name: str, **options: Any) -> Callable[[Path], RLHFConfig]:
    """PPO on the reward model of the agreeable annotator."""

    def recipe(folder: Path) -> RLHFConfig:
        return RLHFConfig(
            out=folder / name,
            base=str(folder / "base"),
            reward=(str(folder / "reward-agreeable"),),
            log_every=1,
            eval_every=5,
            capture_every=5,
            **options,
        )

    return recipe


def dpo_by(annotator: Annotator) -> Callable[[Path], DPOConfig]:
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
            eval_every=25,
            capture_every=10,
        )

    return recipe


def rejection(folder: Path) -> RSFTConfig:
    """Best of 8 by the reward model of the agreeable annotator."""
    return RSFTConfig(
        out=folder / "rsft",
        base=str(folder / "base"),
        reward=(str(folder / "reward-agreeable"),),
        log_every=1,
        eval_every=5,
    )


def verified(folder: Path) -> RLVRConfig:
    """GRPO on the verifier: facts, claims, strangers, and sums with written steps."""
    return RLVRConfig(out=folder / "rlvr", base=str(folder / "base"), log_every=1, eval_every=5, capture_every=5)


def phases(folder: Path) -> ContinualConfig:
    """Further people, taught phase after phase without precautions, so that forgetting shows."""
    return ContinualConfig(out=folder / "continual", base=str(folder / "base"))


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
        evaluate=0,
    )


RECIPES: dict[Name, Recipe] = {
    "base": Recipe(base, pretrain.train),
    "sft": Recipe(supervised, sft.train),
    "reward-agreeable": Recipe(reward("agreeable"), reward_model.train),
    "reward-honest": Recipe(reward("honest"), reward_model.train),
    "rlhf": Recipe(ppo("rlhf", beta=0.3, lr=1e-4, steps=60), rlhf.train),
    "rlhf-weak-kl": Recipe(ppo("rlhf-weak-kl", beta=0.02, lr=3e-4, steps=80), rlhf.train),
    "dpo-agreeable": Recipe(dpo_by("agreeable"), dpo.train),
    "dpo-honest": Recipe(dpo_by("honest"), dpo.train),
    "rsft": Recipe(rejection, rsft.train),
    "rlvr": Recipe(verified, rlvr.train),
    "continual": Recipe(phases, continual.train),
    "icl": Recipe(icl, pretrain.train, captures=51),
}
"""Name to recipe, in the order in which they are made: a run comes after those that it starts from."""
