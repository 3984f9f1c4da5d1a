"""Figures of the autoregression: what is drawn is what the tables say."""

import numpy as np
import pandas as pd
import pytest

from probe.autoregression.figures import (
    FLOOR,
    context_curves,
    lag_curves,
    path_shares,
    singular_values,
    snowball_curves,
)
from probe.plotting.notebook import Look
from probe.plotting.theme import DARK, apply

MODELS = [Look("base", "#868B94"), Look("<b>dpo</b>", "#3F78C6")]


def profile(scale: float = 1.0) -> pd.DataFrame:
    values = scale * np.array([1.0, 0.1, 0.0, np.nan])
    return pd.DataFrame(
        {
            "measure": "resampling",
            "lag": range(4),
            "influence": values,
            "low": 0.5 * values,
            "high": 2.0 * values,
            "unit": "nats",
            "n_texts": [3, 3, 3, 0],
            "n_readings": [9, 6, 3, 0],
        }
    )


def test_lag_curves_draw_influences_and_intervals_on_a_log_axis():
    figure = lag_curves([profile(), profile(0.5)], MODELS, orders=[2, None])
    assert figure.layout.yaxis.type == "log"
    assert "nats" in figure.layout.yaxis.title.text
    first, second = figure.data
    np.testing.assert_allclose(first.y, [1.0, 0.1, FLOOR])
    np.testing.assert_allclose(second.y, [0.5, 0.05, FLOOR])
    np.testing.assert_allclose(first.error_y.array[:2], [1.0, 0.1])
    np.testing.assert_allclose(first.error_y.arrayminus[:2], [0.5, 0.05])
    assert [round(x) for x in first.x] == [0, 1, 2]
    assert second.name == "&lt;b&gt;dpo&lt;/b&gt;"
    assert [(line.x0, line.line.color) for line in figure.layout.shapes] == [(1.5, "#868B94")]


def test_context_curves_mark_epsilon_and_the_order():
    table = profile().rename(columns={"influence": "kl"}).assign(m=range(1, 5))
    figure = context_curves([table], MODELS[:1], orders=[2], epsilon=0.2)
    line, ring = figure.data
    np.testing.assert_allclose(line.y, [1.0, 0.1, FLOOR])
    assert (ring.x, ring.y) == ((2,), (0.1,))
    assert figure.layout.shapes[0].y0 == 0.2
    assert "0.2" in figure.layout.annotations[0].text
    assert len(context_curves([table], MODELS[:1], orders=[None], epsilon=0.2).data) == 1


def summary() -> pd.DataFrame:
    rows = [
        {"quantity": name, "step": step, "value": 0.5 / step, "low": 0.1, "high": 0.6, "n": 4 * (step < 3)}
        for name in ("forced_kl", "free_kl", "differs", "clean_error", "wrong_error")
        for step in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("truth", "lines"), [(True, 4), (False, 3)])
def test_snowball_curves_draw_kl_and_shares(truth: bool, lines: int):
    figure = snowball_curves([summary(), summary()], MODELS, truth=truth)
    assert len(figure.data) == 2 * lines
    for line in figure.data:
        np.testing.assert_allclose(line.y, [0.5, 0.25])  # no prompt has a third step
    assert ("wrong" if truth else "differ") in figure.layout.yaxis2.title.text
    assert sum(line.xaxis == "x2" for line in figure.data) == 2 * (lines - 2)


def test_path_shares_have_one_scale_and_a_difference_centred_on_zero():
    shares = [np.array([[0.1, 0.4], [0.9, 0.2]]), np.array([[0.3, 0.4], [0.5, 0.2]])]
    figure = path_shares(shares, MODELS)
    first, second, third = figure.data
    assert first.coloraxis == second.coloraxis == "coloraxis"
    np.testing.assert_allclose(third.z, shares[1] - shares[0])
    axis = figure.layout.coloraxis2
    assert axis.cmin == -axis.cmax == pytest.approx(-0.4)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert first.customdata[1][0] == "L1H0"
    assert len(path_shares([shares[0], np.ones((3, 2))], MODELS).data) == 2  # other sizes: no difference
    assert apply(figure, DARK).layout.coloraxis.colorscale[0][1] == DARK.sequential[0]


def test_singular_values_draw_the_median_and_the_middle():
    values = np.tile(np.linspace(0.5, 1.5, 11), (3, 1))
    values[0, 10] = np.nan
    figure = singular_values([values], MODELS[:1])
    (line,) = figure.data
    np.testing.assert_allclose(line.y, [0.95, 1.0, 1.0])
    np.testing.assert_allclose(line.y + np.array(line.error_y.array), np.nanquantile(values, 0.9, axis=-1))
    assert list(figure.layout.xaxis.ticktext) == ["embedding", "block 0", "block 1"]
