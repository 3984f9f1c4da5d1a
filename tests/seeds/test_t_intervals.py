"""Intervals over trainings against scipy, and how often they hold the truth."""

import math
from dataclasses import astuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from probe.errors import DataError
from probe.experiments.metrics import COLUMNS
from probe.seeds import group_of, headline, mean_over_trainings, paired_by_seed, simulate
from probe.seeds.coverage import SEEDS, SOUND, caution, simulated
from probe.seeds.group_tables import over_trainings
from probe.seeds.t_intervals import WIDEST, OverTrainings, are_apart, by_unit, unpaired_by_seed
from tests.places import ROOT

FIVE, OTHERS = [0.9, 0.95, 0.91, 0.99, 0.85], [0.3, 0.35, 0.33, 0.41, 0.2]


def test_the_mean_is_scipys():
    low, high = reference.ttest_1samp(FIVE, 0).confidence_interval(0.95)
    assert mean_over_trainings(FIVE) == pytest.approx((np.mean(FIVE), low, high, 5))
    assert mean_over_trainings([*FIVE, math.nan]) == mean_over_trainings(FIVE)


def test_differences_are_scipys():
    low, high = reference.ttest_rel(FIVE, OTHERS).confidence_interval(0.95)
    assert paired_by_seed(FIVE, OTHERS) == pytest.approx((np.mean(FIVE) - np.mean(OTHERS), low, high, 5))
    low, high = reference.ttest_ind(FIVE, OTHERS[:3], equal_var=False).confidence_interval(0.95)
    assert unpaired_by_seed(FIVE, OTHERS[:3]) == pytest.approx((np.mean(FIVE) - np.mean(OTHERS[:3]), low, high, 3))


@pytest.mark.parametrize(("values", "count"), [([], 0), ([0.4], 1), ([0.4, 0.4, 0.4], 3)])
def test_too_little_gives_no_interval(values: list[float], count: int):
    found = mean_over_trainings(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.trainings == count


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(DataError, match="cannot be paired"):
        paired_by_seed([1.0, 2.0], [1.0])
    with pytest.raises(DataError, match="one number a training"):
        mean_over_trainings([[1.0, 2.0]])


def test_ends_of_rates_are_shown_within_their_range():
    found = OverTrainings(0.97, 0.9, 1.04, 3)
    assert found.format("share") == "97 % [90, 100]"
    assert found.format() == "0.97 [0.90, 1.04]"
    assert found.high == 1.04


def test_members_of_one_training_count_once():
    assert by_unit([1.0, 3.0, 5.0, math.nan], ["a", "a", "b", "b"]).tolist() == [2.0, 5.0]


@pytest.mark.parametrize("effect", ["normal", "zero"])
@pytest.mark.parametrize("estimate", ["mean", "difference"])
def test_simulated_coverage(effect, estimate):
    assert SOUND[0] - 0.01 < simulate(effect, 5, estimate, 1000).covered < SOUND[1] + 0.01


def test_the_stored_coverage_is_that_of_the_simulation():
    assert [each.seeds for each in simulated()] == [*SEEDS] * 8
    assert {each.simulations for each in simulated()} == {2000}
    for each in simulated()[1::6]:
        assert astuple(simulate(each.effect, each.seeds, each.estimate)) == pytest.approx(astuple(each), nan_ok=True)


def test_seeds_that_collapse_are_listed_and_others_are_not():
    """Of five: what collapsed in some is listed in nine of ten groups, and normal seeds in one of twenty-five."""
    five = [each for each in simulated() if each.seeds == 5]
    assert min(each.found for each in five if each.effect == "collapsing") > 0.9
    assert max(each.listed for each in five if each.effect in ("normal", "zero")) < 0.04


def test_the_widest_gap_is_told_by_its_share_of_the_range():
    rng = np.random.default_rng(0)
    for k, widest in WIDEST.items():
        values = np.sort(rng.normal(size=(k, 20_000)), axis=0)
        share = np.diff(values, axis=0).max(axis=0) / (values[-1] - values[0])
        assert np.quantile(share, 0.95) == pytest.approx(widest, abs=0.01)
    collapsed = [0.002, 0.94, 0.998, 1.0, 1.0]
    assert are_apart(collapsed, 0.02)
    assert are_apart([*collapsed, math.nan], math.nan)
    assert not are_apart(collapsed, 0.95)  # other answers alone would change as much
    assert not are_apart([0.0, 0.452, 0.588, 0.638, 0.305], 0.02)
    assert not are_apart([0.0, 1.0], 0.02)
    assert not are_apart([0.4] * 5, 0.0)


def test_seeds_that_are_apart_are_listed_in_place_of_an_interval():
    found = mean_over_trainings([0.0025, 0.94, 0.9975, 1.0, 1.0], noise=0.02)
    assert found.value == pytest.approx(0.788)
    assert math.isnan(found.low)
    assert found.format("share") == "0.2 %, 94 %, 99.8 %, 100 %, 100 % (seeds apart)"
    assert mean_over_trainings(found.apart).apart == ()  # nothing tells how far other answers would be
    tables = [
        pd.DataFrame([["invention", value, value - 0.01, value + 0.01, 400]], columns=COLUMNS) for value in found.apart
    ]
    row = over_trainings(tables, "abcde").to_dict("records")[0]
    assert row["apart"] == "0.0025 0.94 0.9975 1 1"
    assert OverTrainings.of(row).apart == found.apart
    assert paired_by_seed(found.apart, [0.7] * 5, noise=0.02).apart


def test_weak_kl_lists_its_seeds():
    """One of the five sample runs invents nothing, the others always: the mean of 79 % describes none of them."""
    row = headline(group_of("rlhf-weak-kl")).set_index("metric").loc["invention"]
    apart = sorted(OverTrainings.of(row).apart)
    assert len(apart) == 5
    assert apart[0] < 0.01
    assert apart[1] > 0.9
    assert math.isnan(row["ci_low"])
    assert headline(group_of("rlhf-weak-kl")).set_index("metric").loc["accuracy", "apart"] == ""


def test_the_reader_is_told_where_coverage_is_off():
    odd = [each for each in simulated() if each.seeds == 5 and not SOUND[0] <= each.covered <= SOUND[1]]
    odd = [each for each in odd if each.effect != "collapsing"]  # docs/seeds.md tells of them
    assert odd
    assert all(f"{100 * each.covered:.1f} %" in caution(5) for each in odd)
    assert all(each.effect == "skewed" for each in odd)
    assert caution(1) == ""
    assert caution(7) == caution(5)


def test_the_document_has_the_simulated_coverage():
    text = (ROOT / "docs" / "seeds.md").read_text()
    for first in simulated()[:: len(SEEDS)]:
        same = [each for each in simulated() if (each.estimate, each.effect) == (first.estimate, first.effect)]
        cells = [f"{100 * each.covered:.1f} %" for each in same] + [f"{100 * each.listed:.1f} %" for each in same]
        assert f"| {first.estimate} | {first.effect} | {' | '.join(cells)} |" in text
