"""E23 against autograd: every pair of positions, through the equations and through the model's own attention."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from probe.autoregression import jacobian as formulas
from probe.autoregression.jacobian import HeadPaths, block_norms, jacobian_norms, jacobian_split
from probe.errors import DataError
from probe.model.equations import Maps, Norm, attend, attention, mix, read_network, states
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Look
from tests.models import ARCHITECTURES, MORE, in_double, random_lm, random_reward_model

TEXT = "mira lives in oslo . where does mira"
T = 9
VARIANTS = [
    *((name, {}) for name in [*ARCHITECTURES, "mistral", "phi3"]),
    ("llama", {"attention_bias": True, "num_key_value_heads": 1}),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5}}),
    ("gemma2", {"attn_logit_softcapping": 2.0, "layer_types": ["full_attention", "sliding_attention"]}),
    ("bloom", {}),
    *((name, {}) for name in MORE),
]


def inputs(width: int = 32, seed: int = 1) -> torch.Tensor:
    return torch.randn(T, width, generator=torch.Generator().manual_seed(seed)) * 1.5


def head_outputs(maps: Maps, h: torch.Tensor) -> torch.Tensor:
    """o [H T d] with the divisors of the norms of queries and keys detached: "norms held fixed", by autograd."""

    def directed(maps_, bias, norm):
        x = torch.einsum("td,hed->hte", h, maps_) + bias[:, None]
        if norm is not None:
            x = x - x.mean(-1, keepdim=True) if norm.kind == "layer" else x
            x = norm.bias + norm.weight * x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt().detach()
        return x if maps.rotary is None else maps.rotary(x)

    scores = directed(maps.M, maps.m_bias, maps.q_norm) @ directed(maps.N, maps.n_bias, maps.k_norm).mT * maps.scale
    scores = scores if maps.cap is None else maps.cap * torch.tanh(scores / maps.cap)
    lag = torch.arange(T)[:, None] - torch.arange(T)
    scores = scores if maps.slopes is None else scores - maps.slopes[:, None, None] * lag
    hidden = (lag < 0) | (lag >= (maps.window or T))
    return mix(maps, attend(scores.masked_fill(hidden, -torch.inf)), h)


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
def test_the_split_adds_up_to_autograd(name, changes):
    lm = random_lm(name, **changes)
    in_double(lm)
    maps, h = read_network(lm).blocks[1].maps, inputs().double()
    assert (maps.q_norm is not None) == (name in ("qwen3", "gemma3"))
    assert (maps.cap is not None, maps.slopes is not None) == (name == "gemma2", name == "bloom")
    check_against_autograd(maps, h)


def test_layer_norms_on_queries_and_keys():
    """No model of the tests has them (StableLM can): centring has to be taken back too."""
    lm = random_lm("gpt_neox")
    lm.model.double()
    maps, draw = read_network(lm).blocks[0].maps, torch.Generator().manual_seed(2)
    weights = torch.randn(4, 8, generator=draw, dtype=torch.float64)
    norms = {
        "q_norm": Norm("layer", weights[0], weights[1], 1e-3),
        "k_norm": Norm("layer", weights[2], weights[3], 1e-3),
    }
    check_against_autograd(dataclasses.replace(maps, **norms), inputs().double())


def check_against_autograd(maps: Maps, h: torch.Tensor) -> None:
    whole = torch.func.jacrev(lambda x: head_outputs(maps, x))(h)  # [H T d T d]
    for head in range(4):
        for t in range(T):
            for s in range(T):
                split = jacobian_split(maps, h, head, t, s)
                torch.testing.assert_close(split.total, whole[head, t, :, s], atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_paths_are_those_of_autograd(name):
    """The linear path is the derivative with attention held fixed, the other one that with the values held fixed."""
    maps, h = read_network(random_lm(name)).blocks[0].maps, inputs()

    def with_fixed(x, y):
        """What is read comes from x, where is looked from y."""
        return torch.einsum("hts,hsd->htd", weights(y), torch.einsum("hde,hse->hsd", maps.O, read(x)))

    def read(x):
        return torch.einsum("td,hed->hte", x, maps.V) + maps.v_bias[:, None]

    def weights(y):
        q, k = torch.einsum("td,hed->hte", y, maps.M), torch.einsum("td,hed->hte", y, maps.N)
        q, k = q + maps.m_bias[:, None], k + maps.n_bias[:, None]
        if maps.q_norm is not None:
            fixed = [(x.square().mean(-1, keepdim=True) + maps.q_norm.eps).sqrt().detach() for x in (q, k)]
            q, k = q / fixed[0] * maps.q_norm.weight, k / fixed[1] * maps.k_norm.weight
        q, k = (x if maps.rotary is None else maps.rotary(x) for x in (q, k))
        mask = torch.ones(T, T, dtype=torch.bool).triu(1)
        return (q @ k.mT * maps.scale).masked_fill(mask, -torch.inf).softmax(-1)

    linear, rest = torch.func.jacrev(with_fixed, argnums=(0, 1))(h, h)
    for head, t, s in [(0, 5, 2), (1, 8, 0), (2, 3, 3), (3, 0, 0), (3, 7, 6), (0, 2, 5)]:
        split = jacobian_split(maps, h, head, t, s)
        torch.testing.assert_close(split.linear, linear[head, t, :, s], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(split.bilinear, rest[head, t, :, s], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_heads_sum_to_the_models_own_attention(name):
    """Against the module of transformers: the sum over heads is the derivative of what the block's attention writes."""
    lm = random_lm(name)
    maps, h = read_network(lm).blocks[0].maps, inputs()
    blocks = lm.model.base_model.h if name == "gpt2" else lm.model.base_model.layers
    module = getattr(blocks[0], {"gpt2": "attn", "gpt_neox": "attention"}.get(name, "self_attn"))
    if name == "qwen3":
        module.q_norm, module.k_norm = Fixed(module.q_norm), Fixed(module.k_norm)
    mask = torch.full((T, T), -torch.inf).triu(1)[None, None]
    extra = {"attention_mask": mask}
    if name != "gpt2":
        extra["position_embeddings"] = lm.model.base_model.rotary_emb(h, torch.arange(T)[None])
    lm.model.set_attn_implementation("eager")
    whole = torch.autograd.functional.jacobian(lambda x: module(x[None], **extra)[0][0], h)  # [T d T d]
    for t, s in [(8, 3), (5, 0), (4, 4), (0, 0), (3, 6)]:
        total = sum(jacobian_split(maps, h, head, t, s).total for head in range(4))
        torch.testing.assert_close(total, whole[t, :, s], atol=1e-5, rtol=1e-4)


class Fixed(nn.Module):
    """An RMS norm whose divisor takes no gradient."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(x.detach()) / x.detach()).detach() * x  # diagonal and constant: weight by divisor


@pytest.mark.parametrize(("name", "changes"), VARIANTS)
@pytest.mark.parametrize("cells", [2**21, 1500])
def test_norms_are_those_of_the_matrices(name, changes, cells, monkeypatch):
    monkeypatch.setattr(formulas, "CELLS", cells)
    lm = random_lm(name, **changes)
    in_double(lm)
    maps, h = read_network(lm).blocks[1].maps, inputs().double()
    alpha, *norms = block_norms(maps, h)
    for head in range(4):
        for t in range(T):
            for s in range(T):
                split = jacobian_split(maps, h, head, t, s)
                for norm, matrix in zip(norms, (*split, split.total), strict=True):
                    expected = float(matrix.norm())
                    assert float(norm[head, t, s]) == pytest.approx(expected, abs=1e-5, rel=1e-6)
                assert (float(alpha[head, t, s]) > 0) == (s <= t and t - s < (maps.window or T))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_as_tables(name):
    lm = random_lm(name)
    seen = []
    norms = jacobian_norms(lm, TEXT, tick=seen.append)
    assert seen == [0.5, 1.0]
    length = len(norms.ids)
    assert norms.linear.shape == norms.total.shape == (2, 4, length, length)
    _, cache = lm.run_with_cache(TEXT, "blocks.1.attn.hook_pattern")
    np.testing.assert_allclose(norms.alpha[1], cache["blocks.1.attn.hook_pattern"][0], atol=1e-5, rtol=1e-4)
    net = read_network(lm)
    h = net.blocks[1].norm(states(net, norms.ids)[1])
    split = jacobian_split(net.blocks[1].maps, h, 2, 6, 4)
    assert norms.bilinear[1, 2, 6, 4] == pytest.approx(float(split.bilinear.norm()), rel=1e-3)
    table = norms.table()
    assert len(table) == 8
    row = table[table["name"] == "L1H2"].iloc[0]
    linear = sum(norms.linear[1, 2, t, s] for t in range(length) for s in range(t))
    bilinear = sum(norms.bilinear[1, 2, t, s] for t in range(length) for s in range(t))
    assert row["share"] == pytest.approx(bilinear / (linear + bilinear))
    assert norms.share[1, 2] == pytest.approx(row["share"])
    assert 0 < row["share"] < 1
    assert row["total"] <= linear + bilinear + 1e-5
    pairs = norms.pairs(1, 2)
    assert len(pairs) == length * (length + 1) // 2
    pair = pairs[(pairs["query"] == 6) & (pairs["key"] == 4)].iloc[0]
    assert pair["bilinear"] == norms.bilinear[1, 2, 6, 4]
    assert pair["key_token"] == norms.tokens[4]


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
@torch.no_grad()
def test_norms_of_a_head_behind_a_norm_are_of_what_it_adds_to_the_stream(name):
    """By autograd: mixed values through O and the norm, whose divisor takes no gradient."""
    lm = random_lm(name, **({"attn_logit_softcapping": 2.0} if name == "gemma2" else {}))
    norms = jacobian_norms(lm, TEXT)
    block = read_network(lm).blocks[1]
    h = block.norm(states(read_network(lm), norms.ids)[1])[:T]
    divisor = (attention(block.maps, h).square().mean(-1, keepdim=True) + block.post_norm.eps).sqrt()
    gain = 1 + lm.model.model.layers[1].post_attention_layernorm.weight
    whole = torch.func.jacrev(lambda x: head_outputs(block.maps, x) / divisor * gain)(h)  # [H T d T d]
    assert float((divisor - 1).abs().min()) > 0.01
    expected = whole.square().sum((2, 4)).sqrt()
    np.testing.assert_allclose(norms.total[1, :, :T, :T], expected, atol=1e-5, rtol=1e-3)


def test_what_attention_fixed_on_one_token_does():
    """A head that looks at one token only has no bilinear path: there is nothing to look at instead."""
    maps, h = read_network(random_lm()).blocks[0].maps, inputs()
    split = jacobian_split(maps, h, 1, 0, 0)
    torch.testing.assert_close(split.linear, maps.L(1))
    assert float(split.bilinear.abs().max()) < 1e-6
    share = jacobian_norms(random_lm(), [4]).share
    assert np.isnan(share).all()


def test_a_reward_model_has_a_split_too():
    norms = jacobian_norms(reward_lm(random_reward_model()), TEXT)
    assert np.isfinite(norms.share).all()


def test_what_cannot_be_asked():
    lm = random_lm()
    maps, h = read_network(lm).blocks[0].maps, inputs()
    for head, t, s in [(4, 0, 0), (0, T, 0), (0, 0, -1)]:
        with pytest.raises(DataError, match="was requested"):
            jacobian_split(maps, h, head, t, s)
    with pytest.raises(DataError, match="no tokens"):
        jacobian_norms(lm, [])
    with pytest.raises(DataError, match="has 49 tokens and the model reads at most 48"):
        jacobian_norms(lm, [5] * 49)
    with pytest.raises(DataError, match="token 27 and the model knows 0 to 26"):
        jacobian_norms(lm, [2, 27])


def test_a_head_without_a_share_is_not_the_most_bilinear():
    found = jacobian_norms(random_lm(), "mira lives in oslo")
    found.linear[0, 0] = found.bilinear[0, 0] = 0
    assert np.isnan(found.share[0, 0])
    layer, head = np.unravel_index(np.nanargmax(found.share), found.share.shape)
    said = HeadPaths((found,), (Look("a", "red"),)).sentence()
    share = f"{100 * np.nanmax(found.share):.0f} %"
    assert said == f"In a the attention path has its largest share in L{layer}H{head} ({share})."
    assert found.sentence() == said.replace("In a", "In model", 1)
    assert "a single token" in jacobian_norms(random_lm(), [5]).sentence()


def test_two_models_are_said_and_drawn_together():
    both = [jacobian_norms(random_lm(seed=seed), "mira lives in oslo") for seed in (0, 1)]
    found = HeadPaths(tuple(both), (Look("a", "red"), Look("b", "blue")))
    change = (both[1].share - both[0].share).ravel()
    largest = f"{change[np.abs(change).argmax()]:+.2f}".replace("-", "\u2212")
    assert f"the largest change between them is {largest}" in found.sentence()
    assert set(found.table()["model"]) == {"a", "b"}
    assert len(found.figures()["paths"].data) >= 2
