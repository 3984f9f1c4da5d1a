"""Figures of long texts: what is drawn where, and that tokens stay text."""

import numpy as np

from probe.attention import head_figures as streaming

TOKENS = ["<bos>", "where", "<img src=x onerror=alert(1)>", "live", "where"]


def test_a_line_a_layer_is_the_mean_over_heads_and_lag_zero_has_a_place():
    profile = np.random.default_rng(0).random((3, 2, 9))
    profile[1, :, 5] = 0  # no logarithm: a gap
    figure = streaming.lag_profiles(profile, [0, 2, 5])
    lines = figure.data[:3]
    np.testing.assert_allclose(lines[0].y, profile[0].mean(0))
    assert np.isnan(lines[1].y[5])
    assert list(lines[0].x) == [streaming.ITSELF, *range(1, 9)]
    assert len({line.line.color for line in lines}) == 3
    assert lines[2].hovertemplate.startswith("L5")
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    assert list(figure.layout.xaxis.ticktext) == ["itself", "1", "2", "4", "8"]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 5)


def test_far_lags_are_averaged_in_groups():
    profile = np.random.default_rng(0).random((2, 3, 300))
    edges = streaming._edges(300)
    assert edges[:35] == [*range(33), 35, 38]
    line = streaming.lag_profiles(profile, [0, 1]).data[1]
    assert len(line.y) == len(edges)
    first = edges.index(38)
    np.testing.assert_allclose(line.y[first], profile[1, :, 38 : edges[first + 1]].mean())
    np.testing.assert_allclose(line.y[-1], profile[1, :, edges[-1] :].mean())
    assert line.customdata[first] == f"38 to {edges[first + 1] - 1}"
    assert line.x[first] == np.sqrt(38 * (edges[first + 1] - 1))


def test_one_layer_of_a_short_text_has_a_profile():
    assert len(streaming.lag_profiles(np.ones((1, 2, 1)), [0]).data) == 2


def test_lines_along_the_text_name_tokens_as_text():
    values = np.arange(5.0)
    figure = streaming.query_statistic(
        [("base", values), ("<b>", values + 1)], TOKENS, "entropy", colours=["red", "blue"]
    )
    assert [line.name for line in figure.data] == ["base", "&lt;b&gt;"]
    np.testing.assert_array_equal(figure.data[1].y, values + 1)
    assert figure.data[0].customdata[2].startswith("&lt;img")
    assert figure.layout.showlegend


def test_sources_stand_at_their_query_and_key():
    keys = np.array([[0, -1], [0, 1], [2, 0], [1, 3], [4, 0]])
    weights = np.array([[1.0, 0.0], [0.9, 0.1], [0.6, 0.02], [0.5, 0.4], [0.7, 0.2]])
    figure = streaming.top_sources(keys, weights, TOKENS)
    marks = figure.data[1]
    drawn = {
        (int(query), int(key)): float(weight)
        for key, query, weight in zip(marks.x, marks.y, marks.marker.color, strict=True)
    }
    assert drawn == {
        (0, 0): 1,
        (1, 0): 0.9,
        (1, 1): 0.1,
        (2, 2): 0.6,
        (3, 1): 0.5,
        (3, 3): 0.4,
        (4, 4): 0.7,
        (4, 0): 0.2,
    }
    assert list(marks.marker.color) == sorted(marks.marker.color)
    assert "<img" not in figure.to_json()
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]


def test_a_long_text_keeps_the_strongest_sources(monkeypatch):
    monkeypatch.setattr(streaming, "MOST_MARKS", 10)
    weights = np.linspace(0.1, 1, 30)[:, None]
    figure = streaming.top_sources(np.zeros((30, 1), dtype=int), weights, ["x"] * 30)
    np.testing.assert_allclose(figure.data[1].marker.color, weights[-10:, 0])
