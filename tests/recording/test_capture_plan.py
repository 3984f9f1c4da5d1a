"""Captures that hold a part: their plan, their bytes, and what can be read from them."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import probe
from probe.attention.patterns import attention as attend
from probe.attention.trained_heads import captured_attention, follow_attention
from probe.errors import ConfigError, DataError, RunError
from probe.model.lm import LM
from probe.recording import attention_rows, measurement
from probe.recording.capture_plan import PARTS, CaptureOptions, Shape, plan_capture
from probe.recording.measurement import measure, plan_for
from probe.recording.recorder import as_prompt
from probe.runs import captured, open_run
from probe.runs.attention_tail import HEADS, ROWS, TAIL, decode_weights, encode_weights
from probe.runs.captures import Captures
from tests.faults.moments import can_mount, small_disk
from tests.models import random_lm

LONG = {"text": " . ".join(["mira lives in oslo . tom works in rome"] * 4), "answers": ["rome", "oslo"]}
PROMPTS = [LONG, {"text": "tom works", "answers": ["rome"]}, {"text": "the cat"}]


def record(path: Path, lm: LM | None = None, captures: int = 1, **options: object) -> Captures:
    """Captures of a run of a random model that is not trained."""
    with probe.watch(lm or random_lm(), path / "run", prompts=PROMPTS, capture=CaptureOptions(**options)) as recorder:
        for step in range(captures):
            recorder.capture(step)
    return open_run(path / "run").captures()


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    depth=st.integers(1, 40),
    heads=st.integers(0, 40),
    budget=st.integers(1, 10**8),
)
def test_a_plan_keeps_the_budget(lengths: list[int], depth: int, heads: int, budget: int):
    shape = Shape(lengths=tuple(lengths), depth=depth, heads=heads, width=8, answers=2)
    least = plan_capture(CaptureOptions(budget=0, tokens=1), shape)
    try:
        plan = plan_capture(CaptureOptions(budget=budget), shape)
    except ConfigError:
        assert least.bytes > budget / 2  # the smallest capture has 8 bits
        return
    assert plan.bytes <= budget
    more = plan_capture(CaptureOptions(budget=2 * budget), shape)
    assert more.everything >= plan.everything
    assert more.bits >= plan.bits
    everything = plan_capture(CaptureOptions(budget=0), shape)
    assert everything.everything
    assert everything.bytes >= plan.bytes or plan.bytes <= budget


@pytest.mark.parametrize("budget", [0, "60kB", "15 kB"])
def test_a_plan_knows_the_bytes_of_the_tensors(tmp_path: Path, budget: int | str):
    lm = random_lm()
    options = CaptureOptions(budget=budget)
    captures = record(tmp_path, lm, 2, budget=budget)
    plan = plan_for(lm, captures.prompts, options)
    with safe_open(captures.files[1], "numpy") as file:
        arrays = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    counted = sum(array.nbytes for array in arrays)
    unread = 40 * len(captures.prompts) * plan.shape.depth  # the narrow MLPs have fewer neurons than the plan counts
    assert plan.bytes - 2 * unread <= counted <= plan.bytes
    assert captures.costs[1][0] == captures.files[1].stat().st_size
    assert captures.costs[1][1] > 0


def test_a_small_capture_is_part_of_the_whole_one(tmp_path: Path):
    lm = random_lm()
    whole = record(tmp_path / "whole", lm, budget=0).load(0)
    captures = record(tmp_path / "small", lm, budget="15kB")
    small = captures.load(0)
    plan = plan_for(lm, captures.prompts, CaptureOptions(budget="15kB"))
    assert plan.bits == 8
    assert 0 < plan.rows < 39
    assert 0 < plan.columns < 39
    assert 0 < plan.whole < 8
    assert captures.holds == plan.sentence
    worst = 0.0
    for index, prompt in enumerate(captures.prompts):
        exact, rows = captured.attention(whole, index, prompt), captured.attention(small, index, prompt)
        assert rows.shape == (2, 4, min(plan.rows, prompt.length), prompt.length)
        worst = max(worst, float(np.abs(rows - exact[:, :, -rows.shape[2] :].astype(np.float32)).max()))
        kept = [captured.whole_head(small, index, (layer, head)) for layer in range(2) for head in range(4)]
        assert sum(each is not None for each in kept) == plan.whole
        for number, each in enumerate(kept):
            if each is not None:
                worst = max(worst, float(np.abs(each - exact[divmod(number, 4)].astype(np.float32)).max()))
        seen = slice(max(0, prompt.length - plan.columns), prompt.length)
        for name in ("lens_entropy", "lens_top_logprobs", "residual_norm"):
            np.testing.assert_allclose(small[name][index, :, seen], whole[name][index, :, seen], rtol=2e-3, atol=1e-5)
            assert np.isnan(small[name][index, :, : seen.start]).all()
        assert (small["lens_top_ids"][index, :, : seen.start] == -1).all()
        np.testing.assert_array_equal(small["lens_top_ids"][index, :, seen], whole["lens_top_ids"][index, :, seen])
    assert worst <= float(small["attention_error"][0]) + 1e-3 < 5e-3  # half precision on one side
    np.testing.assert_allclose(small["attribution"], whole["attribution"], atol=1e-5, rtol=1e-4, equal_nan=True)


def test_a_diverged_model_is_captured_and_said(tmp_path: Path):
    lm = random_lm()
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS, capture=CaptureOptions(budget="15kB")) as recorder:
        recorder.capture(0)
        lm.model.model.layers[0].mlp.down_proj.weight.data[3] = torch.nan
        recorder.capture(1)
    tensors = open_run(tmp_path / "run").captures().load(1)
    assert np.isnan(tensors["attention_error"]).all()
    assert np.isfinite(tensors["attention_moved"]).all()


def test_eight_bits_keep_small_weights():
    weights = np.concatenate([np.linspace(0, 1, 1001), [1 / 1024, 1 / 4096]]).astype(np.float32)
    found = decode_weights(encode_weights(weights))
    assert np.abs(found - weights).max() < 1 / 255
    np.testing.assert_allclose(found[-2:], weights[-2:], rtol=0.07)
    np.testing.assert_array_equal(encode_weights(found), encode_weights(weights))


def test_heads_that_moved_most_are_kept_whole(tmp_path: Path):
    lm = random_lm()
    recorder = probe.watch(lm, tmp_path / "run", prompts=PROMPTS, capture=CaptureOptions(budget="15kB"))
    recorder.capture(0)
    recorder.capture(1)
    with torch.no_grad():  # the queries of head 2 in layer 1
        lm.model.model.layers[1].self_attn.q_proj.weight[16:24] *= 30
    recorder.capture(2)
    recorder.close()
    captures = open_run(tmp_path / "run").captures()
    assert "attention_moved" not in captures.load(0)
    assert not captures.load(1)["attention_moved"].any()
    last = captures.load(2)
    width = last[HEADS].tolist().index([1, 2])
    moved = last["attention_moved"]
    assert moved[0].argmax() == width
    assert not np.delete(moved, width, axis=1).any()
    assert [1, 2] in last["attention_whole_heads"][0].tolist()
    for index in (0, 1):
        first, second = (captured.attention(captures.load(step), index, captures.prompts[index]) for step in (0, 2))
        change = np.abs(second - first)[1, 2].sum(-1) / 2
        change = change[1:] if len(change) == captures.prompts[index].length > 1 else change
        assert moved[index, width] == pytest.approx(change.mean(), abs=1e-6)


def test_a_head_that_only_moves_to_its_sink_is_not_kept_whole(tmp_path: Path):
    plan = replace(plan_capture(CaptureOptions(tokens=3), Shape(lengths=(6,), depth=1, heads=3, width=8)), whole=1)
    weights = np.tril(np.ones((3, 6, 6), np.float32)) / np.arange(1, 7, dtype=np.float32)[:, None]
    first = attention_rows.AttentionRows(plan)
    first.take(0, 0, torch.from_numpy(weights)[None])
    file = tmp_path / "first.safetensors"
    save_file({name: tensor.numpy() for name, tensor in first.tensors().items()}, file)
    weights[0, 1:] *= 0.1
    weights[0, 1:, 0] += 0.9  # head 0 rests on the first token
    weights[2, 3:, 1] += 0.1
    weights[2, 3:, 2] -= 0.1  # head 2 moves from one token to another
    rows = attention_rows.AttentionRows(plan, file)
    rows.take(0, 0, torch.from_numpy(weights)[None])
    found = rows.tensors()
    assert found["attention_moved"][0].argmax() == 0
    assert found["attention_whole_heads"].tolist() == [[[0, 2]]]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"layers": (1,)}, [[1, 0], [1, 1], [1, 2], [1, 3]]),
        ({"heads": ("L1H2", "L0H3")}, [[0, 3], [1, 2]]),
    ],
)
def test_chosen_heads_alone_are_captured(tmp_path: Path, options: dict, kept: list[list[int]]):
    lm = random_lm()
    captures = record(tmp_path, lm, 2, **options)
    tensors = captures.load(1)
    assert tensors[HEADS].tolist() == kept
    assert tensors[TAIL].dtype == np.float16
    exact = attend(lm, captures.prompts[0].token_ids).pattern
    found = captured.attention(tensors, 0, captures.prompts[0])
    for layer, head in np.ndindex(2, 4):
        if [layer, head] in kept:
            np.testing.assert_allclose(found[layer, head], exact[layer, head], atol=1e-3)
        else:
            assert np.isnan(found[layer, head]).all()
    shown = captured_attention(run=captures.path.parent)
    assert [1, 2] in kept
    assert shown.figures(head="L1H2")
    assert not set(shown.results[-1].table()["head"].unique()) - {head for _, head in kept}
    courses = follow_attention(run=captures.path.parent)
    assert len(courses.tables()["training"].dropna()) == 2 * len(kept)


def test_the_last_tokens_alone_are_captured_and_shown(tmp_path: Path):
    captures = record(tmp_path, random_lm(), 2, tokens=3)
    tensors, prompt = captures.load(1), captures.prompts[0]
    assert tensors[ROWS].tolist() == [3]
    assert captured.attention(tensors, 0, prompt).shape[2:] == (3, prompt.length)
    shown = captured_attention(run=captures.path.parent, captured=prompt.text)
    assert shown.results[-1].first == prompt.length - 3
    assert set(shown.figures()) == {"heads"}
    table = shown.data("heads")
    assert set(table["query"]) == {prompt.length - 3, prompt.length - 2, prompt.length - 1}
    assert (table["key"] <= table["query"]).all()
    assert set(shown.shift("L1H2").figures()) == {"moved", "change"}
    scores = shown.tables()["heads"]
    exact = attend(random_lm(), prompt.token_ids).pattern[:, :, -3:, 0].mean(-1)
    np.testing.assert_allclose(scores["sink"][:8], exact.ravel(), atol=1e-3)
    with pytest.raises(DataError, match="captured only from the last 3"):
        shown.rollout()


@pytest.mark.parametrize("part", PARTS)
def test_one_part_alone_is_captured(tmp_path: Path, part: str):
    captures = record(tmp_path, parts=(part,))
    names = {name.partition("_")[0] for name in captures.load(0)}
    wanted = {
        "attention": {"attention"},
        "lens": {"lens", "entropy", "margin"},
        "attribution": {"attribution", "promoted", "neuron"},
        "norms": {"residual"},
        "rewards": set(),
    }
    assert names == wanted[part]


def test_prompts_apart_and_columns_apart_give_the_same(monkeypatch: pytest.MonkeyPatch):
    lm = random_lm()
    prompts = [as_prompt(lm, prompt, index) for index, prompt in enumerate(PROMPTS)]
    together = measure(lm, prompts)
    monkeypatch.setattr(measurement, "TOGETHER", 1)
    monkeypatch.setattr(measurement, "READ", 1)
    monkeypatch.setattr(measurement, "UNEMBEDDED", 2 * len(lm.tokenizer))
    monkeypatch.setattr(attention_rows, "LARGE", 0)
    apart = measure(lm, prompts)
    assert together.keys() == apart.keys()
    for name, tensor in together.items():
        torch.testing.assert_close(apart[name], tensor, atol=1e-4, rtol=1e-3, equal_nan=True)


def test_one_block_is_in_memory(monkeypatch: pytest.MonkeyPatch):
    alive: list[weakref.ref[torch.Tensor]] = []
    take = attention_rows.AttentionRows.take

    def watched(
        self: attention_rows.AttentionRows, block: int, first: int, pattern: torch.Tensor, hook: object
    ) -> None:
        gc.collect()
        assert not [each for each in alive if each() is not None]
        alive.append(weakref.ref(pattern))
        take(self, block, first, pattern)

    monkeypatch.setattr(attention_rows.AttentionRows, "take", watched)
    lm = random_lm()
    measure(lm, [as_prompt(lm, LONG, 0)])
    assert len(alive) == 2


def test_the_cost_is_said_and_recorded(tmp_path: Path):
    lm = random_lm()
    recorder = probe.watch(lm, tmp_path / "run", prompts=PROMPTS, every=5)
    assert recorder.cost() == ""
    recorder.capture(0)
    said = recorder.cost(12)
    assert said.startswith("A capture holds attention of all 8 heads; lens and norms; attribution; rewards. Each takes")
    assert "; 4 of them take " in said
    recorder.close()
    captures = open_run(tmp_path / "run").captures()
    assert captures.cost.startswith("1 capture, ")
    rows = (captures.path / "index.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["seconds"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "much"}, "The capture budget 'much' was not understood: give a size such as 200MB, or 0."),
        ({"parts": ("weights",)}, "Captures of 'weights' were requested: choose among attention, lens"),
        ({"parts": ()}, "Captures of nothing were requested"),
        ({"heads": ("H3",)}, "The head 'H3' to capture was not understood: name heads like L3H1."),
        ({"layers": (0,), "heads": ("L0H0",)}, "Layers and heads to capture were both given"),
        ({"tokens": -1}, "give numbers from 0 on"),
    ],
)
def test_an_option_that_is_not_possible(options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        CaptureOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (5,)}, "L5 cannot be captured: the model has 2 layers of 4 heads, counted from 0."),
        ({"heads": ("L1H9",)}, "L1H9 cannot be captured"),
        ({"budget": 100}, "more than the budget of 100 B: give a larger budget, fewer prompts, or fewer parts."),
    ],
)
def test_what_the_model_does_not_have(tmp_path: Path, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        record(tmp_path, **options)


def test_attention_that_does_not_fit_the_prompts_is_refused(tmp_path: Path):
    captures = record(tmp_path, budget="15kB")
    file = captures.files[0]
    good = load_file(file)
    heads = good[HEADS]
    for change in (
        {ROWS: np.array([99], dtype=np.int32)},
        {ROWS: np.zeros((), dtype=np.int32)},
        {HEADS: heads - 1},
        {HEADS: heads + np.int32(2**30)},
        {HEADS: heads[1:]},
        {TAIL: good[TAIL].astype(np.float32)},
        {TAIL: good[TAIL][:, 1:].copy()},
        {"attention_whole": good["attention_whole"][:, 1:].copy()},
        {"attention_whole_heads": good["attention_whole_heads"].astype(np.float32)},
    ):
        save_file(good | change, file)
        with pytest.raises(RunError, match="belongs to other prompts"):
            captures.load(0)
    save_file(good, file)
    assert captures.load(0)


def test_a_disk_without_room_for_a_large_array_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written: a write through memory to a full disk ends the process."""
    if not can_mount():
        pytest.skip("No small disk can be mounted here.")
    monkeypatch.setattr(attention_rows, "LARGE", 0)
    with small_disk(tmp_path, 2**20), pytest.raises(RunError, match="No space left on device"):
        attention_rows._array((2**21,), np.dtype(np.uint8), tmp_path / "captures")
