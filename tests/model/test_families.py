"""E1 to E6 for families that do more than Llama and GPT-2: caps, norms behind heads and MLPs, ALiBi, experts, ..."""

from dataclasses import replace

import pytest
import torch

from probe import LM
from probe.errors import ModelError
from probe.model import equations
from probe.model.equations import Block, Network, attend, bilinear, embed, read_network, recompose, states
from probe.model.rewards import reward_lm
from tests.models import random_lm, random_reward_model, tiny, word_tokenizer

IDS = [2, 4, 9, 14, 19, 24, 6, 11, 16, 21, 26, 8, 13, 18, 23, 5, 10, 15, 20, 25]
SHARP = {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 2}
"""Scores far beyond their cap."""
BASES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
}
FAMILIES = [
    ("gemma2", SHARP),
    ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 3}),
    ("gemma3", {"rope_parameters": BASES}),
    ("gemma3", {"tie_word_embeddings": False, "num_key_value_heads": 1, "final_logit_softcapping": 2.0}),
    ("opt", {}),
    ("opt", {"enable_bias": False, "activation_function": "gelu"}),
    ("gptj", {}),
    ("gptj", {"rotary_dim": 8}),
    ("bloom", {}),
    ("bloom", {"n_head": 6, "hidden_size": 48}),
    ("mixtral", {}),
    ("mixtral", {"sliding_window": 5, "num_experts_per_tok": 3}),
]


@pytest.mark.parametrize(("name", "changes"), FAMILIES)
@torch.no_grad()
def test_the_equations_make_the_models_logits(name, changes):
    lm = random_lm(name, **changes)
    own = lm.model(torch.tensor([IDS])).logits[0]
    assert float((recompose(read_network(lm), IDS) - own).abs().max()) < 1e-5 * float(own.std())


@pytest.mark.parametrize(("name", "changes"), FAMILIES)
@torch.no_grad()
def test_patterns_are_those_that_transformers_returns(name, changes):
    lm = random_lm(name, **changes)
    net = read_network(lm)
    lm.model.set_attn_implementation("eager")
    patterns = lm.model(torch.tensor([IDS]), output_attentions=True).attentions
    assert len(patterns) == len(net.blocks) == 2
    for block, h, pattern in zip(net.blocks, states(net, IDS), patterns, strict=False):
        torch.testing.assert_close(attend(bilinear(block.maps, block.norm(h))), pattern[0], atol=2e-6, rtol=1e-4)


def each_block(net: Network, change) -> Network:
    return replace(net, blocks=[change(block) for block in net.blocks])


def each_maps(net: Network, **changes) -> Network:
    return each_block(net, lambda block: replace(block, maps=replace(block.maps, **changes)))


def with_rotary(net: Network, **changes) -> Network:
    return each_block(
        net, lambda block: replace(block, maps=replace(block.maps, rotary=replace(block.maps.rotary, **changes)))
    )


def with_weight_as_stored(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, weight=block.norm.weight - 1))


LEFT_OUT = {
    "cap of scores": ("gemma2", lambda net: each_maps(net, cap=None)),
    "cap of logits": ("gemma2", lambda net: replace(net, cap=None)),
    "window": ("gemma2", lambda net: each_maps(net, window=None)),
    "scale of scores": ("gemma2", lambda net: each_maps(net, scale=8**-0.5)),
    "scale of the embedding": ("gemma2", lambda net: replace(net, embed_scale=1.0)),
    "norm behind the heads": ("gemma2", lambda net: each_block(net, lambda block: replace(block, post_norm=None))),
    "norm behind the MLP": ("gemma2", lambda net: each_block(net, lambda block: replace(block, ffn_post_norm=None))),
    "1 + weight": ("gemma2", lambda net: each_block(net, with_weight_as_stored)),
    "norm of queries": ("gemma3", lambda net: each_maps(net, q_norm=None)),
    "window of Gemma 3": ("gemma3", lambda net: each_maps(net, window=None)),
    "base of local blocks": ("gemma3", lambda net: with_rotary(net, layer_type="full_attention")),
    "rows before the first position": ("opt", lambda net: replace(net, W_pos=net.W_pos.roll(1, 0))),
    "neighbours": ("gptj", lambda net: each_maps(net, rotary=Halves(net.blocks[0].maps.rotary))),
    "bias of the logits": ("gptj", lambda net: replace(net, b_out=torch.zeros_like(net.b_out))),
    "parallel": ("gptj", lambda net: each_block(net, lambda block: replace(block, parallel=False))),
    "ALiBi": ("bloom", lambda net: each_maps(net, slopes=None)),
    "norm of the embedding": ("bloom", lambda net: replace(net, embed_norm=None)),
    "two experts": ("mixtral", lambda net: each_block(net, lambda block: replace(block, ffn=replace(block.ffn, k=1)))),
}


class Halves:
    """GPT-J's angles on pairs (i, i + r/2)."""

    def __init__(self, rotary) -> None:
        self.rotary = rotary

    def __call__(self, x):
        r = self.rotary.angles(x)[0].shape[-1]
        order = [*range(0, r, 2), *range(1, r, 2), *range(r, x.shape[-1])]
        back = torch.tensor(order).argsort()
        return self.rotary(x[..., back])[..., order]


@pytest.mark.parametrize("part", LEFT_OUT)
@torch.no_grad()
def test_each_part_counts(part):
    """Without it the logits are others by a hundredth of their spread and more: the tests above see it."""
    name, change = LEFT_OUT[part]
    changes = {"gemma2": SHARP, "gemma3": {"rope_parameters": BASES}}
    net = read_network(random_lm(name, **changes.get(name, {})))
    whole = recompose(net, IDS)
    assert float((recompose(change(net), IDS) - whole).abs().max()) > 1e-2 * float(whole.std())


@torch.no_grad()
def test_scores_lie_within_their_cap():
    net = read_network(random_lm("gemma2", **SHARP))
    for block, h in zip(net.blocks, states(net, IDS), strict=False):
        scores, free = bilinear(block.maps, block.norm(h)), bilinear(replace(block.maps, cap=None), block.norm(h))
        seen = torch.isfinite(scores)
        assert float(scores[seen].abs().max()) <= 1
        assert float(free[seen].abs().max()) > 3
        torch.testing.assert_close(scores[seen], free[seen].tanh())
    assert [block.maps.window for block in net.blocks] == [6, None]


@pytest.mark.parametrize(("heads", "slopes"), [(4, [2**-2, 2**-4, 2**-6, 2**-8]), (2, [2**-4, 2**-8])])
def test_slopes_of_alibi_halve_from_head_to_head(heads, slopes):
    """Press et al. 2022: the slopes 2^(-8 h / H)."""
    maps = read_network(random_lm("bloom", n_head=heads)).blocks[1].maps
    assert maps.slopes.tolist() == slopes
    h = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    gap = bilinear(replace(maps, slopes=None), h) - bilinear(maps, h)
    assert float(gap[1, 5, 2]) == pytest.approx(3 * slopes[1], abs=1e-6)


@torch.no_grad()
def test_shares_of_experts_in_a_slow_loop():
    """Two experts with the largest logits, their softmax over these two alone, one token at a time."""
    lm = random_lm("mixtral")
    ffn, own = read_network(lm).blocks[0].ffn, lm.model.model.layers[0].mlp
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(0))
    written = own(x[None])[0]
    chosen = set()
    for token in range(7):
        logits = own.gate.weight @ x[token]
        best = logits.argsort(descending=True)[:2]
        chosen |= set(best.tolist())
        shares = logits[best].softmax(-1)
        total = sum(share * ffn.experts[expert](x[token]) for share, expert in zip(shares, best.tolist(), strict=True))
        torch.testing.assert_close(written[token], total, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ffn.shares(x[token])[best], shares)
    assert len(chosen) > 2
    torch.testing.assert_close(ffn(x), written, atol=1e-5, rtol=1e-4)
    assert ffn.experts[1].W_out.data_ptr() == own.experts.down_proj[1].data_ptr()


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "opt", "gptj", "bloom", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_formats(name, dtype):
    """In half precision weights are rounded: the equations of the rounded model in single precision are its own."""
    lm = random_lm(name)
    if name == "mixtral":
        lm.model.set_experts_implementation("eager")  # the default one has no double precision
    lm.model.to(dtype)
    rounded = recompose(read_network(lm), IDS)
    lm.model.float()
    torch.testing.assert_close(rounded.float(), recompose(read_network(lm), IDS), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_that_rounding_sends_to_other_experts_do_not_refuse_a_model():
    """Of 16 tokens a few are far off and most are near; a wrong number of experts is still seen."""
    lm = LM(tiny("mixtral", vocab=1000, num_hidden_layers=12), word_tokenizer())
    lm.model.bfloat16()
    lm.model.set_attn_implementation("eager")  # as the hooked model's, whose tokens keep their experts then
    net = read_network(lm)
    ids = torch.arange(16) * 143 % 1000
    own = lm.logits([ids.tolist()])[0].float()
    errors = (recompose(net, ids) - own).square().mean(-1).sqrt() / own.square().mean().sqrt()
    assert float(errors.square().mean().sqrt()) > equations.ROUNDED > 2 * float(errors.median())
    fewer = each_block(net, lambda block: replace(block, ffn=replace(block.ffn, k=1)))
    with pytest.raises(ModelError, match="differ from those of the equations"):
        equations._check(lm, fewer)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "opt", "gptj", "bloom", "mixtral"])
def test_leading_axes_are_batches(name):
    net = read_network(random_lm(name))
    ids = torch.tensor([IDS[:8], IDS[8:16]])
    both = recompose(net, ids)
    for row in range(2):
        torch.testing.assert_close(both[row], recompose(net, ids[row]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "mixtral", "bloom", "gptj"])
@torch.no_grad()
def test_a_scalar_of_a_reward_model_is_recomposed_and_not_capped(name):
    model = random_reward_model(name)
    model.model.score.weight.data *= 20
    lm = reward_lm(model)
    net = read_network(lm)
    assert net.cap is None
    score = float(model.model(torch.tensor([IDS])).logits[0, 0])
    assert abs(score) > 4  # beyond the cap of 3 on the logits of tokens
    assert float(recompose(net, IDS)[-1, 0]) == pytest.approx(score, rel=1e-4)
    assert float(lm.logits([IDS])[0, -1, 0]) == pytest.approx(score, rel=1e-4)


def test_positions_of_opt_start_two_rows_into_the_table():
    lm = random_lm("opt")
    net, table = read_network(lm), lm.model.model.decoder.embed_positions.weight
    assert len(table) == len(net.W_pos) + 2 == 50
    torch.testing.assert_close(embed(net, [7, 7])[1] - net.W_emb[7], table[3].detach())


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("opt", {"word_embed_proj_dim": 16}, "its embedding has another width"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "its blocks add to the normed stream"),
        ("mpt", {}, "its bias of scores by distance is not Bloom's"),
        ("qwen2_moe", {}, "differ from those of the equations"),
        ("olmo2", {}, "no part 'ln1'"),
    ],
)
def test_what_the_equations_do_not_have_is_refused_by_name(kind, options, why):
    lm = LM(tiny(kind, **options), word_tokenizer())
    with pytest.raises(ModelError, match=f"not described by the equations E1 to E6, since .*{why}.*Gemma 2 and 3"):
        read_network(lm)
