"""Direct logit attribution: the parts sum to the logit, and are what slow reference loops and transformer_lens give."""

import numpy as np
import pytest
import torch
from transformer_lens.tools.analysis import direct_logit_attribution

from probe.analyses.catalogue import find_analysis
from probe.attention.head_stages import stages
from probe.errors import ConfigError, DataError, ModelError, ProbeError
from probe.logits.attribution import (
    Attributions,
    attribute,
    attribute_answer,
    difference_table,
    every_part,
    target_change,
)
from probe.logits.direct import final_norm
from probe.logits.parts import ov_tokens, promoted_tokens, read_parts
from probe.logits.shares import attribute_last, last_hooks, last_names, target_columns
from probe.logits.targets import Target, target_of
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from probe.numbers import signed
from probe.plotting.notebook import Look
from tests.models import ARCHITECTURES, MORE, random_lm, random_reward_model, tiny, word_tokenizer

TEXT = "mira lives in oslo ."
ADDING = [*ARCHITECTURES, "mistral", "bloom", "gemma2", "phi3", *MORE]


def difference(lm, position=None):
    return target_of(lm, lm.tokenizer.encode(TEXT), "rome", "oslo", position)


@pytest.mark.parametrize("name", ADDING)
@pytest.mark.parametrize("against", [None, "oslo"])
def test_the_parts_sum_to_the_logit(name, against):
    lm = random_lm(name)
    own = lm.logits(TEXT)[0].detach()
    target = target_of(lm, lm.tokenizer.encode(TEXT), "rome", against, position=3)
    found = attribute(lm, TEXT, target)
    expected = own[3, target.answer] - (own[3, target.against] if against else 0)
    assert abs(found.table()["value"].sum() - float(expected)) < 1e-4
    assert abs(found.sum - float(expected)) < 1e-4
    assert np.abs(found.heads).max() > 0.01
    np.testing.assert_allclose(found.sources.sum(-1), found.heads, atol=1e-5, rtol=1e-4)
    assert np.abs(found.sources[..., 4:]).max() < 1e-12
    if name == "mixtral":
        assert found.neurons is None
    else:
        np.testing.assert_allclose(found.neurons.sum(-1) + found.mlp_biases, found.mlps, atol=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformer_lens_gives_the_same_parts(name):
    """Its attribution folds the norms into the weights of the model, so it gets a model of its own."""
    lm, other = random_lm(name), random_lm(name).bridge
    other.enable_compatibility_mode(disable_warnings=True, fold_value_biases=False)
    ids, target = lm.tokenizer.encode(TEXT), difference(lm)
    asked = {"answer_tokens": torch.tensor([target.answer]), "incorrect_tokens": torch.tensor([target.against])}
    found = attribute(lm, ids, target)
    named = {"embed": found.embedding, "pos_embed": found.positions}
    for layer, (heads, bias, mlp) in enumerate(zip(found.heads, found.biases, found.mlps, strict=True)):
        named |= {f"L{layer}H{head}": each for head, each in enumerate(heads)}
        named |= {f"{layer}_attn_out": heads.sum() + bias, f"{layer}_mlp_out": mlp}
    seen = set()
    for unit in ("component", "head"):
        theirs = direct_logit_attribution(other, torch.tensor([ids]), unit=unit, **asked)
        for label, number in zip(theirs.labels, theirs.attribution.detach().flatten().tolist(), strict=True):
            if label != "remainder":
                assert abs(named[label] - number) < 1e-4, label
                seen.add(label)
    assert seen == set(named) - ({"pos_embed"} if name != "gpt2" else set())


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_head_is_what_the_logit_loses_with_the_norm_frozen(name):
    """The slow way: the stream before the final norm without the head, normed with the scale that it had."""
    lm, target = random_lm(name), difference(random_lm(name), 3)
    found = attribute(lm, TEXT, target)
    norm = lm.bridge.ln_final.original_component
    _, cache = lm.run_with_cache(TEXT, ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out"])
    whole, z = cache["blocks.1.hook_resid_post"][0, 3], cache["blocks.1.attn.hook_z"][0, 3]
    column = (
        lm.model.get_output_embeddings().weight[target.answer]
        - (lm.model.get_output_embeddings().weight[target.against])
    )
    centre = (lambda h: h - h.mean()) if isinstance(norm, torch.nn.LayerNorm) else (lambda h: h)
    eps = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    scale = (centre(whole).pow(2).mean() + eps).sqrt()
    for head in range(4):
        written = torch.zeros(32)
        for unit in range(z.shape[-1]):
            written += z[head, unit] * lm.bridge.W_O[1, head, unit]
        expected = float((norm.weight * centre(written) / scale) @ column)
        assert abs(expected - found.heads[1, head]) < 1e-5
    written = cache["blocks.1.hook_mlp_out"][0, 3]
    assert abs(float((norm.weight * centre(written) / scale) @ column) - found.mlps[1]) < 1e-5


def test_the_source_of_a_head_is_found_by_changing_its_value():
    """A value vector scaled by 1 + x changes the head's part by x times the source's share, patterns being the same."""
    lm, target = random_lm("qwen3"), difference(random_lm("qwen3"))
    before = attribute(lm, TEXT, target)

    def grow(value, hook):
        value[0, 2, 0] *= 1.5  # key/value head 0 serves query heads 0 and 1
        return value

    last = "blocks.1.attn.hook_v"
    with lm.hooks([(last, grow)]):
        _, cache = lm.run_with_cache(TEXT, ["blocks.1.attn.hook_z"])
    _, own = lm.run_with_cache(TEXT, ["blocks.1.attn.hook_z", "blocks.1.hook_resid_post"])
    change = (cache["blocks.1.attn.hook_z"] - own["blocks.1.attn.hook_z"])[0, -1]
    final = own["blocks.1.hook_resid_post"][:, -1]
    norm = final_norm(lm, final[0])
    u = norm.direction(target_columns(lm, torch.tensor([[target.answer, target.against]]), final)[0][0])
    moved = torch.einsum("he,hed,d->h", change, lm.bridge.W_O[1], u).detach()
    np.testing.assert_allclose(moved[:2], 0.5 * before.sources[1, :2, 2], atol=1e-5, rtol=1e-4)
    assert np.abs(before.sources[1, :2, 2]).max() > 1e-3
    assert float(moved[2:].abs().max()) < 1e-6


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_promoted_tokens_are_those_whose_logit_the_part_raises(name):
    lm = random_lm(name)
    top = promoted_tokens(lm, TEXT, 1, head=2, position=3, k=5)
    tokens, numbers = [*top.ids, *top.suppressed_ids], [*top.values, *top.suppressed_values]
    for token, number in zip(tokens, numbers, strict=True):
        assert abs(attribute(lm, TEXT, Target(3, int(token))).heads[1, 2] - number) < 1e-5
    every = [attribute(lm, TEXT, Target(3, token)) for token in range(len(lm.tokenizer))]
    values = np.array([each.heads[1, 2] for each in every])
    assert top.ids.tolist() == np.argsort(-values)[:5].tolist()
    assert top.suppressed_ids.tolist() == np.argsort(values)[:5].tolist()
    assert abs(top.mean - values.mean()) < 1e-5
    mlps = np.array([each.mlps[0] for each in every])
    assert promoted_tokens(lm, TEXT, 0, position=3, k=4).ids.tolist() == np.argsort(-mlps)[:4].tolist()
    neuron = every[0].neuron_table(1, 3)["neuron"].iloc[0]
    one = np.array([each.neurons[1, neuron] for each in every])
    np.testing.assert_allclose(
        promoted_tokens(lm, TEXT, 1, position=3, k=4, neuron=int(neuron)).values, np.sort(one)[:-5:-1], atol=1e-5
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_ov_tokens_are_the_product_of_the_weights(name):
    lm = random_lm(name)
    bridge, token = lm.bridge, lm.tokenizer.convert_tokens_to_ids("oslo")
    first, last = (module.original_component for module in (bridge.blocks[1].ln1, bridge.ln_final))
    stream = torch.nn.functional.layer_norm if isinstance(first, torch.nn.LayerNorm) else torch.nn.functional.rms_norm
    eps = first.eps if hasattr(first, "eps") else first.variance_epsilon
    normed = stream(lm.model.get_input_embeddings().weight[token], (32,), weight=first.weight, eps=eps)
    group = len(bridge.W_V[1]) // 4 if len(bridge.W_V[1]) > 4 else 4 // len(bridge.W_V[1])
    written = normed @ bridge.W_V[1, 3 // group] @ bridge.W_O[1, 3]
    if isinstance(last, torch.nn.LayerNorm):
        written = written - written.mean()
    logits = (lm.model.get_output_embeddings().weight @ (last.weight * written)).detach()
    found = ov_tokens(lm, 1, 3, "oslo", k=6)
    assert found.ids.tolist() == logits.argsort(descending=True)[:6].tolist()
    np.testing.assert_allclose(found.suppressed_values, logits.sort().values[:6], atol=1e-4)
    np.testing.assert_allclose(found.values, logits.sort(descending=True).values[:6], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "bloom"])
def test_ov_tokens_go_through_a_norm_of_the_embedding_and_one_behind_the_heads(name):
    lm = random_lm(name)
    block, token, body = lm.bridge.blocks[1], lm.tokenizer.convert_tokens_to_ids("oslo"), lm.model.base_model
    if name == "bloom":
        norm = body.h[1].input_layernorm
        read = norm(body.word_embeddings_layernorm(body.word_embeddings.weight[token])) - norm.bias
        written = read @ block.attn.W_V[3] @ block.attn.W_O[3]
        normed = (written - written.mean()) * body.ln_f.weight
    else:
        layer = body.layers[1]
        read = layer.input_layernorm(body.embed_tokens(torch.tensor(token)))
        written = (read @ block.attn.W_V[1] @ block.attn.W_O[3]) * (1 + layer.post_attention_layernorm.weight)
        normed = written * (1 + body.norm.weight)
    found = ov_tokens(lm, 1, 3, "oslo", k=6)
    best = (lm.model.lm_head.weight @ normed).sort(descending=True)
    assert found.ids.tolist() == best.indices[:6].tolist()
    np.testing.assert_allclose(found.values, best.values[:6], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_norms_behind_heads_and_mlps_and_the_cap_are_held_at_their_values(name):
    """In slow steps from the weights: post-norm, final norm and cap by the sizes that they have in the run."""
    lm = random_lm(name, **({"final_logit_softcapping": 1.0} if name == "gemma2" else {}))
    body, ids = lm.model.model, lm.tokenizer.encode(TEXT)
    found, other = attribute(lm, ids, Target(3, 9, 7)), attribute(lm, ids, Target(3, 9))
    names = ["blocks.1.attn.hook_z", "blocks.1.ln1_post.hook_in", "blocks.1.ln2_post.hook_in", "blocks.1.mlp.hook_post"]
    _, cache = lm.run_with_cache([ids], [*names, "blocks.1.hook_resid_post"])
    z, attended, written, post, final = (cache[key][0, 3] for key in [*names, "blocks.1.hook_resid_post"])

    def through(norm, part, whole):
        return part * (1 + norm.weight) / (whole.square().mean() + norm.eps).sqrt()

    plain = lm.model.lm_head.weight @ body.norm(final)
    factors = plain.tanh() / plain if name == "gemma2" else torch.ones_like(plain)
    factors = factors.nan_to_num(1.0)  # the padding's logit is 0
    assert (name == "gemma3") == bool((factors[9] - 1).abs() < 1e-3)  # else the cap is far from the identity

    def logits(part):
        return (lm.model.lm_head.weight @ through(body.norm, part, final)) * factors

    layer = body.layers[1]
    head = layer.self_attn.o_proj.weight[:, 16:24] @ z[2]
    adds = logits(through(layer.post_attention_layernorm, head, attended))
    assert found.heads[1, 2] == pytest.approx(float(adds[9] - adds[7]), abs=1e-5)
    assert other.heads[1, 2] == pytest.approx(float(adds[9]), abs=1e-5)
    neuron = layer.mlp.down_proj.weight[:, 5] * post[5]
    adds = logits(through(layer.post_feedforward_layernorm, neuron, written))
    assert found.neurons[1, 5] == pytest.approx(float(adds[9] - adds[7]), abs=1e-5)
    promoted = promoted_tokens(lm, ids, 1, neuron=5, position=3, k=3)
    np.testing.assert_allclose(promoted.values, (adds / factors).topk(3).values, atol=1e-5, rtol=1e-4)
    promoted = promoted_tokens(lm, ids, 1, head=2, position=3, k=3)
    adds = logits(through(layer.post_attention_layernorm, head, attended)) / factors
    np.testing.assert_allclose(promoted.values, adds.topk(3).values, atol=1e-5, rtol=1e-4)


def test_a_model_that_does_more_than_add_is_refused():
    lm = LM(tiny("granite", residual_multiplier=0.5), word_tokenizer())  # a factor on what heads and MLPs write
    with pytest.raises(ModelError, match="more than add"):
        attribute(lm, TEXT, Target(3, 7))


def test_a_model_without_attention_is_refused():
    lm = random_lm("mamba")
    with pytest.raises(ModelError, match="MambaForCausalLM"):
        attribute(lm, TEXT, Target(3, 7))


def test_a_part_left_out_is_seen(monkeypatch):
    """The check at run time: a bias that the sum does not know of."""
    lm = random_lm("gpt2")
    monkeypatch.setattr("probe.logits.shares.output_weights", lambda bridge, layer: (bridge.W_O[layer], None))
    with pytest.raises(ModelError, match="add up to"):
        attribute(lm, TEXT, Target(3, 7))


def test_scale_of_the_logits_is_part_of_every_value(monkeypatch):
    lm = random_lm()
    plain = attribute(lm, TEXT, Target(3, 7))
    lm.model.config.logit_scale = 2.0
    with pytest.raises(ModelError, match="add up to"):  # this Llama does not scale: the check notices
        attribute(lm, TEXT, Target(3, 7))
    monkeypatch.setattr("probe.logits.attribution.value", lambda logits, target: 2 * logits[:, 0, 7])
    np.testing.assert_allclose(attribute(lm, TEXT, Target(3, 7)).heads, 2 * plain.heads, rtol=1e-5)


def test_half_precision_adds_up_within_its_rounding():
    lm = random_lm()
    lm.model.bfloat16()
    found = attribute(lm, TEXT, Target(3, 7))
    assert abs(found.sum - found.total) < 0.1


@torch.no_grad()
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reward_model_is_attributed_like_any_other(name):
    rewards = random_reward_model(name)
    lm = reward_lm(rewards)
    *start, last = lm.tokenizer.encode(TEXT)
    found = attribute(lm, TEXT, target_of(lm, [*start, last]))
    assert abs(found.sum - float(rewards.score([start], [[last]]))) < 1e-4
    assert np.abs(found.heads).max() > 1e-3
    for ask in (lambda: promoted_tokens(lm, TEXT, 0, head=0), lambda: ov_tokens(lm, 0, 0, "oslo")):
        with pytest.raises(DataError, match="one number and no tokens"):
            ask()


def test_one_reading_answers_every_question():
    lm = random_lm("gpt2")
    read = read_parts(lm, TEXT, 3)
    for target in (Target(3, 7), difference(lm, 3)):
        np.testing.assert_allclose(attribute(lm, read, target).sources, attribute(lm, TEXT, target).sources)
    assert (
        promoted_tokens(lm, read, 1, head=0).ids.tolist()
        == promoted_tokens(lm, TEXT, 1, head=0, position=3).ids.tolist()
    )
    with pytest.raises(DataError, match="read after token 3"):
        attribute(lm, read, Target(4, 7))


def test_two_models_part_by_part():
    base, aligned = random_lm(), random_lm(seed=1)
    target = difference(base)
    found = attribute(base, TEXT, target), attribute(aligned, TEXT, target)
    table = difference_table(*found)
    assert table["change"].sum() == pytest.approx(found[1].total - found[0].total, abs=1e-3)
    row = table[(table.part == "head") & (table.layer == 1) & (table["head"] == 2)].iloc[0]
    assert row.change == pytest.approx(found[1].heads[1, 2] - found[0].heads[1, 2])
    with pytest.raises(DataError, match="one target"):
        difference_table(found[0], attribute(aligned, TEXT, difference(base, 2)))
    with pytest.raises(DataError, match="the same shape"):
        difference_table(found[0], attribute(random_lm(num_hidden_layers=3), TEXT, target))


def test_tables_are_tidy():
    lm = random_lm("gpt2")
    found = attribute(lm, TEXT, difference(lm, 3))
    table = found.table()
    assert list(table.columns) == ["part", "layer", "head", "value"]
    assert len(table) == 2 + 2 * (4 + 2) + 2
    assert table.loc[table.part == "positions", "value"].item() == found.positions != 0
    sources = found.source_table(1, 2)
    assert sources.token.tolist() == found.tokens[:4]
    assert sources.value.sum() == pytest.approx(found.heads[1, 2], abs=1e-5)
    neurons = found.neuron_table(0, 7)
    assert len(neurons) == 7
    assert neurons.value.abs().is_monotonic_decreasing
    assert neurons.value.iloc[0] == found.neurons[0, neurons.neuron.iloc[0]]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda lm: attribute(lm, TEXT, Target(40, 7)), "Position 40"),
        (lambda lm: attribute(lm, [], Target(0, 7)), "has no tokens"),
        (lambda lm: promoted_tokens(lm, TEXT, 9), "no block 9"),
        (lambda lm: promoted_tokens(lm, TEXT, 0, head=4), "no head 4"),
        (lambda lm: promoted_tokens(lm, TEXT, 0, neuron=480), "no neuron 480"),
        (lambda lm: promoted_tokens(lm, TEXT, 0, position=77), "Position 77"),
        (lambda lm: ov_tokens(lm, 0, -1, "oslo"), "no head -1"),
        (lambda lm: ov_tokens(lm, 0, 0, 5000), "token 5000"),
    ],
)
def test_what_is_not_there_is_one_sentence(ask, says):
    with pytest.raises(ProbeError, match=says):
        ask(random_lm())


@pytest.mark.parametrize("k", [0, -1])
def test_no_tokens_cannot_be_ranked(k: int):
    lm = random_lm()
    for ask in (
        lambda: promoted_tokens(lm, "mira lives in", 0, k=k),
        lambda: ov_tokens(lm, 0, 1, "mira", k=k),
        lambda: stages(lm, "mira lives in", 0, 1, k=k),
    ):
        with pytest.raises(ConfigError, match=f"{k} tokens were requested: give 1 or more"):
            ask()


@torch.no_grad()
@pytest.mark.parametrize("name", [*ADDING, "reward"])
def test_a_batch_is_split_like_single_texts(name):
    lm = reward_lm(random_reward_model("llama")) if name == "reward" else random_lm(name)
    texts = [lm.tokenizer.encode(text) for text in (TEXT, "tom works")]
    answers = torch.tensor([[0, -1], [0, -1]] if name == "reward" else [[7, 8], [9, -1]])
    last, rows = torch.tensor([len(ids) - 1 for ids in texts]), {}
    with lm.hooks(last_hooks(last_names(lm), (len(texts), max(map(len, texts))), last, rows)):
        rows["logits"] = lm.logits(texts)[torch.arange(len(texts)), last]
    found = attribute_last(lm, rows, answers)
    for at, (ids, (first, second)) in enumerate(zip(texts, answers.tolist(), strict=True)):
        own = attribute(lm, ids, Target(len(ids) - 1, first, None if second < 0 else second))
        np.testing.assert_allclose(found.parts[at, :, :-1], own.heads, atol=1e-4)
        np.testing.assert_allclose(found.parts[at, :, -1], own.mlps, atol=1e-4)
        assert float(found.value[at]) == pytest.approx(own.total, abs=1e-4)
        assert float(found.parts[at].sum() + found.rest[at]) == pytest.approx(own.total, abs=1e-4)


def test_a_model_without_heads_is_not_split():
    assert last_names(random_lm("mamba")) == []


def test_the_answer_in_words_is_the_target_of_its_tokens():
    lm = random_lm()
    target = target_of(lm, TEXT, "rome", "oslo")
    found = attribute_answer(lm, TEXT, answer="rome", against="oslo")
    assert found.total == pytest.approx(attribute(lm, TEXT, target).total)
    assert found.sum == pytest.approx(found.total, abs=1e-4)
    values = every_part(found)
    most = max(values, key=lambda name: values[name] * np.sign(found.total))
    assert f"largest direct effect comes from {most} (" in found.sentence()
    likeliest = attribute_answer(lm, TEXT)
    assert likeliest.target.answer == int(lm.logits(TEXT)[0, -1].argmax())


def test_two_models_say_what_moves_the_answer():
    parts = tuple(attribute_answer(random_lm(seed=seed), TEXT, answer="rome", against="oslo") for seed in (0, 1))
    found = Attributions(parts, (Look("a", "red"), Look("b", "blue")))
    assert (
        f"changes by {signed(parts[1].total - parts[0].total)} nats; the largest direct effect comes from "
        in found.sentence()
    )
    same = Attributions((parts[0], parts[0]), found.looks)
    assert "is equal in both models" in same.sentence()
    assert len(found.figures()["parts"].layout.annotations) == 3  # both models, and the change
    assert found.lists()["Parts"]["change"].abs().is_monotonic_decreasing


def test_two_models_are_asked_about_one_answer():
    """By themselves they would take the token that each finds likeliest."""
    lms, record = [random_lm(seed=seed) for seed in (0, 1)], find_analysis("attribute_answer")
    own = [attribute_answer(lm, TEXT) for lm in lms]
    assert own[0].target.answer != own[1].target.answer
    assert target_change(own) is None
    assert "changes by" not in Attributions(tuple(own), (Look("a", "red"), Look("b", "blue"))).sentence()
    values = record.settled({"prompt": TEXT}, *lms)
    both = [record.run(lm, **values) for lm in lms]
    assert {each.target.answer for each in both} == {own[1].target.answer}
    given = {"prompt": TEXT, "answer": "rome", "against": "oslo"}
    assert record.settled(given, *lms) == given
    assert "answer" not in record.settled({"prompt": TEXT}, lms[0])
