"""The fits of reward against d: scipy's least squares, coverage on made-up curves, peaks found by search."""

import numpy as np
import pytest
from scipy.optimize import curve_fit, minimize_scalar

from probe.errors import ConfigError, DataError
from probe.rewards.frontiers import FORMS, Field, fit
from tests.rewards.test_frontiers import small_field

D = np.linspace(0.1, 2.5, 14)


def bon(d: np.ndarray, a: float, b: float) -> np.ndarray:
    return d * (a - b * d)


def rl(d: np.ndarray, a: float, b: float) -> np.ndarray:
    return d * (a - b * np.log(d))


CURVES = {"bon": bon, "rl": rl}


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_against_scipy_curve_fit(form: str) -> None:
    rng = np.random.default_rng(0)
    y = CURVES[form](D, 1.3, 0.4) + 0.1 * rng.normal(size=len(D))
    found = fit(D, 2.0 + y, form, origin=2.0)  # type: ignore[arg-type]
    (a, b), _ = curve_fit(CURVES[form], D, y, p0=[1.0, 0.1])
    assert (found.a.value, found.b.value) == (pytest.approx(a, abs=1e-6), pytest.approx(b, abs=1e-6))
    np.testing.assert_allclose(found.predict(D), 2.0 + CURVES[form](D, a, b), atol=1e-6, rtol=1e-4)
    assert found.rmse == pytest.approx(np.sqrt(((y - CURVES[form](D, a, b)) ** 2).mean()), abs=1e-6)
    assert found.a.low < found.a.value < found.a.high
    assert found.predict(0.0) == 2.0


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_intervals_cover_the_truth_as_often_as_they_say(form: str) -> None:
    truth, rounds, hits = (1.2, 0.45), 300, np.zeros(2)
    rng = np.random.default_rng(1)
    clean = CURVES[form](D, *truth)
    for _ in range(rounds):
        found = fit(D, clean + 0.15 * rng.normal(size=len(D)), form, origin=0.0, resamples=400)  # type: ignore[arg-type]
        hits += [found.a.low <= truth[0] <= found.a.high, found.b.low <= truth[1] <= found.b.high]
    # 14 points: a percentile bootstrap is a little narrow. 0.95 - 3 standard errors of 300 rounds is 0.91
    assert (hits / rounds > 0.90).all(), hits / rounds
    assert (hits / rounds < 0.99).all(), hits / rounds


@pytest.mark.parametrize("form", ["bon", "rl"])
def test_the_peak_is_where_a_search_finds_it(form: str) -> None:
    found = fit(D, CURVES[form](D, 1.2, 0.6), form, origin=0.0)  # type: ignore[arg-type]
    best = minimize_scalar(lambda d: -float(found.predict(d)), bounds=(1e-3, 10), method="bounded")
    assert found.peak.value == pytest.approx(best.x, abs=1e-4)
    assert found.top.value == pytest.approx(-best.fun, abs=1e-6)
    assert found.a.value == pytest.approx(1.2, abs=1e-9)
    assert found.rmse < 1e-12
    assert found.r2 == pytest.approx(1.0)
    assert found.peak_is_seen == (best.x <= 2.5)
    assert not fit(D[-3:], CURVES[form](D[-3:], 1.2, 0.6), form, origin=0.0).peak_is_seen  # type: ignore[arg-type]
    rising = fit(D, CURVES[form](D, 1.2, -0.1), form, origin=0.0)  # type: ignore[arg-type]
    assert rising.peak.value == np.inf
    assert not rising.peak_is_seen
    assert rising.row()["top"] == np.inf


def test_a_curve_that_only_falls_has_its_best_at_the_start() -> None:
    assert fit(D, bon(D, -0.5, 0.2), "bon", origin=0.0).peak.value == 0.0
    assert fit(D, bon(D, -0.5, 0.2), "bon", origin=0.0).top.value == 0.0


def test_the_reference_is_found_at_zero_and_bad_points_are_refused() -> None:
    x, y = np.array([0.0, 0.0, 0.5, 1.0, 1.5]), np.array([1.0, 3.0, 2.5, 3.0, 3.2])
    found = fit(x, y, "bon")
    assert found.origin == 2.0
    assert len(found.d) == 3
    with pytest.raises(DataError, match="No point lies at d = 0"):
        fit(x[2:], y[2:], "bon")
    with pytest.raises(DataError, match="need 3 points or more beyond the reference, and there are 2"):
        fit(x[:4], y[:4], "bon")
    with pytest.raises(DataError, match="as many finite rewards"):
        fit(-x, y, "bon")
    with pytest.raises(DataError, match="as many finite rewards"):
        fit(x, np.full(5, np.nan), "rl")
    with pytest.raises(ConfigError, match="choose one of bon, rl"):
        fit(x, y, "ppo")  # type: ignore[arg-type]
    assert set(FORMS) == {"bon", "rl"}


def test_best_of_n_as_points() -> None:
    field: Field = small_field()
    points = field.best_of_n("proxy", [1, 2, 4, 8])
    assert points["d"].tolist() == pytest.approx(np.sqrt(points["kl"]).tolist())
    assert points.loc[0, "d"] == pytest.approx(0, abs=1e-6)
    found = fit(points["d"].where(points["n"] > 1, 0.0), points["proxy"], "bon")
    assert found.a.value > 0
    assert found.origin == pytest.approx(points.loc[0, "proxy"])
