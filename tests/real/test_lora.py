"""An adapter on the real checkpoint: a few steps of SFT on conversations, looked at, loaded again."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import probe
from probe.cli import main
from tests.real.conftest import CHECKPOINT

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("default"),  # other libraries' notes on real checkpoints are not ours to fix
]
QUESTION = [{"role": "user", "content": "Where is Oslo?"}]
ANSWER = "Ask the harbour master."


def test_sft_of_an_adapter(tmp_path: Path):
    data, out = tmp_path / "chats.jsonl", tmp_path / "run"
    data.write_text(json.dumps({"messages": [*QUESTION, {"role": "assistant", "content": ANSWER}]}) + "\n")
    options = (
        "--steps 6 --batch-size 1 --lr 1e-3 --warmup 0 --log-every 1 --capture-every 6 --save-every 0 --held-out 0"
    )
    base = ["--base", str(CHECKPOINT), "--data", str(data), "--out", str(out), "--lora", "8"]
    assert main(["train", "sft", *base, *options.split(), "--evaluate", "0"]) == 0
    run = probe.open_run(out)
    assert run.captures().steps == [0, 6]
    loss = run.metrics()["loss"]
    assert loss.iloc[-1] < loss[0] - 1
    checkpoint = run.checkpoints()[-1].path
    assert (checkpoint / "adapter_model.safetensors").stat().st_size < 25e6
    lm = probe.LM.load(out)
    assert type(lm.model).__name__ == "LlamaForCausalLM"
    prompt = lm.prompt_text(QUESTION)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(CHECKPOINT), checkpoint).eval()
    ids = lm.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        ours = lm.logits(ids)
        torch.testing.assert_close(ours, theirs(input_ids=ids).logits, atol=1e-3, rtol=1e-4)
        hooked, _ = lm.run_with_cache(ids, ["blocks.5.attn.hook_pattern"])
    torch.testing.assert_close(hooked, ours, atol=1e-3, rtol=1e-4)
    answer = lm.logprobs(prompt, ANSWER).values.sum()
    assert answer > probe.LM.load(CHECKPOINT).logprobs(prompt, ANSWER).values.sum() + 5
