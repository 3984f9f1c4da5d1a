"""Labels beside points that lie close together."""

from collections.abc import Sequence

import numpy as np

LETTER, LINE = 6.4, 15.0
"""Width and height of a letter of a label, in pixels."""
UPS = (0.0, 14.0, -14.0, 28.0, -28.0, 42.0, -42.0, 56.0, -56.0)
"""How far a label may be moved up, in pixels; the first places are preferred."""


def label_places(
    points: np.ndarray, texts: Sequence[str], size: tuple[int, int], avoid: np.ndarray | None = None
) -> list[tuple[float, float]]:
    """Shifts (right, up) in pixels that put labels beside their points with the least overlap, one after the other.

    Args:
        points: [n 2] where the points lie, in pixels from the lower left.
        texts: [n] their labels.
        size: width and height of the figure.
        avoid: [m 2] further points that labels should not lie on, such as those of a line.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    taken += [(x - 4, y - 3, x + 4, y + 3) for x, y in (() if avoid is None else avoid)]
    shifts: list[tuple[float, float]] = []
    for (x, y), text in zip(points, texts, strict=True):
        half = LETTER * len(text) / 2
        options = [(side * (half + 10.0), up) for up in UPS for side in ((1, -1) if abs(up) < LINE + 5 else (1, -1, 0))]
        boxes = np.array([(x + a - half, y + b - LINE / 2, x + a + half, y + b + LINE / 2) for a, b in options])
        moved = np.array([0.5 * abs(up) + 5.0 * (right < 0) for right, up in options])
        best = int((_covered(boxes, np.array(taken), size) + moved).argmin())
        shifts.append(options[best])
        taken.append(tuple(boxes[best]))
    return shifts


def _covered(boxes: np.ndarray, others: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[n] how much each box (left, low, right, high) covers of the others, and how far it leaves the figure."""
    wide = np.minimum(boxes[:, None, 2], others[:, 2]) - np.maximum(boxes[:, None, 0], others[:, 0])
    high = np.minimum(boxes[:, None, 3], others[:, 3]) - np.maximum(boxes[:, None, 1], others[:, 1])
    outside = (-boxes[:, :2]).clip(min=0).sum(1) + (boxes[:, 2:] - np.array(size)).clip(min=0).sum(1)
    return (wide.clip(min=0) * high.clip(min=0)).sum(1) + 40 * outside
