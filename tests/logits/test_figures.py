"""Figures of logit dynamics: what a cell says, which rows are shown, which column is framed, and the axes of curves."""

import json

import numpy as np
import pytest

from probe.logits.figures import (
    BETWEEN,
    MARGINS,
    RANKS,
    TALLEST,
    LensPanel,
    ModelMeasures,
    curves,
    kl_map,
    lens_map,
    lens_stride,
)
from probe.logits.part_figures import training_kl, training_lines, training_map, training_parts
from probe.plotting.marks import ROW, fit_text
from probe.plotting.theme import LIGHT

HOSTILE = "<b>x</b> $y$ %{z}"


def panel(name="m", rows=5, width=4, seed=0, word="w"):
    draw = np.random.default_rng(seed)
    names = np.array(
        [[[f"{word}{r}.{t}.{k}" for k in range(3)] for t in range(width)] for r in range(rows)], dtype=object
    )
    return LensPanel(name, -draw.random((rows, width)) * 5, names, -np.sort(draw.random((rows, width, 3))))


def side(points=4, answers=2, seed=0, name="m"):
    draw = np.random.default_rng(seed)
    ranks = draw.integers(0, 50, (points, answers))
    names = [f"L{i}" for i in range(points)]
    return ModelMeasures(
        name, "#3F78C6", draw.random(points), draw.random(points), -draw.random((points, answers)), ranks, names
    )


TOKENS = ["a", "b", "a", "c"]


def test_two_lenses_share_a_scale_and_have_a_difference():
    first, second = panel(), panel(seed=1)
    figure = lens_map([first, second], TOKENS, start=3, chosen=5, label="log p(w)")
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    np.testing.assert_allclose(maps[2].z, second.values - first.values, atol=1e-6, rtol=1e-4)
    assert [trace.coloraxis for trace in maps] == ["coloraxis", "coloraxis", "coloraxis2"]
    assert figure.layout.coloraxis.cmax == 0
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    assert maps[0].text[4][1] == "w4.1.0"
    assert list(figure.layout.yaxis.ticktext) == ["embedding", "L0", "L1", "L2", "L3 = output"]
    frames = figure.layout.shapes
    assert len(frames) == 3
    assert {(frame.x0, frame.x1) for frame in frames} == {(1.5, 2.5)}


def test_a_click_gives_the_position_in_the_text():
    figure = lens_map([panel()], TOKENS, start=3, chosen=3, label="log p(w)")
    (squares,) = (trace for trace in figure.data if trace.type == "scatter")
    assert {data[0] for data in squares.customdata} == {3, 4, 5, 6}
    for x, y, text, data in zip(squares.x, squares.y, squares.text, squares.customdata, strict=True):
        assert data[0] == round(x) + 3
        assert f"w{round(y)}.{round(x)}.0 " in text
        assert f"[{data[0]}]" in text


def test_models_of_different_depth_have_no_difference():
    figure = lens_map([panel(), panel(rows=3)], TOKENS, label="log p(w)")
    assert sum(trace.type == "heatmap" for trace in figure.data) == 2


@pytest.mark.parametrize(("models", "every", "stride"), [(2, None, 3), (1, None, 1), (2, 1, 1), (2, 5, 5)])
def test_a_deep_model_shows_every_nth_layer_in_readable_rows(models: int, every: int | None, stride: int):
    deep = panel(rows=31, word="extraordinarily")
    lenses = [deep, panel(rows=31, seed=1)][:models]
    assert every is not None or lens_stride(lenses) == stride
    figure = lens_map(lenses, TOKENS, label="log p(w)", height=420, every=every)
    names = list(figure.layout.yaxis.ticktext)
    assert names == ["embedding", *(f"L{row - 1}" for row in range(1, 30) if (30 - row) % stride == 0), "L29 = output"]
    for row, name in enumerate(names[1:-1], start=1):
        np.testing.assert_allclose(figure.data[0].z[row], deep.values[int(name[1:]) + 1], atol=1e-6, rtol=1e-4)
    maps = 2 * models - 1
    assert (figure.layout.height - MARGINS - BETWEEN * (maps - 1)) / (maps * len(names)) >= ROW - 0.1
    assert every is not None or figure.layout.height <= TALLEST
    assert figure.data[0].text[0][0] == "extraordinari\u2026"
    assert "extraordinarily0.0.0 " in figure.data[1].text[0]


def test_a_token_fits_its_cell_or_is_cut_or_left_out():
    assert fit_text("extraordinary", (80.0, ROW)) == "extraordinary"
    assert fit_text("extraordinary", (60.0, ROW)) == "extraord\u2026"
    assert fit_text("<b>", (60.0, ROW)) == "&lt;b&gt;"
    assert fit_text("extraordinary", (60.0, ROW - 1)) == ""
    assert fit_text("extraordinary", (12.0, ROW)) == ""
    assert fit_text("is", (12.0, ROW)) == "is"


def test_a_scalar_has_a_scale_centred_on_zero_and_numbers_in_its_cells():
    figure = lens_map([LensPanel("m", np.array([[1.0, -3.0], [0.5, 2.0]]))], ["a", "b"], label="reward", unit="reward")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 3)
    assert figure.data[0].text[0] == ["+1.0", "-3.0"]
    assert figure.layout.coloraxis.colorbar.title.text.count("reward") == 1


def test_curves_have_one_line_a_model_and_answer():
    figure = curves([side(), side(seed=1, name="n")], ["x", "y"], axis="after layer", ticks=["emb", "L0", "L1", "L2"])
    assert len(figure.data) == 4 + 4 + 2 + 2
    ranks = [trace for trace in figure.data if trace.yaxis == "y2"]
    assert min(min(trace.y) for trace in ranks) >= 1
    assert figure.layout.yaxis2.type == "log"
    assert figure.layout.yaxis2.autorange == "reversed"
    assert sum(bool(trace.showlegend) for trace in figure.data) == 4
    assert {trace.line.dash for trace in figure.data if trace.yaxis == "y"} == {"solid", "dash"}
    assert list(figure.layout.yaxis2.tickvals) == RANKS
    wide = ModelMeasures(**(vars(side()) | {"ranks": np.full((4, 2), 40_000)}))
    axis = curves([side(), wide], ["x", "y"], axis="after layer", ticks=["a"] * 4).layout.yaxis2
    assert list(axis.tickvals) == [1, 10, 100, 1000, 10_000, 100_000]
    alone = curves([side(answers=0)], [], axis="after layer", ticks=["a"] * 4)
    assert [note.text for note in alone.layout.annotations] == ["entropy (nats)", "margin (nats)"]


def test_training_is_shown_by_layer_and_step():
    values = np.arange(6.0).reshape(3, 2)
    figure = training_map(values, [0, 1000], ["embedding", "L0", "L1"], label="rank\nrank", low=0, high=5)
    np.testing.assert_array_equal(figure.data[0].z, values)
    assert list(figure.layout.xaxis.ticktext) == ["0", "1,000"]
    lines = training_lines(
        {"p": {"a": np.zeros(2), "b": np.ones(2)}, "e": {"e": np.ones(2)}}, [0, 1000], colour="#111111"
    )
    assert [trace.name for trace in lines.data] == ["a", "b", "e"]
    assert list(lines.data[0].x) == [0, 1000]


def test_ranks_over_training_are_coloured_by_their_logarithm_and_read_as_they_are():
    figure = training_map(
        np.array([[1.0, 100.0], [10.0, np.nan]]), [0, 5], ["a", "b"], label="r", low=1, high=100, logarithmic=True
    )
    np.testing.assert_allclose(figure.data[0].z, [[0, 2], [1, np.nan]])
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 2)
    bar = figure.layout.coloraxis.colorbar
    at = dict(zip(bar.ticktext, bar.tickvals, strict=True))
    assert (at["1"], at["100"], at["1,000"]) == pytest.approx((0, 2, 3))
    assert figure.data[0].customdata[0][1] == "a, step 5: 100"


def test_the_strongest_parts_over_training_are_shown_around_zero():
    values = np.array([[0.1, 0.1], [0.0, -3.0], [2.0, np.nan], [0.5, 0.2]])
    figure = training_parts(values, [0, 10], ["a", "b", "c", "d"], label=HOSTILE, k=3)
    assert list(figure.layout.yaxis.ticktext) == ["d", "c", "b"]  # upwards
    np.testing.assert_allclose(figure.data[0].z, values[[3, 2, 1]], rtol=1e-6)
    axis = figure.layout.coloraxis
    assert (axis.cmin, axis.cmax) == (-3, 3)
    assert [colour for _, colour in axis.colorscale] == list(LIGHT.diverging)
    assert "<b>x" not in figure.to_json()
    assert figure.data[0].customdata[2][1] == "b, step 10: -3.000"


def test_kl_over_training_is_read_downwards_from_zero():
    kl = np.array([[0.0, 0.4], [0.1, np.nan], [0.0, 0.2]])
    figure = training_kl(kl, [0, 1000], ["a", HOSTILE, "a"])
    np.testing.assert_allclose(figure.data[0].z, kl, rtol=1e-6)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 0.4)
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.yaxis.ticktext[2] == "a [2]"
    assert figure.data[0].customdata[2][1] == "a [2], step 1,000: 0.200"
    assert "<b>x" not in figure.to_json()
    assert training_kl(kl[:, :1] * 0, [0], ["a", "b", "c"]).layout.coloraxis.cmax > 0


def test_kl_is_a_map_from_zero():
    kl = np.array([[0.0, 0.1], [2.0, 0.3]])
    figure = kl_map(kl, ["a", "b"])
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 2)
    assert figure.data[0].text[1][0] == "2.00"


@pytest.mark.parametrize(
    "figure",
    [
        lens_map([panel(HOSTILE, word=HOSTILE), panel(HOSTILE, seed=1)], [HOSTILE] * 4, label=HOSTILE),
        curves([side(name=HOSTILE)], [HOSTILE, HOSTILE], axis="x", ticks=[HOSTILE] * 4),
        kl_map(np.ones((2, 1)), [HOSTILE]),
        training_lines({"p": {HOSTILE: np.ones(1)}}, [0], colour="#111111"),
        training_map(np.ones((1, 1)), [0], [HOSTILE], label=HOSTILE, low=0, high=1),
        training_parts(np.ones((1, 1)), [0], [HOSTILE], label=HOSTILE),
        training_kl(np.ones((1, 1)), [0], [HOSTILE]),
    ],
)
def test_text_from_data_stays_text(figure):
    spec = json.loads(figure.to_json())
    text = json.dumps(spec["data"]) + json.dumps({k: v for k, v in spec["layout"].items() if k != "template"})
    assert "<b>" not in text
    assert "$y$" not in text
    assert "%{z}" not in text.replace("%{z:", "")
