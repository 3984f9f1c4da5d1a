"""The state from which a run is resumed: model, optimiser moments and counters, without pickle.

    checkpoints/STEP/   model.safetensors, config.json, tokenizer files      a Hugging Face directory
                        optimizer.safetensors, trainer.json, method.safetensors           written by this module

There is no generator state: each step is seeded by (seed, step), see `Session.seed`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe import Run
from probe.errors import RunError
from probe.untrusted import WEIGHTS, read_json, regular
from trainers.config import TrainConfig
from trainers.optimizer import Optimizer
from trainers.sharding import cut, gather
from trainers.trainee import Trainee

STATE, OPTIMIZER, METHOD = "trainer.json", "optimizer.safetensors", "method.safetensors"
MASTER = "master"
"""Key of the float32 copies of weights in bfloat16."""
SCHEMA = 1


@dataclass(frozen=True)
class State:
    """Counters of a run after `step` optimiser steps."""

    step: int = 0
    num_tokens: int = 0


def last_checkpoint(config: TrainConfig) -> Path | None:
    """Return the newest checkpoint of the run that `config` resumes; None for a new run, or before the first one."""
    checkpoints = Run(config.out).checkpoints() if config.resume else []
    return checkpoints[-1].path if checkpoints else None


def save(
    directory: Path | None, trainee: Trainee, optimizer: Optimizer, state: State, extra: Mapping[str, Tensor]
) -> None:
    """Write model, optimiser, counters and the method's state into `directory`.

    Without a directory this process writes nothing; with a shared model (--shard) it sends its parts to the process
    that writes.
    """
    if directory is None:
        trainee.give_parts()
    else:
        trainee.save(directory)
    moments = {}
    for name, (weight, updated) in optimizer.pairs.items():
        values = dict(optimizer.state.get(updated, {}))
        if updated.dtype != weight.dtype:
            values[MASTER] = updated.detach()
        for kind, value in values.items():
            whole = value if kind == "step" else gather((weight, value))[0]
            if directory is not None:
                moments[f"{name}/{kind}"] = whole.cpu().contiguous()
    if directory is None:
        return
    save_file(moments, directory / OPTIMIZER)
    if extra:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in extra.items()}, directory / METHOD)
    (directory / STATE).write_text(json.dumps({"schema": SCHEMA, **asdict(state)}), encoding="utf-8")


def load(directory: Path, trainee: Trainee, optimizer: Optimizer) -> tuple[State, dict[str, Tensor]]:
    """Restore in place what `save` wrote, and return the counters and the method's state.

    Raises:
        RunError: the directory has no trainer state, or that of another version.
    """
    try:
        values = read_json(directory / STATE)
        moments = load_file(regular(directory / OPTIMIZER, WEIGHTS))
        extra = load_file(regular(directory / METHOD, WEIGHTS)) if (directory / METHOD).exists() else {}
        if values.pop("schema") != SCHEMA:
            raise ValueError("another version wrote it")
        state = State(**values)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(
            f"`{directory}` holds no state to continue from ({error}): start a new run with --base {directory}."
        ) from error
    trainee.load(directory)
    for name, (weight, updated) in optimizer.pairs.items():
        for kind in ("exp_avg", "exp_avg_sq", "step"):
            if f"{name}/{kind}" in moments:
                value = moments[f"{name}/{kind}"]
                part = value if kind == "step" else cut(weight, value)
                optimizer.state[updated][kind] = part.to(weight.device, copy=True)
        if updated.dtype != weight.dtype:
            updated.data.copy_(cut(weight, moments[f"{name}/{MASTER}"]))
    return state, extra
