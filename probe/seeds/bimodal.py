"""Detection of bimodal trainings: some seeds end far from the others, so that a mean with interval describes neither.

Values of k trainings are called apart if the widest gap between two neighbours takes a larger share of the range than
in 95 % of samples of k normal values (`WIDEST`, by simulation), and is wider than `noise`, the effect of sampling other
answers. `probe.seeds.coverage` simulates the rate of false alarms (seeds that do not collapse) and the rate of missed
collapses.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

WIDEST = {3: 0.970, 4: 0.850, 5: 0.740, 6: 0.660, 7: 0.600, 8: 0.550, 9: 0.515, 10: 0.485}
"""Largest share of the range for one gap, by number of trainings (10 for more than 10); two are never called apart."""


def are_apart(values: ArrayLike, noise: float) -> bool:
    """Return whether some trainings ended far from the others.

    Args:
        values: [k] one number per training; NaN is left out.
        noise: width of one training's interval over its answers; NaN (unknown) counts as 0.
    """
    found = np.sort(np.asarray(values, dtype=float))
    found = found[np.isfinite(found)]
    if len(found) < min(WIDEST):
        return False
    gap, span = float(np.diff(found).max()), float(found[-1] - found[0])
    least = 0.0 if math.isnan(noise) else noise
    return gap > max(least, WIDEST[min(len(found), max(WIDEST))] * span, 1e-12)
