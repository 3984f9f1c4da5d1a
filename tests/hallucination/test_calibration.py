"""Calibration errors against a slow count and against known probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from probe.errors import DataError
from probe.hallucination.confidence import calibration_error, chance_error, preference_calibration, reliability
from probe.stats import wilson

shares = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)


def slow_error(predicted: list[float], target: list[float], bins: int) -> float:
    """Bin by bin, from the definition."""
    total = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i, p in enumerate(predicted) if low <= p < high or (b == bins - 1 and p == 1)]
        if inside:
            gap = sum(predicted[i] for i in inside) / len(inside) - sum(target[i] for i in inside) / len(inside)
            total += len(inside) / len(predicted) * abs(gap)
    return total


@given(shares, st.sampled_from([4, 8, 16]))  # powers of two: their edges are exact
def test_error_against_the_definition(pairs: list[tuple[float, float]], bins: int) -> None:
    predicted, target = map(list, zip(*pairs, strict=True))
    found = calibration_error(predicted, target, bins, resamples=20)
    assert found.value == pytest.approx(slow_error(predicted, target, bins), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1
    rows = reliability(predicted, target, bins)
    assert rows["n"].sum() == len(pairs)
    assert (rows["n"] * (rows["predicted"] - rows["target"]).abs()).sum() / len(pairs) == pytest.approx(found.value)


def test_a_calibrated_and_a_boastful_judge() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 5_000)
    wins = rng.random(5_000) < 1 / (1 + np.exp(-margins))
    chosen = np.where(wins, margins, -margins)  # the margin of what was chosen
    calibrated, boastful = preference_calibration(chosen), preference_calibration(3 * chosen)
    assert calibrated.value < 0.02
    expected = np.abs(1 / (1 + np.exp(-3 * margins)) - 1 / (1 + np.exp(-margins))).mean()
    assert boastful.value == pytest.approx(expected, abs=0.02)
    assert expected > 0.1
    assert boastful.low < boastful.value < boastful.high < boastful.low + 0.04
    assert calibrated.low <= calibrated.value <= calibrated.high


def test_exact_probabilities_are_the_truth() -> None:
    margins = np.array([-2.0, 0.5, 1.0, 3.0])
    exact = 1 / (1 + np.exp(-margins))
    value, low, high = preference_calibration(margins, exact)
    assert (value, low) == pytest.approx((0, 0), abs=1e-12)
    assert high == pytest.approx(wilson(0, len(margins)).high)  # nothing varied, and there are finitely many pairs
    assert preference_calibration(margins, 1 - exact).value > 0.2


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30))
def test_both_orders_of_a_pair_count_alike(margins: list[float]) -> None:
    exact = [0.5 + 0.4 * math.tanh(m) for m in margins]
    one = preference_calibration(margins, exact, resamples=10)
    other = preference_calibration([-m for m in margins], [1 - q for q in exact], resamples=10)
    assert one.value == pytest.approx(other.value, abs=1e-9)


def test_ends_of_the_scale() -> None:
    assert preference_calibration([0.0] * 8).value == pytest.approx(0, abs=1e-12)  # p = 1/2 from both sides: no claim
    assert preference_calibration([50.0] * 8).value == pytest.approx(0, abs=1e-9)
    assert preference_calibration([-50.0] * 8).value == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("predicted", "target"), [([], []), ([0.5], [0.5, 1]), ([1.5], [1]), ([0.5], [float("nan")])])
def test_what_is_no_probability(predicted: list[float], target: list[float]) -> None:
    with pytest.raises(DataError, match="numbers between 0 and 1"):
        calibration_error(predicted, target)


@pytest.mark.parametrize(("n", "p"), [(1, 0.3), (7, 0.5), (40, 0.92)])
def test_the_error_of_a_calibrated_model_is_the_mean_deviation_of_a_share(n: int, p: float) -> None:
    """All in one bin: the mean absolute deviation of a binomial share, in closed form."""
    k = np.arange(n + 1)
    expected = float((np.abs(k / n - p) * binom.pmf(k, n, p)).sum())
    found = chance_error([p] * n, draws=20_000)
    assert found.value == pytest.approx(expected, rel=0.03)
    assert found.low <= found.value <= found.high


def test_a_calibrated_model_shows_what_is_expected_of_one() -> None:
    rng = np.random.default_rng(0)
    inside, above = [], []
    for seed in range(200):
        p = rng.beta(2, 1, 80)
        found = chance_error(p, draws=300, seed=seed)
        error = calibration_error(p, (rng.random(80) < p).astype(float), resamples=2).value
        inside.append(found.low <= error <= found.high)
        above.append(error - found.value)
    assert 0.9 < np.mean(inside) < 0.99
    assert abs(np.mean(above)) < 0.005  # without bias, while the error itself is far from 0
    assert chance_error(rng.beta(2, 1, 80)).value > 0.04
    assert chance_error(rng.beta(2, 1, 8000)).value < 0.015


def test_what_is_sure_cannot_err_by_chance() -> None:
    value, low, high = chance_error([0.0, 1.0, 1.0])
    assert value == 0
    assert np.isnan([low, high]).all()
    assert chance_error([0.2, 0.7], seed=3) == chance_error([0.2, 0.7], seed=3)
