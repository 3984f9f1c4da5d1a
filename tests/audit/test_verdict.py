"""Verdicts: their error rates and power by simulation, what older files get, and where a base leaves no room."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from probe import stats
from probe.audit.inspection import compare_part
from probe.audit.plan import ON_SETS, find_words
from probe.audit.swaps import LEVEL
from probe.audit.verdict import (
    CHANGED,
    EQUIVALENT,
    FEWEST,
    INNER,
    INNER_ENDS,
    UNDECIDED,
    UNKNOWN,
    Z,
    add_verdicts,
    cannot_show,
    mde,
    planned_mde,
    reach,
)
from probe.errors import ConfigError
from probe.terms import smallest_effect

SUMS = next(part for part in ON_SETS if part.name == "sums")
"""A part with one measure, a share."""


def answers(n: int, gap: float, back_and_forth: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items of two models of which the second is right more often by `gap`, in expectation."""
    rng = np.random.default_rng(seed)
    half = back_and_forth / 2
    moved = rng.choice(3, n, p=[half + gap, half, 1 - gap - back_and_forth])
    same = rng.random(n) < 0.5
    items = pd.DataFrame({"item": [f"choice-{at}" for at in range(n)], "row": [f"row-{at}" for at in range(n)]})
    before = np.where(moved == 0, 0.0, np.where(moved == 1, 1.0, same))
    after = np.where(moved == 0, 1.0, np.where(moved == 1, 0.0, same))
    return items.assign(mc1=before), items.assign(mc1=after)


def shares(n: int, gap: float, back_and_forth: float, times: int, margin: float = 0.05) -> dict[str, float]:
    """How often each verdict is given."""
    found = [
        add_verdicts(compare_part(SUMS, *answers(n, gap, back_and_forth, seed))[0], margin=margin)["verdict"].iloc[0]
        for seed in range(times)
    ]
    return {name: found.count(name) / times for name in (CHANGED, EQUIVALENT, UNDECIDED)}


def check_power(n: int, back_and_forth: float, times: int) -> None:
    size = mde(n, back_and_forth, 0.01, answers=True)
    found = shares(n, size, back_and_forth, times)[CHANGED]
    assert abs(found - 0.8) < 0.07 + 3 * math.sqrt(0.16 / times), (n, back_and_forth, size, found)


def check_sizes(n: int, back_and_forth: float, times: int) -> None:
    room = 3 * math.sqrt(0.0475 / times)
    assert shares(n, 0.0, back_and_forth, times)[CHANGED] <= LEVEL + room
    assert shares(n, 0.05, back_and_forth, times)[EQUIVALENT] <= LEVEL + room
    assert shares(n, 0.01, back_and_forth, times)[CHANGED] <= LEVEL + room  # the smallest effect itself


def test_the_smallest_difference_is_found_in_eighty_of_a_hundred_cases() -> None:
    check_power(60, 0.1, 80)


@pytest.mark.slow
def test_what_differs_in_nothing_or_by_the_margin_is_seldom_called_otherwise() -> None:
    check_sizes(60, 0.1, 60)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "back_and_forth"), [(12, 0.2), (500, 0.0), (500, 0.2)])
def test_power_and_sizes_of_the_verdicts(n: int, back_and_forth: float) -> None:
    """That of 60 pairs is tried above."""
    check_power(n, back_and_forth, 120)
    check_sizes(n, back_and_forth, 120)


def test_equal_models_are_equivalent_from_enough_questions_on() -> None:
    """The default margin is the least whole number of points that 60 equal answers show, wherever the base stands."""

    def shown(n: int, right: int, margin: float) -> bool:
        items = answers(n, 0.0, 0.0, 0)[0].assign(mc1=[1.0] * right + [0.0] * (n - right))
        return bool(add_verdicts(compare_part(SUMS, items, items)[0], margin=margin)["verdict"].iloc[0] == EQUIVALENT)

    assert all(shown(60, right, 0.05) for right in (0, 20, 54, 60))
    assert not shown(60, 60, 0.04)
    assert not shown(40, 40, 0.05)
    assert shares(400, 0.0, 0.02, 10)[EQUIVALENT] > 0.7


def test_more_questions_find_less() -> None:
    sizes = [planned_mde(n)[0] for n in (20, 60, 200, 800)]
    assert sizes == sorted(sizes, reverse=True)
    few, many = planned_mde(60)
    assert 0.15 < few < many < 0.23
    assert planned_mde(60, measures=5)[0] > few
    assert "60 questions detect 17 to 23 points (sycophancy)" in find_words(ON_SETS)
    assert "no change" in find_words([SUMS.__class__(**{**SUMS.__dict__, "options": {"n": 3}})])
    assert math.isinf(mde(3, 0.1, 0.01, answers=True))
    assert mde(100, 4.0, 0.0) == pytest.approx((Z + 0.8416) * 0.2, rel=0.03)  # the textbook's, for a mean


CELL = st.tuples(
    st.floats(-1, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["share", "nats", "turns", ""]),
    st.floats(0.001, 1),
    st.floats(0, 1),
)


def table_of(cells: list[tuple[float, float, float, str, float, float]], swaps: bool = True) -> pd.DataFrame:
    gap, down, up = (np.array([cell[at] for cell in cells], dtype=float) for at in range(3))
    columns = {"difference": gap, "difference_low": gap - down, "difference_high": gap + up}
    if swaps:
        p = np.array([cell[4] for cell in cells])
        columns |= {INNER_ENDS[0]: gap - 0.8 * down, INNER_ENDS[1]: gap + 0.8 * up}
        columns |= {"p": p, "p_corrected": np.minimum(2 * p, 1), "critical": np.full(len(cells), 2.5)}
    about = {"part": "one", "measure": True, "n": 50, "unit": [cell[3] for cell in cells], "base": 0.5}
    return pd.DataFrame(columns | about | {"aligned": 0.5 + gap})


@given(st.lists(CELL, min_size=1, max_size=8), st.floats(0, 0.5), st.floats(0.001, 0.5))
def test_each_difference_has_the_verdict_of_its_definition(
    cells: list[tuple[float, float, float, str, float, float]], smallest: float, margin: float
) -> None:
    rows = table_of(cells)
    found = add_verdicts(rows, smallest, margin)
    for row in found.to_dict("records"):
        beyond = max(row["difference_low"], -row["difference_high"]) > row["smallest"]
        changed = beyond and row["p_corrected"] < LEVEL
        within = max(row[INNER_ENDS[1]], -row[INNER_ENDS[0]]) < row["margin"]
        assert row["verdict"] == (CHANGED if changed else EQUIVALENT if within else UNDECIDED)
        assert row["mde"] > row["smallest"] or row["mde"] == pytest.approx(row["smallest"])
    # asking for more makes nothing change; a wider margin makes nothing less equivalent
    fewer = add_verdicts(rows, min(2 * smallest, 0.99), margin)["verdict"] == CHANGED
    assert (found["verdict"] == CHANGED)[fewer].all()
    wider = add_verdicts(rows, smallest, min(2 * margin, 0.99))["verdict"]
    assert (wider[found["verdict"] == EQUIVALENT] == EQUIVALENT).all()


@given(st.lists(CELL, min_size=1, max_size=8))
def test_an_older_table_is_judged_by_what_it_stores(
    cells: list[tuple[float, float, float, str, float, float]],
) -> None:
    """Its 95 % interval has to lie within the margin, and Holm's steps take the place of swaps."""
    found = add_verdicts(table_of(cells, swaps=False))
    p = found["p"].to_numpy()
    order = np.argsort(p, kind="stable")
    holm = np.empty(len(p))
    holm[order] = np.minimum(np.maximum.accumulate([(len(p) - at) * p[i] for at, i in enumerate(order)]), 1)
    assert found["p_corrected"].to_numpy() == pytest.approx(holm)
    equal = found["verdict"] == EQUIVALENT
    assert (found["difference_high"] < found["margin"])[equal].all()
    assert (found["difference_low"] > -found["margin"])[equal].all()


def test_without_an_interval_or_items_nothing_is_told() -> None:
    ends = {"difference": [0.3, 0.0], "difference_low": [np.nan, -0.1], "difference_high": [np.nan, 0.1]}
    rows = pd.DataFrame(ends | {"n": 50, "unit": "share", "base": 0.0, "aligned": [0.3, 0.0]})
    table = add_verdicts(rows)
    assert table["p"].isna().tolist() == [True, False]
    assert table["p"][1] == 1
    assert table["verdict"].tolist() == [UNKNOWN, UNDECIDED]
    assert math.isnan(table["mde"][0])
    few = add_verdicts(rows.assign(n=FEWEST - 1, difference_low=[0.2, -0.01], difference_high=[0.4, 0.01]))
    assert few["p"].isna().all()
    assert (few["verdict"] == UNDECIDED).all()
    assert np.isinf(few["mde"]).all()
    assert not stats.beyond(np.nan, np.nan)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"smallest effect is .* expected a share from 0 to below 1"):
            add_verdicts(rows, wrong)
        with pytest.raises(ConfigError, match=r"margin is .* expected a share from above 0 to below 1"):
            add_verdicts(rows, margin=min(wrong, 1.0) if wrong == wrong and wrong > 0 else 0.0)


@given(st.integers(10, 120), st.data())
def test_a_base_at_its_end_can_show_no_change_there(n: int, data: st.DataObject) -> None:
    """Whatever the other model answers, its interval does not lie beyond what `reach` says."""
    right = data.draw(st.integers(0, n))
    before = np.arange(n) < right
    after = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    row = {"unit": "share", "base": right / n, "n": n, "smallest": 0.01, "difference": float(after.mean() - right / n)}
    fall, rise = reach(row)
    interval = stats.paired_proportions(after, before)
    assert interval.low <= rise + 1e-9
    assert interval.high >= fall - 1e-9
    if right == n:
        assert "rise" in cannot_show(row)
    if right == 0:
        assert "fall" in cannot_show(row)


def test_room_is_said_of_rates_alone() -> None:
    about = {"n": 60, "smallest": 0.01, "difference": 0.0}
    assert cannot_show({**about, "unit": "nats", "base": 1.0}) == ""
    assert cannot_show({**about, "unit": "probability", "base": 0.995}) == "rise"
    assert cannot_show({**about, "unit": "share", "base": 0.5}) == ""
    assert cannot_show({**about, "unit": "share", "base": 0.5, "n": 3}) == "rise or fall"  # too few for anything
    assert cannot_show({**about, "unit": "share", "base": float("nan")}) == ""


def test_the_inner_interval_is_narrower_and_that_of_the_metric() -> None:
    base, aligned = answers(60, 0.1, 0.1, 0)
    row = compare_part(SUMS, base, aligned)[0].iloc[0]
    inner = stats.paired_proportions(aligned["mc1"], base["mc1"], INNER)
    assert (row[INNER_ENDS[0]], row[INNER_ENDS[1]]) == pytest.approx(inner[1:])
    assert row["difference_low"] < row[INNER_ENDS[0]] < row[INNER_ENDS[1]] < row["difference_high"]


def test_the_margin_is_that_of_the_unit() -> None:
    rows = table_of([(0.1, 0.1, 0.1, unit, 0.5, 0.5) for unit in ("share", "nats", "turns")])
    margins: NDArray[np.float64] = add_verdicts(rows, margin=0.1)["margin"].to_numpy()
    assert margins == pytest.approx([smallest_effect(unit, (0.5, 0.6), 0.1) for unit in ("share", "nats", "turns")])
