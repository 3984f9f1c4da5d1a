"""Each fault: found and named on metrics that show it, with a step near its beginning; not found on sound ones."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from probe.diagnosis import Reading, diagnose, faults
from probe.diagnosis.fault_record import Sign
from probe.diagnosis.reward_faults import wrong_verifier
from probe.diagnosis.run_reading import METHODS
from probe.runs import Run, RunWriter
from probe.stats import Interval
from tests.diagnosis.made_runs import Change, harmed, sound
from tests.models import random_lm
from tests.places import SAMPLES

MADE = ("sft", "pretrain", "dpo", "reward-model", "rlvr", "rlhf")


def to(value: float) -> Change:
    """The metric goes to this value."""
    return lambda values, grown: values * (1 - grown) + value * grown


def by(factor: float) -> Change:
    """The metric is multiplied by this factor."""
    return lambda values, grown: values * (1 + (factor - 1) * grown)


def plus(value: float) -> Change:
    """The metric changes by this much."""
    return lambda values, grown: values + value * grown


def lost(values: np.ndarray, grown: np.ndarray) -> np.ndarray:
    """The metric is no number once the fault is there."""
    return np.where(grown > 0, np.nan, values)


def spikes(values: np.ndarray, grown: np.ndarray) -> np.ndarray:
    """Every eighth value is thirty times as large."""
    return np.where((grown > 0) & (np.arange(len(values)) % 8 == 0), 30 * values, values)


DISPLACED = {"logps/chosen": plus(-15), "rewards/chosen": plus(-5), "rewards/rejected": plus(-4)}
UNFOUNDED = {"entropy": by(0.2), "completions/distinct_ratio": to(0.125), "gold/reward": to(0.25)}
CASES: list[tuple[str, str, dict[str, Change], dict]] = [
    ("numbers_die", "sft", {"loss": lost, "grad_norm": lost}, {}),
    ("nothing_is_trained", "sft", {"grad_norm": to(0)}, {}),
    ("rate_too_high", "sft", {"loss": plus(3)}, {}),
    ("rate_too_high", "pretrain", {"grad_norm": spikes}, {}),
    ("rate_too_high", "dpo", {"loss": plus(0.6)}, {}),
    ("rate_too_high", "rlhf", {"policy/approxkl_avg": plus(0.4)}, {}),
    ("sampler_is_not_trainer", "rlvr", {"sampling/sampling_logp_difference/mean": plus(0.15)}, {}),
    ("sampler_is_not_trainer", "rlvr", {"sampling/sampling_logp_difference/mean": plus(0.01)}, {"dtype": "float32"}),
    ("entropy_collapse", "rlvr", {"entropy": by(0.01), "completions/distinct_ratio": to(0.125)}, {}),
    ("entropy_collapse", "rlhf", UNFOUNDED, {}),
    ("value_head_useless", "rlhf", {"val/explained_variance": to(-0.5)}, {}),
    ("no_signal", "rlvr", {"frac_reward_zero_std": to(1), "reward": to(0), "gold/reward": to(0.3)}, {}),
    ("over_optimisation", "rlhf", {"objective/kl": plus(20), "gold/reward": plus(-1.5)}, {}),
    ("reward_hacking", "rlvr", {"reward": plus(1.5), "gold/reward": plus(-1.2)}, {}),
    ("reward_hacking", "rlvr", {"reward": plus(1.5), "gold/reward": to(0.4)}, {}),
    (
        "length_exploitation",
        "rlvr",
        {
            "completions/mean_length": by(2),
            "completions/reward_length_correlation": plus(0.6),
            "gold/reward": to(0.3),
            "reward": to(0.5),
        },
        {},
    ),
    ("flipped_labels", "dpo", {"rewards/accuracies": to(0.58), "loss": to(0.68)}, {}),
    ("flipped_labels", "reward-model", {"accuracy": to(0.58), "loss": to(0.67)}, {}),
    ("likelihood_displacement", "dpo", DISPLACED, {}),
    ("memorising", "sft", {"eval_loss": plus(0.6), "loss": plus(-0.4)}, {}),
    ("forgetting", "sft", {"loss/facts": plus(0.8)}, {}),
    ("reward_falls", "rlvr", {"reward": plus(-1)}, {}),
    ("sudden_change", "sft", {"mean_token_accuracy": plus(-0.2)}, {}),
]


@pytest.mark.parametrize("steps", [60, 1500])
@pytest.mark.parametrize(("name", "method", "changes", "config"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_fault_is_named_and_its_beginning_is_found(name: str, method: str, changes: dict, config: dict, steps: int):
    begin = 0.4 if name != "flipped_labels" else -0.05  # labels are what they are from the first step on
    found = diagnose(Reading(harmed(method, changes, begin, steps), method, config))
    signs = {each.fault.name: each.sign for each in found.findings}
    assert name in signs, found.sentence()
    assert found.findings[0].fault.name == name
    sign = signs[name]
    assert abs(sign.step - begin * steps) <= 0.25 * steps
    assert sign.sentence.endswith(".")
    assert 0 < sign.severity <= 1
    assert found.figures()[name].data


@pytest.mark.parametrize("method", MADE)
def test_sound_runs_have_no_fault(method: str):
    found = [diagnose(Reading(sound(method, steps, seed), method)) for steps in (24, 80, 700) for seed in range(10)]
    assert [each.sentence() for each in found if each.findings] == []


def test_every_fault_has_a_case():
    others = {"wrong_reference", "wrong_verifier", "loss_on_wrong_tokens", "reward_shortcut", "leak", "template_fault"}
    assert {name for name, *_ in CASES} | others == set(faults())


def test_a_reference_that_is_another_model():
    frame = sound("rlhf")
    frame.loc[0, "objective/kl"] = 0.8
    (finding,) = diagnose(Reading(frame, "rlhf")).findings
    assert (finding.fault.name, finding.sign.step) == ("wrong_reference", 1)


def test_a_reference_that_follows_the_policy():
    frame = sound("rlvr").assign(kl=1e-9).drop(columns="kl_to_reference")
    (finding,) = diagnose(Reading(frame, "rlvr")).findings
    assert finding.fault.name == "wrong_reference"
    assert "entropy" in finding.sign.sentence


@pytest.mark.parametrize(("stop", "names"), [(100, ["wrong_reference"]), (90, [])])
def test_a_reference_that_follows_the_policy_from_some_step_on(stop: int, names: list[str]):
    frame = sound("rlhf")
    frame.loc[40 : stop - 1, "objective/kl"] = 1e-9
    found = diagnose(Reading(frame, "rlhf")).findings
    assert [each.fault.name for each in found] == names
    assert [each.sign.step for each in found] == [41] * len(names)


@pytest.mark.parametrize(("solved", "names"), [(0.25, []), (0.5, ["no_signal"])])
def test_a_task_is_solved_if_the_reward_rose_before_its_samples_were_alike(solved: float, names: list[str]):
    frame = sound("rlvr").assign(frac_reward_zero_std=np.where(np.arange(100) < 50, 0.5, 1.0))
    frame["reward"] = harmed("rlvr", {"reward": to(1.2)}, solved)["reward"]
    frame["gold/reward"] = frame["reward"]
    assert [each.fault.name for each in diagnose(Reading(frame, "rlvr")).findings] == names


PARTED = {"reward": to(1), "gold/reward": to(0.35)}
"""The reward rises, while the truth loses most of what it had gained."""


def rewarded(frame: pd.DataFrame, values: tuple[float, ...]) -> Reading:
    """A run of RLVR whose completions have these rewards in turn."""
    reading = Reading(frame, "rlvr")
    rows = [{"step": step, "prompt": "p", "completion": "c", "reward": each} for step in range(40) for each in values]
    reading.rollouts = pd.DataFrame(rows)
    return reading


@pytest.mark.parametrize(
    ("values", "name"),
    [((1, 0, -1), "wrong_verifier"), ((1.0, True), "wrong_verifier"), ((1, 4, 0, -1), "reward_hacking")],
)
def test_a_verdict_that_parts_from_the_truth_is_a_wrong_verifier(values: tuple[float, ...], name: str):
    found = diagnose(rewarded(harmed("rlvr", PARTED), values))
    assert [each.fault.name for each in found.findings] == [name]
    assert abs(found.findings[0].sign.step - 40) <= 10
    assert "gold/reward" in found.findings[0].sign.metric


@pytest.mark.parametrize("strange", [10**400, math.nan, math.inf, "1", None, [1]])
def test_rewards_that_are_no_numbers_are_no_verdicts(strange: object):
    frame = harmed("rlvr", PARTED).drop(columns="completions/reward_length_correlation")
    reading = rewarded(frame, (0, 1))
    assert wrong_verifier(reading)
    reading.rollouts["reward"] = [strange] * len(reading.rollouts)
    assert not wrong_verifier(reading)
    diagnose(reading)


def test_seven_evaluations_show_a_truth_that_turns():
    frame = harmed("rlvr", {"reward": plus(1.5)})
    frame = frame.assign(**{"step": frame["step"] - 1, "gold/reward": frame["reward"]})
    exact = [0.44, 0.57, 0.62, 0.55, 0.5, 0.46, 0.45]
    for values, names in ((exact, ["reward_hacking"]), (sorted(exact), []), (sorted(exact, reverse=True), [])):
        frame["expected_gold"] = pd.Series(values, index=range(0, 98, 14))
        found = diagnose(Reading(frame, "rlvr"))
        assert [each.fault.name for each in found.findings] == names


def test_a_small_fall_of_the_truth_is_a_fault_of_a_verdict_alone():
    steadily = sound("rlvr").assign(**{"gold/reward": np.linspace(0.5, 0.3, 100)})
    names = [
        [each.fault.name for each in diagnose(rewarded(steadily, values)).findings] for values in ((0, 1), (0, 1, 2, 3))
    ]
    assert names == [["wrong_verifier"], []]


def test_a_truth_that_falls_with_the_reward_is_no_hacking():
    both = {"reward": to(0.45), "gold/reward": to(0.4)}
    assert "reward_hacking" not in [
        each.fault.name for each in diagnose(Reading(harmed("rlvr", both), "rlvr")).findings
    ]


def test_length_that_goes_with_the_truth_is_not_exploited():
    longer = {"completions/mean_length": by(2), "completions/reward_length_correlation": plus(0.6)}
    assert not diagnose(Reading(harmed("rlvr", longer), "rlvr")).findings


def test_a_policy_that_becomes_sure_of_what_is_right_has_not_collapsed():
    sure = {name: UNFOUNDED[name] for name in ("entropy", "completions/distinct_ratio")}
    assert not diagnose(Reading(harmed("rlhf", sure), "rlhf")).findings


def test_values_that_equal_a_constant_and_values_that_are_being_learned():
    frame = sound("rlhf", 30)
    constant, learned = frame.assign(**{"val/explained_variance": 1e-7}), np.linspace(-0.4, 0.1, 30)
    learned += 0.1 * np.random.default_rng(0).normal(size=30)
    (finding,) = diagnose(Reading(constant, "rlhf")).findings
    assert (finding.fault.name, finding.sign.step) == ("value_head_useless", 1)
    assert not diagnose(Reading(frame.assign(**{"val/explained_variance": learned}), "rlhf")).findings


def test_a_reward_beside_another_is_a_second_measure():
    two = {"rewards/right/mean": 0.6, "rewards/right/std": 0.5, "rewards/style/mean": 0.1, "rewards/style/std": 0.1}
    frame = sound("rlvr").drop(columns=["gold/reward", "kl_to_reference"])
    assert "reward_hacking" in [each.fault.name for each in diagnose(Reading(frame, "rlvr")).unseen]
    frame = frame.assign(**two)
    frame["rewards/right/mean"] = np.linspace(0.6, 0.0, len(frame))
    (finding,) = diagnose(Reading(frame, "rlvr")).findings
    assert (finding.fault.name, finding.sign.metric) == ("reward_hacking", "rewards/right/mean")


def test_lengths_are_read_from_rollouts(tmp_path: Path):
    frame = harmed("rlvr", {"completions/mean_length": by(2)})
    frame = frame.drop(columns=["completions/reward_length_correlation", "gold/reward"])
    rng = np.random.default_rng(0)
    with RunWriter.create(tmp_path / "run", method="rlvr", config={}) as writer:
        for row in frame.to_dict("records"):
            step = int(row.pop("step"))
            writer.log(step, row)
            lengths = rng.integers(1, 30, 8)
            writer.rollouts(
                [
                    {"step": step, "prompt": "p", "completion": "x" * int(each), "reward": float(each) / 30}
                    for each in lengths
                ]
            )
        writer.finish()
    found = diagnose(Run(tmp_path / "run"))
    assert [each.fault.name for each in found.findings] == ["length_exploitation"]


def write_run(path: Path, parent: str | None, lm_seed: int) -> Path:
    with RunWriter.create(path, method="sft", config={}, parent=parent) as writer:
        for step in range(1, 20):
            writer.log(step, {"loss": 1 + 1 / step, "lr": 1e-3, "grad_norm": 1.0})
        with writer.checkpoint(19) as directory:
            random_lm(seed=lm_seed).save(directory)
        writer.finish()
    return path


def test_weights_that_did_not_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    write_run(tmp_path / "base", None, 0)
    still = diagnose(Run(write_run(tmp_path / "still", "base", 0)))
    moved = diagnose(Run(write_run(tmp_path / "moved", "base", 1)))
    assert [each.fault.name for each in still.findings] == ["nothing_is_trained"]
    assert "equal those of base" in still.findings[0].sign.sentence
    assert not still.figures()
    assert not moved.findings


@pytest.mark.parametrize(("value", "count"), [(0.0, 1), (0.5, 0)])
def test_an_adapter_that_adds_nothing(tmp_path: Path, value: float, count: int):
    import torch
    from safetensors.torch import save_file

    run = write_run(tmp_path / "run", None, 0)
    (folder,) = (run / "checkpoints").iterdir()
    weights = {"q.lora_A.weight": torch.ones(2, 3), "q.lora_B.weight": torch.full((3, 2), value)}
    save_file(weights, folder / "adapter_model.safetensors")
    assert len(diagnose(Run(run)).findings) == count


@pytest.mark.parametrize(
    "head", [b"", b"\xff" * 20, (5).to_bytes(8, "little") + b"{}   ", (2**60).to_bytes(8, "little"), b"\x40" + bytes(7)]
)
def test_weights_that_are_no_weights_are_passed_over(tmp_path: Path, head: bytes):
    run = write_run(tmp_path / "run", None, 0)
    (folder,) = (run / "checkpoints").iterdir()
    (folder / "adapter_model.safetensors").write_bytes(head)
    assert not diagnose(Run(run)).findings


HEALTHY = (
    *("base", "sft", "dpo-honest", "dpo-agreeable-seed4", "reward-honest-seed2", "rlhf-seed3"),
    *("rsft", "rlvr-seed4", "real-honest", "real-rlvr", "continual"),
)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_sample_runs_have_no_fault(name: str):
    assert [each.fault.name for each in diagnose(Run(SAMPLES / name)).findings] == []


@pytest.mark.parametrize("seed", ["", "-seed1", "-seed2", "-seed3", "-seed4"])
def test_sample_runs_with_a_weak_kl_are_over_optimised(seed: str):
    first = diagnose(Run(SAMPLES / f"rlhf-weak-kl{seed}")).findings[0]
    assert first.fault.name == "over_optimisation"
    assert first.sign.step <= 20
    assert first.sign.after.high < first.sign.before.low


NAMES = sorted({each for fault in faults().values() for need in fault.needs for each in need.split(" or ")})
LOGGED = [
    name.removeprefix("a second ").replace("*", "x")
    for name in NAMES
    if name not in ("rollouts", "checkpoint", "held_out")
]
ANYTHING = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308, 5e-324])


@st.composite
def strange_runs(draw: st.DrawFn) -> tuple[pd.DataFrame, str]:
    """Tables of any numbers: missing, infinite, of one row, with steps in any order and more than once."""
    rows = draw(st.integers(0, 40))
    names = draw(st.lists(st.sampled_from(LOGGED), unique=True))
    steps = draw(
        arrays(float, rows, elements=st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 50).map(float))
    )
    columns = {name: draw(arrays(float, rows, elements=ANYTHING)) for name in names}
    return pd.DataFrame({"step": steps, **columns}), draw(st.sampled_from([*METHODS, "trainer", ""]))


@pytest.mark.parametrize(
    ("given", "severity"), [(-2e99, 0.0), (1.5, 1.0), (0.3, 0.3), (math.nan, 0.0), (math.inf, 1.0)]
)
def test_a_severity_is_between_0_and_1(given: float, severity: float):
    level = Interval(0.0, 0.0, 0.0)
    assert Sign(1, "loss", level, level, "It rises.", given).severity == severity


@settings(max_examples=150, deadline=None)
@given(strange_runs())
def test_no_numbers_break_it(made: tuple[pd.DataFrame, str]):
    frame, method = made
    found = diagnose(Reading(frame, method))
    assert found.sentence()
    found.table()
    found.figures()
    for each in found.findings:
        assert 0 <= each.sign.severity <= 1
        assert each.sign.sentence
        assert math.isfinite(each.sign.step)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MADE), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(method: str, random):
    frame = sound(method, 60)
    order = list(range(len(frame)))
    random.shuffle(order)
    shuffled = diagnose(Reading(frame.iloc[order].reset_index(drop=True), method))
    assert shuffled.to_dict() == diagnose(Reading(frame, method)).to_dict()
