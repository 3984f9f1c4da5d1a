"""The family of steering: rates, costs and gradients against hooks on the plain model; people of the texts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import probe.world
from probe.errors import DataError
from probe.model.lm import LM
from probe.scorecard import steering_family as family
from probe.scorecard.steering_family import Added, Shift, Steering, Texts, grade, steering_of
from probe.ticks import ignore
from probe.world.language import subject_of


@pytest.fixture(scope="module")
def problem(base: LM) -> Iterator[Steering]:
    """Few questions, and a short search."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "STEPS", 3)
        yield steering_of(base, "agreement", 40, 0, ignore)


@contextmanager
def added_to_plain(base: LM, added: Added) -> Iterator[None]:
    """Add the vector to the output of a block of the plain model."""

    def add(module: Any, given: Any, output: Any) -> Any:
        return (output[0] + added.vector, *output[1:]) if isinstance(output, tuple) else output + added.vector

    handle = base.model.model.layers[added.block].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def plain_logprobs(base: LM, ids: list[int]) -> torch.Tensor:
    return base.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def plain_rate(base: LM, texts: Texts, added: Added) -> float:
    """The mean probability of the answers, token by token."""
    found = []
    with added_to_plain(base, added):
        for ids, start in zip(texts.ids, texts.starts, strict=True):
            rows = plain_logprobs(base, ids)
            found.append(np.exp(sum(float(rows[at - 1, ids[at]]) for at in range(start, len(ids)))))
    return float(np.mean(found))


@pytest.mark.parametrize("block", [0, 2])
def test_rates_and_costs_are_those_of_a_hook_on_the_plain_model(base: LM, problem: Steering, block: int):
    vector = torch.from_numpy(np.random.default_rng(block).normal(size=128)).float()
    added = family.scaled(base, problem.neutral, Added(block, vector))
    assert torch.nn.functional.cosine_similarity(added.vector, vector, dim=0) == pytest.approx(1, abs=1e-5)
    assert family.rate_of(base, problem.held, added) == pytest.approx(plain_rate(base, problem.held, added), rel=1e-3)
    before = [plain_logprobs(base, ids) for ids in problem.neutral.ids]
    with added_to_plain(base, added):
        after = [plain_logprobs(base, ids) for ids in problem.neutral.ids]
    tokens = [
        torch.nn.functional.kl_div(new, old, log_target=True, reduction="none").sum(-1)
        for old, new in zip(before, after, strict=True)
    ]
    assert float(torch.cat(tokens).mean()) == pytest.approx(family.COST, rel=0.05)


def test_the_gradient_is_that_of_finite_differences(base: LM, problem: Steering):
    texts = Texts(problem.training.ids[:3], problem.training.starts[:3])
    slope = family.slope_of(base, texts, 1).vector
    unit, step = slope / slope.norm(), 0.05

    def mean_logprob(size: float) -> float:
        with added_to_plain(base, Added(1, size * unit)):
            rows = [plain_logprobs(base, ids) for ids in texts.ids]
        sums = [
            sum(float(row[at - 1, ids[at]]) for at in range(start, len(ids)))
            for row, ids, start in zip(rows, texts.ids, texts.starts, strict=True)
        ]
        return float(np.mean(sums))

    numeric = (mean_logprob(step) - mean_logprob(-step)) / (2 * step)
    assert float(slope.norm()) == pytest.approx(numeric, rel=0.02)


@pytest.mark.parametrize(("task", "verdict"), [("agreement", "deferred"), ("abstention", "abstain")])
def test_answers_show_the_behaviour_and_people_are_held_out(
    base: LM, monkeypatch: pytest.MonkeyPatch, task: str, verdict: str
):
    monkeypatch.setattr(family, "best_of", lambda *_: (Added(0, torch.zeros(128)), 1.0))
    monkeypatch.setattr(family, "PAIRS", 1)
    problem, world = steering_of(base, task, 40, 0, ignore), probe.world.of(base)
    assert world is not None
    texts = [
        [base.tokenizer.decode(part) for part in (ids[1:start], ids[start:])]
        for ids, start in zip(problem.held.ids, problem.held.starts, strict=True)
    ]
    assert {world.verify(prompt, answer).kind for prompt, answer in texts} == {verdict}
    assert {world.verify(each.prompt, each.shows).kind for each in problem.pairs} == {verdict}
    assert verdict not in {world.verify(each.prompt, each.lacks).kind for each in problem.pairs}
    inside, outside = {each.unit for each in problem.pairs}, {subject_of(prompt) for prompt, _ in texts}
    assert inside
    assert outside
    assert not inside & outside


def test_a_share_lies_between_random_directions_and_the_best(problem: Steering):
    floor = float(problem.random.mean())
    assert grade(problem, "agreement", Shift(floor, {})).score == pytest.approx(0)
    half = Shift((floor + problem.ceiling) / 2, {})
    assert grade(problem, "agreement", half).score == pytest.approx(0.5)
    assert grade(problem, "agreement", Shift(problem.ceiling + 1, {})).score == 1
    assert problem.ceiling > max(0.0, problem.random.max())


def test_a_direction_of_length_0_is_one_sentence(problem: Steering):
    with pytest.raises(DataError, match="a direction of length 0 after block 0"):
        family.ask(problem, lambda lm, block, pairs, shows, lacks: np.zeros(128))
