"""Trainings of one model that two processes share, and what each of them holds: for tests/trainers/test_sharding.py."""

import gc
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tests.trainers.children import CONTEXT
from tests.trainers.quick import METHODS, module
from trainers import sharding
from trainers.optimizer import Optimizer


def start(method: str, options: dict[str, Any], environment: dict[str, str], report: Path) -> Any:
    """Start a process that trains and writes into `report` what it held."""
    child = CONTEXT.Process(target=run, args=(method, options, environment, report))
    child.start()
    return child


def run(method: str, options: dict[str, Any], environment: dict[str, str], report: Path) -> None:
    """What the child does."""
    os.environ.update(environment)
    held: dict[str, Any] = {"gathered": 0, "block": 0, "before": alive()}
    watch_steps(held)
    watch_gathering(held)
    module(method).train(METHODS[method][1].from_dict(options))
    report.write_text(json.dumps(held))


def watch_steps(held: dict[str, Any]) -> None:
    """After each update: numbers of weights and moments here, and the bytes of all tensors that are alive."""
    before = Optimizer.step

    def step(self: Optimizer, closure: None = None) -> None:
        before(self, closure)
        parts = [updated for _, updated in self.pairs.values()]
        held["weights"] = sum(part.numel() for part in parts)
        moments = [value for part in parts for kind, value in self.state[part].items() if kind != "step"]
        held["moments"] = sum(value.numel() for value in moments)
        held["whole"] = sum(weight.numel() for weight, _ in self.pairs.values())
        self.zero_grad()
        held["alive"] = alive()

    Optimizer.step = step  # type: ignore[method-assign]


def alive() -> int:
    """Bytes of the distinct storages of all tensors that Python can reach."""
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if type(each) in (Tensor, torch.nn.Parameter) and each.device.type == "cpu" and not each.is_sparse:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def watch_gathering(held: dict[str, Any]) -> None:
    """The largest numbers of gathered weights that were alive at a time, while no checkpoint was written.

    `gathered` counts all of them, `block` the matrices of blocks, which are gathered together.
    """
    before, living = sharding.gather, dict[int, tuple[StorageWeakRef, int, bool]]()

    def gather(*weights: tuple[Tensor, Tensor]) -> list[Tensor]:
        wholes = before(*weights)
        for whole in wholes:
            storage, in_block = whole.untyped_storage(), len(weights) > 1 and whole.ndim > 1
            living[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes() // whole.element_size(), in_block)
        alive_now = [(n, in_block) for ref, n, in_block in living.values() if not ref.expired()]
        held["gathered"] = max(held["gathered"], sum(n for n, _ in alive_now))
        held["block"] = max(held["block"], sum(n for n, in_block in alive_now if in_block))
        return wholes

    def state(self: sharding.SharedLM, keep: bool = True) -> dict[str, Tensor]:
        sharding.gather = before
        try:
            return whole_state(self, keep)
        finally:
            sharding.gather = gather

    whole_state = sharding.SharedLM.state
    sharding.gather, sharding.SharedLM.state = gather, state  # type: ignore[method-assign]
