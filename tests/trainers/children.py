"""Training in a process of its own that can be killed; one server imports torch once for all of them."""

import multiprocessing
import os
import resource
from multiprocessing.context import ForkServerProcess
from typing import Any

from tests.trainers.quick import METHODS, method_of, module
from trainers import loop
from trainers.config import TrainConfig

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__, *(path for path, _, _ in METHODS.values())])


def start(config: TrainConfig, environment: dict[str, str] | None = None, full_at: int = 0) -> ForkServerProcess:
    """Start a training; `environment` is added to the child's, and from step `full_at` on the disk is full."""
    child = CONTEXT.Process(target=run, args=(method_of(config), config.to_dict(), environment or {}, full_at))
    child.start()
    return child


def run(method: str, options: dict[str, Any], environment: dict[str, str], full_at: int) -> None:
    """What the child does; it ends with 1 after an error."""
    os.environ.update(environment)
    if full_at:
        fill_disk_at(full_at)
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
