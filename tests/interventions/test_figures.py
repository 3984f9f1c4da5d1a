"""Figures of interventions: what is drawn where, on which scale, and never as markup."""

import numpy as np
import pandas as pd
import pytest

from probe.interventions.figures import (
    SYMBOLS,
    dose_curves,
    effect_and_nulls,
    effect_grid,
    exact_against_estimate,
    layer_labels,
    probabilities,
)
from probe.plotting import theme

TOKENS = ["<bos>", "where", "<img src=x onerror=alert(1)>", "live"]
HOSTILE = "<b>x</b>"


@pytest.fixture
def values() -> np.ndarray:
    return np.array([[0.0, -0.5, 0.001, 1.0], [0.25, np.nan, 0.0, -2.0], [0.1, 0.2, 0.3, 0.4]])


def test_a_grid_is_centred_on_zero_and_names_its_sites(values: np.ndarray):
    figure = effect_grid(values, [-1, 0, 1], TOKENS, label="share, restored", axis="token", chosen=(0, 3), marked=[1])
    heat, marks = figure.data
    np.testing.assert_array_equal(heat.z, values.astype(np.float32))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-2.0, 2.0)
    assert list(figure.layout.yaxis.ticktext) == ["embedding", "L0", "L1"] == layer_labels([-1, 0, 1])
    assert [tuple(point[:2]) for point in marks.customdata[:5]] == [(-1, 0), (-1, 1), (-1, 2), (-1, 3), (0, 0)]
    assert [(marks.x[at], marks.y[at]) for at in (0, 3, 4)] == [(0, 0), (3, 0), (0, 1)]
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 0.5, 1.5)
    assert figure.layout.xaxis.ticktext[1] == "<b>where</b>"
    assert "<img" not in figure.to_json()
    assert heat.text[0][2] == ""  # what rounds to nothing is not written into the cell
    assert heat.text[1][3] == "\u22122.00"


def test_grids_that_are_compared_share_a_scale(values: np.ndarray):
    figure = effect_grid(values, [-1, 0, 1], TOKENS, label="effect, nats", axis="token", bound=3.0)
    assert figure.layout.coloraxis.cmax == 3.0
    assert not figure.layout.shapes
    deep = effect_grid(np.zeros((30, 2)), range(30), ["H0", "H1"], label="effect, nats", axis="head")
    assert len(deep.layout.yaxis.ticktext) == 15
    assert deep.data[0].texttemplate == ""
    assert deep.layout.coloraxis.cmax > 0


def test_probabilities_before_and_after_with_each_draw():
    null = np.log(np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]))
    before, after = np.log([0.25, 0.75]), np.log([0.6, 0.4])
    nulls = [("other heads", null), ("random directions", null[:0])]
    figure = probabilities([HOSTILE, "oslo"], before, after, nulls, colour="#3F78C6")
    first, second, points = figure.data
    assert list(first.y) == pytest.approx([0.25, 0.75])
    assert list(second.y) == pytest.approx([0.6, 0.4])
    assert sorted(points.y) == pytest.approx([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    assert points.marker.symbol == SYMBOLS[0]
    assert second.marker.color == "#3F78C6"
    assert HOSTILE not in figure.to_json()


def test_an_effect_beside_its_nulls_in_the_unit_of_the_axis():
    nulls = [("other heads", np.array([1.0, -1.0])), ("random directions", np.array([0.5]))]
    figure = effect_and_nulls(4.0, nulls, label="share", colour="#3F78C6", scale=4.0)
    assert list(figure.data[0].x) == [1.0]
    assert list(figure.data[1].x) == [0.25, -0.25]
    assert [trace.name for trace in figure.data] == ["this site", "other heads", "random directions"]
    assert list(figure.layout.yaxis.ticktext) == ["this site", "other heads", "random directions"]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the effect on top


def test_exact_against_estimate_has_the_line_of_agreement():
    figure = exact_against_estimate(
        np.array([1.0, 2.0]), np.array([0.5, 3.0]), [HOSTILE, "b"], label="n", colour="#000"
    )
    line, points = figure.data
    assert list(line.x) == list(line.y) == [0.5, 3.0]
    assert list(points.x) == [0.5, 3.0]
    assert list(points.y) == [1.0, 2.0]
    assert HOSTILE not in figure.to_json()


def test_doses_show_the_interval_the_null_and_the_cost():
    table = pd.DataFrame({"alpha": [-1.0, 0.0, 1.0]})
    for name in ("target", "accuracy", "kl"):
        table[name] = [1.0, 2.0, 3.0]
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.5, table[name] + 0.5
    table["null"], table["null_low"], table["null_high"] = 0.0, -0.1, 0.1
    figure = dose_curves(table, label=HOSTILE, colour="#3F78C6", chosen=1.0)
    names = [trace.name for trace in figure.data if trace.name]
    assert names == ["random directions", "this direction", "accuracy", "kl"]
    assert [note.text for note in figure.layout.annotations][1:] == [
        "unrelated<br>questions right",
        "KL to the<br>unsteered model",
    ]
    assert HOSTILE not in figure.to_json()
    bare = dose_curves(table[["alpha", "target", "target_low", "target_high"]], label="x", colour="#3F78C6")
    assert [trace.name for trace in bare.data if trace.name] == ["this direction"]


def test_both_themes(values: np.ndarray):
    figure = effect_grid(values, [-1, 0, 1], TOKENS, label="effect, nats", axis="token")
    dark = theme.apply(figure, theme.DARK)
    assert dark.layout.coloraxis.colorscale[0][1] == theme.DARK.diverging[0]
