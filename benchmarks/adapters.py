"""Peak memory of a capture during the training of a LoRA adapter: of the adapter as it is, and of merged copies.

A random Llama of about 1 B parameters in bfloat16 has an adapter of rank 16 on all linear layers. Every measurement
runs in a separate process; the peak is read from the kernel (Linux only), above the memory before the model was made.

    forward       the forward pass of peft on the prompts
    base          three captures of the base alone, with the KL to the reference
    capture       the same of the adapter as it is
    copies        the same of merged copies: the base, that of step 0 for the reference, the last one, and the new one
    save          the checkpoint of a base that lies nowhere, merged tensor by tensor
    grpo          two steps of TRL's GRPO
    watched       the same with `ProbeCallback`, a capture after every step and its rollouts

    python -m benchmarks.adapters capture            # one measurement
"""

import copy
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.harness import Row
from benchmarks.long_inputs import resident
from benchmarks.models import world
from probe.model.adapters import quiet
from probe.model.lm import LM
from probe.numbers import file_size
from probe.recording.callback import ProbeCallback
from probe.recording.recorder import ReferenceKL, leave_undisturbed, measure
from probe.runs.schema import ProbePrompt
from probe.texts import say

WAYS = {
    "forward": "plain forward pass",
    "base": "capture of the base alone",
    "capture": "capture of the adapter as it is",
    "copies": "capture of merged copies",
    "save": "merged checkpoint, tensor by tensor",
    "grpo": "two steps of GRPO (TRL)",
    "watched": "two steps of GRPO with ProbeCallback, three captures",
}
TEXTS, TOKENS, RANK = 4, 64, 16
BASE_8B = 16.1e9
"""Bytes of the weights of Llama 3.1 8B in bfloat16."""
COLUMNS = ["", "peak", "of it weights of the base", "as many of an 8B model", "seconds"]


def run() -> tuple[list[Row], list[str]]:
    """Measure one table; nothing is timed in turn, since each measurement has a separate process."""
    found = {way: measured(way) for way in WAYS}
    rows = []
    for way, each in found.items():
        copies = 4 if way == "copies" else 1
        sizes = file_size(each["peak"]), f"{copies} x {file_size(each['weights'])}", file_size(round(copies * BASE_8B))
        rows.append([WAYS[way], *sizes, f"{each['seconds']:.0f}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in [COLUMNS, ["---"] * len(COLUMNS), *rows])
    block = file_size(found["capture"]["block"])
    return [], [
        f"A LoRA of rank {RANK} on a Llama of {file_size(found['forward']['weights'])} in bfloat16, {TEXTS} prompts of"
        f" {TOKENS} tokens, whose capture holds {block}; memory above the start:\n\n{table}"
    ]


def measured(way: str) -> dict[str, Any]:
    """Return a measurement from a separate process."""
    command = [sys.executable, "-m", "benchmarks.adapters", way]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found


def one(way: str) -> dict[str, Any]:
    """Measure one way in this process: peak and weights in bytes, seconds, and bytes of a capture's tensors."""
    start = resident("VmRSS")
    model, block = llama(), 0
    if way not in ("base", "grpo", "watched"):  # TRL puts on an adapter itself
        model = adapted(model)
    ids = torch.randint(5, 400, (TEXTS, TOKENS), generator=torch.Generator().manual_seed(0))
    about: dict[str, Any] = {"text": "", "tokens": [], "answer_ids": [5, 6]}
    prompts = [ProbePrompt(id=str(number), token_ids=row, **about) for number, row in enumerate(ids.tolist())]

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=ids)

    def captures(view: Callable[[], LM]) -> None:
        nonlocal block
        first = view()
        reference = ReferenceKL(first.logits)
        lm = first
        for step in range(3):
            lm = view() if step else lm
            tensors = measure(lm, prompts)
            with leave_undisturbed(lm.model):
                tensors |= reference(lm, prompts)
            block = sum(tensor.nbytes for tensor in tensors.values())

    def save() -> None:
        with tempfile.TemporaryDirectory() as folder:
            LM(model, world().tokenizer()).save(folder)

    one_view = LM(model, world().tokenizer())
    works: dict[str, Callable[[], None]] = {
        "forward": forward,
        "base": lambda: captures(lambda: one_view),
        "capture": lambda: captures(lambda: one_view),
        "copies": lambda: captures(lambda: LM(copy.deepcopy(model).merge_and_unload(), world().tokenizer())),
        "save": save,
        "grpo": lambda: grpo(model, watched=False),
        "watched": lambda: grpo(model, watched=True),
    }
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    begun = perf_counter()
    works[way]()
    seconds, peak = perf_counter() - begun, resident("VmHWM") - start
    weights = sum(each.nbytes for name, each in model.named_parameters() if "lora_" not in name)
    return {"peak": peak, "weights": weights, "seconds": seconds, "block": block}


def grpo(model: Any, watched: bool) -> None:
    """Train an adapter of a model by two steps of GRPO."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = [item["text"] for item in world().probe_prompts()[:TEXTS]]

    def longer(completions: list[str], **_: Any) -> list[float]:
        return [float(len(text)) for text in completions]

    with tempfile.TemporaryDirectory() as folder, quiet():
        args = GRPOConfig(
            output_dir=f"{folder}/out",
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=16,
            max_steps=2,
            beta=0.1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            bf16=False,
        )
        trainer = GRPOTrainer(
            model=model,
            args=args,
            reward_funcs=longer,
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=world().tokenizer(),
            peft_config=LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        if watched:
            trainer.add_callback(ProbeCallback(f"{folder}/run", every=1, trainer=trainer, checkpoint=False))
        trainer.train()


def llama() -> Any:
    """Return a random Llama of the shape of Llama 3.2 1B, with fewer tokens."""
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()


def adapted(base: Any) -> Any:
    """Put an adapter that is not zero on a model."""
    with quiet():
        model = get_peft_model(base, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model


if __name__ == "__main__":
    say(json.dumps(one(sys.argv[1])))
