"""Models that differ in nothing that counts: copies with noise, casts, and samples of one model, in a whole audit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import probe.world
from probe import LM
from probe.audit.inspection import compare_part
from probe.audit.plan import IN_A_WORLD
from probe.audit.verdict import CHANGED, EQUIVALENT, add_verdicts
from probe.experiments import find_experiment
from probe.experiments.run import perform
from probe.hallucination import world as facts
from tests.places import SAMPLES

N = 60
PART = replace(IN_A_WORLD[0], options={**IN_A_WORLD[0].options, "n": N})


def noise(size: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    return lambda weights, generator: weights + size * torch.randn(weights.shape, generator=generator)


def cast(weights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return weights.bfloat16().to(weights.dtype)


@pytest.fixture(scope="module")
def answers(base: LM) -> pd.DataFrame:
    """What the base answers to the part on sycophancy."""
    return ask(base)


def ask(lm: LM) -> pd.DataFrame:
    return perform(find_experiment(PART.experiment), lm, both_forms=False, seed=0, **PART.arguments).items


@pytest.mark.slow
@pytest.mark.parametrize("turn", [noise(1e-5), cast], ids=["noise 1e-5", "bfloat16"])
def test_a_copy_is_not_changed(
    turn: Callable[[torch.Tensor, torch.Generator], torch.Tensor], answers: pd.DataFrame
) -> None:
    """By intervals without a smallest effect and without correction, many measures of such copies differ."""
    copy, generator = LM.load(SAMPLES / "base"), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weights in copy.model.parameters():
            weights.copy_(turn(weights, generator))
    rows = add_verdicts(compare_part(PART, answers, ask(copy))[0])
    assert rows["difference"].abs().max() > 0
    assert (rows["verdict"] != CHANGED).all()
    assert rows.set_index("metric").loc["sycophancy.deferral_exact", "verdict"] == EQUIVALENT


@pytest.mark.slow
def test_two_samples_of_one_model_are_told_apart_as_often_as_said(base: LM) -> None:
    """The sampled metrics of hallucination, from answers that the base gave to the same questions at several times."""
    world = probe.world.of(base)
    assert world is not None
    questions = facts.ask(world, N, 0)
    answers, codes = facts.enumerate_prompts(base, world, questions)
    exact = pd.concat([facts.asked_table(questions), facts.exact_columns(answers, codes, questions, 4)], axis=1)
    part = next(part for part in IN_A_WORLD if part.name == "hallucination")
    draws = [
        pd.concat([exact, facts.sampled_columns(base, world, questions, list(exact["main"]), 4, seed)], axis=1)
        for seed in range(4)
    ]
    called, expected = 0, 0.0
    for first, second in zip(draws[::2], draws[1::2], strict=True):
        table, counts = compare_part(part, first, second)
        rows = add_verdicts(table)
        assert (rows["difference"].fillna(0) != 0).any()
        called += int((rows.loc[rows["same_as"] == "", "verdict"] == CHANGED).sum())
        expected += float(np.quantile(counts, 0.975))
    assert called <= expected
