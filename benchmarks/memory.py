"""Peak memory of training a model of the shape of SmolLM2-135M, by memory-saving options.

Every measurement is a separate process that takes two steps of SFT on 4 texts of 128 tokens. The peak is read from the
kernel (Linux only); the memory before the model was loaded is subtracted, and the peak is reset after loading.

    python -m benchmarks.memory FOLDER --lora 8     # one measurement, of the model in a folder
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.against_trl import stepper
from benchmarks.harness import Row
from benchmarks.long_inputs import model, resident
from probe.options import parse
from probe.texts import say
from trainers.config import SFTConfig
from trainers.session import Session
from trainers.sft import SFT, Demonstration
from trainers.starting import load_trainee

TEXTS, TOKENS = 4, 128
OPTIONS = [
    "",
    "--gradient-checkpointing",
    "--weights-dtype bfloat16",
    "--weights-dtype bfloat16 --gradient-checkpointing",
    "--lora 8",
    "--lora 8 --weights-dtype bfloat16 --gradient-checkpointing",
]
COLUMNS = ["options", "peak", "seconds a step"]


def run() -> tuple[list[Row], list[str]]:
    """Measure one table; nothing is timed in turn, since each measurement has a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        path = model().save(Path(folder) / "model")
        rows = [[f"`{options}`" if options else "none", *cells(path, options)] for options in OPTIONS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *rows])
    return [], [
        f"Training a model of SmolLM2's shape on {TEXTS} texts of {TOKENS} tokens, memory above the start:\n\n{table}"
    ]


def cells(path: Path, options: str) -> list[str]:
    """Return the table's row for some options."""
    command = [sys.executable, "-m", "benchmarks.memory", str(path), *options.split()]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(process.stdout.splitlines()[-1])
    return [f"{found['peak'] / 1e9:.2f} GB", f"{found['seconds']:.1f}"]


def measure(path: str, options: list[str]) -> dict[str, Any]:
    """Measure in this process the peak bytes, including the allocator's cache, and the seconds of the second step."""
    before = resident("VmRSS")
    words = ["--out", "unused", "--base", path, "--device", "cpu", "--capture-every", "0", *options]
    config = parse(SFTConfig, [*words, "--batch-size", str(TEXTS)], "benchmarks.memory")
    session = Session(config)
    trainee = load_trainee(session, config, path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 400, (TEXTS, TOKENS), generator=generator).tolist()
    step = stepper(
        session, SFT(session, config, trainee, [Demonstration(t[:1], t[1:], [True] * (TOKENS - 1)) for t in ids])
    )
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    step(1)
    start = time.perf_counter()
    step(2)
    seconds = time.perf_counter() - start
    return {"peak": resident("VmHWM") - before, "seconds": seconds}


if __name__ == "__main__":
    say(json.dumps(measure(sys.argv[1], sys.argv[2:])))
