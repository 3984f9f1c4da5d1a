"""One process among all processes of a training: its device, its share of the batch, and sums over processes.

`accelerate launch --multi_gpu --num_processes 2 -m trainers.dpo ...` starts two processes, one per device; otherwise
there is a single process. On CPUs set `ACCELERATE_USE_CPU=true` (docs/devices.md).
"""

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from probe import LM, Run
from probe.commands.progress import say
from probe.errors import ConfigError, MissingToolError
from probe.rows import Rows, read_text
from trainers.config import TrainConfig
from trainers.resume import check_checkpoints, check_out

T = TypeVar("T")
_SUPPORTED = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU")


class Session:
    """The session of one training, made before anything is loaded, so that a wrong `--out` is refused immediately."""

    def __init__(self, config: TrainConfig) -> None:
        """Check the options as far as possible without data and model.

        Raises:
            RunError: --out is not empty, there is nothing to resume, or its checkpoint is damaged.
            ConfigError: the batch or the device does not suit the number of processes.
            DataError: the probe prompts cannot be read.
            MissingToolError: the package of --track is not installed.
        """
        self.config = config
        check_out(config.out, config.resume)
        if config.resume:
            check_checkpoints(Run(config.out))
        if config.probe_prompts is not None:
            read_text(config.probe_prompts)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.accelerator = Accelerator(
            mixed_precision="no",  # autocast is done here, per step: accelerate fixes it for the life of the process
            log_with=config.track,
            project_dir=config.out / "tracker",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.rank, self.processes = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        if self.accelerator.distributed_type.value not in _SUPPORTED:
            raise ConfigError(
                f"accelerate was set up for {self.accelerator.distributed_type.value}; expected data parallelism"
                " (every process holds the whole model): choose it with `accelerate config`."
            )
        parts = self.processes * config.accumulation
        if config.batch_size % parts:
            raise ConfigError(
                f"--batch-size {config.batch_size} cannot be shared by {self.processes} processes with"
                f" --accumulation {config.accumulation}: give a multiple of {parts}."
            )
        if config.track and not self.accelerator.log_with:
            raise MissingToolError(
                f"--track {config.track} needs the package `{config.track}`: `pip install {config.track}`."
            )
        self.shards = bool(getattr(config, "shard", False))
        """Whether the processes share one model, each holding a part of it."""
        if self.shards and self.processes == 1:
            raise ConfigError(
                "--shard shares a model among several processes and there is one: start more (docs/devices.md), or"
                " leave it out."
            )
        self.measures = self.main or self.shards
        """Whether this process captures and evaluates: the main one, or all if the model is shared."""
        self.device = self._device()
        self.accelerator.wait_for_everyone()  # no process starts the run before all have checked that --out is free

    def _device(self) -> torch.device:
        if self.config.device is None:
            return self.accelerator.device
        if self.processes > 1:
            raise ConfigError(
                f"--device {self.config.device} was given to {self.processes} processes: leave it out, or choose the"
                " device with `accelerate launch` (for the CPU: `ACCELERATE_USE_CPU=true accelerate launch`)."
            )
        try:
            device = torch.device(self.config.device)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"--device {self.config.device} cannot be used here ({str(error).splitlines()[0]}): leave it out, or"
                " give `cpu`, `cuda` or `mps`."
            ) from error
        return device

    def load(self, ref: str | Path) -> LM:
        """Load a model for training or comparison on the device, in the format --weights-dtype."""
        return LM.load(ref, device=self.device, dtype=self.weights)

    @property
    def weights(self) -> torch.dtype:
        """Number format of the trained weights."""
        return torch.bfloat16 if self.config.weights_dtype == "bfloat16" else torch.float32

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that computes in `config.dtype`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    @property
    def part_size(self) -> int:
        """Number of examples per forward pass."""
        return self.config.batch_size // (self.processes * self.config.accumulation)

    def free_memory(self) -> None:
        """Free cached memory of an accelerator; on the CPU nothing is cached, and garbage collection would be slow."""
        if self.device.type != "cpu":
            self.accelerator.free_memory()

    def say(self, text: str) -> None:
        """Print a message once, on the main process."""
        if self.main:
            say(text)

    def tell(self, rows: Rows[Any]) -> None:
        """Print the messages about a data file."""
        for note in rows.notes():
            self.say(note)

    def parts(self, batch: Sequence[T]) -> list[Sequence[T]]:
        """Return this process's share of a batch, one part for each gradient-accumulation step.

        The length of the batch must be a multiple of processes x accumulation steps.
        """
        first = self.rank * self.config.accumulation
        size = len(batch) // (self.processes * self.config.accumulation)
        return [batch[i * size : (i + 1) * size] for i in range(first, first + self.config.accumulation)]

    def shares(self, items: Sequence[T]) -> list[Sequence[T]]:
        """Return this process's share of items, in parts for one forward pass each.

        All processes have the same number of parts; the last one may be empty.
        """
        size = self.part_size
        starts = range(0, len(items), self.processes * size)
        return [items[start + self.rank * size : start + (self.rank + 1) * size] for start in starts]

    def total(self, values: Sequence[float] | torch.Tensor) -> list[float]:
        """Sum each value over the processes (in double precision)."""
        tensor = torch.as_tensor(values, dtype=torch.float64)
        if self.processes > 1:
            tensor = self.accelerator.reduce(tensor.to(self.device), reduction="sum")
        return tensor.tolist()

    def seed(self, step: int) -> None:
        """Seed Python, NumPy and torch for one step.

        Random draws of a step depend only on (seed, step, process), so a resumed run needs no saved generator state,
        and evaluations or captures in between have no effect.
        """
        seed = derive_seed(self.config.seed, step, self.rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def derive_seed(*key: int) -> int:
    """Derive an independent 32-bit seed from each key."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])
