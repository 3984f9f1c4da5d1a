"""ACC, BWT, FWT and forgetting against hand calculation and slow loops, and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe.continual.figures import LEARNING, TASK_COLOURS
from probe.continual.measures import (
    accuracy_matrix,
    average_accuracy,
    backward_transfer,
    cells,
    forgetting,
    forward_transfer,
    matrix,
    old_forgetting,
    savings,
    summary,
)
from probe.errors import DataError
from probe.stats import SHARE, bootstrap_mean, wilson

R = np.array([[0.1, 0.2, 0.1], [0.9, 0.4, 0.2], [0.5, 1.0, 0.3], [0.6, 0.7, 0.8]])


def test_by_hand() -> None:
    assert average_accuracy(R) == pytest.approx((0.6 + 0.7 + 0.8) / 3)
    assert backward_transfer(R) == pytest.approx(((0.6 - 0.9) + (0.7 - 1.0)) / 2)
    assert forward_transfer(R) == pytest.approx(((0.4 - 0.2) + (0.3 - 0.1)) / 2)
    assert forgetting(R) == pytest.approx(((0.9 - 0.6) + (1.0 - 0.7)) / 2)
    assert old_forgetting(np.array([0.7, 0.9, 0.4])) == pytest.approx(0.5)


def test_best_is_taken_over_all_rows_before_the_last() -> None:
    better = R.copy()
    better[2, 0] = 0.95
    assert forgetting(better) == pytest.approx(((0.95 - 0.6) + (1.0 - 0.7)) / 2)
    assert backward_transfer(better) == backward_transfer(R)


@given(st.integers(1, 5).flatmap(lambda t: st.lists(st.floats(0, 1), min_size=(t + 1) * t, max_size=(t + 1) * t)))
def test_against_slow_loops(values: list[float]) -> None:
    """With phases counted from 1 as in the definitions; and a stack of matrices gives each one's own measures."""
    T = int((np.sqrt(4 * len(values) + 1) - 1) / 2)
    found = np.array(values).reshape(T + 1, T)
    r = lambda i, j: found[i, j - 1]  # noqa: E731
    assert average_accuracy(found) == pytest.approx(sum(r(T, j) for j in range(1, T + 1)) / T)
    if T == 1:
        assert np.isnan([backward_transfer(found), forward_transfer(found), forgetting(found)]).all()
        return
    assert backward_transfer(found) == pytest.approx(sum(r(T, j) - r(j, j) for j in range(1, T)) / (T - 1), abs=1e-12)
    assert forward_transfer(found) == pytest.approx(
        sum(r(j - 1, j) - r(0, j) for j in range(2, T + 1)) / (T - 1), abs=1e-12
    )
    best = [max(r(i, j) for i in range(T)) for j in range(1, T)]
    assert forgetting(found) == pytest.approx(sum(b - r(T, j) for j, b in enumerate(best, 1)) / (T - 1), abs=1e-12)
    both = np.stack([found, found[::-1]])
    for measure in (average_accuracy, backward_transfer, forward_transfer, forgetting):
        np.testing.assert_allclose(measure(both), [measure(found), measure(found[::-1])])


def drawn(n: int, seed: int = 0) -> list[np.ndarray]:
    """Right and wrong answers of n items with the probabilities of R."""
    rng = np.random.default_rng(seed)
    return [rng.random((4, n)) < R[:, [j]] for j in range(3)]


def test_cells_have_wilson_intervals_for_answers_and_others_for_scores() -> None:
    scores: list[np.ndarray] = [*drawn(50)[:2], np.random.default_rng(1).random((4, 7))]
    rows = cells(["a", "b", "c"], scores)
    assert [row["after"] for row in rows] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    np.testing.assert_allclose(matrix(rows, ["a", "b", "c"]), accuracy_matrix(scores))
    first = rows[3]
    expected = wilson(int(scores[0][1].sum()), 50)
    assert (first["task"], first["value"], first["ci_low"], first["ci_high"], first["n"]) == ("a", *expected, 50)
    assert (rows[2]["ci_low"], rows[2]["ci_high"]) == bootstrap_mean(scores[2][0], bounds=SHARE)[1:]


def test_items_of_one_person_are_one_unit() -> None:
    """Asked four times, people who always answer alike tell no more than asked once."""
    rng = np.random.default_rng(0)
    scores, people = rng.random((4, 12)), np.repeat(np.arange(12), 4)
    once, often = cells(["a"], [scores]), cells(["a"], [np.repeat(scores, 4, axis=1)], units=[people])
    for one, other in zip(once, often, strict=True):
        assert (other["ci_low"], other["ci_high"]) == pytest.approx((one["ci_low"], one["ci_high"]))
        assert other["n"] == 48
    at, first, again = [0, 1, 2, 3], np.sort(scores, axis=0), np.sort(scores[::-1] ** 0.5, axis=0)
    one, other = (
        savings(at, first, again, 0.6),
        savings(at, *(np.repeat(x, 4, 1) for x in (first, again)), 0.6, units=people),
    )
    assert other.savings == pytest.approx(one.savings)
    assert other.again == pytest.approx(one.again)
    tasks, old = [rng.random((3, 12)) for _ in range(2)], rng.random((3, 12))
    once = summary(tasks, old)
    often = summary([np.repeat(task, 4, 1) for task in tasks], np.repeat(old, 4, 1), units=[people] * 3)
    for one, other in zip(once, often, strict=True):
        assert (other["ci_low"], other["ci_high"]) == pytest.approx((one["ci_low"], one["ci_high"]))
        assert other["n"] == 4 * one["n"]


def test_summary_covers_the_truth_and_pairs_items() -> None:
    """A task whose items all keep their answers has lost nothing, whatever its accuracy: the interval is about that."""
    names = ["ACC", "BWT", "FWT", "forgetting"]
    rows = {row["metric"]: row for row in summary(drawn(400), old=drawn(300, 1)[0])}
    assert list(rows) == [*names, "old_accuracy", "old_forgetting"]
    for name, measure in zip(names, (average_accuracy, backward_transfer, forward_transfer, forgetting), strict=True):
        assert rows[name]["ci_low"] < measure(R) < rows[name]["ci_high"]
        assert rows[name]["n"] == 1200
    assert rows["old_accuracy"]["n"] == 300
    one = np.random.default_rng(0).random(100) < 0.5
    steady = summary([np.stack([one] * 3), np.stack([one] * 3)])
    for row in steady[1:]:
        assert (row["value"], row["ci_low"]) == (0, -row["ci_high"])
        assert 0 < row["ci_high"] < 4 / row["n"]  # 200 items, none of which changed
    assert steady[0]["ci_low"] < 0.5 < steady[0]["ci_high"]


def test_one_phase_has_an_accuracy_only() -> None:
    assert [row["metric"] for row in summary([np.ones((2, 5))])] == ["ACC"]


@pytest.mark.parametrize("scores", [[], [np.ones((2, 5))] * 2, [np.ones((2, 0))], [np.ones(3)]])
def test_shapes_that_make_no_matrix(scores: list[np.ndarray]) -> None:
    with pytest.raises(DataError, match="expected one row before training and one after each phase"):
        summary(scores)


def test_no_strategy_has_the_colour_of_a_phase():
    """The figures of phases and of strategies stand on one page."""
    phases = TASK_COLOURS[:3]
    assert not {*phases} & {LEARNING[name] for name in ("plain", "replay", "ewc")}
