"""Faults of what is learned: other tokens than those of the answers, and rows on which it is evaluated."""

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import end, level
from probe.diagnosis.run_reading import HELD_OUT, Reading
from probe.stats import Interval, wilson

LEARNED = 0.002
"""Fall of the held-out loss, in nats a token, from which on something was learned."""
HALF = 0.5
"""Share of the first held-out loss below which it ends: most of what could be learned was learned."""
MOVED = 1.0
"""KL to the reference for each nat a token by which the loss falls. Texts that a model comes to give had been less
probable by the fall of the loss times their number of tokens, so that answers of one token have 1;
healthy runs have 2.6 or more."""


@fault(
    title="Loss on the wrong tokens",
    needs=("eval_loss", "kl_to_reference"),
    remedy="Print the tokens of one example with the mask of those that are learned: the whole answer and its end token"
    " belong to them, from its first token on, and the prompt does not.",
    methods=("sft",),
    least=4,
    hides=("forgetting",),
)
def loss_on_wrong_tokens(reading: Reading) -> Sign | None:
    """Find a loss that falls although the answers, of which it should be the loss, hardly change.

    Only trainings on all kinds of texts of a world count: another mixture may leave the questions asked untouched.
    """
    if reading.config.get("data") != "world" or reading.config.get("mixture"):
        return None
    kl, held = reading.series("kl_to_reference").coarse(), reading.series("eval_loss").coarse()
    before, after, moved = level(held.values[:1]), level(end(held).values), level(end(kl).values)
    learned = before.value - after.value
    if learned < LEARNED or after.value > HALF * before.value or moved.value >= MOVED * learned:
        return None
    sentence = (
        f"The held-out loss falls from {reading.text('eval_loss', before)} to {reading.text('eval_loss', after)}, but"
        f" the answers to questions of the world move by {reading.text(kl.metric, moved)} only."
    )
    expected = Interval(learned, float("nan"), float("nan"))
    also = ("eval_loss", "loss", "answer_mass", "expected_gold")
    step = int(reading.series("loss", "eval_loss").steps[0])
    return Sign(step, kl.metric, expected, moved, sentence, 0.7, also)


SHARE = 0.05
"""Share of the held-out rows that are trained on, from which on held-out numbers mislead: they are then wrong by as
much as the rise of the held-out loss that counts as memorising."""
FEW = 3
"""Rows fewer than which may have been met by chance."""


@fault(
    title="Leak",
    needs=(HELD_OUT,),
    remedy="Remove rows that differ by case, white space or marks only, then train and evaluate anew.",
    methods=("sft", "reward-model"),
)
def leak(reading: Reading) -> Sign | None:
    """Find held-out rows whose prompt is among those that are trained on, but for case, white space and marks."""
    rows, repeated = reading.held_out
    if repeated < max(FEW, SHARE * rows):
        return None
    share, held = wilson(repeated, rows), reading.series("eval_loss")
    step = int(held.steps[0]) if len(held) else 0
    sentence = (
        f"The prompts of {repeated:,} of {rows:,} held-out rows are trained on too: the held-out loss and accuracy are"
        " better than on new rows."
    )
    none = Interval(0.0, float("nan"), float("nan"))
    return Sign(step, held.metric, none, share, sentence, 0.4 + share.value, also=("loss",))
