"""The search for faults as a whole: what is found, what is clear, and what cannot be seen."""

import numpy as np
import pandas as pd

from probe.diagnosis import Reading, diagnose


def sampled(**changes: np.ndarray) -> pd.DataFrame:
    """Metrics of a sound run of 100 steps that samples."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 101)
    frame = pd.DataFrame(
        {
            "step": steps,
            "reward": 0.4 + 0.003 * steps + 0.03 * rng.normal(size=100),
            "frac_reward_zero_std": 0.2 + 0.03 * rng.normal(size=100),
        }
    )
    return frame.assign(**changes)


def test_a_sound_run_is_clear_and_says_what_it_cannot_show():
    found = diagnose(Reading(sampled(), "rlvr"))
    assert not found.findings
    assert "no_signal" in [each.name for each in found.clear]
    assert {each.fault.name: each.lacks for each in found.unseen}["numbers_die"][0] == "loss or grad_norm"


def test_a_fault_is_named_with_step_levels_and_figure():
    alike = np.where(np.arange(1, 101) < 40, 0.2, 1.0)
    found = diagnose(Reading(sampled(frac_reward_zero_std=alike, reward=np.full(100, 0.1)), "rlvr"))
    (finding,) = found.findings
    assert (finding.fault.name, finding.sign.step) == ("no_signal", 40)
    assert finding.sign.before.value == 0.2
    assert finding.sign.after.value == 1
    assert found.to_dict()["findings"][0]["step"] == 40
    assert list(found.table()["fault"]) == ["no_signal"]
    assert found.figures()["no_signal"].data
    assert "from step 40" in found.sentence()


def test_a_gradient_of_0_follows_from_rewards_that_are_alike():
    alone = {"grad_norm": np.zeros(100), "lr": np.full(100, 1e-3)}
    found = diagnose(Reading(sampled(**alone), "rlvr"))
    assert [each.fault.name for each in found.findings] == ["nothing_is_trained"]
    alike = {"frac_reward_zero_std": np.ones(100), "reward": np.zeros(100)}
    found = diagnose(Reading(sampled(**alone, **alike), "rlvr"))
    assert [each.fault.name for each in found.findings] == ["no_signal"]
