"""Faults of the methods that learn from given texts and pairs, on made runs: each rule finds it, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from probe.diagnosis import Diagnosis, Reading, diagnose
from probe.runs import Run, RunWriter
from tests.diagnosis.made_runs import course, sound

STEPS = 60
AT = np.arange(1, STEPS + 1)
RNG = np.random.default_rng(0)


def names(found: Diagnosis) -> list[str]:
    """The faults that were found, the worst first."""
    return [each.fault.name for each in found.findings]


def write(path: Path, method: str, frame: pd.DataFrame, data: dict[str, Any] | None = None, **ending: Any) -> Run:
    """A run with these metrics."""
    with RunWriter.create(path, method=method, config={}, data=data) as writer:
        for row in frame.to_dict("records"):
            writer.log(int(row.pop("step")), row)
        writer.finish(**ending)
    return Run(path)


@pytest.mark.parametrize(
    ("status", "message", "dies"),
    [
        ("failed", "In step 34 the loss was nan and its gradient's norm nan; start again.", True),
        ("failed", "ValueError: loss is not finite", True),
        ("failed", "The gradient was -inf.", False),
        ("failed", "The gradient was inf.", True),
        ("failed", "The run could not be written (/data/nan/inf.json, nan-runs): no space.", False),
        ("failed", "A finance report of Nancy", False),
        ("interrupted", "the loss was nan", False),
        ("failed", "x" * 3000 + " nan", False),
    ],
)
def test_a_run_that_failed_at_no_number(tmp_path: Path, status: str, message: str, dies: bool):
    found = diagnose(write(tmp_path / "run", "sft", sound("sft", STEPS), status=status, message=message))
    assert names(found) == (["numbers_die"] if dies else [])
    if dies:
        assert found.findings[0].sign.step == STEPS
        assert message not in found.sentence()


def test_updates_of_nothing():
    frame = sound("sft", STEPS).assign(**{"update_ratio/blocks.0": 0.0, "update_ratio/head": 0.0})
    assert names(diagnose(Reading(frame, "sft"))) == ["nothing_is_trained"]
    assert not diagnose(Reading(frame.assign(**{"update_ratio/head": 1e-4}), "sft")).findings
    late = np.where(AT > 20, 0.0, 1e-4)
    (finding,) = diagnose(Reading(frame.assign(**{"update_ratio/head": late}), "sft")).findings
    assert finding.sign.step == 21


@pytest.mark.parametrize(
    ("measured", "still"),
    [
        ({"kl_to_reference": 0.0}, True),
        ({"kl_to_reference": 0.0, "answer_mass": 0.991234567}, True),
        ({"kl_to_reference": 0.0, "answer_mass": np.linspace(0.9, 0.99, STEPS)}, False),
        ({"eval_loss": 0.123456789}, True),
        ({"eval_loss": 0.123}, False),
        ({"eval_loss": np.linspace(0.5, 0.4, STEPS)}, False),
    ],
)
def test_measurements_that_never_change(measured: dict[str, Any], still: bool):
    frame = sound("sft", STEPS).drop(columns="eval_loss").assign(**measured)
    assert names(diagnose(Reading(frame, "sft"))) == (["nothing_is_trained"] if still else [])


def test_a_gradient_that_falls_at_first_has_no_spikes():
    norm = 7 * 0.5 ** np.minimum(AT, 8) + 0.02 * np.exp(0.2 * RNG.normal(size=STEPS))
    assert not diagnose(Reading(sound("sft", STEPS).assign(grad_norm=norm), "sft")).findings


WORLD = {"data": "world", "mixture": {}}


@pytest.mark.parametrize(
    ("kl", "config", "count"),
    [
        (0.003, WORLD, 1),
        (0.3, WORLD, 1),
        (3.0, WORLD, 0),
        (0.003, WORLD | {"mixture": {"sum_quick": 1.0}}, 0),
        (0.003, {"data": "rows.jsonl"}, 0),
    ],
)
def test_a_loss_that_falls_without_the_answers(kl: float, config: dict[str, Any], count: int):
    frame = sound("sft", STEPS).assign(kl_to_reference=course(STEPS, 0, kl, kl / 50, RNG), answer_mass=0.99)
    frame["eval_loss"] -= 0.5
    found = diagnose(Reading(frame, "sft", config))
    assert names(found) == ["loss_on_wrong_tokens"] * count
    assert all(each.sign.step == 1 for each in found.findings)
    assert not diagnose(Reading(frame.assign(eval_loss=frame["eval_loss"] + 2), "sft", config)).findings


def test_answers_that_are_forgotten():
    score = pd.Series(course(STEPS, 0.5, 0.3, 0.005, RNG))
    (finding,) = diagnose(Reading(sound("sft", STEPS).assign(expected_gold=score), "sft")).findings
    assert (finding.fault.name, finding.sign.metric) == ("forgetting", "expected_gold")
    hump = 0.5 + 0.3 * np.sin(np.pi * AT / STEPS)
    assert not diagnose(Reading(sound("sft", STEPS).assign(expected_gold=hump), "sft")).findings


def undecided(**columns: Any) -> Diagnosis:
    """A DPO whose loss stays at 0.6 while 70 % of the pairs are right, with an exact optimum, from step 0 on."""
    frame = sound("dpo", STEPS).assign(loss=course(STEPS, 0.69, 0.6, 0.01, RNG), **columns)
    frame = frame.assign(**{"rewards/accuracies": course(STEPS, 0.5, 0.7, 0.02, RNG), "step": AT - 1})
    return diagnose(Reading(frame.drop(columns="eval_loss"), "dpo"))


def test_labels_that_lead_away_from_the_optimum():
    stalls = np.interp(AT, [1, 30, 60], [0.73, 0.32, 0.36])
    assert names(undecided(kl_to_optimal=stalls)) == ["flipped_labels"]
    assert not undecided(kl_to_optimal=np.linspace(0.73, 0.32, STEPS)).findings
    assert not undecided(kl_to_optimal=np.interp(AT, [1, 30, 60], [0.73, 0.03, 0.04])).findings
    assert not undecided().findings


def paired(longer_wins: float, follows: bool) -> list[dict[str, Any]]:
    """Completions of 60 pairs, of which the chosen one is the longer in a share; scores follow length or the label."""
    rows = []
    for pair in range(60):
        longer = pair < longer_wins * 60
        for chosen in (True, False):
            long = chosen == longer
            row = {"prompt": f"p{pair}", "completion": "long one" if long else "one", "group": pair, "chosen": chosen}
            rows.append(row | {"step": 60, "reward": float(long if follows else chosen)})
    return rows


@pytest.mark.parametrize(
    ("share", "follows", "found"), [(1, True, True), (0, False, True), (0.8, True, False), (0.5, False, False)]
)
def test_length_decides_the_label(tmp_path: Path, share: float, follows: bool, found: bool):
    with RunWriter.create(tmp_path / "run", method="reward-model", config={}) as writer:
        for row in sound("reward-model", STEPS).to_dict("records"):
            writer.log(int(row.pop("step")), row)
        writer.rollouts(paired(share, follows))
        writer.finish()
    assert names(diagnose(Run(tmp_path / "run"))) == (["reward_shortcut"] if found else [])


@pytest.mark.parametrize(
    ("data", "seen", "found"),
    [
        ({"held_out": 40, "held_out_repeated": 10}, True, True),
        ({"held_out": 40, "held_out_repeated": 0}, True, False),
        ({"held_out": 400, "held_out_repeated": 4}, True, False),
        ({"held_out": 40}, False, False),
        ({"held_out": "40", "held_out_repeated": 10}, False, False),
        ({"held_out": 10, "held_out_repeated": 40}, False, False),
        ({"held_out": True, "held_out_repeated": True}, False, False),
        (None, False, False),
    ],
)
def test_held_out_rows_that_are_trained_on(tmp_path: Path, data: dict[str, Any] | None, seen: bool, found: bool):
    diagnosis = diagnose(write(tmp_path / "run", "sft", sound("sft", STEPS), data))
    assert names(diagnosis) == (["leak"] if found else [])
    assert ("leak" in [each.fault.name for each in diagnosis.unseen]) != seen
