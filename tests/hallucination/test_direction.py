"""The known-against-unknown direction: planted signal, no signal, and residuals against those of transformers."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from probe import stats
from probe.errors import DataError
from probe.hallucination.knowing import known_direction, last_residuals, project
from tests.models import random_lm

PEOPLE, ASKED, WIDTH = 60, 6, 24


def made(signal: float, seed: int, layers: int = 2) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Residuals that know each person by a large vector of his own, and being known by `signal` along one axis."""
    rng = np.random.default_rng(seed)
    known = np.arange(PEOPLE) < PEOPLE // 2
    names = rng.normal(size=(PEOPLE, layers, WIDTH))
    names[known, :, 0] += signal
    people = np.repeat(np.arange(PEOPLE), ASKED)
    x = names[people] + 0.05 * rng.normal(size=(len(people), layers, WIDTH))
    return x, known[people], [f"p{each}" for each in people]


def test_a_planted_direction_is_found_in_people_that_it_was_not_fitted_on() -> None:
    x, known, people = made(signal=3.0, seed=0)
    found = known_direction(x, known, people, shuffles=60)
    assert found.auroc == pytest.approx(norm.cdf(3 / np.sqrt(2)), abs=0.05)  # of the best linear reader
    assert found.p_value() == pytest.approx(1 / 61)
    table = found.table(resamples=100)
    assert (table["ci_low"] < table["value"]).all()
    assert (table["null_low"] < 0.5).all()
    assert (table["null_high"] < table["ci_low"]).all()
    assert (table["n"] == PEOPLE).all()
    strangers = project(x, known, x[~known])
    assert strangers.mean() < 0 < project(x, known, x[known]).mean()


def test_what_is_told_without_a_mistake_is_not_certain() -> None:
    table = known_direction(*made(signal=50.0, seed=0), shuffles=5).table(resamples=50)
    assert (table["value"] == 1).all()
    assert table["ci_low"].to_numpy() == pytest.approx(stats.wilson(PEOPLE // 2, PEOPLE // 2).low)


def test_knowing_names_by_heart_is_not_knowing_who_is_known() -> None:
    """Each person's vector tells him from all others; folds of questions would use that."""
    p_values, values = [], []
    for seed in range(40):
        found = known_direction(*made(signal=0.0, seed=seed, layers=2), shuffles=39, seed=seed)
        p_values.append(found.p_value())
        values.append(found.auroc.mean())
    assert abs(np.mean(values) - 0.5) < 0.06
    assert kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15
    x, known, people = made(signal=0.0, seed=0)
    by_question = known_direction(x, known, [f"{p}-{i}" for i, p in enumerate(people)], shuffles=0)
    assert (by_question.auroc > 0.7).all()  # what the folds of people protect from


def test_a_layer_without_any_difference_gives_exactly_one_half() -> None:
    x, known, people = made(signal=3.0, seed=1)
    x[:, 0] = 7.0
    found = known_direction(x, known, people, shuffles=5)
    assert found.auroc[0] == 0.5
    assert found.auroc.argmax() == 1
    assert (found.null[:, 0] == 0.5).all()


def test_too_few_people_are_refused() -> None:
    x, known, people = made(signal=1.0, seed=0)
    with pytest.raises(DataError, match="folds is 100 and the smaller group has 30 people"):
        known_direction(x, known, people, folds=100)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_residuals_are_those_of_transformers(name: str) -> None:
    lm = random_lm(name)
    prompts = ["<user> where does mira live ? <bot>", "<user> where is the cat ? <bot>", "mira"]
    found = last_residuals(lm, prompts)
    for index, prompt in enumerate(prompts):
        ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            states = lm.model(ids, output_hidden_states=True).hidden_states
        expected = np.stack([state[0, -1].double().numpy() for state in states[:-1]])  # the last one is normed
        assert found.shape == (3, 3, 32)
        assert found[index, : len(expected)] == pytest.approx(expected, abs=1e-5)
