"""A thinned run keeps its ends, loads, and still compares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from probe.errors import RunError
from probe.runs import open_run, thin
from probe.runs.storage import sort_metadata
from probe.runs.thinning import spaced_steps
from tests.runs.conftest import Make


def test_spaced_evenly_on_a_log_scale():
    assert spaced_steps([0, 1, 2], 5) == [0, 1, 2]
    steps = list(range(0, 3001, 50))
    kept = spaced_steps(steps, 8)
    assert (kept[0], kept[-1], len(kept)) == (0, 3000, 8)
    assert set(kept) <= set(steps)
    assert np.diff(kept[:4]).mean() < np.diff(kept[-4:]).mean() / 4


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path: Path):
    """safetensors writes metadata in any order, which is another one each time."""
    tensors = {"b": torch.arange(6).reshape(2, 3), "a": torch.ones(2)}
    metadata = {"format": "pt", "base_hash": "0a", 'name with \u00e9 and "quotes"': "\n\u2603"}
    files = {sort_metadata(save(tensors, metadata)) for _ in range(20)}
    assert len(files) == 1
    (tmp_path / "x.safetensors").write_bytes(files.pop())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_thin(make: Make):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    writer = make()
    with pytest.raises(RunError, match="is being written"):
        thin(writer.path)
    for step in range(0, 100, 10):
        writer.capture(step, {"x": np.full(2, step)})
    writer.capture(90, {"x": np.full(2, -1)})
    for step in (50, 99):
        with writer.checkpoint(step) as folder:
            model.save_pretrained(folder)
            (folder / "optimizer.safetensors").write_bytes(b"moments")
            (folder / "trainer.json").write_text("{}")
    writer.finish()
    run = thin(writer.path, keep=4)
    captures = run.captures()
    assert (len(captures), captures.steps[0], captures.steps[-1]) == (4, 0, 90)
    assert captures.load(90)["x"].tolist() == [-1, -1]
    assert len(list((run.path / "captures").glob("*.safetensors"))) == 4
    (checkpoint,) = run.checkpoints()
    assert checkpoint.step == 99
    assert {path.name for path in checkpoint.path.iterdir()} <= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    stored = load_file(checkpoint.path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    loaded = AutoModelForCausalLM.from_pretrained(checkpoint.path)
    assert loaded.dtype == torch.float16
    for mine, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(mine.data.half(), theirs.data)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.name != "run.json"}
    thin(writer.path, keep=4)
    assert {path: path.read_bytes() for path in before} == before


def test_thin_keeps_weights_that_half_precision_cannot_hold(make: Make):
    writer = make()
    with writer.checkpoint(1) as folder:
        from safetensors.torch import save_file

        save_file({"big": torch.tensor([1e6]), "small": torch.tensor([1.0])}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
    writer.finish()
    stored = load_file(thin(writer.path).checkpoints()[0].path / "model.safetensors")
    assert (stored["big"].dtype, stored["small"].dtype) == (torch.float32, torch.float16)


def test_thin_keeps_at_least_the_ends(tmp_path: Path, make: Make):
    writer = make()
    writer.finish()
    with pytest.raises(RunError, match="keep at least 2"):
        thin(writer.path, keep=1)
    assert open_run(thin(writer.path).path).checkpoints() == []
