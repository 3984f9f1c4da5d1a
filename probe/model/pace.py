"""Reading speed of a model, measured briefly, from which the costs of work of known size follow."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.model.lm import LM

TIMED = (8, 32)
"""Numbers of texts and of tokens in each, with which the pace of a model is measured."""
ENOUGH, MOST = 0.5, 20
"""Minimum seconds and maximum number of runs of the measurement; on a busy machine few runs are undisturbed."""


def seconds_a_token(lm: "LM") -> float:
    """Measure the seconds that a model takes to read one token of short texts.

    The first run of a model takes longer, and so does one that waits for other processes: the fastest of at least two
    runs counts.
    """
    times: list[float] = []
    while len(times) < 2 or (sum(times) < ENOUGH and len(times) < MOST):
        start = time.perf_counter()
        lm.logits([[0] * TIMED[1]] * TIMED[0])
        times.append(time.perf_counter() - start)
    return min(times) / (TIMED[0] * TIMED[1])
