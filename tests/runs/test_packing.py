"""Attention packed and unpacked."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probe
from probe.errors import RunError
from probe.runs import open_run, thin
from probe.runs.captures import PACKED, pack, unpack
from probe.runs.schema import ProbePrompt
from tests.models import random_lm
from tests.runs.conftest import Make


def causal(lengths: list[int], depth: int = 2, heads: int = 3) -> np.ndarray:
    """[P D H T T] random weights where the causal mask leaves some."""
    width = max(lengths)
    weights = np.random.default_rng(0).random((len(lengths), depth, heads, width, width)).astype(np.float16)
    for index, length in enumerate(lengths):
        weights[index, :, :, length:] = 0
    return np.tril(weights)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_what_is_packed_comes_back(lengths: list[int]) -> None:
    attention, other = causal(lengths), np.arange(4)
    packed = pack({"attention": attention, "entropy": other}, lengths)
    assert set(packed) == {PACKED, "entropy"}
    assert packed[PACKED].size == 6 * sum(length * (length + 1) // 2 for length in lengths)
    assert packed[PACKED].dtype == np.float16
    query, key = lengths[0] - 1, 0  # the last row of the first prompt begins behind all rows before
    at = query * (query + 1) // 2
    np.testing.assert_array_equal(packed[PACKED][..., at], attention[0, :, :, query, key])
    loaded = unpack(packed, lengths)
    np.testing.assert_array_equal(loaded["attention"], attention)
    assert loaded["entropy"] is other


def test_what_is_no_causal_attention_of_these_prompts_stays() -> None:
    both = np.ones((1, 1, 1, 3, 3), dtype=np.float16)  # looks ahead
    for tensors, lengths in [({"attention": both}, [3]), ({"attention": causal([3])}, [2]), ({"x": both}, [3])]:
        assert pack(tensors, lengths) is tensors
    assert pack({"attention": causal([3, 2])}, []) == {"attention": pytest.approx(causal([3, 2]))}
    with pytest.raises(ValueError, match="weights are packed"):
        unpack(pack({"attention": causal([3])}, [3]), [4])


def test_a_thinned_run_reads_as_before_and_is_smaller(tmp_path: Path) -> None:
    recorder = probe.watch(random_lm(), tmp_path / "run", prompts=["mira lives in oslo", "the cat"], every=1)
    for step in range(3):
        recorder.step(step)
    recorder.close()
    before = open_run(tmp_path / "run").captures()
    files = {path: path.stat().st_size for path in before.path.glob("*.safetensors")}
    loaded = {step: before.load(step) for step in before.steps}
    after = thin(tmp_path / "run", keep=3).captures()
    assert after.steps == before.steps
    for step in after.steps:
        tensors = after.load(step)
        assert set(tensors) == set(loaded[step])
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, loaded[step][name])
    assert all(path.stat().st_size < size for path, size in files.items())


def test_prompts_that_were_exchanged_are_said(make: Make) -> None:
    writer = make()
    prompt = ProbePrompt(id="a", text="x y", token_ids=[1, 2], tokens=["x", "y"])
    writer.prompts([prompt])
    writer.capture(0, {"attention": causal([2])})
    writer.finish()
    run = thin(writer.path)
    assert run.captures().load(0)["attention"].shape == (1, 2, 3, 2, 2)
    file = run.path / "captures" / "prompts.json"
    content = json.loads(file.read_text())
    content["prompts"][0]["token_ids"] = [1, 2, 3]
    file.write_text(json.dumps(content))
    with pytest.raises(RunError, match="is damaged"):
        run.captures().load(0)
