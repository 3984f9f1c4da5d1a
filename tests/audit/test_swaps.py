"""Swapping models within questions: p against exact tests, families, and one statistic under several names."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from probe.audit.change import describe
from probe.audit.inspection import compare_part
from probe.audit.plan import IN_A_WORLD, ON_SETS
from probe.audit.swaps import LEVEL, question_of, swap_models
from probe.experiments.metrics import Mean, Share, Statistic, pair_items


def items_of(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"item": [f"i{at}" for at in range(n)], **columns})


def test_p_of_a_share_is_that_of_the_exact_sign_test() -> None:
    rng = np.random.default_rng(1)
    for gap in (0.0, 0.1, 0.3):
        first, second = (rng.random(60) < 0.4).astype(float), (rng.random(60) < 0.4 + gap).astype(float)
        own, others = pair_items(items_of({"right": second}), items_of({"right": first}))
        found = swap_models([Share("right")], [True], own, others, draws=20_000)
        up, down = int((second > first).sum()), int((second < first).sum())
        exact = binomtest(up, up + down).pvalue
        assert found.p[0] == pytest.approx(exact, abs=0.012)
        assert found.p_corrected[0] == pytest.approx(found.p[0])
        assert found.n[0] == 60


def test_a_statistic_is_swapped_as_its_mean_is() -> None:
    rng = np.random.default_rng(2)
    one, two = rng.normal(size=(2, 40))
    own, others = pair_items(items_of({"x": one + 0.3}), items_of({"x": two}))
    metrics = [Mean("mean", "x"), Statistic("function", lambda columns: float(columns["x"].mean()), ("x",))]
    found = swap_models(metrics, [True, True], own, others, seed=3)
    assert found.p[0] == found.p[1]
    assert found.p_corrected[0] == found.p_corrected[1]


def test_all_items_of_a_question_change_sides_together() -> None:
    """Four copies of ten answers are ten answers; swapped one by one they would look like forty."""
    rng = np.random.default_rng(4)
    ten = rng.normal(0.5, 1, 10)
    copies = items_of({"x": np.repeat(ten, 4)})
    own, others = pair_items(copies, copies.assign(x=0.0))
    rows = [f"row-{at // 4}" for at in range(40)]
    one = items_of({"x": ten})
    expected = swap_models([Mean("x")], [True], *pair_items(one, one.assign(x=0.0)), draws=8000).p[0]
    together = swap_models([Mean("x")], [True], own.assign(row=rows), others.assign(row=rows), draws=8000).p[0]
    alone = swap_models([Mean("x")], [True], own, others, draws=8000).p[0]
    assert together == pytest.approx(expected, abs=0.02)
    assert alone < together / 3
    mixed = pd.DataFrame({"item": ["a", "b", "c"], "row": ["r", None, None], "question": [None, "a", None]})
    assert question_of(mixed).tolist() == ["r", "a", "c"]


def test_a_family_pays_for_its_members_and_not_for_copies() -> None:
    rng = np.random.default_rng(5)
    values = {f"x{at}": rng.normal(0.42 if at == 0 else 0.0, 1, 40) for at in range(8)}
    values["copy"] = 3 - 2 * values["x0"]
    own = items_of(values)
    others = own.assign(**{name: 3.0 if name == "copy" else 0.0 for name in values})
    metrics = [Mean(name) for name in values]
    family = swap_models(metrics, [True] * 9, *pair_items(own, others))
    assert family.same_as == ("",) * 8 + ("x0",)
    assert family.p[0] == family.p[8]
    assert family.p_corrected[0] == family.p_corrected[8] > 2 * family.p[0]
    alone = swap_models([metrics[0], metrics[8]], [True, True], *pair_items(own, others))
    assert alone.p_corrected[0] == pytest.approx(alone.p[0])  # the copy costs nothing
    apart = swap_models(metrics, [True] + [False] * 8, *pair_items(own, others))
    assert apart.p_corrected[0] == pytest.approx(apart.p[0])


def test_models_that_differ_in_nothing_are_told_apart_as_often_as_said() -> None:
    """Of 12 measures of which some are nearly one, any is called different in 5 % of the cases; the range holds."""
    rng = np.random.default_rng(6)
    families, within = 0, 0
    for _ in range(80):
        base = rng.normal(size=(40, 6))
        both = [np.hstack([base + rng.normal(size=(40, 6)), rng.random((40, 6)) < 0.5]) for _ in range(2)]
        own, others = (items_of({f"x{at}": each[:, at].astype(float) for at in range(12)}) for each in both)
        found = swap_models([Mean(f"x{at}") for at in range(12)], [False] * 12, *pair_items(own, others), draws=300)
        called = int((found.p_corrected < LEVEL).sum())
        families += called > 0
        within += called <= np.quantile(found.counts, 0.975)
        assert found.counts.mean() <= 0.12
    assert families / 80 <= LEVEL + 3 * np.sqrt(0.0475 / 80)
    assert within / 80 >= 0.9


def test_one_statistic_of_question_sets_counts_once() -> None:
    part = next(part for part in ON_SETS if part.name == "hallucination")
    rng = np.random.default_rng(7)
    sides = []
    for _ in range(2):
        right = (rng.random(60) < 0.3).astype(float)
        columns = {
            "mc1": right,
            "right": right,
            "confidence": rng.random(60),
            "mc2": rng.random(60),
            "mc1_chance": 0.25 + 0 * right,
        }
        for target in (50, 75, 90):
            columns[f"own_{target}"] = right - (1 - right) * target / (100 - target)
        sides.append(items_of(columns).assign(row=[f"row-{at}" for at in range(60)]))
    table, _ = compare_part(part, *sides)
    assert table.set_index("metric").loc["hallucination", "chance"] == 0.75
    assert table["chance"].notna().sum() == 1
    assert describe(table.iloc[0].to_dict()).endswith("; guessing gives 75 %)")
    same = table.set_index("metric")["same_as"]
    assert (same[[f"hallucination.score_{target}" for target in (50, 75, 90)]] == "hallucination").all()
    assert same[["hallucination", "calibration", "hallucination.mc2"]].tolist() == [""] * 3
    constant = sides[0].assign(**{name: 1.0 for name in sides[0] if name.startswith("own") or name in ("mc1", "right")})
    still, _ = compare_part(part, constant, constant)
    assert (still["same_as"] == "").all()  # columns that do not vary say nothing


def test_the_estimate_alone_is_that_with_its_interval() -> None:
    rng = np.random.default_rng(8)
    seen = 0
    for part in (*ON_SETS, *IN_A_WORLD):
        for metric in part.metrics():
            columns = {name: (rng.random(30) < 0.5).astype(float) for name in metric.columns}
            if "confidence" in columns:
                columns["confidence"] = rng.random(30)
            rows = items_of(columns)
            estimate = metric.estimate(rows.assign(**{metric.unit: rows["item"]}), 0).value
            assert metric.value(columns) == pytest.approx(estimate, nan_ok=True), metric.name
            seen += 1
    assert seen > 100


def test_n_is_the_number_of_pairs_behind_the_difference() -> None:
    """What only one of the models answered is in its value and in no difference."""
    own, others = items_of({"x": np.arange(31.0)}), items_of({"x": np.arange(31.0)})
    own.loc[20:, "x"] = np.nan
    others.loc[:5, "x"] = np.nan
    assert swap_models([Mean("x")], [True], *pair_items(own, others)).n.tolist() == [14]
