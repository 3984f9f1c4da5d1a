"""Reduction of a finished run for shipping: fewer captures, one checkpoint, half precision."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save

from probe.errors import RunError
from probe.runs.captures import newest, pack
from probe.runs.checksums import check_intact
from probe.runs.reader import Run
from probe.runs.schema import CAPTURES, CHECKPOINTS, INDEX, TRAINER_STATE, dumps, parse_step
from probe.runs.storage import Position, disk, read_lines, sort_metadata, write_atomic
from probe.untrusted import WEIGHTS, read_json, regular


def thin(directory: str | Path, keep: int = 12, half: bool = True) -> Run:
    """Keep the last checkpoint of an ended run and `keep` captures, evenly spaced on a log scale.

    Attention is packed (`probe.runs.captures`); a capture reads the same as before.

    Args:
        directory: directory of the run.
        keep: number of captures to keep, including the first and the last.
        half: store the checkpoint's weights as float16 and delete its trainer's state.

    Raises:
        RunError: the run is being written, `keep` is less than 2, or the checkpoint is damaged.
    """
    run = Run(directory)
    if run.status == "running":
        raise RunError(f"`{run.path}` is being written: thin a run when it has ended.")
    if keep < 2:
        raise RunError(f"A run cannot be thinned to {keep} captures: keep at least 2, the first and the last.")
    checkpoints = run.checkpoints()
    if checkpoints:
        check_intact(checkpoints[-1].path)
    _thin_captures(run, keep)
    with disk(run.path):
        for path in (run.path / CHECKPOINTS).glob("*"):
            if not checkpoints or path != checkpoints[-1].path:
                shutil.rmtree(path)
        if checkpoints and half:
            _halve(checkpoints[-1].path)
    return run.refresh()


def spaced_steps(steps: list[int], keep: int) -> list[int]:
    """Return `keep` of the sorted `steps`, evenly spaced in log(1 + step), including the first and the last."""
    if len(steps) <= keep:
        return list(steps)
    picks = [steps[0], steps[-1]]
    low, high = math.log1p(steps[0]), math.log1p(steps[-1])
    rest = steps[1:-1]
    for index in range(1, keep - 1):
        target = low + (high - low) * index / (keep - 1)
        nearest = min(rest, key=lambda step: abs(math.log1p(step) - target))
        rest.remove(nearest)
        picks.append(nearest)
    return sorted(picks)


def _thin_captures(run: Run, keep: int) -> None:
    captures = run.captures()
    steps = set(spaced_steps(captures.steps, keep))
    folder = run.path / CAPTURES
    if not steps:
        return
    rows, _ = read_lines(folder / INDEX, Position(), live=False)
    entries = newest({}, rows, folder / INDEX)
    lengths = [prompt.length for prompt in captures.prompts]
    with disk(folder):
        for step in steps:
            entries[step] |= _pack(folder / Path(str(entries[step]["file"])).name, step, lengths)
        write_atomic(folder / INDEX, "".join(dumps(entries[step]) + "\n" for step in sorted(steps)).encode())
        for path in folder.glob("*.safetensors"):
            if parse_step(path.stem) not in steps:
                path.unlink()


def _pack(path: Path, step: int, lengths: list[int]) -> dict[str, Any]:
    """Write a capture with its attention packed; return its entry in the index."""
    tensors = load_arrays(regular(path, WEIGHTS))
    packed = pack(tensors, lengths)
    if packed is not tensors:
        write_atomic(path, save_arrays(packed, metadata={"step": str(step)}))
    shapes = {name: list(tensor.shape) for name, tensor in packed.items()}
    return {"bytes": path.stat().st_size, "tensors": shapes}


def _halve(checkpoint: Path) -> None:
    """Store the weights as float16 and delete the state of the trainer."""
    for name in TRAINER_STATE:
        (checkpoint / name).unlink(missing_ok=True)
    for path in [*checkpoint.glob("model*.safetensors"), *checkpoint.glob("adapter_model.safetensors")]:
        with safe_open(regular(path, WEIGHTS), framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(regular(path, WEIGHTS))
        small = {name: half_precision(t) for name, t in tensors.items()}
        write_atomic(path, sort_metadata(save(small, metadata=metadata)))
    config = checkpoint / "config.json"
    if not config.exists():  # an adapter: peft brings its weights into the base's format
        return
    settings = read_json(config)
    settings.pop("torch_dtype", None)
    write_atomic(config, json.dumps({**settings, "dtype": "float16"}, indent=2).encode())


def half_precision(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as stored in a thinned checkpoint: floats as float16 unless a value is too large."""
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if torch.isfinite(half).all() else tensor
