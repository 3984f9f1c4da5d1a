"""A pretraining step against nanoGPT's `train.py` on the same model: GPT-2's blocks, 0.8 M parameters.

    NANOGPT=folder python -m benchmarks pretraining

`folder` is a checkout of nanoGPT; without it nothing is measured. `train.py` runs as its users run it, in a process of
its own, with its data loader, clipping and optimiser; the time of a step is the one that it prints. Blocks of its steps
and of ours are taken in turn. Both sides have the same blocks, sizes, batch and precision, without `torch.compile`.
"""

import os
import pickle
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import probe
from benchmarks.harness import Row, seconds, summary
from benchmarks.models import share_of_products, tiny
from benchmarks.throughput import packed, pretraining
from probe.jobs.heap import keep_memory
from trainers.config import PretrainConfig

STEPS, SETTLING, BLOCKS = 30, 5, 9
"""Steps of a block, of which the first are not counted, and blocks of each side."""
LAYERS, HEADS, WIDTH = 4, 4, 128


def run() -> tuple[list[Row], list[str]]:
    """Measure blocks of steps in turn; a pair is the median steps of two blocks."""
    folder = os.environ.get("NANOGPT")
    if folder is None:
        return [], ["pretraining: not measured against nanoGPT, which needs NANOGPT=FOLDER, a checkout of it."]
    keep_memory()  # as `probe train` does
    lm = gpt()
    step, size = pretraining(lm)
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(folder), Path(scratch))
        pairs = [(ours(step), theirs(Path(scratch))) for _ in range(BLOCKS)]
    name = f"pretraining step of {size}, GPT-2 of {lm.n_parameters / 1e6:.2f} M parameters"
    row = summary(name, "Probe", "nanoGPT's train.py", pairs, ">= 1.2")
    return [replace(row, share=share_of_products(lm.model, lambda: step(1), row.seconds_a))], []


def gpt() -> probe.LM:
    """Return nanoGPT's model: GPT-2 with the exact GELU and shared embeddings."""
    config = GPT2Config(
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=WIDTH,
        n_positions=PretrainConfig(out=Path("unused")).length,
        vocab_size=len(tiny().tokenizer),
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    return probe.LM(GPT2LMHeadModel(config), tiny().tokenizer)


def prepare(folder: Path, scratch: Path) -> None:
    """Copy the scripts of nanoGPT, and write the world's texts as its data."""
    for name in ("train.py", "model.py", "configurator.py"):
        (scratch / name).write_bytes((folder / name).read_bytes())
    data = scratch / "data" / "world"
    data.mkdir(parents=True)
    for name in ("train", "val"):
        packed(2048, PretrainConfig(out=Path("unused")).length).astype(np.uint16).tofile(data / f"{name}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(tiny().tokenizer)}))


def ours(step: Callable[[int], object]) -> float:
    """Return the median seconds of our steps."""
    return statistics.median([seconds(partial(step, number)) for number in range(1, STEPS)][SETTLING:])


def theirs(scratch: Path) -> float:
    """Run `train.py` for some steps and return the median of the seconds that it prints."""
    config = PretrainConfig(out=Path("unused"))
    options = {
        "dataset": "world",
        "device": "cpu",
        "dtype": "float32",
        "compile": False,
        "gradient_accumulation_steps": 1,
        "batch_size": config.batch_size,
        "block_size": config.length - 1,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_embd": WIDTH,
        "bias": True,
        "max_iters": STEPS,
        "eval_iters": 1,
        "warmup_iters": 0,
    }
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in options.items())]
    found = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=True)
    times = [float(each) for each in re.findall(r"time ([\d.]+)ms", found.stdout)]
    return statistics.median(times[SETTLING:]) / 1e3
