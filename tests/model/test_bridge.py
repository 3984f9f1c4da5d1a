"""Hooks on a bridge that shares the model's parameters, and nothing of them afterwards."""

import threading

import pytest
import torch
from torch import nn

from probe.attention.patterns import attention
from probe.errors import ConfigError, ModelError
from probe.model.equations import read_network, recompose
from probe.model.hooked_gap import trust
from probe.model.hooks import HookWarning
from probe.model.lm import LM
from tests.models import ARCHITECTURES, OTHERS, byte_tokenizer, random_lm, reloaded, tiny, word_tokenizer

TEXTS = ["mira lives in oslo .", "tom", "where does ana"]
SAFE = {"atol": 1e-5, "rtol": 1e-4}


def close_where_real(lm, one, other):
    for row, text in enumerate(TEXTS):
        length = len(lm.tokenizer.encode(text))
        torch.testing.assert_close(one[row, :length], other[row, :length], **SAFE)


def hooked_logits(lm, texts=TEXTS):
    with lm.hooks([]):
        return lm.logits(texts)


def train_a_little(lm, steps=2):
    optimiser = torch.optim.AdamW(lm.model.parameters(), lr=0.02, fused=True)
    ids = torch.tensor([[2, 4, 5, 6, 7, 8]])
    for _ in range(steps):
        lm.model(ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_hooked_logits_equal_plain_ones(name):
    lm = random_lm(name)
    close_where_real(lm, hooked_logits(lm), lm.logits(TEXTS))


UNSCALED = {"scale_attn_weights": False}
GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2, "logits_scaling": 2.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 12,
}
OPTIONS = [
    ("gpt2", UNSCALED),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"reorder_and_upcast_attn": True}),
    ("gpt2", UNSCALED | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "relu"}),
    ("gpt_bigcode", UNSCALED),
    ("gpt_neo", {}),
    ("gpt_neox", {"use_parallel_residual": False, "tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", {}),
    ("qwen3", {"attention_bias": True}),
    ("gemma2", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 100}),
    ("gemma3_text", {"final_logit_softcapping": 2.0}),
    ("granite", GRANITE),
    ("granitemoe", GRANITE),
    ("cohere", {"logit_scale": 0.5, "use_qk_norm": True}),
    ("cohere2", {"logit_scale": 0.5}),
    ("olmo", {"clip_qkv": 0.5}),
    ("olmo2", {}),
    ("stablelm", {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}),
    ("falcon", {"alibi": False, "parallel_attn": False}),
    ("bloom", {"apply_residual_connection_post_layernorm": True}),
    ("opt", {"enable_bias": False, "word_embed_proj_dim": 16}),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
    ("nemotron", {"partial_rotary_factor": 0.25}),
]
IDS = [2, 4, 9, 14, 19, 24, 6, 11, 16, 21, 26, 8, 13, 18, 23, 5, 10, 15, 20, 25]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
@torch.no_grad()
def test_hooks_follow_every_option_of_a_configuration(kind, options):
    lm = LM(tiny(kind, **options), word_tokenizer())
    own = lm.logits([IDS])
    with lm.hooks([]):
        torch.testing.assert_close(lm.logits([IDS]), own, atol=1e-4, rtol=1e-4)
    try:
        net = read_network(lm)
    except ModelError:
        assert kind not in ("gpt2", "gpt_bigcode", "llama")
    else:
        torch.testing.assert_close(recompose(net, IDS), own[0], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_scores_without_a_scale_are_those_of_the_model():
    """The pattern of the first block, from the model's own weights."""
    lm = LM(tiny("gpt2", **UNSCALED), word_tokenizer())
    block = lm.model.transformer.h[0]
    states = lm.model.transformer.wte(torch.tensor(IDS)) + lm.model.transformer.wpe(torch.arange(len(IDS)))
    q, k, _ = (
        part.view(len(IDS), 4, 8).transpose(0, 1) for part in block.attn.c_attn(block.ln_1(states)).split(32, -1)
    )
    scores = (q @ k.transpose(1, 2)).masked_fill(torch.ones(len(IDS), len(IDS)).triu(1).bool(), -torch.inf)
    _, cache = lm.run_with_cache([IDS], "blocks.0.attn.hook_pattern")
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"][0], scores.softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["falcon", "openai-gpt"])
def test_hooks_that_show_another_model_say_so(kind):
    """Biases by distance in Falcon and OpenAI's GPT are not what transformer-lens makes of them."""
    lm = LM(tiny(kind), word_tokenizer())
    with pytest.warns(HookWarning, match="hooked and plain logits differ by"):
        assert lm.bridge is not None
    assert not trust(lm, IDS).sound


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt_neox", {"attention_bias": False}),
        ("phi", {"qk_layernorm": True}),
        ("opt", {"do_layer_norm_before": False}),
        ("gpt_bigcode", {"multi_query": False}),
    ],
)
def test_a_configuration_that_cannot_be_hooked_is_refused_in_words(kind, options):
    lm = LM(tiny(kind, **options), word_tokenizer())
    with pytest.raises(ModelError, match="cannot be hooked, since transformer-lens does not follow its configuration"):
        lm.hook_names()
    assert lm.logits([IDS]).isfinite().all()


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_hooked_logits_follow_an_optimiser_step(name):
    lm = random_lm(name)
    bridge = lm.bridge
    before = lm.logits(TEXTS).detach()
    train_a_little(lm)
    after = lm.logits(TEXTS)
    assert (after - before)[0].abs().max() > 0.1
    close_where_real(lm, hooked_logits(lm), after)
    close_where_real(lm, lm.run_with_cache(TEXTS, ["blocks.0.hook_out"])[0], after.detach())
    assert lm.bridge is bridge


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_model_stays_the_plain_module_it_was(name):
    lm = random_lm(name)
    names = [(key, type(module)) for key, module in lm.model.named_modules()]
    config, state = lm.model.config.to_dict(), {key: value.clone() for key, value in lm.model.state_dict().items()}
    kernel = lm.model.config._attn_implementation
    lm.model.requires_grad_(False)
    rng = torch.get_rng_state()
    lm.run_with_cache(TEXTS)
    assert torch.equal(torch.get_rng_state(), rng)
    lm.model.train()
    lm.run_with_cache(TEXTS)
    assert [(key, type(module)) for key, module in lm.model.named_modules()] == names
    assert lm.model.config.to_dict() == config
    assert lm.model.config._attn_implementation == kernel == "sdpa"
    assert lm.model.training
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())
    assert not any(module._forward_hooks for module in lm.model.modules())
    assert lm.model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in lm.model.state_dict().items())


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_parameters_are_shared_and_not_copied(name):
    lm = random_lm(name)
    own = {id(parameter) for parameter in lm.bridge.original_model.parameters()}
    assert own == {id(parameter) for parameter in lm.model.parameters()}


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3"])
def test_tied_embeddings_stay_tied(name):
    lm = random_lm(name, tie_word_embeddings=True)
    embed, unembed = lm.model.get_input_embeddings().weight, lm.model.get_output_embeddings().weight
    assert embed is unembed
    assert lm.bridge.original_model.get_output_embeddings().weight is embed
    train_a_little(lm)
    close_where_real(lm, hooked_logits(lm), lm.logits(TEXTS))


def test_the_training_mode_is_followed():
    lm = random_lm("gpt2", resid_pdrop=0.5)
    assert torch.equal(hooked_logits(lm)[0], hooked_logits(lm)[0])
    lm.model.train()
    assert not torch.equal(hooked_logits(lm)[0], hooked_logits(lm)[0])
    lm.model.eval()
    close_where_real(lm, hooked_logits(lm), lm.logits(TEXTS))


def test_a_cast_or_replaced_model_gets_its_bridge_anew():
    lm = random_lm()
    lm.run_with_cache("tom")
    lm.model.double()
    close_where_real(lm, hooked_logits(lm), lm.logits(TEXTS))
    lm.model = random_lm(seed=1).model
    close_where_real(lm, hooked_logits(lm), lm.logits(TEXTS))
    with lm.hooks([]):
        lm.model = random_lm(seed=2).model
        with pytest.raises(ConfigError, match="leave `hooks` first"):
            lm.logits("tom")


@pytest.mark.parametrize("make", [byte_tokenizer, None])
def test_text_means_the_same_tokens_to_the_bridge(make, tmp_path):
    """In memory, saved and reloaded; with and without a beginning token; the tokenizer itself is not changed."""
    tokenizer = make() if make else random_lm().tokenizer
    lm = random_lm("gpt2", tokenizer)
    again = random_lm("gpt2", reloaded(tokenizer, tmp_path))
    pad = tokenizer.pad_token
    for one in (lm, again):
        torch.testing.assert_close(one.bridge("mira lives")[0], one.logits("mira lives")[0], **SAFE)
    assert tokenizer.pad_token == pad


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("hook", ["blocks.1.attn.hook_pattern", "blocks.1.hook_resid_post", "blocks.1.hook_out"])
def test_old_and_canonical_names_can_be_ablated(name, hook):
    lm = random_lm(name)
    plain = lm.logits(TEXTS)
    seen = []
    with lm.hooks([(hook, lambda tensor, hook: seen.append(tensor.shape) or torch.zeros_like(tensor))]):
        ablated = lm.logits(TEXTS)
    assert len(seen) == 1
    assert (ablated - plain)[0].abs().max() > 0.1
    close_where_real(lm, lm.logits(TEXTS), plain)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_attention_patterns_are_causal_distributions(name):
    lm = random_lm(name)
    _, cache = lm.run_with_cache("mira lives in oslo .", ["blocks.0.attn.hook_pattern"])
    pattern = cache["blocks.0.attn.hook_pattern"]
    assert pattern.shape == (1, 4, 6, 6)
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 4, 6), **SAFE)
    assert (pattern.triu(1) == 0).all()


def test_an_old_name_and_its_canonical_one_are_the_same_place():
    lm = random_lm()
    _, cache = lm.run_with_cache("tom lives", ["blocks.0.hook_resid_post", "blocks.0.hook_out"])
    assert torch.equal(cache["blocks.0.hook_resid_post"], cache["blocks.0.hook_out"])
    assert {"blocks.0.hook_resid_post", "blocks.0.hook_out", "blocks.1.attn.hook_pattern"} <= set(lm.hook_names())


def test_hooks_run_in_order_and_under_any_argument_names():
    lm = random_lm()
    order = []
    pairs = [("blocks.0.hook_out", lambda x, where, n=n: order.append((n, where.name))) for n in range(3)]
    with lm.hooks(pairs):
        lm.logits("tom")
    assert order == [(n, "blocks.0.hook_out") for n in range(3)]


def test_identity_hooks_change_no_token_and_ablation_does():
    lm = random_lm()
    plain = lm.generate(TEXTS, n=3, max_new_tokens=8, seed=4, top_logprobs=3)
    with lm.hooks([("blocks.0.hook_resid_post", lambda tensor, hook: tensor.clone())]):
        same = lm.generate(TEXTS, n=3, max_new_tokens=8, seed=4, top_logprobs=3)
    with lm.hooks([("blocks.0.hook_mlp_out", lambda tensor, hook: tensor * 0)]):
        other = lm.generate(TEXTS, n=3, max_new_tokens=8, seed=4)
    assert same.ids == plain.ids
    torch.testing.assert_close(same.logprobs, plain.logprobs, **SAFE)
    assert other.ids != plain.ids


def test_a_generating_hook_sees_whole_texts():
    """A hook that acts on position 1 acts on it at every step, as it does in one pass over the result."""
    lm = random_lm()

    def erase(tensor, hook):
        tensor = tensor.clone()
        tensor[:, 1] = 0
        return tensor

    with lm.hooks([("blocks.0.hook_resid_post", erase)]):
        drawn = lm.generate(["mira lives in oslo", "tom"], max_new_tokens=5, seed=0, stop=())
        again = lm.logprobs(drawn.prompt_ids, [[ids] for ids in drawn.ids])
    torch.testing.assert_close(drawn.logprobs, again.values.detach(), **SAFE)
    plain = lm.logprobs(drawn.prompt_ids, [[ids] for ids in drawn.ids])
    assert (plain.values - again.values).abs().max() > 0.01


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooked_logprobs_equal_plain_ones(name):
    lm = random_lm(name)
    pairs = ["mira lives", "tom"], [["in oslo .", " in"], [" lives in rome"]]
    plain = lm.logprobs(*pairs, temperature=0.8)
    with lm.hooks([("blocks.0.hook_out", lambda tensor, hook: None)]):
        hooked = lm.logprobs(*pairs, temperature=0.8)
    for one, other in zip(plain, hooked, strict=True):
        torch.testing.assert_close(one, other, **SAFE)


def test_hooks_cannot_leak():
    lm = random_lm()
    plain = lm.logits("tom lives").detach()
    zero = [("blocks.0.hook_mlp_out", lambda tensor, hook: tensor * 0)]

    def clean():
        points = lm.bridge.hook_dict.values()
        return torch.equal(lm.logits("tom lives"), plain) and not any(point.has_hooks() for point in points)

    with lm.hooks(zero):
        outer = lm.logits("tom lives")
        assert not torch.equal(outer, plain)
        with lm.hooks([("blocks.1.hook_attn_out", lambda tensor, hook: tensor * 0)]):
            assert not torch.equal(lm.logits("tom lives"), outer)
        assert torch.equal(lm.logits("tom lives"), outer)
    assert clean()
    with pytest.raises(KeyError), lm.hooks(zero):
        raise KeyError("in the body")
    assert clean()
    with pytest.raises(ConfigError), lm.hooks([*zero, ("blocks.9.hook_out", zero[0][1])]):
        raise AssertionError("an unknown name was accepted")
    assert clean()


@pytest.mark.parametrize("call", ["logits", "generate", "run_with_cache", "logprobs"])
def test_an_exception_in_a_hook_comes_through_and_leaves_nothing(call):
    lm = random_lm()

    def broken(tensor, hook):
        raise ZeroDivisionError("in the hook")

    arguments = ("tom", " lives") if call == "logprobs" else ("tom",)
    for name in ("blocks.0.hook_out", "blocks.0.attn.hook_pattern", "unembed.hook_out"):
        with pytest.raises(ZeroDivisionError, match="in the hook"), lm.hooks([(name, broken)]):
            getattr(lm, call)(*arguments)
        assert not any(point.has_hooks() for point in lm.bridge.hook_dict.values())
    getattr(lm, call)(*arguments)


def test_hooks_of_one_thread_do_not_act_in_another():
    lm = random_lm()
    plain = lm.logits("tom").detach()
    inside, leave = threading.Event(), threading.Event()
    found = {}

    def other():
        inside.wait()
        found["logits"] = lm.logits("tom").detach()
        leave.set()
        found["cached"] = lm.run_with_cache("tom", ["blocks.0.hook_out"])[0]

    thread = threading.Thread(target=other)
    thread.start()
    with lm.hooks([("blocks.0.hook_out", lambda tensor, hook: tensor * 0)]):
        inside.set()
        assert leave.wait(20)
        thread.join(0.3)
        assert thread.is_alive()  # it waits for its turn on the bridge
        assert not torch.equal(lm.logits("tom"), plain)
    thread.join(20)
    assert torch.equal(found["logits"], plain)
    torch.testing.assert_close(found["cached"], plain, **SAFE)


def test_a_cache_inside_hooks_is_hooked():
    lm = random_lm()
    with lm.hooks([("blocks.0.hook_out", lambda tensor, hook: tensor * 0)]):
        _, cache = lm.run_with_cache("tom", "blocks.1.hook_in")
    assert (cache["blocks.1.hook_in"] == 0).all()


def test_run_with_cache_keeps_what_was_asked_for_without_gradients():
    lm = random_lm()
    logits, some = lm.run_with_cache(TEXTS, ["blocks.0.hook_resid_post"])
    assert not logits.requires_grad
    close_where_real(lm, logits, lm.logits(TEXTS).detach())
    assert "blocks.1.hook_resid_post" not in some.cache_dict
    _, everything = lm.run_with_cache("tom")
    assert {"blocks.0.attn.hook_pattern", "blocks.1.hook_resid_post", "ln_final.hook_out"} <= set(everything.keys())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("blocks.0.hook_resid_pots", "`blocks.0.hook_resid_post`"),
        ("blocks.7.attn.hook_pattern", "attn.hook_pattern"),
        ("nonsense", "lm.hook_names"),
        ("blocks.0.attn.hook_result", "set_use_attn_result"),
    ],
)
def test_an_unknown_or_idle_name_is_refused(name, words):
    lm = random_lm()
    with pytest.raises(ConfigError, match=words), lm.hooks([(name, lambda tensor, hook: None)]):
        raise AssertionError("the name was accepted")
    with pytest.raises(ConfigError, match=words):
        lm.run_with_cache("tom", [name])


def test_activations_carry_gradients():
    lm = random_lm()
    kept = {}
    with lm.hooks([("blocks.0.hook_out", lambda tensor, hook: kept.update(h=tensor) or tensor.retain_grad())]):
        lm.logits("tom lives")[0, -1].logsumexp(-1).backward()
    assert kept["h"].grad.abs().sum() > 0


def test_an_architecture_without_adapter_still_samples_and_says_so():
    from transformers import BioGptConfig, BioGptForCausalLM

    from probe.model.lm import LM

    tokenizer = random_lm().tokenizer
    config = BioGptConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
    )
    lm = LM(BioGptForCausalLM(config).eval(), tokenizer)
    assert len(lm.generate("tom", max_new_tokens=3, seed=0, stop=()).ids[0]) == 3
    with pytest.raises(ModelError, match="BioGptForCausalLM cannot be hooked"):
        lm.run_with_cache("tom")
    assert isinstance(lm.model, nn.Module)


def test_a_model_without_attention_says_so():
    lm = random_lm("mamba")
    with pytest.raises(ConfigError, match=r"has no attention .*Mamba.*need a transformer"):
        attention(lm, "mira lives")
    with pytest.raises(ConfigError, match="no hook point 'nowhere'"):
        lm.run_with_cache("mira lives", ["nowhere"])
