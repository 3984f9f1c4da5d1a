"""The Diagnosis page: every run with what was found, the chosen one with its curves; and the marks on curves."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dashboard.pages import page_file
from probe.diagnosis.score import sentence, shipped_trials
from probe.runs import RunWriter
from probe.runs.schema import ALARMS, METRICS
from tests.dashboard.pages import Show, chart, heading, linked, names, read, values
from tests.diagnosis.made_runs import harmed, sound

PAGE = page_file("diagnosis")


def write(root: Path, name: str, frame: pd.DataFrame, method: str, seed: int = 0) -> Path:
    """A run with these metrics."""
    RunWriter.create(root / name, method=method, config={"steps": len(frame)}, seed=seed).finish("finished")
    lines = (json.dumps(row) for row in frame.to_dict("records"))
    (root / name / METRICS).write_text("\n".join(lines) + "\n")
    return root / name


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A sound run, one whose entropy collapses from step 41 on, and one that logged its loss alone."""
    root = tmp_path / "runs"
    write(root, "sound", sound("rlvr"), "rlvr")
    changes = {
        "entropy": lambda values, grown: values * (1 - 0.99 * grown),
        "reward_std": lambda values, grown: values * (1 - 0.95 * grown),
        "completions/distinct_ratio": lambda values, grown: values * (1 - 0.95 * grown),
        "frac_reward_zero_std": lambda values, grown: values + (0.97 - values) * grown,
    }
    write(root, "collapsed", harmed("rlvr", changes), "rlvr")
    write(root, "bare", pd.DataFrame({"step": [1, 2], "lr": [0.1, 0.1]}), "sft")
    return root


def test_the_worst_run_is_first_and_open(show: Show, trained: Path):
    app = show(trained, page=PAGE)
    assert not app.exception
    assert heading(app).startswith("A fault of training was found in 1 of 2 runs; the worst: Entropy collapse in")
    table = app.dataframe[0].value.set_index("run")
    assert list(table.index) == ["collapsed", "sound", "bare"]
    assert list(table["found"]) == ["Entropy collapse", "nothing found", "too little was logged"]
    step = int(table.loc["collapsed", "from step"])
    assert 38 <= step <= 50
    assert f"Entropy collapse, from step {step}" in read(app).replace("**", "")
    assert "Try:" in read(app)
    assert names(app) == ["diagnosis-entropy_collapse"]
    assert linked(app, "Curves") == {"runs": "collapsed"}


def test_a_run_without_a_fault_names_what_could_not_be_seen(show: Show, trained: Path):
    app = show(trained, page=PAGE, diagnosed="bare")
    assert names(app) == []
    assert "logged nothing in which a fault could be seen" in read(app)
    lacking = app.dataframe[1].value
    assert len(lacking) > 2
    assert all(lacking["lacks"])
    app = show(trained, page=PAGE, diagnosed="sound")
    assert "Looked for and not found" in read(app)


def test_the_page_says_how_often_the_rules_are_right(show: Show, trained: Path):
    app = show(trained, page=PAGE, state={"score": True})
    assert not app.exception
    assert sentence(shipped_trials()) in read(app)
    assert list(app.dataframe[-1].value["title"])[-1] == "Healthy"


def test_a_page_without_runs_says_how_to_make_one(show: Show, tmp_path: Path):
    (tmp_path / "none").mkdir()
    assert "There is no run to diagnose yet" in heading(show(tmp_path / "none", page=PAGE))


def test_runs_of_which_none_is_at_fault(show: Show, tmp_path: Path):
    write(tmp_path / "runs", "sound", sound("dpo"), "dpo")
    app = show(tmp_path / "runs", page=PAGE)
    assert heading(app) == "No fault of training was found in 1 run."
    assert "none of the" in read(app)


def test_a_fault_is_marked_on_its_curve(show: Show, trained: Path):
    app = show(trained, page=page_file("training"), runs=["collapsed", "sound"])
    sections = next(box.options for box in app.selectbox if box.label == "Metrics")
    drawn = []
    for section in sections:
        app = show(trained, page=page_file("training"), runs=["collapsed", "sound"], section=section)
        drawn += [chart(app, name) for name in names(app) if "curves" in name]
    signs = [
        trace for each in drawn for trace in each["data"] if trace.get("marker", {}).get("symbol") == "triangle-up"
    ]
    assert signs
    step = int(values(signs[0]["x"])[0])
    assert all("Entropy collapse from step" in text for trace in signs for text in trace["text"])
    assert 38 <= step <= 50
    assert np.isfinite(values(signs[0]["y"])).all()
    assert f"A fault of training begins. collapsed: Entropy collapse from step {step}" in read(app)
    assert linked(app, "Diagnosis") == {"diagnosed": "collapsed"}


def test_several_trainings_are_marked_at_the_median_of_their_steps(show: Show, tmp_path: Path):
    root = tmp_path / "runs"
    for seed, begin in enumerate((0.3, 0.4, 0.5)):
        changes = {"loss": lambda values, grown: np.where(grown > 0, np.nan, values)}
        write(root, f"run-seed{seed}" if seed else "run", harmed("sft", changes, begin=begin, seed=seed), "sft", seed)
    app = show(root, page=page_file("training"), runs=["run"])
    assert "in 3 of 3 trainings, at the median from step 4" in read(app)


def test_alarms_of_the_training_are_listed(show: Show, tmp_path: Path):
    path = write(tmp_path / "runs", "sound", sound("sft"), "sft")
    row = {"fault": "rate_too_high", "title": "Rate too high", "began": 12, "step": 20, "severity": 0.5}
    row |= {"metric": "loss", "evidence": "The loss rises.", "remedy": "Lower it."}
    (path / ALARMS).write_text(json.dumps(row) + "\n{}\n")
    app = show(tmp_path / "runs", page=PAGE)
    table = app.dataframe[-1].value
    assert list(table.iloc[0]) == ["20", "Rate too high", "12", "The loss rises."]
    assert "have no step and are left out" in read(app)
