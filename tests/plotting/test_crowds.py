"""Many runs as bands: quantiles over the runs at each place, beside what numpy says of the same numbers."""

import numpy as np
import pandas as pd
import pytest

from probe.plotting.crowds import PLACES, QUANTILES, course, crowd_bands, quantiles
from probe.plotting.curves import Style, metric_curves, smooth
from probe.plotting.downsampling import POINTS
from probe.plotting.theme import METHODS

RNG = np.random.default_rng(0)


def runs(count: int, steps: int, seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    return {f"r{at}": pd.DataFrame({"step": np.arange(steps), "loss": rng.normal(size=steps)}) for at in range(count)}


def test_quantiles_at_common_steps_are_those_of_the_values() -> None:
    values = RNG.normal(size=(40, PLACES))
    x, found = quantiles([course(pd.Series(np.arange(PLACES)), row) for row in values])
    np.testing.assert_allclose(x, np.arange(PLACES), rtol=1e-12, atol=0)
    np.testing.assert_allclose(found, np.quantile(values, QUANTILES, axis=0), rtol=1e-9, atol=1e-12)


def test_a_run_counts_only_where_it_was_trained() -> None:
    short, long = (np.arange(3.0), np.zeros(3)), (np.arange(9.0), np.ones(9))
    x, found = quantiles([short, long])
    assert (found[2][x > 2] == 1).all()
    assert (found[2][x < 2] == 0.5).all()
    x, _ = quantiles([short, (np.arange(100.0, 103), np.ones(3))])
    assert not ((x > 2) & (x < 100)).any()
    assert quantiles([])[1].shape == (len(QUANTILES), 0)


def test_a_course_has_the_values_of_its_run() -> None:
    y = RNG.normal(size=20_000)
    x, few = course(pd.Series(np.arange(20_000)), y)
    assert len(x) == PLACES
    assert (few == y[x.astype(int)]).all()
    assert (x[0], x[-1]) == (0, 19_999)
    assert course(pd.Series([3, 1, 2]), np.array([30.0, 10, 20]))[1].tolist() == [10, 20, 30]


def test_bands_stand_behind_and_are_named_once() -> None:
    frames = runs(40, 50)
    behind = {name: {"loss": course(frame["step"], frame["loss"].to_numpy())} for name, frame in frames.items()}
    methods = dict.fromkeys(frames, "dpo") | {"r39": "sft", "front": "dpo"}
    figure = metric_curves(
        {"front": frames["r0"]}, ["loss"], {"front": Style("#123456")}, methods=methods, behind=behind, columns=1
    )
    named = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert [*dict.fromkeys(named)] == ["39 runs of dpo", "1 run of sft", "front"]
    panels = {annotation.text for annotation in figure.layout.annotations}
    assert len(panels) == 2, "the losses of SFT and DPO do not share an axis"
    first = figure.data[0]
    assert first.fill == "toself"
    assert first.fillcolor == METHODS["dpo"]
    assert figure.data[3].line.color == "#123456"


def test_a_band_on_a_logarithmic_axis_stays_above_zero() -> None:
    pair = {"a": (np.arange(3.0), np.array([-1.0, 1, 2])), "b": (np.arange(3.0), np.array([1.0, 1, 2]))}
    for trace in crowd_bands(pair, {"a": "<b>", "b": "<b>"}, "%{y}", log_y=True):
        assert (np.asarray(trace.y) > 0).all()
        assert "<b>" not in trace.name


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.98])
def test_smoothing_is_the_corrected_moving_average(weight: float) -> None:
    """As the definition says it, one value after the other."""
    values = RNG.normal(size=300)
    values[RNG.random(300) < 0.2] = np.nan
    values[7] = np.inf
    wanted, mean, total = [], 0.0, 0.0
    for value in values:
        if np.isfinite(value):
            mean, total = weight * mean + (1 - weight) * value, weight * total + (1 - weight)
        wanted.append(mean / total if np.isfinite(value) else np.nan)
    np.testing.assert_allclose(smooth(values, weight), wanted, rtol=1e-10, atol=1e-12)
    assert np.isfinite(smooth(np.full(50, 1.7e308), weight)).all()
    assert len(smooth(np.empty(0), weight)) == 0


@pytest.mark.parametrize("weight", [0.0, 0.9])
def test_curves_on_the_screen_are_smoothed_before_points_are_left_out(weight: float) -> None:
    frames = runs(1, 20_000)
    look = {"r0": Style("#123456")}
    whole = metric_curves(frames, ["loss"], look, weight=weight).data
    few = metric_curves(frames, ["loss"], look, weight=weight, points=POINTS).data
    for full, drawn in zip(whole[: 1 + (weight > 0)], few, strict=False):
        assert len(full.y) == 20_000
        assert len(drawn.y) <= POINTS
        np.testing.assert_allclose(drawn.y, full.y[drawn.x], rtol=1e-6, atol=0)
        assert (drawn.y.min(), drawn.y.max()) == pytest.approx((full.y.min(), full.y.max()), rel=1e-6)
    zoomed = metric_curves(frames, ["loss"], look, points=POINTS, windows={1: (500, 899)}).data[0]
    assert set(range(500, 900)) <= set(zoomed.x.tolist())
    assert len(metric_curves(frames, ["loss"], look, points=POINTS, windows={2: (500, 899)}).data[0].x) <= POINTS
