"""The options of every training method, without importing torch or a model."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin

from probe.errors import ConfigError, brief
from probe.model.presets import PRESETS
from probe.options import option
from probe.recording.capture_plan import BUDGET, PARTS, CaptureOptions, Part
from probe.rows import ROW_FILES, may_hold_rows
from probe.world import WorldConfig
from probe.world.extensions import annotators, find_annotator

FREE = frozenset(
    {
        "out",
        "steps",
        "resume",
        "device",
        "track",
        "alarms",
        "stop_on",
        "save_every",
        "thin",
        "threads",
        "strict",
        "gradient_checkpointing",
        "shard",
    }
)
"""Options that may change when a run is resumed, since they do not affect the next step (`steps` may grow)."""
JUDGEMENTS = ("verifier", "facts", "sum_quick", "sum_steps", "steps", "unfined", "all_fined", "agreeable", "honest")
"""Names of the rewards that every world offers (`trainers.reward_functions.JUDGES`)."""
FINAL_ANSWER = "final_answer"
"""Name of the reward for problems of a file with a single answer, such as GSM8K's."""
OPEN = frozenset({"sum_steps", "map", "function", "function_new", "repeat"})
"""Kinds of questions with more answers than `World.candidates` lists, or with answers that may continue."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options that all methods share; a method's config adds options and may change the defaults."""

    free: ClassVar[frozenset[str]] = FREE

    out: Path
    """Directory of the run; it must be new or empty, unless --resume is given."""
    data: str = "world"
    """Source of the examples: `world` (the synthetic world) or the path of a file."""
    strict: bool = False
    """Refuse a data file that has unusable rows; by default such rows are skipped and counted."""
    steps: int = 1000
    """Total number of optimiser steps."""
    batch_size: int = 32
    """Examples per optimiser step, over all processes and gradient-accumulation steps."""
    accumulation: int = 1
    """Gradient-accumulation steps per batch; more steps need less memory and give the same result."""
    lr: float = 1e-3
    """Highest learning rate."""
    warmup: int = 0
    """Steps over which the learning rate rises linearly from 0; more than two are limited to half of --steps."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Schedule of the learning rate after the warm-up."""
    final_lr: float = 0.1
    """Final learning rate of `cosine` and `linear`, as a share of --lr."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; it applies to matrices, not to biases and norms."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip: float = 1.0
    """Largest global norm of the gradient; 0 disables clipping."""
    lora: int = 0
    """Rank of a LoRA adapter that is trained in place of the weights (needs peft); 0 trains all weights."""
    lora_alpha: float = 16.0
    """Scale of the adapter: its product B A is multiplied by --lora-alpha / --lora."""
    lora_targets: tuple[str, ...] = ()
    """Names of the layers with an adapter, such as `q_proj v_proj`; default: all linear layers but the unembedding."""
    seed: int = 0
    """Seed of all random draws: initial weights, order of the examples, dropout, samples."""
    save_every: int = 500
    """Steps between checkpoints; 0 writes only the last. The last step and an interruption always write one."""
    log_every: int = 10
    """Steps between rows of metrics; a row holds the values of one step."""
    eval_every: int = 100
    """Steps between evaluations on held-out data, if the method has any; 0 evaluates only at the end."""
    capture_every: int = 50
    """Steps between captures of attention, lens and entropy on the probe prompts; 0 disables captures."""
    capture_parts: tuple[Part, ...] = PARTS
    """Parts that captures hold; rewards stand for rewards, KL and samples."""
    capture_layers: tuple[int, ...] = ()
    """Layers whose attention is captured, from 0; default: all."""
    capture_heads: tuple[str, ...] = ()
    """Heads whose attention is captured, such as `L3H1 L5H0`; default: all."""
    capture_tokens: int = 0
    """Last tokens of each prompt at which captures are made; 0 stands for all."""
    capture_budget: str = BUDGET
    """Largest size of one capture, such as `200MB`; what exceeds it is left out, and `0` leaves nothing out."""
    thin: int = 0
    """Captures (at least 2) kept when the run is finished, with only the last checkpoint, in half precision; 0 keeps
    all."""
    probe_prompts: Path | None = None
    """File of prompts to capture on, one per line, or JSON Lines with `text` and `answers`; default: prompts of the
    data."""
    evaluate: int = 400
    """Items per condition in the final evaluation on the world; 0 disables it."""
    resume: bool = False
    """Continue the run in --out from its last checkpoint, bit for bit; options not given keep the values of the run."""
    device: str | None = None
    """Device such as `cpu`, `cuda` or `mps`; default: the best available, or the one that `accelerate launch`
    assigns."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the computation: `bfloat16` uses autocast; weights and optimiser stay in float32."""
    weights_dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the model's weights; with `bfloat16` the optimiser updates a float32 copy."""
    reference_dtype: Literal["float32", "bfloat16"] | None = None
    """Number format of the frozen reference for KL and captures; default: --weights-dtype; --lora needs no copy."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, one more forward pass, the same result."""
    alarms: bool = False
    """Look for faults of training in the metrics while it trains, for at most 1 % of the time; an alarm is a line on
    standard error and in the run's alarms.jsonl."""
    stop_on: tuple[str, ...] = ()
    """Faults at whose alarm training stops with a checkpoint, such as `rate_too_high no_signal`, or `any`; implies
    --alarms."""
    track: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Also send the metrics to this tracker, through accelerate."""
    threads: int = 0
    """CPU threads of torch; 0 keeps torch's default. On a busy machine 1 can be many times faster than 2."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type in (Path, Path | None):  # Python callers may pass text
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
        _ = self.captures
        if self.stop_on:
            from probe.diagnosis.fault_record import check_names

            check_names(self.stop_on)
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
    def captures(self) -> CaptureOptions:
        """What captures hold.

        Raises:
            ConfigError: an option of captures is not possible.
        """
        return CaptureOptions(
            parts=self.capture_parts,
            layers=self.capture_layers,
            heads=self.capture_heads,
            tokens=self.capture_tokens,
            budget=self.capture_budget,
        )

    @property
    def warmup_steps(self) -> int:
        """The actual number of warm-up steps: `warmup`, shortened so that every training reaches --lr."""
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
        """Make a config from the output of `to_dict`; options unknown to this version are ignored.

        Raises:
            ConfigError: a value does not fit its option's type.
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
    """Model to continue from (a run, a checkpoint, a Hugging Face directory or hub id); default: a new model."""
    preset: str = "tiny"
    """Size of a new model: `tiny`, `icl` or `small`."""
    length: int = 96
    """Tokens per row of training data."""
    tokenizer: Literal["bpe", "char"] = "bpe"
    """Tokenizer of a new model trained on a file: byte pairs or characters."""
    vocab_size: int = 4096
    """Largest vocabulary of that tokenizer."""
    world: WorldConfig = field(default_factory=WorldConfig)
    """Options of the world of a new model."""
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
    """Kinds of the world's questions with their shares, such as `fact 0.7 stranger 0.3`; default: the world's
    mixture."""
    turns: Literal["every", "last"] = "every"
    """Messages of the assistant in a conversation that are learned."""
    longest: int = 0
    """Largest number of tokens of an example; longer ones are skipped and counted; 0: the model's context."""
    held_out: float = 0.05
    """Share of the prompts (at most 500) whose examples are held out for evaluation; 0 holds out none."""
    shard: bool = False
    """Shard the model over the processes: each holds a part of weights, gradients and moments."""
    steps: int = 150
    lr: float = 3e-4
    """Highest learning rate; for real models about 2e-5."""
    warmup: int = 20
    eval_every: int = 25
    """Steps between evaluations on the held-out examples; 0 evaluates only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.data == "world" or may_hold_rows(self.data), "data", f"`world` or {ROW_FILES}")
        self.require(self.examples >= 1, "examples", "at least 1")
        self.require(self.longest >= 0, "longest", "0 or more")
        self.require(not (self.shard and self.lora), "shard", "no sharding with --lora, whose base does not train")
        self.require(0 <= self.held_out < 1, "held_out", "a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class PreferenceConfig(TrainConfig):
    """Options of the methods that learn from preference pairs."""

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with `prompt`, `chosen`, `rejected` (strings or lists
    of messages); without `prompt`, the common beginning of both is the prompt."""
    annotator: str = field(default="agreeable", metadata={"suggestions": annotators})
    """Annotator of the world's pairs: agreeable, honest, indifferent (coin tosses), or one that you added
    (`probe.annotator`, --plugin); knobs can be changed, as in `agreeable+abstain=0+checks=0.9` (docs/world.md)."""
    pairs: int = 3000
    """Number of the world's pairs."""
    pairs_from: Literal["candidates", "samples"] = "samples"
    """Source of the world's completions: samples of the base, or the candidate answers (compared in docs/log.md)."""
    batch_size: int = 64
    """Pairs per optimiser step, over all processes and gradient-accumulation steps."""

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
    """Number of the world's pairs, including the held-out ones; with few pairs it first learns to penalise
    abstaining."""
    pairs_from: Literal["candidates", "samples"] = "candidates"
    """Source of the world's completions: samples of the base, or the candidate answers, which contrast claim and
    truth."""
    held_out: float = 0.1
    """Pairs held out for evaluation: a number if 1 or more, a share if below 1; 0 for none."""
    margin: float = 0.0
    """Margin m by which the chosen completion should win, in nats; a column `margin` in the data overrides it."""
    centring: float = 0.0
    """Weight lambda of the squared sum of a pair's rewards; 0.01 centres them with little other effect."""
    rollouts: int = 64
    """Held-out pairs whose completions are recorded with their rewards at each evaluation; 0 for none."""
    steps: int = 400
    lr: float = 1e-3
    """Highest learning rate; for real models about 1e-5."""
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
    """Initial model, also the reference: a run, a checkpoint, a Hugging Face directory or hub id."""
    beta: float = 0.1
    """Strength of the KL regularisation; the implicit reward is beta log pi/pi_ref."""
    loss: Literal["sigmoid", "conservative", "ipo"] = "sigmoid"
    """Loss: DPO's (sigmoid), DPO's for partly flipped labels (conservative), or IPO's squared loss per token (ipo)."""
    label_smoothing: float = 0.0
    """Share of flipped labels that `--loss conservative` assumes, below 0.5."""
    shard: bool = False
    """Shard the model over the processes: each holds a part of weights, gradients and moments."""
    steps: int = 150
    lr: float = 1e-4
    """Highest learning rate; for real models about 5e-6 (5e-7 for large ones)."""
    warmup: int = 10
    eval_every: int = 25
    """Steps between measurements of the distance to the exact optimum (world only); 0 measures only at the end."""

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
    """Options of the methods that sample while they train."""

    base: str
    """Initial model, also the reference: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a file of rows (.jsonl, .csv, .parquet) with the column `prompt` (text or messages), or `question`;
    all other columns are passed to the rewards."""
    tasks: tuple[str, ...] = ("fact", "opinion_true", "opinion_false", "stranger")
    """Kinds of the world's questions, in equal shares (see docs/world.md)."""
    prompts: int = 4000
    """Number of the world's questions."""
    held_out: int = 0
    """Number of prompts of the file that are not trained on but asked at every capture, for pass@k (questions of the
    world are asked anyway); right is a completion with a first reward above 0."""
    group: int = 8
    """Completions sampled for each prompt."""
    max_new_tokens: int = 8
    """Largest number of tokens of a completion, including the end token."""
    temperature: float = 1.0
    """Temperature: it divides the logits in sampling and in all log-probabilities."""
    top_k: int | None = None
    """Sample only from the k most probable tokens."""
    top_p: float | None = None
    """Sample from the smallest set of most probable tokens whose mass reaches p."""
    reward: tuple[str, ...] = ("verifier",)
    """Rewards: of the world (verifier, facts, sum_quick, sum_steps, steps, unfined, all_fined, agreeable, honest), from
    a file's column `answer` (final_answer), the run or directory of a reward model, one that you added
    (`probe.verifier`, --plugin), `module:function` or `file.py:function`; a function must be named again with
    --resume."""
    reward_weights: tuple[float, ...] = ()
    """Weight of each reward in the sum; by default all are 1."""
    updates: int = 1
    """Passes over the completions that a step has sampled."""
    minibatches: int = 1
    """Optimiser updates per pass; each pass splits the prompts of a step among them in a new order."""
    rollouts_every: int = 10
    """Steps between recordings of completions; 0 records none."""
    rollouts_kept: int = 4
    """Number of prompts whose completions are recorded."""
    batch_size: int = 24
    """Prompts per step, over all processes and gradient-accumulation steps."""
    steps: int = 60
    """Total number of steps; each step samples new completions."""
    lr: float = 1e-4
    """Highest learning rate; for real models about 1e-6."""
    warmup: int = 5
    eval_every: int = 100
    """Steps between measurements of the distance to the exact optimum, in a world; 0 measures only at the end."""
    capture_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "group", "max_new_tokens", "updates", "minibatches", "rollouts_kept"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.rollouts_every >= 0, "rollouts_every", "0 or more")
        self.require(self.held_out >= 0, "held_out", "0 or more")
        self.require(
            not self.held_out or (self.data != "world" and self.capture_every > 0),
            "held_out",
            "0 without --data FILE or without captures",
        )
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
        """The tasks whose answer sets contain every good completion; none if prompts come from a file."""
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
    """Target KL in nats per completion, reached by adapting beta after every step; 0 keeps beta fixed."""
    adaptive_gain: float = 0.1
    """Gain of the adaptation: a step changes beta by this times the relative error of the KL, clipped to 20 %."""
    gamma: float = 1.0
    """Discount factor per token."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation: 1 relies on the rewards alone, 0 on the values."""
    epsilon: float = 0.2
    """Clipping range of the ratio to the sampling policy around 1."""
    epsilon_value: float = 0.2
    """Clipping range of a value around the old value; 0 disables it."""
    vf_coef: float = 0.1
    """Weight of the value loss."""
    value_rate: float = 10.0
    """Learning rate of the value head relative to the policy's."""
    missing_eos_penalty: float = 0.0
    """Penalty subtracted from the score of a completion that is truncated at --max-new-tokens."""
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
        """The beta whose optimum the policy approaches; None if it is adapted or 0, or if the temperature is not 1."""
        return self.beta if self.beta and not self.adaptive_kl and self.temperature == 1 else None


@dataclass(frozen=True, kw_only=True)
class RSFTConfig(OnlineConfig):
    """Rejection-sampling fine-tuning (E14)."""

    select: Literal["best", "threshold"] = "best"
    """Selection of completions to imitate: the best of each prompt, or all with a reward above --threshold."""
    threshold: float = 0.0
    """Reward above which --select threshold imitates a completion."""
    steps: int = 20
    """Total number of rounds; each step is a round that samples new completions."""
    batch_size: int = 64
    minibatches: int = 2
    lr: float = 1e-4
    """Highest learning rate; for real models about 1e-5."""
    warmup: int = 3
    capture_every: int = 5
    log_every: int = 1
    eval_every: int = 5


@dataclass(frozen=True, kw_only=True)
class RLVRConfig(OnlineConfig):
    """Reinforcement learning from verifiable rewards by GRPO (E15)."""

    tasks: tuple[str, ...] = ("fact", "opinion_true", "opinion_false", "stranger", "sum_steps", "context_conflict")
    """Kinds of the world's questions, in equal shares; without passages the model forgets how to use them
    (docs/log.md)."""
    batch_size: int = 32
    max_new_tokens: int = 24
    normalisation: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "grpo"
    """Normalisation of the advantages and of the loss; gspo clips the ratio of whole completions, cispo bounds the
    weight of a token and keeps its gradient."""
    epsilon: float = 0.2
    """Clipping range of the ratio to the sampling policy below 1; GSPO's paper uses 3e-4, and cispo has none."""
    epsilon_high: float = 0.2
    """Clipping range of the ratio above 1; DAPO's clip-higher uses 0.28, GSPO's paper 4e-4."""
    beta: float = 0.04
    """Weight of the KL to the reference in the loss; 0 leaves it out."""
    kl_estimator: Literal["k1", "k2", "k3", "k3w"] = "k3w"
    """Estimator of the KL in the loss: k3w has the KL's gradient, k2 with one update per step; k3 (GRPO's) and k1 do
    not."""
    entropy_coef: float = 0.0
    """Weight of an entropy bonus in the loss; with --entropy-target its first value."""
    entropy_target: float = 0.0
    """Entropy in nats per token below which the bonus is on: its weight then grows by --entropy-coef-delta a step, and
    falls otherwise; 0 keeps the weight fixed."""
    entropy_coef_delta: float = 0.005
    """Change of the bonus's weight per step with --entropy-target."""
    dynamic_sampling: int = 0
    """Largest number of times that the groups of a step with equal rewards are replaced by groups of other prompts
    (DAPO's dynamic sampling); 0 keeps them."""
    mask_truncated: bool = False
    """Exclude completions that reached --max-new-tokens from the loss."""
    lr: float = 3e-4
    log_every: int = 1
    eval_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.group >= 2, "group", "at least 2, to compare a completion with others")
        self.require(0 < self.epsilon <= 1, "epsilon", "a number above 0 and up to 1")
        self.require(
            self.normalisation != "cispo" or self.epsilon == RLVRConfig.epsilon,
            "epsilon",
            f"{RLVRConfig.epsilon}, the default, with --normalisation cispo, which has no lower bound",
        )
        self.require(self.epsilon_high > 0, "epsilon_high", "a number above 0")
        for name in ("beta", "dynamic_sampling", "entropy_coef", "entropy_target"):
            self.require(getattr(self, name) >= 0, name, "0 or more")
        self.require(self.entropy_coef_delta > 0, "entropy_coef_delta", "a number above 0")

    @property
    def price(self) -> float | None:
        """The beta of E10 to which the loss is equivalent, if there is one.

        The mean of a group contains each completion itself, which removes 1/G of the reward's gradient and nothing of
        the KL's. If rewards are divided by the standard deviation, the equivalent beta differs from group to group, and
        with dynamic sampling from prompt to prompt. An entropy bonus is another objective.
        """
        if self.normalisation != "dr_grpo" or not self.beta or self.temperature != 1:
            return None
        if self.dynamic_sampling or self.entropy_coef or self.entropy_target:
            return None
        return self.beta * self.group / (self.group - 1)

    @property
    def on_policy(self) -> bool:
        """Whether each step makes a single update, so that the updated policy is the one that sampled."""
        return self.updates * self.minibatches == 1


@dataclass(frozen=True, kw_only=True)
class ContinualConfig(TrainConfig):
    """Continual learning in consecutive phases (E22)."""

    free: ClassVar[frozenset[str]] = FREE - {"steps"}

    base: str
    """Model to start from: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world` (its phases teach people unknown to the base), or one file per phase: `a.jsonl,b.jsonl,c.txt`."""
    objective: Literal["pretrain", "sft"] = "pretrain"
    """Learn whole documents (a text, or JSON lines with `text`), or completions (JSON lines as for `sft`)."""
    strategy: Literal["plain", "replay", "ewc", "shuffled"] = "plain"
    """Strategy against forgetting; `shuffled` is a control for `replay` that replays the answers of other questions."""
    phases: int = 3
    """Number of the world's phases to teach; with files, each file is a phase."""
    old: Path | None = None
    """File with old knowledge of the base, to measure, replay and protect, for phases from files (a world has its
    corpus)."""
    replay: float = 0.25
    """Share of each batch that `replay` and `shuffled` take from earlier tasks."""
    ewc: float = 300.0
    """Strength lambda of `ewc`: the number of old targets weighed against one new target."""
    fisher: Literal["sampled", "empirical"] = "sampled"
    """Labels for the Fisher information of `ewc`: drawn from the model, or those of the data."""
    fisher_samples: int = 256
    """Examples per task from which the Fisher information is estimated."""
    questions: int = 200
    """Number of the world's questions for each accuracy."""
    length: int = 96
    """Tokens per row of documents."""
    steps: int = 180
    """Total number of optimiser steps over all phases; it cannot change when the run is resumed."""
    schedule: Literal["cosine", "linear", "constant"] = "constant"
    """Schedule of the learning rate after the warm-up; constant by default, so that all phases are alike."""
    betas: tuple[float, float] = (0.9, 0.95)
    eval_every: int = 0
    """Steps between evaluations in addition to those at the end of each phase; 0 for none."""

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
    """Return whether a JSON value, or an already typed value, fits an option's type."""
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
