"""LM: created, saved, loaded, identified, shown."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from probe import LM
from probe.errors import ConfigError, DataError, ModelError
from probe.model.presets import PRESETS, ModelConfig
from probe.model.text import encode_all
from tests.models import ARCHITECTURES, CONTEXT, byte_tokenizer, random_lm, random_reward_model, word_tokenizer

SMALL_T5 = T5Config(vocab_size=27, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)

CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)


class OfSize:
    """A tokenizer as far as a configuration asks for it."""

    bos_token_id = eos_token_id = pad_token_id = None

    def __len__(self):
        return 450


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 0.83, 0.88), ("icl", 0.1, 0.2), ("small", 14, 16)])
def test_presets_have_the_sizes_they_promise(name, low, high):
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(PRESETS[name].llama(OfSize()))
    assert low < sum(parameter.numel() for parameter in model.parameters()) / 1e6 < high


def test_create_is_reproducible_and_leaves_torchs_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (LM.create("icl", word_tokenizer(), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.ref == ""
    assert one.directory is one.run_dir is None
    assert not one.model.training
    assert one.model.config.eos_token_id == one.tokenizer.eos_token_id


def test_create_takes_a_configuration():
    lm = LM.create(ModelConfig(layers=1, width=16, heads=2, mlp=8, context=12, tie_embeddings=True), word_tokenizer())
    assert lm.logits("mira lives").shape == (1, 3, len(lm.tokenizer))
    assert lm.model.get_input_embeddings().weight is lm.model.get_output_embeddings().weight


@pytest.mark.parametrize("changes", [{"width": 30, "heads": 4}, {"width": 12, "heads": 4}, {"layers": 0}])
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ConfigError, match="not possible"):
        ModelConfig(**changes)
    with pytest.raises(ConfigError, match="'tiny', 'icl', 'small'"):
        LM.create("huge", word_tokenizer())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saving_and_loading_gives_the_same_model(name, tmp_path):
    lm = random_lm(name)
    assert lm.save(tmp_path / "new" / "model") == tmp_path / "new" / "model"
    back = LM.load(tmp_path / "new" / "model")
    assert back.fingerprint == lm.fingerprint
    assert back.ref == str(back.directory) == str(tmp_path / "new" / "model")
    assert type(back.model) is type(lm.model)
    assert not back.model.training
    assert torch.equal(back.logits("mira lives in"), lm.logits("mira lives in"))
    assert (
        back.generate("tom", n=2, seed=1, max_new_tokens=4).text
        == lm.generate("tom", n=2, seed=1, max_new_tokens=4).text
    )
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["model"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_that_was_loaded_is_saved_as_the_same_files(name, tmp_path):
    """Nothing stays of how it was loaded: the tokenizer's settings, the chat template, the configuration."""
    lm = random_lm(name)
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    first = lm.save(tmp_path / "first")
    again = LM.load(first).save(tmp_path / "again")
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (first, again)]
    assert len(files[0]) > 4
    assert [file for file in files[0] if files[0][file] != files[1].get(file)] == []
    assert files[0].keys() == files[1].keys()


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_half_precision_on_disk_is_single_in_memory(name, tmp_path):
    lm = random_lm(name)
    lm.save(tmp_path / "half", dtype="float16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    assert lm.dtype == torch.float32
    back = LM.load(tmp_path / "half")
    assert back.dtype == torch.float32
    torch.testing.assert_close(back.logits("tom lives"), lm.logits("tom lives"), atol=0.05, rtol=0.05)
    assert LM.load(tmp_path / "half", dtype="bfloat16").dtype == torch.bfloat16
    assert LM.load(tmp_path / "half", dtype=torch.float16, device="cpu").dtype == torch.float16


def test_saving_over_a_directory_keeps_what_else_is_there(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"old")
    random_lm(seed=0).save(tmp_path)
    lm = random_lm(seed=1)
    lm.save(tmp_path)
    assert (tmp_path / "trainer_state.json").read_text() == "{}"
    assert not (tmp_path / "model-00001-of-00002.safetensors").exists()
    assert LM.load(tmp_path).fingerprint == lm.fingerprint


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    lm = random_lm()

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(lm.tokenizer, "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        lm.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fused", [True, False])
def test_the_fingerprint_follows_the_weights(fused):
    lm = random_lm()
    seen = [lm.fingerprint]
    assert lm.fingerprint == seen[0]
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=0.01, fused=fused)
    lm.model(torch.tensor([[2, 4, 5]]), labels=torch.tensor([[2, 4, 5]])).loss.backward()
    optimiser.step()
    seen.append(lm.fingerprint)
    lm.model.lm_head.weight.data[3, 4] += 1e-3
    seen.append(lm.fingerprint)
    with torch.no_grad():
        lm.model.lm_head.weight.copy_(lm.model.lm_head.weight.flip(0))
    seen.append(lm.fingerprint)
    assert len(set(seen)) == 4
    assert len(seen[0]) == 64


def test_the_fingerprint_tells_configurations_apart():
    one, other = random_lm(), random_lm(rms_norm_eps=1e-3)
    assert all(torch.equal(p, q) for p, q in zip(one.model.parameters(), other.model.parameters(), strict=True))
    assert one.fingerprint != other.fingerprint


def test_logits_take_texts_and_ids_in_any_form():
    lm = random_lm()
    ids = lm.tokenizer.encode("mira lives in")
    expected = lm.model(torch.tensor([ids])).logits
    for tokens in (
        "mira lives in",
        ["mira lives in"],
        ids,
        [ids],
        torch.tensor(ids),
        torch.tensor([ids]),
        np.array(ids),
    ):
        torch.testing.assert_close(lm.logits(tokens), expected, atol=1e-5, rtol=1e-5)
    ragged = lm.logits(["mira lives in", "tom"])
    assert ragged.shape == (2, 4, len(lm.tokenizer))
    torch.testing.assert_close(ragged[1, :2], lm.logits("tom")[0], atol=1e-5, rtol=1e-5)
    assert ragged.requires_grad


def test_logprobs_take_texts_groups_and_ids():
    lm = random_lm()
    single = lm.logprobs("mira lives", " in oslo .")
    batch = lm.logprobs(["mira lives", "tom"], [" in oslo .", " works"])
    groups = lm.logprobs(["mira lives", "tom"], [[" in oslo .", " in"], [" works"]])
    ids = lm.logprobs([[2, 4, 7]], [[[9, 5], []]])
    one = lm.logprobs([[2, 4, 7]], [[9, 5]])
    assert batch.mask.sum(1).tolist() == [3, 1]
    assert groups.mask.sum(1).tolist() == [3, 1, 1]
    assert ids.mask.sum(1).tolist() == [2, 0]
    torch.testing.assert_close(single.values[0], batch.values[0])
    torch.testing.assert_close(groups.values[2], batch.values[1])
    torch.testing.assert_close(ids.values[0], one.values[0])
    total = lm.logits("mira lives in oslo .")[0].log_softmax(-1)[2:5]
    chosen = lm.tokenizer.encode("mira lives in oslo .")[3:]
    torch.testing.assert_close(
        single.values[0], total.gather(-1, torch.tensor(chosen)[:, None])[:, 0], atol=1e-5, rtol=1e-5
    )


def test_logprobs_respect_the_token_boundary_of_the_joint_text():
    lm = random_lm("llama", byte_tokenizer())
    scored = lm.logprobs("the cat", " lives")
    whole, head = lm.tokenizer.encode("the cat lives"), lm.tokenizer.encode("the cat")
    assert whole[: len(head)] == head
    assert int(scored.mask.sum()) == len(whole) - len(head)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda lm: lm.logits([]), "No text"),
        (lambda lm: lm.logits([2] * (CONTEXT + 1)), f"at most {CONTEXT}"),
        (lambda lm: lm.logits([[]]), "no tokens"),
        (lambda lm: lm.logits([[2, 4], [2, 27, 5]]), "token 27 and the model knows 0 to 26"),
        (lambda lm: lm.run_with_cache(torch.tensor([2, -1]), []), "token -1 and the model knows"),
        (lambda lm: lm.logprobs(["tom", "ana"], ["lives"]), "2 prompts have 1"),
        (lambda lm: lm.prompt_text([{"role": "user", "content": "tom"}]), "no chat template"),
    ],
)
def test_impossible_texts_are_refused(call, words):
    with pytest.raises(DataError, match=words):
        call(random_lm())


def test_prompt_text_writes_messages_with_the_chat_template():
    lm = random_lm()
    assert lm.prompt_text("tom lives") == "tom lives"
    lm.tokenizer.chat_template = CHAT
    assert lm.prompt_text([{"role": "user", "content": "where is tom ?"}]) == "<user> where is tom ? <bot>"


def test_it_shows_itself_without_markup_from_outside(tmp_path):
    path = tmp_path / "<b>evil</b>"
    random_lm("gpt2").save(path)
    lm = LM.load(path)
    assert "<b>" not in lm._repr_html_()
    assert "&lt;b&gt;evil" in lm._repr_html_()
    for part in ("GPT2LMHeadModel", f"{lm.n_parameters:,}", "float32", "cpu", lm.fingerprint[:12]):
        assert part in repr(lm)
        assert part in lm._repr_html_()


def test_shared_weights_count_once():
    tied, untied = random_lm(tie_word_embeddings=True), random_lm()
    assert untied.n_parameters - tied.n_parameters == 32 * len(tied.tokenizer)


def test_a_text_with_unknown_words_is_refused_and_its_ids_are_not():
    lm, text = random_lm(tokenizer=word_tokenizer(closed=True)), "What is the capital of France?"
    asks = [
        lambda: lm.logits(text),
        lambda: lm.logits(["mira lives", text]),
        lambda: lm.logprobs("mira lives in", " France"),
        lambda: lm.logprobs(text, " oslo"),
        lambda: lm.generate(text, max_new_tokens=1),
        lambda: lm.generate(["mira", text], max_new_tokens=1),
        lambda: lm.run_with_cache(text, []),
    ]
    for ask in asks:
        with pytest.raises(DataError, match=r"does not know .(What|France)"):
            ask()
    (ids,) = encode_all(lm.tokenizer, [text])
    assert lm.tokenizer.unk_token_id in ids
    assert lm.logits([ids]).shape[1] == len(ids)
    assert len(lm.generate([ids], max_new_tokens=1).ids) == 1


class Around(torch.nn.Module):
    """A wrapper as DistributedDataParallel is one: the model is in `.module`, and no attribute is passed on."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **options):
        return self.module(*args, **options)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize(
    "wrap",
    [
        Around,
        torch.nn.DataParallel,
        torch.compile,
        lambda model: torch.compile(Around(model)),
        lambda m: Around(torch.compile(m)),
    ],
)
def test_a_wrapped_model_is_taken_out_of_its_wrapper(wrap):
    plain = random_lm()
    lm = LM(wrap(plain.model), plain.tokenizer)
    assert lm.model is plain.model
    torch.testing.assert_close(lm.logits("mira lives"), plain.logits("mira lives"))
    assert lm.run_with_cache("mira lives", ["blocks.0.hook_resid_post"])[0].shape == (1, 3, 27)


def test_what_is_no_language_model_or_no_tokenizer_is_refused_in_a_sentence():
    lm, rewards = random_lm(), random_reward_model()
    cases = [
        (lambda: LM(lm.tokenizer, lm.model), ModelError, "is a tokenizer .*: give the model first, then the tokenizer"),
        (lambda: LM("gpt2", lm.tokenizer), ModelError, "probe.LM.load loads a model by its name"),
        (lambda: LM(torch.nn.Linear(2, 2), lm.tokenizer), ModelError, "Linear has no configuration of transformers"),
        (lambda: LM(Around(torch.nn.Linear(2, 2)), lm.tokenizer), ModelError, "Linear has no configuration"),
        (lambda: LM(3, lm.tokenizer), ModelError, "is a int, not a module of torch"),
        (lambda: LM(lm.model.model, lm.tokenizer), ModelError, "LlamaModel has no output layer"),
        (lambda: LM(rewards.model, lm.tokenizer), ModelError, "a reward model is loaded by probe.RewardModel.load"),
        (lambda: LM(T5ForConditionalGeneration(SMALL_T5), lm.tokenizer), ModelError, "has an encoder"),
        (lambda: LM(lm.model, None), DataError, "The tokenizer is None"),
        (lambda: LM(lm.model, lm.model), DataError, "is a LlamaForCausalLM, not one of transformers"),
        (lambda: LM(lm.model, lm.tokenizer.backend_tokenizer), DataError, "PreTrainedTokenizerFast"),
        (lambda: LM(lm.model, SimpleNamespace(tokenizer=lm.tokenizer)), DataError, "give its `.tokenizer`"),
    ]
    for build, kind, says in cases:
        with pytest.raises(kind, match=says) as caught:
            build()
        assert "\n" not in str(caught.value)
