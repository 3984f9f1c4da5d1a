"""Training in a process of its own that can be killed; one server imports torch once for all of them."""

import multiprocessing
import os
import resource
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from probe.model import loading
from tests.trainers.quick import METHODS, method_of, module
from trainers import loop
from trainers.config import TrainConfig

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, *(path for path, _, _ in METHODS.values())])


def start(
    config: TrainConfig, environment: dict[str, str] | None = None, full_at: int = 0, kill_at: int = 0
) -> ForkServerProcess:
    """Start a training; `environment` is added to the child's.

    From step `full_at` on the disk is full; in the checkpoint of step `kill_at` the process is killed.
    """
    arguments = (method_of(config), config.to_dict(), environment or {}, full_at, kill_at)
    child = CONTEXT.Process(target=run, args=arguments)
    child.start()
    return child


def run(method: str, options: dict[str, Any], environment: dict[str, str], full_at: int, kill_at: int) -> None:
    """What the child does; it ends with 1 after an error."""
    os.environ.update(environment)
    if full_at:
        fill_disk_at(full_at)
    if kill_at:
        kill_in_checkpoint(kill_at)
    kind = METHODS[method][1]
    module(method).train(kind.from_dict(options))


def fill_disk_at(step: int) -> None:
    """From this step on the kernel refuses to let a file grow beyond 20 kB: it stands in for a full disk."""
    before = loop.learning_rate

    def learning_rate(at: int, config: TrainConfig) -> float:
        if at == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        return before(at, config)

    loop.learning_rate = learning_rate


def kill_in_checkpoint(number: int) -> None:
    """While the model of the checkpoint of this step is written the process is killed."""
    before = loading.write_tokenizer

    def write_tokenizer(tokenizer: Any, directory: Path) -> None:
        before(tokenizer, directory)
        if f"{number:08d}." in str(directory):
            os.kill(os.getpid(), signal.SIGKILL)

    loading.write_tokenizer = write_tokenizer
