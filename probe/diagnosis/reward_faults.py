"""Faults of the reward: none to learn from, one that is exploited, and a policy that has moved too far for it."""

import numpy as np

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import beginning, is_below, level, stretch
from probe.diagnosis.run_reading import SAMPLING, Reading
from probe.stats import Interval

ALIKE = 0.95
"""Share of prompts without a better sample from which nearly nothing is learned from a batch; sound runs end at up to
0.9 when most prompts are solved.
"""


@fault(
    title="No signal",
    needs=("frac_reward_zero_std or reward_std", "reward or objective/scores"),
    remedy="Check that the reward can be won and lost: try easier or harder prompts, more completions a prompt, a higher"
    " temperature, or a reward with more than two values.",
    methods=SAMPLING,
)
def no_signal(reading: Reading) -> Sign | None:
    """Find prompts all of whose completions have the same reward, so that none is better than another."""
    share = reading.series("frac_reward_zero_std").coarse()
    if len(share):
        alike, expected = share.values >= ALIKE, 0.0
    else:
        share = reading.series("reward_std").coarse()
        alike, expected = share.values <= 1e-6, np.nan
    found = stretch(alike, least=4)
    if found is None:
        return None
    reward = reading.series("reward", "objective/scores").coarse()
    step = int(share.steps[found.start])
    during = level(reward.since(step).values)
    earlier = reward.up_to(step)
    if len(earlier) >= 4 and is_below(level(beginning(earlier).values), during):
        return None  # the prompts are solved
    before = level(share.part(0, found.start).values) if found.start else Interval(expected, np.nan, np.nan)
    after = level(share.part(found.start, found.stop).values)
    sentence = (
        f"The metric “{reading.title(share.metric)}” is {reading.text(share.metric, after)} from step {step:,} to"
        f" {int(share.steps[found.stop - 1]):,}; the reward there is {reading.text(reward.metric, during)}."
    )
    length = (found.stop - found.start) / len(share)
    return Sign(step, share.metric, before, after, sentence, 0.3 + 0.6 * length, also=(reward.metric,))
