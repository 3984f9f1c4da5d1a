"""Faults of the optimiser and of the amount of training: numbers that die, a rate that is too high, memorising."""

import numpy as np

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import level, onset, stretch
from probe.diagnosis.run_reading import TOKENS, Reading
from probe.stats import Interval

BESIDE = ("lr", "grad_norm", "num_tokens", "step_time", "tokens_per_second", "loss")
"""Metrics that trainers log in the same rows as the loss."""
DEAD = 0.5
"""Share of the rows since the first loss of a number from which training does not recover."""


@fault(
    title="Numbers die",
    needs=("loss or grad_norm", "lr or grad_norm or num_tokens or step_time"),
    remedy="Train in bfloat16 or float32, lower the learning rate, clip the gradient, and look for empty or overlong rows"
    " in the batches of that step.",
    least=1,
)
def numbers_die(reading: Reading) -> Sign | None:
    """Find a loss or a gradient norm that is NaN or infinite from some step on."""
    for name in ("loss", "grad_norm"):
        steps = reading.lost(name, [each for each in BESIDE if each != name])
        rows = reading.series(*(each for each in BESIDE if each != name and each in reading.frame)).steps
        after = rows[rows >= steps[0]] if len(steps) else rows[:0]
        if not len(after) or len(steps) < DEAD * len(after):
            continue
        sound = reading.series(name).up_to(int(steps[0])).values
        share = Interval(len(steps) / len(after), float("nan"), float("nan"))
        where = f"from step {steps[0]:,} on" if len(sound) else "from the first step on"
        sentence = f"The {reading.title(name)} has no finite value in {share.value:.0%} of the rows {where}."
        return Sign(
            int(steps[0]), name, level(sound), Interval(*[float("nan")] * 3), sentence, 1.0, also=("grad_norm",)
        )
    return None


RISE = 0.05
"""Rise of the held-out loss over its minimum, as a share of it, that counts: evaluations of the healthy sample runs
rise by at most 2 %.
"""


@fault(
    title="Memorising",
    needs=("eval_loss", "loss"),
    remedy="Stop at the step with the lowest held-out loss, train for fewer epochs, or add data.",
    methods=(*TOKENS, "dpo", "reward-model"),
    least=3,
)
def memorising(reading: Reading) -> Sign | None:
    """Find a held-out loss that rises while the training loss falls."""
    held, train = reading.series("eval_loss").coarse(), reading.series("loss").coarse()
    best = int(np.argmin(held.values))
    lowest = held.values[best]
    above = stretch(held.values[best:] > lowest + RISE * abs(lowest), least=2)
    if above is None or best + above.stop < len(held):
        return None
    step = onset(held.part(best), above.start) if best + above.start > best + 1 else int(held.steps[best])
    before, after = level(held.part(max(0, best - 1), best + 2).values), level(held.part(best + above.start).values)
    first, last = level(train.up_to(step).values), level(train.since(step).values)
    if not (last.value < first.value):
        return None
    sentence = (
        f"The held-out loss rises from {reading.text('eval_loss', Interval(lowest, np.nan, np.nan))} at step"
        f" {held.steps[best]:,} to {reading.text('eval_loss', after)}, while the training loss falls from"
        f" {reading.text('loss', first)} to {reading.text('loss', last)}."
    )
    gap = (after.value - lowest) / max(abs(lowest), 1e-9)
    return Sign(step, "eval_loss", before, after, sentence, min(1.0, 0.3 + gap), also=("loss",))
