"""The recipes of the sample runs, what experiments measure on them, and the options of `probe samples`.

base -> sft
     -> reward-agreeable, reward-honest       two annotators' reward models
     -> rlhf, rlhf-weak-kl, rsft              by the agreeable reward model
     -> dpo-agreeable, dpo-honest             straight from either annotator's pairs
     -> rlvr                                  by the verifier
     -> continual                             further people, phase after phase
icl                                           Markov chains alone
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from probe.errors import ConfigError
from probe.options import option
from probe.world import WorldConfig
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
    "real-agreeable",
    "real-honest",
    "real-reward",
    "real-rlvr",
    "real-professor",
    "rlvr-fined",
    "rlvr-unfined",
    "rlvr-all-fined",
    "reward-indifferent",
    "continual-plain",
    "continual-shuffled",
    "proxy-64",
    "proxy-256",
    "proxy-1024",
    "sums",
    "sums-rlvr",
]


Asked = tuple[str, Mapping[str, Any]]
"""An experiment with those of its options that are not the defaults."""


class Recipe(NamedTuple):
    """How a sample run is made."""

    config: Callable[[Path], TrainConfig]
    """The folder of the sample runs to the whole config."""
    method: str
    captures: int = 8
    """Captures that the shipped run keeps."""
    asked: tuple[Asked, ...] = ()
    """What is measured; what is left out is measured from its page in seconds."""


def base(folder: Path) -> PretrainConfig:
    """Return the recipe of the model that all others start from: 0.86 M parameters, 9 M tokens of the world."""
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


def sft(folder: Path) -> SFTConfig:
    """Return the recipe of SFT on demonstrations of a helpful and truthful speaker."""
    return SFTConfig(out=folder / "sft", base=str(folder / "base"), warmup=15, capture_every=10)


def reward(annotator: str) -> Callable[[Path], RewardConfig]:
    """Return the recipe of the reward model of one annotator, as `--annotator` takes it."""

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


def ppo(name: str, annotator: str = "agreeable", **options: Any) -> Callable[[Path], RLHFConfig]:
    """Return the recipe of PPO on the reward model of one annotator."""

    def recipe(folder: Path) -> RLHFConfig:
        return RLHFConfig(
            out=folder / name,
            base=str(folder / "base"),
            reward=(str(folder / f"reward-{annotator}"),),
            log_every=1,
            eval_every=5,
            capture_every=5,
            **options,
        )

    return recipe


def dpo_by(annotator: str) -> Callable[[Path], DPOConfig]:
    """Return the recipe of DPO on the pairs of one annotator, as `--annotator` takes it."""

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
    """Return the recipe of the best of 8 by the reward model of the agreeable annotator."""
    return RSFTConfig(
        out=folder / "rsft",
        base=str(folder / "base"),
        reward=(str(folder / "reward-agreeable"),),
        warmup=2,
        log_every=1,
        eval_every=5,
    )


def rlvr(folder: Path) -> RLVRConfig:
    """Return the recipe of GRPO on the verifier: facts, claims, unseen entities, and sums with written steps."""
    return RLVRConfig(out=folder / "rlvr", base=str(folder / "base"), log_every=1, eval_every=5, capture_every=5)


def phases(folder: Path) -> ContinualConfig:
    """Return the recipe of further people, taught phase after phase without precautions, so that forgetting shows."""
    return ContinualConfig(out=folder / "continual", base=str(folder / "base"))


def icl(folder: Path) -> PretrainConfig:
    """Return the recipe of a small model of Markov chains alone.

    It is captured densely: its induction heads appear between two captures.
    """
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


def ask(*names: str) -> tuple[Asked, ...]:
    """Return experiments at their default sizes."""
    return tuple((name, {}) for name in names)


ALIGNED = ask("hallucination", "sycophancy")
PHENOMENA = ask("hallucination", "sycophancy", "in_context", "chain_of_thought", "retrieval")
STRONG_PPO: dict[str, Any] = {"beta": 0.3, "lr": 1e-4, "steps": 60}
STRONG = ppo("rlhf", **STRONG_PPO)
WEAK = ppo("rlhf-weak-kl", beta=0.02, lr=3e-4, steps=80)
RECIPES: dict[Name, Recipe] = {
    "base": Recipe(base, "pretrain", asked=(*PHENOMENA, *ask("continual"))),
    "sft": Recipe(sft, "sft", asked=ALIGNED),
    "reward-agreeable": Recipe(reward("agreeable"), "reward-model"),
    "reward-honest": Recipe(reward("honest"), "reward-model"),
    "rlhf": Recipe(STRONG, "rlhf", asked=ALIGNED),
    "rlhf-weak-kl": Recipe(WEAK, "rlhf"),
    "dpo-agreeable": Recipe(dpo_by("agreeable"), "dpo", asked=PHENOMENA),
    "dpo-honest": Recipe(dpo_by("honest"), "dpo", asked=ALIGNED),
    "rsft": Recipe(rejection, "rsft"),
    "rlvr": Recipe(rlvr, "rlvr", asked=PHENOMENA),
    "continual": Recipe(phases, "continual"),
    "icl": Recipe(icl, "pretrain", captures=51, asked=ask("in_context")),
}
"""Name to recipe, in the order in which they are made: a run comes after those that it starts from."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Make the sample runs: a base model, and what every method makes of it."""

    out: Path = Path("sample_runs")
    """Folder that the runs go to."""
    real: bool = False
    """Make those on a real model in place of those of the world: LoRA adapters that answer a user with a claim."""
    controls: bool = False
    """Make the runs that published claims are tested against (`probe findings --controls`) in place of the others."""
    factorial: bool = False
    """Make the factorial of annotators in place of the others: a base, DPO on every combination of the knobs in which
    the two annotators differ, RLHF on four, and the exact optima beside them."""
    base: str | None = None
    """With --real the chat model, with --controls the run, that all runs start from; default: SmolLM2-135M-Instruct,
    and the sample run `base`."""
    only: tuple[Name, ...] = ()
    """Runs to make; without it all of them."""
    seeds: int = 1
    """Trainings of the whole pipeline, from the base on; the runs of seed 1 and further are named as `base-seed1`."""
    steps_scale: float = 1.0
    """Multiplies the number of steps of every run; below 1 for a rehearsal."""
    force: bool = False
    """Make runs anew that are finished already."""
    experiments: bool = True
    """Measure what the dashboard's pages show at once."""
    slim: bool = False
    """In the end keep of seed 1 and further what groups of seeds show: figures, curves and results, no weights."""
    threads: int = 1
    """CPU threads of a training, and CPUs that it takes up; with 1 the bits depend on the kind of processor alone."""

    def __post_init__(self) -> None:
        if self.steps_scale <= 0:
            raise ConfigError(f"--steps-scale is {self.steps_scale}; expected a number above 0.")
        if self.threads < 1:
            raise ConfigError(f"--threads is {self.threads}; expected 1 or more.")
        if self.seeds < 1 or (self.seeds > 1 and self.real):
            raise ConfigError(f"--seeds is {self.seeds}; expected at least 1, and 1 with --real.")
        kinds = [option(name) for name in ("real", "controls", "factorial") if getattr(self, name)]
        if len(kinds) > 1:
            raise ConfigError(f"{' and '.join(kinds)} name different runs: give one of them.")
        if self.base is not None and not (self.real or self.controls):
            raise ConfigError(
                f"--base {self.base} is of use with --real or --controls: the world's runs begin with their own."
            )
