"""RewardModel: scores against plain transformers, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

import probe
from probe import LM, RewardModel
from probe.errors import DataError, ModelError
from probe.model.rewards import GROUP, batches, pair_ids
from tests.models import CONTEXT, random_lm, word_tokenizer

TEXTS = [("mira lives in", "oslo"), ("mira lives in", "rome ."), ("where does tom works ?", "the cat"), ("tom", "")]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model as transformers writes it."""
    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.25,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config)
    path = tmp_path_factory.mktemp("reward") / "model"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def rewards(directory: Path) -> RewardModel:
    return RewardModel.load(directory)


@torch.no_grad()
def slow_score(model: RewardModel, prompt: str, completion: str) -> float:
    """One text, without padding, through the forward pass of transformers."""
    ids = model.tokenizer(f"{prompt} {completion} <end>")["input_ids"]
    return float(model.model(input_ids=torch.tensor([ids])).logits)


def test_scores_against_transformers(rewards: RewardModel) -> None:
    prompts, completions = zip(*TEXTS, strict=True)
    scores = rewards.score(prompts, [f" {text}" for text in completions])
    expected = [slow_score(rewards, prompt, completion) for prompt, completion in TEXTS]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.shape == (4,)
    assert not scores.requires_grad
    assert max(expected) - min(expected) > 0.5


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_gives_the_same(rewards: RewardModel, side: str) -> None:
    tokenizer = word_tokenizer()
    tokenizer.padding_side = side
    batch = tokenizer([f"{prompt} {text} <end>" for prompt, text in TEXTS], return_tensors="pt", padding=True)
    plain = rewards.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    prompts, completions = zip(*TEXTS, strict=True)
    torch.testing.assert_close(rewards.score(prompts, completions), plain, rtol=0, atol=1e-5)


@given(st.permutations(range(4)), st.integers(1, 3))
@settings(max_examples=15)
def test_order_and_company_change_nothing(rewards: RewardModel, order: list[int], copies: int) -> None:
    alone = [float(rewards.score([prompt], [text])[0]) for prompt, text in TEXTS]
    picked = [TEXTS[i] for i in order for _ in range(copies)]
    scores = rewards.score([prompt for prompt, _ in picked], [text for _, text in picked])
    assert scores.tolist() == pytest.approx([alone[i] for i in order for _ in range(copies)], abs=1e-5)


def test_ids_are_scored_as_given_and_texts_end_once(rewards: RewardModel) -> None:
    head, ids = pair_ids(rewards.tokenizer, "mira lives in", " oslo")
    assert rewards.tokenizer.convert_ids_to_tokens(ids) == ["oslo", "<end>"]
    assert pair_ids(rewards.tokenizer, "mira lives in", " oslo <end>") == (head, ids)
    by_text = rewards.score(["mira lives in"], [" oslo"])
    assert rewards.score([head], [ids]).tolist() == pytest.approx(by_text.tolist(), abs=1e-6)
    cut = float(rewards.score([head], [ids[:-1]])[0])  # no end token: read at "oslo"
    assert cut == pytest.approx(
        float(rewards.model(input_ids=torch.tensor([[*head, *ids[:-1]]])).logits.detach()), abs=1e-5
    )
    assert abs(cut - float(by_text[0])) > 1e-3


def test_token_scores_end_in_the_score(rewards: RewardModel) -> None:
    prompts, completions = zip(*TEXTS, strict=True)
    values, mask = rewards.token_scores(prompts, completions)
    scores = rewards.score(prompts, completions)
    assert mask.sum(-1).tolist() == [2, 3, 3, 1]
    for row in range(4):
        assert float(values[row][mask[row]][-1]) == pytest.approx(float(scores[row]), abs=1e-5)
        assert not values[row][~mask[row]].any()
    head, ids = pair_ids(rewards.tokenizer, *TEXTS[1])
    for at in range(1, len(ids) + 1):
        assert float(values[1, at - 1]) == pytest.approx(float(rewards.score([head], [ids[:at]])[0]), abs=1e-5)


def test_batches_hold_every_pair_once() -> None:
    pairs = [([1] * (1 + n % 7), [n]) for n in range(200)]
    seen = []
    for heads, groups, order in batches(pairs):
        assert len(heads) == len(groups)
        assert all(len(group) <= GROUP for group in groups)
        flat = [(head, ids) for head, group in zip(heads, groups, strict=True) for ids in group]
        assert flat == [pairs[number] for number in order]
        seen += order
    assert sorted(seen) == list(range(200))
    assert list(batches([])) == []


def test_nothing_to_score(rewards: RewardModel) -> None:
    assert rewards.score([], []).shape == (0,)
    assert rewards.token_scores([], [])[0].shape == (0, 0)


def test_lists_that_do_not_fit(rewards: RewardModel) -> None:
    with pytest.raises(DataError, match="2 texts and 1 texts cannot be scored together: give two lists"):
        rewards.score(["a", "b"], ["c"])
    with pytest.raises(DataError, match="one text and one text cannot be scored together"):
        rewards.score("a", "b")
    with pytest.raises(DataError, match="as text and as ids: give both in one form"):
        rewards.score(["mira"], [[3]])
    with pytest.raises(DataError, match="reads at most 48"):
        rewards.score(["mira " * 60], ["tom"])


def test_loaded_model(rewards: RewardModel, directory: Path) -> None:
    assert (rewards.ref, rewards.directory, rewards.run_dir) == (str(directory), directory, None)
    assert rewards.fingerprint == RewardModel.load(directory).fingerprint
    assert "LlamaForSequenceClassification" in repr(rewards)
    assert probe.RewardModel is RewardModel
    assert not rewards.model.training


def test_a_language_model_is_refused(tmp_path: Path, directory: Path) -> None:
    path = random_lm().save(tmp_path / "causal")
    with pytest.raises(ModelError, match=r"holds a LlamaForCausalLM, which gives texts no score: give a reward model"):
        RewardModel.load(path)
    with pytest.raises(ModelError, match=r"holds a LlamaForSequenceClassification.*`probe.RewardModel.load`"):
        LM.load(directory)


def test_several_classes_are_refused(tmp_path: Path, directory: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=3, ignore_mismatched_sizes=True)
    model.save_pretrained(tmp_path / "three")
    with pytest.raises(ModelError, match=r"sorts texts into 3 classes .* num_labels 1"):
        RewardModel.load(tmp_path / "three")


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=1, **sizes))
    model.save_pretrained(tmp_path / "bert")
    with pytest.raises(ModelError, match="holds a BertForSequenceClassification"):
        RewardModel.load(tmp_path / "bert")


def test_a_pickle_and_missing_weights_are_refused(tmp_path: Path, directory: Path) -> None:
    for name, rest in (("pickle", "pytorch_model.bin"), ("empty", "notes.txt")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text((directory / "config.json").read_text())
        (folder / rest).write_bytes(b"")
    with pytest.raises(ModelError, match=r"as a pickle \(pytorch_model.bin\)"):
        RewardModel.load(tmp_path / "pickle")
    with pytest.raises(ModelError, match="but no weights"):
        RewardModel.load(tmp_path / "empty")
    with pytest.raises(ModelError, match=r"no model at|neither a run"):
        RewardModel.load(tmp_path / "nowhere" / "at" / "all")


def test_weights_without_the_head_are_refused(tmp_path: Path, directory: Path) -> None:
    path = random_lm().save(tmp_path / "causal")
    config = json.loads((directory / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lack \d+ tensors .* not those of a whole reward model"):
        RewardModel.load(path)
