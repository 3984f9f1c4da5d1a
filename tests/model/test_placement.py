"""Models over several devices, on the disk, in other number formats and with quantised weights."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from probe import LM, RewardModel
from probe.attention.patterns import attention
from probe.attention.scores import repeat_scores
from probe.attention.tracing import value_norms
from probe.compare.path import interpolate
from probe.compare.weights import weight_change
from probe.errors import ConfigError, MissingToolError, ModelError
from probe.logits.attribution import attribute_answer
from probe.logits.lens import logit_lens
from probe.model import placement as placing
from probe.model.adapted import Weights
from probe.model.equations import read_network
from probe.model.heads import output_maps
from probe.model.hooks import on_one_device
from probe.model.loading import write
from probe.model.placement import is_offloaded, is_quantized, placement
from probe.model.rewards import reward_lm
from tests.models import random_reward_model, saved_lm

TEXT, COMPLETION = "mira lives in the", " oslo ."
KINDS = ["llama", "gpt2", "qwen3", "gpt_neox", "phi3", "mixtral"]
TIED = ["gpt2", "qwen3"]


def spread(lm: LM, block: str = "disk", rest: str = "cpu") -> dict[str, str]:
    """A map with the second block elsewhere than the rest."""
    model: Any = lm.model
    body = model.base_model
    blocks = next(f"{name}.1" for name, part in body.named_children() if isinstance(part, torch.nn.ModuleList))
    names = [f"{name}.0" if f"{name}.1" == blocks else name for name, _ in body.named_children()]
    inside = {f"{model.base_model_prefix}.{name}": rest for name in names}
    outside = {name: rest for name, part in model.named_children() if part is not body}
    return inside | outside | {f"{model.base_model_prefix}.{blocks}": block}


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LM, Path]:
    """A model in one piece, and its folder."""
    folder = saved_lm(tmp_path / "model", request.param)
    return LM.load(folder), folder


def close(found: Any, expected: Any) -> None:
    found, expected = (np.asarray(each.detach() if isinstance(each, Tensor) else each) for each in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_on_the_disk_as_in_one_piece(pair: tuple[LM, Path], whole: bool):
    one, folder = pair
    parts = LM.load(folder, device_map={"": "disk"} if whole else spread(one))
    assert is_offloaded(parts.model)
    assert parts.device == torch.device("cpu")
    assert "disk" in repr(parts)
    assert parts.fingerprint == one.fingerprint
    close(parts.logits(TEXT), one.logits(TEXT))
    close(parts.logprobs([TEXT], [[COMPLETION, " rome"]]).values, one.logprobs([TEXT], [[COMPLETION, " rome"]]).values)
    drawn = [lm.generate([TEXT, "tom"], n=2, max_new_tokens=5, seed=0) for lm in (parts, one)]
    assert drawn[0].tokens.tolist() == drawn[1].tokens.tolist()
    logits, cache = parts.run_with_cache(TEXT)
    close(logits, one.logits(TEXT))
    expected = one.run_with_cache(TEXT)[1]
    assert list(cache) == list(expected)
    for name in expected:
        close(cache[name], expected[name])
    bridge = parts.bridge
    parts.logits(TEXT)
    assert parts.bridge is bridge  # not built anew after each pass
    assert parts.fingerprint == one.fingerprint


def test_hooks_change_what_is_on_the_disk(pair: tuple[LM, Path]):
    one, folder = pair
    parts = LM.load(folder, device_map={"": "disk"})

    def double(tensor: Tensor, hook: Any) -> Tensor:
        return 2 * tensor

    for name in ("blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"):
        with parts.hooks([(name, double)]), one.hooks([(name, double)]):
            changed = one.logits(TEXT).detach()
            close(parts.logits(TEXT), changed)
        assert float((changed - one.logits(TEXT).detach()).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_analyses_of_a_model_on_the_disk(tmp_path: Path, kind: str):
    folder = saved_lm(tmp_path / "model", kind)
    one, parts = LM.load(folder), LM.load(folder, device_map={"": "disk"})
    close(logit_lens(parts, TEXT).top_logprobs, logit_lens(one, TEXT).top_logprobs)
    close(attention(parts, TEXT).pattern, attention(one, TEXT).pattern)
    close(value_norms(parts, TEXT), value_norms(one, TEXT))
    scores = [repeat_scores(lm, length=6, batch=2).values for lm in (parts, one)]
    for name in scores[1]:
        close(scores[0][name], scores[1][name])
    shares = [attribute_answer(lm, TEXT, answer=" oslo").table() for lm in (parts, one)]
    assert shares[0].select_dtypes("number").shape[1] > 2
    close(*(table.select_dtypes("number") for table in shares))


def test_a_model_on_the_disk_is_saved_whole(tmp_path: Path):
    folder = saved_lm(tmp_path / "model", "qwen3")
    parts = LM.load(folder, device_map={"": "disk"})
    assert LM.load(parts.save(tmp_path / "copy")).fingerprint == LM.load(folder).fingerprint
    half = LM.load(parts.save(tmp_path / "half", dtype="bfloat16"))
    close(half.logits(TEXT), LM.load(LM.load(folder).save(tmp_path / "other", dtype="bfloat16")).logits(TEXT))


def test_a_reward_model_on_the_disk(tmp_path: Path):
    one = random_reward_model()
    write(one.model, one.tokenizer, tmp_path / "judge")
    parts = RewardModel.load(tmp_path / "judge", device_map={"": "disk"})
    assert is_offloaded(parts.model)
    assert parts.fingerprint == one.fingerprint
    close(parts.score([TEXT], [COMPLETION]), one.score([TEXT], [COMPLETION]))
    close(reward_lm(parts).run_with_cache(TEXT)[0], reward_lm(one).logits(TEXT))


def test_hooks_see_one_device_of_several():
    """Tensors without values, which torch refuses to mix if their devices differ; no GPU is needed."""
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    seen: list[torch.device] = []

    def look(tensor: Tensor, hook: Any) -> None:
        seen.append(tensor.device)

    def change(tensor: Tensor, hook: Any) -> Tensor:
        return tensor + torch.ones(2, device=first)

    def change_in_place(tensor: Tensor, hook: Any) -> None:
        tensor.add_(torch.ones(2, device=first))

    with FakeTensorMode():
        state = torch.ones(2, device=second)
        with pytest.raises(RuntimeError, match="same device"):
            change(state, None)
        assert on_one_device(look, first)(state, None) is None
        assert seen == [first]
        for fn in (change, change_in_place):
            changed = on_one_device(fn, first)(state, None)
            assert changed is not None
            assert changed.device == second


def test_what_reads_weights_says_that_they_are_elsewhere(tmp_path: Path):
    folder = saved_lm(tmp_path / "model")
    one, parts = LM.load(folder), LM.load(folder, device_map=spread(LM.load(folder)))
    for read in (
        lambda: read_network(parts),
        lambda: weight_change(one, parts),
        lambda: interpolate(parts, one, 0.5),
    ):
        with pytest.raises(ModelError, match=r"partly on the disk .* load it without `device_map`"):
            read()


def test_automatic_maps_use_the_disk_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers.integrations import accelerate

    folder = saved_lm(tmp_path / "model", num_hidden_layers=6)
    monkeypatch.setattr(accelerate, "get_max_memory", lambda *_: {"cpu": 40_000, "disk": 10**9})
    parts = LM.load(folder, device_map="auto")
    assert is_offloaded(parts.model)
    assert {str(each) for each in vars(parts.model)["hf_device_map"].values()} == {"cpu", "disk"}
    close(parts.run_with_cache(TEXT)[0], LM.load(folder).logits(TEXT))


def test_maps_that_do_not_fit(tmp_path: Path):
    folder = saved_lm(tmp_path / "model")
    for given, kind, why in (
        ({"device_map": "best"}, ConfigError, "device_map='best' was given: give one of auto, balanced"),
        ({"device_map": "auto", "device": "cpu"}, ConfigError, "device and device_map were both given"),
        ({"device_map": {"": "cuda:7"}}, ModelError, "There is no device 'cuda:7' here"),
        ({"device_map": {"": 7}}, ModelError, "There is no device '7' here"),
        ({"device_map": {"model": "disk"}}, ModelError, "does not give any device for the following parameters: lm_h"),
        ({"quantization": "2bit"}, ConfigError, "quantization='2bit' was given: give '8bit' or '4bit'"),
    ):
        with pytest.raises(kind, match=why):
            LM.load(folder, **given)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("where", [{"device": "cpu"}, {"device_map": {"": "disk"}}])
def test_number_formats_everywhere(tmp_path: Path, dtype: str, where: dict[str, Any]):
    folder = saved_lm(tmp_path / "model")
    lm, exact = LM.load(folder, dtype=dtype, **where), LM.load(folder)
    kind = placing.DTYPES[dtype]
    assert lm.dtype == kind
    plain = copy.deepcopy(exact.model).to(kind)
    ids = exact._batch(TEXT)[0]
    tight = {"rtol": 1e-4, "atol": 1e-5} if dtype == "float32" else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(lm.logits(TEXT), plain(ids).logits, **tight)
    torch.testing.assert_close(lm.run_with_cache(TEXT)[0].float(), exact.logits(TEXT), **tight)
    assert lm.generate(TEXT, max_new_tokens=2, seed=0).tokens.shape[-1] <= 2
    assert np.isfinite(logit_lens(lm, TEXT).entropy).all()


def test_the_environment_holds_for_calls_without_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved_lm(tmp_path / "model")
    monkeypatch.setenv("PROBE_LOAD", "dtype=bfloat16, device_map=auto")
    assert placement() == placing.Placement(None, torch.bfloat16, "auto")
    assert LM.load(folder).dtype == torch.bfloat16
    assert LM.load(folder, device="cpu").dtype == torch.float32
    for words in ("dtype", "dtype=", "speed=fast", "auto"):
        monkeypatch.setenv("PROBE_LOAD", words)
        with pytest.raises(ConfigError, match=r"PROBE_LOAD holds .*: write it as device_map=auto"):
            LM.load(folder)


@pytest.fixture
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes")


def lm_whole(lm: LM) -> LM:
    """The same weights dequantised, by transformers itself."""
    return LM(copy.deepcopy(lm.model).dequantize(), lm.tokenizer)


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights(tmp_path: Path, bits: str, caplog: pytest.LogCaptureFixture):
    folder = saved_lm(tmp_path / "model", hidden_size=64, intermediate_size=64)
    exact, lm = LM.load(folder), LM.load(folder, quantization=bits)
    assert lm.fingerprint != exact.fingerprint
    before = lm.fingerprint
    assert lm.n_parameters == exact.n_parameters
    gap, spread_ = (lm.logits(TEXT) - exact.logits(TEXT)).std(), exact.logits(TEXT).std()
    assert 0 < gap < (0.1 if bits == "8bit" else 0.5) * spread_
    torch.testing.assert_close(lm.run_with_cache(TEXT)[0], lm.logits(TEXT), rtol=1e-2, atol=1e-2)
    assert lm.fingerprint == before
    assert lm.generate(TEXT, max_new_tokens=2, seed=0).tokens.shape[-1] <= 2
    assert np.isfinite(logit_lens(lm, TEXT).entropy).all()
    weights = lm.model.model.layers[0].self_attn.o_proj
    states = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0))
    written = (states.view(3, 4, 16)[:, :, None] @ output_maps(lm, 0))[:, :, 0].sum(1)
    torch.testing.assert_close(written, weights(states)[0], rtol=0.05, atol=0.05 * float(written.std()))
    close(output_maps(lm, 0), lm_whole(lm).bridge.blocks[0].attn.W_O)
    for read in (
        lambda: read_network(lm),
        lambda: weight_change(exact, lm),
        lambda: interpolate(exact, lm, 0.5),
    ):
        with pytest.raises(ModelError, match="are quantised and are read here: load it without quantisation"):
            read()
    saved = LM.load(lm.save(tmp_path / "small"))
    assert saved.fingerprint == before
    torch.testing.assert_close(saved.logits(TEXT), lm.logits(TEXT), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="are quantised already"):
        LM.load(tmp_path / "small", quantization=bits)
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]


def test_other_ways_of_quantising_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved_lm(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for about, why in (
        ({"quant_method": "gptq", "bits": 4}, "quantised by gptq, and only bitsandbytes is read here"),
        ({"quant_method": ["bitsandbytes"]}, "quantised by .*, and only bitsandbytes is read here"),
        ({}, "quantised by an unknown method"),
        ("bitsandbytes", "quantised by an unknown method"),
    ):
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
        with pytest.raises(ModelError, match=why):
            LM.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(placing.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingToolError, match=r"needs the package `bitsandbytes`: `pip install"):
        LM.load(folder, quantization="8bit")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA whose B is not zero, and beside it `base`."""
    peft = pytest.importorskip("peft")
    base = saved_lm(tmp_path / "base")
    model = peft.get_peft_model(LM.load(base).model, peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"]))
    for name, each in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(each.data, std=0.2, generator=torch.Generator().manual_seed(0))
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_an_adapter_on_a_quantised_base_is_what_peft_computes(lora: Path, bits: str):
    pytest.importorskip("bitsandbytes")
    from peft import PeftModel

    lm, base = LM.load(lora, quantization=bits), LM.load(lora.parent / "base", quantization=bits)
    assert lm.base is not None
    assert is_quantized(lm.model)
    theirs = PeftModel.from_pretrained(base.model, lora)
    expected = theirs(torch.tensor([lm.tokenizer.encode(TEXT)])).logits.detach()
    torch.testing.assert_close(lm.logits(TEXT), expected, rtol=1e-4, atol=1e-5)
    assert float((expected - lm.base.logits(TEXT).detach()).abs().max()) > 0.01
    with lm.hooks([("blocks.1.hook_resid_post", lambda *_: None)]):
        torch.testing.assert_close(lm.logits(TEXT), expected, rtol=1e-4, atol=1e-3)
    found = logit_lens(lm, TEXT)
    np.testing.assert_allclose(found.top_logprobs[-1, :, 0], expected[0].log_softmax(-1).amax(-1), atol=1e-3)
    attribute_answer(lm, TEXT)  # it raises an error unless its parts add up to the logits
    weight = Weights(lm.model)["model.layers.0.self_attn.q_proj.weight"]
    layer = theirs.get_base_model().model.layers[0].self_attn.q_proj
    with placing.readable(layer.base_layer):
        torch.testing.assert_close(weight, layer.base_layer.weight + layer.get_delta_weight("default"))
    assert len({LM.load(lora, quantization=bits).fingerprint, lm.fingerprint}) == 1
    assert lm.fingerprint != lm.base.fingerprint
    with pytest.raises(ModelError, match="save the adapter alone"):
        lm.save(lora.parent / "whole")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_an_adapter_is_not_put_on_offloaded_weights(lora: Path):
    with pytest.raises(ModelError, match="cannot be put on a base of which parts are offloaded"):
        LM.load(lora, device_map={"": "disk"})
    lm = LM.load(lora, device_map={"": "cpu"})
    assert lm.base is not None
    torch.testing.assert_close(lm.logits(TEXT), LM.load(lora).logits(TEXT), rtol=1e-4, atol=1e-5)


def test_no_argument_means_one_device():
    assert placement() == placing.Placement(placing.device_of(None))
