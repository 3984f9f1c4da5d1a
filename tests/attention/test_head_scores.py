"""Head scores: those of transformer_lens where it has them, slow loops elsewhere, and heads that are known to be."""

import numpy as np
import pytest
import torch
from transformer_lens.head_detector import detect_head

from probe.attention.patterns import Attention, attention, distance_table
from probe.attention.reading import Attentions, read_attention
from probe.attention.scores import (
    ScoresBeside,
    followers,
    pattern_scores,
    random_repeats,
    repeat_scores,
)
from probe.errors import ConfigError, DataError
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.plotting.notebook import Look
from tests.models import ARCHITECTURES, OTHERS, byte_tokenizer, random_lm, random_reward_model
from tests.places import SAMPLES

TEXT = "mira lives in oslo . tom lives in rome . mira lives in in oslo"


@pytest.mark.parametrize("name", [*ARCHITECTURES, *OTHERS])
def test_three_scores_are_those_of_the_head_detector(name):
    lm = random_lm(name)
    scores = pattern_scores(attention(lm, TEXT))
    for mine, theirs in [
        ("previous_token", "previous_token_head"),
        ("duplicate_token", "duplicate_token_head"),
        ("induction", "induction_head"),
    ]:
        found = detect_head(lm.bridge, TEXT, theirs, error_measure="mul")
        np.testing.assert_allclose(scores.values[mine], found, atol=1e-6, rtol=1e-4)


def test_the_other_scores_are_those_of_a_slow_loop():
    lm = random_lm()
    pattern = attention(lm, TEXT).pattern
    values = pattern_scores(attention(lm, TEXT)).values
    for layer, head in np.ndindex(pattern.shape[:2]):
        rows = [pattern[layer, head, t, : t + 1].astype(float) for t in range(1, pattern.shape[2])]
        expected = {
            "entropy": np.mean([-sum(p * np.log(p) for p in row if p > 0) for row in rows]),
            "reach": np.mean([sum(p * (len(row) - 1 - s) for s, p in enumerate(row) if s) for row in rows]),
            "sink": np.mean([row[0] for row in rows]),
            "self": np.mean([row[-1] for row in rows]),
        }
        for name, value in expected.items():
            assert values[name][layer, head] == pytest.approx(value, abs=1e-5)


def test_chance_is_what_uniform_attention_scores():
    ids = [3, 5, 3, 5, 3]
    uniform = np.tri(5) / np.arange(1, 6)[:, None]
    scores = pattern_scores(Attention(list("ababa"), ids, 5, uniform[None, None]))
    assert scores.chance == pytest.approx({name: value.item() for name, value in scores.values.items()})
    assert scores.chance["entropy"] == pytest.approx(np.log([2, 3, 4, 5]).mean())
    assert scores.chance["induction"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)


def test_a_text_of_one_token_has_finite_scores():
    values = pattern_scores(attention(random_lm(), [5])).values
    assert {name: value[0, 0].item() for name, value in values.items()} == {
        "entropy": 0,
        "reach": 0,
        "sink": 1,
        "self": 1,
        "previous_token": 0,
        "duplicate_token": 0,
        "induction": 0,
    }


@torch.no_grad()
@pytest.mark.parametrize("name", [*ARCHITECTURES, "gemma2"])
@pytest.mark.parametrize("repeats", [2, 3])
def test_repeat_scores_are_those_of_a_slow_loop(name, repeats):
    lm, length, block, head = random_lm(name), 6, 1, 2
    scores = repeat_scores(lm, length=length, batch=2, repeats=repeats, seed=3)
    _, cache = lm.run_with_cache(scores.ids)
    matching, before, copying = [], [], []
    gain = lm.bridge.ln_final.original_component.weight + (name == "gemma2")
    for row, ids in enumerate(scores.ids):
        assert ids == [lm.tokenizer.bos_token_id, *(ids[1 : 1 + length] * repeats)]
        pattern = cache[f"blocks.{block}.attn.hook_pattern"][row, head]
        written = cache[f"blocks.{block}.attn.hook_z"][row, :, head] @ lm.bridge.blocks[block].attn.W_O[head]
        if name in ("gpt2", "gpt_neox"):
            written = written - written.mean(-1, keepdim=True)
        if name == "gemma2":  # what the norm behind the heads divides by drops out of shares
            written = written * (1 + lm.model.model.layers[block].post_attention_layernorm.weight)
        before += [float(pattern[t, t - 1]) for t in range(1, len(ids))]
        for t in range(1 + length, len(ids)):
            keys = [s for s in range(2, t + 1) if ids[s - 1] == ids[t] and s - 1 < t]
            matching.append(float(pattern[t, keys].sum()))
            normed = written[t] / cache["ln_final.hook_scale"][row, t] * gain
            change = lm.model.get_output_embeddings().weight @ normed
            raised = (change - change.mean()).clamp(min=0)
            attended = ids[1 + int(pattern[t, 1:].argmax())]
            copying.append(float(raised[attended] / raised[ids[1 : 1 + length]].sum().clamp(min=1e-30)))
    assert scores.values["prefix_matching"][block, head] == pytest.approx(np.mean(matching), abs=1e-5)
    assert scores.values["previous_token"][block, head] == pytest.approx(np.mean(before), abs=1e-5)
    assert scores.values["copying"][block, head] == pytest.approx(2 * np.mean(copying) - 1, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_head_that_copies_by_construction_is_found(sign):
    """Queries look for their own token, values are passed on: only the attended token's logit is raised, or lowered."""
    lm = random_lm("llama", num_attention_heads=1, num_key_value_heads=1, num_hidden_layers=1, rope_theta=1e9)
    with torch.no_grad():
        lm.model.model.embed_tokens.weight.copy_(torch.eye(32)[: len(lm.tokenizer)])
        lm.model.lm_head.weight.copy_(torch.eye(32)[: len(lm.tokenizer)])
        attn = lm.model.model.layers[0].self_attn
        for part, factor in [(attn.q_proj, 20), (attn.k_proj, 20), (attn.v_proj, 1), (attn.o_proj, sign)]:
            part.weight.copy_(factor * torch.eye(32))
        for parameter in lm.model.parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0)
    scores = repeat_scores(lm, length=8, batch=4)
    assert scores.values["copying"].item() == pytest.approx(1 if sign > 0 else -1, abs=0.05)


def test_chance_of_repeats_is_that_of_uniform_attention():
    lm = random_lm()
    with torch.no_grad():
        for layer in lm.model.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    scores = repeat_scores(lm, length=5, batch=1, repeats=3)
    for name in ("prefix_matching", "previous_token"):
        np.testing.assert_allclose(scores.values[name], scores.chance[name], atol=1e-6, rtol=1e-4)
    assert scores.chance["copying"] == pytest.approx(2 / 5 - 1)


def test_repeats_draw_no_special_tokens_and_follow_the_seed():
    lm = random_lm()
    rows, begin, length = random_repeats(lm, 10_000, 3, 2, seed=0)
    special = set(lm.tokenizer.all_special_ids)
    assert (begin, length) == (1, len(lm.tokenizer) - len(special))
    assert all(not special & set(row[1:]) and len(set(row[1:])) == length for row in rows)
    assert rows == random_repeats(lm, 10_000, 3, 2, seed=0)[0]
    assert rows != random_repeats(lm, 10_000, 3, 2, seed=1)[0]
    assert random_repeats(random_lm(tokenizer=byte_tokenizer()), 5, 1, 2, seed=0)[1] == 0


def test_the_induction_head_of_the_chain_model_stands_out():
    """The sample run `icl` learned to count transitions in context: one head of its second block looks at followers."""
    lm = LM.load(SAMPLES / "icl")
    chain = "chain 1 : z0 z1 z1 z3 z2 z0 z1 z3 z2 z2 z1 z1 z3 z2 z0 z1 z1 z3 z2 z0 z1 z3 z2 z2 z1"
    scores = pattern_scores(attention(lm, chain))
    induction = scores.values["induction"]
    assert scores.top("induction", 1)["layer"].item() == 1
    assert induction.max() > 2 * scores.chance["induction"]
    assert np.sort(induction.ravel())[-2] < 0.75 * induction.max()


def test_scores_are_tables():
    scores = pattern_scores(attention(random_lm(), TEXT))
    table = scores.table()
    assert list(table.columns) == ["name", "layer", "head", *scores.names]
    assert table["name"].tolist()[:5] == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0"]
    assert table.loc[5, "sink"] == scores.values["sink"][1, 1]
    top = scores.top("sink", 3)
    assert top["sink"].tolist() == sorted(table["sink"], reverse=True)[:3]
    with pytest.raises(ConfigError, match="previous_token"):
        scores.top("nothing")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reward_model_has_scores_without_copying(name):
    lm = reward_lm(random_reward_model(name))
    assert set(repeat_scores(lm, length=4, batch=1).values) == {"prefix_matching", "previous_token"}
    np.testing.assert_allclose(
        pattern_scores(attention(lm, TEXT)).values["previous_token"],
        detect_head(lm.bridge, TEXT, "previous_token_head", error_measure="mul"),
        atol=1e-6,
    )


def test_bad_requests_are_refused():
    lm = random_lm()
    with pytest.raises(ConfigError, match="two repeats"):
        repeat_scores(lm, repeats=1)
    with pytest.raises(DataError):
        repeat_scores(lm, length=20, repeats=5)


def test_followers_are_the_tokens_after_earlier_ones():
    where = followers(np.array([1, 2, 3, 1, 2, 2]))
    assert [(int(t), int(s)) for t, s in np.argwhere(where)] == [(3, 1), (4, 2), (5, 2), (5, 5)]


def test_the_sentence_names_the_heads_of_the_table():
    lm, other = random_lm(), random_lm(seed=1)
    found = repeat_scores(lm, length=10)
    for name in found.values:
        top = found.table().sort_values(name, ascending=False).iloc[0]
        number = f"{top[name]:.2f}".replace("-", "\u2212") if name == "copying" else f"{100 * top[name]:.0f} %"
        assert f"{top['name']} " in found.sentence()
        assert number in found.sentence()
    assert pattern_scores(attention(lm, TEXT)).sentence() == ""
    pair = ScoresBeside((found, repeat_scores(other, length=10)), (Look("a", "red"), Look("b", "blue")))
    assert list(pair.figures()) == ["prefix-matching", "previous-token", "copying"]
    assert len(pair.figures()["copying"].layout.annotations) == 3  # both, and the difference
    assert pair.lists()["Heads"]["prefix_matching"].is_monotonic_decreasing


def test_two_models_on_a_prompt_name_the_head_that_moved_most():
    reads = [read_attention(random_lm(seed=seed), TEXT) for seed in (0, 1)]
    pair = Attentions(tuple(reads), (Look("a", "red"), Look("b", "blue")))
    moved = distance_table(*reads)
    assert f"{moved['name'][0]} changed its attention most" in pair.sentence()
    assert pair.lists()["Heads that moved most"]["head"][0] == moved["name"][0]
    assert pair.hooked == reads[0].ids
    assert "On this prompt, in model, " in reads[0].sentence()
    same = Attentions((reads[0], reads[0]), pair.looks)
    assert "Attention hardly changed between a and b" in same.sentence()
    other = read_attention(random_lm("gpt2", n_layer=3), TEXT)
    apart = Attentions((reads[0], other), pair.looks)
    assert not apart.comparable
    assert apart.sentence().startswith("In a, ")
    assert "; in b, " in apart.sentence()
    assert len(apart.figures()["heads"].layout.annotations) == 2
