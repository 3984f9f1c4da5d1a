"""P(IK): the fit against scipy, planted knowledge, none at all, leaks, and the world's exact truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import kstest

from probe import stats
from probe.errors import DataError, ModelError
from probe.hallucination import files as hallucination_text
from probe.hallucination import world as facts
from probe.hallucination.confidence import calibration_error
from probe.hallucination.files import p_ik
from probe.hallucination.knowing import brier, fit_heads, knowing_head, last_residuals, too_few
from probe.model.lm import LM
from probe.world import of
from tests.models import ARCHITECTURES, random_lm
from tests.places import SAMPLES

N, WIDTH = 200, 24


def made(signal: float, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Residuals [N 2 d] and chances; at layer 1 the first feature tells the logit of the chance, times `signal`."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 2, WIDTH)) * rng.uniform(0.5, 4, WIDTH) + rng.normal(size=WIDTH)
    standard = (x[:, 1, 0] - x[:, 1, 0].mean()) / x[:, 1, 0].std()
    right = rng.binomial(10, expit(signal * standard + 0.3 * rng.normal(size=N) - 0.4)) / 10
    return x, right, [f"q{i}" for i in range(N)]


@pytest.mark.parametrize(("n", "width", "rate"), [(60, 10, 0.5), (40, 90, 0.5), (80, 30, 0.06)])
def test_the_fit_is_the_minimum(n: int, width: int, rate: float) -> None:
    rng = np.random.default_rng(width)
    x, others = (rng.normal(size=(m, width)) * rng.uniform(0.1, 9, width) + 3 for m in (n, 7))
    x[:, 3] = others[:, 3] = 5.0  # says nothing, and is not divided by its spread of zero
    right = np.stack([rng.beta(1, (1 - rate) / rate, n), (rng.random(n) < rate + 0.1).astype(float)], axis=1)
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), np.inf)
    z, new = (x - x.mean(axis=0)) / spread, (others - x.mean(axis=0)) / spread
    found = fit_heads(x, right, others)
    for column in range(2):
        q = right[:, column]

        def loss(theta: np.ndarray, q: np.ndarray = q) -> float:
            said = z @ theta[:-1] + theta[-1]
            return float((np.logaddexp(0, said) - q * said).sum() + width / 8 * (theta[:-1] ** 2).sum())

        best = minimize(loss, np.zeros(width + 1), method="BFGS", options={"gtol": 1e-7}).x
        assert found[:, column] == pytest.approx(expit(new @ best[:-1] + best[-1]), abs=3e-5)


def test_planted_knowledge_is_found_where_it_is() -> None:
    x, right, prompts = made(signal=2.0, seed=0)
    found = knowing_head(x, right, prompts, shuffles=60)
    assert found.middle == 1
    assert found.auroc[1] > 0.85
    assert abs(found.auroc[0] - 0.5) < 0.12
    assert found.p_value(1) == pytest.approx(1 / 61)
    assert found.p_value(0) > 0.05
    table = found.table(resamples=100).set_index("layer")
    assert table.loc[1, "ci_low"] > table.loc[1, "null_high"] > 0.5 > table.loc[1, "null_low"]
    assert table.loc[1, "brier"] < table.loc[1, "brier_constant"] < table.loc[0, "brier"] + 0.01
    assert (table["n"] == N).all()
    drawn = np.random.default_rng(1).random((50, N)) < right  # answers, each right or wrong
    squares = ((found.scores[:, 1] - drawn) ** 2).mean(axis=0)
    assert brier(found.scores[:, 1], right).mean() == pytest.approx(squares.mean(), abs=0.01)
    assert calibration_error(found.scores[:, 1], right).value < 0.1
    assert found.scores[:, 1].mean() == pytest.approx(right.mean(), abs=0.02)


def test_what_is_told_without_a_mistake_is_not_certain() -> None:
    x, right, prompts = made(signal=2.0, seed=0)
    x[:, 1, 0] = 50 * (right >= 0.5)
    found = knowing_head(x, right, prompts, shuffles=5)
    assert found.auroc[1] == 1
    table = found.table(resamples=50).set_index("layer")
    fewer = min(found.labels.sum(), (~found.labels).sum())
    assert table.loc[1, "ci_low"] == pytest.approx(stats.wilson(fewer, fewer).low)


def test_questions_that_say_nothing_give_chance() -> None:
    p_values, values = [], []
    for seed in range(40):
        found = knowing_head(*made(signal=0.0, seed=seed), shuffles=39, seed=seed)
        p_values.append(found.p_value(1))
        values.append(found.auroc[1])
    assert abs(np.mean(values) - 0.5) < 0.03
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_a_question_that_is_asked_twice_is_in_one_fold() -> None:
    """A head that had read the question before would know it by heart."""
    rng = np.random.default_rng(0)
    x, right = rng.normal(size=(40, 1, 400)), rng.integers(0, 2, 40).astype(float)
    twice = np.concatenate([x, x]), np.concatenate([right, right])
    once = knowing_head(*twice, [f"q{i % 40}" for i in range(80)], shuffles=0)
    assert once.scores[:40] == pytest.approx(once.scores[40:])
    leaking = knowing_head(*twice, [f"q{i}" for i in range(80)], shuffles=0)
    assert leaking.auroc[0] > 0.95
    assert abs(once.auroc[0] - 0.5) < 0.35


def test_a_layer_at_which_all_questions_are_equal_says_nothing() -> None:
    x, right, prompts = made(signal=2.0, seed=1)
    x[:, 0] = 7.0
    found = knowing_head(x, right, prompts, shuffles=3)
    assert found.scores[:, 0] == pytest.approx(found.constant, abs=1e-5)
    assert brier(found.constant, right).mean() == pytest.approx(found.table(20)["brier_constant"][0])


def test_what_cannot_be_told() -> None:
    x, right, prompts = made(signal=1.0, seed=2)
    with pytest.raises(DataError, match=r"0 questions are known and 200 are not: a logistic head needs 5 of each"):
        knowing_head(x, np.zeros(N), prompts)
    with pytest.raises(DataError, match="not between 0 and 1"):
        knowing_head(x, right + 1, prompts)
    assert too_few([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "c"], 2).startswith("1 questions are known and 2 are not")
    assert not too_few([1.0, 1.0, 0.0, 0.0], ["a", "b", "c", "d"], 2)


def test_samples_teach_what_the_exact_truth_would() -> None:
    """In the world the chance of a right answer is a sum; heads that learn from ten samples say what it says."""
    lm = LM.load(SAMPLES / "base")
    world = of(lm)
    assert world
    asked = facts.ask(world, 60, 3)
    answers, codes = facts.enumerate_prompts(lm, world, asked)
    exact = facts.exact_columns(answers, codes, asked, 2)["p_truth"].to_numpy()
    prompts = [item.prompt for item in asked]
    # one text is one question: its truth is the same wherever it is asked
    by_prompt = dict(zip(prompts, exact, strict=True))
    sampled = {
        prompt: np.random.default_rng(i).binomial(10, chance) / 10
        for i, (prompt, chance) in enumerate(by_prompt.items())
    }
    x = last_residuals(lm, prompts)
    truth = knowing_head(x, [by_prompt[prompt] for prompt in prompts], prompts, shuffles=19)
    taught = knowing_head(x, [sampled[prompt] for prompt in prompts], prompts, shuffles=19)
    at = truth.middle
    assert min(truth.auroc[at], taught.auroc[at]) > 0.8
    assert truth.p_value(at) == taught.p_value(at) == 1 / 20
    assert np.corrcoef(truth.scores[:, at], taught.scores[:, at])[0, 1] > 0.95
    assert brier(taught.scores[:, at], exact).mean() < 0.8 * brier(taught.constant, exact).mean()
    assert taught.scores[:, at].mean() == pytest.approx(exact.mean(), abs=0.03)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_is_left_out_with_its_reason(name: str) -> None:
    lm = random_lm(name)
    words = ("three", "four", "five", "six", "seven", "mira", "helen", "anna", "cat", "lives", "where", "is")
    prompts = [f"one two {word}" for word in words]
    rng = np.random.default_rng(0)
    choice = pd.DataFrame(
        {"kind": "choice", "prompt": prompts, "p_right": np.r_[np.ones(6), np.zeros(6)][: len(prompts)]}
    )
    free = choice.assign(kind="free", p_right=0.1 * rng.random(len(prompts)))
    (with_head, without), layers, told = p_ik(lm, [choice, free], shuffles=9, seed=0)
    assert {"p_ik", "knows", "brier_p_ik", "brier_p_ik_constant"} <= set(with_head.columns)
    assert with_head["p_ik"].between(0, 1).all()
    assert list(without.columns) == list(free.columns)
    assert (
        told["p_ik_free"]
        == f"left out: 0 questions are known and {len(prompts)} are not: a logistic head needs 5 of each"
    )
    assert 0.1 <= told["p_ik_choice_p"] <= 1
    assert set(layers["kind"]) == {"choice"}
    assert len(layers) == len(lm.bridge.blocks) + 1


@pytest.mark.parametrize("error", [ModelError("no adapter"), DataError("no room")])
def test_what_cannot_be_read_costs_the_head_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(hallucination_text, "last_residuals", refused)
    table = pd.DataFrame({"kind": "choice", "prompt": [f"q{i}" for i in range(20)], "p_right": [0.1, 0.9] * 10})
    (found,), layers, told = p_ik(random_lm(), [table], shuffles=1, seed=0)
    assert found is table
    assert layers.empty
    assert told == {"p_ik_choice": f"left out: {error}"}
