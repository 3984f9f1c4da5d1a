"""Faults without a name: training makes worse what it is meant to improve, or a metric jumps."""

import numpy as np

from probe.diagnosis.fault_record import Sign, fault
from probe.diagnosis.levels import beginning, falls, level
from probe.diagnosis.run_reading import SAMPLING, Reading

QUARTER = 0.25
"""Fall of the reward, in standard deviations of the rewards at the beginning, that no noise of prompts explains."""


@fault(
    title="Training lowers its own reward",
    needs=("objective/scores or reward", "reward_std"),
    remedy="Something is wrong with the reward, the data, the optimiser or the sampler: look for a sign that is turned"
    " round, a learning rate that is too high, and completions that belong to other prompts.",
    methods=SAMPLING,
    general=True,
)
def reward_falls(reading: Reading) -> Sign | None:
    """Find a reward that ends below its beginning although it is what is maximised."""
    reward, spread = reading.series("objective/scores", "reward").coarse(), reading.series("reward_std").coarse()
    size = float(np.median(beginning(spread).values))
    fallen = falls(reward, QUARTER * size) if size > 0 else None
    if fallen is None:
        return None
    sentence = (
        f"The reward falls from {reading.text(reward.metric, fallen.before)} to"
        f" {reading.text(reward.metric, fallen.after)}, although it is what is maximised."
    )
    return Sign(fallen.step, reward.metric, fallen.before, fallen.after, sentence, 0.6, also=("entropy", "grad_norm"))


JUMP = 8.0
"""Difference of two neighbouring windows over the noise of a window from which it is no chance. Largest for the better
known direction only; windows of healthy sample runs differ by less."""
WINDOW = 8
"""Values in a window."""
JUDGED = ("eval_loss", "loss", "objective/scores", "reward", "mean_token_accuracy", "rewards/accuracies", "accuracy")
"""Metrics whose better direction is known."""


@fault(
    title="Sudden change for the worse",
    needs=("loss or reward or objective/scores or mean_token_accuracy or accuracy or rewards/accuracies",),
    remedy="Something changed in the reward, the data, the optimiser or the sampler at this step: look at what was read"
    " there, at a resume, and at a new phase or file of the data.",
    methods=("pretrain", "sft", "dpo", "reward-model", *SAMPLING),
    least=4 * WINDOW,
    general=True,
)
def sudden_change(reading: Reading) -> Sign | None:
    """Find a step at which a metric jumps for the worse and stays there."""
    found = list[Sign]()
    for name in JUDGED:
        series = reading.series(name).coarse()
        if len(series) < 4 * WINDOW or (name == "loss" and reading.method in SAMPLING):
            continue
        worse = series.values if "loss" in name else -series.values
        places = np.arange(WINDOW, len(series) - WINDOW)
        left, right = (
            np.array([np.median(worse[at + shift : at + shift + WINDOW]) for at in places]) for shift in (-WINDOW, 0)
        )
        noise = 1.4826 * np.median(np.abs(np.diff(worse) - np.median(np.diff(worse)))) / 2**0.5
        at = int(places[np.argmax(right - left)])
        jump, unit = float((right - left).max()), noise * (np.pi / 2 * 2 / WINDOW) ** 0.5
        stays = np.median(worse[at:]) - np.median(worse[max(0, at - 2 * WINDOW) : at]) > jump / 2
        if not (unit > 0 and jump > JUMP * unit and stays):
            continue
        before, after = level(series.part(max(0, at - 2 * WINDOW), at).values), level(series.part(at).values)
        sentence = (
            f"“{reading.title(name)}” jumps from {reading.text(name, before)} to {reading.text(name, after)}, by"
            f" {jump / unit:.0f} times its noise, and stays there."
        )
        found.append(Sign(int(series.steps[at]), name, before, after, sentence, 0.4))
    return max(found, key=lambda sign: sign.step, default=None)
