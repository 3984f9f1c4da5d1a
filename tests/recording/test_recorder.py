"""The recorder: what it captures is what the model does, and the training does not notice."""

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import probe
from probe import LM
from probe.errors import ConfigError, DataError, RunError
from probe.logits.attribution import attribute
from probe.logits.lens import logit_lens
from probe.logits.parts import promoted_tokens
from probe.logits.targets import Target
from probe.model.presets import ModelConfig
from probe.model.rewards import reward_lm
from probe.recording.recorder import Recorder, as_prompt, default_prompts, measure, watch
from probe.runs import ProbePrompt, RunWriter, open_run
from probe.runs.schema import CAPTURE_DTYPES
from probe.runs.writer import LEFT
from probe.world import World
from tests.models import (
    ARCHITECTURES,
    byte_tokenizer,
    char_tokenizer,
    random_lm,
    random_reward_model,
    tiny,
    word_tokenizer,
)

SIZE = ModelConfig(layers=2, width=32, heads=2, init_std=0.3)
PROMPTS = [
    {"text": "<user> quick 3 + 4 = <bot>", "answers": [" 7", " 8"], "kind": "sum", "id": "sum"},
    "map of market",
    {"text": "<user>", "answers": [" 1"]},
]


@pytest.fixture
def lm(world: World) -> LM:
    return LM.create(SIZE, world.tokenizer(), seed=0)


def train(lm: LM, steps: int, recorder: Recorder | None, hooks: list | None = None) -> list[torch.Tensor]:
    """A few steps with dropout, in training mode, with hooks of the user's own."""
    torch.manual_seed(1)
    drop = nn.Dropout(0.2)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=1e-2, fused=True)
    seen = hooks if hooks is not None else []
    handle = lm.model.model.layers[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    lm.model.train()
    lm.model.lm_head.eval()
    for step in range(steps):
        ids = torch.randint(0, 50, (4, 12))
        logits = lm.model(ids).logits
        loss = nn.functional.cross_entropy(drop(logits[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if recorder is not None:
            recorder.step(step + 1, loss=loss)
    handle.remove()
    return [parameter.detach().clone() for parameter in lm.model.parameters()]


def test_training_does_not_notice(world: World, lm: LM, tmp_path: Path):
    plain_calls: list[str] = []
    plain = train(lm, 6, None, plain_calls)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    other = LM.create(SIZE, world.tokenizer(), seed=0)
    calls: list[str] = []
    with probe.watch(other, tmp_path / "run", prompts=PROMPTS, every=2) as recorder:
        watched = train(other, 6, recorder, calls)
        assert recorder.seconds > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert np.random.get_state()[1].tolist() == state[2]  # type: ignore[index]
    assert calls == plain_calls
    assert other.model.training
    assert not other.model.lm_head.training
    assert all(parameter.requires_grad for parameter in other.model.parameters())
    run = open_run(tmp_path / "run")
    assert (run.method, run.status) == ("watch", "finished")
    assert run.captures().steps == [2, 4, 6]
    assert run.metrics()["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert run.metrics()["loss"].notna().all()


def test_a_capture_is_what_the_model_does(lm: LM, tmp_path: Path):
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS) as recorder:
        recorder.step(0)
    captures = open_run(tmp_path / "run").captures()
    tensors = captures.load(0)
    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == RECORDED
    for index, prompt in enumerate(captures.prompts):
        length = prompt.length
        ids = torch.tensor([prompt.token_ids])
        eager = copy.deepcopy(lm.model)
        eager.set_attn_implementation("eager")
        with torch.no_grad():
            out = eager(ids, output_attentions=True, output_hidden_states=True)
        logprobs = out.logits[0].log_softmax(-1)
        attention = torch.stack(out.attentions)[:, 0]
        np.testing.assert_allclose(tensors["attention"][index, :, :, :length, :length], attention, atol=1e-3)
        top = logprobs.topk(5)
        np.testing.assert_array_equal(tensors["lens_top_ids"][index, -1, :length], top.indices)
        np.testing.assert_allclose(tensors["lens_top_logprobs"][index, -1, :length], top.values, rtol=2e-3)
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        np.testing.assert_allclose(tensors["entropy"][index, :length], entropy, rtol=1e-5)
        margin = top.values[:, 0] - top.values[:, 1]
        np.testing.assert_allclose(tensors["margin"][index, :length], margin, atol=1e-5, rtol=1e-4)
        early = eager.lm_head(eager.model.norm(out.hidden_states[1][0])).log_softmax(-1)
        np.testing.assert_allclose(
            tensors["lens_top_logprobs"][index, 1, :length], early.topk(5).values.detach(), rtol=2e-3
        )
        norm = out.hidden_states[1][0].norm(dim=-1)
        np.testing.assert_allclose(tensors["residual_norm"][index, 1, :length], norm, rtol=1e-5)
        state = out.hidden_states[1][0, -1].detach()
        np.testing.assert_allclose(tensors["residual_last"][index, 1], state, rtol=1e-3, atol=1e-4)
        for a, answer in enumerate(prompt.answer_ids):
            np.testing.assert_allclose(
                tensors["lens_answer_logprobs"][index, -1, :length, a], logprobs[:, answer], rtol=2e-3
            )


def test_padding_is_zero(lm: LM, tmp_path: Path):
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS) as recorder:
        recorder.capture(0)
    captures = open_run(tmp_path / "run").captures()
    tensors, prompts = captures.load(0), captures.prompts
    assert len({prompt.length for prompt in prompts}) == 3
    for index, prompt in enumerate(prompts):
        after = prompt.length
        assert not tensors["attention"][index, :, :, after:].any()
        assert not tensors["attention"][index, :, :, :, after:].any()
        by_layer = [name for name in tensors if name.startswith("lens_")]
        assert len(by_layer) == 6
        for name in [*by_layer, "residual_norm"]:
            assert not tensors[name][index, :, after:].any(), name
        for name in ("entropy", "margin"):
            assert not tensors[name][index, after:].any(), name
        for name in ("lens_answer_logprobs", "lens_answer_ranks"):
            assert not tensors[name][index, :, :, len(prompt.answers) :].any()
        np.testing.assert_allclose(tensors["attention"][index, :, :, :after].sum(-1), 1, atol=5e-3)


def test_a_prompt_alone_gives_what_it_gives_among_others(lm: LM, tmp_path: Path):
    recorder = probe.watch(lm, tmp_path / "run", prompts=PROMPTS)
    recorder.close()
    together, alone = measure(lm, recorder.prompts), measure(lm, recorder.prompts[1:2])
    length = recorder.prompts[1].length
    torch.testing.assert_close(together["attention"][1, ..., :length, :length], alone["attention"][0])
    torch.testing.assert_close(together["entropy"][1, :length], alone["entropy"][0])
    for index in range(3):
        alone = measure(lm, recorder.prompts[index : index + 1])
        for name in ("attribution", "attribution_total", "neuron_attribution"):
            torch.testing.assert_close(together[name][index], alone[name][0], atol=1e-5, rtol=1e-5, equal_nan=True)


RECORDED = {
    name: kind for name, kind in CAPTURE_DTYPES.items() if name != "reference_kl" and not name.startswith("pair_")
}
"""What a model whose parts sum to its logits gives without further instruments."""
WORDS = [
    {"id": "two", "text": "mira lives in oslo .", "answers": ["rome", "oslo", "in"]},
    {"id": "one", "text": "tom works", "answers": ["rome"]},
    {"id": "none", "text": "mira"},
]


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_added_by_layer_and_part_is_what_the_analyses_give(name: str):
    lm = random_lm(name)
    prompts = [as_prompt(lm, prompt, index) for index, prompt in enumerate(WORDS)]
    tensors = {name: tensor.numpy() for name, tensor in measure(lm, prompts).items()}
    norm = getattr(lm.model.base_model, "norm", None) or getattr(lm.model.base_model, "ln_f", None)
    norm = norm or lm.model.base_model.final_layer_norm
    for index, prompt in enumerate(prompts):
        ids, last = prompt.token_ids, prompt.length - 1
        lens = logit_lens(lm, ids, k=2)
        np.testing.assert_allclose(tensors["lens_entropy"][index, :, : last + 1], lens.entropy, atol=1e-4)
        states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for row, t in np.ndindex(lens.entropy.shape):
            stream = states[row][0, t] if row == 2 else norm(states[row][0, t])  # the last state is normed already
            p = lm.model.get_output_embeddings()(stream).double().softmax(-1).numpy()
            ordered = np.sort(p)[::-1]
            assert tensors["lens_entropy"][index, row, t] == pytest.approx(scipy.stats.entropy(p), abs=1e-4)
            assert tensors["lens_margin"][index, row, t] == pytest.approx(np.log(ordered[0] / ordered[1]), abs=1e-4)
            for a, answer in enumerate(prompt.answer_ids):
                assert tensors["lens_answer_ranks"][index, row, t, a] == np.flatnonzero(ordered == p[answer])[0]
        for layer, part in np.ndindex(2, 5):
            own = promoted_tokens(lm, ids, layer, None if part == 4 else part, k=5)
            expected = [own.ids.tolist(), own.suppressed_ids.tolist()]
            assert tensors["promoted_ids"][index, layer, part].tolist() == expected
        parts, (rest, value) = tensors["attribution"][index], tensors["attribution_total"][index]
        if not prompt.answer_ids:
            assert np.isnan([*parts.ravel(), rest, value]).all()  # nothing was split, which is not 0
            continue
        first, second = (*prompt.answer_ids, None)[:2]
        found = attribute(lm, ids, Target(last, first, second))
        np.testing.assert_allclose(parts[:, :-1], found.heads, atol=1e-4)
        np.testing.assert_allclose(parts[:, -1], found.mlps, atol=1e-4)
        logits = lm.model(torch.tensor([ids])).logits[0, -1]
        expected = float(logits[first] - (0 if second is None else logits[second]))
        assert value == pytest.approx(expected, abs=1e-4)
        assert parts.sum() + rest == pytest.approx(expected, abs=1e-4)
        assert np.abs(parts).max() > 0.01


def test_parts_that_do_not_sum_are_left_out(tmp_path: Path):
    """Granite puts a factor on what attention and MLP wrote."""
    lm = LM(tiny("granite", residual_multiplier=0.5), word_tokenizer())
    with probe.watch(lm, tmp_path / "run", prompts=WORDS) as recorder:
        recorder.capture(0)
    tensors = open_run(tmp_path / "run").captures().load(0)
    parts = {"attribution", "attribution_total", "promoted_ids", "neuron_ids", "neuron_attribution"}
    assert set(tensors) == set(RECORDED) - parts


def test_a_diverged_model_is_captured_too(lm: LM):
    lm.model.model.layers[1].mlp.down_proj.weight.data[3] = torch.nan
    with torch.no_grad():
        tensors = measure(lm, [as_prompt(lm, PROMPTS[0], 0)])
    assert "attention" in tensors
    assert "attribution" not in tensors


def test_captures_follow_the_training(lm: LM, tmp_path: Path):
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS, every=3) as recorder:
        recorder.step(0)
        train(lm, 4, recorder)
    captures = open_run(tmp_path / "run").captures()
    assert captures.steps == [0, 3, 4]  # the last one when the run ends
    assert (captures.load(0)["entropy"] != captures.load(3)["entropy"]).any()


def test_prompts_in_every_form(lm: LM, tmp_path: Path):
    given = ProbePrompt(id="own", text="a", token_ids=[5, 6], tokens=["a", "b"])
    recorder = probe.watch(lm, tmp_path / "run", prompts=[*PROMPTS, given])
    recorder.close()
    summed, text, _, own = recorder.prompts
    assert (summed.id, summed.kind, summed.answers) == ("sum", "sum", [" 7", " 8"])
    assert summed.answer_ids == [lm.tokenizer.convert_tokens_to_ids(answer) for answer in "78"]
    assert (text.id, text.tokens[0]) == ("1", "<bos>")
    assert own is given
    assert open_run(tmp_path / "run").captures().prompts == recorder.prompts


def test_default_prompts_are_the_worlds(world: World, lm: LM, tmp_path: Path):
    base = RunWriter.create(tmp_path / "base", method="pretrain", config={}, world=world.to_dict())
    with base, base.checkpoint(1) as folder:
        lm.save(folder)
    loaded = LM.load(tmp_path / "base")
    with probe.watch(loaded, tmp_path / "mine") as recorder:
        assert [prompt.text for prompt in recorder.prompts] == [p["text"] for p in world.probe_prompts()]
    run = open_run(tmp_path / "mine")
    assert run.parent == str(tmp_path / "base")
    assert run.world == world.to_dict()
    with probe.watch(random_lm(tokenizer=byte_tokenizer()), tmp_path / "fresh") as recorder:
        assert [prompt.kind for prompt in recorder.prompts] == ["generic"] * 4
        assert all(len(prompt.answers) == 3 for prompt in recorder.prompts)
    assert recorder.left_out == open_run(tmp_path / "fresh").captures().left_out == ""


UNKNOWN: list[tuple[str | None, bool]] = [("<unk>", True), ("<unk>", False), (None, False)]


@pytest.mark.parametrize(("unknown", "declared"), UNKNOWN)
def test_default_prompts_that_the_tokenizer_cannot_read_are_left_out_and_named(
    tmp_path: Path, unknown: str | None, declared: bool
):
    tokenizer = char_tokenizer("abcdefghijklmnopqrstuvwxyz ", unknown, declared)
    lm = random_lm(tokenizer=tokenizer)
    with pytest.warns(UserWarning, match="^2 of the 4 default prompts are left out") as told:
        recorder = probe.watch(lm, tmp_path / "run")
    recorder.step(0)
    recorder.close()
    (sentence,) = [str(each.message) for each in told]
    assert "\u201cThe capital of France is\u201d (the tokenizer does not know \u201cT\u201d, \u201cF\u201d)" in sentence
    assert "\u201cShe opened the door and\u201d (the tokenizer does not know \u201cS\u201d)" in sentence
    captures = open_run(tmp_path / "run").captures()
    assert [prompt.text for prompt in captures.prompts] == ["one two three four", "a b a b a"]
    assert all("".join(prompt.tokens).replace("\u00b7", " ") == prompt.text for prompt in captures.prompts)
    assert captures.left_out == recorder.left_out == sentence
    file = tmp_path / "run" / "captures" / "prompts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"left_out": ["odd"]}))
    damaged = open_run(tmp_path / "run").captures()
    assert (damaged.left_out, damaged.prompts) == ("", captures.prompts)
    with pytest.raises(DataError, match="does not know \u201cZ\u201d of probe prompt 2, \u201cto Z\u201d: "):
        probe.watch(lm, tmp_path / "named", prompts=["to a", "to Z"])
    assert not (tmp_path / "named").exists()


@pytest.mark.parametrize(("unknown", "declared"), UNKNOWN)
def test_a_model_that_reads_no_default_prompt_gets_one_of_its_own_tokens(unknown: str | None, declared: bool):
    (prompt,), sentence = default_prompts(random_lm(tokenizer=char_tokenizer("-CAGT", unknown, declared)))
    assert (prompt.text, prompt.tokens, len(prompt.answers)) == ("CACAC", list("CACAC"), 3)
    assert "4 of the 4 default prompts" in sentence
    assert "\u201cCACAC\u201d, made of tokens of the model, is captured instead" in sentence
    (prompt,), _ = default_prompts(random_lm(tokenizer=word_tokenizer()))
    assert prompt.tokens == ["<bos>", "mira", "tom", "mira", "tom", "mira"]
    assert prompt.text == "mira tom mira tom mira"


def test_a_prompt_of_a_world_that_the_tokenizer_cannot_read_is_left_out(world: World):
    lm = random_lm(tokenizer=char_tokenizer("abcdefghijklmnopqrstuvwxyz "))
    prompts = [{"text": "where is mira", "answers": [" in", " at"]}, {"text": "3 + 4", "answers": []}]
    kept, sentence = default_prompts(lm, [*prompts, {"text": "same", "answers": ["a", "a"]}])
    assert [(prompt.text, prompt.answers) for prompt in kept] == [("where is mira", [" in", " at"])]
    assert "2 of the 3 default prompts" in sentence
    assert "\u201c3 + 4\u201d (the tokenizer does not know \u201c3\u201d, \u201c+\u201d, \u201c4\u201d)" in sentence
    assert "\u201csame\u201d (The answer \u201ca\u201d was given twice" in sentence
    assert default_prompts(lm, []) == ([], "")
    lm = random_lm(tokenizer=world.tokenizer())
    assert [prompt.text for prompt in default_prompts(lm, world.probe_prompts())[0]] == [
        prompt["text"] for prompt in world.probe_prompts()
    ]


def test_a_resumed_run_keeps_its_prompts(tmp_path: Path):
    lm = random_lm(tokenizer=byte_tokenizer())
    with probe.watch(lm, tmp_path / "run", every=1) as recorder:
        recorder.step(0)
        prompts = recorder.prompts
        train(lm, 2, recorder)
    assert default_prompts(lm)[0] != prompts
    with RunWriter.resume(tmp_path / "run", 1) as writer:
        again = probe.watch(lm, writer, every=1)
        again.step(2)
        again.close()
        assert writer.seconds > 0  # the run is its owner's to end
        writer.log(3, {"loss": 1.0})
    assert again.prompts == prompts
    assert open_run(tmp_path / "run").captures().steps == [0, 1, 2]


def test_a_loop_that_fails_says_so(lm: LM, tmp_path: Path):
    with pytest.raises(ZeroDivisionError), probe.watch(lm, tmp_path / "a", prompts=PROMPTS) as recorder:
        recorder.step(1, loss=1 / 0)
    with pytest.raises(KeyboardInterrupt), probe.watch(lm, tmp_path / "b", prompts=PROMPTS):
        raise KeyboardInterrupt
    assert [open_run(tmp_path / name).status for name in "ab"] == ["failed", "interrupted"]


def test_three_lines_leave_a_run_that_is_a_model(lm: LM, tmp_path: Path):
    recorder = probe.watch(
        lm, tmp_path / "run", prompts=PROMPTS, config={"lr": 1e-2, "note": "mine"}, seed=7, method="dpo"
    )
    trained = train(lm, 3, recorder)
    recorder.close()
    recorder.close()  # says the same
    run = open_run(tmp_path / "run")
    assert (run.status, run.method, run.seed) == ("finished", "dpo", 7)
    assert (run.config["lr"], run.config["note"], run.config["every"]) == (1e-2, "mine", 50)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3]
    assert run.captures().steps == [3]
    again = LM.load(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(trained, again.model.parameters(), strict=True))
    assert again.fingerprint == lm.fingerprint


def test_a_run_without_captures(lm: LM, tmp_path: Path):
    @dataclass
    class Settings:
        lr: float = 0.1

    with probe.watch(lm, tmp_path / "run", every=0, config=Settings()) as recorder:
        train(lm, 4, recorder)
    run = open_run(tmp_path / "run")
    assert run.captures().steps == []
    assert run.captures().prompts == []
    assert run.metrics()["loss"].notna().sum() == 4
    assert (run.config["lr"], run.config["prompts"]) == (0.1, 0)
    assert LM.load(f"{tmp_path / 'run'}@4").fingerprint == lm.fingerprint


def test_the_checkpoint_can_be_left_out(lm: LM, tmp_path: Path):
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS, checkpoint=False) as recorder:
        recorder.step(0)
    with probe.watch(lm, tmp_path / "none", prompts=PROMPTS):
        pass  # no step was taken
    assert [open_run(tmp_path / name).checkpoints() for name in ("run", "none")] == [[], []]


@pytest.mark.parametrize(
    ("error", "status"), [(ZeroDivisionError("bad batch"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_what_a_broken_training_has_made_is_kept(lm: LM, tmp_path: Path, error: BaseException, status: str):
    def loop() -> None:
        with probe.watch(lm, tmp_path / "run", prompts=PROMPTS, every=2) as recorder:
            train(lm, 3, recorder)
            raise error

    with pytest.raises(type(error)):
        loop()
    run = open_run(tmp_path / "run")
    assert run.status == status
    assert run.message == ("bad batch" if status == "failed" else None)
    assert run.metrics()["step"].tolist() == [1, 2, 3]
    assert run.captures().steps == [2]
    assert LM.load(tmp_path / "run").fingerprint == lm.fingerprint


def test_a_model_that_cannot_be_saved_hides_no_error(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise RunError("the disk is full")

    monkeypatch.setattr(LM, "save", full)
    with pytest.raises(ZeroDivisionError), probe.watch(lm, tmp_path / "a", every=0) as recorder:
        recorder.step(1, loss=recorder.step(0, loss=1.0) or 1 / 0)
    assert open_run(tmp_path / "a").message == "division by zero; the model could not be saved (the disk is full)"
    recorder = probe.watch(lm, tmp_path / "b", every=0)
    recorder.step(1, loss=1.0)
    with pytest.raises(RunError, match="disk is full"):
        recorder.close()
    assert (open_run(tmp_path / "b").status, open_run(tmp_path / "b").message) == ("failed", "the disk is full")


def test_a_recorder_that_is_left_ends_its_run(lm: LM, tmp_path: Path):
    recorder = probe.watch(lm, tmp_path / "run", every=0)
    recorder.step(1, loss=1.0)
    del recorder
    assert (open_run(tmp_path / "run").status, open_run(tmp_path / "run").message) == ("failed", LEFT)


def test_settings_of_a_run_belong_to_its_writer(lm: LM, tmp_path: Path):
    with RunWriter.create(tmp_path / "run", method="mine", config={}) as writer:
        for given in ({"method": "dpo"}, {"config": {}}, {"seed": 1}):
            with pytest.raises(ConfigError, match="give these to the writer"):
                probe.watch(lm, writer, prompts=PROMPTS, **given)  # type: ignore[arg-type]


def test_mistakes(lm: LM, tmp_path: Path):
    with pytest.raises(ConfigError, match="expected 1 or more, or 0 for none"):
        probe.watch(lm, tmp_path / "a", every=-1)
    with pytest.raises(ConfigError, match="The config is a str: give a dict or a dataclass"):
        probe.watch(lm, tmp_path / "a", prompts=PROMPTS, config="fast")
    with pytest.raises(RunError, match="A value of type object cannot be written"):
        probe.watch(lm, tmp_path / "a", prompts=PROMPTS, config={"odd": object()})
    for prompts in ([""], [{"answers": []}], [3]):
        with pytest.raises(DataError, match="Probe prompt 1 was given as"):
            probe.watch(lm, tmp_path / "a", prompts=prompts)
    for prompts in ([], [{"text": "a", "id": "x"}, {"text": "map", "id": "x"}]):
        with pytest.raises(DataError, match="give at least one, each with an id of its own"):
            probe.watch(lm, tmp_path / "a", prompts=prompts)
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("")
    with pytest.raises(RunError, match="holds something already"):
        probe.watch(lm, tmp_path / "a", prompts=PROMPTS)


def test_bfloat16_and_autocast(lm: LM, tmp_path: Path):
    lm.model.to(torch.bfloat16)
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS) as recorder, torch.autocast("cpu", torch.bfloat16):
        recorder.step(0)
    tensors = open_run(tmp_path / "run").captures().load(0)
    assert {name: str(tensor.dtype) for name, tensor in tensors.items()} == RECORDED
    split = {"attribution", "attribution_total", "neuron_attribution"}
    for name, tensor in tensors.items():
        bare = [not prompt.answers for prompt in open_run(tmp_path / "run").captures().prompts]
        assert np.isnan(tensor[bare]).all() if name in split else np.isfinite(tensor).all()


def test_fused_projections_are_captured_anew(world: World, tmp_path: Path):
    """GPT-2 fuses query, key and value; the bridge splits them, and must follow every optimiser step."""
    tokenizer = world.tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.3
    )
    lm = LM(GPT2LMHeadModel(config), tokenizer)
    with probe.watch(lm, tmp_path / "run", prompts=PROMPTS) as recorder:
        recorder.capture(0)
        optimizer = torch.optim.AdamW(lm.model.parameters(), lr=0.1, fused=True)
        lm.model(torch.randint(0, 50, (2, 8)), labels=torch.randint(0, 50, (2, 8))).loss.backward()
        optimizer.step()
        recorder.capture(1)
    captures = open_run(tmp_path / "run").captures()
    eager = copy.deepcopy(lm.model).eval()
    eager.set_attn_implementation("eager")
    prompt = captures.prompts[0]
    with torch.no_grad():
        out = eager(torch.tensor([prompt.token_ids]), output_attentions=True)
    expected = torch.stack(out.attentions)[:, 0]
    np.testing.assert_allclose(
        captures.load(1)["attention"][0, :, :, : prompt.length, : prompt.length], expected, atol=1e-3
    )
    assert np.abs(captures.load(0)["attention"] - captures.load(1)["attention"]).max() > 0.1


def test_a_model_of_one_number_cannot_be_watched(tmp_path: Path):
    with pytest.raises(ConfigError, match="A reward model outputs one number and no probabilities of tokens") as caught:
        watch(reward_lm(random_reward_model()), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
