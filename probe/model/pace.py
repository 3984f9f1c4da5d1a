"""How fast a model reads, measured in a moment: from it follows what work costs whose size in tokens is known."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from probe.model.lm import LM

TIMED = (8, 32)
"""Texts, and tokens of each, by which the pace of a model is measured."""
ENOUGH, MOST = 0.5, 20
"""Seconds that measuring it takes at least, and runs, at most: on a busy machine few of them are undisturbed."""


def seconds_a_token(lm: "LM") -> float:
    """Seconds that a model takes to read a token of short texts.

    The first run of a model takes longer, and so does one that waits for others: the fastest of at least two counts.
    """
    times: list[float] = []
    while len(times) < 2 or (sum(times) < ENOUGH and len(times) < MOST):
        start = time.perf_counter()
        lm.logits([[0] * TIMED[1]] * TIMED[0])
        times.append(time.perf_counter() - start)
    return min(times) / (TIMED[0] * TIMED[1])
