"""Faults of what is learned: a loss on other tokens than those of the answers."""

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import end, falls, level
from probe.diagnosis.run_reading import Reading
from probe.stats import Interval

LEARNED = 0.02
"""Fall of the loss, in nats a token, from which on something was learned; the sample runs fall by 0.05 or more."""
MOVED = 0.25
"""KL to the reference for each nat a token by which the loss falls. Texts that a model comes to give had been less
probable by the fall of the loss times their number of tokens, so it is 1 or more: 3.6 to 10 in healthy runs."""


@fault(
    title="Loss on the wrong tokens",
    needs=("loss", "kl_to_reference"),
    remedy="Print the tokens of one example with the mask of those that are learned: the whole answer and its end token"
    " belong to them, from its first token on, and the prompt does not.",
    methods=("sft",),
    least=4,
)
def loss_on_wrong_tokens(reading: Reading) -> Sign | None:
    """Find a loss that falls although the answers, of which it should be the loss, hardly change.

    Only trainings on all kinds of texts of a world count: another mixture may leave the questions asked untouched.
    """
    if reading.config.get("data") != "world" or reading.config.get("mixture"):
        return None
    kl, loss = reading.series("kl_to_reference"), reading.series("loss").coarse()
    fallen = falls(loss, LEARNED)
    if fallen is None:
        return None
    moved, learned = level(end(kl).values), fallen.before.value - fallen.after.value
    if not moved.value < MOVED * learned:
        return None
    sentence = (
        f"The loss falls from {reading.text('loss', fallen.before)} to {reading.text('loss', fallen.after)} a token, but"
        f" the answers to questions of the world move by {reading.text('kl_to_reference', moved)} only."
    )
    expected = Interval(learned, float("nan"), float("nan"))
    also = ("loss", "answer_mass", "expected_gold")
    return Sign(int(loss.steps[0]), kl.metric, expected, moved, sentence, 0.7, also)
