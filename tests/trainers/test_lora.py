"""Training adapters: the base never changes, looking changes nothing, and what is saved is what peft reads."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from probe import LM, Run, open_run
from probe.errors import ConfigError, MissingToolError, ModelError
from probe.model.adapters import HEAD, quiet
from probe.model.loading import fingerprint
from probe.model.scoring import completion_logprobs
from probe.runs import thin
from tests.models import ARCHITECTURES, saved_lm
from tests.trainers.conftest import figures
from tests.trainers.quick import QUICK, train
from trainers.config import DPOConfig, TrainConfig
from trainers.lora import LoRATrainee
from trainers.starting import make_trainee

Make = Callable[..., TrainConfig]
TEXT = "mira lives in oslo . where does mira lives ?"
LORA: dict[str, Any] = {"lora": 3, "lora_alpha": 6.0, "lr": 3e-2}


def trainee_of(name: str, tmp_path: Path, **options: Any) -> tuple[LM, LoRATrainee]:
    """A base, and another copy of it with an adapter."""
    path = saved_lm(tmp_path / "base", name)
    config = DPOConfig(out=tmp_path / "none", base=str(path), **{"lora": 3} | options)
    trainee = make_trainee(LM.load(path), config)
    assert isinstance(trainee, LoRATrainee)
    return LM.load(path), trainee


def shift(trainee: LoRATrainee, size: float = 0.05) -> None:
    """Move the adapter away from its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainee.module.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_starts_at_the_base_and_the_reference_stays_there(name: str, tmp_path: Path) -> None:
    base, trainee = trainee_of(name, tmp_path)
    expected = base.logits(TEXT)
    reference = trainee.reference()
    for lm in (trainee.lm, trainee.view, reference.lm):
        assert torch.equal(lm.logits(TEXT), expected)
    assert trainee.fingerprint == base.weights_fingerprint == trainee.view.weights_fingerprint
    trained = {key for key, parameter in trainee.module.named_parameters() if parameter.requires_grad}
    assert trained == {key for key, _ in trainee.module.named_parameters() if "lora_" in key}
    linear = {k.rpartition(".lora_")[0].rpartition(".")[2] for k in trained}
    assert linear
    assert not linear & {"lm_head", "embed_out", "wte", "embed_in"}
    shift(trainee)
    assert (trainee.lm.logits(TEXT) - expected).abs().max() > 0.1
    ids = base.tokenizer(TEXT, return_tensors="pt").input_ids
    with trainee.module.disable_adapter():  # type: ignore[operator]
        off = trainee.module(input_ids=ids).logits
    assert torch.equal(off, base.model(input_ids=ids).logits)
    assert torch.equal(reference.lm.logits(TEXT), expected)
    assert torch.equal(reference.logits([ids[0].tolist()]), expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_looking_copies_and_changes_nothing(name: str, tmp_path: Path) -> None:
    base, trainee = trainee_of(name, tmp_path)
    view, start = trainee.view, trainee.view.run_with_cache(TEXT, ["blocks.0.attn.hook_pattern"])[0]
    shift(trainee)
    before = {key: value.clone() for key, value in trainee.module.state_dict().items()}
    trainee.refresh()
    ids = base.tokenizer(TEXT, return_tensors="pt").input_ids
    expected = trainee.module(input_ids=ids).logits
    torch.testing.assert_close(view.logits(TEXT), expected, rtol=1e-4, atol=1e-5)
    assert (start - expected).abs().max() > 0.1
    hooked, _ = view.run_with_cache(TEXT, ["blocks.0.attn.hook_pattern"])
    torch.testing.assert_close(hooked, expected, rtol=0, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in trainee.module.state_dict().items())
    assert torch.equal(trainee.reference().lm.logits(TEXT), base.logits(TEXT))
    assert trainee.view is view


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_shared_prompts_give_the_same_gradients(name: str, tmp_path: Path) -> None:
    _, trainee = trainee_of(name, tmp_path)
    shift(trainee)
    prompts, groups = [[5, 6, 7], [8, 9]], [[[10, 11], [12, 13, 3]], [[14, 3], [15]]]
    found = []
    for shared in (True, False):
        scored = completion_logprobs(trainee.module, prompts, groups, share_prompt=shared)
        found.append(
            torch.autograd.grad(scored.values.sum(), [p for p in trainee.module.parameters() if p.requires_grad])
        )
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_a_checkpoint_is_an_adapter_of_peft(name: str, tmp_path: Path) -> None:
    base, trainee = trainee_of(name, tmp_path)
    shift(trainee)
    trainee.save(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names
    expected = trainee.lm.logits(TEXT)
    with quiet():
        theirs = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = base.tokenizer(TEXT, return_tensors="pt").input_ids
    torch.testing.assert_close(theirs(input_ids=ids).logits, expected, rtol=0, atol=1e-5)
    ours = LM.load(tmp_path / "adapter")
    torch.testing.assert_close(ours.logits(TEXT), expected, rtol=0, atol=1e-5)
    trainee.refresh()
    assert fingerprint(ours.model) == fingerprint(trainee.view.model)
    _, other = trainee_of(name, tmp_path, seed=1)
    assert not torch.equal(other.lm.logits(TEXT), expected)
    other.load(tmp_path / "adapter")
    assert torch.equal(other.lm.logits(TEXT), expected)


def test_a_checkpoint_of_another_rank_is_refused(tmp_path: Path) -> None:
    _, trainee = trainee_of("llama", tmp_path)
    trainee.save(tmp_path / "adapter")
    _, other = trainee_of("llama", tmp_path, lora=2)
    with pytest.raises(ModelError, match="has another rank or other layers"):
        other.load(tmp_path / "adapter")


def test_targets(tmp_path: Path) -> None:
    _, trainee = trainee_of("llama", tmp_path, lora_targets=("q_proj", "v_proj"))
    trained = [key for key, parameter in trainee.module.named_parameters() if parameter.requires_grad]
    assert len(trained) == 8
    assert all(".q_proj." in key or ".v_proj." in key for key in trained)
    with pytest.raises(ConfigError, match=r"--lora-targets c_attn fits no layer of this model: name linear layers"):
        trainee_of("llama", tmp_path, lora_targets=("c_attn",))
    with pytest.raises(ConfigError, match=r"--lora-targets q_proj lm_head fits other layers too"):
        trainee_of("qwen3", tmp_path, lora_targets=("q_proj", "lm_head"))
    with pytest.raises(ConfigError, match=r"--lora-targets norm fits other layers too"):
        trainee_of("llama", tmp_path, lora_targets=("norm",))


def test_start_depends_on_the_seed_alone(tmp_path: Path) -> None:
    _, one = trainee_of("llama", tmp_path)
    torch.manual_seed(123)
    _, two = trainee_of("llama", tmp_path)
    _, three = trainee_of("llama", tmp_path, seed=1)
    states = [trainee.module.state_dict() for trainee in (one, two, three)]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert any(not torch.equal(value, states[2][key]) for key, value in states[0].items())


def adapter_weights(run: Run) -> dict[str, torch.Tensor]:
    """Those of an adapter directory; a reward model's has its head too."""
    return load_file(run.checkpoints()[-1].path / "adapter_model.safetensors")


@pytest.mark.parametrize("method", QUICK)
def test_every_method_trains_adapters(method: str, configs: Callable[[str], Make], world_run: Path) -> None:
    run = train(configs(method)(base=str(world_run), steps=2, **LORA))
    assert run.status == "finished"
    state = adapter_weights(run)
    assert all("lora_" in key or key == HEAD for key in state)
    assert any(value.any() for key, value in state.items() if "lora_B" in key)


def test_captures_change_nothing(configs: Callable[[str], Make]) -> None:
    make = configs("dpo")
    watched, plain = train(make("watched", capture_every=2, steps=3, **LORA)), train(make("plain", steps=3, **LORA))
    assert watched.captures().steps == [0, 2, 3]
    first, last = (watched.captures().load(step)["lens_top_logprobs"] for step in (0, 3))
    assert (first != last).any()
    state = adapter_weights(watched)
    assert all(torch.equal(value, state[key]) for key, value in adapter_weights(plain).items())


def test_resumed_to_the_same_bits(configs: Callable[[str], Make], world_run: Path) -> None:
    make = configs("dpo")
    common: dict[str, Any] = {"base": str(world_run), "schedule": "constant", "eval_every": 2, **LORA}
    whole = train(make("whole", steps=4, **common))
    train(make("parts", steps=2, **common))
    resumed = train(make("parts", steps=4, resume=True, **common))
    pd.testing.assert_frame_equal(figures(whole), figures(resumed), check_exact=True)
    theirs = adapter_weights(resumed)
    assert all(torch.equal(value, theirs[key]) for key, value in adapter_weights(whole).items())
    moments = load_file(resumed.checkpoints()[-1].path / "optimizer.safetensors")
    assert {key.rpartition("/")[0].replace(".default", "") for key in moments} == set(theirs)
    with pytest.raises(ConfigError, match=r"has --lora 3 and --resume came with 2: leave --lora out"):
        train(make("parts", steps=6, resume=True, **common | {"lora": 2}))


def test_a_run_of_adapters_is_a_base_like_any_other(configs: Callable[[str], Make], world_run: Path) -> None:
    make = configs("dpo")
    first = train(make("first", steps=1, **LORA))
    second = train(make("second", steps=1, base=str(first.path), **LORA))
    whole = train(make("whole", steps=1, base=str(first.path)))
    for run in (second, whole):
        assert LM.load(run.path).run_dir == run.path
    assert LM.load(second.path).fingerprint != LM.load(first.path).fingerprint
    config = second.checkpoints()[-1].path / "adapter_config.json"
    assert str(first.checkpoints()[-1].path.resolve()) in config.read_text()


def test_the_base_is_the_checkpoint_that_was_trained_on(configs: Callable[[str], Make], tmp_path: Path) -> None:
    """Training the base further, or moving the folder of runs, leaves the adapter's model as it is."""
    pretraining = configs("pretrain")
    train(pretraining("runs/base", schedule="constant", steps=1))
    run = train(configs("dpo")("runs/tuned", steps=1, base=str(tmp_path / "runs" / "base"), **LORA))
    expected = LM.load(run.path).fingerprint
    train(pretraining("runs/base", schedule="constant", steps=2, resume=True))
    assert LM.load(run.path).fingerprint == expected
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert LM.load(tmp_path / "moved" / "tuned").fingerprint == expected


def test_a_resumed_run_keeps_its_base(configs: Callable[[str], Make], tmp_path: Path) -> None:
    """`--base runs/base` is the newest checkpoint there, which is another one once that run went on."""
    pretraining = configs("pretrain")
    train(pretraining("runs/base", schedule="constant", steps=1))
    common: dict[str, Any] = {"base": str(tmp_path / "runs" / "base"), "schedule": "constant", "warmup": 0, **LORA}
    make = configs("sft")
    whole = train(make("whole", steps=2, **common))
    train(make("parts", steps=1, **common))
    train(pretraining("runs/base", schedule="constant", steps=3, resume=True))
    resumed = train(make("parts", steps=2, resume=True, **common))
    assert LM.load(resumed.path).fingerprint == LM.load(whole.path).fingerprint


def test_thinned_runs_load(configs: Callable[[str], Make]) -> None:
    run = train(configs("dpo")(capture_every=2, **LORA))
    before = LM.load(run.path).logits(TEXT)
    thin(run.path, keep=2)
    files = {path.name for path in open_run(run.path).checkpoints()[-1].path.iterdir()}
    assert not files & {"optimizer.safetensors", "trainer.json"}
    assert adapter_weights(run).popitem()[1].dtype == torch.float16
    torch.testing.assert_close(LM.load(run.path).logits(TEXT), before, rtol=0, atol=0.02)


def test_options_that_make_no_sense(configs: Callable[[str], Make], monkeypatch: pytest.MonkeyPatch) -> None:
    make = configs("pretrain")
    for changes, message in (
        ({"lora": -1}, "--lora is -1; expected 0 or more"),
        ({"lora": 2, "lora_alpha": 0.0}, "--lora-alpha is 0.0; expected a number above 0"),
        ({"lora": 2, "base": None}, "--lora is 2; expected 0 for a new model; an adapter needs --base"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(**changes)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingToolError, match=r"--lora needs the package `peft`"):
        train(make(lora=2))
    assert not make().out.exists()
