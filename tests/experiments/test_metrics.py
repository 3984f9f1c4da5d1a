"""Metrics of items: values and intervals against slow references, and coverage over simulated data."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from probe import stats
from probe import stats as module
from probe.errors import ConfigError, DataError
from probe.experiments.metrics import COMPARED, Given, Mean, Share, Statistic, differences, pair_items, summarise


def items(**columns: object) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table if "item" in table else table.assign(item=[f"q-{i}" for i in range(len(table))])


@pytest.fixture
def answers() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = items(right=rng.random(60) < 0.7, score=rng.normal(size=60), prompt=rng.integers(0, 15, 60))
    return table.assign(kind=["fact" if i % 3 else "sum" for i in range(60)])


def test_a_share_is_wilsons(answers: pd.DataFrame):
    row = Share("right").row(answers)
    test = scipy.stats.binomtest(int(answers.right.sum()), 60)
    low, high = test.proportion_ci(method="wilson")
    assert (row["metric"], row["n"], row["value"]) == ("right", 60, answers.right.mean())
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high))


def test_whole_units_are_drawn(answers: pd.DataFrame):
    row = Mean("score", unit="prompt").row(answers, seed=3)
    assert tuple(row.values())[1:4] == stats.bootstrap_mean(answers.score, seed=3, units=answers.prompt)
    assert tuple(Mean("score").row(answers).values())[1:4] == stats.bootstrap_mean(answers.score)
    wide = answers.loc[np.repeat(np.arange(60), 8)].reset_index(drop=True)
    apart, together = (
        Mean("score", unit=unit).row(wide.assign(item=range(480), asked=wide.item)) for unit in ("item", "asked")
    )
    assert together["value"] == apart["value"]
    width = (together["ci_high"] - together["ci_low"]) / (apart["ci_high"] - apart["ci_low"])
    assert width == pytest.approx(np.sqrt(8), rel=0.1)  # eight copies of a row are not eight rows


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, "prompt"),
        ({"row": "row"}, "prompt"),
        ({"person": "person", "row": "row"}, "person"),
        ({"person": "person", "unit": "unit"}, "unit"),
    ],
)
def test_the_unit_is_the_first_column_that_names_it(answers: pd.DataFrame, columns: dict, expected: str):
    names = {name: [f"{name}-{i // 6}" for i in range(60)] for name in columns}
    items = answers.assign(**names)
    found = Mean("score", unit="prompt").estimate(items, 0)
    assert found == stats.bootstrap_mean(answers.score, units=items[expected])
    share = Share("right", unit="prompt").estimate(items, 0)
    assert share == stats.unit_share(answers.right, items[expected])
    spread = Statistic("spread", lambda c: float(np.ptp(c["score"])), ("score",), unit="prompt")
    by_name = Statistic("spread", lambda c: float(np.ptp(c["score"])), ("score",), unit=expected)
    assert spread.estimate(items, 0) == by_name.estimate(items[["item", "score", expected]], 0)


def test_rows_without_a_person_are_units_of_their_own(answers: pd.DataFrame):
    half = answers.assign(person=[f"p{i // 5}" if i < 30 else None for i in range(60)])
    own = [f"p{i // 5}" if i < 30 else f"i{i}" for i in range(60)]
    assert Mean("score").estimate(half, 0) == stats.bootstrap_mean(answers.score, units=own)
    assert Mean("score").estimate(answers.assign(person=None), 0) == stats.bootstrap_mean(answers.score)


def test_a_statistic_is_a_function_of_columns(answers: pd.DataFrame):
    def slope(columns):  # type: ignore[no-untyped-def]
        return float(np.cov(columns["score"], columns["right"].astype(float))[0, 1])

    metric = Statistic("slope", slope, ("score", "right"))
    row = metric.row(answers, seed=1)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(module.RESAMPLES):
        chosen = answers.iloc[rng.integers(0, 60, 60)]
        drawn.append(np.cov(chosen.score, chosen.right.astype(float))[0, 1])
    assert row["value"] == pytest.approx(np.cov(answers.score, answers.right.astype(float))[0, 1])
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))


def test_a_statistic_that_has_no_value_in_some_draws(answers: pd.DataFrame):
    rare = answers.assign(right=[True] + [False] * 59)
    ratio = Statistic("ratio", lambda c: float(c["right"].mean() or np.nan), ("right",))
    row = ratio.row(rare)
    assert 0 < row["ci_low"] <= row["ci_high"] < 0.2
    nothing = Statistic("never", lambda c: float("nan"), ("right",)).row(rare)
    assert np.isnan([nothing["value"], nothing["ci_low"], nothing["ci_high"]]).all()


def test_rows_without_a_value_and_of_other_kinds_do_not_count(answers: pd.DataFrame):
    holes = answers.assign(score=answers.score.where(answers.index % 2 == 0))
    row = Mean("facts", "score", where={"kind": "fact"}).row(holes)
    chosen = holes[(holes.kind == "fact") & holes.score.notna()]
    assert (row["n"], row["value"]) == (len(chosen), pytest.approx(chosen.score.mean()))


@pytest.mark.parametrize("kind", ["boolean", "object"])
def test_booleans_with_missing_values_are_a_share(kind: str):
    row = Share("right").row(items(right=pd.array([True, None, False, True], dtype=kind)))
    assert (row["n"], row["value"]) == (3, pytest.approx(2 / 3))


def test_a_condition_on_a_column_with_missing_values():
    table = items(score=[1.0, 2.0, 3.0], kind=pd.array(["a", None, "a"], dtype="string"))
    assert Mean("score", where={"kind": "a"}).row(table)["value"] == 2


@pytest.mark.parametrize(
    ("metric", "columns", "message"),
    [
        (Share("right"), {"right": [0, 2]}, "neither 0 nor 1"),
        (Share("right", unit="prompt"), {"right": [0, 2], "prompt": [1, 2]}, "neither 0 nor 1"),
        (Mean("score"), {"score": ["3", "4"]}, "not a number in some row"),
        (Mean("score"), {"score": [1.0, "4"]}, "not a number in some row"),
        (Mean("score"), {"score": [1.0, float("inf")]}, "infinite in some row"),
        (Mean("score", unit="prompt"), {"score": [1.0, 2.0], "prompt": ["a", None]}, "`score` is the column `prompt`"),
    ],
)
def test_columns_that_do_not_fit_are_refused(metric: Mean, columns: dict, message: str):
    with pytest.raises(DataError, match=message):
        metric.row(items(**columns))


def test_a_share_of_units_that_are_all_alike_is_not_certain():
    table = items(right=[1] * 40, prompt=[f"p{i // 4}" for i in range(40)])
    row = Share("right", unit="prompt").row(table)
    assert (row["value"], row["ci_high"]) == (1, 1)
    assert 0.6 < row["ci_low"] < stats.wilson(10, 10).low  # Student's quantile
    both = differences([Share("right", unit="prompt")], *(2 * (summarise([Share("right")], table),)), table, table)
    zeros = np.ones(10)
    assert both["difference_low"][0] == pytest.approx(stats.paired_proportions(zeros, zeros).low)


def test_summary_holds_what_applies(answers: pd.DataFrame):
    known = [Share("right"), Mean("absent"), Mean("none", "score", where={"kind": "other"})]
    table = summarise(known, answers, [Given("read", 0.5), Given("curve", 2.0, 1.0, 3.0, 7)])
    assert table["metric"].tolist() == ["right", "read", "curve"]
    assert table["n"].tolist() == [60, 0, 7]
    assert np.isnan(table["ci_low"][1])
    assert table.dtypes.astype(str).tolist()[1:] == ["float64", "float64", "float64", "int64"]
    assert len(summarise([], answers)) == 0
    with pytest.raises(ConfigError, match="Two metrics are called `right`"):
        summarise([Share("right"), Share("right", where={"kind": "sum"})], answers)


def test_differences_pair_the_items(answers: pd.DataFrame):
    rng = np.random.default_rng(1)
    other = answers.assign(right=rng.random(60) < 0.4, score=answers.score + rng.normal(1, 0.1, 60))
    other = other.sample(frac=1, random_state=0).iloc[:50]  # another order, and some items are lacking
    known = [Share("right"), Mean("score")]
    table = differences(known, summarise(known, answers), summarise(known, other), answers, other)
    assert table.columns.tolist()[-6:] == list(COMPARED)
    common = answers[answers.item.isin(other.item)]
    same = other.set_index("item").loc[common.item]
    expected = stats.paired_difference(common.score, same.score)
    row = table[table.metric == "score"].iloc[0]
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == pytest.approx(tuple(expected))
    assert row["difference"] == pytest.approx(-1, abs=0.1)
    assert row["difference_high"] - row["difference_low"] < 0.1 < row["ci_high"] - row["ci_low"]
    row = table[table.metric == "right"].iloc[0]
    expected = stats.paired_proportions(common.right, same.right)
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == pytest.approx(tuple(expected))


def test_differences_of_units_and_statistics(answers: pd.DataFrame):
    other = answers.assign(score=answers.score * 2 + 1)

    def spread(columns):  # type: ignore[no-untyped-def]
        return float(np.ptp(columns["score"]))

    known = [Mean("score", unit="prompt"), Statistic("spread", spread, ("score",))]
    table = differences(known, summarise(known, answers), summarise(known, other), answers, other, seed=2)
    expected = stats.paired_difference(answers.score, other.score, seed=2, units=answers.prompt)
    found = table[["difference", "difference_low", "difference_high"]].to_numpy()
    assert found[0] == pytest.approx(expected)
    assert found[1, 0] == pytest.approx(-spread({"score": answers.score}))


def test_the_same_model_twice_shows_no_difference(answers: pd.DataFrame):
    units = Mean("by_prompt", "score", unit="prompt", bounds=(0, 1))
    known = [Share("right"), Mean("score", bounds=(0, 1)), units, Mean("free", "score")]
    one = summarise(known, answers)
    table = differences(known, one, one, answers, answers)
    assert table["difference"].tolist() == [0, 0, 0, 0]
    assert (table["difference_low"][:3] < 0).all()  # and yet other items might show one
    assert (table["difference_high"][:3] > 0).all()
    assert table[["difference_low", "difference_high"]].iloc[3].isna().all()  # nobody knows how large


def test_a_difference_of_given_numbers_has_no_interval(answers: pd.DataFrame):
    first, second = (summarise([], answers, [Given("read", value)]) for value in (0.5, 0.2))
    table = differences([], first, second, answers, answers)
    assert table["difference"][0] == pytest.approx(0.3)
    assert np.isnan(table["difference_low"][0])
    nothing = differences([], first, summarise([], answers), answers, answers)
    assert nothing[list(COMPARED)].isna().all(axis=None)


def test_differences_read_only_the_columns_of_their_metric(answers: pd.DataFrame):
    """The same numbers as from whole tables, cut to the items of both one after the other."""
    rng = np.random.default_rng(3)
    answers = answers.assign(text=[f"{i} " * 20 for i in range(60)], binary=rng.integers(0, 2, 60).astype(float))
    other = answers.assign(score=rng.normal(size=60), binary=rng.integers(0, 2, 60).astype(float))
    other = other.assign(score=other.score.where(rng.random(60) < 0.8)).sample(frac=1, random_state=1).iloc[:50]
    answers = answers.assign(binary=answers.binary.where(rng.random(60) < 0.8))
    known = [
        Share("binary"),
        Share("of_prompts", "binary", unit="prompt"),
        Mean("score"),
        Mean("facts", "score", where={"kind": "fact"}),
        Mean("by_prompt", "score", where={"kind": "fact"}, unit="prompt"),
        Statistic("gap", lambda c: float((c["score"] - c["binary"]).max()), ("score", "binary"), unit="prompt"),
    ]
    found = differences(known, summarise(known, answers), summarise(known, other), answers, other, seed=4)
    ours, theirs = pair_items(answers, other)
    for metric, row in zip(known, found[list(COMPARED[3:])].to_numpy(), strict=True):
        both = metric.select(ours).index.intersection(metric.select(theirs).index, sort=False)
        assert 20 < len(both) < 50
        assert tuple(row) == tuple(metric.difference(ours.loc[both], theirs.loc[both], 4))


def test_pairs_are_the_items_of_both():
    first, second = items(item=["a", "b", "c"], x=[1, 2, 3]), items(item=["c", "d", "a"], x=[30, 40, 10])
    ours, theirs = pair_items(first, second)
    assert ours["x"].tolist() == [1, 3]
    assert theirs["x"].tolist() == [10, 30]


@pytest.mark.parametrize("unit", ["item", "prompt"])
def test_intervals_cover(unit: str, monkeypatch: pytest.MonkeyPatch):
    """Means of rows, and of prompts with effects of their own and unequal sizes, hold their level."""
    monkeypatch.setattr(stats, "bootstrap_mean", partial(stats.bootstrap_mean, resamples=400))
    trials, held = 1500, 0
    rng = np.random.default_rng(7)
    sizes = np.resize([1, 2, 3, 2], 120)
    prompt = np.repeat(np.arange(120), sizes)
    names = [str(i) for i in range(len(prompt))]
    for seed in range(trials):
        effect = rng.normal(0, 1, 120)[prompt] if unit == "prompt" else 0
        table = pd.DataFrame({"item": names, "prompt": prompt, "x": 0.3 + effect + rng.normal(0, 0.5, len(prompt))})
        found = Mean("x", unit=unit).estimate(table, seed)
        held += found.low <= 0.3 <= found.high
    assert 0.93 < held / trials < 0.97
