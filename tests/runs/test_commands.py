"""`probe runs` and `probe doctor` as a user meets them."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from probe import cli
from probe.commands import doctor as checks
from probe.commands.doctor import Diagnosis, doctor
from tests.places import ROOT
from tests.runs.conftest import HEADLINE, Make
from tests.terminal import in_terminal


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def root(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROBE_RUNS", str(tmp_path))
    base = make("base", config={"lr": 0.003, "name": "[red]x[/red] :smile: \x1b[31m"})
    base.log(1500, {"loss": 1.0})
    with base.checkpoint(1500):
        pass
    base.finish(headline=HEADLINE)
    make("dpo", method="dpo", parent="[bold]base[/bold]")
    date(tmp_path / "base", "2026-01-02T10:20:30+00:00")
    date(tmp_path / "dpo", "2026-01-03T10:20:30+00:00")
    return tmp_path


def date(run: Path, created: str) -> None:
    """Say in a run's file when it was begun."""
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"created": created}))


def rows(text: str) -> list[dict[str, str]]:
    """Tab-separated values, as a program reads them."""
    return list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_list_for_a_program(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", "list"]) == 0
    dpo, base = rows(capsys.readouterr().out)  # the newest first
    assert (base["name"], base["method"], base["status"], base["steps"]) == ("base", "pretrain", "finished", "1500")
    assert (base["metric"], float(base["value"]), float(base["ci_low"])) == ("accuracy", 0.5, 0.4)
    assert (dpo["parent"], dpo["status"], dpo["value"]) == ("[bold]base[/bold]", "running", "")


def test_list_for_a_person(root: Path):
    status, said = in_terminal(["runs", "list"], columns=140)
    assert status == 0
    base = next(line for line in said.splitlines() if line.startswith("base"))
    for part in ("pretrain", "finished", "1,500", "50 % [40, 60] known facts: right (sampled)", "2026-01-02 10:20"):
        assert part in base
    assert said.index("\ndpo") < said.index("\nbase")
    assert any("dpo" in line and "[bold]base[/bold]" in line and "running" in line for line in said.splitlines())


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_names_are_whole_at_any_width(make: Make, tmp_path: Path, columns: int):
    names = ("dpo-agreeable-with-a-name-of-36-signs", "reward-agreeable", "rlhf-weak-kl")
    for name in names:
        make(name, method="reward-model", parent="runs/dpo-agreeable").finish(headline=HEADLINE)
    status, said = in_terminal(["runs", "list", "--root", str(tmp_path)], columns=columns)
    assert status == 0
    assert max(len(line.rstrip()) for line in said.splitlines()) <= columns
    for name in (*names, "finished", "known"):
        assert name in said
    stacked = columns <= 60
    for head, value in {"base": "runs/dpo-agreeable", "method": "reward-model"}.items():
        assert value in said or f"{head}" in said.partition("Left out on a terminal of this width: ")[2]
    assert "\u2026" not in said
    assert len(said.splitlines()) < (30 if stacked else 14)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("dp", ["dpo"]),
        ("BASE", ["base"]),
        ("*o", ["dpo"]),
        ("--method pretrain", ["base"]),
        ("--status running", ["dpo"]),
        ("base --status running", []),
    ],
)
def test_list_some(root: Path, words: str, names: list[str], capsys: pytest.CaptureFixture[str]):
    for extra in ([], ["--group"]):
        assert cli.main(["runs", "list", *words.split(), *extra]) == 0
        captured = capsys.readouterr()
        assert [row["name"] for row in rows(captured.out)] == names
        assert ("None of 2 runs has" in captured.err) == (not names)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("bsae", "None of 2 runs has `bsae` in its name: did you mean `base`?"),
        ("--method dop", "None of 2 runs has method `dop`: did you mean `dpo`?"),
        ("--method rlvr", "None of 2 runs has method `rlvr`: the methods are dpo, pretrain."),
        ("--status finishd", "--status is finishd; expected one of finished, running,"),
        ("--status finishd", "did you mean `finished`?"),
    ],
)
def test_a_filter_that_nothing_passes(root: Path, words: str, says: str, capsys: pytest.CaptureFixture[str]):
    cli.main(["runs", "list", *words.split()])
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_date_that_is_none_hides_no_run(root: Path):
    date(root / "dpo", "[red]soon[/red]")
    status, said = in_terminal(["runs", "list"], columns=140)
    assert status == 0
    assert any(line.startswith("dpo") for line in said.splitlines())
    assert "soon" not in said


def test_list_json_and_root(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", "list", "--root", str(root), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["status"], row["steps"]) for row in rows] == [
        ("dpo", "running", 0),
        ("base", "finished", 1500),
    ]
    assert rows[1]["headline"] == HEADLINE


def test_a_broken_run_is_listed_with_its_problem(root: Path, capsys: pytest.CaptureFixture[str]):
    (root / "cut").mkdir()
    (root / "cut" / "run.json").write_text('{"schema": 1, "meth')
    assert cli.main(["runs", "list"]) == 0
    other, whole, broken = rows(capsys.readouterr().out)
    assert (whole["name"], whole["problem"], whole["value"]) == ("base", "", "0.5")
    assert other["name"] == "dpo"
    assert (broken["name"], broken["status"], broken["steps"]) == ("cut", "broken", "")
    assert "cut short" in broken["problem"]
    assert cli.main(["runs", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in told] == ["running", "finished", "broken"]
    assert "cut short" in told[2]["problem"]
    status, said = in_terminal(["runs", "list"], columns=100)
    assert status == 0
    assert "broken" in next(line for line in said.splitlines() if line.startswith("cut"))
    assert "delete the folder" in " ".join(said.split())


def test_list_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", "list", "--root", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "make one with `probe train`" in captured.err
    assert captured.out.strip() == ""
    assert cli.main(["runs", "list", "--root", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_show_for_a_person(root: Path):
    status, said = in_terminal(["runs", "show", "base"])
    assert status == 0
    for part in (
        "base pretrain, finished",
        "known facts: right (sampled)",
        "50 % [40, 60]",
        "accuracy",
        "400",
        "lr",
        "0.003",
        "[red]x[/red] :smile: \ufffd[31m",
        "1500",
    ):
        assert part in said, part


def test_show_for_a_program(root: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", "show", "base"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    facts = {row["name"]: row for row in rows(out)}
    assert facts["status"]["value"] == "finished"
    assert facts["config.lr"]["value"] == "0.003"
    assert (facts["headline.accuracy"]["ci_high"], facts["headline.accuracy"]["n"]) == ("0.6", "400")
    assert cli.main(["runs", "show", str(root / "dpo"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["parent"], shown["checkpoints"]) == ("dpo", "[bold]base[/bold]", [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "bas"], "did you mean `base`?"),
        (["show", __file__], "is a file: give the directory of a run"),
        (["list", "--root", "/nowhere"], "`/nowhere` is not a folder"),
        (["list", "--root", __file__], "is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(root: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["runs", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_doctor_finds_this_installation_in_order(root: Path, capsys: pytest.CaptureFixture[str]):
    assert doctor(["--json"]) == 0
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    for what in ("python", "torch", "transformers", "device", "cache", "hooks", "lens cache"):
        assert found[what]["state"] == "ok", found[what]
    assert "figures" in found
    assert found["runs"]["found"] == f"{root}: 2 run(s)"


def test_doctor_fails_when_something_needed_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(
        checks, "examine", lambda: iter([Diagnosis("note", "a", "optional"), Diagnosis("ok", "b", "there")])
    )
    assert doctor([]) == 0
    monkeypatch.setattr(checks, "examine", lambda: iter([Diagnosis("broken", "a[/red]", "gone")]))
    assert doctor([]) == 1
    assert "broken" in capsys.readouterr().out


def test_doctor_judges_versions():
    found = checks.packages(
        [
            "numpy>=1",
            "torch<1",
            "no-such-package>=2 ; python_version > '3'",
            "nor-this; extra == 'export'",
            "nor-docs; extra == 'docs'",
        ]
    )
    states = {finding.what: finding.state for finding in found}
    assert states == {"python": "ok", "numpy": "ok", "torch": "broken", "no-such-package": "broken", "nor-this": "note"}
    assert "pip install 'torch<1'" in found[2].found
    assert "pip install 'no-such-package>=2'" in found[3].found
    assert "pip install 'nor-this'" in found[4].found


def test_doctor_names_another_owner_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (tmp_path / "other-1.dist-info" / "top_level.txt").write_text("dashboard\n")
    assert checks.names().state == "ok"
    monkeypatch.syspath_prepend(tmp_path)
    assert checks.names().state == "broken"
    assert "`dashboard` is of other, too" in checks.names().found


def test_doctor_finds_a_folder_that_hides_a_package(tmp_path: Path):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "__init__.py").write_text("")
    command = [sys.executable, "-c", "from probe.commands.doctor import names; print(names().found)"]
    place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    said = subprocess.run(command, capture_output=True, text=True, check=True, **place).stdout
    assert said.startswith("the package `trainers` is not the one beside probe in ")


def test_doctor_names_a_check_that_fails(monkeypatch: pytest.MonkeyPatch):
    def explode() -> Diagnosis:
        raise RuntimeError("no driver")

    monkeypatch.setattr(checks, "device", explode)
    monkeypatch.setattr(checks, "model", lambda: [])
    assert Diagnosis("broken", "device", "RuntimeError: no driver") in list(checks.examine())


def test_doctor_names_broken_runs(root: Path):
    (root / "cut").mkdir()
    (root / "cut" / "run.json").write_text("")
    states = [finding.state for finding in checks.run_roots()]
    assert states == ["ok", "note"]


def test_doctor_judges_gaps():
    assert checks._judge("x", 1e-6, "this and that").state == "ok"
    assert checks._judge("x", 0.1, "this and that").state == "broken"
    assert checks._judge("x", float("nan"), "this and that").state == "broken"
