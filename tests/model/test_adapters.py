"""LoRA adapters of peft as models: found, merged, equal to peft's own answers, and refused with one sentence."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from probe import LM, RewardModel
from probe.errors import ConfigError, MissingToolError, ModelError
from probe.model.adapters import quiet
from probe.model.loading import classifier, twin
from probe.model.rewards import analysable, analysable_together
from probe.runs import RunWriter
from tests.models import ARCHITECTURES, random_lm, saved_lm

TEXT = "mira lives in oslo . where does mira lives ?"


def adapter(base: Path, directory: Path, **options: Any) -> Path:
    """An adapter with random weights as a user of plain peft has it: its own code trained and saved it."""
    model = AutoModelForCausalLM.from_pretrained(base)
    conv = any(isinstance(module, Conv1D) for module in model.modules())
    settings = {"r": 3, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    with quiet():
        adapted = get_peft_model(model, LoraConfig(**settings | {"fan_in_fan_out": conv} | options))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    with quiet():
        adapted.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_the_adapter_model(name: str, tmp_path: Path) -> None:
    base = saved_lm(tmp_path / "base", name)
    directory = adapter(base, tmp_path / "adapter")
    with quiet():
        theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
    ids = AutoTokenizer.from_pretrained(base)(TEXT, return_tensors="pt").input_ids
    lm = LM.load(directory)
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        torch.testing.assert_close(lm.logits(TEXT), expected, rtol=0, atol=1e-5)
        assert (LM.load(base).logits(TEXT) - expected).abs().max() > 0.3
    assert type(lm.model) is type(LM.load(base).model)
    assert all(parameter.requires_grad for parameter in lm.model.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooks_and_the_whole_model_saved_again(name: str, tmp_path: Path) -> None:
    lm = LM.load(adapter(saved_lm(tmp_path / "base", name), tmp_path / "adapter"))
    logits, cache = lm.run_with_cache(TEXT, ["blocks.1.attn.hook_pattern"])
    torch.testing.assert_close(logits, lm.logits(TEXT), rtol=0, atol=1e-4)
    assert cache["blocks.1.attn.hook_pattern"].shape[1] == 4
    again = LM.load(lm.save(tmp_path / "merged"))
    assert again.fingerprint == lm.fingerprint != LM.load(tmp_path / "base").fingerprint


def test_variants_of_lora_and_modules_that_were_saved(tmp_path: Path) -> None:
    base = saved_lm(tmp_path / "base")
    for number, options in enumerate(
        [{"use_dora": True}, {"use_rslora": True}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}]
    ):
        directory = adapter(base, tmp_path / str(number), **options)
        with quiet():
            theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory).eval()
        lm = LM.load(directory)
        with torch.no_grad():
            expected = theirs(input_ids=lm.tokenizer(TEXT, return_tensors="pt").input_ids).logits
            torch.testing.assert_close(lm.logits(TEXT), expected, rtol=1e-5, atol=2e-5)


def test_tokenizer_is_the_adapters_or_else_the_bases(tmp_path: Path) -> None:
    directory = adapter(saved_lm(tmp_path / "base"), tmp_path / "adapter")
    assert LM.load(directory).tokenizer.chat_template is None
    own = random_lm().tokenizer
    own.chat_template = "{{ messages[0].content }}"
    own.save_pretrained(directory)
    assert LM.load(directory).tokenizer.chat_template == own.chat_template


def run_with(root: Path, name: str, source: Path, step: int) -> Path:
    """A finished run whose checkpoint is a copy of `source`."""
    with RunWriter.create(root / name, method="mine", config={}) as run, run.checkpoint(step) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return root / name / "checkpoints" / f"{step:08}"


def rename_base(directory: Path, base: str | None) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_base_may_be_a_run_and_the_folder_of_runs_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "runs"
    base = run_with(runs, "base", saved_lm(tmp_path / "model"), 40)
    run_with(runs, "tuned", adapter(base, tmp_path / "adapter"), 7)
    expected = LM.load(runs / "tuned")
    assert expected.run_dir == runs / "tuned"
    runs.rename(tmp_path / "elsewhere")
    assert LM.load(tmp_path / "elsewhere" / "tuned").fingerprint == expected.fingerprint
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path / "elsewhere"))
    assert LM.load("tuned@7").fingerprint == expected.fingerprint
    assert LM.load(tmp_path / "adapter").fingerprint == expected.fingerprint  # it lies outside of the folder of runs
    rename_base(tmp_path / "adapter", "base")
    assert LM.load(tmp_path / "adapter").fingerprint == expected.fingerprint
    (tmp_path / "elsewhere" / "base").rename(tmp_path / "elsewhere" / "gone")
    with pytest.raises(ModelError, match=r"The base `.*base/checkpoints/00000040` of the adapter .* cannot be used"):
        LM.load("tuned")


def test_adapter_of_an_adapter(tmp_path: Path) -> None:
    base = saved_lm(tmp_path / "base")
    first = LM.load(adapter(base, tmp_path / "first")).save(tmp_path / "whole")
    expected = LM.load(adapter(first, tmp_path / "second"))
    rename_base(tmp_path / "second", str(tmp_path / "first"))
    assert LM.load(tmp_path / "second").fingerprint == expected.fingerprint
    rename_base(tmp_path / "second", str(tmp_path / "second"))
    with pytest.raises(ModelError, match="it is the adapter itself"):
        LM.load(tmp_path / "second")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "is an adapter of type PREFIX_TUNING, and only LoRA is read"),
        ({"task_type": "SEQ_CLS"}, "is an adapter for SEQ_CLS, which does not continue texts"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "nosuch/model"}, r"The base `nosuch/model` of the adapter .* cannot be used"),
        ({"target_modules": ["nosuch"]}, "cannot be merged into its base"),
        ({"r": 5}, "cannot be merged into its base"),
        ({"target_modules": ["q_proj", "k_proj", "lm_head"]}, "does not cover the layers"),
    ],
)
def test_wrong_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    directory = adapter(saved_lm(tmp_path / "base"), tmp_path / "adapter", target_modules=["q_proj"])
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=message):
        LM.load(directory)


def test_broken_files(tmp_path: Path) -> None:
    directory = adapter(saved_lm(tmp_path / "base"), tmp_path / "adapter")
    weights = directory / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(ModelError, match="cannot be merged into its base"):
        LM.load(directory)
    weights.unlink()
    with pytest.raises(ModelError, match="the configuration of an adapter and no"):
        LM.load(directory)
    (directory / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="as a pickle"):
        LM.load(directory)
    weights.write_bytes(whole)
    (directory / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        LM.load(directory)


def test_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = adapter(saved_lm(tmp_path / "base"), tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingToolError, match=r"needs the package `peft`: `pip install 'probe-lm\[peft\]'`"):
        LM.load(directory)
    LM.load(tmp_path / "base")


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_adapters_share_the_weights_of_a_loaded_base(name: str, tmp_path: Path) -> None:
    folder = saved_lm(tmp_path / "base", name)
    base = LM.load(folder)
    expected, frozen = base.logits(TEXT), [each.requires_grad for each in base.model.parameters()]
    stored = {each.data_ptr() for each in base.model.parameters()}
    for number, options in enumerate([{}, {"r": 2, "use_rslora": True}]):
        directory = adapter(folder, tmp_path / str(number), **options)
        merged, lm = LM.load(directory), LM.load(directory, base=base)
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(lm.logits(TEXT), merged.logits(TEXT), **close)
        hooked = [each.run_with_cache(TEXT, ["blocks.1.attn.hook_pattern"]) for each in (lm, merged)]
        torch.testing.assert_close(hooked[0][0], hooked[1][0], rtol=1e-4, atol=1e-4)
        assert lm.fingerprint == merged.fingerprint
        assert (type(lm.model), lm.n_parameters, lm.base) == (type(merged.model), merged.n_parameters, base)
        extra = [each for each in lm.model.parameters() if each.data_ptr() not in stored]
        assert sum(each.numel() for each in extra) < 0.5 * lm.n_parameters
        assert len(extra) == sum("lora_" in key for key, _ in lm.model.named_parameters())
    assert torch.equal(base.logits(TEXT), expected)
    assert [each.requires_grad for each in base.model.parameters()] == frozen


def test_bases_that_cannot_be_shared(tmp_path: Path) -> None:
    folder = saved_lm(tmp_path / "base")
    directory, base = adapter(folder, tmp_path / "adapter"), LM.load(folder)
    with pytest.raises(ModelError, match=r"was given for `.*base`, which is not an adapter: leave it out"):
        LM.load(folder, base=base)
    with pytest.raises(ModelError, match=r"is put on `.*base`, and `.*other` was given: give that base"):
        LM.load(directory, base=LM.load(saved_lm(tmp_path / "other", seed=1)))
    with pytest.raises(ConfigError, match="A base was given together with a device or a dtype"):
        LM.load(directory, base=base, dtype="float32")
    rename_base(adapter(folder, tmp_path / "second"), str(directory))
    second, unmerged = tmp_path / "second", LM.load(directory, base=base)
    with pytest.raises(ModelError, match="has an adapter that is not merged"):
        LM.load(second, base=unmerged)
    with torch.no_grad():
        shared = LM.load(second, base=LM.load(directory)).logits(TEXT)
        torch.testing.assert_close(shared, LM.load(second).logits(TEXT), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_models_that_are_loaded_together_share_a_base(tmp_path: Path) -> None:
    folder = saved_lm(tmp_path / "base")
    one, two = (adapter(folder, tmp_path / name) for name in ("one", "two"))
    rename_base(adapter(folder, tmp_path / "three"), str(one))

    def stored(lms: list[LM]) -> float:
        """Numbers in memory, in models."""
        tensors = {each.data_ptr(): each.numel() for lm in lms for each in lm.model.parameters()}
        return sum(tensors.values()) / LM.load(folder).n_parameters

    for refs, models in (([one, folder], 1), ([one, two], 1), ([one], 1), ([folder, tmp_path / "three"], 2)):
        lms = analysable_together(refs)
        assert [lm.directory for lm in lms] == refs
        assert models <= stored(lms) < models + 0.9
        for ref, lm in zip(refs, lms, strict=True):
            torch.testing.assert_close(lm.logits(TEXT), LM.load(ref).logits(TEXT), rtol=1e-5, atol=1e-5)
    assert analysable_together([one])[0].base is None


@torch.no_grad()
def test_a_reward_models_adapter_shares_the_base_of_its_policy(tmp_path: Path) -> None:
    base = LM.load(saved_lm(tmp_path / "base"))
    settings = LoraConfig(r=3, target_modules=["q_proj", "v_proj"], modules_to_save=["score"], task_type="SEQ_CLS")
    with quiet():
        judge = get_peft_model(classifier(twin(base.model), base.tokenizer.pad_token_id), settings)
        for name, parameter in judge.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        judge.save_pretrained(tmp_path / "judge")
    texts = ["where does mira lives ?"], ["oslo"]
    shared, merged = (RewardModel.load(tmp_path / "judge", base=each) for each in (base, None))
    torch.testing.assert_close(shared.score(*texts), merged.score(*texts), rtol=1e-5, atol=1e-5)
    assert abs(float(shared.score(*texts))) > 1e-3
    assert shared.fingerprint == merged.fingerprint
    read, whole = (analysable(tmp_path / "judge", base=each) for each in (base, None))
    assert (read.readout, read.base) == ("reward", base)
    torch.testing.assert_close(read.logits(TEXT), whole.logits(TEXT), rtol=1e-5, atol=1e-5)
    stored = {each.data_ptr() for each in base.model.parameters()}
    assert sum(each.numel() for each in read.model.parameters() if each.data_ptr() not in stored) < 5000
