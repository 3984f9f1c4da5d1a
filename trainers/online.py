"""What methods that sample while they train share: their options, their prompts, the minibatches of a step."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

import probe.world
from probe import LM
from probe.rows import Row, Rows
from probe.world import World
from trainers.config import FINAL_ANSWER, OnlineConfig
from trainers.prompts import Prompts, file_prompts, need_world, read_prompts, world_prompts
from trainers.rewards import check_files
from trainers.session import Session, derive_seed

SAMPLING, SHUFFLING, ASKING = 1, 2, 3
"""What a seed is derived for, beside the run's seed and the step; evaluation asks with seeds that are not derived."""


T = TypeVar("T")


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
