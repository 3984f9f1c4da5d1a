"""Models with an adapter as they are: hooked logits and effective weights are those of peft, and nothing is copied."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from probe import LM
from probe.errors import ModelError
from probe.model import loading
from probe.model.adapted import Weights, merged_layer, reference_active, wrapped_layers
from probe.model.adapters import quiet
from probe.model.equations import read_network, recompose
from probe.recording.recorder import as_prompt, measure
from tests.models import ARCHITECTURES, random_lm

IDS = [5, 6, 7, 8, 9, 10, 11]
VARIANTS: dict[str, dict[str, Any]] = {
    "queries and values": {"target_modules": ["q_proj", "v_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "ranks by layer": {"target_modules": "all-linear", "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"v_proj": 2}},
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "unembedding": {"target_modules": ["q_proj", "lm_head"]},
    "modules that were saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "a part that was saved": {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    "new tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [6, 7]},
}


def adapted(lm: LM, seed: int = 0, **options: Any) -> Any:
    """The model of `lm` with a LoRA of random weights, made by peft."""
    conv = any(isinstance(module, Conv1D) for module in lm.model.modules())
    settings = {"r": 3, "lora_alpha": 12, "lora_dropout": 0.3, "fan_in_fan_out": conv, "task_type": "CAUSAL_LM"}
    with quiet():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)
        model = get_peft_model(lm.model, LoraConfig(**settings | options))
    shake(model, seed)
    return model.eval()


def shake(model: nn.Module, seed: int = 0) -> None:
    """Move what is trained away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def theirs(model: Any) -> Tensor:
    """The logits of peft's own forward pass."""
    logits: Tensor = model(input_ids=torch.tensor([IDS])).logits
    return logits


def close(actual: Tensor, expected: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=atol)


def hooked(lm: LM) -> Tensor:
    return lm.run_with_cache(IDS, ["blocks.1.attn.hook_pattern"])[0]


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_hooked_logits_and_weights_are_those_of_peft(name: str) -> None:
    base = random_lm()
    before = base.logits(IDS)
    model = adapted(base, **VARIANTS[name])
    lm, expected = LM(model, base.tokenizer), theirs(model)
    assert (expected - before).abs().max() > 0.01
    assert torch.equal(lm.logits(IDS), expected)
    close(hooked(lm), expected)
    close(recompose(read_network(lm), torch.tensor(IDS))[None], expected)
    merged = copy.deepcopy(model).merge_and_unload(safe_merge=True)
    own = Weights(lm.model)
    if name != "embedding":  # its merged model has a tied unembedding, which peft's forward pass does not have
        assert sorted(own) == sorted(merged.state_dict())
    for key in own.parameters():
        close(own[key], merged.get_parameter(key), 1e-6)
    close(loading.merged(lm.model)(input_ids=torch.tensor([IDS])).logits, expected)


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_every_architecture_follows_training(name: str) -> None:
    base = random_lm(name)
    model = adapted(base, target_modules="all-linear")
    lm = LM(model, base.tokenizer)
    close(hooked(lm), theirs(model), 1e-4)
    bridge = lm.bridge
    shake(model, 1)  # in place, as an optimiser does
    close(hooked(lm), theirs(model), 1e-4)
    assert lm.bridge is bridge
    plain = LM(loading.merged(lm.model), base.tokenizer)
    close(hooked(plain), hooked(lm), 1e-4)
    assert plain.n_parameters == lm.n_parameters
    assert plain.weights_fingerprint == lm.weights_fingerprint


@torch.no_grad()
def test_the_active_adapter_is_shown_and_one_switched_off_is_not() -> None:
    base = random_lm()
    expected = base.logits(IDS)
    model = adapted(base, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head", "mlp"])
    lm = LM(model, base.tokenizer)
    first, print_ = hooked(lm), lm.fingerprint
    with model.disable_adapter():
        close(hooked(lm), expected)
        close(hooked(LM(loading.merged(lm.model), base.tokenizer)), expected)
        assert lm.fingerprint == random_lm().fingerprint
    model.add_adapter("other", LoraConfig(r=2, target_modules=["k_proj", "v_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("other")
    shake(model, 2)
    close(hooked(lm), theirs(model))
    assert (hooked(lm) - first).abs().max() > 0.01
    model.set_adapter("default")
    close(hooked(lm), first, 1e-6)
    assert lm.fingerprint == print_
    model.base_model.set_adapter(["default", "other"])
    close(hooked(lm), theirs(model))
    close(theirs(loading.merged(lm.model)), theirs(model))


def test_nothing_is_copied_and_training_is_undisturbed() -> None:
    base = random_lm()
    stored = {tensor.data_ptr() for tensor in base.model.parameters()}
    model = adapted(base, target_modules="all-linear").train()
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lm = LM(model, base.tokenizer)
    assert lm.bridge.original_model.training  # the dropout in the adapter causes no warning
    measure(lm, [as_prompt(lm, "mira lives in oslo", 0)])
    assert {p.data_ptr() for p in lm.bridge.parameters() if p.ndim > 1} <= stored
    assert all(module.training for module in model.modules())
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trained
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert len(wrapped_layers(lm.model)) == 14


@torch.no_grad()
def test_a_layer_is_merged_without_a_change_of_the_model() -> None:
    base = random_lm()
    model = adapted(base, target_modules=["q_proj"])
    layer = next(iter(wrapped_layers(model).values()))
    weight = layer.get_base_layer().weight
    before = weight.clone()
    expected = weight + layer.get_delta_weight("default")
    assert torch.equal(merged_layer(layer).weight, expected)
    assert torch.equal(weight, before)
    layer.merge()  # as peft's merge_adapter leaves it
    assert merged_layer(layer) is layer.get_base_layer()
    layer.enable_adapters(False)
    close(merged_layer(layer).weight, before, 1e-6)
    assert torch.equal(layer.get_base_layer().weight, expected)


@torch.no_grad()
def test_the_reference_is_the_base_or_the_adapters_first_state() -> None:
    base = random_lm()
    plain = base.logits(IDS)
    model = adapted(base, target_modules=["q_proj"])
    lm, first = LM(model, base.tokenizer), theirs(model)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with reference_active(model):
        close(lm.logits(IDS), plain, 1e-6)
    assert torch.equal(theirs(model), first)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).copy_(parameter)
            parameter.mul_(2)
    model.eval()
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert not torch.allclose(theirs(model), first)
    with reference_active(model):
        assert torch.equal(lm.logits(IDS), first)
    assert [parameter.requires_grad for parameter in model.parameters()] == trained


@torch.no_grad()
def test_adapters_of_layers_other_than_lora_work_and_prompts_are_refused(tmp_path: Path) -> None:
    base = random_lm()
    with quiet():
        settings = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
        model = get_peft_model(base.model, settings)
    shake(model)
    lm = LM(model.eval(), base.tokenizer)
    close(hooked(lm), theirs(model))
    again = LM.load(lm.save(tmp_path / "merged"))
    close(again.logits(IDS), theirs(model))
    with quiet():
        prompts = get_peft_model(random_lm().model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(ModelError, match="The adapter PREFIX_TUNING adds tokens to every text"):
        LM(prompts, base.tokenizer)


@pytest.mark.parametrize("name", ["llama", "tied", "gpt2", "mixtral"])
@torch.no_grad()
def test_the_merged_model_is_saved_tensor_by_tensor(name: str, tmp_path: Path) -> None:
    base = random_lm("qwen3" if name == "tied" else name)
    targets = {"tied": ["q_proj", "v_proj", "embed_tokens"], "mixtral": ["q_proj", "o_proj"]}
    lm = LM(adapted(base, target_modules=targets.get(name, "all-linear")), base.tokenizer)
    again = LM.load(lm.save(tmp_path / "whole"))
    assert type(again.model) is type(lm.model)
    close(again.logits(IDS), lm.logits(IDS))
    assert {key: value.shape for key, value in again.model.named_parameters()} == {
        key: Weights(lm.model).stored[key].shape for key in Weights(lm.model).parameters()
    }
    half = LM.load(lm.save(tmp_path / "half", "bfloat16"), dtype="bfloat16")
    for key, value in half.model.named_parameters():
        assert torch.equal(value, Weights(lm.model)[key].bfloat16())
    assert again.fingerprint == lm.fingerprint or name == "tied"  # whose unembedding is not tied any more
