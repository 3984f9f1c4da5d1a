"""Recipes and experiments of the sample runs, and the options of `probe samples`.

base -> sft
     -> reward-agreeable, reward-honest       two annotators' reward models
     -> rlhf, rlhf-weak-kl, rsft              by the agreeable reward model
     -> dpo-agreeable, dpo-honest             directly from the pairs of one annotator
     -> rlvr                                  with the verifier
     -> continual                             further people, in consecutive phases
icl                                           only Markov chains
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
"""An experiment with its options that differ from the defaults."""


class Recipe(NamedTuple):
    """Recipe of a sample run."""

    config: Callable[[Path], TrainConfig]
    """Function from the folder of the sample runs to the config."""
    method: str
    captures: int = 8
    """Number of captures that the shipped run keeps."""
    asked: tuple[Asked, ...] = ()
    """Experiments on the run; others can be started from their pages and take seconds."""


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
    """Return the recipe of SFT on demonstrations of a helpful and truthful assistant."""
    return SFTConfig(out=folder / "sft", base=str(folder / "base"), warmup=15, capture_every=10)


def reward(annotator: str) -> Callable[[Path], RewardConfig]:
    """Return the recipe of the reward model of one annotator, given as for `--annotator`."""

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
    """Return the recipe of DPO on the pairs of one annotator, given as for `--annotator`."""

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
    """Return the recipe of RSFT on the best of 8, with the reward model of the agreeable annotator."""
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
    """Return the recipe of further people, taught in phases without a strategy, so that forgetting is visible."""
    return ContinualConfig(out=folder / "continual", base=str(folder / "base"))


def icl(folder: Path) -> PretrainConfig:
    """Return the recipe of a small model of Markov chains, with dense captures to show when induction heads appear."""
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
"""Name -> recipe, in the order in which they are made: a run comes after the runs that it starts from."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Make the sample runs: a base model, and a model trained from it by every method."""

    out: Path = Path("sample_runs")
    """Folder of the runs."""
    real: bool = False
    """Make the runs on a real model instead of those of the world: LoRA adapters that answer users with an opinion."""
    controls: bool = False
    """Make the runs that test published claims (`probe findings --controls`) instead of the others."""
    factorial: bool = False
    """Make the factorial of annotators instead of the others: a base, DPO on every combination of the knobs in which
    the two annotators differ, RLHF on four, and the exact optima for comparison."""
    base: str | None = None
    """Model that all runs start from: with --real a chat model (default: SmolLM2-135M-Instruct), with --controls a run
    (default: the sample run `base`)."""
    only: tuple[Name, ...] = ()
    """Runs to make; default: all."""
    seeds: int = 1
    """Number of trainings of the whole pipeline, including the base; runs from seed 1 on are named like
    `base-seed1`."""
    steps_scale: float = 1.0
    """Factor of the number of steps of every run; below 1 for a quick trial."""
    force: bool = False
    """Repeat runs that are already finished."""
    experiments: bool = True
    """Run the experiments and analyses whose results the dashboard's pages show immediately."""
    slim: bool = False
    """Reduce finished runs from seed 1 on to metrics, curves and results, without weights."""
    threads: int = 1
    """CPU threads and reserved CPUs of a training; with 1 results are bit-identical on the same kind of processor."""

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
