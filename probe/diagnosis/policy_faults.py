"""Faults of a policy that samples: it lost its entropy, its reference is another model, its values are useless."""

import numpy as np

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import beginning, best, end, is_below, level, onset, stretch
from probe.diagnosis.reward_faults import second_measure
from probe.diagnosis.run_reading import SAMPLING, Reading, Series
from probe.stats import Interval

COLLAPSED = 0.05
"""Entropy as a share of its best quarter below which it has collapsed; sound policies that become sure of what is right
end at 0.14 of it."""
UNFOUNDED = 1 / 3
"""The same where a second measure of the completions falls, so that the policy becomes sure of what is worse. Sound
policies of an agreeable reward, whose second measure falls a little, end at 0.7 of it."""
ALIKE = 0.5
"""Share of the distinct completions, or of the spread of the reward, in their best quarter below which samples are
alike."""


@fault(
    title="Entropy collapse",
    needs=(
        "entropy or objective/entropy",
        "completions/distinct_ratio or reward_std or frac_reward_zero_std",
    ),
    remedy="Lower the learning rate, raise the weight of the KL (beta) or the upper clipping bound (`--epsilon-high`),"
    " and sample at temperature 1.",
    methods=SAMPLING,
    hides=("no_signal",),
)
def entropy_collapse(reading: Reading) -> Sign | None:
    """Find an entropy that falls far without gain, or to almost nothing, while the samples of a prompt become alike."""
    entropy = reading.series("objective/entropy", "entropy").coarse()
    highest = best(entropy)
    before, after = level(entropy.values[highest]), level(end(entropy).values)
    share, severity = (UNFOUNDED, 0.6) if second_measure(reading) else (COLLAPSED, 0.8)
    if before.value <= 0 or not after.value < share * before.value:
        return None
    kept = reading.series("completions/distinct_ratio", "reward_std").coarse()
    first, last = level(kept.values[best(kept)]) if len(kept) else before, level(end(kept).values)
    if len(kept) and not last.value <= ALIKE * first.value:
        return None
    logs = Series(entropy.metric, entropy.steps, np.log(np.maximum(entropy.values, 1e-12))).part(highest.start)
    at = highest.start + onset(logs, float(np.log(before.value)), level(end(logs).values).value)
    alike = (
        f", and “{reading.title(kept.metric)}” from {reading.text(kept.metric, first)} to"
        f" {reading.text(kept.metric, last)}"
        if len(kept)
        else ""
    )
    sentence = (
        f"The entropy falls from {reading.text(entropy.metric, before)} to {reading.text(entropy.metric, after)}"
        f" nats{alike}."
    )
    also = (kept.metric,) if len(kept) else ()
    return Sign(int(entropy.steps[at]), entropy.metric, before, after, sentence, severity, also)


ZERO = 1e-6
"""KL in nats, or implicit reward, that is rounding."""
AWAY, AWAY_IN_HALF = 0.02, 0.2
"""KL in nats, or implicit margin, at the first step that no rounding explains, in float32 and in half precision: in
bfloat16 the log-probability of a completion changes by some tenths of a nat with the batch in which it is computed."""


@fault(
    title="Wrong reference",
    needs=("objective/kl or kl or rewards/margins",),
    remedy="Load the reference once, from the model that training starts from, and do not update it; with an adapter,"
    " switch the adapter off for the reference.",
    methods=(*SAMPLING, "dpo"),
    at_once=True,
)
def wrong_reference(reading: Reading) -> Sign | None:
    """Find a reference that differs from the start of training, or that follows the policy."""
    series = reading.series("objective/kl", "rewards/margins", "kl")
    title, none = reading.title(series.metric), float("nan")
    half = reading.config.get("dtype") in ("bfloat16", "float16")
    if series.steps[0] <= 1 and abs(series.values[0]) > (AWAY_IN_HALF if half else AWAY):
        value = Interval(float(series.values[0]), none, none)
        sentence = (
            f"“{title}” is {reading.text(series.metric, value)} at step {series.steps[0]:,}, before the first update:"
            " the reference is not the model that training starts from."
        )
        return Sign(int(series.steps[0]), series.metric, Interval(0.0, none, none), value, sentence, 0.7)
    found = stretch(np.abs(series.values) <= ZERO, least=8)
    if found is None or found.stop < len(series) - 1:
        return None
    step, zero = int(series.steps[found.start]), level(series.part(found.start).values)
    if found.start:
        before = level(series.part(0, found.start).values)
        sentence = (
            f"“{title}” is 0 from step {step:,} on, and {reading.text(series.metric, before)} before: the reference"
            " follows the policy."
        )
        return Sign(step, series.metric, before, zero, sentence, 0.7, also=("kl_to_reference",))
    for name in ("entropy", "objective/entropy", "reward", "logps/chosen", "mean_token_accuracy"):
        moved = reading.series(name).coarse()
        first, last = level(beginning(moved).values), level(end(moved).values)
        if is_below(first, last) or is_below(last, first):
            sentence = (
                f"“{title}” is 0 at every step, although “{reading.title(name)}” moves from {reading.text(name, first)}"
                f" to {reading.text(name, last)}: the reference follows the policy."
            )
            return Sign(step, series.metric, zero, zero, sentence, 0.7, also=(name,))
    return None


CONSTANT = 0.01
"""Explained variance of values that equal a constant, but for rounding."""
WORSE = -0.25
"""Explained variance of values that are worse than a constant. While values are being learned, and where the policy
moves fast, they stand at up to -0.2 for half of a short run."""


@fault(
    title="Value head useless",
    needs=("val/explained_variance",),
    remedy="Check that returns and values belong to the same tokens; raise `--value-rate` or `--vf-coef`, or train the"
    " values some steps before the policy.",
    methods=("rlhf",),
    least=16,
)
def value_head_useless(reading: Reading) -> Sign | None:
    """Find values that equal a constant, or are much worse, in the second half of a run."""
    series = reading.series("val/explained_variance").coarse()
    after = level(series.part(len(series) // 2).values)
    worse = after.value <= WORSE and after.high < 0 and level(end(series).values).value <= WORSE
    if not (worse or (after.low > -CONSTANT and after.high < CONSTANT)):
        return None
    at = onset(series, 0.0, after.value) if worse else 0
    before = level(series.part(0, at).values) if at else Interval(0.0, float("nan"), float("nan"))
    sentence = (
        "Values explain"
        f" {reading.text(series.metric, after)} of the variance of the returns in the second half of the run; 0 is what"
        " a constant explains."
    )
    return Sign(int(series.steps[at]), series.metric, before, after, sentence, 0.5, also=("loss/value_avg",))
