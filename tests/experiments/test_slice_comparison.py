"""Slices compared with all other items: values, differences, and what the choice of a slice biases."""

import numpy as np
import pandas as pd
import pytest

from probe.errors import ConfigError
from probe.experiments.comparison import compare_results
from probe.experiments.definition import Experiment
from probe.experiments.metrics import Mean, Metric, Share, Statistic, unpaired_difference
from probe.experiments.registry import find_experiment
from probe.experiments.result import Result
from probe.experiments.slice_comparison import HEADS, TITLE, SliceComparison, compare_slices, slice_difference
from probe.experiments.slices import DIFFER, ONES, ZEROS, Slice
from tests.places import SAMPLES

SPREAD = Statistic("spread", lambda columns: float(columns["length"].std()), ("length",))
METRICS = (Share("hit"), Share("copied"), Mean("missed"), Mean("length"), SPREAD, Share("odd", where={"kind": "b"}))
N = 60


def experiment(*metrics: Metric) -> Experiment:
    """An experiment with these metrics."""
    return Experiment("made_up", "Made up", lambda: pd.DataFrame(), lambda: None, metrics or METRICS, origin="test")  # type: ignore[arg-type, return-value]


def result(people: int = 0) -> Result:
    """Sixty items of two models; every fifth prompt is about a fox, and every third answer is `fox`.

    Args:
        people: number of people that the items are about.
    """
    rng, parts = np.random.default_rng(0), []
    for model in ("y", "x"):
        at = np.arange(N)
        hit = rng.integers(0, 2, N)
        part = pd.DataFrame({"item": [f"i{i}" for i in at], "model": model, "kind": np.where(at % 2, "a", "b")})
        part["prompt"] = np.where(at % 5 == 0, "a fox", "a hen")
        part = part.assign(answer=np.where(at % 3 == 0, "fox", "owl"), hit=hit, copied=hit * 1.0, missed=1 - hit)
        part = part.assign(length=rng.normal(size=N), odd=rng.integers(0, 2, N))
        parts.append(part.assign(person=at % people) if people else part)
    models = [{"label": "y", "method": "dpo"}, {"label": "x", "method": "pretrain"}]
    return Result("made_up", pd.DataFrame(), pd.concat(parts, ignore_index=True), meta={"models": models, "seed": 3})


def row(found: SliceComparison, metric: str, model: str = "x", name: str = "a") -> pd.Series:
    """A row of the table."""
    rows = found.rows
    return rows[(rows["metric"] == metric) & (rows["model"] == model) & (rows["slice"] == name)].iloc[0]


def test_values_are_those_of_the_metrics_on_the_rows():
    given = result()
    found = compare_slices(experiment(), given, [Slice("a", ("a",)), Slice("fox", text="a fox")])
    assert found.remarks == ()
    assert list(found.rows["model"].unique()) == ["x", "y"]  # the baseline first
    own = given.items[given.items["model"] == "x"]
    for metric in METRICS[:5]:
        line = row(found, metric.name)
        for columns, rows in (("value ci_low ci_high", own[own["kind"] == "a"]), ("every every_low every_high", own)):
            np.testing.assert_array_equal(line[columns.split()].astype(float), metric.estimate(rows, 3))
        others = metric.estimate(own[own["kind"] == "b"], 3)
        np.testing.assert_array_equal(line[["others", "others_low", "others_high"]].astype(float), others)
        assert (line["n"], line["others_n"], line["every_n"]) == (30, 30, 60)
        assert line["difference"] == pytest.approx(line["value"] - line["others"])
        assert line["difference_low"] < line["difference"] < line["difference_high"]
    assert row(found, "hit", "y", "fox")["n"] == 12
    odd = found.rows[found.rows["metric"] == "odd"]
    assert set(odd["slice"]) == {"fox"}, "the metric counts no item of the other slice"


def test_a_slice_without_others_has_no_difference():
    line = row(compare_slices(experiment(), result(), [Slice("a", ("b",))]), "odd")
    assert line["others_n"] == 0
    assert line[["others", "difference", "difference_low"]].isna().all()


@pytest.mark.parametrize(
    ("each", "left_out"),
    [
        (Slice("s", show=ONES, metric="hit", model="x"), {"hit", "copied", "missed"}),
        (Slice("s", show=ZEROS, metric="copied"), {"hit", "copied", "missed"}),
        (Slice("s", show=DIFFER, metric="length"), {"length", "spread"}),
        (Slice("s", text="fox"), set()),  # some have it only in the answer
        (Slice("s", text="owl", kinds=("a",)), set()),
    ],
)
def test_a_slice_by_the_outcome_is_not_compared_on_it(each: Slice, left_out: set[str]):
    found = compare_slices(experiment(), result(), [each])
    assert {metric.name for metric in METRICS} - set(found.names) - {"odd"} == left_out
    (remark,) = found.remarks
    assert "is selected by the outcome" in remark
    assert ("Left out" in remark) is bool(left_out)
    assert all(name in remark for name in left_out)
    assert found.rows["difference_low"].isna().all()
    assert set(found.lists()[TITLE]["slice"]) == {"s*"}
    assert not any("Exploratory" in note for note in found.notes)


def test_a_verdict_leaves_out_what_equals_it():
    given = result()
    given.items["expected"] = np.where(given.items["hit"] == 1, given.items["answer"], "none")
    found = compare_slices(experiment(), given, [Slice("s", show="answered wrong", model="x")])
    assert set(found.names) == {"length", "spread", "odd"}


def test_what_does_not_apply_is_said_and_hides_nothing():
    slices = [Slice("a", ("a",)), Slice("z", show="answered wrong", model="z"), Slice("none", text="nowhere")]
    found = compare_slices(experiment(), result(), slices)
    assert set(found.rows["slice"]) == {"a"}
    assert [("`z`" in remark, "`none`" in remark) for remark in found.remarks] == [(True, False), (False, True)]
    alone = compare_slices(experiment(), result(), slices[1:])
    assert (alone.names, alone.figures(), len(alone.lists()[TITLE])) == ([], {}, 0)
    with pytest.raises(ConfigError, match="`a`"):
        compare_slices(experiment(), result(), [slices[0], slices[0]])


def test_the_figure_has_each_slice_its_others_and_all():
    found = compare_slices(experiment(), result(), [Slice("a", ("a",)), Slice("fox", text="a fox")])
    chart = found.figures("length")["slices"]
    ticks = ["\u201ca\u201d", "all but \u201ca\u201d", "\u201cfox\u201d", "all but \u201cfox\u201d", "all items"]
    assert list(chart.layout.yaxis.ticktext) == ticks
    assert [trace.name for trace in chart.data] == ["x", "y"]
    line = row(found, "length")
    assert list(chart.data[0].x)[:2] == [line["value"], line["others"]]
    assert chart.data[0].x[-1] == line["every"]
    with pytest.raises(ConfigError, match=r"`lenght`.*length"):
        found.figures("lenght")
    assert tuple(found.lists()[TITLE])[: len(HEADS)] == HEADS
    count = int(found.rows["difference_low"].notna().sum())
    assert f"Exploratory: {count} differences" in found.notes[-1]


@pytest.mark.parametrize("metric", METRICS[:5], ids=lambda metric: metric.name)
def test_differences_of_disjoint_units_are_those_of_independent_values(metric: Metric):
    items = result().items
    own = items[items["model"] == "x"].assign(person=np.arange(N) // 2)
    sides = own[own["person"] < 12], own[own["person"] >= 12]
    values = [metric.estimate(rows, 0) for rows in sides]
    assert slice_difference(metric, *sides, *values) == unpaired_difference(*values)


def test_units_on_both_sides_widen_the_interval_or_leave_none():
    items = result(people=20).items
    own = items[items["model"] == "x"]
    sides = own[own["kind"] == "a"], own[own["prompt"] == "a hen"]
    for metric in (METRICS[0], METRICS[3]):
        values = [metric.estimate(rows, 0) for rows in sides]
        found, independent = slice_difference(metric, *sides, *values), unpaired_difference(*values)
        assert found.value == pytest.approx(independent.value)
        assert found.low <= independent.low < independent.high <= found.high
    assert np.isnan(slice_difference(SPREAD, *sides, *[SPREAD.estimate(rows, 0) for rows in sides]).low)
    few = own.assign(person=np.arange(N) % 5)
    sides = few[few["kind"] == "a"], few[few["kind"] == "b"]
    metric = METRICS[3]
    assert np.isnan(slice_difference(metric, *sides, *[metric.estimate(rows, 0) for rows in sides]).low)


def test_opposed_answers_of_one_person_do_not_make_the_interval_too_narrow():
    """Each person gives one side what it takes from the other: independent values would be too certain."""
    rng, covered, naive, metric = np.random.default_rng(0), 0, 0, Mean("y")
    for _ in range(60):
        person = np.repeat(np.arange(24), 10)
        inside = np.tile([True] * 5 + [False] * 5, 24)
        lean = rng.normal(size=24)[person]
        rows = pd.DataFrame({"y": np.where(inside, lean, -lean) + 0.3 * rng.normal(size=240), "person": person})
        sides = rows[inside], rows[~inside]
        values = [metric.estimate(each, 0) for each in sides]
        found, independent = slice_difference(metric, *sides, *values), unpaired_difference(*values)
        covered += found.low <= 0 <= found.high
        naive += independent.low <= 0 <= independent.high
    assert covered >= 54
    assert naive < covered


@pytest.mark.parametrize("name", ["sycophancy", "in_context"])
def test_all_items_of_a_stored_result_give_its_summary(name: str):
    known = find_experiment(name)
    places = [next((SAMPLES / run / "results").glob(f"{name}-*")) for run in ("base", "dpo-agreeable")]
    both = compare_results(known, [Result.load(place) for place in places])
    found = compare_slices(known, both.result, [Slice("food", text="food"), Slice("y1", text="y1")])
    assert len(found.rows)
    for line in found.rows.to_dict("records"):
        summary = both.summaries[line["model"]].set_index("metric").loc[line["metric"]]
        assert line["every"] == pytest.approx(summary["value"], abs=1e-9)
        assert line["every_n"] == summary["n"] == line["n"] + line["others_n"]
