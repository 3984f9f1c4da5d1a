"""Heads and layers that changed most between two captures, against the distance of two models and plain loops."""

from dataclasses import replace

import numpy as np
import pytest

from probe.attention.captured_movement import rank_movement
from probe.attention.patterns import head_distance
from probe.attention.trained_heads import read_captured
from probe.errors import ConfigError
from probe.plotting.notebook import title_of
from probe.runs import open_run
from probe.runs.captured import head_movement
from tests.places import SAMPLES

RUN = SAMPLES / "dpo-agreeable"


def test_the_ranking_is_that_of_the_distances_on_every_prompt():
    captures = open_run(RUN).captures()
    found = rank_movement(run=RUN)
    reads = [
        [read_captured(captures, index, step) for step in (captures.steps[0], captures.steps[-1])]
        for index in range(len(captures.prompts))
    ]
    for values, kind in ((found.moved, "total_variation"), (found.others, "other_tokens")):
        expected = np.mean([head_distance(first, last, kind) for first, last in reads], axis=0)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    table = found.table()
    assert list(table["other_tokens"]) == sorted(found.others.ravel(), reverse=True)
    assert table["head"][0] == found.top
    assert found.sentence().startswith(f"From step 0 to step 150 of dpo-agreeable, {found.top} moved most: ")
    last = table["head"].iloc[-1]
    assert f"; {last} ranks {len(table)} of {len(table)} with " in found.sentence(last)
    assert list(found.figures()["moved-heads"].data[0].x) == pytest.approx(list(table["other_tokens"][:16]))


def test_a_head_that_only_moves_to_its_sink_does_not_rank_first():
    found = rank_movement(run=RUN)
    moved, others = np.full((4, 4), 0.1), np.full((4, 4), 0.05)
    moved[1, 2], others[1, 2], others[2, 3] = 0.9, 0.0, 0.06
    other = replace(found, moved=moved, others=others)
    assert other.top == "L2H3"
    assert list(other.table()["head"])[-1] == "L1H2"
    assert other.sentence("L1H2").startswith(
        "From step 0 to step 150 of dpo-agreeable, L2H3 moved most: 6 % of its attention among tokens other than the"
        " first (10 % with the first); the median head moved 5 %; L1H2 ranks 16 of 16 with 0 %."
    )
    assert title_of(other.figures()["moved-heads"]) == "Heads that moved most, of 16"
    still = replace(found, moved=moved, others=np.zeros((4, 4)))
    assert still.sentence().endswith(
        ", no head moved more than 0 % of its attention among tokens other than the first (90 % with the first)."
    )


def test_the_sink_is_told_apart():
    """Weight that only goes to the first token is no movement among the others; weight that stays off it is."""
    rest = np.array([[[[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.4, 0.4]]]])
    sink = np.array([[[[1, 0, 0], [1.0, 0.0, 0], [0.6, 0.2, 0.2]]]])
    moved, others = head_movement(rest, sink)
    np.testing.assert_allclose(moved, [[(0.5 + 0.4) / 2]], rtol=1e-6)
    np.testing.assert_allclose(others, [[0]], atol=1e-6)
    moved, others = head_movement(rest, np.array([[[[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.7, 0.1]]]]))
    np.testing.assert_allclose(moved, [[0.15]], rtol=1e-6)
    np.testing.assert_allclose(others, moved, rtol=1e-6)
    np.testing.assert_allclose(head_movement(rest[:, :, 1:], sink[:, :, 1:])[0], [[0.45]], rtol=1e-6)


def test_layers_are_compared_by_what_they_predict():
    captures = open_run(RUN).captures()
    before, after = (captures.load(step)["lens_top_ids"] for step in (20, 70))
    layers = rank_movement(run=RUN, start=20, end=70).layers
    for row, share in enumerate(layers["predicted"]):
        tokens = [(i, t) for i, prompt in enumerate(captures.prompts) for t in range(prompt.length)]
        changed = [before[i, row, t, 0] != after[i, row, t, 0] for i, t in tokens]
        assert share == pytest.approx(np.mean(changed))


def test_the_course_goes_from_step_to_step():
    found = rank_movement(run=RUN, start=10, end=30)
    assert found.steps == [10, 20, 30]
    for number, (start, end) in enumerate(((10, 20), (20, 30))):
        np.testing.assert_allclose(found.course[number], rank_movement(run=RUN, start=start, end=end).others)


def test_steps_that_were_not_captured_are_refused():
    with pytest.raises(ConfigError, match="Steps 30 to 10 were requested: give two captured steps in order, of 0, 10"):
        rank_movement(run=RUN, start=30, end=10)
    with pytest.raises(ConfigError, match="Steps 7 to 150 were requested"):
        rank_movement(run=RUN, start=7)
