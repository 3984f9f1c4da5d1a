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
from probe.diagnosis.run_reading import METHODS
from probe.runs import Run, RunWriter
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
    ("value_head_useless", "rlhf", {"val/explained_variance": to(-0.3)}, {}),
    ("no_signal", "rlvr", {"frac_reward_zero_std": to(1), "reward": to(0), "gold/reward": to(0.3)}, {}),
    ("over_optimisation", "rlhf", {"objective/kl": plus(20), "gold/reward": plus(-1.5)}, {}),
    ("reward_hacking", "rlvr", {"reward": plus(1.5), "gold/reward": plus(-1.2)}, {}),
    (
        "length_exploitation",
        "rlvr",
        {"completions/mean_length": by(2), "completions/reward_length_correlation": plus(0.6)},
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
    others = {"wrong_reference", "loss_on_wrong_tokens", "reward_shortcut", "leak"}
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


def test_a_solved_task_is_no_missing_signal():
    solved = {"frac_reward_zero_std": (lambda values, grown: np.where(grown > 0, 1.0, values)), "reward": to(1.2)}
    assert not diagnose(Reading(harmed("rlvr", solved), "rlvr")).findings


def test_a_reward_beside_another_is_a_second_measure():
    two = {"rewards/right/mean": 0.6, "rewards/right/std": 0.5, "rewards/style/mean": 0.1, "rewards/style/std": 0.1}
    frame = sound("rlvr").drop(columns=["gold/reward", "kl_to_reference"])
    assert "reward_hacking" in [each.fault.name for each in diagnose(Reading(frame, "rlvr")).unseen]
    frame = frame.assign(**two)
    frame["rewards/right/mean"] = np.linspace(0.6, 0.0, len(frame))
    (finding,) = diagnose(Reading(frame, "rlvr")).findings
    assert (finding.fault.name, finding.sign.metric) == ("reward_hacking", "rewards/right/mean")


def test_lengths_are_read_from_rollouts(tmp_path: Path):
    frame = harmed("rlvr", {"completions/mean_length": by(2)}).drop(columns="completions/reward_length_correlation")
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
