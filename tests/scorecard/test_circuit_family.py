"""Circuits of the scorecard: effects, chances and gradients by brute force on a model of ten parts."""

from dataclasses import replace
from itertools import combinations, permutations
from math import comb

import numpy as np
import pytest
import torch

from probe.circuits.subsets import Subsets, mask_of
from probe.model.lm import LM
from probe.model.text import encode
from probe.scorecard import circuit_family
from probe.scorecard.circuit_family import CircuitQuestion, every_set, gradient_x_activation, ranked, subsets_of
from tests.models import random_lm

CLEAN, OTHER = "mira lives in oslo . where does mira", "mira lives in rome . where does mira"


@pytest.fixture(scope="module")
def question() -> tuple[Subsets, CircuitQuestion]:
    """A question about a random model, and its subsets."""
    lm = random_lm()
    ids, other = (encode(lm.tokenizer, each) for each in (CLEAN, OTHER))
    answers = (encode(lm.tokenizer, " oslo")[-1], encode(lm.tokenizer, " rome")[-1])
    subsets = subsets_of(lm, ids, other, answers)
    return subsets, CircuitQuestion(ids, other, answers, every_set(subsets))


def test_effects_are_shapley_values_where_small_sets_are_all_sets(
    question: tuple[Subsets, CircuitQuestion], monkeypatch: pytest.MonkeyPatch
):
    """Of ten parts, up to four others kept and up to four others ablated are all numbers of others, from 0 to 9."""
    subsets, asked = question
    count = len(subsets.parts)
    assert count == 10
    monkeypatch.setattr(circuit_family, "LARGEST", 5)
    effects = replace(asked, sets=every_set(subsets)).effects
    shares = subsets.shares(range(2**count))
    weights = [1 / (count * comb(count - 1, size)) for size in range(count)]
    expected = [
        sum(
            weights[mask.bit_count()] * (shares[mask | 1 << at] - shares[mask])
            for mask in range(2**count)
            if not mask >> at & 1
        )
        for at in range(count)
    ]
    np.testing.assert_allclose(effects, expected, atol=1e-6)
    assert float(effects.sum()) == pytest.approx(1, abs=1e-6)


def least_need(shares: dict[frozenset[int], float], whole: tuple[int, ...]) -> float:
    """The smallest, over parts, of the largest fall of the share when the part leaves what is left of the set."""
    needs = []
    for part in whole:
        others = [each for each in whole if each != part]
        kept = [frozenset(some) for size in range(len(others) + 1) for some in combinations(others, size)]
        needs.append(max(0.0, *(shares[some | {part}] - shares[some] for some in kept)))
    return min(needs)


@pytest.mark.parametrize("truth", ["faithfulness", "completeness", "minimality"])
def test_chance_is_the_mean_over_all_orders_and_the_best_sets_are_not_surpassed(
    question: tuple[Subsets, CircuitQuestion], truth: str
):
    subsets, asked = question
    every, found, best = subsets.every, [], np.zeros(circuit_family.LARGEST)
    count = len(subsets.parts)
    small = [each for size in range(circuit_family.LARGEST + 1) for each in combinations(range(count), size)]
    alone = dict(zip(map(frozenset, small), subsets.shares([mask_of(each) for each in small]).tolist(), strict=True))
    for first in permutations(range(len(subsets.parts)), circuit_family.LARGEST):
        numbers = np.zeros(len(subsets.parts))
        numbers[list(first)] = 3, 2, 1
        masks = ranked(numbers).masks
        assert masks == [mask_of(first[:size]) for size in range(1, circuit_family.LARGEST + 1)]
        kept = subsets.shares(masks) if truth == "faithfulness" else 1 - subsets.shares([every & ~at for at in masks])
        values = np.clip(1 - np.abs(1 - kept), 0, 1)
        if truth == "minimality":
            values = np.array([least_need(alone, first[:size]) for size in range(1, circuit_family.LARGEST + 1)])
        found.append((asked.sets[truth].score(masks), values.sum()))
        best = np.maximum(best, values)
    scores, sums = np.array(found).T
    np.testing.assert_allclose(scores, sums / best.sum())
    assert asked.sets[truth].expected() == pytest.approx(float(scores.mean()))
    assert scores.max() <= 1 + 1e-9
    assert np.ptp(scores) > 0.1


def test_gradients_are_those_of_the_plain_model(question: tuple[Subsets, CircuitQuestion]):
    subsets, asked = question
    lm: LM = subsets.lm
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.clone())
        return kept[-1]

    handles = []
    for block in lm.model.model.layers:
        handles += [block.self_attn.o_proj.register_forward_pre_hook(lambda module, given: (keep(given[0]),))]
        handles += [block.mlp.register_forward_hook(lambda module, given, output: keep(output))]
    try:
        last = lm.model(torch.tensor([asked.ids])).logits[0, -1]
        slopes = torch.autograd.grad(last[asked.answers[0]] - last[asked.answers[1]], kept)
    finally:
        for handle in handles:
            handle.remove()
    heads, expected = lm.model.config.num_attention_heads, list[float]()
    for at, (own, slope) in enumerate(zip(kept, slopes, strict=True)):
        product = (own * slope)[0].sum(0).detach()
        expected += product.reshape(1 if at % 2 else heads, -1).sum(-1).tolist()
    found = gradient_x_activation(lm, asked.ids, asked.other, asked.answers)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)
    assert np.ptp(found) > 1e-3
