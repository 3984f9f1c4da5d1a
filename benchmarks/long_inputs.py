"""Attention over long inputs: seconds and peak memory of streamed statistics, and of a cache of all patterns.

A random model of the shape of SmolLM2-135M (30 layers, 9 heads, 49,152 tokens) reads random texts. Every measurement
runs in a separate process, whose peak above the loaded model is read from the kernel (Linux only). If a cache is
predicted to need more than `ROOM`, the table contains the marked prediction instead.

    python -m benchmarks.long_inputs streaming 4096     # one measurement
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Row
from benchmarks.models import world
from probe.attention.long import attention_statistics
from probe.model.lm import LM
from probe.model.memory import preflight
from probe.numbers import file_size
from probe.texts import say

LENGTHS = (256, 512, 1024, 2048, 4096)
ROOM = 4 * 10**9
"""Largest number of bytes of a cache."""

COLUMNS = ["tokens", "streamed statistics", "cache of all patterns", "cache of everything (predicted)"]


def run() -> tuple[list[Row], list[str]]:
    """Measure one table; nothing is timed in turn, since each measurement has a separate process."""
    rows = [[f"{length:,}", *cells(length)] for length in LENGTHS]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *rows])
    return [], [f"Attention of a model of SmolLM2's shape, seconds and peak memory above the model:\n\n{table}"]


def cells(length: int) -> list[str]:
    """Return the table's row for one length."""
    plan = measured("plan", length)
    stream = measured("streaming", length)
    cache = f"predicted {file_size(plan['patterns'])}"
    if plan["patterns"] <= ROOM:
        patterns = measured("patterns", length)
        cache = f"{patterns['seconds']:.2f} s, {file_size(patterns['peak'])} (predicted {file_size(plan['patterns'])})"
    return [f"{stream['seconds']:.2f} s, {file_size(stream['peak'])}", cache, file_size(plan["everything"])]


def measured(what: str, length: int) -> dict:
    """Return a measurement from a separate process."""
    command = [sys.executable, "-m", "benchmarks.long_inputs", what, str(length)]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def measure(what: str, length: int, **shape: int) -> dict:
    """Measure "streaming" or "patterns" in this process, or return the bytes predicted by the "plan".

    Args:
        what: kind of measurement.
        length: tokens of the text.
        shape: settings of the model that differ from SmolLM2's.
    """
    lm = model(**shape)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(lm.model.config.num_hidden_layers)]
    if what == "plan":
        everything, patterns = preflight(lm, length), preflight(lm, length, names)
        return {"everything": everything.total, "patterns": patterns.total, "held": patterns.cache + patterns.logits}
    words = min(len(lm.tokenizer), lm.model.config.vocab_size)
    ids = torch.randint(5, words, (length,), generator=torch.Generator().manual_seed(0)).tolist()
    work = {
        "streaming": lambda ids: attention_statistics(lm, ids),
        "patterns": lambda ids: lm.run_with_cache(ids, names),
    }
    work[what](ids[:8])  # for everything that is built on the first call
    return peak(lambda: work[what](ids))


def peak(work: Callable[[], object]) -> dict:
    """Measure the seconds of a call, and the largest growth of the process in bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, start = resident("VmRSS"), perf_counter()
    result = work()
    seconds, most = perf_counter() - start, resident("VmHWM")
    del result
    return {"seconds": seconds, "peak": most - before}


def resident(name: str) -> int:
    """Return the resident bytes of this process: now (VmRSS), or at the peak since the last reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def model(**shape: int) -> LM:
    """Return a random model of the shape of SmolLM2-135M."""
    sizes = {
        "vocab_size": 49_152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
    }
    torch.manual_seed(0)
    config = LlamaConfig(**sizes | shape, tie_word_embeddings=True)
    return LM(LlamaForCausalLM(config).eval(), world().tokenizer())


if __name__ == "__main__":
    say(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
