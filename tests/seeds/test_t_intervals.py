"""Intervals over trainings against scipy, and how often they hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats as reference

from probe.errors import DataError
from probe.seeds import mean_over_trainings, paired_by_seed, simulate
from probe.seeds.coverage import SEEDS, SOUND, caution, simulated
from probe.seeds.t_intervals import OverTrainings, by_unit, unpaired_by_seed
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
    assert [each.seeds for each in simulated()] == [*SEEDS] * 6
    assert {each.simulations for each in simulated()} == {2000}
    for each in simulated()[2::6]:
        assert simulate(each.effect, each.seeds, each.estimate) == each


def test_the_reader_is_told_where_coverage_is_off():
    odd = [each for each in simulated() if each.seeds == 5 and not SOUND[0] <= each.covered <= SOUND[1]]
    assert odd
    assert all(f"{100 * each.covered:.1f} %" in caution(5) for each in odd)
    assert all(each.effect == "skewed" for each in odd)
    assert caution(1) == ""
    assert caution(7) == caution(5)


def test_the_document_has_the_simulated_coverage():
    text = (ROOT / "docs" / "seeds.md").read_text()
    for first in simulated()[:: len(SEEDS)]:
        same = [each for each in simulated() if (each.estimate, each.effect) == (first.estimate, first.effect)]
        cells = " | ".join(f"{100 * each.covered:.1f} %" for each in same)
        assert f"| {first.estimate} | {first.effect} | {cells} |" in text
