"""Curves with as many points as a screen shows: the lowest and the highest value of every column of pixels."""

import numpy as np

POINTS = 800
"""Points of a curve on a page: the extremes of 400 columns of pixels, about the width of a panel."""
Window = tuple[float, float]
"""Part of the horizontal axis that a reader has zoomed to."""


def rises(places: np.ndarray) -> bool:
    """Return whether no place lies before the one in front of it."""
    return bool((places[1:] >= places[:-1]).all())


def extremes(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Return the indices, in order, of the points that draw a curve at a width of `most` / 2 columns.

    They are the first and the last point, and the first lowest and the first highest of each column.

    Args:
        x: [n] horizontal places, of which none is missing; columns are of equal width if they rise, else of equal
            numbers of points.
        y: [n] values, of which none is missing.
        most: about the number of points to keep, at least 4; a curve of fewer keeps all.
    """
    count = len(y)
    if count <= most:
        return np.arange(count)
    places = np.asarray(x, dtype=float)
    if not rises(places) or not 0 < places[-1] / 2 - places[0] / 2 < np.finfo(float).max / 2:
        places = np.arange(count, dtype=float)
    edges = np.linspace(places[0], places[-1], (most - 2) // 2 + 1)[:-1]
    starts = np.unique(np.searchsorted(places, edges))
    sizes = np.diff(starts, append=count)
    kept = {0, count - 1}
    for least in (np.minimum, np.maximum):
        found = np.flatnonzero(y == np.repeat(least.reduceat(y, starts), sizes))
        kept.update(found[np.searchsorted(found, starts)].tolist())
    return np.array(sorted(kept))


def shown(x: np.ndarray, y: np.ndarray, most: int, window: Window | None = None) -> np.ndarray:
    """Return the indices of the points to draw: `extremes`, of a window and of what lies on either side of it.

    Args:
        x: [n] horizontal places.
        y: [n] values.
        most: about the number of points in the window, and on both sides together.
        window: part of the axis that fills the panel; None for all of it.
    """
    places = np.asarray(x, dtype=float)
    if window is None or not rises(places):
        return extremes(x, y, most)
    start, end = np.searchsorted(places, window[0]), np.searchsorted(places, window[1], side="right")
    parts = [(0, start, most // 2), (start, end, most), (end, len(y), most // 2)]
    return np.concatenate([begin + extremes(places[begin:stop], y[begin:stop], size) for begin, stop, size in parts])
