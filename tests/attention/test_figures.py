"""Figures of heads: two mosaics and their difference, the three stages, grids that take clicks, curves of a head."""

import json

import numpy as np
import pytest

from probe.attention import figures as attention
from probe.attention import figures as heads
from probe.attention import figures as mosaics
from probe.attention import head_figures as head_curves
from probe.attention import head_figures as head_values
from probe.plotting import theme

TOKENS = ["<bos>", "a", "<img src=x onerror=alert(1)>", "a", "b"]
COUNT = len(TOKENS)
LOWER = np.tril(np.ones((COUNT, COUNT), dtype=bool))


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(np.where(LOWER, scores, -np.inf))
    return weights / weights.sum(-1, keepdims=True)


def inside(xs: np.ndarray, ys: np.ndarray, x: float, y: float) -> bool:
    """Whether a point lies in a polygon (even-odd rule)."""
    crossed = False
    for x0, y0, x1, y1 in zip(xs, ys, np.roll(xs, -1), np.roll(ys, -1), strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            crossed = not crossed
    return crossed


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0).normal(size=(2, 2, 3, COUNT, COUNT))
    first, second = softmax(draw[0]), softmax(2 * draw[1])
    return first, second


def stages(name: str, factor: float = 1.0) -> attention.HeadMaps:
    scores = factor * np.random.default_rng(1).normal(size=(COUNT, COUNT))
    return attention.HeadMaps(name=name, scores=scores, pattern=softmax(scores), written=softmax(scores) * factor)


def images(figure) -> list:
    return [trace for trace in figure.data if trace.type == "heatmap" and trace.coloraxis]


def targets(figure) -> list:
    return [trace for trace in figure.data if trace.type == "scatter" and trace.mode == "markers"]


def test_two_mosaics_share_one_scale_and_their_difference_is_second_minus_first(pair):
    figure = mosaics.mosaic_pair(pair, TOKENS, names=("<b>one</b>", "two"), chosen=(1, 2))
    first, second, change = images(figure)
    assert (first.coloraxis, second.coloraxis, change.coloraxis) == ("coloraxis", "coloraxis", "coloraxis2")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    scale = figure.layout.coloraxis2
    assert scale.cmin == -scale.cmax
    np.testing.assert_allclose(scale.cmax, np.abs(pair[1] - pair[0]).max(), rtol=1e-5)
    pitch = COUNT + heads.GAP
    tile = np.array(change.z, dtype=float)[pitch : pitch + COUNT, 2 * pitch : 2 * pitch + COUNT]
    np.testing.assert_allclose(tile[LOWER], (pair[1] - pair[0])[1, 2][LOWER], atol=1e-6, rtol=1e-4)
    assert np.isnan(tile[~LOWER]).all()
    assert len(figure.layout.shapes) == 3


def test_every_panel_takes_clicks_that_name_the_same_heads(pair):
    figure = mosaics.mosaic_pair(pair, TOKENS, names=("one", "two"), layers=([5, 6], [5, 6]))
    named = [[point[0] for point in trace.customdata] for trace in targets(figure)]
    assert named == [[f"L{layer}H{head}" for layer in (5, 6) for head in range(3)]] * 3


def test_the_hover_of_a_difference_names_its_largest_change(pair):
    first = np.zeros((1, 1, COUNT, COUNT))
    second = first.copy()
    second[0, 0, 4, 1] = -0.5
    second[0, 0, 3, 3] = 0.25
    mark = targets(mosaics.mosaic_pair((first, second), TOKENS, names=("one", "two")))[2]
    assert mark.customdata[0][1] == "b \u2192 a (-0.50)"


def test_models_of_different_depth_stand_side_by_side_without_a_difference(pair):
    figure = mosaics.mosaic_pair((pair[0][:1], pair[1]), TOKENS, names=("one", "two"), chosen=(1, 0))
    assert len(images(figure)) == 2
    assert len(figure.layout.shapes) == 1, "only the deeper model has the chosen head"
    assert "coloraxis2" not in figure.layout.to_plotly_json()


def test_lines_part_what_was_given_from_what_was_written(pair):
    plain = heads.attention_mosaic(pair[0], TOKENS)
    marked = heads.attention_mosaic(pair[0], TOKENS, boundary=3)
    assert len(marked.data) == len(plain.data) + 1
    lines = next(trace for trace in marked.data if trace.type == "scatter" and trace.mode == "lines" and not trace.fill)
    assert lines.y[0] == lines.y[1] == 2.5
    assert lines.x[3] == lines.x[4] == 2.5
    head = heads.attention_head(pair[0][0, 0], TOKENS, boundary=3)
    assert [trace.mode for trace in head.data if trace.type == "scatter"] == ["lines"]
    assert len(heads.attention_head(pair[0][0, 0], TOKENS, boundary=COUNT).data) == 2, "nothing was written"


def test_stages_stand_beside_each_other_on_scales_of_their_own_shared_by_the_models():
    figure = attention.head_stages([stages("one"), stages("<b>two</b>", 3.0)], TOKENS, query=3, boundary=2)
    shown = images(figure)
    assert [trace.coloraxis for trace in shown] == ["coloraxis", "coloraxis2", "coloraxis3"] * 2
    scores = figure.layout.coloraxis
    assert scores.cmin == -scores.cmax
    every = np.concatenate([stages("", factor).scores[LOWER] for factor in (1.0, 3.0)])
    assert scores.cmax <= np.abs(every).max()
    assert scores.cmax >= np.quantile(np.abs(every), 0.9)
    assert (figure.layout.coloraxis2.cmin, figure.layout.coloraxis2.cmax) == (0, 1)
    np.testing.assert_allclose(figure.layout.coloraxis3.cmax, stages("", 3.0).written[LOWER].max())
    for trace in shown:
        assert np.isnan(np.array(trace.z, dtype=float)[~LOWER]).all()
    assert [(shape.y0, shape.y1) for shape in figure.layout.shapes] == [(2.5, 3.5)] * 6


def test_a_click_on_a_stage_names_query_and_source_and_never_the_future():
    figure = attention.head_stages([stages("one")], TOKENS)
    for trace in targets(figure):
        where = [tuple(point[:2]) for point in trace.customdata]
        assert where == [(t, s) for t in range(COUNT) for s in range(t + 1)]
        assert [(int(y), int(x)) for x, y in zip(trace.x, trace.y, strict=True)] == where


def test_a_long_text_keeps_its_hover_without_markers():
    for length, named in ((attention.MOST_CLICKABLE + 1, True), (heads.MOST_NAMED + 1, False)):
        weights = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
        one = attention.HeadMaps(name="one", scores=weights, pattern=weights, written=weights)
        figure = attention.head_stages([one], ["a"] * length)
        assert not targets(figure)
        cells = images(figure)[1]
        assert (cells.customdata is not None) == named
        assert ("%{customdata[0]} \u2192" in cells.hovertemplate) == named
        assert ("[%{y}] \u2192 [%{x}]" in cells.hovertemplate) != named


def test_hover_names_query_before_key():
    settings = heads.pair_hover(["a", "<b>"], "{} looks at {}")
    assert settings["customdata"][1, 0].tolist() == ["&lt;b&gt; [1]", "a [0]"]
    assert settings["hovertemplate"] == "%{customdata[0]} looks at %{customdata[1]}"


def test_the_grey_of_the_mosaic_covers_what_the_mask_hides_and_no_more(pair):
    figure = heads.attention_mosaic(pair[0], TOKENS)
    grey = next(trace for trace in figure.data if trace.fill == "toself")
    pitch = COUNT + heads.GAP
    outlines = np.split(np.stack([grey.x, grey.y], 1), np.flatnonzero(np.isnan(grey.x)))
    shapes = [part[~np.isnan(part[:, 0])] for part in outlines if len(part) > 1]
    assert len(shapes) == 2 * 3
    for number, shape in enumerate(shapes):
        x, y = (shape - [(number % 3) * pitch, (number // 3) * pitch]).T
        area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
        assert area == COUNT * (COUNT - 1) / 2
        assert x.min() == 0.5
        assert y.min() == -0.5
        assert (x.max(), y.max()) == (COUNT - 0.5, COUNT - 1.5)
        for t in range(COUNT):
            for s in range(COUNT):
                assert inside(x, y, s, t) == (s > t)


def test_written_bars_mark_the_query_and_name_their_token_for_clicks():
    share = np.array([0.5, 0.25, 0.1, 0.35, 0.2])
    figure = attention.written_bars([("one", share, 2 * share)], TOKENS, query=2, boundary=4)
    assert list(figure.data[0].y) == list(share)
    assert [(point[0], point[2]) for point in figure.data[0].customdata] == list(enumerate(2 * share))
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(1.5, 2.5), (3.5, 3.5)]


def test_word_bars_keep_their_order_and_share_a_scale_around_zero():
    panels = [("one", ["up", "<b>down</b>"], np.array([1.5, -0.5])), ("two", ["a", "b"], np.array([3.0, -4.0]))]
    figure = attention.word_bars(panels)
    assert list(figure.layout.yaxis.ticktext) == ["up", "&lt;b&gt;down&lt;/b&gt;"]
    first, second = figure.data[0].marker.color
    assert first != second
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range
    assert figure.layout.xaxis.range[0] == -figure.layout.xaxis.range[1]
    assert figure.layout.xaxis.range[1] > 4


def test_a_change_is_centred_on_zero():
    change = np.zeros((COUNT, COUNT))
    change[3, 1] = -0.4
    figure = heads.change_map(change, TOKENS)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.4, 0.4)
    assert "change" in figure.data[1].hovertemplate


def test_grids_share_a_scale_and_centre_what_is_signed():
    first, second = np.array([[0.1, 0.9]]), np.array([[0.3, np.nan]])
    panels = [("one", first), ("two", second), ("difference", second - first)]
    figure = head_values.head_grids(panels, "score", signed=(False, False, True), chosen=(0, 1))
    axes = [trace.coloraxis for trace in images(figure)]
    assert axes == ["coloraxis", "coloraxis", "coloraxis2"]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.0, 0.9)
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    assert [len(trace.x) for trace in targets(figure)] == [2, 1, 1], "an empty cell takes no click"
    assert images(figure)[2].text[0][0] == "+0.20"
    assert len(figure.layout.shapes) == 3


def test_signed_grids_alone_use_the_diverging_scale():
    figure = head_values.head_grids([("Q", np.array([[-0.5, 0.25]]))], "excess", signed=(True,))
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax == -0.5
    colours = tuple(colour for _, colour in figure.layout.coloraxis.colorscale)
    assert colours == theme.LIGHT.diverging


def test_a_ranking_names_heads_in_its_order_for_clicks():
    figure = head_values.head_ranking([(2, 1), (0, 3)], np.array([0.9, 0.2]), "distance", chosen=(0, 3))
    assert list(figure.layout.yaxis.ticktext) == ["L2H1", "L0H3"]
    assert [list(point) for point in figure.data[0].customdata] == [["L2H1"], ["L0H3"]]
    assert list(figure.data[0].marker.opacity) == [0.55, 1.0]


def test_spectra_have_one_panel_a_map_and_one_legend_entry_a_model():
    values = np.array([3.0, 1.0, 0.5])
    panels = [("QK", [("one", values), ("two", values / 2)]), ("OV", [("one", values), ("two", values)])]
    figure = head_curves.spectra(panels, colours=("#111111", "#222222"))
    assert [trace.name for trace in figure.data if trace.showlegend] == ["one", "two"]
    np.testing.assert_array_equal(figure.data[1].y, values / 2)
    assert list(figure.data[0].x) == [1, 2, 3]


def test_rollout_and_lags():
    figure = head_curves.rollout_map(np.full((2, COUNT), 0.2), TOKENS, boundary=3)
    assert list(figure.layout.yaxis.ticktext) == ["L0", "L1"]
    assert figure.layout.shapes[0].x0 == 2.5
    lags = head_curves.lag_curves([("one", np.array([0.5, 0.3]))])
    assert list(lags.data[0].x) == [1, 2]
    assert list(lags.data[0].customdata) == [0, 1]


def test_no_figure_holds_markup_of_data(pair):
    bad, grid = TOKENS[2], np.ones((2, 2))
    share = np.ones(3)
    figures = [
        mosaics.mosaic_pair(pair, TOKENS, names=(bad, bad), boundary=2),
        attention.head_stages([stages(bad), stages(bad)], TOKENS),
        attention.written_bars([(bad, share, share), (bad, share, share)], TOKENS, query=2, colours=("#111", "#222")),
        attention.word_bars([(bad, [bad], np.ones(1)), (bad, [bad], np.ones(1))]),
        heads.change_map(pair[0][0, 0], TOKENS),
        head_curves.score_curves([0, 1], {"sink": np.ones(2)}),
        head_values.head_grids([(bad, grid)], "score"),
        head_curves.spectra([(bad, [(bad, share), (bad, share)])], colours=("#111", "#222")),
        head_curves.rollout_map(np.ones((1, COUNT)), TOKENS),
        head_curves.lag_curves([(bad, share), (bad, share)], colours=("#111", "#222")),
    ]
    for figure in figures:
        assert "<img" not in json.dumps(figure.to_plotly_json(), default=list)


def test_a_small_figure_names_no_more_tokens_than_it_has_room_for():
    many = [f"t{index}" for index in range(60)]
    axis = heads.named_axis(many, 10)
    assert len(axis["tickvals"]) <= 10
    assert axis["ticktext"] == [many[at] for at in axis["tickvals"]]
    assert heads.named_axis(TOKENS, 10)["tickvals"] == list(range(COUNT))
