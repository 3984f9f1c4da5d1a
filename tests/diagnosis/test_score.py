"""The score of the diagnosis: trials with a known truth, obvious rules, counts by fault, and the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probe.commands.diagnose import diagnose
from probe.diagnosis import Reading, faults
from probe.diagnosis.score import (
    LEAST_ENTROPY,
    MOST_KL,
    Trial,
    as_text,
    break_entropy,
    break_kl,
    break_loss,
    score,
    sentence,
    shipped_trials,
    try_run,
)
from probe.errors import ConfigError, DataError
from probe.runs import RunWriter
from probe.runs.schema import METRICS
from tests import tables
from tests.diagnosis.made_runs import harmed, no_signal, sound
from tests.places import ROOT, SAMPLES
from tests.terminal import in_terminal


def written(root: Path, name: str, frame: pd.DataFrame, **truth: object) -> Path:
    """A run with these metrics, and its truth beside it."""
    RunWriter.create(root / name, method="rlvr", config={"steps": len(frame)}, seed=3).finish()
    (root / name / METRICS).write_text("".join(f"{json.dumps(row)}\n" for row in frame.to_dict("records")))
    (root / f"{name}.json").write_text(json.dumps({"step": 41, "seed": 3} | truth))
    return root / name


def test_a_trial_has_what_was_found_and_when(tmp_path: Path):
    ill = try_run(written(tmp_path, "ill", no_signal(), fault="no_signal", kind="TRL"))
    assert (ill.kind, ill.name, ill.fault, ill.step, ill.steps, ill.seed) == ("TRL", "ill", "no_signal", 41, 100, 3)
    assert ill.first
    assert (ill.named, ill.raised) == (True, "no_signal")
    assert ill.alarm is not None
    assert 44 <= ill.alarm <= 60
    assert ill.delay == pytest.approx((ill.alarm - 41) / 100)
    well = try_run(written(tmp_path, "well", sound("rlvr"), fault=None))
    assert (well.fault, well.step, well.found, well.alarm) == ("", 0, "", None)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, DataError, "should lie beside it"),
        ("{", DataError, "should lie beside it"),
        ("[1]", DataError, "does not name a fault"),
        ('{"fault": "no-signal"}', ConfigError, "did you mean `no_signal`"),
    ],
)
def test_a_run_without_its_truth_is_refused(tmp_path: Path, text: str | None, error: type[Exception], said: str):
    run, beside = written(tmp_path, "run", sound("rlvr"), fault=None), tmp_path / "run.json"
    beside.unlink()
    if text is not None:
        beside.write_text(text)
    with pytest.raises(error, match=said):
        try_run(run)


def test_obvious_rules_are_bounds_on_the_mean_of_five_steps():
    steps = np.arange(1, 31)
    kl = np.where(steps <= 20, 0.0, 2 * MOST_KL)
    frame = pd.DataFrame({"step": steps, "kl": kl, "entropy": LEAST_ENTROPY * 2 - (steps > 10) * LEAST_ENTROPY * 5 / 4})
    assert break_kl(Reading(frame, "rlvr")) == 23  # three of five are enough for a mean above the bound
    assert break_entropy(Reading(frame, "rlvr")) == 14
    losses = pd.DataFrame({"step": steps, "loss": np.where(steps <= 20, 1.0, 1.6), "lr": 1.0})
    assert break_loss(Reading(losses, "sft")) == 22
    assert break_loss(Reading(losses, "rlvr")) is None
    assert break_loss(Reading(losses.assign(loss=losses["loss"].where(steps != 7)), "sft")) == 7
    assert break_loss(Reading(losses.iloc[:4], "sft")) is None


def trial(fault: str = "", found: str = "", alarm: int | None = None, **others: object) -> Trial:
    """A trial of 100 steps, injured at step 11."""
    values = {"kind": "world", "name": "a", "recipe": "rlvr", "seed": 3, "step": 11 if fault else 0, "steps": 100}
    rest = {"raised": "", "kl": None, "entropy": None, "loss": None}
    return Trial(**values | rest | {"fault": fault, "found": found, "alarm": alarm} | others)  # type: ignore[arg-type]


MADE = [
    trial("no_signal", "no_signal", 20),
    trial("no_signal", "reward_falls no_signal", 90, kl=40),
    trial("no_signal", "", 5, kl=5, kind="TRL"),
    trial("memorising", "leak", 36),
    trial(),
    trial(found="leak", alarm=3, loss=1),
]


def test_counts_by_fault():
    table = score(MADE).set_index("title")
    assert list(table.index) == [
        "No signal",
        "Memorising",
        "All faults, world",
        "All faults, TRL",
        "All faults",
        "Healthy",
    ]
    columns = ["runs", "found", "named", "first", "alarms", "soon", "rules"]
    assert table.loc["No signal", columns].tolist() == [3, 2, 2, 1, 2, 1, 1]
    assert table.loc["No signal", "delay"] == pytest.approx(0.44)
    assert table.loc["All faults", columns].tolist() == [4, 3, 2, 1, 3, 2, 1]
    assert table.loc["Healthy", columns].tolist() == [2, 1, 0, 0, 1, 1, 1]
    said = sentence(MADE)
    for part in ("named in 2 of 4 (", "after the injury in 2;", "rule is broken in 1."):
        assert part in said
    assert "Of 2 healthy trainings 1 has a finding, 1 raises an alarm, and 1 breaks an obvious rule." in said


def test_the_trials_that_count_are_of_seeds_on_which_no_rule_was_made():
    trials = shipped_trials()
    assert all(each.seed in (3, 4) for each in trials if each.kind == "world")
    assert {each.fault for each in trials} <= {"", *faults()}
    assert as_text(trials) == (ROOT / "probe" / "diagnosis" / "score.tsv").read_text()
    document = (ROOT / "docs" / "diagnosis.md").read_text()
    assert tables.score_table() in document, "docs/diagnosis.md is stale: run `make tree`."


def test_the_command_shows_the_score(capsys: pytest.CaptureFixture[str]):
    assert diagnose(["--score", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == len(shipped_trials())
    assert found["score"][-1]["title"] == "Healthy"
    status, shown = in_terminal(["diagnose", "--score"], columns=120)
    assert status == 0
    assert "obvious rule" in shown
    assert "The fault is named in" in shown


def test_the_command_scores_runs_whose_truth_lies_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    entropy = {"entropy": lambda values, grown: values * (1 - 0.99 * grown)}
    alike = entropy | {"completions/distinct_ratio": lambda values, grown: values * (1 - 0.9 * grown)}
    run = written(tmp_path, "collapsed", harmed("rlvr", alike), fault="entropy_collapse")
    assert diagnose([str(run), "--score", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["trials"]
    assert one["found"].split()[0] == "entropy_collapse"
    with pytest.raises(DataError, match="should lie beside it"):
        diagnose([str(SAMPLES / "sft"), "--score"])
