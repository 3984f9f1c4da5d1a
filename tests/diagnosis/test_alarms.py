"""Alarms: which findings at a growing record are raised, when looks are taken, and what a run keeps of them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probe
from probe.diagnosis import Reading, diagnose
from probe.diagnosis.alarms import SHARE, Alarms, Lasting
from probe.diagnosis.diagnosed import Finding
from probe.diagnosis.fault_record import FAULTS, faults
from probe.errors import ConfigError, RunError
from probe.runs import RunWarning, RunWriter, open_run
from probe.runs.alarm_rows import MOST, TEXT, Alarm
from tests.diagnosis.made_runs import no_signal, sound
from tests.places import SAMPLES

SOUND = ("rlhf", "rlhf-seed2", "rlhf-seed4", "real-honest")
"""Runs in which single looks find faults that vanish later."""
Looks = list[tuple[int, tuple[Finding, ...]]]


def looks_at(name: str) -> tuple[Looks, int]:
    """The findings after each row of a sample run, and its number of steps."""
    run = open_run(SAMPLES / name)
    frame, looks = run.metrics(), Looks()
    for rows in range(1, len(frame) + 1):
        reading = Reading(frame.iloc[:rows], run.method, run.config)
        looks.append((reading.last_step, diagnose(reading).findings))
    return looks, int(run.config["steps"])


def replays(looks: Looks, planned: int) -> Iterator[dict[str, int]]:
    """Alarms of looks after every row, at every twentieth of a run, and at random rows: fault -> step."""
    rng = np.random.default_rng(0)
    some = [rng.random(len(looks)) < share for share in (0.1, 0.3, 0.5, 0.8) for _ in range(5)]
    twentieths = np.isin(np.arange(len(looks)), np.linspace(0, len(looks) - 1, 20).astype(int))
    for chosen in (np.ones(len(looks), bool), twentieths, *some):
        lasting, raised = Lasting(planned), dict[str, int]()
        for at in np.flatnonzero(chosen):
            step, findings = looks[at]
            raised |= {each.fault.name: step for each in lasting.take(step, findings)}
        yield raised


def test_sound_runs_raise_hardly_any_alarm():
    """They are the sample runs in which single looks are wrong most often; over all 60 it is 0.4 % of such replays."""
    found, single = list[dict[str, int]](), 0
    for name in SOUND:
        looks, planned = looks_at(name)
        single += any(findings for _, findings in looks)
        found += replays(looks, planned)
    assert single == len(SOUND)
    assert sum(map(bool, found)) <= len(found) / 20
    assert not found[0]


def test_over_optimised_runs_raise_theirs_while_most_of_the_training_is_to_come():
    looks, planned = looks_at("rlhf-weak-kl-seed1")
    every, *others = replays(looks, planned)
    assert every["over_optimisation"] <= planned / 4
    assert all(min(each.values()) < planned for each in others if each)
    assert np.mean([bool(each) for each in others]) > 0.9


@pytest.fixture
def own_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults that a test declares are forgotten after it."""
    faults()
    monkeypatch.setattr(FAULTS, "known", dict(FAULTS.known))
    monkeypatch.setattr(FAULTS, "places", dict(FAULTS.places))


class Clock:
    """Clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write(folder: Path, frame: pd.DataFrame, method: str = "rlvr", **options: list[str]) -> tuple[RunWriter, Alarms]:
    """Log a table with a look after every row."""
    clock = Clock()
    writer = RunWriter.create(folder, method=method, config={"steps": len(frame)})
    alarms = Alarms(writer, clock=clock, **options)
    for row in frame.to_dict("records"):
        clock.now += 10.0
        log(writer, row)
        alarms.look(int(row["step"]))
    return writer, alarms


def log(writer: RunWriter, row: dict) -> None:
    writer.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})


def test_a_fault_that_lasts_is_written_said_and_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    writer, alarms = write(tmp_path / "run", no_signal(), stop_on=["no_signal"])
    (alarm,) = [each for each in open_run(writer.path).alarms() if each.fault == "no_signal"]
    assert alarm.title == "No signal"
    assert 38 <= alarm.began < alarm.step <= 50
    assert alarm.evidence
    assert alarm.remedy
    assert 0 < alarm.severity <= 1
    assert alarm.metric in no_signal()
    assert alarms.stop == alarm
    assert alarm.sentence() in capsys.readouterr().err.replace("\n", " ")
    writer.finish()


def test_another_fault_does_not_stop(tmp_path: Path):
    writer, alarms = write(tmp_path / "run", no_signal(), stop_on=["numbers_die"])
    assert alarms.stop is None
    assert open_run(writer.path).alarms()


def test_a_sound_run_has_no_alarms(tmp_path: Path):
    writer, alarms = write(tmp_path / "run", sound("rlvr"), stop_on=["any"])
    writer.finish()
    assert alarms.stop is None
    assert open_run(writer.path).alarms() == []
    assert not (writer.path / "alarms.jsonl").exists()


def test_numbers_that_die_are_an_alarm_at_once(tmp_path: Path):
    frame = sound("sft", 30).assign(grad_norm=lambda each: each["grad_norm"].where(each["step"] < 20))
    writer, _ = write(tmp_path / "run", frame, "sft")
    first = open_run(writer.path).alarms()[0]
    assert (first.fault, first.began, first.step) == ("numbers_die", 20, 20)


@pytest.mark.parametrize("cost", [0.001, 0.5, 20.0])
@pytest.mark.usefixtures("own_faults")
def test_looks_take_a_hundredth_of_the_time(tmp_path: Path, cost: float):
    clock, looked = Clock(), list[float]()

    def slow(reading: Reading) -> None:
        clock.now += cost
        looked.append(clock.now)

    writer = RunWriter.create(tmp_path / "run", method="sft", config={})
    alarms = Alarms(writer, clock=clock)
    probe.fault(title="Slow", needs=("loss",), remedy="None.", least=1)(slow)
    for step in range(1, 2001):
        clock.now += 10.0
        if step % 10 == 0:
            writer.log(step, {"loss": 1.0})
            alarms.look(step)
            assert alarms.spent == pytest.approx(cost * len(looked))
            assert len(looked) < 2 or alarms.spent <= SHARE * clock.now
    assert len(looked) == pytest.approx(min(200, clock.now * SHARE / cost), rel=0.2, abs=1)


@pytest.mark.usefixtures("own_faults")
def test_a_search_that_fails_is_said_once_and_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def broken(reading: Reading) -> None:
        raise ZeroDivisionError("by none")

    probe.fault(title="Broken", needs=("loss",), remedy="None.", least=1)(broken)
    writer, _ = write(tmp_path / "run", sound("sft", 20), "sft")
    said = capsys.readouterr().err
    assert said.count("There are no alarms from step 1 on") == 1
    assert "`broken`" in said
    assert len(open_run(writer.path).metrics()) == 20


def test_a_resumed_run_keeps_the_alarms_before(tmp_path: Path):
    writer, _ = write(tmp_path / "run", no_signal(), stop_on=["any"])
    writer.finish("interrupted")
    alarms = open_run(tmp_path / "run").alarms()
    at = alarms[0].step
    RunWriter.resume(tmp_path / "run", at).finish("interrupted")
    assert open_run(tmp_path / "run").alarms() == [each for each in alarms if each.step <= at]
    again = RunWriter.resume(tmp_path / "run", at)
    assert alarms[0].fault in Alarms(again, stop_on=["any"])._lasting.raised
    again.finish("interrupted")
    RunWriter.resume(tmp_path / "run", at - 1).finish("interrupted")
    assert open_run(tmp_path / "run").alarms() == []
    RunWriter.resume(tmp_path / "run", None).finish()
    assert (tmp_path / "run" / "alarms.jsonl").read_bytes() == b""


ROW = {
    "fault": "no_signal",
    "title": "No signal",
    "began": 3,
    "step": 9,
    "severity": 0.5,
    "metric": "reward",
    "evidence": "All are alike.",
    "remedy": "Choose other prompts.",
}


def test_alarms_of_a_stranger(tmp_path: Path):
    RunWriter.create(tmp_path / "run", method="sft", config={}).finish()
    odd = [{"fault": ""}, {"title": 3}, {"began": -1}, {"began": "3"}, {"severity": 2}, {"severity": None}]
    rows = [ROW, *(ROW | each for each in odd), ROW | {"evidence": "\x1b[31m" + "x" * 5000}, {"step": 1}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{broken\n"
    (tmp_path / "run" / "alarms.jsonl").write_text(text)
    with pytest.warns(RunWarning) as warned:
        first, long = open_run(tmp_path / "run").alarms()
    assert {str(each.message).split(" of ")[0] for each in warned} >= {"7 lines"}
    assert first == Alarm(**ROW)
    assert len(long.evidence) == TEXT
    assert "\x1b" not in long.evidence
    (tmp_path / "run" / "alarms.jsonl").write_text((json.dumps(ROW) + "\n") * (MOST + 5))
    with pytest.warns(RunWarning, match=f"has {MOST + 5} alarms"):
        assert len(open_run(tmp_path / "run").alarms()) == MOST


def test_nothing_is_written_through_a_link(tmp_path: Path):
    (tmp_path / "other").write_text("mine")
    writer = RunWriter.create(tmp_path / "run", method="sft", config={})
    (writer.path / "alarms.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(RunError, match="is a link"):
        writer.alarm(Alarm(**ROW))
    assert (tmp_path / "other").read_text() == "mine"


def test_a_fault_that_is_unknown_is_refused(tmp_path: Path):
    writer = RunWriter.create(tmp_path / "run", method="sft", config={})
    with pytest.raises(ConfigError, match="did you mean `no_signal`"):
        Alarms(writer, stop_on=["nosignal"])
