"""Faults of training on pairs: labels that contradict each other, and answers that both become improbable."""

import numpy as np
import pandas as pd

from probe.diagnosis.fault_record import LEAST, Sign, fault
from probe.diagnosis.levels import end, falls, is_below, level, stretch
from probe.diagnosis.run_reading import PREFERENCES, ROLLOUTS, Reading
from probe.stats import Interval, wilson

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
        0.3 + 0.5 * min(share, 1.2),
        also=("logps/rejected", "rewards/chosen", "rewards/rejected"),
    )


CEILING = 0.67
"""Share of pairs in the batch that a model gets right, below which labels are close to chance; sample runs end at 0.72
or more."""
BOUND = 0.6
"""Loss of pairs in nats above which a model is nearly undecided: the entropy of labels of which 30 % are swapped."""
QUARTER = 0.56
"""Loss of pairs in nats that labels of which a quarter are swapped allow; the DPO sample runs end at 0.52 or less."""
NEAR, FAR = 0.75, 0.25
"""Shares of the first KL to the exact optimum: training came closer, and ended far from it. Undertrained runs end far
too, but go on approaching it."""
BACK = 1.05
"""KL to the exact optimum over its minimum from which training no longer approaches it."""


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
        return short_of_optimum(reading)
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


def short_of_optimum(reading: Reading) -> Sign | None:
    """Return the sign of pairs that teach another policy than the optimum of the annotator who is named."""
    kl, loss = reading.series("kl_to_optimal").coarse(), reading.series("loss").coarse()
    if len(kl) < LEAST or kl.steps[0] != 0:
        return None
    missed, best = level(end(loss).values), int(np.argmin(kl.values))
    first, lowest, last = (float(kl.values[at]) for at in (0, best, -1))
    stays = lowest <= NEAR * first and last >= max(FAR * first, BACK * lowest) and last < first
    if not (stays and missed.value > QUARTER and kl.steps[best] < end(loss).steps[0]):
        return None
    unknown = float("nan")
    sentence = (
        f"The KL to the exact optimum of these labels falls from {reading.text(kl.metric, level(kl.values[:1]))} to"
        f" {reading.text(kl.metric, level(kl.values[best : best + 1]))} at step"
        f" {kl.steps[best]:,} and rises again, while the loss stays at {reading.text('loss', missed)} nats (guessing:"
        " 0.69): the labels are not those of the annotator."
    )
    after = level(kl.part(best).values)
    return Sign(int(loss.steps[0]), kl.metric, Interval(first, unknown, unknown), after, sentence, 0.6, also=("loss",))


DECIDES = 0.9
"""Share of pairs from which on length alone decides, by the lower end of its interval; in the sample runs it is at most
0.83 for labels."""
PAIRED = ("step", "group", "prompt", "completion", "chosen", "reward")
"""Columns of the completions of pairs."""


@fault(
    title="Reward shortcut",
    needs=(ROLLOUTS,),
    remedy="Add pairs whose chosen answer is the shorter one and pairs of one length, or leave out long ones until"
    " length says nothing about the label.",
    methods=("reward-model",),
    least=32,
)
def reward_shortcut(reading: Reading) -> Sign | None:
    """Find pairs whose label, and the score learned from them, follow from the length of the completions alone."""
    pairs = differing_pairs(reading.rollouts)
    if pairs.empty:
        return None
    for longer in (True, False):
        right, scored = (int((pairs[name] == longer).sum()) for name in ("chosen_is_longer", "scored_is_longer"))
        label, score = wilson(right, len(pairs)), wilson(scored, len(pairs))
        if not (label.low > DECIDES and score.low > DECIDES):
            continue
        sentence = (
            f"Of {len(pairs)} recorded pairs of different length the {'longer' if longer else 'shorter'} completion is"
            f" the chosen one in {label.value:.0%}, and has the higher score in {score.value:.0%}."
        )
        accuracy = reading.series("accuracy", "eval_accuracy")
        step = int(accuracy.steps[0]) if len(accuracy) else int(pairs["step"].min())
        return Sign(step, accuracy.metric, Interval(0.5, float("nan"), float("nan")), label, sentence, 0.6)
    return None


def differing_pairs(rollouts: pd.DataFrame) -> pd.DataFrame:
    """Return the recorded pairs of different length of the second half of a run.

    Returns:
        `step`, and whether the longer completion is chosen (`chosen_is_longer`) and has the higher score
        (`scored_is_longer`); each pair once, as it was recorded last.
    """
    if not set(PAIRED) <= set(rollouts):
        return pd.DataFrame()
    rows = rollouts[rollouts["step"] > rollouts["step"].max() / 2]
    tokens = rows["token_ids"] if "token_ids" in rows else rows["completion"]
    sizes = [len(each) if isinstance(each, list | str) else 0 for each in tokens]
    rows = rows.assign(size=sizes, reward=pd.to_numeric(rows["reward"], errors="coerce"))
    sides = [rows[rows["chosen"] == side].drop_duplicates(["step", "group"]) for side in (True, False)]
    pairs = sides[0].merge(sides[1], on=["step", "group", "prompt"], suffixes=("", "_other"))
    pairs = pairs.drop_duplicates(["prompt", "completion", "completion_other"], keep="last")
    pairs = pairs[(pairs["size"] != pairs["size_other"]) & (pairs["reward"] != pairs["reward_other"])]
    chosen = pairs["size"] > pairs["size_other"]
    return pd.DataFrame(
        {
            "step": pairs["step"],
            "chosen_is_longer": chosen,
            "scored_is_longer": (pairs["reward"] > pairs["reward_other"]) == chosen,
        }
    )
