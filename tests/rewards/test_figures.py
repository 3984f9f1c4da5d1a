"""Figures of rewards: what is drawn where, in whose colour, and never as markup."""

import numpy as np
import pandas as pd
import pytest

from probe.plotting import theme as labels
from probe.plotting.curves import Style
from probe.plotting.theme import METHODS, SECOND
from probe.rewards import figures as reward_fits
from probe.rewards import figures as reward_samples
from probe.rewards import figures as rewards
from probe.rewards.frontiers import fit, place
from probe.rewards.token_effects import Contrast, TokenEffects
from tests.rewards.test_frontiers import small_field

HOSTILE = "<b>x</b>"
LOOK = {"base": Style(METHODS["pretrain"]), HOSTILE: Style(METHODS["rlhf"], "dash"), "worse": Style(METHODS["dpo"])}


@pytest.fixture(scope="module")
def placed() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Places of the reference, a better and a worse policy; the frontier; best of N."""
    field, rng = small_field(), np.random.default_rng(0)
    ref, gain = field.answers.logprobs, field.rewards["proxy"]
    noise = 0.3 * rng.normal(size=ref.shape)
    found = {"base": ref, HOSTILE: ref + 1.5 * gain + noise, "worse": ref - gain}
    rows = [{"run": name, **place(logprobs, field, "proxy").row()} for name, logprobs in found.items()]
    return pd.DataFrame(rows), field.frontier("proxy"), field.best_of_n("proxy")


@pytest.mark.parametrize("axis", ["d", "kl"])
def test_policies_lie_under_the_frontier_and_their_excess_is_drawn(placed: tuple, axis: str) -> None:
    places, curve, best = placed
    view = rewards.FrontierView(reward="proxy", label=HOSTILE, axis=axis, chosen=HOSTILE)
    figure = rewards.reward_frontier(curve, places, LOOK, view, best_of_n=best)
    points = {trace.name: trace for trace in figure.data if trace.mode == "markers"}
    assert set(points) == {"base", "&lt;b&gt;x&lt;/b&gt;", "worse"}
    power = 0.5 if axis == "d" else 1.0
    row = places.set_index("run").loc[HOSTILE]
    mine = points["&lt;b&gt;x&lt;/b&gt;"]
    assert (mine.x[0], mine.y[0]) == (pytest.approx(row["kl"] ** power), row["proxy"])
    assert mine.marker.color == METHODS["rlhf"]
    assert mine.marker.size > points["worse"].marker.size
    # the dotted line ends on the frontier, at the same reward
    (dotted,) = [trace for trace in figure.data if trace.line.dash == "dot" and trace.line.color == METHODS["rlhf"]]
    assert dotted.y[0] == dotted.y[1] == row["proxy"]
    on_curve = np.interp(row["proxy"], curve["reward"], curve["kl"])
    assert dotted.x[0] == pytest.approx(on_curve**power, abs=0.02)
    assert dotted.x[1] == pytest.approx(row["kl"] ** power)
    # a policy that gained nothing has no nearest optimum, so no line
    assert not [trace for trace in figure.data if trace.line.dash == "dot" and trace.line.color == METHODS["dpo"]]
    texts = [note.text for note in figure.layout.annotations]
    assert f"<b>&lt;b&gt;x&lt;/b&gt; +{row['excess']:.2f}</b>" in texts
    assert any("no gain" in text for text in texts)
    assert HOSTILE not in figure.layout.yaxis.title.text
    for trace in figure.data:
        if trace.mode == "markers":
            assert trace.x[0] <= figure.layout.xaxis.range[1]
            assert figure.layout.yaxis.range[0] < trace.y[0] < figure.layout.yaxis.range[1]


def test_labels_do_not_lie_on_each_other() -> None:
    points, texts, size = np.array([[200.0, 200.0]] * 4), ["a label"] * 4, (500, 400)
    shifts = labels.label_places(points, texts, size)
    half = labels.LETTER * 7 / 2
    boxes = [(x - half, y - 7.5, x + half, y + 7.5) for x, y in shifts]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            assert wide <= 0 or high <= 1.01
    edge = labels.label_places(np.array([[495.0, 200.0]]), ["a label"], size)
    assert edge[0][0] < 0  # no room to the right


def test_gains_have_a_panel_each_and_intervals(placed: tuple) -> None:
    places = placed[0]
    figure = rewards.reward_gains(places, LOOK, {"gain_proxy": "proxy", "excess": "excess"}, HOSTILE)
    assert len(figure.data) == 6
    assert list(figure.layout.yaxis.ticktext) == ["base", "<b>&lt;b&gt;x&lt;/b&gt;</b>", "worse"]
    row, trace = places.iloc[1], figure.data[1]
    assert trace.x[0] == row["gain_proxy"]
    assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row["gain_proxy_high"], nan_ok=True)
    assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row["gain_proxy_low"], nan_ok=True)


def test_fits_are_drawn_through_their_points_with_a_star_at_a_peak_among_them() -> None:
    d = np.linspace(0, 2, 9)
    points = {"a": pd.DataFrame({"d": d, "proxy": d, "gold": d * (1 - 0.5 * d)})}
    fits = {("a", reward): fit(d, points["a"][reward], "bon") for reward in ("proxy", "gold")}
    look = {"a": Style(METHODS["rsft"], "dash")}
    figure = reward_fits.overoptimisation(points, fits, look, {"proxy": "proxy", "gold": HOSTILE})
    stars = [trace for trace in figure.data if trace.marker.symbol == "star"]
    assert [(star.x[0], star.y[0]) for star in stars] == [(pytest.approx(1.0), pytest.approx(0.5))]
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    np.testing.assert_allclose(lines[1].y, fits["a", "gold"].predict(lines[1].x))
    assert {trace.line.color for trace in lines} == {METHODS["rsft"]}
    assert figure.layout.annotations[1].text == "&lt;b&gt;x&lt;/b&gt;"
    bare = reward_fits.overoptimisation(points, {}, look, {"gold": "gold"})
    assert len(bare.data) == 1


def test_best_of_n_has_the_colour_of_no_method(placed: tuple) -> None:
    places, curve, best = placed
    view = rewards.FrontierView(reward="proxy", label="proxy")
    drawn = rewards.reward_frontier(curve, places, LOOK, view, best_of_n=best)
    (line,) = [trace for trace in drawn.data if (trace.hovertemplate or "").startswith("best of")]
    (note,) = [note for note in drawn.layout.annotations if note.text == "best of N"]
    methods = {*METHODS.values(), *SECOND.values()}
    assert not {line.line.color, line.marker.color, note.font.color} & methods
    alone = reward_fits.best_of_n(best, curve, reward="proxy", label="proxy")
    assert not {trace.line.color for trace in alone.data} & {METHODS["rsft"], SECOND[METHODS["rsft"]]}


def test_best_of_n_stays_below_its_bound(placed: tuple) -> None:
    _, curve, best = placed
    figure = reward_fits.best_of_n(best, curve, reward="proxy", label="proxy")
    exact, bound = figure.data[:2]
    assert (np.array(exact.y) <= np.array(bound.y) + 1e-9).all()
    assert list(exact.x) == list(best["n"])
    path = figure.data[2]
    np.testing.assert_array_equal(path.x, best["kl"])
    np.testing.assert_array_equal(path.y, best["proxy"])
    assert figure.data[-1].name == "frontier"


def test_distributions_are_shares_on_common_bins() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "model": ["base"] * 30 + ["aligned"] * 60,
            "proxy": rng.normal(size=90),
            "gold": [-1.0, 0.0, 1.0] * 30,
            "kl": np.nan,
        }
    )
    colours = METHODS["pretrain"], METHODS["dpo"]
    figure = reward_samples.reward_distributions(table, ("base", HOSTILE), colours, ["proxy", "gold", "kl"])
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 4
    for bar in bars:
        assert sum(bar.y) == pytest.approx(1.0)
    np.testing.assert_array_equal(bars[0].x, bars[1].x)
    assert list(bars[2].x) == [-1, 0, 1]
    assert bars[1].name == "&lt;b&gt;x&lt;/b&gt;"
    assert [bar.marker.color for bar in bars[:2]] == list(colours)
    alone = reward_samples.reward_distributions(table.assign(gold=1.0), ("a", "b"), colours, ["gold"])
    assert list(alone.data[0].y) == [1.0]


def test_curves_of_captured_samples() -> None:
    rows = [(step, "gold", step / 10, step / 10 - 0.1, step / 10 + 0.1) for step in (0, 20, 10)]
    table = pd.DataFrame(rows, columns=["step", "measure", "value", "ci_low", "ci_high"])
    figure = reward_samples.shift_curves(table, METHODS["rlhf"], ["gold"])
    assert list(figure.data[1].x) == [0, 10, 20]
    assert list(figure.data[1].y) == [0, 1, 2]


def test_effects_of_tokens() -> None:
    def side(count: int, seed: int) -> TokenEffects:
        values = np.random.default_rng(seed).normal(size=(4, count))
        tokens = [HOSTILE, "a", *["b"] * (count - 2)]
        return TokenEffects([0] * count, tokens, 2, *values, baseline=0.0, steps=1)  # type: ignore[misc]

    found = Contrast("x", side(3, 0), side(5, 1))
    colours = reward_samples.PART_COLOURS
    figure = reward_samples.token_effects(
        found.tokens, found.effects("occlusion"), found.effects("gradient"), colours, ("chosen", 0)
    )
    bars = [trace for trace in figure.data if trace.type == "bar"]
    np.testing.assert_allclose(bars[0].y, found.chosen.occlusion[:2] - found.rejected.occlusion[:2])
    np.testing.assert_allclose(bars[1].y, found.chosen.occlusion[2:])
    np.testing.assert_allclose(bars[2].y, found.rejected.occlusion[2:])
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    np.testing.assert_allclose(marks[2].y, found.rejected.gradient[2:])
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;x&lt;/b&gt;", "a"]
    assert list(bars[1].marker.opacity) == [1.0]
    assert list(bars[0].marker.opacity) == [0.45, 0.45]
