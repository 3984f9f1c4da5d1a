"""Figures from arrays and tables: what is drawn, where, on which scale, and never as markup."""

import json

import numpy as np
import pandas as pd
import pytest

from probe.attention import figures as heads
from probe.compare import figures as pairs
from probe.logits import figures as lens
from probe.plotting import curves, intervals, theme
from probe.plotting import runs as lineage

TOKENS = ["<bos>", "where", "does", "<img src=x onerror=alert(1)>", "live", "where"]
COUNT = len(TOKENS)


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def attention() -> np.ndarray:
    scores = np.random.default_rng(0).normal(size=(2, 3, COUNT, COUNT))
    return softmax(np.where(np.tril(np.ones((COUNT, COUNT))), scores, -np.inf)).astype(np.float16)


@pytest.fixture
def runs() -> pd.DataFrame:
    rows = [
        ("base", "pretrain", "finished", None, None, None),
        ("reward", "reward-model", "finished", "base", None, None),
        ("rlhf", "rlhf", "running", "base", "base", "reward"),
        ("other", "odd", "failed", "gone", None, None),
    ]
    return pd.DataFrame(rows, columns=["name", "method", "status", "parent", "reference", "reward_model"])


def favourites() -> lens.Favourites:
    names = [[[f"<b>{row}{column}{rank}</b>" for rank in range(3)] for column in range(COUNT)] for row in range(3)]
    return names, np.log(np.tile([0.6, 0.3, 0.1], (3, COUNT, 1)))


def test_mosaic_places_every_head_and_hides_the_future(attention: np.ndarray):
    image = heads.mosaic(attention)
    pitch = COUNT + heads.GAP
    assert image.shape == (2 * pitch - 1, 3 * pitch - 1)
    tile = image[pitch : pitch + COUNT, 2 * pitch : 2 * pitch + COUNT]
    lower = np.tril(np.ones((COUNT, COUNT), dtype=bool))
    np.testing.assert_array_equal(tile[lower], attention[1, 2][lower].astype(np.float32))
    assert np.isnan(tile[~lower]).all()
    assert np.isnan(image[COUNT]).all()


def test_a_marker_above_each_head_names_it(attention: np.ndarray):
    figure = heads.attention_mosaic(attention, TOKENS, layers=[4, 7], chosen=(7, 1))
    marks = figure.data[-1]
    assert [point[0] for point in marks.customdata] == [f"L{layer}H{head}" for layer in (4, 7) for head in range(3)]
    assert len(figure.layout.shapes) == 1
    middle = figure.layout.shapes[0].x0 + (figure.layout.shapes[0].x1 - figure.layout.shapes[0].x0) / 2
    assert middle == marks.x[4]
    assert list(figure.layout.yaxis.ticktext) == ["L4", "L7"]


def test_head_has_queries_downwards_and_grey_above_the_diagonal(attention: np.ndarray):
    figure = heads.attention_head(attention[0, 0], TOKENS)
    hidden, shown = (np.array(trace.z, dtype=float) for trace in figure.data)
    assert np.isnan(shown[0, 1:]).all()
    assert (hidden[np.isnan(shown)] == 1).all()
    assert np.isnan(hidden[~np.isnan(shown)]).all()
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.title.text.startswith("key")
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)


def test_lens_grid_has_the_output_on_top_and_probabilities_as_colour():
    figure = lens.lens_grid(favourites(), TOKENS, width=900)
    assert list(figure.layout.yaxis.ticktext) == ["embedding", "L0", "L1 = output"]
    np.testing.assert_allclose(figure.data[0].z, 0.6, rtol=1e-6)


def test_lens_pair_shares_one_scale_and_centres_the_difference():
    base, aligned = np.full((3, COUNT), -3.0), np.full((3, COUNT), -1.0)
    both = (favourites(), favourites())
    figure = lens.lens_pair(both, (base, aligned), TOKENS, names=("<b>a</b>", "c"), answer="x")
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis", "coloraxis2"]
    assert figure.layout.coloraxis.cmin == -3
    assert figure.layout.coloraxis2.cmin == -figure.layout.coloraxis2.cmax
    np.testing.assert_allclose(figure.data[2].z, 2.0)


def test_models_of_different_depth_have_no_difference():
    both = (favourites(), favourites())
    figure = lens.lens_pair(both, (np.zeros((3, COUNT)), np.zeros((2, COUNT))), TOKENS, names=("a", "b"), answer="x")
    assert len(figure.data) == 2


def test_lineage_has_a_row_for_each_run_below_its_parent(runs: pd.DataFrame):
    place = lineage.layout(runs)
    assert sorted(y for _, y in place.values()) == [0, 1, 2, 3]
    assert place["base"][0] == place["other"][0] == 0
    assert place["rlhf"][0] == place["reward"][0] == 1
    assert place["base"][1] < place["reward"][1]


def test_lineage_counts_a_reference_that_is_the_parent_once(runs: pd.DataFrame):
    found = lineage.edges(runs)
    assert found == [("base", "reward", "parent"), ("base", "rlhf", "parent"), ("reward", "rlhf", "reward_model")]


def test_a_circle_of_parents_is_drawn_all_the_same():
    rows = [{"name": a, "parent": b, "reference": None, "reward_model": None} for a, b in (("a", "b"), ("b", "a"))]
    assert len(lineage.layout(pd.DataFrame(rows))) == 2


def test_lineage_marks_carry_names_for_clicks_and_colours_of_methods(runs: pd.DataFrame):
    figure = lineage.lineage(runs, ["rlhf"])
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers+text"}
    assert marks["rlhf"].customdata[0][0] == "rlhf"
    assert marks["rlhf"].marker.color == theme.METHODS["rlhf"]
    assert marks["rlhf"].marker.line.width == (3,)
    assert marks["pretrain"].marker.line.width == (0,)


def test_smoothing_keeps_constants_starts_unbiased_and_leaves_gaps():
    np.testing.assert_allclose(curves.smooth(np.full(5, 2.0), 0.9), 2.0)
    values = np.array([1.0, np.nan, 3.0])
    smoothed = curves.smooth(values, 0.5)
    assert smoothed[0] == 1
    assert np.isnan(smoothed[1])
    np.testing.assert_allclose(smoothed[2], (0.25 * 1 + 0.5 * 3) / 0.75)
    np.testing.assert_array_equal(curves.smooth(np.array([1.0, 5.0]), 0.0), [1, 5])


def test_sections_by_prefix():
    columns = ["step", "time", "loss", "eval_loss", "lr", "rewards/chosen", "rewards/margins", "step_time", "entropy"]
    assert curves.sections(columns) == {
        "loss": ["loss", "eval_loss"],
        "optimiser": ["lr"],
        "rewards/": ["rewards/chosen", "rewards/margins"],
        "speed": ["step_time"],
        "other": ["entropy"],
    }
    sampled = curves.sections(["step", "loss", "kl_to_optimal", "reward", "reward_std", "kl"])
    assert sampled == {"loss": ["loss"], "reward": ["reward", "kl", "kl_to_optimal", "reward_std"]}


def test_curves_draw_each_run_in_its_style_and_skip_what_it_lacks():
    frames = {
        "base": pd.DataFrame({"step": [0, 1], "time": [0.0, 9.0], "loss": [2.0, 1.0]}),
        "<b>dpo</b>": pd.DataFrame({"step": [0, 1], "time": [0.0, 5.0], "loss": [np.nan, 3.0], "kl": [0.1, 0.2]}),
    }
    look = curves.styles({"base": "pretrain", "<b>dpo</b>": "dpo"})
    figure = curves.metric_curves(frames, ["loss", "kl"], look, x="time", weight=0.5, log_y=True, marker=4)
    drawn = [trace for trace in figure.data if trace.showlegend is False and trace.hoverinfo != "skip"]
    assert [tuple(trace.x) for trace in drawn] == [(0, 9), (5,), (0, 5)]
    assert figure.layout.yaxis.type == "log"
    assert figure.layout.xaxis2.title.text == "training time (s)"
    assert len(figure.layout.shapes) == 2
    legend = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.line.color for trace in legend] == [theme.METHODS["pretrain"], theme.METHODS["dpo"]]


def test_losses_of_two_objectives_share_no_axis():
    """Each meaning of a metric has a panel; a run whose method says nothing stands with the one that is known."""
    methods = {
        "base": "pretrain",
        "icl": "pretrain",
        "sft": "sft",
        "pairs": "dpo",
        "judge": "reward-model",
        "mine": "x",
    }
    frame = pd.DataFrame({"step": [0, 1], "loss": [2.0, 1.0], "eval_loss": [2.0, 1.0], "lr": [0.1, 0.1]})
    frames = dict.fromkeys(methods, frame)
    panels = curves.metric_panels(frames, ["loss", "eval_loss", "lr"], methods)
    assert [(panel.metric, panel.about.title, panel.runs) for panel in panels] == [
        ("loss", "loss", ("base", "icl", "mine")),
        ("loss", "loss on completions", ("sft",)),
        ("loss", "DPO loss of pairs", ("pairs",)),
        ("loss", "loss of pairs", ("judge",)),
        ("eval_loss", "held-out loss", ("base", "icl")),
        ("eval_loss", "held-out loss on completions", ("sft",)),
        ("eval_loss", "eval_loss", ("pairs", "mine")),
        ("eval_loss", "held-out loss of pairs", ("judge",)),
        ("lr", "learning rate", tuple(methods)),
    ]
    figure = curves.metric_curves(frames, ["loss"], curves.styles(methods), methods=methods)
    axes = {}
    for trace in figure.data:
        if trace.showlegend is False:
            axes.setdefault(trace.yaxis, []).append(trace.name)
    assert axes == {"y": ["base", "icl", "mine"], "y2": ["sft"], "y3": ["pairs"], "y4": ["judge"]}
    assert (
        len(curves.metric_curves(frames, ["loss"], curves.styles(methods), methods=methods, most=2).layout.annotations)
        == 2
    )


def test_effects_of_two_units_share_no_axis():
    rows = [(0.5, 0.4, 0.6), (1.2, 1.0, 1.4), (-0.3, -0.4, -0.2), (0.6, 0.3, 0.8)]
    names, units = (
        ["a long name of a claim that takes two lines of text", "b", "c", "d"],
        ["difference", "nats", "difference", "correlation"],
    )
    figure = intervals.effects(names, rows, ["holds", "fails", "undecided", "holds"], units, [[0.4], [2.0], [], []])
    places = {}
    for trace in figure.data:
        places.setdefault(trace.xaxis, []).extend(trace.x)
    assert {axis: sorted(x) for axis, x in places.items()} == {"x": [-0.3, 0.4, 0.5], "x2": [1.2, 2.0], "x3": [0.6]}
    titles = [figure.layout[axis].title.text for axis in ("xaxis", "xaxis2", "xaxis3")]
    assert titles == [f"{unit}, with 95 % interval" for unit in ("percentage points", "nats", "correlation")]
    assert figure.layout.yaxis.ticktext == ("a long name of a claim that takes two lines of<br>text", "c")
    legend = [trace.name for trace in figure.data if trace.showlegend]
    assert sorted(legend) == ["fails", "holds", "one training", "undecided"]
    marked = intervals.effects(names, rows, ["holds"] * 4, units, thresholds=[0.05, 0.1, -0.2, 0.3])
    marks = {trace.xaxis: tuple(trace.x) for trace in marked.data if trace.name == "threshold"}
    assert marks == {"x": (0.05, -0.2), "x2": (0.1,), "x3": (0.3,)}


def test_answers_differ_by_colour():
    figure = curves.answer_curves([0, 1], np.zeros((2, 4)), ["a", "b", "c", "d"])
    colours = [trace.line.color for trace in figure.data]
    assert len(set(colours)) == 4
    assert not {*colours} & {*theme.METHODS.values(), *theme.SECOND.values()}


def test_relative_steps_end_together():
    frames = {
        name: pd.DataFrame({"step": [0, n // 2, n], "loss": [3.0, 2.0, 1.0]}) for name, n in (("a", 10), ("b", 400))
    }
    relative = {name: curves.with_axes(frame, int(frame["step"].max())) for name, frame in frames.items()}
    figure = curves.metric_curves(relative, ["loss"], curves.styles({"a": "sft", "b": "dpo"}), x=curves.RELATIVE)
    assert [tuple(trace.x) for trace in figure.data if trace.showlegend is False] == [(0, 50, 100)] * 2
    assert figure.layout.xaxis.title.text == "step (% of the run)"


def test_tokens_are_known_where_they_were_counted():
    frame = pd.DataFrame({"step": [0, 2, 3, 4], "loss": [4.0, 3.0, np.nan, 1.0], "eval_loss": [4.0, np.nan, 2.0, 1.0]})
    counted = curves.with_axes(frame.assign(num_tokens=[np.nan, 20.0, np.nan, 50.0]), 4)
    assert counted[curves.TOKENS].fillna(-1).tolist() == [0, 20, -1, 50]
    assert counted["num_tokens"].isna().tolist() == [True, False, True, False]
    assert curves.TOKENS not in curves.with_axes(frame, 4)
    assert curves.TOKENS not in curves.with_axes(frame.assign(num_tokens=[0.0, 20.0, 30.0, 10.0]), 4)
    runs = {"a": counted, "b": curves.with_axes(frame, 4)}
    figure = curves.metric_curves(
        runs, ["loss", "eval_loss"], curves.styles(dict.fromkeys(runs, "sft")), x=curves.TOKENS
    )
    assert [tuple(trace.x) for trace in figure.data if trace.showlegend is False] == [(0, 20, 50), (0, 50)]
    assert figure.layout.xaxis.title.text == "tokens trained on"
    assert not {curves.TOKENS, curves.RELATIVE} & {
        name for names in curves.sections(list(counted)).values() for name in names
    }


def test_runs_of_one_method_differ_by_colour_and_dash():
    look = curves.styles({"icl": "pretrain", "a": "dpo", "b": "dpo", "c": "dpo", "base": "pretrain"}, first="base")
    assert list(look) == ["icl", "a", "b", "c", "base"]
    assert look["base"] == curves.Style(theme.METHODS["pretrain"]), "the base is grey"
    assert look["icl"] == curves.Style("#996AFF", "dash")
    assert len({(style.colour, style.dash) for style in look.values()}) == len(look)
    assert look["a"].colour == look["c"].colour == theme.METHODS["dpo"] != look["b"].colour
    assert look["a"].dash != look["c"].dash


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ((0.96, 0.94, 0.98), "0.96 [0.94, 0.98]"),
        ((-1.5, -2.0, -1.0), "\u22121.50 [\u22122.00, \u22121.00]"),
        ((0.5, None, None), "0.5"),
        ((float("nan"), 0, 1), "\u2014"),
        ((1234.0, 1200.0, 1300.0), "1234 [1200, 1300]"),
    ],
)
def test_numbers_with_intervals(row: tuple, text: str):
    assert intervals.format_interval(*row) == text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ((0.96, 0.94, 0.98), "96 % [94, 98]"),
        ((0.96, float("nan"), float("nan")), "96 %"),
        ((float("nan"), 0.0, 1.0), "\u2014"),
    ],
)
def test_shares_with_intervals(row: tuple, text: str):
    assert intervals.percent(*row) == text


def test_interval_bars_reach_from_low_to_high():
    table = pd.DataFrame({"run": ["a"], "metric": ["accuracy"], "value": [0.5], "ci_low": [0.4], "ci_high": [0.7]})
    figure = intervals.headline_intervals(table, curves.styles({"a": "dpo"}))
    bar = figure.data[0].error_x
    np.testing.assert_allclose([bar.array[0], bar.arrayminus[0]], [0.2, 0.1])


def test_kl_bars_mark_the_continuation_and_the_token():
    kl = np.array([np.nan, 0.1, 0.2, 0.3, 0.0, 1.0])
    figure = lens.kl_bars(kl, TOKENS, start=4, chosen=5)
    assert figure.layout.shapes[0].x0 == 3.5
    assert figure.data[0].marker.opacity == (0.45,) * 5 + (1.0,)


def test_no_figure_holds_markup_of_data(attention: np.ndarray, runs: pd.DataFrame):
    bad = TOKENS[3]
    look = curves.styles({bad: "dpo"})
    frame = pd.DataFrame({"step": [0], "time": [0.0], bad: [1.0]})
    table = pd.DataFrame({"run": [bad], "metric": [bad], "value": [0.5], "ci_low": [0.4], "ci_high": [0.7]})
    top = (([bad], np.array([0.5])), ([bad], np.array([0.5])))
    both = (favourites(), favourites())
    zeros = (np.zeros((3, COUNT)), np.zeros((3, COUNT)))
    figures = [
        heads.attention_mosaic(attention, TOKENS),
        heads.attention_head(attention[0, 0], TOKENS),
        lens.lens_grid(favourites(), TOKENS),
        lens.lens_pair(both, zeros, TOKENS, names=(bad, bad), answer=bad),
        curves.metric_curves({bad: frame}, [bad], look, weight=0.5),
        curves.answer_curves([0], np.zeros((1, 1)), [bad]),
        intervals.headline_intervals(table, look),
        lens.kl_bars(np.zeros(COUNT), TOKENS),
        pairs.next_tokens(top, names=(bad, bad), colours=("#000000", "#000000")),
    ]
    for figure in figures:
        assert "<img" not in json.dumps(strip_keys(figure.to_plotly_json()), default=list)
    named = lineage.lineage(runs.assign(name=[bad, *runs["name"][1:]], method=bad, status=bad))
    for trace in named.data:
        assert "<img" not in f"{trace.name}{trace.text}{trace.hovertemplate}"
        assert all("<img" not in part for point in trace.customdata or () for part in point[1:])


def strip_keys(figure: dict) -> dict:
    """The figure without `legendgroup`, which is a key that Plotly never shows."""
    for trace in figure["data"]:
        trace.pop("legendgroup", None)
    return figure


def test_a_panel_says_what_its_metric_is():
    """The title and the unit over it, the name and the definition under the mouse, rates in percent."""
    frame = pd.DataFrame({"step": [0, 1], "time": [0.0, 1.0], "rewards/margins": [0.0, 1.0], "my_own": [1.0, 2.0]})
    frame["rewards/accuracies"] = [0.5, 0.75]
    metrics = ["rewards/margins", "my_own", "rewards/accuracies"]
    figure = curves.metric_curves({"a": frame}, metrics, curves.styles({"a": "dpo"}), methods={"a": "dpo"})
    titles = [each.text.replace("<br>", " ") for each in figure.layout.annotations]
    assert titles == ["implicit reward, margin (nats)", "my_own", "pairs with a positive margin"]
    assert figure.layout.annotations[0].hovertext.startswith("rewards/margins (nats, higher is better): ")
    assert figure.layout.annotations[1].hovertext is None
    assert [figure.layout[name].tickformat for name in ("yaxis", "yaxis2", "yaxis3")] == [None, None, ".0%"]
    assert figure.data[2].hovertemplate == "%{x:.6g}: %{y:.1%}"


def test_lines_of_rates_are_in_percent_and_called_by_their_titles():
    rows = [("a", "invention", 0.5, 0.4, 0.7), ("a", "deferral", 0.2, 0.1, 0.3)]
    table = pd.DataFrame(rows, columns=["run", "metric", "value", "ci_low", "ci_high"])
    figure = intervals.headline_intervals(table, curves.styles({"a": "dpo"}))
    assert figure.layout.xaxis.tickformat == ".0%"
    assert figure.layout.yaxis.ticktext == (
        "unseen entities:<br>hallucinates (sampled)",
        "false claim: repeated<br>(sampled)",
    )
    assert figure.data[0].customdata[1] == ["false claim: repeated (sampled) (deferral)", "20 % [10, 30]"]
    mixed = pd.concat([table, table.assign(metric="gold_reward")])
    assert intervals.headline_intervals(mixed, curves.styles({"a": "dpo"})).layout.xaxis.tickformat is None


def test_rounding_is_drawn_flat_and_ticks_can_be_told_apart() -> None:
    """A ratio of 1 within rounding, a share that hardly changes, and a loss whose small changes count."""
    ratio = curves.linear_axis(np.array([1 - 2e-6, 1.0, 1 + 1e-6, np.nan]), "")
    assert ratio["range"] == pytest.approx([0.99, 1.01], abs=1e-5)
    assert curves.linear_axis(np.array([0.0071, 0.0126]), "share")["tickformat"] == ".2%"
    assert curves.linear_axis(np.array([0.1, 0.9]), "share")["tickformat"] == ".0%"
    assert curves.linear_axis(np.array([1 - 1e-7, 1.0]), "share")["tickformat"] == ".1%"
    assert "range" not in curves.linear_axis(np.array([2.001, 2.0]), "nats")
    assert "range" not in curves.linear_axis(np.array([]), "nats")
    assert "range" not in curves.linear_axis(np.array([1.0, 1.0]), "nats")
