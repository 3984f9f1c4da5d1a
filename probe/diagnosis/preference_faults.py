"""Faults of training on pairs: labels that contradict each other, and answers that both become improbable."""

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import end, falls, is_below, level, stretch
from probe.diagnosis.run_reading import PREFERENCES, Reading
from probe.stats import Interval

SHARED = 0.7
"""Share of the fall of rejected answers that chosen answers have, from which on pairs are too alike to be told apart.
The sample runs on SmolLM2 reach 0.66, those of the world 0.4."""
LOST = 1.0
"""Smallest fall of the log-probability of chosen answers, in nats: they are then at most 0.37 times as probable."""


@fault(
    title="Likelihood displacement",
    needs=("rewards/chosen", "rewards/rejected", "logps/chosen"),
    remedy="Leave out pairs whose answers are nearly equal, add the SFT loss of chosen answers, or raise beta.",
    methods=("dpo",),
)
def likelihood_displacement(reading: Reading) -> Sign | None:
    """Find chosen answers that lose nearly as much probability as rejected ones, so that neither gains."""
    logps = reading.series("logps/chosen").coarse()
    fallen = falls(logps, LOST)
    if fallen is None:
        return None
    chosen, rejected = (
        level(end(reading.series(f"rewards/{name}").coarse()).values) for name in ("chosen", "rejected")
    )
    if not (chosen.high < 0 and rejected.value < 0 and chosen.value / rejected.value >= SHARED):
        return None
    share = chosen.value / rejected.value
    sentence = (
        f"The log-probability of chosen answers falls from {reading.text('logps/chosen', fallen.before)} to"
        f" {reading.text('logps/chosen', fallen.after)} nats. They lose {share:.0%} of what rejected answers lose, so"
        " the probability goes to neither."
    )
    return Sign(
        fallen.step,
        "logps/chosen",
        fallen.before,
        fallen.after,
        sentence,
        min(1.0, 0.3 + 0.5 * min(share, 1.2)),
        also=("logps/rejected", "rewards/chosen", "rewards/rejected"),
    )


CEILING = 0.67
"""Share of pairs in the batch that a model gets right, below which labels are close to chance; sample runs end at 0.72
or more."""
BOUND = 0.6
"""Loss of pairs in nats above which a model is nearly undecided: the entropy of labels of which 30 % are swapped."""


@fault(
    title="Flipped labels",
    needs=("rewards/accuracies or accuracy", "loss", "rewards/margins or margin"),
    remedy="Read twenty pairs: is the chosen answer the better one, in each? Look for swapped columns, ties, and"
    " annotators that disagree.",
    methods=PREFERENCES,
    least=12,
)
def flipped_labels(reading: Reading) -> Sign | None:
    """Find pairs that are fitted no better than labels that contradict each other allow."""
    accuracy = reading.series("rewards/accuracies", "accuracy").coarse()
    loss, margin = reading.series("loss").coarse(), reading.series("rewards/margins", "margin").coarse()
    third = accuracy.part(len(accuracy) // 2, -len(end(accuracy)))
    right, missed, apart = (level(end(each).values) for each in (accuracy, loss, margin))
    learns = is_below(level(third.values), right)
    if not (right.high < CEILING and missed.low > BOUND and apart.low > 0) or learns:
        return None
    above = stretch(accuracy.values > CEILING)
    step = int(accuracy.steps[0] if above is None else accuracy.steps[min(above.stop, len(accuracy) - 1)])
    chance = Interval(0.5, float("nan"), float("nan"))
    before = chance if above is None else level(accuracy.part(above.start, above.stop).values)
    sentence = (
        f"{reading.text(accuracy.metric, right)} of the pairs are right in the last quarter of the run, no more than"
        f" before, and the loss stays at {reading.text('loss', missed)} nats (guessing: 0.69), although the margins"
        f" grow to {reading.text(margin.metric, apart)}."
    )
    return Sign(step, accuracy.metric, before, right, sentence, 0.7, also=("loss", margin.metric))
