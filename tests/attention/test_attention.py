"""Attention as the model's own modules give it, over prompts and step by step; one head's stages multiply out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import DynamicCache

from probe.attention.head_stages import HeadsStages, read_stages, stages
from probe.attention.moved_heads import AttentionShift
from probe.attention.patterns import Attention, attention, difference, distance_table, head_distance
from probe.attention.reading import Attentions, read_attention
from probe.attention.tracing import value_norms
from probe.errors import ConfigError, DataError, ModelError
from probe.logits.direct import direct_logits, held_norm
from probe.model.rewards import reward_lm
from probe.numbers import rate
from probe.plotting.notebook import Look, alone
from tests.models import ARCHITECTURES, MORE, OTHERS, random_lm, random_reward_model

TEXT = "mira lives in oslo . where does mira"
EVERY = [*ARCHITECTURES, *OTHERS, *MORE]
GEMMAS = ("gemma2", "gemma3")
"""Architectures with a norm behind the heads."""


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_patterns_are_those_that_transformers_returns(name):
    lm = random_lm(name)
    read = attention(lm, TEXT)
    lm.model.set_attn_implementation("eager")
    own = lm.model(torch.tensor([read.ids]), output_attentions=True).attentions
    np.testing.assert_allclose(read.pattern, torch.cat(own), rtol=1e-5, atol=1e-6)
    assert (read.prompt_length, len(read.heads), read.heads[5]) == (len(read.ids), 8, "L1H1")
    assert read.tokens[:3] == ["<bos>", "mira", "lives"]
    np.testing.assert_allclose(read.pattern.sum(-1), 1, atol=1e-5, rtol=1e-4)
    assert np.all(read.pattern[..., *np.triu_indices(len(read.ids), 1)] == 0)


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_of_written_tokens_are_what_each_cached_step_attended_to(name, temperature):
    lm = random_lm(name)
    read = attention(lm, TEXT, max_new_tokens=6, temperature=temperature, seed=4)
    prompt, written = read.ids[: read.prompt_length], read.ids[read.prompt_length :]
    assert written == lm.generate([prompt], max_new_tokens=6, temperature=temperature, seed=4).ids[0]
    assert len(written) > 2
    lm.model.set_attn_implementation("eager")
    past = DynamicCache(config=lm.model.config)
    output = lm.model(torch.tensor([prompt]), past_key_values=past, use_cache=True, output_attentions=True)
    for t, token in enumerate(written, start=len(prompt)):
        if temperature == 0:
            assert int(output.logits[0, -1].argmax()) == token
        output = lm.model(torch.tensor([[token]]), past_key_values=past, use_cache=True, output_attentions=True)
        step = torch.stack([row[0, :, -1] for row in output.attentions])
        assert step.shape[-1] == t + 1
        np.testing.assert_allclose(read.pattern[:, :, t, : t + 1], step, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_stages_multiply_out_to_what_the_block_adds(name):
    """Scores to pattern to mixed values of all heads, with the output's bias, are the model's own attention output."""
    lm = random_lm(name)
    heads = [stages(lm, TEXT, 1, head) for head in range(4)]
    ids = lm.tokenizer.encode(TEXT)
    length = len(ids)
    names = ["attn.hook_z", "attn.hook_v", "hook_attn_out", "attn.hook_pattern"]
    _, cache = lm.run_with_cache([ids], [f"blocks.1.{kind}" for kind in names])
    z, v, added, pattern = (cache[f"blocks.1.{kind}"][0] for kind in names)
    weight = lm.bridge.blocks[1].attn.W_O
    whole = torch.zeros_like(added)
    back = 6 if name == "mistral" else length  # in block 1 of Gemma no window slides
    unseen = torch.ones(length, length).triu(1) + torch.ones(length, length).tril(-back) > 0
    for head, read in enumerate(heads):
        scores = torch.from_numpy(read.scores)
        assert scores.isnan().equal(unseen)
        soft = scores.nan_to_num(nan=-torch.inf).softmax(-1)
        torch.testing.assert_close(soft, pattern[head], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(read.pattern, pattern[head], atol=1e-6, rtol=1e-4)
        value = v.repeat_interleave(4 // v.shape[1], dim=1)[:, head]
        torch.testing.assert_close(soft @ value, z[:, head], atol=1e-5, rtol=1e-5)
        whole += soft @ value @ weight[head]
    bias = getattr(lm.bridge.blocks[1].attn, "b_O", None)
    whole = whole if bias is None else whole + bias
    if name in GEMMAS:
        whole = lm.model.model.layers[1].post_attention_layernorm(whole)
    torch.testing.assert_close(whole, added, atol=1e-4, rtol=1e-4)
    assert heads[0].name == "L1H0"


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_what_one_head_writes_is_what_is_missing_without_it(name):
    """With its mixed values set to zero the stream lacks o_t (Gemma: at the scale of its norm with the head)."""
    lm = random_lm(name)
    layer, head = 1, 2
    read = stages(lm, TEXT, layer, head)
    ids = lm.tokenizer.encode(TEXT)
    hook = f"blocks.{layer}.ln1_post.hook_in" if name in GEMMAS else f"blocks.{layer}.hook_attn_out"

    def without(z, hook):
        z = z.clone()
        z[:, :, head] = 0
        return z

    _, whole = lm.run_with_cache([ids], [hook, f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.attn.hook_v"])
    with lm.hooks([(f"blocks.{layer}.attn.hook_z", without)]):
        _, less = lm.run_with_cache([ids], [hook])
    missing, stream = (whole[hook] - less[hook])[0], whole[f"blocks.{layer}.hook_resid_pre"][0]
    v = whole[f"blocks.{layer}.attn.hook_v"][0]
    value = v.repeat_interleave(4 // v.shape[1], dim=1)[:, head] @ lm.bridge.blocks[layer].attn.W_O[head]
    pairs = value[None].expand(len(ids), -1, -1)
    if name in GEMMAS:
        norm = lm.model.model.layers[layer].post_attention_layernorm
        factor = (1 + norm.weight) / (whole[hook][0].square().mean(-1, keepdim=True) + norm.eps).sqrt()
        missing, pairs = missing * factor, pairs * factor[:, None]
    np.testing.assert_allclose(read.written, missing.norm(dim=-1), atol=1e-4)
    np.testing.assert_allclose(read.share, missing.norm(dim=-1) / stream.norm(dim=-1), atol=1e-4)
    alone = pairs.norm(dim=-1)
    np.testing.assert_allclose(read.value_norms, alone.diagonal(), atol=1e-4)
    np.testing.assert_allclose(read.contribution, torch.from_numpy(read.pattern) * alone, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_promoted_tokens_are_the_difference_of_logits_at_a_held_scale(name):
    """A last block's head is added to the stream: logits with and without it, both through the scale with it."""
    lm = random_lm(name)
    read = stages(lm, TEXT, 1, 3, k=4)
    ids = lm.tokenizer.encode(TEXT)
    names = ["blocks.1.attn.hook_z", "blocks.1.hook_resid_post", "blocks.1.hook_attn_out"]
    _, cache = lm.run_with_cache([ids], names)
    o = (cache[names[0]][0][:, 3] @ lm.bridge.blocks[1].attn.W_O[3]).double()
    norm, x = lm.bridge.ln_final.original_component, cache[names[1]][0].double()
    gain = norm.weight.double()
    if name in GEMMAS:
        post = lm.model.model.layers[1].post_attention_layernorm
        _, more = lm.run_with_cache([ids], ["blocks.1.ln1_post.hook_in"])
        summed = more["blocks.1.ln1_post.hook_in"][0].double()
        o, gain = o * (1 + post.weight.double()) / (summed.square().mean(-1, keepdim=True) + post.eps).sqrt(), 1 + gain
    if isinstance(norm, torch.nn.LayerNorm):
        o, x = o - o.mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    scale = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    change = (o / scale * gain) @ lm.model.get_output_embeddings().weight.double().T
    for words, sign in [(read.promoted, 1), (read.suppressed, -1)]:
        expected = (sign * change).topk(4, dim=-1)
        np.testing.assert_allclose(words.logits, sign * expected.values, atol=1e-4)
        assert words.tokens.tolist() == [lm.tokenizer.convert_ids_to_tokens(row) for row in expected.indices.tolist()]


@torch.no_grad()
@pytest.mark.parametrize("name", EVERY)
def test_direct_logits_of_the_whole_stream_are_the_logits_less_their_biases(name):
    lm = random_lm(name, **({"final_logit_softcapping": None} if name == "gemma2" else {}))
    last = "blocks.1.hook_resid_post"
    logits, cache = lm.run_with_cache(TEXT, [last])
    norm = lm.bridge.ln_final.original_component
    head, zero = lm.model.get_output_embeddings(), torch.zeros(32)
    through = head(zero if getattr(norm, "bias", None) is None else norm.bias)  # with the bias of GPT-J's logits
    torch.testing.assert_close(direct_logits(lm, cache[last], cache[last]) + through, logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", *GEMMAS])
def test_parts_through_a_held_norm_sum_to_what_the_norm_gives(name):
    norm = random_lm(name).bridge.ln_final.original_component
    whole, a = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))
    held = held_norm(norm, whole)
    torch.testing.assert_close(held(a) + held(whole - a) + held.shift, norm(whole))
    torch.testing.assert_close((held(a) * whole).sum(-1), (a * held.direction(whole)).sum(-1))
    assert not held_norm(norm, 0 * whole)(a * 0).any()


def test_a_norm_of_another_kind_is_refused():
    with pytest.raises(ModelError, match="neither RMSNorm nor LayerNorm"):
        held_norm(torch.nn.Tanh(), torch.randn(7, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reward_model_is_looked_into_like_any_other(name):
    lm = reward_lm(random_reward_model(name))
    read, one = attention(lm, TEXT), stages(lm, TEXT, 0, 1)
    np.testing.assert_allclose(read.pattern[0, 1], one.pattern, atol=1e-6, rtol=1e-4)
    assert set(one.promoted.tokens.ravel()) == {"reward"}
    assert one.promoted.logits.shape == (len(read.ids), 1)
    assert one.suppressed.logits.shape == (len(read.ids), 0)
    assert len(one.written_table()) == len(read.ids)
    with pytest.raises(ConfigError, match="writes none"):
        attention(lm, TEXT, max_new_tokens=2)


def test_distances_are_those_of_scipy():
    a, b = attention(random_lm(), TEXT), attention(random_lm(seed=1), TEXT)
    moved = difference(a, b)
    np.testing.assert_array_equal(moved, b.pattern - a.pattern)
    variation, divergence = head_distance(a, b), head_distance(a, b, "jensen_shannon")
    among = head_distance(a, b, "other_tokens")
    rows = range(1, len(a.ids))
    for layer, head in np.ndindex(2, 4):
        p, q = a.pattern[layer, head], b.pattern[layer, head]
        assert variation[layer, head] == pytest.approx(np.mean([abs(p[t] - q[t]).sum() / 2 for t in rows]), abs=1e-5)
        expected = np.mean([jensenshannon(p[t], q[t]) ** 2 for t in rows])
        assert divergence[layer, head] == pytest.approx(expected, abs=1e-5)
        gained = [sum(max(q[t][s] - p[t][s], 0) for s in range(1, t + 1)) for t in rows]
        lost = [sum(max(p[t][s] - q[t][s], 0) for s in range(1, t + 1)) for t in rows]
        expected = np.mean([min(one, other) for one, other in zip(gained, lost, strict=True)])
        assert among[layer, head] == pytest.approx(expected, abs=1e-5)
    table = distance_table(a, b)
    assert table["other_tokens"].tolist() == sorted(among.ravel(), reverse=True)
    first = table.iloc[0]
    assert divergence[first["layer"], first["head"]] == first["jensen_shannon"]
    assert not head_distance(a, a).any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_head_that_only_moves_to_its_sink_does_not_rank_first(name):
    """In L0H1 the score of the first token grows, so that all others lose alike; in L0H3 that of one other token."""
    lm = random_lm(name)

    def change(scores: torch.Tensor, hook: object) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 1, 1:, 0] += 5
        scores[:, 3, 4:, 2] += 0.5
        return scores

    before = read_attention(lm, TEXT)
    with lm.hooks([("blocks.0.attn.hook_attn_scores", change)]):
        pattern = attention(lm, TEXT).pattern
    pattern[1] = before.pattern[1]
    after = replace(before, pattern=pattern)
    whole, among = head_distance(before, after), head_distance(before, after, "other_tokens")
    assert whole.argmax() == 1
    assert among.argmax() == 3
    assert among[0, 1] == pytest.approx(0, abs=1e-6)
    both = Attentions((before, after), (Look("a", "red"), Look("b", "blue")))
    assert both.sentence().startswith(
        f"Between a and b, L0H3 changed its attention most: {rate(among[0, 3])} of it moved among tokens other than the"
        f" first ({rate(whole[0, 3])} with the first), "
    )
    assert both.lists()["Heads that moved most"]["head"][0] == "L0H3"
    assert both.head() == (0, 3)
    shift = AttentionShift((before, after), (0, 1))
    assert shift.figures()["moved"].data[0].x[0] == pytest.approx(among[0, 3])
    assert "< 0.01 % of its attention moved among tokens other than the first. With the first, " in shift.notes[0]
    pattern = before.pattern.copy()
    pattern[0, 1] = after.pattern[0, 1]
    alone = Attentions((before, replace(before, pattern=pattern)), both.looks).sentence()
    assert alone == (
        "Between a and b, heads moved attention almost only to or from the first token: L0H1 most,"
        f" {rate(whole[0, 1])} of it."
    )


def test_distance_of_opposite_patterns_is_the_largest():
    one, other = np.eye(3), np.zeros((3, 3))
    other[:, 0] = 1
    a, b = (Attention(["a", "b", "c"], [1, 2, 3], 3, pattern[None, None]) for pattern in (one, other))
    assert head_distance(a, b).item() == 1
    assert head_distance(a, b, "jensen_shannon").item() == pytest.approx(np.log(2))


def test_what_does_not_pair_up_is_refused():
    lm = random_lm()
    a = attention(lm, TEXT)
    with pytest.raises(DataError, match="different tokens"):
        difference(a, attention(lm, "tom works"))
    with pytest.raises(DataError, match="2 x 4 and 3 x 4"):
        difference(a, attention(random_lm(num_hidden_layers=3), TEXT))
    with pytest.raises(ConfigError, match="jensen_shannon"):
        head_distance(a, a, "cosine")
    for layer, head in [(2, 0), (0, 4), (-1, 0)]:
        with pytest.raises(ConfigError, match="L1H3"):
            stages(lm, TEXT, layer, head)
    with pytest.raises(DataError):
        attention(lm, [])


@torch.no_grad()
def test_value_norms_are_those_of_the_stages():
    for name in ("llama", "gpt2"):
        lm = random_lm(name)
        norms = value_norms(lm, TEXT)
        assert norms.shape == (2, 4, len(lm.tokenizer.encode(TEXT)))
        np.testing.assert_allclose(norms[1, 3], stages(lm, TEXT, 1, 3).value_norms, atol=1e-5, rtol=1e-4)


def test_tables_are_tidy():
    lm = random_lm()
    read = stages(lm, TEXT, 0, 2, k=3)
    table, written = read.table(), read.written_table()
    length = len(read.tokens)
    assert len(table) == length * (length + 1) // 2
    row = table[(table["query"] == 4) & (table["key"] == 1)].iloc[0]
    assert (row["query_token"], row["key_token"]) == ("oslo", "mira")
    assert row["contribution"] == pytest.approx(row["weight"] * row["value_norm"])
    assert row["score"] == read.scores[4, 1]
    assert len(written) == length * 6
    last = written[(written["position"] == 5) & (written["direction"] == "suppressed") & (written["rank"] == 1)].iloc[0]
    assert (last["moved"], last["logit_change"]) == (read.suppressed.tokens[5, 1], read.suppressed.logits[5, 1])
    assert len(attention(lm, TEXT).table()) == 2 * 4 * length * (length + 1) // 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_narrow_formats_are_read_at_their_precision(name):
    lm, narrow = random_lm(name), random_lm(name)
    narrow.model.bfloat16()
    one, other = stages(lm, TEXT, 0, 1), stages(narrow, TEXT, 0, 1)
    assert other.written.dtype == np.float32
    np.testing.assert_allclose(other.written, one.written, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(other.pattern, one.pattern, atol=0.02)


def test_the_token_that_a_head_moves_most_from_is_not_the_sink_on_which_it_rests():
    found = read_stages(random_lm(), "mira lives in oslo .", head="L1H1")
    at = len(found.tokens) - 1
    pattern, moved = np.nan_to_num(found.pattern), np.nan_to_num(found.contribution)
    pattern[at], moved[at] = 0.05, 0.1
    pattern[at, 0], pattern[at, 2], moved[at, 2] = 0.75, 0.2, 3.0
    rests = replace(found, pattern=pattern, contribution=moved)
    token = rests.tokens[2].strip()
    said = HeadsStages((rests,), alone()).sentence()
    assert f"from \u201c{token}\u201d (weight 0.20; 75 % of its attention rests on the first token)" in said
    moved[at, 0] = 9.0
    said = HeadsStages((replace(found, pattern=pattern, contribution=moved),), alone()).sentence()
    assert "(weight 0.75)" in said
    assert "rests on" not in said
