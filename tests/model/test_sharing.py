"""Prompts are shared only where it changes nothing: every type of model that transformers has, one text at a time."""

import warnings

import pytest
import torch

from probe.model import scoring as trees
from probe.model import sharing
from probe.model.generation import Sampling, generate
from probe.model.hooked_gap import trust
from probe.model.lm import LM
from probe.model.scoring import can_branch, completion_logprobs, token_states
from tests.models import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, random_lm, tiny, word_tokenizer

KINDS = [
    "afmoe", "apertus", "arcee", "aria_text", "bart", "beam", "bert", "bert-generation", "big_bird",
    "bigbird_pegasus", "biogpt", "bitnet", "blenderbot", "blenderbot-small", "bloom", "codegen", "cohere",
    "cohere2", "cohere2_moe", "ctrl", "cwm", "deepseek_v2", "deepseek_v3", "deepseek_v4", "diffllama", "doge",
    "electra", "ernie", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "falcon_mamba", "flex_olmo",
    "flint", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt-sw3", "gpt2",
    "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granite_swa",
    "granitemoe", "granitemoe_swa", "granitemoeshared", "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe",
    "hy_v3", "hy_v4", "hyperclovax", "inkling_text", "internlm3", "iquestcoder", "jais2", "jamba", "jetmoe",
    "kolibri1", "laguna", "lfm2", "lfm3", "llama", "llama4_text", "mamba", "marian", "mbart", "megatron-bert",
    "mellum", "mimo_v2_flash", "minicpm3", "minimax", "minimax_m2", "minimax_m3_vl_text", "ministral", "ministral3",
    "mistral", "mixtral", "modernbert-decoder", "moshi", "mpt", "mvp", "nanochat", "nemotron", "olmo", "olmo2",
    "olmo3", "olmo_hybrid", "olmoe", "openai-gpt", "opt", "pegasus", "persimmon", "phi", "phi3", "phimoe", "plbart",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "recurrent_gemma", "rembert", "roformer", "rwkv", "seed_oss",
    "smollm3", "solar_open", "stablelm", "starcoder2", "trocr", "vaultgemma", "whisper", "xglm", "xlstm", "youtu",
]  # fmt: skip
"""The types that `tiny` can make; of the recurrent ones, which are never shared, those that run in a second."""
HERE = [kind for kind in KINDS if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES]
PROMPTS = [[4, 9, 14, 19, 24, 6, 11, 16], [21, 26, 8]]
LONG = [13, 18, 23, 5, 10, 15, 20, 25, 7, 12, 17, 22, 4, 9]
GROUPS = [[LONG, [6, 8, 10, 12, 14, 16]], [[5, 4, 9], LONG[::-1], [17]]]


def alone(model: torch.nn.Module, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """Log-probability of each token of one completion by one unpadded pass."""
    logprobs = model(input_ids=torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0].float().log_softmax(-1)
    return torch.stack([logprobs[len(prompt) + at - 1, token] for at, token in enumerate(ids)])


@pytest.fixture(autouse=True)
def _quiet():
    """What a type cannot do is said in a warning; here only the numbers count."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sharing.SharingWarning)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("kind", HERE)
@torch.no_grad()
def test_completions_and_samples_have_the_numbers_that_each_has_alone(kind: str, monkeypatch: pytest.MonkeyPatch):
    model = tiny(kind)
    expected = [alone(model, prompt, ids) for prompt, group in zip(PROMPTS, GROUPS, strict=True) for ids in group]
    for widest in (trees.WIDEST, 0):  # trees, then repeated keys and values, as far as the type allows
        monkeypatch.setattr(trees, "WIDEST", widest)
        found = completion_logprobs(model, PROMPTS, GROUPS).values
        for row, values in zip(found, expected, strict=True):
            torch.testing.assert_close(row[: len(values)], values, atol=2e-4, rtol=1e-4)
        turned = completion_logprobs(model, PROMPTS, [group[::-1] for group in GROUPS]).values
        torch.testing.assert_close(turned[[1, 0, 4, 3, 2]], found, atol=2e-4, rtol=1e-4)
    drawn = generate(model, word_tokenizer(), PROMPTS, Sampling(n=2, max_new_tokens=8, stop=(), seed=0))
    for row, ids in enumerate(drawn.ids):
        values = alone(model, PROMPTS[row // 2], ids)
        torch.testing.assert_close(drawn.logprobs[row, : len(ids)], values, atol=2e-4, rtol=1e-4)


def hide_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if configurations named no window, so that only the comparison is left."""
    monkeypatch.setattr(sharing, "WINDOWS", ())


@torch.no_grad()
def test_rows_wider_than_a_window_are_not_shared(monkeypatch: pytest.MonkeyPatch):
    """GPT-Neo looks back over 12 tokens of the row: within it a tree is right, beyond it wrong."""
    model = tiny("gpt_neo")
    assert can_branch(model)
    assert sharing.window(model) == 12
    assert trees.fits(model, [[4, 5]], [[[6, 7, 8], [9] * 6]])
    assert not trees.fits(model, PROMPTS, GROUPS)
    expected = completion_logprobs(model, PROMPTS, GROUPS).values
    hide_windows(monkeypatch)
    monkeypatch.setattr(sharing, "agrees", lambda *_: True)
    shared = completion_logprobs(model, PROMPTS, GROUPS).values
    assert float((shared - expected).abs().max()) > 0.5


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_a_window_that_nothing_names_is_found_by_comparing_and_said_once(
    training: bool, monkeypatch: pytest.MonkeyPatch
):
    model = tiny("gpt_neo", attention_dropout=0.3).train(training)
    expected = completion_logprobs(model.eval(), PROMPTS, GROUPS, share_prompt=False).values
    model.train(training)
    hide_windows(monkeypatch)
    with pytest.warns(sharing.SharingWarning, match="GPTNeoForCausalLM gives other numbers with a row of several"):
        completion_logprobs(model, PROMPTS, GROUPS)
    assert model.training == training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = completion_logprobs(model.eval(), PROMPTS, GROUPS).values
        completion_logprobs(model, [[*PROMPTS[0] * 9]], [[LONG * 4, LONG]])  # a longer check, nothing new to say
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert sharing.left_out(model) == ["a row of several completions"]


@torch.no_grad()
def test_states_of_a_reward_model_are_compared_too(monkeypatch: pytest.MonkeyPatch):
    hide_windows(monkeypatch)
    model = tiny("gpt_neo")
    rows = token_states(model, PROMPTS, GROUPS, share_prompt=False)[0]
    torch.testing.assert_close(token_states(model, PROMPTS, GROUPS)[0], rows, atol=1e-4, rtol=1e-4)
    assert sharing.left_out(model) == ["a row of several completions"]


@torch.no_grad()
def test_a_model_is_asked_once_for_a_length():
    lm = random_lm()
    passes: list[int] = []
    handle = lm.model.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    for expected in (6, 1):  # four texts alone and one row, then the batch; the second time the batch
        passes.clear()
        completion_logprobs(lm.model, [[2, 4]], [[[5], [6]]])
        assert len(passes) == expected
    handle.remove()


def test_a_left_out_way_is_among_the_facts_of_trust(monkeypatch: pytest.MonkeyPatch):
    hide_windows(monkeypatch)
    lm = LM(tiny("gpt_neo", vocab=len(word_tokenizer())), word_tokenizer())
    assert trust(lm, "mira lives in oslo .").left_out == ()
    completion_logprobs(lm.model, PROMPTS, GROUPS)
    assert trust(lm, "mira lives in oslo .").left_out == ("a row of several completions",)


@pytest.mark.parametrize("limit", [8, 12, 48, None])
def test_the_texts_of_a_check_are_as_long_as_they_should_be(limit: int | None):
    prompts, groups = sharing.texts(27, 32, limit)
    lengths = [[len(prompt) + len(ids) for ids in group] for prompt, group in zip(prompts, groups, strict=True)]
    assert trees.size(prompts[0], groups[0]) >= 32
    assert max(map(max, lengths)) <= (limit or 99)
    assert limit is not None or max(lengths[0]) > 32
    assert len({tuple(row) for row in (*prompts, *groups[0], *groups[1])}) > 4


def test_models_of_one_architecture_are_checked_once(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []
    agrees = sharing._agrees

    def counted(inner: torch.nn.Module, size: int, quick: sharing.Measure, alone: sharing.Measure) -> bool:
        asked.append(size)
        return agrees(inner, size, quick, alone)

    monkeypatch.setattr(sharing, "_agrees", counted)
    monkeypatch.setattr(sharing, "_by_architecture", {})
    first, second, other = random_lm(), random_lm(seed=1), random_lm(hidden_size=64)
    texts = [lm.generate("mira lives", max_new_tokens=3, seed=0).text for lm in (first, second)]
    assert len(asked) == 1
    assert texts[1] == random_lm(seed=1).generate("mira lives", max_new_tokens=3, seed=0).text
    other.generate("mira lives", max_new_tokens=3, seed=0)
    assert len(asked) == 2
    own = random_lm(seed=2)
    own.model.forward = own.model.forward  # code of its own, of which nothing is known
    own.generate("mira lives", max_new_tokens=3, seed=0)
    assert len(asked) == 3
