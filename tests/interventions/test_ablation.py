"""Ablation and its nulls: against models whose weights were cut out, plain hooks of torch, and slow loops."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from probe.errors import ConfigError, DataError
from probe.interventions.controls import DIRECTIONS, NullEffects, edits, intervene, normalise, random_change
from probe.interventions.patching import Filling, ablate, means, sources
from probe.interventions.sites import KINDS, Edit, Site, activations, grid, hooks_of, sweep
from probe.logits.targets import Target, target_of, value
from probe.model.lm import LM
from probe.model.rewards import reward_lm
from tests.models import ARCHITECTURES, random_lm, random_reward_model

TEXT = "mira lives in oslo . where does mira lives ?"
REFERENCE = ["tom works at the dog .", "ana lives in rome", "the cat is in paris . is the dog ?"]
BLOCKS: dict[str, Callable[[Any], Any]] = {
    "llama": lambda model: model.model.layers,
    "qwen3": lambda model: model.model.layers,
    "gpt2": lambda model: model.transformer.h,
    "gpt_neox": lambda model: model.gpt_neox.layers,
}
OUTPUTS = {
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
}


def ids_of(lm: LM, text: str = TEXT) -> list[int]:
    return lm.tokenizer.encode(text)


def without(lm: LM, name: str, site: Site) -> LM:
    """A copy of the model whose weights cannot write what the site writes."""
    model = copy.deepcopy(lm.model)
    block = BLOCKS[name](model)[site.layer]
    attention, feed_forward = (block.get_submodule(path) for path in OUTPUTS[name])
    module = feed_forward if site.kind == "mlp" else attention
    width = lm.bridge.cfg.d_head
    with torch.no_grad():
        if site.kind == "head":
            part = slice(site.head * width, (site.head + 1) * width)
            if name == "gpt2":  # its layer is stored [in, out]
                module.weight[part] = 0
            else:
                module.weight[:, part] = 0
        else:
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
    return LM(model, lm.tokenizer)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["head", "mlp", "attn"])
def test_zero_ablation_is_the_model_with_the_weights_cut_out(name, kind):
    lm = random_lm(name)
    ids, target = ids_of(lm), target_of(lm, ids_of(lm), " oslo", " rome")
    sites = [Site(kind, layer, 2 if kind == "head" else None) for layer in (0, 1)]
    zero = sources(lm, ids, hooks_of(lm, [kind]), Filling("zero"))[0]
    found = sweep(lm, ids, [edits([site], zero) for site in sites], target)
    whole = float(value(lm.logits([ids]), target).detach())
    for at, site in enumerate(sites):
        expected = float(value(without(lm, name, site).logits([ids]), target).detach())
        assert abs(expected - whole) > 1e-3
        assert found.values[at].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_edit_of_the_residual_is_what_a_hook_of_torch_does(name):
    lm = random_lm(name)
    ids = ids_of(lm)
    target, vector = target_of(lm, ids, " oslo"), torch.randn(32, generator=torch.Generator().manual_seed(0))

    def put(module: Any, inputs: Any, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states[:, 3] = vector
        return output

    handle = BLOCKS[name](lm.model)[0].register_forward_hook(put)
    with torch.no_grad():
        expected = lm.logits([ids])[0, -1]
    handle.remove()
    found = sweep(lm, ids, [[Edit(Site("resid", 0, None, 3), vector)]], target, answers=[4, 9])
    assert found.values.item() == pytest.approx(expected[target.answer].item(), abs=1e-4)
    torch.testing.assert_close(found.logprobs[0], expected.log_softmax(-1)[[4, 9]], atol=1e-4, rtol=1e-4)
    assert abs(float(lm.logits([ids])[0, -1, target.answer].detach()) - found.values.item()) > 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", list(KINDS))
def test_many_sites_in_one_pass_are_each_alone(name, kind, monkeypatch):
    lm = random_lm(name)
    ids, other = ids_of(lm), ids_of(lm, "ana works in rome . where does ana works ?")
    target, source = target_of(lm, ids, position=8), activations(lm, other, hooks_of(lm, [kind]))
    rows = [edits([site], source) for row in grid(lm, kind, len(ids), 5) for site in row]
    both = sweep(lm, ids, rows, target)
    monkeypatch.setattr("probe.interventions.sites.TOKENS_PER_PASS", 1)
    alone = sweep(lm, ids, rows, target)
    assert both.values.std() > 1e-3
    torch.testing.assert_close(both.values, alone.values, atol=2e-5, rtol=1e-4)


def test_edits_of_one_row_act_together():
    lm = random_lm()
    ids = ids_of(lm)
    target, zero = target_of(lm, ids, " rome"), sources(lm, ids, hooks_of(lm, ["head"]), Filling("zero"))[0]
    every = [Site("head", 1, head) for head in range(4)]
    found = sweep(lm, ids, [edits(every, zero)], target).values.item()
    expected = value(without(lm, "llama", Site("attn", 1)).logits([ids]), target).detach()
    assert found == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_mean_is_that_of_the_reference_with_first_tokens_apart(name):
    lm = random_lm(name)
    names = ["blocks.1.attn.hook_z", "blocks.0.hook_mlp_out"]
    source = sources(lm, ids_of(lm), names, Filling("mean", REFERENCE))[0]
    for hook in names:
        states = [lm.run_with_cache(text, [hook])[1][hook][0] for text in REFERENCE]
        first = torch.stack([text[0] for text in states]).mean(0)
        rest = torch.cat([text[1:] for text in states]).mean(0)
        torch.testing.assert_close(source[hook][0], first, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(source[hook][4], rest, atol=1e-5, rtol=1e-4)
        assert source[hook].shape[0] == len(ids_of(lm))


def test_resampling_takes_one_text_a_draw_and_repeats_with_its_seed():
    lm = random_lm()
    ids, name = ids_of(lm), "blocks.0.hook_mlp_out"
    texts = [lm.run_with_cache(text, [name])[1][name][0] for text in REFERENCE]
    draws = sources(lm, ids, [name], Filling("resample", REFERENCE, draws=6, seed=3))
    again = sources(lm, ids, [name], Filling("resample", REFERENCE, draws=6, seed=3))
    seen = set()
    for draw, same in zip(draws, again, strict=True):
        torch.testing.assert_close(draw[name], same[name], atol=0, rtol=0)
        at = next(at for at, text in enumerate(texts) if torch.allclose(draw[name][1], text[1], atol=1e-6))
        seen.add(at)
        for t, state in enumerate(draw[name]):
            allowed = texts[at][t : t + 1] if t < len(texts[at]) else texts[at][1:]
            assert min((state - row).abs().max() for row in allowed) < 1e-5
    assert len(seen) > 1


def test_the_grid_of_an_ablation():
    lm = random_lm()
    ids = ids_of(lm)
    target = target_of(lm, ids, " oslo", " rome")
    found = ablate(lm, TEXT, target, "head", Filling("resample", REFERENCE, draws=3, seed=1), position=7)
    assert found.draws.shape == (2, 4, 3)
    assert found.value == pytest.approx(float(value(lm.logits([ids]), target).detach()), abs=1e-5)
    draws = sources(lm, ids, hooks_of(lm, ["head"]), Filling("resample", REFERENCE, draws=3, seed=1))
    hook = "blocks.1.attn.hook_z"
    expected = []
    for draw in draws:

        def put(z: torch.Tensor, hook: Any, draw: Any = draw) -> torch.Tensor:
            z = z.clone()
            z[0, 7, 2] = draw["blocks.1.attn.hook_z"][7, 2]
            return z

        with lm.hooks([(hook, put)]):
            expected.append(float(value(lm.logits([ids]), target).detach()))
    np.testing.assert_allclose(found.draws[1, 2], expected, atol=1e-4)
    assert found.effects[1, 2] == pytest.approx(np.mean(expected) - found.value, abs=1e-4)
    table = found.table()
    assert list(table.columns) == ["kind", "layer", "head", "value", "effect", "sd", "mode", "exact"]
    row = table[(table.layer == 1) & (table["head"] == 2)].iloc[0]
    assert row.effect == pytest.approx(found.effects[1, 2])
    by_token = ablate(lm, TEXT, target, "resid", Filling("zero")).table()
    assert set(by_token.layer) == {-1, 0, 1}
    assert by_token.token.iloc[1] == "mira"


@pytest.mark.parametrize("mode", ["zero", "resample"])
def test_the_estimate_is_the_gradient_times_the_change(mode):
    lm = random_lm()
    ids = ids_of(lm)
    target, hook = target_of(lm, ids, " oslo", " rome"), "blocks.0.attn.hook_z"
    found = ablate(lm, ids, target, "head", Filling(mode, REFERENCE, draws=3), exact=False)
    source = torch.stack([draw[hook] for draw in sources(lm, ids, [hook], Filling(mode, REFERENCE, draws=3))]).mean(0)
    own = activations(lm, ids, [hook])[hook]
    small = 1e-2 * (source - own)
    for head in (0, 3):
        site = Site("head", 0, head)
        ends = [[Edit(site, (own + sign * small)[site.index])] for sign in (1, -1)]
        values = sweep(lm, ids, ends, target).values
        assert found.effects[0, head] == pytest.approx(float(values[0] - values[1]) / 2e-2, abs=2e-3)
    assert not found.table()["exact"].any()


def test_both_nulls_are_the_interventions_that_they_claim():
    lm = random_lm()
    ids, other = ids_of(lm), ids_of(lm, "ana works in rome . where does ana works ?")
    target, source = target_of(lm, ids, " oslo"), activations(lm, other, hooks_of(lm, ["head"]))
    chosen = Site("head", 1, 2)
    found = intervene(lm, ids, [chosen], [source], target, answers=[5, 9], draws=20, seed=0)
    other_heads = [Site("head", layer, head) for layer in (0, 1) for head in range(4)]
    alone = sweep(lm, ids, [[], *(edits([site], source) for site in other_heads)], target, answers=[5, 9])
    effects = (alone.values[1:] - alone.values[0]).numpy()
    assert found.effect == pytest.approx(effects[6], abs=1e-5)
    np.testing.assert_allclose(found.after, alone.logprobs[7], atol=1e-5, rtol=1e-4)
    sites, directions = found.nulls
    assert (sites.name, directions.name) == ("other heads", DIRECTIONS)
    np.testing.assert_allclose(sites.effects, np.delete(effects, 6), atol=1e-5, rtol=1e-4)
    assert len(directions.effects) == 20
    assert directions.effects.std() > 1e-4
    again = intervene(lm, ids, [chosen], [source], target, draws=20, seed=0)
    np.testing.assert_array_equal(again.nulls[1].effects, directions.effects)
    table = found.table()
    assert len(table) == 2 + 7 + 20
    assert table["p(tom)"].iloc[1] == pytest.approx(float(alone.logprobs[7, 0].exp()), abs=1e-5)


def test_a_set_of_heads_is_compared_with_sets_of_as_many():
    lm = random_lm()
    ids = ids_of(lm)
    zero = sources(lm, ids, hooks_of(lm, ["head"]), Filling("zero"))
    chosen = [Site("head", 0, 1), Site("head", 1, 1)]
    found = intervene(lm, ids, chosen, zero, target_of(lm, ids), draws=5)
    assert len(found.nulls[0].effects) == 5
    assert all(where.count(" at every token") == 2 for where in found.nulls[0].sites)
    assert not any("L0H1" in where for where in found.nulls[0].sites)


def test_other_tokens_are_those_where_the_source_differs():
    lm = random_lm()
    ids, other = ids_of(lm), ids_of(lm, TEXT.replace("oslo", "rome"))
    source = activations(lm, other, hooks_of(lm, ["resid"]))
    found = intervene(lm, ids, [Site("resid", 0, None, 6)], [source], target_of(lm, ids), draws=30)
    assert [where.split("[")[1] for where in found.nulls[0].sites] == ["4]", "5]", "7]", "8]", "9]", "10]"]


def test_a_random_change_is_as_long_at_every_token():
    change = torch.randn(5, 3, 8)
    drawn = random_change(change, np.random.default_rng(0))
    torch.testing.assert_close(drawn.norm(dim=-1), change.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(drawn, change, dim=-1)
    assert cosine.abs().max() < 0.99
    assert torch.equal(random_change(torch.zeros(2, 8), np.random.default_rng(0)), torch.zeros(2, 8))


def test_figures_of_a_null():
    null = NullEffects("n", np.array([-1.0, 0.0, 1.0, 2.0]), np.zeros((4, 0)), [""] * 4)
    assert null.z(3.0) == pytest.approx((3.0 - 0.5) / np.std([-1, 0, 1, 2], ddof=1))
    assert null.share_below(-1.5) == 0.75
    assert null.p_value(-1.5) == pytest.approx(2 / 5)
    assert np.isnan(NullEffects("n", np.zeros(3), np.zeros((3, 0)), [""] * 3).z(1.0))
    np.testing.assert_allclose(normalise(np.array([1.0, 3.0]), corrupted=1.0, clean=3.0), [0, 1])
    assert np.isnan(normalise(1.0, 2.0, 2.0))


def test_a_reward_model_is_ablated_like_any_other():
    lm = reward_lm(random_reward_model())
    ids = ids_of(lm)
    found = ablate(lm, ids, target_of(lm, ids), "mlp", Filling("zero"))
    assert found.value == pytest.approx(lm.logits([ids])[0, -1, 0].item(), abs=1e-5)
    assert np.abs(found.effects).max() > 1e-3
    zero = sources(lm, ids, hooks_of(lm, ["mlp"]), Filling("zero"))
    outcome = intervene(lm, ids, [Site("mlp", 1)], zero, target_of(lm, ids), answers=[5])
    assert outcome.answers == []
    assert list(outcome.table().columns) == ["run", "sites", "target", "effect"]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm, ids, t: ablate(lm, ids, t, filling=Filling("none")), ConfigError, "'none' is unknown"),
        (lambda lm, ids, t: ablate(lm, ids, t, filling=Filling("mean")), DataError, "no reference text"),
        (lambda lm, ids, t: intervene(lm, ids, [], [{}], t), DataError, "at least one site"),
        (lambda lm, ids, t: sweep(lm, ids, [[Edit(Site("head", 5, 0), torch.zeros(8))]], t), ConfigError, "0 to 1"),
        (lambda lm, ids, t: sweep(lm, ids, [[Edit(Site("head", 0, 9), torch.zeros(8))]], t), ConfigError, "Head 9"),
        (lambda lm, ids, t: sweep(lm, ids, [[Edit(Site("mlp", 0, 1), torch.zeros(8))]], t), ConfigError, "only `head`"),
        (lambda lm, ids, t: sweep(lm, ids, [[Edit(Site("mlp", 0, None, 99), torch.zeros(8))]], t), DataError, "99"),
        (lambda lm, ids, t: sweep(lm, ids, [[Edit(Site("x", 0), torch.zeros(8))]], t), ConfigError, "kind 'x'"),
        (lambda lm, ids, t: sweep(lm, ids, [[]], Target(99, 4)), DataError, "at token 99"),
        (lambda lm, ids, t: ablate(lm, ids, t, "x", Filling("zero")), ConfigError, "kind 'x'"),
        (lambda lm, ids, t: ablate(lm, ids, t, "x", Filling("zero"), exact=False), ConfigError, "kind 'x'"),
        (lambda lm, ids, t: ablate(lm, ids, t, filling=Filling("zero"), position=99), DataError, "Token 99"),
        (
            lambda lm, ids, t: ablate(lm, ids, t, filling=Filling("zero"), position=-1, exact=False),
            DataError,
            "Token -1",
        ),
        (
            lambda lm, ids, t: ablate(lm, ids, t, filling=Filling("resample", reference=[ids], draws=0)),
            ConfigError,
            "draws is 0",
        ),
    ],
)
def test_mistakes_are_named(call, error, words):
    lm = random_lm()
    with pytest.raises(error, match=words):
        call(lm, ids_of(lm), Target(2, 4))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_means_that_were_made_before_serve_any_text(name: str):
    lm = random_lm(name)
    reference = ["mira lives in oslo .", "where does tom works ?"]
    names = hooks_of(lm, ["mlp"])
    made = means(lm, reference, names)
    for text in ("tom works at the dog", "is the cat in rome ?"):
        ids = lm.tokenizer.encode(text)
        (now,), (before,) = (sources(lm, ids, names, Filling("mean", given)) for given in (reference, made))
        for hook in names:
            torch.testing.assert_close(now[hook], before[hook], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="'resample' got mean activations: give reference texts"):
        sources(lm, ids, names, Filling("resample", made))
