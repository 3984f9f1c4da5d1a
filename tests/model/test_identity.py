"""The fingerprint of a model covers what it reads and writes texts by, and nothing that passes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers

from probe import LM
from probe.model import adapters
from tests.models import MODELS, byte_tokenizer, random_lm, random_reward_model, word_tokenizer

TEMPLATE = "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}<bot>"


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE + " ")


def another_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text(TEMPLATE)


def other_word(folder: Path) -> None:
    def change(content: dict) -> None:
        vocab = content["model"]["vocab"]
        vocab["mira"], vocab["tom"] = vocab["tom"], vocab["mira"]

    edit(folder / "tokenizer.json", change)


def other_normaliser(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda content: content.update(normalizer={"type": "Lowercase"}))


def no_beginning(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda content: content.update(post_processor=None))


def other_end(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda content: content.update(eos_token="."))


def other_ends_of_texts(folder: Path) -> None:
    edit(folder / "generation_config.json", lambda content: content.update(eos_token_id=[2, 3]))


def other_temperature(folder: Path) -> None:
    edit(folder / "generation_config.json", lambda content: content.update(do_sample=True, temperature=0.5))


CHANGES = [other_template, another_template, other_word, other_normaliser, no_beginning, other_end]
CHANGES += [other_ends_of_texts, other_temperature]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lm = random_lm()
    lm.tokenizer.chat_template = TEMPLATE
    return lm.save(tmp_path_factory.mktemp("identity") / "model")


@pytest.mark.parametrize("change", CHANGES, ids=lambda each: each.__name__)
def test_equal_weights_with_other_texts_are_another_model(folder: Path, tmp_path: Path, change) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    one, same = LM.load(folder), LM.load(copy)
    assert one.fingerprint == same.fingerprint
    change(copy)
    other = LM.load(copy)
    assert other.fingerprint != one.fingerprint
    assert other.weights_fingerprint == one.weights_fingerprint


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_model_is_the_same_when_it_is_saved_and_loaded_again(name: str, tmp_path: Path) -> None:
    lm = random_lm(name)
    back = LM.load(lm.save(tmp_path / "one"))
    assert back.fingerprint == lm.fingerprint
    assert LM.load(back.save(tmp_path / "two")).fingerprint == lm.fingerprint


@pytest.mark.parametrize("make", [word_tokenizer, byte_tokenizer])
def test_what_a_call_leaves_in_a_tokenizer_is_no_part_of_it(make) -> None:
    lm = random_lm(tokenizer=make())
    before = lm.fingerprint
    lm.tokenizer.backend_tokenizer.enable_truncation(4)
    lm.tokenizer.backend_tokenizer.enable_padding(length=9)
    lm.tokenizer("mira lives in oslo", truncation=True, max_length=2)
    assert lm.fingerprint == before


def test_a_tokenizer_that_is_changed_in_memory_is_seen() -> None:
    lm = random_lm()
    seen = [lm.fingerprint]
    lm.tokenizer.chat_template = TEMPLATE
    seen.append(lm.fingerprint)
    lm.tokenizer.add_tokens(["helen"])
    seen.append(lm.fingerprint)
    lm.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    seen.append(lm.fingerprint)
    lm.model.generation_config.eos_token_id = 5
    seen.append(lm.fingerprint)
    assert len(set(seen)) == 5


@pytest.mark.slow
def test_another_process_finds_the_same(folder: Path) -> None:
    code = "import sys, probe; print(probe.LM.load(sys.argv[1]).fingerprint)"
    environment = os.environ | {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, env=environment
    )
    assert found.stdout.strip() == LM.load(folder).fingerprint


def test_a_reward_model_is_told_by_its_tokenizer_too() -> None:
    rewards = random_reward_model()
    before = rewards.fingerprint
    rewards.tokenizer.chat_template = TEMPLATE
    assert rewards.fingerprint != before


def test_a_model_of_python_alone_is_told_by_its_vocabulary() -> None:
    from transformers import ByT5Tokenizer

    def lm(**settings: object) -> LM:
        tokenizer = ByT5Tokenizer(**settings)
        return LM(random_lm().model, tokenizer)

    torch.manual_seed(0)
    assert lm().fingerprint == lm().fingerprint
    assert lm().fingerprint != lm(extra_ids=3).fingerprint
    assert lm().fingerprint != lm(eos_token="<end>").fingerprint


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter that the trainers here wrote, on `tmp_path / "base"`."""
    from trainers.config import DPOConfig
    from trainers.starting import make_trainee

    base = random_lm()
    base.tokenizer.chat_template = TEMPLATE
    lm = LM.load(base.save(tmp_path / "base"))
    make_trainee(lm, DPOConfig(base="base", out=tmp_path / "run", steps=1, lora=2)).save(tmp_path / "adapter")
    return tmp_path / "adapter"


def without_texts(adapter: Path) -> Path:
    """The adapter as the real sample runs have it: with the tokenizer of its base."""
    for file in adapter.iterdir():
        if not file.name.startswith("adapter_"):
            file.unlink()
    return adapter


def test_an_adapter_is_known_without_its_base(adapter: Path) -> None:
    whole = LM.load(adapter).fingerprint
    assert adapters.fingerprint(adapter) == whole
    assert adapters.fingerprint(without_texts(adapter)) == LM.load(adapter).fingerprint == whole
    (adapter.parent / "base").rename(adapter.parent / "away")
    assert adapters.fingerprint(adapter) == whole


def test_an_adapter_with_another_template_of_its_own_is_another_model(adapter: Path) -> None:
    whole = adapters.fingerprint(adapter)
    other_template(adapter)
    assert adapters.fingerprint(adapter) == LM.load(adapter).fingerprint != whole
    (adapter.parent / "base").rename(adapter.parent / "away")
    assert adapters.fingerprint(adapter) not in (None, whole)


@pytest.mark.parametrize("change", [other_template, other_ends_of_texts])
def test_an_adapter_without_texts_of_its_own_follows_its_base(adapter: Path, change) -> None:
    whole = adapters.fingerprint(without_texts(adapter))
    change(adapter.parent / "base")
    assert adapters.fingerprint(adapter) == LM.load(adapter).fingerprint != whole


def test_an_adapter_keeps_the_ends_of_texts_that_it_was_trained_with(adapter: Path) -> None:
    whole = LM.load(adapter).fingerprint
    other_ends_of_texts(adapter.parent / "base")
    assert LM.load(adapter).fingerprint == adapters.fingerprint(adapter) == whole
    other_ends_of_texts(adapter)
    lm = LM.load(adapter)
    assert lm.model.generation_config.eos_token_id == [2, 3]
    assert lm.fingerprint == adapters.fingerprint(adapter) != whole


def test_a_foreign_adapter_without_texts_is_not_known_before_it_is_loaded(adapter: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = without_texts(adapter) / "adapter_model.safetensors"
    save_file(load_file(file), file, {"format": "pt", adapters.BASE_HASH: adapters.base_hash(adapter) or ""})
    assert adapters.fingerprint(adapter) == LM.load(adapter).fingerprint
    (adapter.parent / "base").rename(adapter.parent / "away")
    assert adapters.fingerprint(adapter) is None
