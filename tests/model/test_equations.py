"""E1 to E6 make the model's logits, stage by stage and in slow loops; what they do not describe is refused."""

import numpy as np
import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM

from probe import LM
from probe.errors import DataError, ModelError
from probe.model import equations
from probe.model.equations import (
    attend,
    attention,
    bilinear,
    embed,
    keys,
    mix,
    queries,
    read_network,
    readout,
    recompose,
    states,
    values,
)
from probe.model.rewards import reward_lm
from tests.models import ARCHITECTURES, STD, random_lm, random_reward_model, word_tokenizer

TEXT = "mira lives in oslo . where does mira live ? tom works at the cat in rome"
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 12}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
VARIANTS = [
    *((name, {}) for name in [*ARCHITECTURES, "mistral", "phi3"]),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 6, "hidden_act": "gelu", "rms_norm_eps": 0.3}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": LINEAR}),
    ("llama", {"num_key_value_heads": 1}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 0.3}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5}}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
]


def ids_of(lm: LM) -> list[int]:
    return lm.tokenizer.encode(TEXT)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_the_equations_make_the_models_logits(name, changes):
    lm = random_lm(name, **changes)
    own = lm.logits([ids_of(lm)])[0].detach()
    torch.testing.assert_close(recompose(read_network(lm, check=False), ids_of(lm)), own, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recompose(read_network(lm), ids_of(lm)), own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mistral", "phi3"])
def test_each_stage_is_what_the_hooks_show(name):
    lm = random_lm(name)
    net = read_network(lm)
    parts = ["ln1.hook_out", "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_attn_out"]
    names = [f"blocks.1.{part}" for part in [*parts, "hook_resid_pre", "hook_resid_post"]]
    _, cache = lm.run_with_cache([ids_of(lm)], names)
    normed, scores, pattern, z, written, before, after = (cache[hook][0] for hook in names)
    maps = net.blocks[1].maps
    close = {"atol": 2e-5, "rtol": 1e-4}
    h = net.blocks[1].norm(before)
    torch.testing.assert_close(h, normed, **close)
    s = bilinear(maps, h)
    seen = torch.isfinite(s)
    torch.testing.assert_close(s[seen], scores[seen], **close)
    alpha = attend(s)
    torch.testing.assert_close(alpha, pattern, **close)
    o = mix(maps, alpha, h)
    torch.testing.assert_close(o, torch.einsum("the,hde->htd", z, maps.O), **close)
    torch.testing.assert_close(attention(maps, h), written, **close)
    torch.testing.assert_close(o.sum(0) + maps.o_bias, written, **close)
    rows = states(net, ids_of(lm))
    torch.testing.assert_close(rows[1], before, **close)
    torch.testing.assert_close(rows[2], after, **close)
    torch.testing.assert_close(readout(net, rows[2]), recompose(net, ids_of(lm)))


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mistral"])
def test_scores_and_mixing_in_slow_loops(name):
    """E3 to E5 written as they stand in the paper, with whole matrices, one pair of positions at a time."""
    lm = random_lm(name)
    maps = read_network(lm).blocks[0].maps
    T, h = 8, torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    s, alpha = bilinear(maps, h), attend(bilinear(maps, h))
    o = mix(maps, alpha, h)
    for head in range(4):
        for t in range(T):
            row = {}
            for key in range(t + 1):
                q, k = maps.M[head] @ h[t] + maps.m_bias[head], maps.N[head] @ h[key] + maps.n_bias[head]
                if maps.q_norm is not None:
                    q = q / (q.square().mean() + maps.q_norm.eps).sqrt() * maps.q_norm.weight
                    k = k / (k.square().mean() + maps.k_norm.eps).sqrt() * maps.k_norm.weight
                if maps.rotary is not None:
                    q, k = maps.rotary.matrix(t, q) @ q, maps.rotary.matrix(key, k) @ k
                if maps.window is None or t - key < maps.window:
                    row[key] = float(q @ k) / np.sqrt(len(q))
            total = sum(np.exp(score) for score in row.values())
            mixed = torch.zeros(32)
            for key in range(T):
                if key not in row:
                    assert s[head, t, key] == -np.inf
                    assert alpha[head, t, key] == 0
                    continue
                assert float(s[head, t, key]) == pytest.approx(row[key], abs=1e-4)
                weight = np.exp(row[key]) / total
                assert float(alpha[head, t, key]) == pytest.approx(weight, abs=1e-5)
                mixed += weight * (maps.L(head) @ h[key] + maps.O[head] @ maps.v_bias[head])
            torch.testing.assert_close(o[head, t], mixed.float(), atol=1e-4, rtol=1e-4)


def test_the_rotation_depends_on_the_lag_alone_and_is_undone_by_back():
    for name, changes in (("llama", {}), ("gpt_neox", {"rope_parameters": VARIANTS[-2][1]["rope_parameters"]})):
        rotary = read_network(random_lm(name, **changes)).blocks[0].maps.rotary
        like = torch.zeros(8)
        R = [rotary.matrix(position, like) for position in range(9)]
        torch.testing.assert_close(R[7].T @ R[5], R[4].T @ R[2], atol=1e-5, rtol=1e-5)
        assert float((R[7].T @ R[5] - R[4].T @ R[3]).abs().max()) > 0.1
        x = torch.randn(2, 9, 8)
        torch.testing.assert_close(rotary(x)[1, 6], R[6] @ x[1, 6], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rotary.back(x)[1, 6], R[6].T @ x[1, 6], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(rotary.back(rotary(x)), x, atol=1e-5, rtol=1e-5)


def test_heads_that_share_a_key_head_have_its_maps():
    maps = read_network(random_lm()).blocks[0].maps
    assert maps.group.tolist() == [0, 0, 1, 1]
    assert maps.N.shape == maps.M.shape == maps.V.shape == (4, 8, 32)
    assert maps.O.shape == (4, 32, 8)
    torch.testing.assert_close(maps.N[1], maps.N_shared[0])
    torch.testing.assert_close(maps.L(3), maps.O[3] @ maps.V[3])
    assert np.linalg.matrix_rank(maps.L(3).numpy()) == 8


def test_leading_axes_are_batches():
    for name in ARCHITECTURES:
        net = read_network(random_lm(name))
        ids = torch.tensor([[4, 5, 6, 7, 8], [9, 8, 7, 4, 4]])
        both = recompose(net, ids)
        for row in range(2):
            torch.testing.assert_close(both[row], recompose(net, ids[row]), atol=1e-5, rtol=1e-5)
        maps, h = net.blocks[0].maps, torch.randn(2, 5, 32)
        for fn in (queries, keys, values, bilinear):
            torch.testing.assert_close(fn(maps, h)[1], fn(maps, h[1]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reward_model_is_recomposed_too(name):
    lm = reward_lm(random_reward_model(name))
    net = read_network(lm)
    assert net.W_out.shape == (1, 32)
    own = lm.logits([ids_of(lm)])[0].detach()
    torch.testing.assert_close(recompose(net, ids_of(lm)), own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_formats(name, dtype):
    lm = random_lm(name)
    single = recompose(read_network(lm), ids_of(lm))
    lm.model.to(dtype)
    net = read_network(lm)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert net.W_emb.dtype == net.blocks[0].maps.M.dtype == wide
    logits = recompose(net, ids_of(lm))
    assert logits.dtype == wide
    tolerance = 1e-4 if dtype == torch.float64 else 0.3  # the weights themselves are rounded
    torch.testing.assert_close(logits.float(), single, atol=tolerance, rtol=1e-4)


def test_single_precision_weights_are_shared_and_tied_ones_held_once():
    lm = random_lm("qwen3")
    net = read_network(lm)
    assert net.W_emb.data_ptr() == net.W_out.data_ptr() == lm.model.lm_head.weight.data_ptr()
    assert net.blocks[0].maps.M.data_ptr() == lm.model.model.layers[0].self_attn.q_proj.weight.data_ptr()
    assert not net.W_out.requires_grad


def test_a_model_in_training_is_read_without_its_dropout():
    lm = random_lm("gpt2", attn_pdrop=0.5, resid_pdrop=0.5)
    lm.model.train()
    net = read_network(lm)
    assert lm.model.training
    lm.model.eval()
    torch.testing.assert_close(recompose(net, ids_of(lm)), lm.logits([ids_of(lm)])[0].detach(), atol=1e-4, rtol=1e-4)


def test_reading_inside_hooks_reads_the_plain_model():
    lm = random_lm()
    with lm.hooks([("blocks.0.hook_resid_post", lambda tensor, hook: tensor * 2)]):
        read_network(lm)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ModelError, match="no attention"):
        read_network(random_lm("mamba"))


def test_a_model_that_does_more_than_the_equations_is_refused():
    """The check sees what no reading of names can: here a block that scales what its attention writes."""
    lm = random_lm()
    assert lm.hook_names()  # built before, else hooks say that they differ
    attn = lm.model.model.layers[1].self_attn
    handle = attn.register_forward_hook(lambda module, inputs, output: (output[0] * 1.01, *output[1:]))
    with pytest.raises(ModelError, match="differ from those of the equations by"):
        read_network(lm)
    handle.remove()
    read_network(lm)


def test_a_window_that_no_short_text_shows_is_found_by_the_long_check(monkeypatch):
    """GPT-Neo looks back over 256 tokens in every other block, under a name of its own, and scales no scores."""
    config = GPTNeoConfig(
        vocab_size=27,
        hidden_size=16,
        num_layers=2,
        num_heads=1,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=400,
        initializer_range=STD,
        bos_token_id=2,
        eos_token_id=3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = LM(GPTNeoForCausalLM(config).eval(), word_tokenizer())
    for block in lm.model.transformer.h:
        block.attn.attention.scaling = 1.0  # under the name where it is looked for
    short, long = list(range(4, 24)), [4 + (7 * index) % 23 for index in range(400)]
    net = read_network(lm, check=False)
    torch.testing.assert_close(recompose(net, short), lm.logits([short])[0].detach(), atol=1e-4, rtol=1e-4)
    assert float((recompose(net, long) - lm.logits([long])[0]).abs().max().detach()) > 1e-2
    with monkeypatch.context() as patch:
        patch.setattr(equations, "LONG", 16)
        read_network(lm)
    with pytest.raises(ModelError, match="differ from those of the equations"):
        read_network(lm)


def test_a_text_beyond_the_learned_positions():
    net = read_network(random_lm("gpt2"))
    assert embed(net, [4] * 48).shape == (48, 32)
    with pytest.raises(DataError, match="49 tokens and the model has 48"):
        embed(net, [4] * 49)
