"""What methods that sample while they train share: their options, their prompts, the minibatches of a step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

import probe.world
from probe import LM
from probe.rows import Row, Rows
from probe.world import World
from trainers.config import TrainConfig
from trainers.judges import FINAL_ANSWER
from trainers.prompts import Prompts, file_prompts, need_world, read_prompts, world_prompts
from trainers.rewards import check_files
from trainers.session import Session, derive_seed

SAMPLING, SHUFFLING, ASKING = 1, 2, 3
"""What a seed is derived for, beside the run's seed and the step; evaluation asks with seeds that are not derived."""

OPEN = frozenset({"sum_steps", "map", "function", "function_new", "repeat"})
"""Questions that can be answered in more ways than `World.candidates` lists, or whose answers go on."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OnlineConfig(TrainConfig):
    """What methods that sample while they train share."""

    base: str
    """Model to start from, which is the reference too: a run, a checkpoint, a Hugging Face directory or hub id."""
    data: str = "world"
    """`world`, or a .jsonl file with the column `prompt` (text or messages), or `question`, and any others, which
    rewards get too."""
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
    """Rewards: of the world (verifier, facts, sum_quick, sum_steps, steps, agreeable, honest), of a file's column
    `answer` (final_answer), a reward model's run or directory, one that you added (`probe.verifier`, --plugin),
    `module:function` or `file.py:function`; a function is named again with --resume."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "group", "max_new_tokens", "updates", "minibatches", "rollouts_kept"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        self.require(self.rollouts_every >= 0, "rollouts_every", "0 or more")
        self.require(self.temperature > 0, "temperature", "a number above 0")
        self.require(self.top_k is None or self.top_k >= 1, "top_k", "at least 1")
        self.require(self.top_p is None or 0 < self.top_p <= 1, "top_p", "a share above 0 and up to 1")
        self.require(self.data == "world" or self.data.endswith(".jsonl"), "data", "`world` or a .jsonl file")
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
        """Whether the metrics of a step are written."""
        return step in (1, self.steps) or step % self.log_every == 0

    def records(self, step: int) -> bool:
        """Whether completions of a step are recorded."""
        return bool(self.rollouts_every) and (step in (1, self.steps) or step % self.rollouts_every == 0)


def prompt_rows(config: OnlineConfig) -> Rows[Row] | None:
    """The rows of the file of prompts, read before a model is loaded; None for the world's questions.

    Raises:
        ConfigError: the file of a reward function is not there.
        DataError: see `trainers.prompts.read_prompts`.
    """
    check_files(config.reward)
    if config.data == "world":
        return None
    return read_prompts(Path(config.data), config.strict, FINAL_ANSWER in config.reward)


def load_prompts(
    session: Session, config: OnlineConfig, lm: LM, rows: Rows[Row] | None
) -> tuple[World | None, Prompts]:
    """The prompts that the options ask for, and the world of the base if it has one.

    Raises:
        ConfigError: the world's questions were asked for and the base has no world.
        DataError: see `trainers.prompts`.
    """
    world = probe.world.of(lm)
    if rows is not None:
        return world, file_prompts(lm, rows, config.max_new_tokens, session.say)
    seed = derive_seed(config.seed, ASKING)
    return world, world_prompts(lm, need_world(world, config.base), config.tasks, config.prompts, seed)


def minibatches(config: OnlineConfig, step: int, examples: Sequence[T]) -> Iterator[Sequence[T]]:
    """The examples of each optimiser update of a step: `updates` passes each in its own order, cut in minibatches."""
    size = len(examples) // config.minibatches
    for update in range(config.updates):
        order: Sequence[int] = range(len(examples))
        if config.minibatches > 1:
            seed = derive_seed(config.seed, step, update, SHUFFLING)
            order = np.random.default_rng(seed).permutation(len(examples)).tolist()
        for first in range(0, len(order), size):
            yield [examples[i] for i in order[first : first + size]]
