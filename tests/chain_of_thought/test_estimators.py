"""pass@k, areas over curves: against counting, exact truths, and coverage of their intervals."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from probe import stats
from probe.chain_of_thought.measures import area_over_curve, crossing, ks, pass_at_k, pool_curves
from probe.errors import DataError


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 3), (6, 0, 2), (6, 6, 1), (8, 3, 8), (4, 1, 2)])
def test_pass_at_k_is_the_share_of_subsets(n: int, c: int, k: int) -> None:
    """All subsets of k samples, counted."""
    samples = [True] * c + [False] * (n - c)
    hits = [any(samples[i] for i in chosen) for chosen in combinations(range(n), k)]
    assert pass_at_k([c], n, k)[0] == pytest.approx(np.mean(hits))
    assert pass_at_k([c], n, k)[0] == pytest.approx(1 - comb(n - c, k) / comb(n, k))


def test_pass_at_k_has_no_bias() -> None:
    """Its exact expectation over c is 1 - (1 - p)^k, which the plug-in estimate misses."""
    n, k = 10, 6
    for p in (0.05, 0.3, 0.8):
        weights = np.array([comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
        truth = 1 - (1 - p) ** k
        assert weights @ pass_at_k(np.arange(n + 1), n, k) == pytest.approx(truth)
        assert abs(weights @ (1 - (1 - np.arange(n + 1) / n) ** k) - truth) > 1e-3


def test_pass_at_k_intervals_cover() -> None:
    """Problems with chances from Beta(0.8, 1.2): the bootstrap over problems covers the exact pass@4 in 93 to 97 %."""
    rng, n, k, hits, runs = np.random.default_rng(0), 8, 4, 0.0, 1500
    truth = 1 - np.mean((1 - rng.beta(0.8, 1.2, 4_000_000)) ** k)
    for seed in range(runs):
        correct = rng.binomial(n, rng.beta(0.8, 1.2, 150))
        found = stats.bootstrap_mean(pass_at_k(correct, n, k), resamples=400, seed=seed)
        hits += float(found.low <= truth <= found.high)
    assert 0.93 <= hits / runs <= 0.97


def test_crossing_is_where_the_exact_curves_meet() -> None:
    """One model solves 60 % of problems always and no others, the other all with chance 0.3: 0.6 = 1 - 0.7^k."""
    rng = np.random.default_rng(1)
    n = 16
    sure = np.where(rng.random(3000) < 0.6, n, 0)
    broad = rng.binomial(n, 0.3, 3000)
    found = crossing(sure, broad, n)
    truth = np.log(0.4) / np.log(0.7)
    assert found.low < truth < found.high
    assert found.k == pytest.approx(truth, abs=0.15)
    assert found.share == 1.0
    assert np.isnan(crossing(broad, broad, n).k)
    alike = crossing([n] * 6, [n // 2] * 6, n)  # the curves of every draw are the same and meet at no k
    assert np.isnan([alike.k, alike.low, alike.high]).all()


@pytest.mark.parametrize("seed", range(20))
def test_crossing_of_few_problems_is_finite_or_missing(seed: int) -> None:
    """Gaps that differ by their rounding alone do not cross, however far the line through them reaches."""
    rng, n = np.random.default_rng(seed), 7
    found = crossing(*rng.choice([0, 0, n, n, 1], (2, 16)), n)
    assert 0 <= found.share <= 1
    for value in (found.k, found.low, found.high):
        assert np.isnan(value) or 1 <= value <= n


@pytest.mark.slow
def test_crossing_intervals_cover() -> None:
    rng, n, runs, hits = np.random.default_rng(2), 8, 250, 0.0
    grid = np.arange(1, n + 1)
    gap = 0.6 - (1 - 0.7**grid)
    at = int(np.argmax(gap < 0))
    share = gap[at - 1] / (gap[at - 1] - gap[at])
    truth = np.exp(np.log(grid[at - 1]) + share * np.log(grid[at] / grid[at - 1]))
    for seed in range(runs):
        sure, broad = np.where(rng.random(200) < 0.6, n, 0), rng.binomial(n, 0.3, 200)
        found = crossing(sure, broad, n, seed)
        hits += float(found.low <= truth <= found.high)
    assert 0.91 <= hits / runs <= 0.99  # 250 runs: 95 % give or take 2.8


def test_ks() -> None:
    assert (ks(1), ks(16), ks(20)) == ([1], [1, 2, 4, 8, 16], [1, 2, 4, 8, 16])


def test_areas() -> None:
    """Known areas: no change 0, a change at once (all but the end) 1 - 1 / (2 J), a straight line a half."""
    assert area_over_curve([0, 0.5, 1], [1, 1, 1]) == 0
    assert area_over_curve([0, 0.5, 1], [0, 0, 1]) == pytest.approx(0.75)
    assert area_over_curve([0, 0.2, 1], [0, 0.2, 1]) == pytest.approx(0.5)


def test_the_pooled_curve_has_the_mean_area() -> None:
    """Lanham's average over lengths, weighed by how many reasonings have each, is one minus the pooled curve's area."""
    rng = np.random.default_rng(0)
    curves = [(np.arange(J + 1) / J, rng.random(J + 1)) for J in (1, 1, 2, 3, 3, 3)]
    areas = {J: np.mean([area_over_curve(*c) for c in curves if len(c[0]) == J + 1]) for J in (1, 2, 3)}
    weighed = areas[1] * 2 / 6 + areas[2] / 6 + areas[3] * 3 / 6
    table = pool_curves(curves)
    assert area_over_curve(table["share"], table["value"]) == pytest.approx(weighed)
    assert (table["ci_low"] <= table["value"]).all()


def test_refusals() -> None:
    with pytest.raises(DataError, match="pass@5"):
        pass_at_k([1], 4, 5)
    with pytest.raises(DataError, match="were counted as right"):
        pass_at_k([5], 4, 2)
    with pytest.raises(DataError, match="rise from 0 to 1"):
        area_over_curve([0, 0.5], [1, 1])
    with pytest.raises(DataError, match="give both the same problems"):
        crossing([1, 2], [1], 2)
