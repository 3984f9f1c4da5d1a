"""RSFT: what is selected, the loss on it, the figures of a round, and whole runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probe import LM
from tests.trainers.quick import COMMON
from trainers import rsft
from trainers.config import RSFTConfig
from trainers.rsft import RSFT, SELECTIONS, SelectedGroup, best_of_n_metrics, sampled_kl
from trainers.sampling import Completion, CompletionGroup
from trainers.trainee import Trainee

NAN = math.nan
PROMPTS = [[2, 5, 7, 9], [2, 8], [2, 30, 31]]
COMPLETIONS = [[[11, 12, 3], [13, 14, 15, 16], [4, 3]], [[20, 3], [21, 22, 23, 24], [26, 3]], [[5, 3], [6, 3], [7, 3]]]


def groups(rewards: list[list[float]]) -> list[CompletionGroup]:
    return [
        CompletionGroup(
            "", prompt, {}, [Completion(ids, "", [], [], True, {}, r) for ids, r in zip(several, row, strict=True)], i
        )
        for i, (prompt, several, row) in enumerate(zip(PROMPTS, COMPLETIONS, rewards, strict=False))
    ]


def method(lm: LM, tmp_path: Path) -> RSFT:
    config = RSFTConfig(out=tmp_path / "none", base="unused", **COMMON | {"batch_size": 2, "minibatches": 1})
    return RSFT(config, Trainee(lm), None, None)  # type: ignore[arg-type]  # the loss needs no sampler


@pytest.mark.parametrize(
    ("name", "rewards", "kept"),
    [
        ("best", [0.0, 2.0, 1.0], [1]),
        ("best", [1.0, 2.0, 2.0], [1]),
        ("best", [NAN, -3.0, NAN], [1]),
        ("best", [NAN, NAN], []),
        ("threshold", [0.5, 0.6, 1.0, NAN], [1, 2]),
        ("threshold", [-1.0, NAN], []),
    ],
)
def test_selection(name: str, rewards: list[float], kept: list[int]) -> None:
    assert SELECTIONS[name](rewards, 0.5) == kept


def test_loss_is_that_of_the_selected_alone(model_dir: Path, tmp_path: Path) -> None:
    """Written out one token at a time; the count is the selected tokens, wherever they come from."""
    lm = LM.load(model_dir)
    kept = [[0, 1], [], [2]]
    examples = [SelectedGroup(group, places) for group, places in zip(groups([[0.0] * 3] * 3), kept, strict=True)]
    found = method(lm, tmp_path).loss(lm.model, examples, True)
    found.total.backward()
    gradients = [parameter.grad.clone() for parameter in lm.model.parameters()]
    lm.model.zero_grad()
    total, tokens = torch.zeros(()), 0
    for prompt, several, places in zip(PROMPTS, COMPLETIONS, kept, strict=True):
        for i in places:
            logprobs = lm.model(input_ids=torch.tensor([prompt + several[i]])).logits[0].log_softmax(-1)
            for t, token in enumerate(several[i]):
                total, tokens = total - logprobs[len(prompt) - 1 + t, token], tokens + 1
    total.backward()
    assert found.count == tokens == 9
    assert float(found.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for ours, parameter in zip(gradients, lm.model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)


def test_nothing_selected_gives_zero_with_a_gradient(model_dir: Path, tmp_path: Path) -> None:
    """So that processes that have something to learn do not wait for one that has not."""
    lm = LM.load(model_dir)
    found = method(lm, tmp_path).loss(lm.model, [SelectedGroup(group, []) for group in groups([[0.0] * 3])], True)
    found.total.backward()
    assert (float(found.total.detach()), found.count, found.tokens) == (0.0, 0, 0)
    assert all(p.grad is not None and not p.grad.any() for p in lm.model.parameters())


def test_best_of_n_by_enumeration() -> None:
    """Two values at rates 1/3, 2/3 and 0: the best of 3 is enumerated over all 27 draws of each."""
    found = best_of_n_metrics(groups([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), 3)
    expected = []
    for p in (1 / 3, 2 / 3, 0.0):
        draws = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
        q = sum(math.prod(p if x else 1 - p for x in draw) for draw in draws if max(draw))
        terms = [(q, p), (1 - q, 1 - p)]
        expected.append(sum(a * math.log(a / b) for a, b in terms if a > 0))
    assert found["best_of_n_kl"] == pytest.approx(np.mean(expected))
    assert found["best_of_n_kl_bound"] == pytest.approx(math.log(3) - 2 / 3)
    assert max(expected) < found["best_of_n_kl_bound"]
    for other in ([[0.0, 1.0, 0.5]], [[0.0, 1.0, NAN]], [[0.5, 0.5, 0.5]]):
        assert "best_of_n_kl" not in best_of_n_metrics(groups(other), 3)


def test_kl_of_what_was_sampled() -> None:
    completions = [
        Completion([5, 3], "", [-1.0, -2.0], [], True, {}, 0.0, [-1.5, -1.0]),
        Completion([5], "", [-0.5], [], True, {}, 0.0, [-0.5]),
    ]
    found = sampled_kl([CompletionGroup("", [2], {}, completions, 0)])
    assert found["kl"] == pytest.approx(((math.exp(-0.5) - 1 + 0.5) + (math.exp(1) - 1 - 1) + 0) / 3)
    assert sampled_kl(groups([[0.0] * 3])) == {}


@pytest.mark.parametrize(("select", "threshold"), [("best", 0.0), ("threshold", 0.6)])
def test_rounds_raise_the_reward(configs: Any, select: str, threshold: float) -> None:
    """Fifteen rounds towards even token ids."""
    made = {"steps": 15, "lr": 1e-2, "batch_size": 16, "group": 8, "rollouts_every": 5, "rollouts_kept": 2}
    run = rsft.train(configs("rsft")(select=select, threshold=threshold, **made))
    rows = run.metrics()
    assert rows["reward"].iloc[-1] > rows["reward"].iloc[0] + 0.2
    assert rows["kl"].iloc[0] == pytest.approx(0, abs=1e-6)
    assert rows["kl"].iloc[-1] > 0.01
    rollouts = run.rollouts()
    assert sorted(set(rollouts["step"])) == [1, 5, 10, 15]
    if select == "best":
        assert (rows["acceptance_rate"] == 1 / 8).all()
        assert rows["best_of_n_kl_bound"].iloc[0] == pytest.approx(math.log(8) - 7 / 8)
        for _, group in rollouts.groupby(["step", "group"]):
            assert group["selected"].sum() == 1
            assert group.loc[group["selected"], "reward"].iloc[0] == group["reward"].max()
    else:
        assert rows["acceptance_rate"].iloc[-1] > rows["acceptance_rate"].iloc[0]
        assert (rollouts["selected"] == (rollouts["reward"] > 0.6)).all()
