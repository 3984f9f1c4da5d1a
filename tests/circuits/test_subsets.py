"""Subsets of parts: ablations by plain hooks on the transformers model, searches and tests by brute force."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch

from probe.analyses.catalogue import find_analysis
from probe.circuits.answer_circuit import circuit, parse_parts, sizes
from probe.circuits.part_scores import START, integrated, part_scores, slopes_between
from probe.circuits.subsets import Subsets, check, exhaustive, greedy, mask_of, members
from probe.errors import ConfigError, DataError
from probe.interventions.patching import attribute, gradients, pair_of, patch
from probe.interventions.sites import hooks_of, observe
from probe.logits.attribution import attribute as direct_effects
from probe.logits.targets import target_of
from tests.models import random_lm

CLEAN, OTHER = "mira lives in oslo . where does mira", "mira lives in rome . where does mira"


def subsets_of(lm, clean=CLEAN, other=OTHER):
    pair = pair_of(lm, clean, other)
    target = target_of(lm, pair.clean, "oslo", "rome")
    _, source = observe(lm, pair.corrupted, [*hooks_of(lm, ["head", "mlp"]), START])
    return Subsets(lm, pair.clean, source, target)


@pytest.fixture(scope="module")
def subsets():
    return subsets_of(random_lm())


def all_of(parts):
    return chain.from_iterable(combinations(parts, size) for size in range(len(parts) + 1))


def test_ablations_are_those_of_plain_hooks_on_the_transformers_model(subsets):
    lm, model = subsets.lm, subsets.lm.model
    width, heads = model.config.hidden_size // model.config.num_attention_heads, model.config.num_attention_heads
    ids = pair_of(lm, CLEAN, OTHER)
    kept = {}

    def keep(name):
        return lambda module, given, output=None: kept.__setitem__(
            name, (given[0] if output is None else output).clone()
        )

    handles = []
    for at, block in enumerate(model.model.layers):
        handles += [block.self_attn.o_proj.register_forward_pre_hook(keep(("z", at)))]
        handles += [block.mlp.register_forward_hook(keep(("mlp", at)))]
    with torch.no_grad():
        model(torch.tensor([ids.corrupted]))
    for handle in handles:
        handle.remove()

    def plain(mask):
        handles, own = [], [subsets.parts[at] for at in members(mask)]
        for at, block in enumerate(model.model.layers):

            def swap_heads(module, given, at=at):
                z = given[0].clone()
                for head in range(heads):
                    if not any(site.kind == "head" and (site.layer, site.head) == (at, head) for site in own):
                        z[..., head * width : (head + 1) * width] = kept["z", at][
                            ..., head * width : (head + 1) * width
                        ]
                return (z,)

            def swap_mlp(module, given, output, at=at):
                return output if any(site.kind == "mlp" and site.layer == at for site in own) else kept["mlp", at]

            handles.append(block.self_attn.o_proj.register_forward_pre_hook(swap_heads))
            handles.append(block.mlp.register_forward_hook(swap_mlp))
        try:
            with torch.no_grad():
                row = model(torch.tensor([ids.clean])).logits[0, subsets.target.position]
        finally:
            for handle in handles:
                handle.remove()
        return float(row[subsets.target.answer] - row[subsets.target.against])

    masks = [0, subsets.every, 1, 0b100100, *np.random.default_rng(0).integers(0, subsets.every, 12).tolist()]
    np.testing.assert_allclose(subsets.values(masks), [plain(mask) for mask in masks], atol=1e-4, rtol=1e-4)
    assert len({round(value, 3) for value in subsets.values(masks)}) > 6


def test_exhaustive_search_is_brute_force(subsets):
    count = len(subsets.parts)
    whole, none = (float(each) for each in subsets.values([subsets.every, 0]))
    for size in (1, 2, 3):
        shares = {
            mask_of(chosen): (float(subsets.values([mask_of(chosen)])[0]) - none) / (whole - none)
            for chosen in combinations(range(count), size)
        }
        best = exhaustive(subsets, size)
        assert best.mask == min(shares, key=lambda mask: abs(1 - shares[mask]))
        np.testing.assert_allclose(best.every, sorted(shares.values()))


def test_greedy_search_adds_the_best_part_each_time(subsets):
    order = greedy(subsets)
    assert sorted(order) == list(range(len(subsets.parts)))
    assert order[0] == members(exhaustive(subsets, 1).mask)[0]
    for size in range(1, len(order)):
        share = abs(1 - subsets.shares([mask_of(order[: size + 1])])[0])
        others = [at for at in range(len(order)) if at not in order[:size]]
        assert share == min(abs(1 - subsets.shares([mask_of([*order[:size], at])])[0]) for at in others)


def test_completeness_and_minimality_follow_their_definitions(subsets):
    own = [0, 2, 5]
    found, every = check(subsets, mask_of(own)), set(range(len(subsets.parts)))
    whole, none = (float(each) for each in subsets.values([subsets.every, 0]))

    def m(parts):
        return float(subsets.values([mask_of(parts)])[0])

    scale = abs(whole - none)
    incomplete = max(abs(m(set(own) - set(taken)) - m(every - set(taken))) for taken in all_of(own)) / scale
    needed = {
        part: max(abs(m(set(own) - {*taken, part}) - m(set(own) - set(taken))) for taken in all_of(set(own) - {part}))
        for part in own
    }
    assert found.faithfulness == pytest.approx((m(own) - none) / (whole - none))
    assert found.incompleteness == pytest.approx(incomplete)
    assert found.minimality == pytest.approx(min(needed.values()) / scale)
    assert (found.subsets, found.sampled) == (8, False)


def test_all_parts_are_faithful_and_complete(subsets):
    found = check(subsets, subsets.every, most=16)
    assert (found.faithfulness, found.incompleteness, found.sampled) == (1, 0, True)
    assert check(subsets, 0).faithfulness == 0
    assert np.isnan(check(subsets, 0).minimality)


def test_scores_are_those_of_the_existing_functions(subsets):
    lm, pair = subsets.lm, pair_of(subsets.lm, CLEAN, OTHER)
    scores = part_scores(subsets, {START: subsets.source[START]})
    heads = [at for at, site in enumerate(subsets.parts) if site.kind == "head"]
    exact = patch(lm, pair, subsets.target, "head", "noise").effects
    np.testing.assert_allclose(scores["removed"][heads], -exact.ravel(), atol=1e-4, rtol=1e-4)
    guess = attribute(lm, pair, subsets.target, ["head"], "noise")["head"].effects
    np.testing.assert_allclose(scores["attribution"][heads], -guess.ravel(), atol=1e-4, rtol=1e-4)
    direct = direct_effects(lm, subsets.ids, subsets.target).heads
    np.testing.assert_allclose(scores["direct"][heads], direct.ravel(), atol=1e-5, rtol=1e-4)


def test_gradients_are_taken_between_the_two_texts(subsets):
    """At the ends of the path they are those of the two texts themselves."""
    lm, pair, names = subsets.lm, pair_of(subsets.lm, CLEAN, OTHER), hooks_of(subsets.lm, ["head", "mlp"])
    for share, ids in ((0.0, pair.corrupted), (1.0, pair.clean)):
        _, _, expected = gradients(lm, ids, names, subsets.target)
        found = slopes_between(lm, pair.clean, subsets.source[START], subsets.target, names, share)
        for name in names:
            torch.testing.assert_close(found[name].float(), expected[name], atol=1e-5, rtol=1e-4)
    one = integrated(lm, subsets.ids, subsets.source, subsets.target, subsets.parts, steps=1)
    assert np.abs(one - integrated(lm, subsets.ids, subsets.source, subsets.target, subsets.parts)).max() > 1e-3


@pytest.mark.parametrize("source", ["other prompt", "mean"])
def test_the_smallest_faithful_circuit_is_found(source):
    lm = random_lm()
    found = circuit(
        lm, CLEAN, source=source, corrupted=OTHER, answer="oslo", against="rome", reference="tom works in paris ."
    )
    shares = found.curves[found.curves["method"] == "exhaustive"].set_index("size")["faithfulness"]
    faithful = shares[(1 - shares).abs() <= 0.1]
    assert abs(1 - found.tested.faithfulness) <= 0.1
    assert faithful.empty or len(found.chosen) == faithful.index[0]
    ends = found.curves.groupby("method")["faithfulness"].agg(["first", "last"]).drop(index="exhaustive")
    np.testing.assert_allclose(ends["first"], 0, atol=1e-5)
    np.testing.assert_allclose(ends["last"], 1, atol=1e-5)
    assert "parts (" in found.sentence()
    assert list(found.figures()) == ["sizes", "parts"]
    assert bool(found.other) == (source == "other prompt")


def test_a_named_circuit_is_tested():
    lm = random_lm()
    found = circuit(lm, CLEAN, parts="L0H1, l1 mlp", corrupted=OTHER, answer="oslo", against="rome")
    assert found.chosen == ["L0H1", "L1 MLP"]
    assert found.method == "named"
    assert "(L0H1, L1 MLP; named)" in found.sentence()
    with pytest.raises(ConfigError, match="`L7H1` was named; expected names from L0H0 to L1 MLP"):
        parse_parts(lm, "L7H1")


def test_a_prompt_that_changes_nothing_has_no_circuit():
    with pytest.raises(DataError, match="no circuit to find"):
        circuit(zeroed(), CLEAN, corrupted=OTHER, answer="oslo", against="rome")


def zeroed():
    """Return a model whose heads and MLPs write nothing."""
    lm = random_lm()
    with torch.no_grad():
        for block in lm.model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return lm


def test_sizes_grow_for_large_models():
    assert sizes(20) == list(range(21))
    assert sizes(300)[:6] == [0, 1, 2, 3, 4, 5]
    assert sizes(300)[-1] == 300
    assert len(sizes(300)) < 25


def test_two_models_are_asked_about_the_answers_of_one():
    """And these are the answers that the same analysis of one model takes."""
    lms, asked = (random_lm(), random_lm()), {"prompt": CLEAN, "corrupted": OTHER}
    record = find_analysis("circuit")
    settled = record.settled(asked, *lms)
    alone = record.run(lms[-1], **asked)
    both = record.run(lms[-1], **settled)
    assert (alone.words, alone.mask, alone.full) == (both.words, both.mask, both.full)
