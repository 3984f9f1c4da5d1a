"""Faults of the optimiser and of the amount of training: numbers that die, a rate that is too high, memorising."""

import re

import numpy as np
from scipy.ndimage import median_filter

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import beginning, dips, end, is_below, level, noise_of, onset, rises, stretch
from probe.diagnosis.run_reading import SAMPLING, TOKENS, Reading
from probe.stats import Interval

BESIDE = ("lr", "grad_norm", "num_tokens", "step_time", "tokens_per_second", "loss")
"""Metrics that trainers log in the same rows as the loss."""
DEAD = 0.5
"""Share of the rows since the first loss of a number from which training does not recover."""
NO_NUMBER = re.compile(
    r"(?<![\w/\\.-])(?:nan|inf|infinite|infinity|not finite|non-?finite)(?![\w/\\-]|\.\w)", re.IGNORECASE
)
"""Words in the message of a run that ended at a number that is none; parts of paths and names do not count."""
MESSAGE = 2000
"""Characters of a message that are read."""
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@fault(
    title="Numbers die",
    needs=("loss or grad_norm", "lr or grad_norm or num_tokens or step_time"),
    remedy="Train in bfloat16 or float32, lower the learning rate, clip the gradient, and look for empty or"
    " overlong rows in the batches of that step.",
    least=1,
    at_once=True,
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
        return Sign(int(steps[0]), name, level(sound), UNKNOWN, sentence, 1.0, also=("grad_norm",))
    return ended_without_number(reading)


def ended_without_number(reading: Reading) -> Sign | None:
    """Return the sign of a run that failed with a message of a number that is NaN or infinite."""
    run = reading.run
    if run is None or run.status != "failed" or not NO_NUMBER.search(str(run.message)[:MESSAGE]):
        return None
    loss, step = reading.series("loss", "grad_norm"), reading.last_step
    sentence = f"The run failed after step {step:,}: its message says that a number was NaN or infinite."
    return Sign(step, loss.metric, level(loss.coarse().values), UNKNOWN, sentence, 1.0, also=("grad_norm",))


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
    before, after = level(held.part(max(0, best - 1), best + 2).values), level(held.part(best + above.start).values)
    step = int(held.steps[best + onset(held.part(best), lowest, after.value)])
    first, last = level(train.up_to(step).values), level(train.since(step).values)
    if not (last.value < first.value):
        return None
    sentence = (
        f"The held-out loss rises from {reading.text('eval_loss', Interval(lowest, np.nan, np.nan))} at step"
        f" {held.steps[best]:,} to {reading.text('eval_loss', after)}, while the training loss falls from"
        f" {reading.text('loss', first)} to {reading.text('loss', last)}."
    )
    gap = (after.value - lowest) / max(abs(lowest), 1e-9)
    return Sign(step, "eval_loss", before, after, sentence, 0.3 + gap, also=("loss",))


JUMP = 10.0
"""Gradient norm over the median of the steps around it that is a spike."""
SPIKES = 0.02
"""Share of steps with a spike from which training is unstable; sample runs have none."""
AROUND = 15
"""Neighbouring steps with whose median each step is compared: few, as norms fall by a factor of 100 at the beginning
of a sound run."""
UNSTABLE = 0.1
"""KL to the sampling policy in nats a token above which a step leaves the region in which its clipped loss is valid;
sample runs stay below 0.05."""
UNDONE = 0.5
"""Share of what the loss had gained that is lost again."""
ABOVE = 1.25
"""Loss over that of the first batch that counts; the losses of sample runs fall from their first step on."""
AT_OPTIMUM = 0.01
"""KL to the optimum in nats below which training starts at the optimum, from which it can only move away."""
LOST = 0.25
"""Fall of the reward, in standard deviations at the beginning, that counts; in sample runs it rises."""
FAR = 0.2
"""KL to the reference in nats a token that is far; sample runs stay below 0.17."""
PARTS = 8
"""Number of parts of a run whose losses are compared."""


@fault(
    title="Rate too high",
    needs=("loss or policy/approxkl_avg or grad_norm",),
    remedy="Divide the learning rate by 3 to 10, warm up longer, and clip the gradient at 1.",
    methods=(*TOKENS, "dpo", "reward-model", *SAMPLING),
    least=16,
    hides=("forgetting",),
)
def rate_too_high(reading: Reading) -> Sign | None:
    """Find a loss that loses what it had gained, spikes of the gradient, or steps that move the policy too far."""
    steps = reading.series("policy/approxkl_avg").coarse()
    wide = stretch(steps.values > UNSTABLE)
    if wide is not None:
        before = level(steps.part(0, wide.start).values) if wide.start else Interval(0.0, np.nan, np.nan)
        after = level(steps.part(wide.start, wide.stop).values)
        sentence = f"A step moves the policy by {reading.text(steps.metric, after)} nats a token; 0.1 is a large step."
        return Sign(int(steps.steps[wide.start]), steps.metric, before, after, sentence, 0.7, also=("grad_norm",))
    signs = (reward_lost,) if reading.method in SAMPLING else (loss_above_start, loss_undone, away_from_optimum)
    return next(filter(None, (look(reading) for look in (*signs, gradient_spikes))), None)


def loss_above_start(reading: Reading) -> Sign | None:
    """Return the sign of a loss that stands above that of the first batch for a fifth of the run."""
    loss = reading.series("loss").coarse()
    if len(loss) < 2 * PARTS:
        return None
    first, noise = float(loss.values[0]), noise_of(loss)
    above = stretch(loss.values > max(ABOVE * first, first + 3 * noise), least=len(loss) // 5)
    if first <= 0 or above is None:
        return None
    before, after = level(loss.values[:1], noise), level(loss.part(above.start, above.stop).values)
    sentence = f"The loss rises from {reading.text('loss', before)} to {reading.text('loss', after)}."
    return Sign(int(loss.steps[above.start]), "loss", before, after, sentence, 0.8, also=("grad_norm", "lr"))


def away_from_optimum(reading: Reading) -> Sign | None:
    """Return the sign of a policy whose KL to the exact optimum of its objective ends above its first value."""
    kl = reading.series("kl_to_optimal").coarse()
    if len(kl) < 4 or kl.steps[0] != 0 or kl.values[0] < AT_OPTIMUM:
        return None
    if (found := rises(kl, float(kl.values[0]))) is None:
        return None
    sentence = (
        f"The KL to the exact optimum of the objective rises from {reading.text(kl.metric, found.before)} to"
        f" {reading.text(kl.metric, found.after)} nats: training moves away from what it optimises."
    )
    return Sign(
        found.step, kl.metric, found.before, found.after, sentence, 0.7, also=("kl_to_reference", "answer_mass")
    )


def reward_lost(reading: Reading) -> Sign | None:
    """Return the sign of a reward that falls while the policy is far from its reference, token by token."""
    reward, spread = reading.series("objective/scores", "reward").coarse(), reading.series("reward_std").coarse()
    kl = reading.series("kl").coarse()
    if len(reward) < 2 * PARTS or not len(spread) or not len(kl):
        return None
    found = dips(reward, LOST * float(np.median(beginning(spread).values)))
    if found is None:
        return None
    fallen, when = found
    last = int(reward.steps[when.stop - 1])
    far = level(kl.since(fallen.step).up_to(last + 1).values)
    if not far.value >= FAR:
        return None
    sentence = (
        f"The reward falls from {reading.text(reward.metric, fallen.before)} to"
        f" {reading.text(reward.metric, fallen.after)}, and the KL to the reference is {reading.text('kl', far)} nats"
        " a token."
    )
    return Sign(fallen.step, reward.metric, fallen.before, fallen.after, sentence, 0.8, also=("kl", "entropy"))


def loss_undone(reading: Reading) -> Sign | None:
    """Return the sign of a training loss that rises again by half of what it had fallen, or above its beginning."""
    loss = reading.series("loss").coarse()
    if len(loss) < 2 * PARTS:
        return None
    levels = [level(part) for part in np.array_split(loss.values, PARTS)]
    best = min(range(PARTS), key=lambda at: levels[at].value)
    first, lowest, last = level(beginning(loss).values), levels[best], level(end(loss).values)
    gain = max(first.value - lowest.value, 0.1 * abs(first.value))
    if not (last.value - lowest.value > UNDONE * gain and is_below(lowest, last)):
        return None
    at = best * len(loss) // PARTS
    step = int(loss.steps[at + onset(loss.part(at), lowest.value, last.value)])
    after = level(loss.since(step).values)
    sentence = f"The loss rises from {reading.text('loss', lowest)} to {reading.text('loss', after)}."
    return Sign(step, "loss", lowest, after, sentence, 0.8, also=("grad_norm", "lr"))


def gradient_spikes(reading: Reading) -> Sign | None:
    """Return the sign of gradient norms far above those of the steps around them."""
    norm = reading.series("grad_norm")
    if len(norm) < 2 * AROUND:
        return None
    around = median_filter(norm.values, AROUND, mode="nearest")
    spikes = np.flatnonzero(norm.values > JUMP * np.maximum(around, 1e-12))
    if len(spikes) < max(3, SPIKES * len(norm)):
        return None
    before, after = level(np.delete(norm.values, spikes)), level(norm.values[spikes])
    sentence = (
        f"{len(spikes):,} of {len(norm):,} gradient norms are more than {JUMP:g} times the median of the steps around"
        f" them: {reading.text('grad_norm', after)} against {reading.text('grad_norm', before)}."
    )
    return Sign(int(norm.steps[spikes[0]]), "grad_norm", before, after, sentence, 0.5, also=("loss",))


FORGOTTEN = 0.1
"""Rise of a held-out loss over its minimum, as a share of it, or fall of an accuracy, that is forgetting; also fall of
the score of answers below that of the model before training, which rises in the sample runs. Held-out losses of the
healthy sample runs rise by up to 5 %, in single evaluations."""
SCORE = "expected_gold"
"""Score of the answers to 64 questions of a world, which stands for what the model was able to do before."""


@fault(
    title="Forgetting",
    needs=(f"loss/* or accuracy/* or {SCORE}",),
    remedy="Mix some of the old data in (replay), train fewer steps at a lower rate, or train an adapter.",
    methods=(*TOKENS, "continual"),
    least=3,
)
def forgetting(reading: Reading) -> Sign | None:
    """Find a kind of text, or a task, that a model was better at before.

    The continual runs with the strategy `plain` are left out: they are the baseline that forgets.
    """
    if reading.method == "continual" and reading.config.get("strategy") == "plain":
        return None
    found = list[Sign]()
    for name in (*reading.matching("loss/*"), *reading.matching("accuracy/*"), SCORE):
        series = reading.series(name).coarse()
        if len(series) < 3 or name in ("loss/policy_avg", "loss/value_avg"):
            continue
        worse = series.values if name.startswith("loss/") else -series.values
        best = 0 if name == SCORE else int(np.argmin(worse))
        least = FORGOTTEN * (abs(worse[best]) if name.startswith("loss/") else 1.0)
        above = stretch(worse[best:] > worse[best] + least, least=2)
        if above is None or best + above.stop < len(series):
            continue
        lost = level(series.part(best + above.start).values)
        at = best + onset(series.part(best), float(series.values[best]), lost.value)
        before, after = level(series.part(max(0, best - 1), best + 2).values), level(series.part(at).values)
        peak = Interval(float(series.values[best]), np.nan, np.nan)
        sentence = (
            f"“{reading.title(name)}” goes from {reading.text(name, peak)} at step {series.steps[best]:,} to"
            f" {reading.text(name, after)}."
        )
        size = abs(after.value - peak.value) / max(abs(peak.value), 1e-9)
        found.append(Sign(int(series.steps[at]), name, before, after, sentence, 0.2 + size))
    return max(found, key=lambda sign: sign.severity, default=None)
