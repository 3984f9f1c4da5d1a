"""Items that are all alike: no metric of any experiment is certain because of them."""

import math

import numpy as np
import pandas as pd
import pytest

from probe import stats
from probe.chain_of_thought import experiment as chain_of_thought
from probe.continual import experiment as continual
from probe.experiments import registry
from probe.experiments.metrics import Mean, Metric, Share, Statistic, summarise
from probe.hallucination.experiment import METRICS as HALLUCINATION
from probe.hallucination.experiment import CalibrationError, ChanceError, PlainError
from probe.in_context import experiment as in_context
from probe.retrieval.experiment import METRICS as RETRIEVAL
from probe.sycophancy.experiment import METRICS as SYCOPHANCY

BUILT_IN: dict[str, tuple[Metric, ...]] = {
    "chain_of_thought": chain_of_thought.METRICS,
    "continual": continual.METRICS,
    "hallucination": HALLUCINATION,
    "in_context": in_context.METRICS,
    "retrieval": RETRIEVAL,
    "sycophancy": SYCOPHANCY,
}
ALL = [(name, metric) for name, metrics in BUILT_IN.items() for metric in metrics]


def alike(metric: Metric, value: float, n: int = 40) -> pd.DataFrame:
    """Items that a metric counts, each with the same value in every column that it reads; two of each unit."""
    columns: dict[str, object] = dict.fromkeys(metric.columns, value) | dict(metric.where)
    columns |= {
        "item": [f"i{i}" for i in range(n)],
        metric.unit: [f"i{i // (1 + (metric.unit != 'item'))}" for i in range(n)],
    }
    return pd.DataFrame(columns, index=range(n))


def test_every_experiment_is_tried():
    assert set(BUILT_IN) == set(registry.BUILT_IN)


@pytest.mark.parametrize(("name", "metric"), ALL, ids=lambda each: getattr(each, "name", each))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_no_interval_is_without_width(name: str, metric: Metric, value: float):
    items = alike(metric, min(value, (getattr(metric, "bounds", None) or stats.SHARE)[1]))
    found = [metric.estimate(metric.select(items), 0), metric.difference(metric.select(items), metric.select(items), 0)]
    for each in found:
        assert each.low != each.high
        if each.value == each.value and not unbounded(metric):
            assert each.low <= each.value <= each.high
            least, most = getattr(metric, "bounds", None) or stats.SHARE
            assert 0.02 < each.high - each.low < 0.35 * (most - least)


def unbounded(metric: Metric) -> bool:
    """Whether a metric has no interval then; what a calibrated model shows is exact where its confidences are."""
    return isinstance(metric, ChanceError | PlainError) or (
        getattr(metric, "bounds", stats.SHARE) is None and not isinstance(metric, Share | CalibrationError)
    )


def test_only_what_has_no_bounds_goes_without():
    """Nats, turns, flips, layers and ratios of nats; every share and probability says between what it lies."""
    free = {metric.name for _, metric in ALL if unbounded(metric)}
    words = (
        "kl",
        "entropy",
        "olsson",
        "ablation",
        "persuasion",
        "logprob",
        "excess_deference",
        "effect",
        "_bias",
        "turn",
    )
    words += ("agreement", "mention", "authority", "flip", "beyond_random", "head_share", "heads_share", "ece")
    words += ("acceptance", "side_taking")
    assert {name for name in free if not any(word in name for word in words)} == set()


def test_an_auroc_without_a_mistake_rests_on_the_rarer_kind():
    metric = next(metric for metric in HALLUCINATION if metric.name == "auroc")
    items = pd.DataFrame({"item": range(100), "confidence": [0.9] * 6 + [0.1] * 94, "right": [1.0] * 6 + [0.0] * 94})
    value, low, high = metric.estimate(items, 0)
    assert (value, high) == (1, 1)
    assert low == pytest.approx(stats.wilson(6, 6).low)


@pytest.mark.parametrize(("value", "n"), [(0.0, 5), (1.0, 40), (1.0, 400)])
def test_at_the_bounds_it_is_wilsons(value: float, n: int):
    found = stats.bootstrap_mean([value] * n, bounds=stats.SHARE)
    assert found == pytest.approx(stats.wilson(int(value) * n, n))
    assert stats.bootstrap_mean([value - 1] * n, bounds=(-1.0, 0.0)) == pytest.approx([end - 1 for end in found])


def test_of_differences_it_is_newcombes():
    found = stats.paired_difference([1.0] * 30, [1.0] * 30, bounds=stats.SHARE)
    assert found == pytest.approx(stats.paired_proportions([1] * 30, [1] * 30), abs=1e-9)


def test_without_bounds_nothing_is_known():
    value, low, high = stats.bootstrap_mean([0.3] * 50)
    assert value == pytest.approx(0.3)
    assert math.isnan(low)
    assert math.isnan(high)
    row = summarise([Mean("kl")], pd.DataFrame({"item": range(9), "kl": 0.3})).iloc[0]
    assert (row["value"], row["n"]) == (pytest.approx(0.3), 9)
    assert math.isnan(row["ci_low"])


def test_units_count_and_not_their_rows():
    units = pd.Series(np.repeat(np.arange(8), 5))
    assert stats.bootstrap_mean(np.ones(40), bounds=stats.SHARE, units=units) == pytest.approx(stats.wilson(8, 8))


def test_a_constant_statistic_keeps_within_its_bounds():
    metric = Statistic("largest", lambda columns: float(columns["x"].max()), ("x",), bounds=(0.0, 2.0))
    value, low, high = metric.estimate(pd.DataFrame({"item": range(20), "x": 1.0}), 0)
    assert value == 1
    assert 0.8 < low < 1 < high < 1.2


@pytest.mark.parametrize(("odd", "chance"), [(1.0, 0.005), (0.0, 0.02), (1.0, 0.05)])
def test_the_mean_of_what_seldom_varies_is_covered(odd: float, chance: float):
    """Items are 0.5 but for a few: the bootstrap alone is certain of 0.5 wherever it has seen none of these."""
    rng, truth = np.random.default_rng(0), 0.5 + chance * (odd - 0.5)
    inside = {"bootstrap": 0, "ours": 0}
    for seed in range(400):
        values = np.where(rng.random(60) < chance, odd, 0.5)
        low, high = stats.bootstrap_mean(values, resamples=300, seed=seed, bounds=stats.SHARE)[1:]
        inside["ours"] += low <= truth <= high
        inside["bootstrap"] += low <= truth <= high and np.ptp(values) > 0
    assert inside["ours"] > inside["bootstrap"] + 15
    assert inside["ours"] >= 0.9 * 400
