"""Figures of direct attribution: every part in its cell, one scale, clicks that name a part, tokens that stay text."""

import json

import numpy as np
import pytest

from probe.logits.part_figures import PartContributions, attribution_map, neuron_bars, promoted_bars, source_bars
from probe.plotting.marks import few_ticks, marks
from probe.plotting.theme import DARK, LIGHT, apply

HOSTILE = "<b>x</b> $y$ %{z}"


def parts(name="m", depth=3, heads=2, seed=0, bias=0.0):
    draw = np.random.default_rng(seed)
    single = [("embedding", 0.5), ("positions", 0.0), ("bias of the final norm", -0.25)]
    return PartContributions(
        name, draw.normal(size=(depth, heads)), draw.normal(size=depth), np.full(depth, bias), single
    )


def layout(figure):
    return figure.to_plotly_json()["layout"]


def test_every_part_has_its_cell_and_the_scale_is_common():
    first, second = parts(), parts(seed=1)
    figure = attribution_map([first, second], label="oslo")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    for trace, panel in zip(maps, (first, second), strict=True):
        np.testing.assert_allclose(trace.z[1:, :2], panel.heads, rtol=1e-6)
        np.testing.assert_allclose(trace.z[1:, 2], panel.mlps, rtol=1e-6)
        assert trace.z[0].tolist()[:2] == [0.5, -0.25]
        assert np.isnan(trace.z[0, 2])
        assert trace.coloraxis == "coloraxis"
    scale = figure.layout.coloraxis
    assert scale.cmax == -scale.cmin == max(np.nanmax(np.abs(trace.z)) for trace in maps)
    assert list(figure.layout.xaxis.ticktext) == ["H0", "H1", "MLP"]
    assert list(figure.layout.yaxis.ticktext) == ["rest", "L0", "L1", "L2"]


def test_biases_get_a_column_only_where_there_are_some():
    figure = attribution_map([parts(bias=0.3)], label="oslo")
    assert list(figure.layout.xaxis.ticktext)[-1] == "bias"
    assert figure.data[0].z[1:, 3].tolist() == pytest.approx([0.3] * 3)


def test_a_click_names_the_part_that_lies_under_it():
    panel = parts()
    figure = attribution_map([panel], label="oslo", chosen=(1, None), width=900, height=200)
    (squares,) = (trace for trace in figure.data if trace.type == "scatter")
    seen = set()
    for x, y, text, (name,) in zip(squares.x, squares.y, squares.text, squares.customdata, strict=True):
        column, row = round(x), round(y)
        assert name == (None if row == 0 else f"L{row - 1}{' MLP' if column == 2 else f'H{column}'}")
        value = figure.data[0].z[row, column]
        assert f"{value:+.3f} nats of oslo" in text
        seen.add(name)
    assert {f"L{layer}{part}" for layer in range(3) for part in ("H0", "H1", " MLP")} <= seen
    frame = figure.layout.shapes[0]
    assert ((frame.x0 + frame.x1) / 2, (frame.y0 + frame.y1) / 2) == (2, 2)


def test_squares_cover_a_wide_cell():
    wide = marks([0, 1], [0, 0], ["a", "b"], [[7], [8]], (90.0, 30.0))
    assert len(wide.x) == 6
    assert wide.x[0] == pytest.approx(-1 / 3)
    assert [data[0] for data in wide.customdata] == [7] * 3 + [8] * 3
    assert set(wide.text[:3]) == {"a"}
    assert wide.marker.size <= 30
    assert len(marks([0], [0], ["a"], [[7]], (20.0, 20.0)).x) == 1


def test_few_ticks_name_the_last_point_and_keep_names_at_their_place():
    ticks = few_ticks([f"L{i}" for i in range(31)], 8)
    assert len(ticks["tickvals"]) <= 8
    assert ticks["tickvals"][-1] == 30
    assert ticks["ticktext"] == [f"L{i}" for i in ticks["tickvals"]]
    assert few_ticks(["a", "b"], 8)["tickvals"] == [0, 1]


def test_bars_show_promoted_above_suppressed_on_one_scale():
    side = ("m", "#123456", ["a", "b"], np.array([3.0, 1.0]), ["y", "z"], np.array([-2.0, -0.5]))
    other = ("n", "#654321", ["a", "b"], np.array([9.0, 1.0]), ["y", "z"], np.array([-2.0, -0.5]))
    figure = promoted_bars([side, other])
    assert list(figure.data[0].x) == [3.0, 1.0, -0.5, -2.0]
    assert list(figure.data[0].customdata) == ["a", "b", "z", "y"]
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range
    assert figure.layout.xaxis.range[1] > 9
    assert list(figure.layout.yaxis.ticktext) == ["a", "b", "z", "y"]


def test_sources_and_neurons_are_bars_by_model():
    figure = source_bars(["a", "b"], [("m", "#111111", np.array([1.0, 2.0])), ("n", "#222222", np.zeros(2))], label="x")
    assert [list(trace.y) for trace in figure.data] == [[1.0, 2.0], [0.0, 0.0]]
    assert figure.data[1].marker.color == "#222222"
    neurons = neuron_bars([17, 4], [("m", "#111111", np.array([1.0, -2.0]))], label="reward", unit="reward")
    assert list(neurons.layout.xaxis.ticktext) == ["17", "4"]
    assert neurons.layout.yaxis.title.text == "adds to reward"


def test_text_from_data_stays_text():
    figures = [
        attribution_map([parts(HOSTILE)], label=HOSTILE),
        promoted_bars([(HOSTILE, "#111111", [HOSTILE], np.ones(1), [HOSTILE], -np.ones(1))]),
        source_bars([HOSTILE], [(HOSTILE, "#111111", np.ones(1))], label=HOSTILE),
    ]
    for figure in figures:
        spec = json.dumps(json.loads(figure.to_json())["data"]) + json.dumps(json.loads(figure.to_json())["layout"])
        assert "<b>" not in spec
        assert "$y$" not in spec


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_both_themes(theme):
    figure = apply(attribution_map([parts()], label="oslo"), theme)
    assert [colour for _, colour in figure.layout.coloraxis.colorscale] == list(theme.diverging)
