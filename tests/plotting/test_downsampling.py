"""Points of a curve on the screen: no extreme of a column of pixels is lost, and a window is drawn finer."""

import numpy as np
import pytest

from probe.plotting.downsampling import extremes, shown

RNG = np.random.default_rng(0)
PLACES = {
    "even": np.arange(5000),
    "crowded": np.sort(np.exp(3 * RNG.normal(size=5000))),
    "in two": np.repeat([0, 2**62], 2500),
    "one place": np.full(5000, 3.0),
    "falling": np.arange(5000)[::-1],
    "beyond floats": 1.7e308 * np.sort(RNG.uniform(-1, 1, 5000)),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("most", [4, 5, 100, 799])
def test_extremes_stay(name: str, most: int) -> None:
    x, y = PLACES[name], RNG.normal(size=5000)
    kept = extremes(x, y, most)
    assert len(kept) <= most
    assert (np.diff(kept) > 0).all()
    assert {0, 4999, int(y.argmin()), int(y.argmax())} <= {*kept.tolist()}


def test_a_short_curve_is_whole() -> None:
    assert extremes(np.arange(9), np.ones(9), 9).tolist() == list(range(9))
    assert len(extremes(np.empty(0), np.empty(0), 8)) == 0


def test_each_column_of_pixels_spans_what_it_spanned() -> None:
    """As an independent picture: the lowest and the highest value in each column, of all points and of those kept."""
    y = RNG.standard_t(2, size=20_000)
    kept = extremes(np.arange(20_000), y, 2 * 400 + 2)
    column = np.arange(20_000) * 400 // 20_000
    for at in range(400):
        few = y[kept[column[kept] == at]]
        assert (few.min(), few.max()) == (y[column == at].min(), y[column == at].max())


def test_a_window_is_drawn_finer() -> None:
    x, y = np.arange(20_000), RNG.normal(size=20_000)
    kept = shown(x, y, 800, (5000.5, 5700))
    inside = kept[(x[kept] > 5000) & (x[kept] <= 5700)]
    assert len(inside) == 700, "all of it"
    assert len(kept) < 1600
    assert (np.diff(kept) > 0).all()
    assert {0, 19_999, int(y.argmin()), int(y.argmax())} <= {*kept.tolist()}
    assert shown(x, y, 800, (-9, 1e9)).tolist() == extremes(x, y, 800).tolist()
    assert shown(x[::-1], y, 800, (1, 2)).tolist() == extremes(x[::-1], y, 800).tolist()
