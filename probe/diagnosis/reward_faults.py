"""Faults of the reward: none to learn from, one that is exploited, and a policy that has moved too far for it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import FEWEST, Shift, beginning, end, falls, is_below, level, rises, stretch, turns
from probe.diagnosis.run_reading import LARGEST, ROLLOUTS, SAMPLING, SECOND, Reading, Series
from probe.stats import Interval

ALIKE = 0.95
"""Share of prompts without a better sample at which nearly nothing is learned from a batch; sound runs that solve most
prompts end at up to 0.9."""
FLAT = 1e-6
"""Spread of the reward that is rounding."""
LEARNED = 0.5
"""Share of the rise of the reward that comes before its samples are alike where prompts are solved: nothing is learned
from samples that are alike, so a reward that rises when they become so was given, not learned."""


@fault(
    title="No signal",
    needs=("frac_reward_zero_std or reward_std", "reward or objective/scores"),
    remedy="Check that the reward can be won and lost: try easier or harder prompts, more completions a prompt, a"
    " higher temperature, or a reward with more than two values.",
    methods=SAMPLING,
    at_once=True,
)
def no_signal(reading: Reading) -> Sign | None:
    """Find prompts all of whose completions have the same reward, so that none is better than another."""
    share = reading.series("frac_reward_zero_std").coarse()
    alike, sound = share.values >= ALIKE, 0.0
    if not len(share):
        share = reading.series("reward_std").coarse()
        alike, sound = share.values <= FLAT, float("nan")
    found = stretch(alike, least=4)
    if found is None:
        return None
    reward = reading.series("reward", "objective/scores").coarse()
    step = int(share.steps[found.start])
    during = level(reward.since(step).values)
    if is_solved(reward.up_to(step), during):
        return None
    before = level(share.part(0, found.start).values) if found.start else Interval(sound, np.nan, np.nan)
    after = level(share.part(found.start, found.stop).values)
    sentence = (
        f"“{reading.title(share.metric)}” is {reading.text(share.metric, after)} from step {step:,} to"
        f" {int(share.steps[found.stop - 1]):,}, and the reward is {reading.text(reward.metric, during)}."
    )
    length = (found.stop - found.start) / len(share)
    return Sign(step, share.metric, before, after, sentence, 0.3 + 0.6 * length, also=(reward.metric,))


def is_solved(earlier: Series, during: Interval) -> bool:
    """Return whether a reward had risen by most of its way before it reached a level."""
    if len(earlier) < 4:
        return False
    first, before = level(beginning(earlier).values), float(np.median(earlier.values[-FEWEST:]))
    return is_below(first, during) and before - first.value >= LEARNED * (during.value - first.value)


RANGES = {"gold/reward": 2.0, "expected_gold": 2.0}
"""Range of a measure of truth; that of another reward is taken as `SPREADS` standard deviations."""
SPREADS = 4.0
FALL = 0.24
"""Fall of a second measure, as a share of its range, that is a fault. An agreeable annotator costs the sample runs up
to 0.22, which is what was asked for; those with a weak KL lose 0.26 to 0.37."""
TURN = 0.02
"""Fall of a measure of truth, as a share of its range, that counts where training had raised it before: in sound runs
the exact one falls by at most 0.003 of its range from its best quarter."""
GAIN = 0.5
"""Gain of the reward, as a share of what the KL can buy, below which the policy has moved further than it is worth: it
has then spent four times the KL that the best policy needs. The best policy at a KL of D nats gains s sqrt(2 D) for
rewards that are normal with standard deviation s; the sample runs with a weak KL gain 0.27 to 0.4 of it."""
KLS = ("objective/kl", "kl_to_reference")
"""KL of whole completions; `kl` of RLVR is one of tokens."""


def second_measures(reading: Reading) -> Iterator[tuple[Series, float]]:
    """Yield the measures of the completions other than the reward, each with its range."""
    total = reading.series("reward", "objective/scores").coarse()
    for name in dict.fromkeys(each for names in SECOND for each in reading.matching(names)):
        series = reading.series(name).coarse()
        spread = beginning(reading.series(name.removesuffix("/mean") + "/std")).values
        size = RANGES.get(name) or (SPREADS * float(np.median(spread)) if len(spread) else 0.0)
        is_reward = name.startswith("rewards/") and len(reading.matching("rewards/*/mean")) < 2
        same = len(series) == len(total) and np.allclose(series.values, total.values, rtol=1e-6, atol=1e-9)
        if len(series) >= 2 * FEWEST and size and not (is_reward or same):
            yield series, size


def second_measure(reading: Reading, least: float = FALL) -> tuple[Series, Shift] | None:
    """Return a measure of the completions other than the reward that falls, or a measure of truth that rose and turned.

    Args:
        reading: run.
        least: smallest fall of a measure of truth from its beginning, as a share of its range; `FALL` for another
            reward, which may be given up for a larger one. From its best quarter it is `TURN`.
    """
    for series, size in second_measures(reading):
        is_truth = series.metric in RANGES
        shift = falls(series, (least if is_truth else FALL) * size)
        if shift := shift or (turns(series, TURN * size) if is_truth else None):
            return series, shift
    return None


def parted(reading: Reading, least: float = FALL) -> tuple[Series, Shift, Series, Shift] | None:
    """Return a second measure that falls (see `second_measure`) and the reward, if that rises and does not follow."""
    fallen, proxy = second_measure(reading, least), reading.series("objective/scores", "reward").coarse()
    gain = rises(proxy, 0.0) if len(proxy) >= 2 * FEWEST else None
    if fallen is None or gain is None:
        return None
    then = proxy.up_to(fallen[1].step)
    if len(then) and is_below(level(end(proxy).values), level(end(then).values)):
        return None
    return *fallen, proxy, gain


def share_of_gain(reading: Reading) -> tuple[float, Series] | None:
    """Return the gain of the proxy as a share of what the KL can buy, and the KL; None if it is unknown."""
    proxy, spread = reading.series("objective/scores", "reward").coarse(), reading.series("reward_std").coarse()
    kl = reading.series(*KLS).coarse()
    if not len(proxy) or not len(spread) or not len(kl):
        return None
    distance, size = level(end(kl).values).value, float(beginning(spread).values.mean())
    gain = level(end(proxy).values).value - float(beginning(proxy).values[:3].mean())
    if distance <= 0 or size <= 0:
        return None
    return gain / (size * float(np.sqrt(2 * distance))), kl


@fault(
    title="Over-optimisation",
    needs=(
        "objective/scores or reward",
        "reward_std",
        "objective/kl or kl_to_reference",
        "gold/reward or expected_gold or a second rewards/*/mean",
    ),
    remedy="Raise the weight of the KL (beta), or stop at the step named here; a reward model trained on more pairs"
    " bears more optimisation.",
    methods=SAMPLING,
    hides=("reward_hacking",),
)
def over_optimisation(reading: Reading) -> Sign | None:
    """Find a policy that moved far from its reference for little reward, while a second measure of it fell."""
    fallen, bought = second_measure(reading), share_of_gain(reading)
    if fallen is None or bought is None or bought[0] >= GAIN:
        return None
    (series, shift), (share, kl) = fallen, bought
    sentence = (
        f"“{reading.title(series.metric)}” falls from {reading.text(series.metric, shift.before)} to"
        f" {reading.text(series.metric, shift.after)}. The KL to the reference reaches"
        f" {reading.text(kl.metric, level(end(kl).values))} nats and bought {max(share, 0):.0%} of the reward that the"
        " best policy at this KL gains."
    )
    return Sign(shift.step, series.metric, shift.before, shift.after, sentence, _severity(series, shift), (kl.metric,))


VERDICTS = 3
"""Most values of a verdict: right, wrong, and neither. The score of a reward model, and a bonus on a verdict, take
more."""


@fault(
    title="Wrong verifier",
    needs=("objective/scores or reward", "gold/reward or expected_gold or a second rewards/*/mean", "rollouts"),
    remedy="Read completions that are paid, and look for wrong ones among them; let a second check judge them before"
    " training goes on.",
    methods=("rlvr", "rsft"),
    hides=("reward_hacking",),
)
def wrong_verifier(reading: Reading) -> Sign | None:
    """Find verdicts by which completions become better, while a second measure says that they become worse."""
    found = parted(reading, TURN) if is_verdict(reading) else None
    return None if found is None else parting(reading, *found)


def is_verdict(reading: Reading) -> bool:
    """Return whether the rewards of a run's completions take at most `VERDICTS` values."""
    rewards = rewards_of(reading)
    return 0 < len(np.unique(np.round(rewards[np.isfinite(rewards)], 6))) <= VERDICTS


def rewards_of(reading: Reading) -> NDArray[np.float64]:
    """Return the reward of each recorded completion; NaN where it is no number of ordinary size."""
    values = reading.rollouts.get("reward", ())
    known = [value if isinstance(value, int | float) and abs(value) < LARGEST else np.nan for value in values]
    return np.asarray(known, dtype=float)


@fault(
    title="Reward hacking",
    needs=("objective/scores or reward", "gold/reward or expected_gold or a second rewards/*/mean"),
    remedy="Read the completions with the highest reward, and let the reward check what they exploit; a second reward"
    " or a larger beta slows it down.",
    methods=SAMPLING,
)
def reward_hacking(reading: Reading) -> Sign | None:
    """Find a reward that rises while a second measure of the same completions falls."""
    found = parted(reading)
    return None if found is None else parting(reading, *found)


def parting(reading: Reading, series: Series, shift: Shift, proxy: Series, gain: Shift) -> Sign:
    """Return the sign of a reward and a second measure that part."""
    sentence = (
        f"The reward rises from {reading.text(proxy.metric, gain.before)} to {reading.text(proxy.metric, gain.after)},"
        f" while “{reading.title(series.metric)}” falls from {reading.text(series.metric, shift.before)} to"
        f" {reading.text(series.metric, shift.after)}."
    )
    also = (proxy.metric, "completions/shared_4gram_ratio")
    return Sign(shift.step, series.metric, shift.before, shift.after, sentence, _severity(series, shift), also)


def _severity(series: Series, shift: Shift) -> float:
    size = RANGES.get(series.metric, 2 * abs(shift.before.value) + 1e-9)
    return 0.4 + (shift.before.value - shift.after.value) / size


LONGER = 1.3
"""Growth of the mean length that counts."""
FOLLOWS = 0.3
"""Correlation of reward and length within prompts from which length explains about a tenth of the reward or more."""


@fault(
    title="Length exploitation",
    needs=("completions/mean_length", "completions/reward_length_correlation or rollouts"),
    remedy="Take the length out of the reward: a penalty per token, a reward model trained on pairs of equal length, or"
    " `--normalisation dr_grpo`.",
    methods=SAMPLING,
)
def length_exploitation(reading: Reading) -> Sign | None:
    """Find completions that grow while longer ones have the higher reward, and no second measure rises with them."""
    if any(rises(series, TURN * size) for series, size in second_measures(reading)):
        return None
    lengths = reading.series("completions/mean_length").coarse()
    start = level(beginning(lengths).values).value
    grown = rises(lengths, (LONGER - 1) * abs(start))
    if grown is None:
        return None
    known = reading.series("completions/reward_length_correlation").coarse()
    if not len(known):
        known = correlation_by_step(reading)
    follows = level(known.since(grown.step).values)
    if not follows.value >= FOLLOWS or follows.low <= 0:
        return None
    sentence = (
        f"Completions grow from {reading.text(lengths.metric, grown.before)} to"
        f" {reading.text(lengths.metric, grown.after)} tokens, and within prompts the correlation of reward and length"
        f" is {reading.text('completions/reward_length_correlation', follows)}."
    )
    severity = 0.3 + 0.5 * follows.value
    return Sign(
        grown.step, lengths.metric, grown.before, grown.after, sentence, severity, also=(known.metric, "reward")
    )


def correlation_by_step(reading: Reading) -> Series:
    """Return the correlation of reward and length within prompts at each step with rollouts; empty if unknown."""
    rows, none = reading.rollouts, Series("", np.empty(0, np.int64), np.empty(0))
    if not {"step", "reward", "completion", "prompt"} <= set(rows):
        return none
    reward = rewards_of(reading)
    column = rows["token_ids"] if "token_ids" in rows else rows["completion"]
    length = np.array(
        [len(value) if isinstance(value, str | list | tuple) else np.nan for value in column], dtype=float
    )
    known = np.isfinite(reward) & np.isfinite(length)
    kept = rows.loc[known, ["step"]].assign(
        reward=reward[known], length=length[known], prompt=rows.loc[known, "prompt"].map(str)
    )
    steps, values = [], []
    for step, part in kept.groupby("step"):
        centred = part[["reward", "length"]] - part.groupby("prompt")[["reward", "length"]].transform("mean")
        value = _correlation(centred["reward"].to_numpy(), centred["length"].to_numpy())
        if np.isfinite(value):
            steps.append(int(step))
            values.append(value)
    return Series(ROLLOUTS, np.array(steps, dtype=np.int64), np.array(values))


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    scale = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / scale if len(x) >= 4 and scale > 0 else float("nan")
