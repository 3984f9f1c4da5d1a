"""The options of every training method; light: no torch, no model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from probe.errors import ConfigError, brief
from probe.extensions import annotators, find_annotator
from probe.model.presets import PRESETS
from probe.options import option
from probe.rows import ROW_FILES, may_hold_rows
from probe.world import WorldConfig

FREE = frozenset(
    {
        "out",
        "steps",
        "resume",
        "device",
        "track",
        "save_every",
        "thin",
        "threads",
        "strict",
        "gradient_checkpointing",
        "shard",
    }
)
"""Options that may change when a run is resumed: they do not alter what the next step computes (`steps` may grow)."""
JUDGEMENTS = ("verifier", "facts", "sum_quick", "sum_steps", "steps", "unfined", "all_fined", "agreeable", "honest")
"""The rewards that every world gives (`trainers.reward_functions.JUDGES`)."""
FINAL_ANSWER = "final_answer"
"""The reward for problems of a file that have one answer, such as GSM8K's."""
OPEN = frozenset({"sum_steps", "map", "function", "function_new", "repeat"})
"""Questions that can be answered in more ways than `World.candidates` lists, or whose answers go on."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What all methods share; a method's own config adds to it and may change the defaults."""

    free: ClassVar[frozenset[str]] = FREE

    out: Path
    """Directory of the run; it must not exist yet, or be empty, unless --resume is given."""
    data: str = "world"
    """Where examples come from: `world` (the synthetic world), or the path of a file."""
    strict: bool = False
    """Refuse a data file with a row that cannot be used; otherwise such rows are left out and counted."""
    steps: int = 1000
    """Optimiser steps in all."""
    batch_size: int = 32
    """Examples in one optimiser step, over all processes and parts of the accumulation together."""
    accumulation: int = 1
    """Gradient-accumulation steps that the batch is run in, to save memory; the result is the same."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0; more than two take half of --steps at most."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up."""
    final_lr: float = 0.1
    """Where `cosine` and `linear` end, as a share of --lr."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; it acts on matrices, not on biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 switches clipping off."""
    lora: int = 0
    """Rank of a LoRA adapter that is trained in place of the weights (needs peft); 0 trains all weights."""
    lora_alpha: float = 16.0
    """The adapter's product B A is multiplied by this / --lora."""
    lora_targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter (as `q_proj v_proj`); without it all linear ones but the unembedding."""
    seed: int = 0
    """Seed of everything that is drawn: initial weights, order of the examples, dropout."""
    save_every: int = 500
    """Steps between checkpoints; 0 keeps only the last. The last step and an interruption always write one."""
    log_every: int = 10
    """Steps between rows of metrics; a row holds the values of its own step."""
    eval_every: int = 100
    """Steps between evaluations on held-out data, where the method has any; 0 evaluates at the end only."""
    capture_every: int = 50
    """Steps between captures of attention, lens and entropy on the probe prompts; 0 switches them off."""
    thin: int = 0
    """When the run is finished keep this many captures (2 or more), and the last checkpoint alone in half precision."""
    probe_prompts: Path | None = None
    """File of prompts to capture on, one a line, or JSON Lines with `text` and `answers`; else the data's."""
    evaluate: int = 400
    """Items per condition in the evaluation on the world that ends a run; 0 switches it off."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, to the same bits; options not given are the run's own."""
    device: str | None = None
    """Device such as `cpu`, `cuda` or `mps`; without it the best one here, or the one `accelerate launch` gives."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation: `bfloat16` is autocast; weights and optimiser stay in float32."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which the model holds and reads its weights; with `bfloat16` the optimiser updates a float32 copy."""
    reference_dtype: Literal["float32", "bfloat16"] | None = None
    """Type of the frozen copy that KL and captures refer to, else that of --weights-dtype; --lora needs none."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a forward pass more, the same result."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Also send the metrics to this tracker, through accelerate."""
    threads: int = 0
    """CPU threads of torch; 0 leaves torch's choice. On a busy machine 1 can be many times faster than 2."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type in (Path, Path | None):  # Python callers may give text
                object.__setattr__(self, each.name, _as_type(getattr(self, each.name), each.type))
        for name in ("steps", "batch_size", "accumulation", "log_every"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in (
            "warmup",
            "lora",
            "save_every",
            "eval_every",
            "capture_every",
            "thin",
            "evaluate",
            "threads",
            "seed",
        ):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        self.require(self.thin != 1, "thin", "2 or more, the first and the last capture, or 0, which keeps all")
        self.require(self.lr > 0, "lr", "a number above 0")
        self.require(self.lora_alpha > 0, "lora_alpha", "a number above 0")
        self.require(0 <= self.final_lr <= 1, "final_lr", "a share between 0 and 1")
        self.require(all(0 <= beta < 1 for beta in self.betas), "betas", "two numbers from 0 to below 1")
        self.require(self.weight_decay >= 0 and self.clip >= 0, "weight_decay", "0 or more, and --clip too")
        self.require(
            self.batch_size % self.accumulation == 0, "accumulation", f"a divisor of --batch-size {self.batch_size}"
        )
        self.require(
            not (self.lora and self.reference_dtype),
            "reference_dtype",
            "none with --lora, whose reference is the model without its adapter",
        )

    @property
    def warmup_steps(self) -> int:
        """The steps of the warm-up that is made: `warmup`, shortened so that every training reaches --lr."""
        return min(self.warmup, max(self.steps // 2, min(self.steps, 2)))

    def require(self, condition: bool, name: str, expected: str) -> None:
        """Check one option.

        Raises:
            ConfigError: the condition does not hold.
        """
        if not condition:
            raise ConfigError(f"{option(name)} is {getattr(self, name)}; expected {expected}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a config from what `to_dict` wrote; leave out options that this version does not have.

        Raises:
            ConfigError: a value is not of its option's type.
        """
        arguments: dict[str, Any] = {}
        for each in fields(cls):
            if each.name not in values:
                continue
            if not _fits(values[each.name], each.type):
                value = brief(repr(values[each.name]))
                raise ConfigError(
                    f"The run has {option(each.name)} {value}, which no such option can be: start a new one."
                )
            arguments[each.name] = _as_type(values[each.name], each.type)
        return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Pretrain a language model (E7)."""

    data: str = "world"
    """`world`, a UTF-8 text file, or a .jsonl or .parquet file with the column `text`."""
    base: str | None = None
    """Model to continue from (a run, a checkpoint, a Hugging Face directory or hub id); without it weights are new."""
    preset: str = "tiny"
    """Size of a new model: `tiny`, `icl` or `small`."""
    length: int = 96
    """Tokens in a row."""
    tokenizer: Literal["bpe", "char"] = "bpe"
    """Tokenizer trained on a file of a new model: byte pairs or characters."""
    vocab_size: int = 4096
    """Largest vocabulary of that tokenizer."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """The world of a new model."""
    world_seed: int = 0
    """Seed of the world of a new model."""
    steps: int = 3000
    lr: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.preset in PRESETS, "preset", "one of " + ", ".join(PRESETS))
        self.require(self.length >= 2, "length", "at least 2 tokens")
        self.require(not self.lora or self.base is not None, "lora", "0 for a new model; an adapter needs --base")
        self.require(
            self.reference_dtype is None or self.base is not None,
            "reference_dtype",
            "none for a new model, which has no reference",
        )


@dataclass(frozen=True, kw_only=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning on demonstrations (E8)."""

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with `prompt` and `completion` (strings, or lists of
    messages) or with `messages`."""
    examples: int = 4000
    """Number of the world's demonstrations."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Kind of the world's questions and its share, such as `fact 0.7 stranger 0.3`; none: the world's own mixture."""
    turns: Literal["every", "last"] = "every"
    """Which messages of the assistant in a conversation are learned."""
    longest: int = 0
    """Most tokens of an example, longer ones are left out and counted; 0: what the model reads."""
    held_out: float = 0.05
    """Share of the prompts (at most 500) whose examples are kept to measure on; 0 keeps none."""
    shard: bool = False
    """Share the model among the processes, each of which holds a part of weights, gradients and moments."""
    steps: int = 150
    lr: float = 3e-4
    """Highest learning rate; real models want some 2e-5."""
    warmup: int = 20
    eval_every: int = 25
    """Steps between evaluations on the held-out examples; 0 evaluates at the end only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.data == "world" or may_hold_rows(self.data), "data", f"`world` or {ROW_FILES}")
        self.require(self.examples >= 1, "examples", "at least 1")
        self.require(self.longest >= 0, "longest", "0 or more")
        self.require(not (self.shard and self.lora), "shard", "no sharding with --lora, whose base does not train")
        self.require(0 <= self.held_out < 1, "held_out", "a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TrainConfig):
    """What the methods share that learn from preference pairs."""

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with `prompt`, `chosen`, `rejected` (strings or lists
    of messages); also without `prompt`, which is then the common beginning of both."""
    annotator: str = field(default="agreeable", metadata={"suggestions": annotators})
    """Who labels the world's pairs: agreeable, honest, indifferent (coin tosses), or one that you added
    (`probe.annotator`, --plugin); knobs of theirs may be changed, as in `agreeable+abstain=0+checks=0.9`
    (docs/world.md)."""
    pairs: int = 3000
    """Number of the world's pairs."""
    pairs_from: Literal["candidates", "samples"] = "samples"
    """Completions of the world's pairs: samples of the base, or the candidate answers (docs/log.md compares them)."""
    batch_size: int = 64
    """Pairs in one optimiser step, over all processes and parts of the accumulation together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        find_annotator(self.annotator)
        self.require(self.pairs >= 1, "pairs", "at least 1")
        self.require(self.data == "world" or may_hold_rows(self.data), "data", f"`world` or {ROW_FILES}")


@dataclass(frozen=True, kw_only=True)
class RewardConfig(PreferenceConfig):
    """Reward model from preference pairs (E9)."""

    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with `prompt`, `chosen`, `rejected` (strings or messages);
    `margin` may be added."""
    pairs: int = 12000
    """Number of the world's pairs, the held-out ones included; with few it learns to punish abstaining first."""
    pairs_from: Literal["candidates", "samples"] = "candidates"
    """Completions of the world's pairs: samples of the base, or the candidate answers, which set claim to truth."""
    held_out: float = 0.1
    """Pairs that are kept from training to evaluate on: from 1 on their number, below 1 their share; 0 for none."""
    margin: float = 0.0
    """The margin m by which the chosen completion is to win, in nats; a pair's own column `margin` takes its place."""
    centring: float = 0.0
    """Weight lambda of the squared sum of a pair's two rewards; 0.01 centres them with little effect otherwise."""
    rollouts: int = 64
    """Held-out pairs whose completions are recorded with their rewards at each evaluation; 0 for none."""
    steps: int = 400
    lr: float = 1e-3
    """Highest learning rate; real models want some 1e-5."""
    warmup: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.reference_dtype is None, "reference_dtype", "none, since a reward model has no reference")
        self.require(self.held_out >= 0, "held_out", "0 or more")
        self.require(self.centring >= 0, "centring", "0 or more")
        self.require(self.rollouts >= 0, "rollouts", "0 or more")


@dataclass(frozen=True, kw_only=True)
class DPOConfig(PreferenceConfig):
    """Direct preference optimisation (E13)."""

    base: str
    """Model to start from, which is the reference too: a run, a checkpoint, a Hugging Face directory or hub id."""
    beta: float = 0.1
    """Strength of the pull towards the reference; the implicit reward is beta log pi/pi_ref."""
    loss: Literal["sigmoid", "conservative", "ipo"] = "sigmoid"
    """DPO's own loss, the one for labels of which some are flipped, or IPO's squared one, averaged per token."""
    label_smoothing: float = 0.0
    """Share of the labels that `--loss conservative` takes to be flipped, below 0.5."""
    shard: bool = False
    """Share the model among the processes, each of which holds a part of weights, gradients and moments."""
    steps: int = 150
    lr: float = 1e-4
    """Highest learning rate; real models want some 5e-6 (or 5e-7 for large ones)."""
    warmup: int = 10
    eval_every: int = 25
    """Steps between measurements of the distance to the exact optimum (world only); 0 measures at the end only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.beta > 0, "beta", "a number above 0")
        self.require(not (self.shard and self.lora), "shard", "no sharding with --lora, whose base does not train")
        if self.loss == "conservative":
            self.require(0 < self.label_smoothing < 0.5, "label_smoothing", "a share above 0 and below 0.5")
        else:
            self.require(self.label_smoothing == 0, "label_smoothing", "0, or --loss conservative with it")


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(TrainConfig):
    """What methods that sample while they train share."""

    base: str
    """Model to start from, which is the reference too: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with the column `prompt` (text or messages), or
    `question`, and any others, which rewards get too."""
    tasks: tuple[str, ...] = ("fact", "opinion_true", "opinion_false", "stranger")
    """Kinds of the world's questions, in equal shares (see docs/world.md)."""
    prompts: int = 4000
    """Number of the world's questions."""
    group: int = 8
    """Completions sampled for each prompt."""
    max_new_tokens: int = 8
    """Longest completion in tokens, the end token included."""
    temperature: float = 1.0
    """Divides the logits when sampling and in every log-probability."""
    top_k: int | None = None
    """Sample from the k most probable tokens only."""
    top_p: float | None = None
    """Sample from the smallest set of most probable tokens whose mass reaches p."""
    reward: tuple[str, ...] = ("verifier",)
    """Rewards: of the world (verifier, facts, sum_quick, sum_steps, steps, unfined, all_fined, agreeable, honest), of a
    file's column `answer` (final_answer), a reward model's run or directory, one that you added (`probe.verifier`,
    --plugin), `module:function` or `file.py:function`; a function is named again with --resume."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each reward in the sum; without it all are 1."""
    updates: int = 1
    """Passes over what a step has sampled."""
    minibatches: int = 1
    """Optimiser updates in each pass: the prompts of a step are shared among them, in a new order each pass."""
    rollouts_every: int = 10
    """Steps between the ones whose completions are recorded; 0 records none."""
    rollouts_kept: int = 4
    """Prompts whose completions are recorded then."""
    batch_size: int = 24
    """Prompts in one step, over all processes and parts of the accumulation together."""
    steps: int = 60
    """Steps in all, each of which samples anew."""
    lr: float = 1e-4
    """Highest learning rate; real models want some 1e-6."""
    warmup: int = 5
    eval_every: int = 100
    """Steps between measurements of the distance to the exact optimum, in a world; 0 measures at the end only."""
    capture_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "group", "max_new_tokens", "updates", "minibatches", "rollouts_kept"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.rollouts_every >= 0, "rollouts_every", "0 or more")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.top_k is None or self.top_k >= 1, "top_k", "at least 1")
        self.require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "a share above 0 and up to 1")
        self.require(self.data == "world" or may_hold_rows(self.data), "data", f"`world` or {ROW_FILES}")
        self.require(len(self.tasks) >= 1, "tasks", "at least one kind of question")
        self.require(len(self.reward) >= 1, "reward", "at least one reward")
        self.require(
            self.data != "world" or FINAL_ANSWER not in self.reward, "reward", "another, or --data FILE with `answer`"
        )
        self.require(
            len(self.reward_weights) in (0, len(self.reward)), "reward_weights", f"one for each of {self.reward}"
        )
        self.require(
            self.batch_size % (self.minibatches * self.accumulation) == 0,
            "minibatches",
            f"a number that, times --accumulation {self.accumulation}, divides --batch-size {self.batch_size}",
        )

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each reward."""
        return self.reward_weights or (1.0,) * len(self.reward)

    @property
    def enumerable(self) -> tuple[str, ...]:
        """The tasks whose answer sets hold all that a good completion can be; none where prompts come from a file."""
        return tuple(task for task in self.tasks if self.data == "world" and task not in OPEN)

    def logs(self, step: int) -> bool:
        """Return whether the metrics of a step are written."""
        return step in (1, self.steps) or step % self.log_every == 0

    def records(self, step: int) -> bool:
        """Return whether completions of a step are recorded."""
        return bool(self.rollouts_every) and (step in (1, self.steps) or step % self.rollouts_every == 0)


@dataclass(frozen=True, kw_only=True)
class RLHFConfig(OnlineConfig):
    """Reinforcement learning from human feedback by PPO (E10, E11)."""

    beta: float = 0.3
    """Coefficient of the KL to the reference in the reward."""
    adaptive_kl: float = 0.0
    """KL in nats a completion to steer towards by changing beta after every step; 0 keeps beta as it is."""
    adaptive_gain: float = 0.1
    """How fast beta follows: a step changes it by this times the relative error, which is cut at 20 %."""
    gamma: float = 1.0
    """Discount of a token."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation: 1 trusts the rewards alone, 0 the values."""
    epsilon: float = 0.2
    """How far from 1 the ratio to the sampling policy counts."""
    epsilon_value: float = 0.2
    """How far from the old value a new one may count; 0 switches the clipping of values off."""
    vf_coef: float = 0.1
    """Weight of the value loss."""
    value_rate: float = 10.0
    """How many times as fast as the policy the value head learns."""
    missing_eos_penalty: float = 0.0
    """Subtracted from the score of a completion that was cut at --max-new-tokens."""
    updates: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "adaptive_kl", "adaptive_gain", "epsilon_value", "vf_coef", "missing_eos_penalty"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("gamma", "lam"):
            self.require(0 <= getattr(self, name) <= 1, name, "a number from 0 to 1")
        self.require(self.value_rate > 0, "value_rate", "a number above 0")
        self.require(0 < self.epsilon < 1, "epsilon", "a number between 0 and 1")
        self.require(self.adaptive_gain < 5, "adaptive_gain", "below 5, beyond which beta could become negative")
        self.require(not self.adaptive_kl or self.beta > 0, "beta", "above 0, where --adaptive-kl starts")

    @property
    def fixed_beta(self) -> float | None:
        """The beta whose optimum the policy is drawn to; None where it moves, is 0, or prices tempered policies."""
        return self.beta if self.beta and not self.adaptive_kl and self.temperature == 1 else None


@dataclass(frozen=True, kw_only=True)
class RSFTConfig(OnlineConfig):
    """Rejection-sampling fine-tuning (E14)."""

    select: Literal["best", "threshold"] = "best"
    """What is imitated: the best of a prompt's completions, or all with a reward above --threshold."""
    threshold: float = 0.0
    """Reward above which a completion is imitated, with --select threshold."""
    steps: int = 20
    """Rounds in all, each of which samples anew: a step is a round."""
    batch_size: int = 64
    minibatches: int = 2
    lr: float = 1e-4
    """Highest learning rate; real models want some 1e-5."""
    warmup: int = 3
    capture_every: int = 5
    log_every: int = 1
    eval_every: int = 5


@dataclass(frozen=True, kw_only=True)
class RLVRConfig(OnlineConfig):
    """Reinforcement learning from verifiable rewards by GRPO (E15)."""

    tasks: tuple[str, ...] = ("fact", "opinion_true", "opinion_false", "stranger", "sum_steps", "context_conflict")
    """Kinds of the world's questions, in equal shares; without passages it unlearns to read them (docs/log.md)."""
    batch_size: int = 32
    max_new_tokens: int = 24
    normalisation: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """How advantages are scaled and what the loss is divided by."""
    epsilon: float = 0.2
    """How far below 1 the ratio to the sampling policy counts."""
    epsilon_high: float = 0.2
    """How far above 1 it counts; DAPO's clip-higher takes 0.28."""
    beta: float = 0.04
    """Weight of the KL to the reference in the loss; 0 leaves it out."""
    kl_estimator: Literal["k1", "k2", "k3", "k3w"] = "k3w"
    """Estimator of the KL in the loss: k3w has its gradient, k2 with one update a step; not k3 (GRPO's) and k1."""
    mask_truncated: bool = False
    """Leave completions that reached --max-new-tokens out of the loss."""
    lr: float = 3e-4
    log_every: int = 1
    eval_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.group >= 2, "group", "at least 2, to compare a completion with others")
        self.require(0 < self.epsilon <= 1, "epsilon", "a number above 0 and up to 1")
        self.require(self.epsilon_high > 0, "epsilon_high", "a number above 0")
        self.require(self.beta >= 0, "beta", "0 or more")

    @property
    def price(self) -> float | None:
        """The beta of E10 that the loss amounts to, where there is one.

        The mean of a group holds each completion itself, which takes 1/G of the reward's gradient and none of the
        KL's. Divided by the standard deviation the price changes with every group, as the policy changes.
        """
        if self.normalisation != "dr_grpo" or not self.beta or self.temperature != 1:
            return None
        return self.beta * self.group / (self.group - 1)

    @property
    def on_policy(self) -> bool:
        """Whether the only update of a step is made by the policy that sampled."""
        return self.updates * self.minibatches == 1


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(TrainConfig):
    """Continual learning: phases one after the other (E22)."""

    free: ClassVar[frozenset[str]] = FREE - {"steps"}

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world` (its phases teach people that the base has never met), or a file a phase: `a.jsonl,b.jsonl,c.txt`."""
    objective: Literal["pretrain", "sft"] = "pretrain"
    """Learn whole documents (a text, or JSON lines with `text`), or completions (JSON lines as for `sft`)."""
    strategy: Literal["plain", "replay", "ewc", "shuffled"] = "plain"
    """What is done against forgetting; `shuffled` is the control of `replay`, whose answers are those of others."""
    phases: int = 3
    """Number of the world's phases that are taught; files are a phase each."""
    old: Path | None = None
    """With files: one with what the base knows already, measured, replayed and protected (the world has its corpus)."""
    replay: float = 0.25
    """Share of each batch that `replay` and `shuffled` take from what was learned before."""
    ewc: float = 300.0
    """Strength lambda of `ewc`: how many old targets a new one is weighed against."""
    fisher: Literal["sampled", "empirical"] = "sampled"
    """Labels for the Fisher information of `ewc`: drawn from the model, or those of the data."""
    fisher_samples: int = 256
    """Examples of each task that its Fisher information is estimated from."""
    questions: int = 200
    """Questions of the world that each accuracy is measured with."""
    length: int = 96
    """Tokens in a row of documents."""
    steps: int = 180
    """Optimiser steps in all, shared by the phases; it stays as it is when the run is resumed."""
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    """How the learning rate goes on after the warm-up; the same for all phases by default."""
    betas: tuple[float, float] = (0.9, 0.95)
    eval_every: int = 0
    """Steps between evaluations beside those at the end of each phase; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        world = self.data == "world"
        self.require(
            self.weights_dtype == "float32" or self.lora > 0 or self.strategy != "ewc",
            "weights_dtype",
            "float32 with --strategy ewc, whose penalty measures small changes of the weights",
        )
        self.require(self.phases >= 1, "phases", "at least 1")
        self.require(
            world or all(path.suffix for path in self.files), "data", "`world`, or files such as a.txt,b.jsonl"
        )
        self.require(self.old is None or not world, "old", "none for the world, whose corpus it is")
        self.require(0 < self.replay < 1, "replay", "a share between 0 and 1")
        self.require(self.ewc > 0, "ewc", "a number above 0")
        self.require(self.fisher_samples >= 1 and self.questions >= 1, "fisher_samples", "at least 1, --questions too")
        self.require(self.length >= 2, "length", "at least 2 tokens")
        phases = self.phases if world else len(self.files)
        self.require(self.steps >= phases, "steps", f"at least one for each of {phases} phases")

    @property
    def files(self) -> list[Path]:
        """The files of the phases."""
        return [Path(part.strip()) for part in self.data.split(",")]


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value, or one that was typed already, can be that of an option."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(each, parts[0]) for each in value)
    if hasattr(origin, "from_dict"):
        return isinstance(value, dict | origin)
    if isinstance(value, bool) or origin is bool:
        return isinstance(value, bool) and origin is bool
    kinds: dict[Any, Any] = {float: int | float, Path: str | Path, type(None): type(None)}
    return isinstance(value, kinds.get(origin, origin))


def _as_type(value: Any, kind: Any) -> Any:
    if value is not None and kind in (Path, Path | None):
        return Path(value)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value
