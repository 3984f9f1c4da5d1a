"""What tests of stores share: a run with all kinds of files, and an empty store and cache."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from probe.runs import ProbePrompt, RunWriter

PROMPT = ProbePrompt(id="p", text="a b", token_ids=[1, 2], tokens=["a", "b"])


def step(writer: RunWriter, number: int) -> None:
    """A logged step with a capture and a checkpoint."""
    writer.log(number, {"loss": 1 / number})
    writer.capture(number, {"entropy": np.full((1, 2), number, dtype=np.float32)})
    with writer.checkpoint(number) as folder:
        (folder / "model.safetensors").write_bytes(bytes([number]) * 1000)
        (folder / "trainer.json").write_text(json.dumps({"step": number}))


def start(writer: RunWriter) -> RunWriter:
    """The run with its prompt and a first step."""
    writer.prompts([PROMPT])
    step(writer, 1)
    return writer


def tree(path: Path) -> dict[str, bytes]:
    """The files of a directory but for hidden ones."""
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if "/." not in f"/{name}"}


def manifest(store: Path, attempt: int = 1) -> tuple[Path, dict[str, Any]]:
    """The manifest of a run in a store that is a folder."""
    file = store / "attempts" / f"{attempt:08d}.json"
    return file, json.loads(file.read_text())
