"""Captures of a long prompt at real sizes: bytes, peak memory and seconds, against a plain pass and a training step.

Random models in bfloat16 of the shapes of SmolLM2-135M, Gemma 3 270M and Llama 3.2 1B capture one prompt. Every
measurement runs in a separate process, whose peak above the loaded model is read from the kernel (Linux only).

    python -m benchmarks.captures 1B 1024 32MB      # one capture with this budget; `plain` and `step` instead of it
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Row
from benchmarks.long_inputs import peak
from benchmarks.models import world
from probe.model.lm import LM
from probe.numbers import file_size
from probe.recording.capture_plan import BUDGET, CaptureOptions, Shape, plan_capture
from probe.recording.recorder import watch
from probe.runs.schema import ProbePrompt
from probe.texts import say
from trainers.config import TrainConfig

SHAPES = {
    "135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49_152},
    "270M": {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 4}
    | {"num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"num_key_value_heads": 8, "vocab_size": 128_256},
}
"""Sizes of the models."""
LENGTH = 1024
EVERY = TrainConfig(out=Path("unused")).capture_every
COLUMNS = [
    "model",
    "plain pass",
    "step of one prompt",
    f"capture, {BUDGET}",
    "capture of everything",
    "share of a step",
]


def run() -> tuple[list[Row], list[str]]:
    """Measure one table; nothing is timed in turn, since each measurement has a separate process."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(cells(name) for name in SHAPES)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in rows)
    return [], [
        f"Captures of a prompt of {LENGTH:,} tokens in bfloat16, seconds, peak memory above the model, and bytes; the"
        f" share is that of captures every {EVERY} steps, in the time of steps of one such prompt each:\n\n{table}\n\n"
        f"{larger()}"
    ]


def cells(name: str) -> list[str]:
    """Return the row of one model."""
    plain, step, capture, everything = (measured(name, LENGTH, what) for what in ("plain", "step", BUDGET, "0"))
    share = capture["seconds"] / (EVERY * step["seconds"])
    both = [f"{each['seconds']:.1f} s, {file_size(each['peak'])}" for each in (plain, step)]
    both += [
        f"{each['seconds']:.1f} s, {file_size(each['peak'])}, {file_size(each['bytes'])}"
        for each in (capture, everything)
    ]
    return [name, *both, f"{100 * share:.1f} %"]


def larger() -> str:
    """Return a sentence on the bytes of captures of a model with 8 billion parameters, which is not run."""
    shape = Shape(lengths=(LENGTH,), depth=32, heads=32, width=4096)
    chosen, everything = (plan_capture(CaptureOptions(budget=size), shape) for size in (BUDGET, 0))
    block = 32 * LENGTH**2 * 4
    return (
        f"For 32 layers of 32 heads (8B) by arithmetic: {file_size(chosen.bytes)} a capture instead of"
        f" {file_size(everything.bytes)}; the weights of one block take {file_size(block)} in single precision."
        f" {chosen.sentence}"
    )


def measured(name: str, length: int, what: str) -> dict[str, Any]:
    """Return a measurement from a separate process."""
    command = [sys.executable, "-m", "benchmarks.captures", name, str(length), what]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(process.stdout.splitlines()[-1]))


def measure(name: str, length: int, what: str) -> dict[str, Any]:
    """Measure a plain pass, a training step, or a capture with a budget, in this process."""
    lm = model(name)
    ids = torch.randint(5, len(lm.tokenizer), (1, length), generator=torch.Generator().manual_seed(0))
    if what in ("plain", "step"):
        work = partial(plain if what == "plain" else step, lm)
        work(ids[:, :8])
        return peak(lambda: work(ids))
    prompt = ProbePrompt(id="0", text="", token_ids=ids[0].tolist(), tokens=[""] * length, answers=["a", "b"])
    prompt.answer_ids.extend([5, 6])
    with tempfile.TemporaryDirectory(dir=".") as folder:
        warm = ProbePrompt(id="0", text="", token_ids=ids[0, :8].tolist(), tokens=[""] * 8, answer_ids=[5, 6])
        watch(lm, f"{folder}/warm", prompts=[warm], checkpoint=False).capture(0)
        recorder = watch(lm, f"{folder}/run", prompts=[prompt], capture=CaptureOptions(budget=what), checkpoint=False)
        found = peak(lambda: recorder.capture(0))
        start = perf_counter()
        recorder.capture(1)  # compared with the first, from its file
        return found | {"seconds": perf_counter() - start, "bytes": recorder.bytes // 2}


@torch.no_grad()
def plain(lm: LM, ids: torch.Tensor) -> None:
    """Run the model."""
    lm.model(ids, use_cache=False)


def step(lm: LM, ids: torch.Tensor) -> None:
    """Compute a loss and its gradient."""
    lm.model(ids, labels=ids, use_cache=False).loss.backward()
    lm.model.zero_grad(set_to_none=True)


def model(name: str) -> LM:
    """Return a random model in bfloat16."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[name], max_position_embeddings=8192, tie_word_embeddings=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return LM(LlamaForCausalLM(config).eval(), world().tokenizer())
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    say(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
