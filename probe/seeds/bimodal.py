"""Trainings that fall apart: some seeds end far from the others, so that their mean and its interval describe neither.

Values of k trainings are apart where the widest gap between two neighbours takes a share of the whole range that k
normal values exceed in 5 % of cases (`WIDEST`, by simulation), and is wider than `noise`, what other answers alone
would change. `probe.seeds.coverage` simulates how often that is said of seeds that do not collapse, and how often it
is missed of some that do.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

WIDEST = {3: 0.970, 4: 0.850, 5: 0.740, 6: 0.660, 7: 0.600, 8: 0.550, 9: 0.515, 10: 0.485}
"""Share of the range by the number of trainings; of more than ten as of ten. Two are never apart: nothing tells so."""


def are_apart(values: ArrayLike, noise: float) -> bool:
    """Return whether some trainings ended far from the others.

    Args:
        values: [k] one number a training; those that have none (NaN) do not count.
        noise: the width of the interval of one of them over its answers; NaN where it is not known counts as 0.
    """
    found = np.sort(np.asarray(values, dtype=float))
    found = found[np.isfinite(found)]
    if len(found) < min(WIDEST):
        return False
    gap, span = float(np.diff(found).max()), float(found[-1] - found[0])
    least = 0.0 if math.isnan(noise) else noise
    return gap > max(least, WIDEST[min(len(found), max(WIDEST))] * span, 1e-12)
