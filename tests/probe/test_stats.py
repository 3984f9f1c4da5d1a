"""The intervals against scipy and against simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from probe.errors import DataError
from probe.stats import (
    LEAST,
    NOT_NEGATIVE,
    SHARE,
    bootstrap_mean,
    bootstrap_means,
    paired_difference,
    paired_proportions,
    unit_share,
    wilson,
)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 10), (33, 100), (1, 400), (399, 400)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson_is_scipys(k: int, n: int, level: float):
    low, high = reference.binomtest(k, n).proportion_ci(level, method="wilson")
    assert wilson(k, n, level) == pytest.approx((k / n, low, high), abs=1e-12)


def test_wilson_without_trials_knows_nothing():
    value, low, high = wilson(0, 0)
    assert math.isnan(value)
    assert (low, high) == (0, 1)


@pytest.mark.parametrize(("k", "n", "level"), [(-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0), (1, 3, 95)])
def test_wilson_refuses_nonsense(k: int, n: int, level: float):
    with pytest.raises(DataError):
        wilson(k, n, level)


@pytest.mark.parametrize("share", [0.03, 0.3, 0.5])
def test_wilson_covers(share: float):
    counts = np.random.default_rng(0).binomial(100, share, 2000)
    inside = [low <= share <= high for _, low, high in (wilson(int(k), 100) for k in counts)]
    assert 0.92 < np.mean(inside) < 0.98


def studentised(values: np.ndarray, units: np.ndarray, seed: int, resamples: int) -> tuple[float, float]:
    """The studentised bootstrap, resample by resample and unit by unit."""
    members = [values[units == name] for name in dict.fromkeys(units)]
    n, mean = len(members), values.mean()

    def error(groups: list[np.ndarray], centre: float) -> float:
        gaps = [(group - centre).sum() for group in groups]
        return math.sqrt(n / (n - 1) * sum(gap**2 for gap in gaps)) / sum(map(len, groups))

    rng, ratios = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = [members[i] for i in rng.integers(0, n, n)]
        centre = np.concatenate(drawn).mean()
        ratios.append((centre - mean) / error(drawn, centre))
    t, own = reference.t.ppf(0.975, n - 1), error(members, mean)
    low, high = np.quantile(ratios, 0.025, method="lower"), np.quantile(ratios, 0.975, method="higher")
    return mean - max(high, t) * own, mean - min(low, -t) * own


@pytest.mark.parametrize("size", [1, 3])
def test_the_bootstrap_is_studentised(size: int):
    rng = np.random.default_rng(1)
    values, units = rng.exponential(size=40 * size), np.repeat(np.arange(40), size)
    kept = np.arange(len(values)) % 7 > 0  # units of unequal sizes
    values, units = values[kept], units[kept]
    mine = bootstrap_mean(values, resamples=999, seed=2, units=units)
    assert mine.value == pytest.approx(values.mean())
    assert (mine.low, mine.high) == pytest.approx(studentised(values, units, 2, 999))


def test_skewed_values_get_the_longer_arm():
    values = np.random.default_rng(0).lognormal(size=20)
    value, low, high = bootstrap_mean(values)
    half = reference.t.ppf(0.975, 19) * reference.sem(values)
    assert high - value > 1.15 * half
    assert value - low == pytest.approx(half)  # the shorter one is Student's


def test_few_unbounded_values_get_no_interval():
    values = np.random.default_rng(0).normal(size=LEAST)
    assert math.isfinite(bootstrap_mean(values).low)
    assert math.isnan(bootstrap_mean(values[1:]).low)
    assert math.isnan(bootstrap_mean([1.0] * 50 + [2.0, 3.0]).low)  # two that differ tell nothing of the others
    assert math.isfinite(bootstrap_mean(values[1:], bounds=(-9.0, 9.0)).low)


def test_a_rare_event_is_no_certainty():
    """One in 40: the percentiles end at 0 and 0.075, and no share below 0.0006 or above 0.13 can be excluded."""
    value, low, high = bootstrap_mean([0.0] * 39 + [1.0], bounds=SHARE)
    assert (value, low) == (0.025, 0)
    assert high > wilson(1, 40).high - 0.02


def test_a_share_of_units_is_worth_as_many_items_as_it_varies():
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(100), 4)
    alike, apart = np.repeat(rng.random(100) < 0.4, 4), rng.random(400) < 0.4
    copies, free = unit_share(alike, units), unit_share(apart, units)
    assert copies[1:] == pytest.approx(wilson(int(alike.sum()) // 4, 100)[1:], abs=0.006)
    assert free.high - free.low == pytest.approx(wilson(160, 400).high - wilson(160, 400).low, rel=0.2)
    assert unit_share(apart, np.arange(400)) == wilson(int(apart.sum()), 400)
    nobody = unit_share(np.zeros(400), units)
    assert (nobody.low, nobody.high) == pytest.approx((0, wilson(0, 100).high), abs=0.003)


def test_bootstrap_covers():
    rng = np.random.default_rng(0)
    inside = []
    for seed in range(300):
        _, low, high = bootstrap_mean(rng.normal(2.0, 3.0, 50), resamples=500, seed=seed)
        inside.append(low <= 2.0 <= high)
    assert 0.90 < np.mean(inside) < 0.98


def test_bootstrap_seed_and_chunks(monkeypatch: pytest.MonkeyPatch):
    values = np.random.default_rng(0).normal(size=101)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    found = []
    for chunk in (4_000_000, 100_000, 1000, 1):  # odd numbers of draws too: the stream goes on where it stopped
        monkeypatch.setattr("probe.stats._CHUNK", chunk)
        found.append(bootstrap_mean(values, resamples=999))
    assert np.allclose(found, found[:1] * 4, rtol=1e-12)


@pytest.mark.parametrize(("values", "mean"), [([], math.nan), ([2.5], 2.5)])
def test_bootstrap_of_too_little_has_no_interval(values: list[float], mean: float):
    assert bootstrap_mean(values) == pytest.approx((mean, math.nan, math.nan), nan_ok=True)


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf, 1.0], [[1.0, 2.0]]])
def test_bootstrap_refuses_what_is_not_finite_or_flat(values: list):
    with pytest.raises(DataError, match="finite"):
        bootstrap_mean(values)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(0)
    easy = rng.normal(size=200)
    a, b = easy + 0.1 + rng.normal(scale=0.05, size=200), easy
    paired = paired_difference(a, b)
    assert paired.value == pytest.approx((a - b).mean())
    assert 0 < paired.low < 0.1 < paired.high
    unpaired = np.hypot(*(np.diff(bootstrap_mean(x)[1:]) for x in (a, b)))
    assert paired.high - paired.low < unpaired / 5


def test_pairs_must_match():
    with pytest.raises(DataError, match="the same items"):
        paired_difference([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="zeros and ones"):
        paired_proportions([0, 2], [0, 1])


def test_paired_proportions_as_published():
    """An example of Newcombe 1998: 36 and 12 and 2 and 0 of 50 pairs, method 10."""
    both, only_a, only_b, neither = 36, 12, 2, 0
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    assert paired_proportions(a, b) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)


def test_paired_proportions_keep_their_width():
    value, low, high = paired_proportions([0] * 400, [0] * 400)
    assert value == 0
    assert -0.02 < low < 0 < high < 0.02
    assert paired_proportions([True, False], [True, False]).value == 0


def test_paired_proportions_cover():
    rng = np.random.default_rng(0)
    cells = np.array([0.4, 0.25, 0.1, 0.25])
    inside = []
    for _ in range(1000):
        draw = rng.choice(4, 60, p=cells)
        _, low, high = paired_proportions(draw <= 1, (draw == 0) | (draw == 2))
        inside.append(low <= 0.15 <= high)
    assert 0.92 < np.mean(inside) < 0.985


def test_swapping_the_models_mirrors_the_interval():
    a, b = [1, 1, 1, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0, 0]
    value, low, high = paired_proportions(a, b)
    assert paired_proportions(b, a) == pytest.approx((-value, -high, -low))


def test_the_mean_of_distances_has_no_negative_end() -> None:
    """A bound on one side cuts the ends and says nothing of what was not seen."""
    values = np.random.default_rng(0).lognormal(0, 2, size=(40, 12))
    plain, cut = bootstrap_means(list(values)), bootstrap_means(list(values), bounds=[NOT_NEGATIVE] * 40)
    assert any(each.low < 0 for each in plain)
    assert [each.low for each in cut] == [max(each.low, 0.0) for each in plain]
    assert [(each.value, each.high) for each in cut] == [(each.value, each.high) for each in plain]
