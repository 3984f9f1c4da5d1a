"""Reading speed of a model, measured briefly, from which the costs of work of known size follow."""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from probe.model.in_memory import keep
from probe.model.passes import share_passes
from probe.model.placement import is_offloaded

if TYPE_CHECKING:
    from probe.model.lm import LM

TIMED = (8, 32)
"""Largest number of texts, and number of tokens in each, with which the pace of a model is measured."""
BRIEF, ENOUGH, MOST = 0.05, 0.3, 20
"""Seconds below which a run is too short, minimum seconds of all runs, and their maximum number; on a busy machine few
runs are undisturbed."""

QUICK = 5_000_000_000
"""Largest product of parameters and tokens that is read too quickly to be timed: a tenth of a second or two on two
cores, so that work which adds up to a second is never without a price."""
WRITTEN = 10
"""Number of tokens that are read in the time in which one is written."""


def seconds_to_read(lm: "LM", tokens: float) -> float:
    """Estimate the seconds that a model takes to read so many tokens; 0 if they are few for its size."""
    return 0.0 if lm.n_parameters * tokens <= QUICK else tokens * seconds_a_token(lm)


def seconds_a_token(lm: "LM") -> float:
    """Return the seconds that a model takes to read one token of short texts.

    They are measured once while the model is in memory and unchanged; on the CPU by the time of this thread alone,
    because a page that opens while the machine is busy must not keep that pace.
    """
    clock = time.thread_time if lm.device.type == "cpu" and not is_offloaded(lm.model) else time.perf_counter
    return keep(lm, "own pace", partial(measure_pace, lm, clock))


def measure_pace(lm: "LM", now: Callable[[], float]) -> float:
    """Measure the seconds that a model takes to read one token of short texts, by the clock on the wall or another.

    The first run of a model takes longer, and so does one that waits for other processes: the fastest of at least two
    runs counts. The first run has one text, so that a large model answers within a second; short runs have more.
    """
    times, texts, each = list[float](), 1, float("inf")
    while len(times) < 2 or (sum(times) < ENOUGH and len(times) < MOST):
        start = now()
        with share_passes(False):
            lm.logits([[0] * TIMED[1]] * texts)
        times.append(now() - start)
        each = min(each, times[-1] / (texts * TIMED[1]))
        texts = min(2 * texts, TIMED[0]) if times[-1] < BRIEF else texts
    return each
